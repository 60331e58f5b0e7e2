"""What batch computing knows that training asks: which run took a row in, and what runs would have returned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from millstream.computing.interval_runs import Result, check_late, looks, run_interval, waits
from millstream.computing.query_shape import dated
from millstream.computing.run_rows import features_of, stage
from millstream.computing.tables import EventReader, Tables
from millstream.definitions.feature_group import BatchFeatureGroup
from millstream.definitions.schedule import last_tick, next_tick, ticks
from millstream.definitions.source import Source, Table
from millstream.engines.engine import Asked, BatchEngine
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
        paths: by name, where a table is; where its definition says unless given.
        engine: what runs the queries; DuckDB in this process unless given.
    """

    def __init__(
        self,
        folder: Path,
        history: EventReader | None = None,
        tables: Mapping[str, Table] | None = None,
        *,
        paths: Mapping[str, str] | None = None,
        engine: BatchEngine | None = None,
    ) -> None:
        self._tables, self._instead = Tables(folder, history, paths=paths, engine=engine), dict(tables or {})

    def events(self, table: Table) -> pa.Table:
        """Return all rows of a table as events, with `_partition`, `_position` and `_arrival`."""
        from millstream.computing.table_fold import table_events  # loads the compiler

        used = self._instead.get(table.name, table)
        return table_events(used, self._tables.rows(used, Asked(_ALWAYS, _ALWAYS)), _NEVER, _ALWAYS)

    def first_known(self, group: BatchFeatureGroup) -> int | None:
        """Return when (µs) the first row of a query's tables could be known; None where they hold or tell nothing."""
        tables = [source for source in self._sources(group) if isinstance(source, Table)]
        found = [known for known in map(self._tables.first_known, tables) if known is not None]
        return min(found, default=None)

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
        """Return what the runs of a query that end in `[first, last]`, and the one before, would have stated.

        Each run's rows became available at its end. In a snapshot, a key of the run before that is gone is a tombstone.

        Args:
            group: a group that is made by a query.
            first: the earliest end of a run (µs).
            last: the latest end of a run (µs).
        """
        sources = self._sources(group)
        check_late(group, sources)
        first -= waits(group, sources)
        ends = [end for end in (last_tick(group, first), *ticks(group, first, last)) if end is not None]
        if not any(dated(source) for source in sources) and not looks(group) and not group.ttl:
            ends = ends[:1]  # every run would return the same
        runs = [self._run(group, sources, end, number) for number, end in enumerate(ends)]
        steps = zip(runs, runs[1:], ends[1:], strict=False)
        wait = waits(group, sources)
        gone = [_vanished(group, *step, wait) for step in steps] if group.time is None else []
        return pa.concat_tables(runs + gone)

    def schema(self, group: BatchFeatureGroup, at: int) -> Mapping[str, str]:
        """Return the types of a query's features, as declared or as its tables show them at `at` (µs)."""
        if group.schema_of_features:
            return group.schema_of_features
        return features_of(group, self._asked(group, self._sources(group), at, at).rows)

    def _run(self, group: BatchFeatureGroup, sources: list[Source], end: int, number: int) -> pa.Table:
        begin = last_tick(group, end - 1) or 0
        result = self._asked(group, sources, begin, end)
        available = end + waits(group, sources)
        rows = stage(_thing(group), group, self.schema(group, end), result, end, available).rows
        rows = rows.append_column("_deleted", pa.array(np.zeros(rows.num_rows, bool)))
        return rows.append_column("_run", pa.array(np.full(rows.num_rows, number)))

    def _sources(self, group: BatchFeatureGroup) -> list[Source]:
        return [self._instead.get(source.name, source) for source in group.sources]

    def _asked(self, group: BatchFeatureGroup, sources: list[Source], begin: int, end: int) -> Result:
        """What a run returns; the rows on which the query fails are left out, as its dead letters are."""
        return run_interval(self._tables, _thing(group), group, sources, begin, end, end)


def _thing(group: BatchFeatureGroup) -> str:
    return f"BatchFeatureGroup '{group.name}'"


def _vanished(group: BatchFeatureGroup, before: pa.Table, after: pa.Table, end: int, wait: int) -> pa.Table:
    """Tombstones for the keys that one run returned and the next, of `end`, did not, known `wait` after it."""
    types = group.entity.keys
    keys, still = (encode_keys(types, [rows[name] for name in types]) for rows in (before, after))
    rows = before.filter(pc.invert(pc.is_in(keys, value_set=still)))
    for name, value in (("event_time", end), ("available_time", end + wait), ("_deleted", True)):
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(
            place, rows.schema.field(place), pa.array([value] * rows.num_rows, rows.schema.types[place])
        )
    return rows
