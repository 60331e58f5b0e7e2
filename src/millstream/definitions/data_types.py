"""What the types of columns are outside of definitions: in Arrow, in a row of Python's, as text, and as views carry them."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from datetime import date
from decimal import Context, Decimal
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from millstream.definitions.schema import digits_of, element_of, fields_of, is_map
from millstream.definitions.whole_numbers import objects, of_arrow
from millstream.engines.uuid_texts import uuids_of_texts

Column = TypeVar("Column", pa.Array, pa.ChunkedArray)
INSTANT = pa.timestamp("us", tz="UTC")
_ARROW_TYPES: dict[str, pa.DataType] = {
    "int64": pa.int64(),
    "float64": pa.float64(),
    "float32": pa.float32(),  # of the elements of lists
    "string": pa.string(),
    "bool": pa.bool_(),
    "timestamp": INSTANT,
    "date": pa.date32(),
    "uuid": pa.uuid(),
    "bytes": pa.binary(),
}
_EXACT = Context(prec=80)
#: The day from which dates are counted, as Python counts days.
EPOCH = date(1970, 1, 1).toordinal()


def arrow_type(kind: str) -> pa.DataType:
    """Return the Arrow type of a column, or of a feature that is a list or a map.

    >>> str(arrow_type("float64")), str(arrow_type("list<int64>")), str(arrow_type("decimal(10, 2)"))
    ('double', 'list<item: int64>', 'decimal128(10, 2)')
    >>> str(arrow_type("map<string, int64>")), str(arrow_type("list<struct<n: int64>>"))
    ('map<string, int64>', 'list<item: struct<n: int64>>')
    """
    found = _ARROW_TYPES.get(kind)
    if found is not None:
        return found
    if digits := digits_of(kind):
        return pa.decimal128(*digits)
    if fields := fields_of(kind):
        return pa.struct([(name, arrow_type(of)) for name, of in fields.items()])
    element = element_of(kind) or ""
    if is_map(kind):
        return pa.map_(*(arrow_type(of) for of in (fields_of(element) or {}).values()))
    return pa.list_(arrow_type(element))


def comparable(column: Column) -> Column:
    """Return a column as Arrow's functions compare, sort and choose it: they know a UUID as its 16 bytes only.

    >>> comparable(pa.nulls(1, pa.uuid())).type
    FixedSizeBinaryType(fixed_size_binary[16])
    """
    return column.cast(pa.binary(16)) if column.type == pa.uuid() else column


def where(condition: pa.Array, column: pa.Array, other: pa.Array | None = None) -> pa.Array:
    """Return the values of a column where a condition holds, and those of another one elsewhere.

    Args:
        condition: a boolean for each row; where it is null, so is the result.
        column: the values to keep.
        other: what stands elsewhere, a column of the same type; null unless given.
    """
    kind = column.type
    plain = comparable(column)
    chosen = pc.if_else(condition, plain, pa.scalar(None, plain.type) if other is None else comparable(other))
    return chosen.cast(kind) if chosen.type != kind else chosen


def as_uuids(column: pa.Array) -> pa.Array:
    """Return a column of UUIDs, whether it holds texts, 16 bytes or UUIDs."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return uuids_of_texts(column)[0]
    return column.cast(pa.binary(16)).cast(pa.uuid())


def as_text(value: Any) -> str | None:
    """Return a value that is no number as its text, as JSON has it: bytes in base64.

    >>> as_text(b"hello"), as_text(date(2026, 1, 31)), as_text(Decimal("1.50"))
    ('aGVsbG8=', '2026-01-31', '1.50')
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Decimal):
        return f"{value:f}"
    return b64encode(value).decode() if isinstance(value, bytes) else str(value)


def carried(column: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    """Return a column as views carry it: float64 with NaN for null, instants in µs; a list or map as `Lists`, what else
    is no number as Python's values.

    >>> carried(pa.array([True, None])).tolist(), carried(pa.array([date(2026, 1, 31), None])).tolist()
    ([1.0, nan], [datetime.date(2026, 1, 31), None])
    """
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        from millstream.definitions.list_columns import lists_of_arrow

        return lists_of_arrow(column)  # type: ignore[return-value]
    if pa.types.is_string(kind):
        return np.asarray(column.to_numpy(zero_copy_only=False), object)
    if pa.types.is_date(kind) or pa.types.is_binary(kind) or pa.types.is_decimal(kind) or kind == pa.uuid():
        return objects(column.to_pylist())
    if pa.types.is_timestamp(kind) or pa.types.is_integer(kind):
        return of_arrow(column.cast(pa.int64()))
    return np.array(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)


def unscaled(value: Decimal, scale: int) -> int:
    """Return a decimal as a whole number of its last digit.

    >>> unscaled(Decimal("1.5"), 2)
    150
    """
    return int(_EXACT.scaleb(value, scale))


def decimal_of(number: int, scale: int) -> Decimal:
    """Return what `unscaled` was given.

    >>> decimal_of(150, 2)
    Decimal('1.50')
    """
    return _EXACT.scaleb(Decimal(number), -scale)


def halves_of_decimals(column: pa.Array | pa.ChunkedArray, kind: str) -> NDArray[np.uint64]:
    """Return decimals of a type as whole numbers of 128 bits, signed, whose lower and upper halves are two columns."""
    whole = column.cast(arrow_type(kind))
    array = whole.combine_chunks() if isinstance(whole, pa.ChunkedArray) else whole
    raw = array.buffers()[1]
    halves = np.zeros((len(array), 2), np.uint64)
    if raw is not None and len(array):
        halves[:] = np.frombuffer(raw, "<u8", 2 * len(array), 16 * array.offset).reshape(-1, 2)
    halves[np.asarray(array.is_null()).astype(bool)] = 0
    return halves


def dates_of(days: Iterable[int]) -> list[date]:
    """Return the dates of days since 1970.

    >>> dates_of([-1, 0])
    [datetime.date(1969, 12, 31), datetime.date(1970, 1, 1)]
    """
    return [date.fromordinal(EPOCH + day) for day in days]
