"""What runs add offline: every row that says something the offline table does not say yet, and each run's own mark.

The table holds the join keys, `event_time`, `available_time`, the features, `_deleted` (a tombstone) and `_run` (the
position of the run). A row with null keys marks a run. With a ttl every row of a run is kept, since being stated again
is what keeps it alive; without one, only rows that differ from what was in force.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa

from millstream.buffer.columns import ARROW_TYPES
from millstream.fold.keys import decode_key, encode_keys
from millstream.fold.rows import pack_columns
from millstream.ingest.runs import KeyedRun


@dataclass(frozen=True)
class Shape:
    """The columns of an offline batch table: the types of its join keys and of its features."""

    keys: Mapping[str, str]
    features: Mapping[str, str]

    def table(self, columns: Mapping[str, Sequence[object] | pa.Array | np.ndarray]) -> pa.Table:
        """Columns in the table's order and types; those that are not given are null."""
        rows = len(next(iter(columns.values())))
        types = {name: ARROW_TYPES[kind] for name, kind in {**self.keys, **self.features}.items()}
        fields = [(name, types[name]) for name in self.keys]
        fields += [("event_time", pa.int64()), ("available_time", pa.int64())]
        fields += [(name, types[name]) for name in self.features] + [("_deleted", pa.bool_()), ("_run", pa.int64())]
        arrays = [_array(columns[name], kind) if name in columns else pa.nulls(rows, kind) for name, kind in fields]
        return pa.table(arrays, pa.schema(fields))

    def stated(self, run: KeyedRun, places: Sequence[int] | np.ndarray | None = None) -> pa.Table:
        """Rows of a run, all or those at some places, as they are kept."""
        rows = run.run.rows if places is None else run.run.rows.take(pa.array(places, pa.int64()))
        count = rows.num_rows
        own = {name: rows[name] for name in rows.column_names}
        return self.table(own | {"_deleted": np.zeros(count, bool), "_run": np.full(count, run.position)})

    def values(self, packed: Sequence[Packed], position: int) -> pa.Table:
        """Rows from packed ones."""
        keys = [decode_key(self.keys, key) for key, *_ in packed]
        values = [_UNPACK.decode(value) if value else [None] * len(self.features) for _, value, *_ in packed]
        columns: dict[str, Sequence[object]] = {name: [key[i] for key in keys] for i, name in enumerate(self.keys)}
        columns |= {name: [value[i] for value in values] for i, name in enumerate(self.features)}
        columns |= {"event_time": [row[2] for row in packed], "available_time": [row[3] for row in packed]}
        return self.table(columns | {"_deleted": [not row[1] for row in packed], "_run": [position] * len(packed)})

    def mark(self, run: KeyedRun) -> pa.Table:
        """The row that says that a run happened."""
        times = {"event_time": [run.run.end], "available_time": [run.run.available]}
        return self.table(times | {"_deleted": [False], "_run": [run.position]})


#: A key, its packed values (empty for a tombstone), event time and available time.
Packed = tuple[bytes, bytes, int, int]
_UNPACK = msgspec.msgpack.Decoder(list)


