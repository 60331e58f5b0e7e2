"""Instants in Arrow, whatever their unit and zone, and which of them every engine can hold."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

FIRST, LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
"""The first and the last instant (µs) of the years 1 to 9999: ISO-8601 and other engines go no further."""
_MICROS = {"us": 1, "ms": 1_000, "s": 1_000_000, "day": 86_400_000_000}


def beyond(column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array | None:
    """Return where timestamps or dates are outside the years 1 to 9999, or None when all are within.

    >>> beyond(pa.array([0, 10**18], pa.timestamp("ms"))).to_pylist()
    [False, True]
    """
    if _surely_within(column):
        return None
    unit = column.type.unit if pa.types.is_timestamp(column.type) else "day" if column.type == pa.date32() else "ms"
    if unit == "ns":
        return None
    counts = column.cast(pa.int32() if unit == "day" else pa.int64())
    first, last = FIRST // _MICROS[unit], LAST // _MICROS[unit]
    found = pc.min_max(counts)
    if not found["min"].is_valid or (first <= found["min"].as_py() and found["max"].as_py() <= last):
        return None
    return pc.or_(pc.less(counts, first), pc.greater(counts, last))


def _surely_within(column: pa.ChunkedArray | pa.Array) -> bool:
    """Whether a quick look (past Arrow's functions, and at what lies under nulls too) finds nothing outside."""
    if column.type not in _INSTANTS or not isinstance(column, pa.Array) or not len(column):
        return False
    counts = np.frombuffer(column.buffers()[1], np.int64, len(column), 8 * column.offset)
    return bool(counts.min() >= FIRST and counts.max() <= LAST)


_INSTANTS = (pa.timestamp("us", "UTC"), pa.timestamp("us"))


def micros(column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """Return instants as int64 µs, whether they are timestamps, dates or µs already; null for what is `beyond`.

    >>> micros(pa.array([1, None, 2**62], pa.timestamp("s"))).to_pylist()
    [1000000, None, None]
    """
    if pa.types.is_integer(column.type):
        return column.cast(pa.int64())
    wrong = beyond(column)
    if wrong is not None:
        column = pc.if_else(wrong, pa.scalar(None, column.type), column)
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("us"))
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    return column.cast(pa.int64())
