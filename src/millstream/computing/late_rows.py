"""Rows of a table that are written later than the table says, so that no run has taken them.

A fold asks for the rows of each interval once, and so does a query that looks at its interval. A run notes how many rows
could be known by then; what has joined them by the next run came too late, and what has left them counts still.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from millstream.buffer.marks import Marks
from millstream.buffer.topics import late_mark
from millstream.computing.start_markers import NO_ARRIVAL
from millstream.computing.tables import Tables
from millstream.definitions.source import Source, Table
from millstream.errors import Fenced

_UNTIL, _ROWS, _LATE, _GONE = "until", "rows", "late", "gone"


@dataclass(frozen=True)
class Difference:
    """By how many rows tables differ from what a group has taken of them.

    Attributes:
        late: rows that are in no value, as they came too late.
        gone: rows that are in the values, and in the table no more.
    """

    late: int = 0
    gone: int = 0


@dataclass(frozen=True)
class Look:
    """What a run found in a table: its mark as it was, what to set it to, and the difference since the run before."""

    mark: str
    known: Mapping[str, int]
    to: Mapping[str, int]
    since: Difference


class LateRows:
    """How far tables differ from what groups have taken of them.

    Args:
        marks: the project's marks, which keep it.
    """

    def __init__(self, marks: Marks) -> None:
        self._marks = marks

    def of(self, version: str) -> Difference:
        """The difference in all, as of the last run."""
        known = self._marks.read(late_mark(version))
        return Difference(known.get(_LATE, 0), known.get(_GONE, 0))

    def of_fold(self, version: str, arrivals: np.ndarray, start: int, end: int) -> Look:
        """Compare a table with what was folded of it.

        Args:
            version: the group version, such as "habits@1".
            arrivals: when each of its rows could be known (µs), `NO_ARRIVAL` where that is not told.
            start: up to where its rows have been folded (µs); 0 before the first run.
            end: up to where they are once this run is over (µs).
        """
        dated = arrivals[arrivals != NO_ARRIVAL]
        if start <= 0:  # everything there is will be folded
            first = {_UNTIL: end, _ROWS: int(np.count_nonzero(dated <= end)), _LATE: 0, _GONE: 0}
            return Look(late_mark(version), self._marks.read(late_mark(version)), first, Difference())
        return self._look(
            version, lambda instants: [int(np.count_nonzero(dated <= one)) for one in instants], start, end
        )

    def of_query(self, version: str, tables: Tables, sources: Sequence[Source], start: int, end: int) -> Look | None:
        """Compare the tables of a query that looks at its interval with what its runs were given; None where it has none.

        Args:
            version: the group version, such as "kyc@1".
            tables: reads them.
            sources: what the query reads.
            start: the rows that could be known by then (µs) were seen by the run before.
            end: those that could be known by then (µs) are seen by this one.
        """
        dated = [one for one in sources if isinstance(one, Table) and (one.time or one.available)]
        if not dated:
            return None

        def rows(instants: Sequence[int]) -> list[int]:
            return [sum(counts) for counts in zip(*(tables.known_by(one, instants) for one in dated), strict=True)]

        return self._look(version, rows, start, end)

    def _look(self, version: str, rows: Callable[[Sequence[int]], list[int]], start: int, end: int) -> Look:
        """Compare how many `rows` could be known by each of some instants (µs) with how many those were before."""
        mark = late_mark(version)
        known, since = self._marks.read(mark), Difference()
        until = known.get(_UNTIL, end)
        before, now = rows([until, end])
        if _UNTIL in known and until <= start:
            more = before - known[_ROWS]
            since = Difference(max(more, 0), max(-more, 0))
        late, gone = known.get(_LATE, 0) + since.late, known.get(_GONE, 0) + since.gone
        return Look(mark, known, {_UNTIL: end, _ROWS: now, _LATE: late, _GONE: gone}, since)

    def keep(self, look: Look) -> None:
        """Keep what a run found, once it is over."""
        with suppress(Fenced):  # another worker has looked as well
            self._marks.move(look.mark, look.known, look.to)
