"""Batch rows: dated rows of a key instead of tiles, read as of a moment by the same bitemporal rule everywhere.

The value of a key at `t` is its newest row by (event time, available time) with both `<= t`. A row without values is a
tombstone. A state keeps the rows that a read from now on may need: the newest one, and those not yet visible.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.definitions.data_types import EPOCH, arrow_type, carried, comparable
from millstream.definitions.schema import digits_of, is_object
from millstream.definitions.whole_numbers import as_column, objects
from millstream.engines.instants import micros
from millstream.errors import CorruptState
from millstream.fold.keys import encode_keys
from millstream.fold.layout import HEAD_SPAN

#: The version of the format of batch states; another one is refused, never guessed at.
ROWS_VERSION = 1
#: Reads are exact from this long before the write that applied a newer row (µs).
ROW_SPAN = HEAD_SPAN
#: `Row.confirmed` of a row that the newest run returned: its confirmation is the one recorded for the whole shard.
ACTIVE = -(2**63)

#: The column of encoded keys beside the features, which may have any name that does not begin with an underscore.
KEY = "_key"
#: What every state of a batch group begins with.
MAGIC = b"MSR" + bytes([ROWS_VERSION])
_ROW = struct.Struct("<qqqI")
_VALUES = msgspec.msgpack.Encoder()
_READ = msgspec.msgpack.Decoder(list)
_EARLIEST = np.iinfo(np.int64).min


class Row(NamedTuple):
    """A dated row of a key. Times are µs; `values` is packed, empty for a tombstone; see `ACTIVE` for `confirmed`."""

    event_time: int
    available_time: int
    confirmed: int
    values: bytes

    @property
    def visible(self) -> int:
        """The instant (µs) from which a reader could know the row."""
        return max(self.event_time, self.available_time)


def encode_row(
    schema: Mapping[str, str], event_time: int, available_time: int, values: Mapping[str, Any] | None
) -> bytes:
    """The state of a key with one row.

    Args:
        schema: the types of the features by their names.
        event_time: when the row is dated (µs).
        available_time: from when on a reader could know it (µs).
        values: its values; a missing or non-finite one is null. None is a tombstone.

    >>> state = encode_row({"tier": "string"}, 10, 12, {"tier": "gold"})
    >>> row_at({"tier": "string"}, state, 12), row_at({"tier": "string"}, state, 11)
    ({'tier': 'gold'}, {'tier': None})
    """
    packed = b"" if values is None else pack_values([_packed(kind, values.get(name)) for name, kind in schema.items()])
    return join_rows([Row(event_time, available_time, ACTIVE, packed)])


def _packed(kind: str, value: Any) -> Any:
    if isinstance(value, float):
        return value + 0.0 if np.isfinite(value) else None
    if value is None or kind not in ("date", "uuid"):
        return value
    return value.toordinal() - EPOCH if kind == "date" else value.bytes


def _unpacked(kind: str, value: Any) -> Any:
    if value is None or not (kind in ("date", "uuid") or digits_of(kind)):
        return value
    if digits_of(kind):
        return Decimal(value)
    return date.fromordinal(EPOCH + value) if kind == "date" else UUID(bytes=value)


def pack_values(values: Sequence[Any]) -> bytes:
    """Values in the order of the schema, as the bytes a row holds.

    Instants are µs, dates days since 1970, UUIDs their bytes and decimals their text.
    """
    return _VALUES.encode(list(values))


def pack_columns(schema: Mapping[str, str], table: pa.Table) -> list[bytes]:
    """The packed values of every row of a table that has the schema's columns."""
    columns = [_plain(kind, table[name]).to_pylist() for name, kind in schema.items()]
    return list(map(_VALUES.encode, zip(*columns, strict=True))) if columns else [_VALUES.encode([])] * table.num_rows


