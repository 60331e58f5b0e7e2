"""What runs add offline: every row that says something the offline table does not say yet, and each run's own mark.

The table holds the join keys, `event_time`, `available_time`, the features, `_deleted` (a tombstone) and `_run` (the
position of the run). A row with null keys marks a run. With a ttl every row of a run is kept, since being stated again
is what keeps it alive; without one, only rows that differ from what was in force.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.buffer.topics import batch_table
from millstream.definitions.data_types import arrow_type
from millstream.definitions.group_version import BatchGroupVersion
from millstream.fold.keys import encode_keys, key_codes
from millstream.fold.rows import pack_columns
from millstream.ingest.staged_runs import KeyedRun, schema_of
from millstream.store.offline import STATED, OfflineStore, Where, batches_of


@dataclass(frozen=True)
class Shape:
    """The columns of an offline batch table: the types of its join keys and of its features."""

    keys: Mapping[str, str]
    features: Mapping[str, str]

    def table(self, columns: Mapping[str, Sequence[object] | pa.Array | np.ndarray]) -> pa.Table:
        """Columns in the table's order and types; those that are not given are null."""
        rows = len(next(iter(columns.values())))
        types = {name: arrow_type(kind) for name, kind in {**self.keys, **self.features}.items()}
        fields = [(name, types[name]) for name in self.keys]
        fields += [("event_time", pa.int64()), ("available_time", pa.int64())]
        fields += [(name, types[name]) for name in self.features] + [("_deleted", pa.bool_()), ("_run", pa.int64())]
        arrays = [_array(columns[name], kind) if name in columns else pa.nulls(rows, kind) for name, kind in fields]
        return pa.table(arrays, pa.schema(fields))

    @property
    def nothing(self) -> pa.Table:
        """No rows."""
        return self.table({"event_time": pa.array([], pa.int64())})

    def stated(self, run: KeyedRun, places: Sequence[int] | np.ndarray | None = None) -> pa.Table:
        """Rows of a run, all or those at some places, as they are kept."""
        rows = run.run.rows if places is None else run.run.rows.take(pa.array(places, pa.int64()))
        count = rows.num_rows
        own = {name: rows[name] for name in rows.column_names}
        return self.table(own | {"_deleted": np.zeros(count, bool), "_run": np.full(count, run.position)})

    def restated(
        self, keys: pa.Table, features: pa.Table, deleted: pa.Array, times: Sequence[int], run: int
    ) -> pa.Table:
        """Rows of some keys at the same event and available time, with features that were stated before.

        Args:
            keys: the join keys, one row for each row that is made.
            features: the features, in the same order.
            deleted: which of the rows are tombstones (bool).
            times: the event time and the available time (µs) of all of them.
            run: the position of the run that states them.
        """
        count = keys.num_rows
        columns = {name: keys[name] for name in self.keys} | {name: features[name] for name in self.features}
        columns |= {name: np.full(count, at) for name, at in zip(("event_time", "available_time"), times, strict=True)}
        return self.table(columns | {"_deleted": deleted, "_run": np.full(count, run)})

    def mark(self, run: KeyedRun) -> pa.Table:
        """The row that says that a run happened."""
        times = {"event_time": [run.run.end], "available_time": [run.run.available]}
        return self.table(times | {"_deleted": [False], "_run": [run.position]})


