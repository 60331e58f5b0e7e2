"""What batch computing knows that training asks: which run took a row in, and what runs would have returned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from millstream.computing.guilty import run_query
from millstream.computing.staged import features_of, stage
from millstream.computing.table_fold import table_events
from millstream.computing.tables import EventReader, Tables, dated
from millstream.definitions.expressions import bind_interval
from millstream.definitions.feature_group import BatchFeatureGroup
from millstream.definitions.schedule import last_tick, next_tick, ticks
from millstream.definitions.source import Source, Table
from millstream.fold.keys import encode_keys

Instants = NDArray[np.int64]

_ALWAYS = 253_402_300_799_000_000  # the last second of the year 9999, in µs
_NEVER = -_ALWAYS


class ScheduledRuns:
    """The schedule of batch groups and the tables they read.

    Args:
        folder: what the paths of tables start from.
        history: the events of streams that queries read.
        tables: by name, a table to read in place of the one a group declares.
    """

    def __init__(
        self, folder: Path, history: EventReader | None = None, tables: Mapping[str, Table] | None = None
    ) -> None:
        self._tables, self._instead = Tables(folder, history), dict(tables or {})

    def events(self, table: Table) -> pa.Table:
        """Return all rows of a table as events, with `_partition`, `_position` and `_arrival`."""
        used = self._instead.get(table.name, table)
        return table_events(used, self._tables.rows(used, _ALWAYS), _NEVER, _ALWAYS)

    def ran(self, group: BatchFeatureGroup, arrivals: Instants) -> Instants:
        """Return the end (µs) of the run that took in what arrived at those instants."""
        if not len(arrivals):
            return arrivals
        if group.cron is None:
            every = group.every or 1
            return -(-arrivals // every) * every
        first, last = int(arrivals.min()) - 1, int(arrivals.max())
        ends = ticks(group, first, last)
        return np.array([*ends, next_tick(group, last) or _ALWAYS])[np.searchsorted(ends, arrivals)]

    def rows(self, group: BatchFeatureGroup, first: int, last: int) -> pa.Table:
        """Return what the runs of a query that end in `[first, last]` (µs), and the one before, would have stated.

        Each run's rows became available at its end. In a snapshot, a key of the run before that is gone is a tombstone.
        """
        sources = [self._instead.get(source.name, source) for source in group.sources]
        ends = [end for end in (last_tick(group, first), *ticks(group, first, last)) if end is not None]
        if not any(dated(source) for source in sources) and not bind_interval(group.query or "")[1] and not group.ttl:
            ends = ends[:1]  # every run would return the same
        runs = [self._run(group, sources, end, number) for number, end in enumerate(ends)]
        steps = zip(runs, runs[1:], ends[1:], strict=False)
        gone = [_vanished(group, *step) for step in steps] if group.time is None else []
        return pa.concat_tables(runs + gone)

    def schema(self, group: BatchFeatureGroup, at: int) -> Mapping[str, str]:
        """Return the types of a query's features, as declared or as its tables show them at `at` (µs)."""
        if group.schema_of_features:
            return group.schema_of_features
        sources = [self._instead.get(source.name, source) for source in group.sources]
        return features_of(group, self._asked(group, sources, at, at))

    def _run(self, group: BatchFeatureGroup, sources: list[Source], end: int, number: int) -> pa.Table:
        begin = last_tick(group, end - 1) or 0
        result = self._asked(group, sources, begin, end)
        rows = stage(_thing(group), group, self.schema(group, end), result, end, end).rows
        rows = rows.append_column("_deleted", pa.array(np.zeros(rows.num_rows, bool)))
        return rows.append_column("_run", pa.array(np.full(rows.num_rows, number)))

    def _asked(self, group: BatchFeatureGroup, sources: list[Source], begin: int, end: int) -> pa.Table:
        """What a run returns; the rows on which the query fails are left out, as its dead letters are."""
        return run_query(self._tables, _thing(group), group.query or "", sources, begin, end, end)[0]


def _thing(group: BatchFeatureGroup) -> str:
    return f"BatchFeatureGroup '{group.name}'"


def _vanished(group: BatchFeatureGroup, before: pa.Table, after: pa.Table, end: int) -> pa.Table:
    """Tombstones for the keys that one run returned and the next, at `end`, did not."""
    types = group.entity.keys
    keys, still = (encode_keys(types, [rows[name] for name in types]) for rows in (before, after))
    rows = before.filter(pc.invert(pc.is_in(keys, value_set=still)))
    for name, value in (("event_time", end), ("available_time", end), ("_deleted", True)):
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(
            place, rows.schema.field(place), pa.array([value] * rows.num_rows, rows.schema.types[place])
        )
    return rows
