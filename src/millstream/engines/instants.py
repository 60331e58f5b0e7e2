"""Instants in Arrow, whatever their unit and zone, and which of them every engine can hold."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.engines.engine import FIRST, LAST

_MICROS = {"us": 1, "ms": 1_000, "s": 1_000_000, "day": 86_400_000_000}

_YEAR_2000, _YEAR_2100 = 946_684_800, 4_102_444_800  # in seconds
_UNITS = {"seconds": 1, "milliseconds": 1_000, "nanoseconds": 1_000_000_000}


def other_unit(number: int) -> str | None:
    """Return the unit that a number meant as microseconds since the epoch is more likely in, or None for microseconds.

    Seconds of this century, read as microseconds, lie within the first hours of 1970, where no producer's clock is; so
    do milliseconds within its first weeks, and nanoseconds lie beyond the year 9999.

    >>> other_unit(1_795_680_000), other_unit(1_795_680_000_000), other_unit(1_795_680_000_000_000)
    ('seconds', 'milliseconds', None)
    """
    for unit, per_second in _UNITS.items():
        if _YEAR_2000 * per_second <= number < _YEAR_2100 * per_second:
            return unit
    return None


def in_other_units(counts: np.ndarray) -> np.ndarray:
    """Say for each number (int64) whether `other_unit` finds another unit than microseconds."""
    found = np.zeros(len(counts), np.bool_)
    for per_second in _UNITS.values():
        found |= (counts >= _YEAR_2000 * per_second) & (counts < _YEAR_2100 * per_second)
    return found


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
    if not pa.types.is_timestamp(column.type):
        return column.cast(pa.int64())
    return microseconds(column).cast(pa.int64())


def microseconds(column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """Return timestamps in microseconds, of the same zone; what is finer is cut off, before 1970 too.

    >>> microseconds(pa.array([-1, 1_999], pa.timestamp("ns"))).cast(pa.int64()).to_pylist()
    [-1, 1]
    """
    zone = column.type.tz
    if column.type.unit == "ns":  # Arrow's cast would round towards 1970, and text is cut off
        counts = column.cast(pa.int64())
        whole = pc.divide(counts, 1_000)
        early = pc.and_(pc.less(counts, 0), pc.not_equal(pc.multiply(whole, 1_000), counts))
        return pc.subtract(whole, early.cast(pa.int64())).cast(pa.timestamp("us", zone))
    return column.cast(pa.timestamp("us", zone), safe=False)