def _array(values: Sequence[object] | pa.Array | np.ndarray, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values.cast(kind)
    return pa.array(values, kind)


def restatements(
    offline: OfflineStore, version: BatchGroupVersion, runs: Sequence[KeyedRun], snapshot: int | None
) -> pa.Table:
    """What some runs add to the offline table of a version.

    Args:
        offline: the store that has the table.
        version: the group version.
        runs: the runs, at least one, in the order of their positions.
        snapshot: the snapshot of the table that they are added to; None: it has none.
    """
    group = version.group
    shape = Shape(group.entity.keys, schema_of(version, runs[0].run.rows))
    all_rows = group.ttl is not None
    if group.time is None:
        begin = min((run.run.end, run.run.available) for run in runs)
        known = Snapshots(shape, _prior(offline, version, shape, snapshot), begin)
        return pa.concat_tables([known.add(run, all_rows=all_rows) for run in runs])
    times = [pc.min_max(run.run.rows["event_time"]) for run in runs if len(run.keys)]
    if all_rows or not times:
        snapshot = None
    where = [("event_time", ">=", min(one["min"].as_py() for one in times))] if times else []
    where += [("event_time", "<=", max(one["max"].as_py() for one in times))] if times else []
    prior = [shape.nothing, *_prior(offline, version, shape, snapshot, where)]
    return dated_rows(shape, pa.concat_tables(prior), runs, all_rows=all_rows)


def _prior(
    offline: OfflineStore, version: BatchGroupVersion, shape: Shape, snapshot: int | None, where: Where = ()
) -> Iterator[pa.Table]:
    """What the offline table says already, some rows at a time."""
    if snapshot is None:
        return
    schema = shape.nothing.schema
    for batch in batches_of(offline, batch_table(version.id), schema.names, [*STATED, *where], snapshot):
        yield pa.Table.from_batches([batch]).cast(schema)


def dated_rows(shape: Shape, prior: pa.Table, runs: Sequence[KeyedRun], *, all_rows: bool) -> pa.Table:
    """What runs with rows dated by themselves add to the offline table.

    Args:
        shape: the columns of the table.
        prior: the rows with the same event times that are there.
        runs: the runs, in the order of their positions.
        all_rows: whether every row is added. Else one is left out when the row before it, of the same key and event
            time, has the same values: among those of the runs before it, so that it does not matter how many runs are
            taken at once.
    """
    marks = [shape.mark(run) for run in runs]
    if all_rows:
        return pa.concat_tables([*(shape.stated(run) for run in runs), *marks])
    known = prior.filter(prior[next(iter(shape.keys))].is_valid())
    pieces: list[pa.Table] = []
    for ascending in _ascending(runs):
        pieces.append(_fresh(shape, pa.concat_tables([known, *pieces], promote_options="permissive"), ascending))
    return pa.concat_tables([*pieces, *marks])


def _ascending(runs: Sequence[KeyedRun]) -> list[list[KeyedRun]]:
    """The runs in order, cut before each that was available sooner than the one before it."""
    found: list[list[KeyedRun]] = []
    for run in runs:
        if found and found[-1][-1].run.available <= run.run.available:
            found[-1].append(run)
        else:
            found.append([run])
    return found


def _fresh(shape: Shape, known: pa.Table, runs: Sequence[KeyedRun]) -> pa.Table:
    """The rows of runs in the order of their availability that say something else than what was in force."""
    added = pa.concat_tables([shape.stated(run) for run in runs])
    both = pa.concat_tables([known.select(added.column_names).cast(added.schema), added])
    keys = key_codes(encode_keys(shape.keys, [both[name] for name in shape.keys]))
    event, available, run = (np.asarray(both[name]) for name in ("event_time", "available_time", "_run"))
    order = np.lexsort((run, available, event, keys))
    values = pa.array(pack_columns(shape.features, both), pa.large_binary()).take(pa.array(order))
    again = np.asarray(pc.equal(values[1:], values[:-1])).astype(bool)
    for column in (keys[order], event[order]):
        again &= column[1:] == column[:-1]
    restated = np.zeros(len(order), bool)
    restated[order[1:][again]] = True
    return added.take(pa.array(np.flatnonzero(~restated[known.num_rows :])))


class Snapshots:
    """The snapshots of a group as the offline table tells them, to find what further ones add.

    Runs usually come in the order of their ends. With one that comes late, what the run after it said by leaving it
    as it was has to be said.

    Args:
        shape: the columns of the table.
        prior: its rows, some at a time; of those of before `begin` only the newest of each key is kept.
        begin: the event and available time (µs) of the run to come that ranks lowest.
    """

    def __init__(self, shape: Shape, prior: Iterable[pa.Table], begin: tuple[int, int]) -> None:
        self._shape, self._begin = shape, begin
        self._marks: set[tuple[int, int]] = set()
        self._rows = self._keyed(shape.nothing)
        waiting: list[pa.Table] = []
        for some in prior:
            waiting.append(self._keyed(some))
            if sum(map(len, waiting)) > len(self._rows):
                self._take_in(waiting)
        self._take_in(waiting)

    def add(self, run: KeyedRun, *, all_rows: bool) -> pa.Table:
        """What a run adds: rows, tombstones of keys that vanished, and its mark."""
        times = (run.run.end, run.run.available)
        before = self._rows.take(self._in_force(times))
        found = pc.index_in(run.keys, value_set=_flat(before[_KEY]))
        visible = np.maximum(*(np.asarray(before[name]) for name in _TIMES))
        known = np.asarray(found.is_valid())
        told = np.asarray(pc.equal(_flat(before[_VALUE]).take(found), run.values).fill_null(False)).astype(bool)
        told[known] &= visible[np.asarray(found.drop_null())] <= max(times)
        changed = np.flatnonzero(~told)
        gone = np.ones(len(before), bool)
        gone[np.asarray(found.drop_null())] = False
        gone &= (np.asarray(pc.binary_length(_flat(before[_VALUE]))) > 0) | (visible > max(times))
        vanished = self._gone(before.filter(pa.array(gone)), times, run.position)
        stated = self._shape.stated(run)
        fresh = _with(stated, run.keys, run.values).take(pa.array(changed))
        following = self._still_in_force(pa.concat_tables([fresh, vanished]), times, run.position)
        self._marks.add(times)
        self._rows = pa.concat_tables([self._rows, fresh, vanished, *following])
        rows = [stated if all_rows else fresh, vanished, *following]
        return pa.concat_tables([*(table.select(stated.column_names) for table in rows), self._shape.mark(run)])

    def _keyed(self, rows: pa.Table) -> pa.Table:
        """Rows with their encoded keys and packed values, which are empty for a tombstone; marks are noted."""
        keys = encode_keys(self._shape.keys, [rows[name] for name in self._shape.keys])
        marks = rows.filter(keys.is_null())
        self._marks |= set(zip(*(marks[name].to_pylist() for name in _TIMES), strict=True))
        rows, keys = rows.filter(keys.is_valid()), keys.drop_null()
        values = pa.array(pack_columns(self._shape.features, rows), pa.large_binary())
        nothing = pa.scalar(b"", pa.large_binary())
        return _with(rows, keys, pc.if_else(_flat(rows["_deleted"]).fill_null(False), nothing, values))

    def _take_in(self, waiting: list[pa.Table]) -> None:
        """Keep of some more rows what runs from the first one on may ask for."""
        self._rows = pa.concat_tables([self._rows, *waiting])
        waiting.clear()
        newer = np.flatnonzero(~self._until(self._begin))
        self._rows = self._rows.take(pa.array(np.r_[np.asarray(self._in_force(self._begin)), newer])).combine_chunks()

    def _until(self, times: tuple[int, int]) -> np.ndarray:
        """Whether each row is of these times or before."""
        event, available = (np.asarray(self._rows[name]) for name in _TIMES)
        until: np.ndarray = (event < times[0]) | ((event == times[0]) & (available <= times[1]))
        return until

    def _in_force(self, times: tuple[int, int]) -> pa.Array:
        """The places of the newest row of each key as of these times."""
        places = np.flatnonzero(self._until(times))
        codes = key_codes(_flat(self._rows[_KEY]))[places]
        event, available, run = (np.asarray(self._rows[name])[places] for name in (*_TIMES, "_run"))
        order = np.lexsort((run, available, event, codes))
        last = np.r_[codes[order][1:] != codes[order][:-1], True][: len(order)]
        return pa.array(places[order[last]])

    def _gone(self, rows: pa.Table, times: tuple[int, int], run: int) -> pa.Table:
        """Tombstones of the keys of some rows."""
        return self._restated(rows, pa.nulls(len(rows), pa.int64()), times, run)

    def _restated(self, keys: pa.Table, places: pa.Array, times: tuple[int, int], run: int) -> pa.Table:
        """Rows that say of some keys what is at these places, and nothing where there is no place."""
        said = self._rows.take(places)
        deleted = _flat(said["_deleted"]).fill_null(True)
        rows = self._shape.restated(keys, said, deleted, times, run)
        nothing = pa.scalar(b"", pa.large_binary())
        return _with(rows, _flat(keys[_KEY]), _flat(said[_VALUE]).fill_null(nothing))

    def _still_in_force(self, touched: pa.Table, times: tuple[int, int], run: int) -> list[pa.Table]:
        """Rows that say, at the runs that rank after a late one, what they said by leaving it as it was.

        The next run is enough, but for one after it that could be known before it.
        """
        found: list[pa.Table] = []
        lowest: int | None = None
        for end, known in sorted(mark for mark in self._marks if mark > times):
            if lowest is not None and max(end, known) >= lowest:
                continue
            lowest = max(end, known)
            at = (pc.equal(self._rows[name], time) for name, time in zip(_TIMES, (end, known), strict=True))
            stated = self._rows[_KEY].filter(pc.and_(*at))
            keys = touched.filter(pc.invert(pc.is_in(touched[_KEY], value_set=_flat(stated))))
            places = self._in_force((end, known))
            said = pc.index_in(keys[_KEY], value_set=_flat(self._rows[_KEY]).take(places))
            found.append(self._restated(keys, places.take(_flat(said)), (end, known), run))
        return found


_KEY, _VALUE = "_key", "_value"
_TIMES = ("event_time", "available_time")


def _with(rows: pa.Table, keys: pa.Array, values: pa.Array) -> pa.Table:
    return rows.append_column(_KEY, keys).append_column(_VALUE, values)


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
