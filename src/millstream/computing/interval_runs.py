"""One run of a query: the rows of its interval, and of earlier ones those that could not be known before.

A table whose rows become known `delay` after their time has those of an interval complete so long after its end: the
run waits. What becomes known at no fixed time, by a column `available` or as late events, is taken in by the first run
after it: a query that looks at its rows one by one is asked for them alone, another one for the intervals they are in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.buffer.codec.events import DeadLetter
from millstream.computing.query_shape import compares_only, interval_column, row_by_row, with_known
from millstream.computing.row_failures import run_query
from millstream.computing.tables import Tables
from millstream.definitions.expressions import bind_interval
from millstream.definitions.feature_group import BatchFeatureGroup
from millstream.definitions.schedule import last_tick, ticks
from millstream.definitions.source import EventStream, Source, Table
from millstream.engines.engine import FIRST, KNOWN, Asked
from millstream.engines.instants import micros
from millstream.errors import PlanError


@dataclass(frozen=True, eq=False)
class Result:
    """What a run returned, when each row could be known where the query tells (µs), and dead letters."""

    rows: pa.Table
    known: np.ndarray | None
    dead: list[DeadLetter]


def looks(group: BatchFeatureGroup) -> bool:
    """Whether a group's query looks at its interval."""
    return bool(bind_interval(group.query or "")[1])


def waits(group: BatchFeatureGroup, sources: Sequence[Source]) -> int:
    """How long (µs) after the end of an interval its run can know all rows that are known after a fixed delay."""
    if not looks(group):
        return 0
    return max((one.delay for one in sources if isinstance(one, Table) and one.time and not one.available), default=0)


def run_interval(
    tables: Tables, thing: str, group: BatchFeatureGroup, sources: Sequence[Source], start: int, end: int, now: int
) -> Result:
    """Run a group's query over the interval `(start, end]`, as of when its rows are known.

    Args:
        tables: reads the sources and runs the query.
        thing: whose query it is, for messages and dead letters.
        group: the group.
        sources: what the query reads.
        start: where the interval begins (µs).
        end: where it ends (µs).
        now: stamps the dead letters (µs).

    Raises:
        MillstreamError: when the query fails, or a table cannot be read.
    """
    wait = waits(group, sources)
    one_by_one = row_by_row(group.query or "", sources)
    tells = bool(one_by_one and group.time and isinstance(sources[0], Table) and sources[0].available)
    query = with_known(group.query or "") if tells else group.query or ""
    asked = Asked(start, end, until=end + wait, known=tells)
    pieces = [
        run_query(tables, thing, query, sources, one, now) for one in [asked, *_late(tables, group, sources, asked)]
    ]
    rows = pa.concat_tables([rows for rows, _ in pieces])
    dead = [letter for _, letters in pieces for letter in letters]
    if not tells:
        return Result(rows, None, dead)
    known = np.asarray(micros(rows[KNOWN]).fill_null(FIRST)).astype(np.int64)
    return Result(rows.drop_columns([KNOWN]), known, dead)


def check_late(group: BatchFeatureGroup, sources: Sequence[Source]) -> None:
    """Refuse a snapshot of an interval whose rows may be known after it: no later snapshot would have them.

    Raises:
        PlanError: there is such a table.
    """
    if group.time or not looks(group):
        return
    for table in (one for one in sources if isinstance(one, Table) and one.available):
        by = interval_column(group.query or "") if len(sources) == 1 else None
        if by is None or by[0] != table.available:
            raise PlanError(
                f"Feature group '{group.name}': its query takes the rows of an interval of '{table.name}', and what is "
                f"known later, by '{table.available}', would be in no snapshot.",
                f"write `{table.available} >= :start and {table.available} < :end`, or give the group time=.",
            )


def _late(tables: Tables, group: BatchFeatureGroup, sources: Sequence[Source], asked: Asked) -> list[Asked]:
    """What else to ask: for rows of intervals before this one that could be known only since the run before it."""
    late = [one for one in sources if _may_be_late(group, sources, one)]
    if not late or not group.time or not looks(group):
        return []
    wait = (asked.until or asked.end) - asked.end
    news = replace(asked, start=FIRST, end=asked.start, since=asked.start + wait)
    if row_by_row(group.query or "", sources) and interval_column(group.query or ""):
        return [news]
    times = np.unique(np.concatenate([_times(tables, one, news) for one in late]))
    return [replace(asked, start=begin, end=end) for begin, end in _intervals(group, times, asked.start)]


def _may_be_late(group: BatchFeatureGroup, sources: Sequence[Source], source: Source) -> bool:
    if isinstance(source, EventStream):
        return True
    if not source.available:
        return False
    by = interval_column(group.query or "") if len(sources) == 1 else None
    return by is None or by[0] != source.available


def _times(tables: Tables, source: Source, news: Asked) -> np.ndarray:
    """The times, before the interval, of the rows of a source that have become known."""
    if not source.time:
        return np.empty(0, np.int64)
    rows = tables.rows(source, replace(news, known=False))
    times = micros(rows[source.time])
    return np.asarray(times.filter(pc.less_equal(times, news.end))).astype(np.int64)


def _intervals(group: BatchFeatureGroup, times: np.ndarray, upto: int) -> list[tuple[int, int]]:
    """The intervals that end at `upto` or before and hold some of these times, whichever of their ends they include.

    A query that reckons with its interval may look back from one to another: then all since the first of them count.
    """
    if not len(times):
        return []
    first = last_tick(group, int(times[0]) - 1)
    ends = ticks(group, FIRST if first is None else first, upto)
    begins = [FIRST if first is None else first, *ends]
    if not compares_only(group.query or ""):
        return list(zip(begins, ends, strict=False))
    left, right = (np.searchsorted(ends, times, side=side) for side in ("left", "right"))
    places = [place for place in np.unique(np.concatenate([left, right])).tolist() if place < len(ends)]
    return [(begins[place], ends[place]) for place in places]