def _plain(kind: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column as it is packed: instants as µs, dates as days, UUIDs as bytes, floats finite and without a negative zero."""
    if kind == "timestamp":
        return micros(column)
    if kind == "date":
        return column.cast(pa.date32()).cast(pa.int32())
    if kind != "float64":
        return comparable(column)
    column = column.cast(pa.float64())
    finite = pc.if_else(pc.is_finite(column), column, pa.scalar(None, pa.float64()))
    return pc.add(finite, 0.0)


def join_rows(rows: Iterable[Row]) -> bytes:
    """The bytes of a state with these rows, newest first."""
    parts = [MAGIC]
    for row in rows:
        parts.append(_ROW.pack(row.event_time, row.available_time, row.confirmed, len(row.values)))
        parts.append(row.values)
    return b"".join(parts)


def split_rows(state: bytes | None) -> list[Row]:
    """The rows of a state, newest first; None is no row. Raises `CorruptState` for bytes of another format."""
    if not state:
        return []
    if state[:4] != MAGIC:
        raise CorruptState(
            f"State of a batch group: it begins with {state[:4]!r}, expected {MAGIC!r}.",
            "run the group again with this version of Millstream.",
        )
    rows, at = [], 4
    while at < len(state):
        event_time, available_time, confirmed, size = _ROW.unpack_from(state, at)
        at += _ROW.size + size
        rows.append(Row(event_time, available_time, confirmed, state[at - size : at]))
    return rows


def merge_rows(old: bytes | None, new: bytes, now: int | None = None) -> bytes | None:
    """The state with the rows of both, or None when the new one changes nothing.

    A row with the event time and the values of the one before it changes nothing, whenever it became available. So late
    and repeated rows are harmless.

    Args:
        old: the state that there is; None for no row.
        new: the state with the rows that come; of two rows with the same times the one in it counts.
        now: the clock's time (µs): rows that no read from `ROW_SPAN` before it on can need are left out; None: those
            alone that no read at any instant can.

    Raises:
        CorruptState: for a state of another format.

    >>> schema = {"tier": "string"}
    >>> gold = encode_row(schema, 10, 12, {"tier": "gold"})
    >>> late = encode_row(schema, 5, 13, {"tier": "none"})
    >>> merge_rows(gold, late), merge_rows(gold, gold)
    (None, None)
    """
    before = split_rows(old)
    after = union(before, split_rows(new), now)
    return None if after == before else join_rows(after)


def union(before: list[Row], added: list[Row], now: int | None = None) -> list[Row]:
    """The rows of a state after others are added, newest first; what no read can choose any more is left out.

    Args:
        before: the rows that there are, newest first.
        added: those that come; of two rows with the same times the one among them counts.
        now: the clock's time (µs): rows that no read from `ROW_SPAN` before it on can choose are left out too; None:
            those alone that no read at any instant can.
    """
    by_times = {(row.event_time, row.available_time): row for row in before}
    for row in added:
        times = (row.event_time, row.available_time)
        there = by_times.get(times)
        by_times[times] = _restated(there, row) if there and there.values == row.values else row
    ordered = sorted(by_times.values(), key=lambda row: row[:2])
    stated: list[Row] = []
    for row in ordered:
        if stated and row.event_time == stated[-1].event_time and row.values == stated[-1].values:
            stated[-1] = _restated(stated[-1], row)
        else:
            stated.append(row)
    return _reachable(stated, now)


def _restated(row: Row, again: Row) -> Row:
    """A row that another one states again, later: it was confirmed when either was."""
    if ACTIVE in (row.confirmed, again.confirmed):
        return row._replace(confirmed=ACTIVE)
    return row._replace(confirmed=max(row.confirmed, again.confirmed, again.available_time))


def _reachable(ascending: list[Row], now: int | None) -> list[Row]:
    """Newest first, the rows that some instant sees, of those from `ROW_SPAN` before `now` on if it is given."""
    kept: list[Row] = []
    for row in reversed(ascending):
        if kept and row.visible >= kept[-1].visible:
            continue
        kept.append(row)
        if now is not None and row.visible <= now - ROW_SPAN:
            break
    return kept


def newest_visible(rows: Sequence[Row], at: int) -> Row | None:
    """Of the rows of a state, newest first, the one a reader at `at` (µs) sees."""
    return next((row for row in rows if row.event_time <= at and row.available_time <= at), None)


def row_at(
    schema: Mapping[str, str], state: bytes | None, at: int, ttl: int | None = None, confirmed_at: int | None = None
) -> dict[str, Any]:
    """The values of a key at an instant, None for null; all null without a visible row.

    Args:
        schema: the types of the features by their names.
        state: the state of the key; None for no row.
        at: the instant (µs).
        ttl: how long a row counts (µs), from the last run that returned it; older ones are null. None: for ever.
        confirmed_at: the instant (µs) of the newest run, as recorded for the whole shard, from which a row counts that
            it returned; None: such a row counts from when it became available.

    Raises:
        CorruptState: for a state of another format.
    """
    values = _values_at(state, at, ttl, confirmed_at)
    if values is None:
        return dict.fromkeys(schema)
    return {name: _unpacked(kind, one) for (name, kind), one in zip(schema.items(), values, strict=True)}


def _values_at(state: bytes | None, at: int, ttl: int | None, confirmed_at: int | None) -> list[Any] | None:
    row = newest_visible(split_rows(state), at)
    if row is None or not row.values or _expired(row, at, ttl, confirmed_at):
        return None
    values: list[Any] = _READ.decode(row.values)
    return values


def forgotten(
    state: bytes | None, at: int, written_at: int, ttl: int | None = None, confirmed_at: int | None = None
) -> bool:
    """Whether a state may have let go of what a read at an instant needs.

    It holds the newest row and those not yet visible at the write, so a read of long before belongs to history; so does,
    with a `ttl`, one of before the confirmations that are known.

    Args:
        state: the state of a key; None for no row, which has let go of nothing.
        at: the instant of the read (µs).
        written_at: when the state was written (µs).
        ttl: how long a row counts (µs); None: for ever.
        confirmed_at: the instant (µs) of the newest run, as recorded for the whole shard; None where none is.

    Raises:
        CorruptState: for a state of another format.

    >>> state = encode_row({"tier": "string"}, 10_000_000, 10_000_000, {"tier": "gold"})
    >>> forgotten(state, 9_000_000, 10_000_000), forgotten(state, 4_000_000, 10_000_000)
    (False, True)
    """
    if not state:
        return False
    row = newest_visible(split_rows(state), at)
    if row is None:
        return at < written_at - ROW_SPAN
    if ttl is None or not row.values or at - row.available_time <= ttl:
        return False
    confirmed = confirmed_at if row.confirmed == ACTIVE else row.confirmed
    return confirmed is not None and at < confirmed  # by then it may have expired, or may not


def _expired(row: Row, at: int, ttl: int | None, confirmed_at: int | None) -> bool:
    if ttl is None:
        return False
    if row.confirmed != ACTIVE:
        return at - row.confirmed > ttl
    return at - (row.available_time if confirmed_at is None else confirmed_at) > ttl


def rows_at(
    schema: Mapping[str, str],
    states: Sequence[bytes | None],
    at: np.ndarray,
    ttl: int | None = None,
    confirmed_at: int | None = None,
) -> dict[str, np.ndarray]:
    """`row_at` of several states, as feature columns: float64 with NaN, or Python's values with None, for null.

    Args:
        schema: the types of the features by their names.
        states: the states; None for no row.
        at: the instant of each (µs), int64, shape (states,).
        ttl: how long a row counts (µs); as in `row_at`.
        confirmed_at: the instant (µs) of the newest run, as recorded for the shard of all of them; as in `row_at`.

    Raises:
        CorruptState: for a state of another format.

    >>> states = [encode_row({"limit": "int64"}, 1, 1, {"limit": 500}), None]
    >>> rows_at({"limit": "int64"}, states, np.array([5, 5]))["limit"].tolist()
    [500.0, nan]
    """
    pairs = zip(states, at.tolist(), strict=True)
    nulls = [None] * len(schema)
    rows = [_values_at(state, instant, ttl, confirmed_at) or nulls for state, instant in pairs]
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    return {name: _column(kind, values) for (name, kind), values in zip(schema.items(), columns, strict=True)}


def _column(kind: str, values: Sequence[Any]) -> np.ndarray:
    return objects([_unpacked(kind, one) for one in values]) if is_object(kind) else as_column(values, kind)


def with_keys(types: Mapping[str, str], rows: pa.Table) -> pa.Table:
    """Rows of an offline table of a batch group with the column `_key` that `rows_as_of` reads.

    `types` are the entity's join keys. Rows with a null key, which mark runs, are left out.
    """
    keys = encode_keys(types, [rows[name] for name in types])
    table = rows.append_column(KEY, keys)
    return table.filter(keys.is_valid()) if keys.null_count else table


def rows_as_of(
    schema: Mapping[str, str],
    rows: pa.Table,
    keys: Sequence[bytes] | pa.Array,
    at: np.ndarray,
    ttl: int | None = None,
) -> dict[str, np.ndarray]:
    """The values of (key, instant) pairs from every row ever stated, as feature columns.

    Args:
        schema: the types of the features by their names.
        rows: the rows, with `_key` (binary; see `with_keys`), `event_time`, `available_time` and the features;
            `_deleted` marks tombstones. Rows of equal times count in the order of `_run` if there is one, else of the
            table.
        keys: the encoded key of each pair.
        at: the instant of each (µs), int64, shape (pairs,).
        ttl: how long a row counts (µs) after the last time it was stated; None: for ever.

    Returns:
        One value for each pair; null is NaN, or None for what is no number.

    >>> rows = pa.table({"_key": [b"a", b"a"], "event_time": [1, 5], "available_time": [2, 9], "limit": [10, 20]})
    >>> rows_as_of({"limit": "int64"}, rows, [b"a", b"a", b"b"], np.array([8, 9, 9]))["limit"].tolist()
    [10.0, 20.0, nan]
    """
    places = in_force(rows, keys, at, ttl)
    return {name: _taken(kind, rows[name], places) for name, kind in schema.items()}


def in_force(rows: pa.Table, keys: Sequence[bytes] | pa.Array, at: np.ndarray, ttl: int | None = None) -> pa.Array:
    """For each (key, instant), the place in `rows` of the row whose values `rows_as_of` gives, or null.

    Args:
        rows: the rows; as in `rows_as_of`, but the features are not read.
        keys: the encoded key of each pair.
        at: the instant of each (µs), int64, shape (pairs,).
        ttl: how long a row counts (µs) after the last time it was stated; None: for ever.
    """
    found = latest_visible(rows, keys, np.ascontiguousarray(at, np.int64))
    if ttl is not None and rows.num_rows:
        stated = np.asarray(micros(rows["available_time"]))[np.maximum(found, 0)]
        found = np.where(np.asarray(at, np.int64) - stated > ttl, -1, found)
    if "_deleted" in rows.column_names and rows.num_rows:
        deleted = np.asarray(rows["_deleted"].fill_null(False)).astype(bool)
        found = np.where(deleted[np.maximum(found, 0)], -1, found)
    return pa.array(np.maximum(found, 0), mask=found < 0)


def latest_visible(rows: pa.Table, keys: Sequence[bytes] | pa.Array, at: np.ndarray) -> np.ndarray:
    """For each (key, instant), the place in `rows` of the newest row visible then, or -1.

    Rows and queries are ordered by key and the instant a row becomes visible; the newest so far is a running maximum of
    the rows' ranks, which restarts by itself at each key because ranks go by key first.

    Args:
        rows: the rows, tombstones among them; as in `rows_as_of`, but the features are not read.
        keys: the encoded key of each pair.
        at: the instant of each (µs), int64, shape (pairs,).
    """
    asked = keys if isinstance(keys, pa.Array | pa.ChunkedArray) else pa.array(keys, pa.binary())
    if rows.num_rows == 0 or len(asked) == 0:
        return np.full(len(asked), -1, np.int64)
    known, codes = _codes(rows[KEY])
    queries = np.asarray(pc.index_in(asked, value_set=known).fill_null(-1)).astype(np.int64)
    event, available = (np.asarray(micros(rows[name])).astype(np.int64) for name in ("event_time", "available_time"))
    run = np.asarray(rows["_run"]) if "_run" in rows.column_names else np.zeros(len(codes), np.int64)
    by_rank = np.lexsort((run, available, event, codes))
    rank = np.empty(len(codes), np.int64)
    rank[by_rank] = np.arange(len(codes))
    both = np.concatenate([codes, queries])
    order = np.lexsort((np.arange(len(both)) >= len(codes), np.concatenate([np.maximum(event, available), at]), both))
    newest = np.maximum.accumulate(np.concatenate([rank, np.full(len(queries), -1)])[order])
    best = np.empty(len(both), np.int64)
    best[order] = newest
    found = best[len(codes) :]
    places = by_rank[np.maximum(found, 0)]
    return np.where((found >= 0) & (codes[places] == queries), places, -1)


def _codes(column: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """The distinct keys, and for each row which one it has."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    coded = whole.cast(pa.binary()).dictionary_encode()
    return coded.dictionary, np.asarray(coded.indices.fill_null(-1)).astype(np.int64)


def _taken(kind: str, column: pa.ChunkedArray, places: pa.Array) -> np.ndarray:
    column = _plain(kind, column) if kind in ("timestamp", "float64") else column.cast(arrow_type(kind))
    return carried(column.take(places) if len(column) else pa.nulls(len(places), column.type))
