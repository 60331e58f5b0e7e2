"""Rows of a table that are written later than the table says, so that no run of a fold has taken them.

A fold asks for the rows of each interval once. It notes how many rows could be known by the end of its run; what has
joined them by the next run came too late for it, and what has left them counts in it still.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from millstream.buffer.marks import Marks
from millstream.buffer.topics import late_mark
from millstream.computing.start_markers import NO_ARRIVAL
from millstream.errors import Fenced

_UNTIL, _ROWS, LATE, GONE = "until", "rows", "late", "gone"


@dataclass(frozen=True)
class Difference:
    """By how many rows a table differs from what a fold has taken of it.

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
    """How far the tables that are folded differ from what was folded of them.

    Args:
        marks: the project's marks, which keep it.
    """

    def __init__(self, marks: Marks) -> None:
        self._marks = marks

    def of(self, version: str) -> Difference:
        """The difference in all, as of the last run."""
        known = self._marks.read(late_mark(version))
        return Difference(known.get(LATE, 0), known.get(GONE, 0))

    def look(self, version: str, arrivals: np.ndarray, start: int, end: int) -> Look:
        """Compare a table with what was folded of it.

        Args:
            version: the group version, such as "habits@1".
            arrivals: when each of its rows could be known (µs), `NO_ARRIVAL` where that is not told.
            start: up to where its rows have been folded (µs); 0 before the first run.
            end: up to where they are once this run is over (µs).
        """
        mark, dated = late_mark(version), arrivals[arrivals != NO_ARRIVAL]
        known = self._marks.read(mark)
        before, since = Difference(known.get(LATE, 0), known.get(GONE, 0)), Difference()
        if start <= 0:
            before = since  # everything there is will be folded
        elif _UNTIL in known and known[_UNTIL] <= start:
            more = int(np.count_nonzero(dated <= known[_UNTIL])) - known[_ROWS]
            since = Difference(max(more, 0), max(-more, 0))
        rows = int(np.count_nonzero(dated <= end))
        to = {_UNTIL: end, _ROWS: rows, LATE: before.late + since.late, GONE: before.gone + since.gone}
        return Look(mark, known, to, since)

    def keep(self, look: Look) -> None:
        """Keep what a run found, once it is over."""
        with suppress(Fenced):  # another worker has looked as well
            self._marks.move(look.mark, look.known, look.to)
