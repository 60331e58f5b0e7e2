"""Values as lanes that compare as the values do, and back: what is kept of an event as it is.

A number, an instant and a date (as its first instant) are one lane, a UUID and a decimal two; a string is its UTF-8, and
bytes are themselves, packed big-endian, the length last, in one byte or two. Before the lanes of a value stands one that
says whether there is a value: its time, or 0. Where the order is reversed, as for the latest of the least, the bits of the
time and of the value are inverted.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.definitions.data_types import arrow_type, as_uuids, comparable, dates_of, decimal_of, halves_of_decimals
from millstream.definitions.schema import digits_of, is_object
from millstream.definitions.whole_numbers import as_column, objects, of_lanes
from millstream.engines.instants import micros
from millstream.fold import lift
from millstream.fold.keys import narrowed
from millstream.fold.lanes import EMPTY_GREATEST, EMPTY_LEAST

_GREATEST = 2**63 - 1
_SIGN = np.int64(_GREATEST)
_HIGHEST = np.uint64(1 << 63)
_LOWEST = np.int64(-(2**63))
_DAY = 86_400_000_000
#: Up to how many bytes, its size included, a text has its size in one byte.
_SHORT = 256
#: What stands before the lanes of a value where there is none.
_EMPTY = (int(EMPTY_LEAST), int(EMPTY_GREATEST))
_FLOAT, _LANE = struct.Struct("<d"), struct.Struct("<q")
_WRONG: Mapping[str, str] = MappingProxyType({
    "int64": "is no whole number of 64 bits",
    **dict.fromkeys(("string", "bytes"), "is longer than {} bytes (max_bytes of this aggregate)"),
})  # fmt: skip


@dataclass(frozen=True)
class Coded:
    """The values of a column as lanes, which of them are there, and which rows must be refused, for what reason."""

    lanes: np.ndarray
    valid: np.ndarray
    refused: np.ndarray
    reason: str
    infinite: np.ndarray | np.bool_ = np.False_


def width_of(kind: str, max_bytes: int) -> int:
    """How many lanes a value of a type has.

    >>> width_of("int64", 0), width_of("string", 39)
    (1, 5)
    """
    if kind not in ("string", "bytes"):
        return 2 if kind == "uuid" or digits_of(kind) else 1
    return (max_bytes + (1 if max_bytes < 256 else 2) + 7) // 8


def coded(sql: str, column: pa.ChunkedArray, kind: str, max_bytes: int, where: np.ndarray | None) -> Coded:
    """The values of an expression as lanes.

    Args:
        sql: the expression, as it is named where a value is refused.
        column: its values.
        kind: their type.
        max_bytes: the most bytes of a string, or of bytes; a longer one is refused.
        where: the rows whose values are wanted, bool; None: all are.
    """
    valid = np.asarray(column.is_valid()).astype(bool)
    if where is not None:
        valid = valid & where
    reason = f"`{sql}` {_WRONG.get(kind, '').format(max_bytes)}"
    nothing = np.zeros(len(valid), bool)
    if kind == "uuid":
        return Coded(_halves(column), valid, nothing, "")
    if digits_of(kind):
        halves = halves_of_decimals(column, kind)[:, ::-1] ^ np.array([0, _HIGHEST], np.uint64)
        return Coded(halves.view(np.int64), valid, nothing, "")
    if kind in ("string", "bytes"):
        return _texts(kind, column, valid, max_bytes, reason)
    if kind == "float64":
        numbers = np.array(column.cast(pa.float64(), safe=False).to_numpy(), np.float64)
        infinite = valid & np.isinf(numbers)
        valid = valid & np.isfinite(numbers)
        return Coded(_sortable(np.where(valid, numbers, 0.0)), valid, nothing, "", infinite)
    if kind == "int64":
        whole, wide = narrowed(column.combine_chunks())
        wide = valid & wide
        return Coded(_filled(whole), valid & ~wide, wide, reason)
    if kind in ("timestamp", "date"):
        column = micros(column)
        return Coded(_filled(column), valid & np.asarray(column.is_valid()).astype(bool), nothing, "")
    return Coded(_filled(column.cast(pa.bool_()).cast(pa.int8())), valid, nothing, "")


def _filled(column: Any) -> np.ndarray:
    """Whole numbers as one lane each, 0 for null."""
    return np.asarray(pc.fill_null(column.cast(pa.int64()), 0)).astype(np.int64).reshape(-1, 1)


def _sortable(numbers: np.ndarray) -> np.ndarray:
    bits = (numbers + 0.0).view(np.int64)
    return _flipped(bits).reshape(-1, 1)


def _halves(column: pa.ChunkedArray) -> np.ndarray:
    """UUIDs as two lanes each, whose order is that of their bytes."""
    raw = comparable(as_uuids(column.combine_chunks()))
    there = np.asarray(raw.is_valid()).astype(bool)
    halves = np.zeros((len(raw), 2), np.uint64)
    halves[there] = np.frombuffer(b"".join(raw.drop_null().to_pylist()), ">u8").reshape(-1, 2)
    return (halves ^ _HIGHEST).view(np.int64)


def _texts(kind: str, column: pa.ChunkedArray, valid: np.ndarray, max_bytes: int, reason: str) -> Coded:
    text = column.cast(arrow_type(kind)).combine_chunks()
    refused = valid & (np.asarray(pc.fill_null(pc.binary_length(text), 0)) > max_bytes)
    valid = valid & ~refused
    out = np.zeros((len(valid), width_of("string", max_bytes) + 1), np.int64)
    lift_texts(text, valid, np.zeros(len(valid), np.int64), np.int64(0), out, 0, out.shape[1])
    return Coded(out[:, 1:], valid, refused, reason)


def lift_texts(
    text: pa.Array, valid: np.ndarray, first: np.ndarray, empty: np.int64, out: np.ndarray, offset: int, width: int
) -> None:
    """Write strings, or bytes, as lanes, each after one lane more.

    Args:
        text: the strings, or bytes, one for each row.
        valid: the rows to write, bool; the lanes of the others are `empty`.
        first: the lane before each, int64: its time, or 0.
        empty: what stands for no value: `EMPTY_LEAST` or `EMPTY_GREATEST` of `lanes`, or 0.
        out: the lanes to write into, int64, shape (rows, lanes).
        offset: the lane of `out` to begin at.
        width: how many lanes are written, the one before the text included.
    """
    text = text.cast(pa.large_string() if pa.types.is_string(text.type) else pa.large_binary())
    _, offsets, data = text.buffers()
    starts = np.frombuffer(offsets, np.int64, len(text) + 1, text.offset * 8) if len(text) else np.zeros(1, np.int64)
    raw = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8)
    lift.lift_text(first, valid, starts, raw, empty, width, out, offset)


def values_of(dtype: str, lanes: np.ndarray, inverted: bool) -> np.ndarray:
    """Lanes as a view carries their values.

    Args:
        dtype: the type of the values.
        lanes: the lanes of each value after one that says whether there is any, int64, shape (values, lanes).
        inverted: whether the bits of the values are inverted.

    Returns:
        float64 with NaN, or objects with None, for null.
    """
    present = (lanes[:, 0] != EMPTY_LEAST) & (lanes[:, 0] != EMPTY_GREATEST)
    kept = ~lanes[:, 1:] if inverted else lanes[:, 1:]
    if dtype in ("string", "bytes"):
        return _strings(dtype, kept, present)
    if dtype == "uuid":
        return _where(present, [UUID(bytes=one) for one in _raw_uuids(kept)])
    if digits := digits_of(dtype):
        return _where(present, _decimals(kept, digits[1]))
    if dtype == "date":
        return _where(present, dates_of((np.where(present, kept[:, 0], 0) // _DAY).tolist()))
    if dtype == "float64":
        bits = np.ascontiguousarray(kept[:, 0])
        return np.where(present, _flipped(bits).view(np.float64), np.nan)
    return of_lanes(kept[:, 0], present)


def only_value_of(dtype: str, lanes: Sequence[int], inverted: bool) -> np.ndarray:
    """Return what `values_of` does for the lanes of one value, sooner.

    Args:
        dtype: the type of the value.
        lanes: its lanes, after one that says whether there is any.
        inverted: whether its bits are inverted.
    """
    value = None
    if lanes[0] not in _EMPTY:
        value = value_of(dtype, [~lane for lane in lanes[1:]] if inverted else lanes[1:])
    return objects([value]) if is_object(dtype) else as_column([value], dtype)


def value_of(kind: str, lanes: Sequence[int]) -> Any:
    """The lanes of one value as Python's, as `arrow_of` has it; an instant as a whole number (µs)."""
    first = lanes[0]
    if kind in ("int64", "timestamp"):
        return first
    if kind == "float64":
        (number,) = _FLOAT.unpack(_LANE.pack(first ^ (first >> 63 & _GREATEST)))
        return number
    if kind in ("string", "bytes"):
        size = lanes[-1] & (0xFFFF if 8 * len(lanes) > _SHORT else 0xFF)
        raw = _bytes_of(lanes[: (size + 7) // 8])[:size]
        return raw.decode() if kind == "string" else raw
    if kind == "uuid":
        return UUID(bytes=_bytes_of(lanes))
    if digits := digits_of(kind):
        return decimal_of((first << 64) + lanes[1] + 2**63, digits[1])
    return dates_of([first // _DAY])[0] if kind == "date" else bool(first)


def _bytes_of(lanes: Sequence[int]) -> bytes:
    return b"".join([(lane + 2**63).to_bytes(8, "big") for lane in lanes])


def arrow_of(kind: str, lanes: np.ndarray) -> pa.Array:
    """Lanes of values, one row each, as Arrow's values; instants as int64 (µs)."""
    if kind in ("string", "bytes"):
        return _texts_of(kind, lanes, np.ones(len(lanes), bool))
    if kind == "uuid":
        return pa.array(_raw_uuids(lanes), pa.binary(16)).cast(pa.uuid())
    if digits := digits_of(kind):
        return pa.array(_decimals(lanes, digits[1]), arrow_type(kind))
    first = np.ascontiguousarray(lanes[:, 0])
    if kind == "date":
        return pa.array((first // _DAY).astype(np.int32)).cast(pa.date32())
    if kind == "float64":
        return pa.array(_flipped(first).view(np.float64))
    return pa.array(first.astype(bool)) if kind == "bool" else pa.array(first)


def _flipped(bits: np.ndarray) -> np.ndarray:
    """The bits of floats as whole numbers of the same order, or these as the former."""
    found: np.ndarray = bits >> 63
    found &= _SIGN
    found ^= bits
    return found


def _raw_uuids(lanes: np.ndarray) -> list[bytes]:
    raw = (np.ascontiguousarray(lanes).view(np.uint64) ^ _HIGHEST).astype(">u8").tobytes()
    return [raw[at : at + 16] for at in range(0, len(raw), 16)]


def _decimals(lanes: np.ndarray, scale: int) -> list[Decimal]:
    pairs = zip(lanes[:, 0].tolist(), (lanes[:, 1] ^ _LOWEST).astype(np.uint64).tolist(), strict=True)
    return [decimal_of((high << 64) | low, scale) for high, low in pairs]


def _where(present: np.ndarray, values: list[Any]) -> np.ndarray:
    """Values as objects, None where they are not present."""
    found = objects(values)
    found[~present] = None
    return found


def _strings(dtype: str, lanes: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Packed texts to strings, or to bytes, None where there is none."""
    return np.asarray(_texts_of(dtype, lanes, present).to_numpy(zero_copy_only=False))


def _texts_of(dtype: str, lanes: np.ndarray, present: np.ndarray) -> pa.Array:
    packed = (np.ascontiguousarray(lanes).view(np.uint64) ^ _HIGHEST).astype(">u8")
    raw = packed.view(np.uint8).reshape(len(lanes), 8 * packed.shape[1])
    sizes = raw[:, -1].astype(np.int32)
    if raw.shape[1] > _SHORT:
        sizes += raw[:, -2].astype(np.int32) << 8
    sizes[~present] = 0
    ends = np.zeros(len(lanes) + 1, np.int32)
    np.cumsum(sizes, out=ends[1:])
    data = raw[np.arange(raw.shape[1]) < sizes[:, None]]
    buffers = [pa.py_buffer(np.packbits(present, bitorder="little")), pa.py_buffer(ends), pa.py_buffer(data)]
    return pa.Array.from_buffers(arrow_type(dtype), len(lanes), buffers)