def _array(values: Sequence[object] | pa.Array | np.ndarray, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values.cast(kind)
    return pa.array(values, kind)


def dated_rows(shape: Shape, prior: pa.Table, runs: Sequence[KeyedRun], *, all_rows: bool) -> pa.Table:
    """What runs with rows dated by themselves add to `prior`, the rows with the same event times that are there.

    Unless `all_rows`, a row is left out when the one before it, of the same key and event time, has the same values:
    among those of the runs before it, so that it does not matter how many runs are taken at once.
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
    keys = _codes(encode_keys(shape.keys, [both[name] for name in shape.keys]))
    values = _codes(pa.array(pack_columns(shape.features, both), pa.binary()))
    event, available, run = (np.asarray(both[name]) for name in ("event_time", "available_time", "_run"))
    order = np.lexsort((run, available, event, keys))
    columns = [column[order] for column in (keys, event, values)]
    again = np.logical_and.reduce([column[1:] == column[:-1] for column in columns])
    restated = np.zeros(len(order), bool)
    restated[order[1:][again]] = True
    return added.take(pa.array(np.flatnonzero(~restated[known.num_rows :])))


def _codes(column: pa.Array) -> np.ndarray:
    return np.asarray(column.dictionary_encode().indices).astype(np.int64)


class Snapshots:
    """The snapshots of a group as the offline table tells them, to find what a further one adds.

    Runs usually come in the order of their ends. With one that comes late, what the run after it said by leaving it
    as it was has to be said.
    """

    def __init__(self, shape: Shape, prior: pa.Table) -> None:
        self._shape = shape
        keyed = np.asarray(prior[next(iter(shape.keys))].is_valid()).astype(bool)
        rows = prior.filter(pa.array(keyed))
        keys = encode_keys(shape.keys, [rows[name] for name in shape.keys]).to_pylist()
        deleted = rows["_deleted"].to_pylist()
        packed = pack_columns(shape.features, rows)
        values = [b"" if gone else value for value, gone in zip(packed, deleted, strict=True)]
        times = [rows[name].to_pylist() for name in ("event_time", "available_time", "_run")]
        self._rows = sorted(zip(*times, keys, values, strict=True))
        marks = prior.filter(pa.array(~keyed))
        self._marks = set(zip(marks["event_time"].to_pylist(), marks["available_time"].to_pylist(), strict=True))
        self._latest = _in_force(self._rows)

    def add(self, run: KeyedRun, *, all_rows: bool) -> pa.Table:
        """What a run adds: rows, tombstones of keys that vanished, and its mark."""
        times = (run.run.end, run.run.available)
        later = sorted(mark for mark in self._marks if mark > times)
        before = self._as_of(times) if later else self._latest
        present = set(run.keys)
        fresh = list(zip(run.keys, run.values, strict=True))
        changed = [i for i, (key, value) in enumerate(fresh) if not _says(before.get(key, _NOTHING), value, times)]
        vanished = [key for key in before if key not in present and not _says(before[key], b"", times)]
        touched = {run.keys[i]: run.values[i] for i in changed} | dict.fromkeys(vanished, b"")
        packed = [(key, b"", *times) for key in vanished] + self._still_in_force(touched, later)
        rows = self._shape.stated(run, None if all_rows else changed)
        self._note(run, touched, packed)
        return pa.concat_tables([rows, self._shape.values(packed, run.position), self._shape.mark(run)])

    def _as_of(self, times: tuple[int, int]) -> dict[bytes, tuple[bytes, int]]:
        return _in_force(row for row in self._rows if row[:2] <= times)

    def _still_in_force(self, touched: Iterable[bytes], later: Sequence[tuple[int, int]]) -> list[Packed]:
        """Rows that say, at the runs that rank after a late one, what they said by leaving it as it was.

        The next run is enough, but for one after it that could be known before it.
        """
        found: list[Packed] = []
        lowest: int | None = None
        for end, known in later:
            if lowest is not None and max(end, known) >= lowest:
                continue
            lowest, before = max(end, known), self._as_of((end, known))
            stated = {row[3] for row in self._rows if row[:2] == (end, known)}
            found += [(key, before.get(key, _NOTHING)[0], end, known) for key in touched if key not in stated]
        return found

    def _note(self, run: KeyedRun, touched: Mapping[bytes, bytes], packed: Iterable[Packed]) -> None:
        times = (run.run.end, run.run.available)
        newest = not self._marks or times >= max(self._marks)
        self._marks.add(times)
        self._rows += [(*times, run.position, key, value) for key, value in touched.items()]
        if newest:
            self._latest.update({key: (value, max(times)) for key, value in touched.items()})
            return
        self._rows += [(*stated, run.position, key, value) for key, value, *stated in packed if tuple(stated) != times]
        self._rows.sort()
        self._latest = _in_force(self._rows)


#: What is in force for a key that was never stated: no values, visible since ever.
_NOTHING = (b"", -(2**63))


def _in_force(rows: Iterable[tuple[int, int, int, bytes, bytes]]) -> dict[bytes, tuple[bytes, int]]:
    """By key, the values of its newest row and when that could be known; `rows` are ascending."""
    return {key: (value, max(event, available)) for event, available, _, key, value in rows}


def _says(stated: tuple[bytes, int], value: bytes, times: tuple[int, int]) -> bool:
    """Whether what is in force says these values already, to everyone who could know the run."""
    return stated[0] == value and stated[1] <= max(times)
