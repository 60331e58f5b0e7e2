"""The columns of an event in Arrow: their types, and how values from outside are brought to them.

Every rule here judges a value by itself, so that what becomes of an event never depends on the batch it came in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millstream.buffer.codec.values import DAY, TEXTS, Unfit, fit
from millstream.definitions.data_types import INSTANT, arrow_type, where
from millstream.definitions.schema import digits_of, element_of
from millstream.definitions.source import EventStream
from millstream.engines.instants import beyond, in_other_units, microseconds
from millstream.engines.uuid_texts import uuids_of_texts

PLACE = pa.schema(
    [("_partition", pa.int32()), ("_position", pa.int64()), ("_arrival", pa.int64()), ("_appended", pa.int64())]
)
Mask = npt.NDArray[np.bool_]

# What may be an instant; Arrow's parser then decides. Digits finer than a microsecond are cut off.
_WRITTEN = r"^\d{4}-\d{2}-\d{2}([T ]\d[\d:]*(\.\d+)?)?(Z|[+-]\d{2}(:?\d{2})?)?$"
_ZONED = r"[T ].*(Z|[+-]\d{2}(:?\d{2})?)$"


def event_schema(stream: EventStream) -> pa.Schema:
    """Return the Arrow schema of a stream's decoded events: its columns, `rest`, then where and when each was taken.

    Example:
        >>> from millstream.definitions.source import EventStream
        >>> event_schema(EventStream("clicks", time="at", schema={"at": "timestamp"})).names
        ['at', 'rest', '_partition', '_position', '_arrival', '_appended']
    """
    return pa.schema([*value_schema(stream), *PLACE])


def value_schema(stream: EventStream) -> pa.Schema:
    """Return the part of `event_schema` that the producer decides: the stream's columns and `rest`."""
    return pa.schema([*((name, arrow_type(kind)) for name, kind in stream.schema.items()), ("rest", pa.string())])


def from_python(values: Sequence[Any], kind: str) -> tuple[pa.Array, Mask | None]:
    """Bring a column of checked Python values to its Arrow type; the mask says which are wrong (None: none is)."""
    if kind == "timestamp":
        return _instants(values)
    if digits_of(kind):
        return _decimals_of_json(values, kind)
    if kind in TEXTS:
        return from_arrow(pa.array(values, pa.string()), kind)
    if element_of(kind):
        return _list(pa.array(values, _WIDE.get(kind, arrow_type(kind))), kind)
    array = pa.array(values, arrow_type(kind))
    return (_finite(array) if kind == "float64" else array), None


def from_arrow(array: pa.Array, kind: str) -> tuple[pa.Array, Mask | None]:
    """Bring an Arrow column to the type of a schema column; the mask says which values are wrong (None: none is).

    NaN and infinities are null in every column, as `values.fit` has it for single values.
    """
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    array = plain(array)
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), arrow_type(kind)), None
    if kind not in ("float64", "float32") and pa.types.is_floating(array.type):
        array = _finite(array)
    if kind in _CONFORM:
        return _CONFORM[kind](array)
    return _list(array, kind) if element_of(kind) else _decimal(array, kind)


def plain(array: pa.Array) -> pa.Array:
    """Return a column without the encodings that Arrow's functions do not take: dictionaries, runs and views."""
    if pa.types.is_dictionary(array.type):
        return pa.DictionaryArray.from_arrays(array.indices, plain(array.dictionary)).dictionary_decode()
    if pa.types.is_run_end_encoded(array.type):
        return plain(pc.run_end_decode(array))
    if pa.types.is_string_view(array.type):
        return array.cast(pa.string())
    if pa.types.is_binary_view(array.type):
        return array.cast(pa.binary())
    return array


def _wrong(array: pa.Array, kind: str) -> tuple[pa.Array, Mask]:
    """A column of another type altogether: every value in it is wrong, every null is null."""
    return pa.nulls(len(array), arrow_type(kind)), _flags(pc.is_valid(array))


def _int64(array: pa.Array) -> tuple[pa.Array, Mask | None]:
    if array.type == pa.int64():
        return array, None
    if pa.types.is_integer(array.type):
        wrong = _flags(pc.greater(array, pa.scalar(2**63 - 1, array.type))) if array.type == pa.uint64() else None
        return pc.cast(array, pa.int64(), safe=False), wrong
    if pa.types.is_decimal(array.type):
        return _whole_decimals(array)
    if not pa.types.is_floating(array.type):
        return _wrong(array, "int64")
    values = pc.cast(array, pa.float64()).to_numpy(zero_copy_only=False)
    present = _flags(pc.is_valid(array))
    with np.errstate(invalid="ignore"):  # NaN is not whole
        whole = present & (np.abs(values) < 2.0**63) & (values == np.floor(values))
        whole |= present & (values == -(2.0**63))
    return pa.array(np.where(whole, values, 0.0).astype(np.int64), mask=~whole), present & ~whole


def _whole_decimals(array: pa.Array) -> tuple[pa.Array, Mask | None]:
    try:
        return pc.cast(array, pa.int64()), None
    except pa.ArrowInvalid:
        pass
    return _one_by_one(array, "int64")


def _one_by_one(array: pa.Array, kind: str) -> tuple[pa.Array, Mask]:
    found: list[Any] = []
    wrong = np.zeros(len(array), np.bool_)
    for row, value in enumerate(array.to_pylist()):
        try:
            found.append(fit(value, kind))
        except Unfit:
            found.append(None)
            wrong[row] = True
    return pa.array(found, arrow_type(kind)), wrong


def _float64(array: pa.Array) -> tuple[pa.Array, Mask | None]:
    numeric = pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_decimal(array.type)
    if not numeric:
        return _wrong(array, "float64")
    return _finite(array if array.type == pa.float64() else pc.cast(array, pa.float64(), safe=False)), None


def _string(array: pa.Array) -> tuple[pa.Array, Mask | None]:
    if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
        return _wrong(array, "string")
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        wrong = np.array([not _is_text(value) for value in array], np.bool_)
        texts = [None if bad else value.as_py() for bad, value in zip(wrong.tolist(), array, strict=True)]
        return pa.array(texts, pa.string()), wrong
    return (array if array.type == pa.string() else pc.cast(array, pa.string())), None


def _is_text(value: pa.Scalar) -> bool:
    """Whether a value is null or UTF-8: Arrow takes any bytes for text until somebody reads them."""
    try:
        value.as_py()
    except UnicodeDecodeError:
        return False
    return True


def _bool(array: pa.Array) -> tuple[pa.Array, Mask | None]:
    return (array, None) if pa.types.is_boolean(array.type) else _wrong(array, "bool")


def _timestamp(array: pa.Array) -> tuple[pa.Array, Mask | None]:
    if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
        wrong = _beyond(array)
        if array.type == INSTANT:
            return array, wrong
        if pa.types.is_date(array.type):
            array = pc.cast(array, pa.timestamp("us"), safe=False)
        return _as_instants(microseconds(array)), wrong
    if pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_decimal(array.type):
        counts, wrong = _int64(array)
        return _as_instants(counts), _either(wrong, _unlikely(counts))
    text, wrong = _string(array)
    return _from_text(text) if wrong is None else (pa.nulls(len(array), INSTANT), wrong)


def _date(array: pa.Array) -> tuple[pa.Array, Mask | None]:
    """Dates; an instant at midnight, UTC, is its date, for there are frames that have no others."""
    if pa.types.is_date32(array.type):
        return array, _beyond(array)
    if pa.types.is_timestamp(array.type) or pa.types.is_date64(array.type):
        instants, wrong = _timestamp(array)
        counts = instants.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
        days, rest = np.divmod(np.where(False if wrong is None else wrong, 0, counts), DAY)
        wrong = _either(wrong, rest != 0)
        there = np.asarray(instants.is_valid()).astype(np.bool_)
        return pa.array(days.astype(np.int32), mask=~there).cast(pa.date32()), wrong
    text, no_text = _string(array)
    if no_text is not None:
        return pa.nulls(len(array), pa.date32()), no_text
    if not pc.all(pc.match_substring_regex(text, r"^\d{4}-\d{2}-\d{2}$")).as_py():
        return _one_by_one(text, "date")
    try:
        found = pc.cast(text, pa.date32())
        return found, _beyond(found)
    except pa.ArrowInvalid:
        return _one_by_one(text, "date")


def _uuid(array: pa.Array) -> tuple[pa.Array, Mask | None]:
    if array.type in (pa.uuid(), pa.binary(16)):
        return array.cast(pa.uuid()), None
    if pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
        misfit = _flags(pc.not_equal(pc.binary_length(array), 16))
        return where(pa.array(~misfit), array.cast(pa.binary())).cast(pa.binary(16)).cast(pa.uuid()), misfit
    text, wrong = _string(array)
    return uuids_of_texts(text) if wrong is None else (pa.nulls(len(array), pa.uuid()), wrong)


def _bytes(array: pa.Array) -> tuple[pa.Array, Mask | None]:
    """Bytes; text is their base64."""
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    if any(one(array.type) for one in kinds):
        return array.cast(pa.binary()), None
    text, wrong = _string(array)
    return _one_by_one(text, "bytes") if wrong is None else (pa.nulls(len(array), pa.binary()), wrong)


def _decimal(array: pa.Array, kind: str) -> tuple[pa.Array, Mask | None]:
    """Decimals, whole numbers, floats and text, none of which loses a digit that is not 0."""
    number = pa.types.is_decimal(array.type) or pa.types.is_integer(array.type) or pa.types.is_floating(array.type)
    if number or pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        try:
            if pa.types.is_decimal(array.type):
                return array.cast(arrow_type(kind)), None
        except pa.ArrowInvalid:
            pass
        text, wrong = (array, None) if number else _string(array)
        return _one_by_one(text, kind) if wrong is None else (pa.nulls(len(array), arrow_type(kind)), wrong)
    return _wrong(array, kind)


#: What a list of JSON is read as, before its numbers are rounded.
_WIDE = {"list<float32>": pa.list_(pa.float64())}


def _list(array: pa.Array, kind: str) -> tuple[pa.Array, Mask | None]:
    """Lists; one with an element of another type is wrong, and a number that is not finite is null in it."""
    if pa.types.is_list_view(array.type) or pa.types.is_large_list_view(array.type):  # which Arrow casts to nonsense
        array = pa.array(array.to_pylist(), pa.list_(array.type.value_type))
    if pa.types.is_fixed_size_list(array.type) or pa.types.is_large_list(array.type):
        array = array.cast(pa.list_(array.type.value_type))
    if not pa.types.is_list(array.type):
        return _wrong(array, kind)
    sizes = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    elements, misfits = from_arrow(array.flatten(), element_of(kind) or "")
    mask = array.is_null() if array.null_count else None
    found = pa.ListArray.from_arrays(pa.array(offsets), elements, type=arrow_type(kind), mask=mask)
    if misfits is None or not misfits.any():
        return found, None
    wrong = np.zeros(len(array), np.bool_)
    wrong[np.repeat(np.arange(len(array)), sizes)[misfits]] = True
    return found, wrong


def _float32(array: pa.Array) -> tuple[pa.Array, Mask | None]:
    numbers, wrong = _float64(array)
    return _finite(numbers.cast(pa.float32(), safe=False)), wrong


def _decimals_of_json(values: Sequence[Any], kind: str) -> tuple[pa.Array, Mask | None]:
    """Decimals as JSON has them, digit by digit, or as they were judged before."""
    found: list[Any] = []
    wrong = np.zeros(len(values), np.bool_)
    for row, value in enumerate(values):
        try:
            found.append(fit(in_json(value) if isinstance(value, msgspec.Raw) else value, kind))
        except (Unfit, ValueError, ArithmeticError):
            found.append(None)
            wrong[row] = True
    return pa.array(found, arrow_type(kind)), wrong if wrong.any() else None


def in_json(raw: msgspec.Raw) -> Any:
    """What one field of JSON is; a number as a decimal."""
    text = bytes(raw)
    if text[:1] in b"-0123456789":
        return Decimal(text.decode())
    return msgspec.json.decode(text)


_CONFORM: dict[str, Callable[[pa.Array], tuple[pa.Array, Mask | None]]] = {
    "int64": _int64,
    "float64": _float64,
    "float32": _float32,
    "string": _string,
    "bool": _bool,
    "timestamp": _timestamp,
    "date": _date,
    "uuid": _uuid,
    "bytes": _bytes,
}


def _finite(array: pa.Array) -> pa.Array:
    """NaN is null: in a float column there is no other way to write that a value is not known. So are infinities."""
    values = array.to_numpy(zero_copy_only=False)  # a null reads as NaN here, and stays null
    missing = ~np.isfinite(values)
    return pa.array(values, array.type, mask=missing) if missing.any() else array


def _instants(values: Sequence[Any]) -> tuple[pa.Array, Mask | None]:
    """Instants written as text, as microseconds, or some so and some so."""
    try:
        return _from_text(pa.array(values, pa.string()))
    except pa.ArrowTypeError:
        pass
    numbers = np.fromiter((isinstance(value, int) for value in values), np.bool_, len(values))
    counts = pa.array([value if isinstance(value, int) else None for value in values], pa.int64())
    texts, wrong = _from_text(pa.array([None if isinstance(value, int) else value for value in values], pa.string()))
    return pc.if_else(pa.array(numbers), _as_instants(counts), texts), _either(wrong, _unlikely(counts))


def _unlikely(counts: pa.Array) -> Mask | None:
    """Which numbers are no microseconds since the epoch: beyond the years 1 to 9999, or in another unit it seems."""
    found = in_other_units(counts.fill_null(0).to_numpy(zero_copy_only=False))
    return _either(found if found.any() else None, _beyond(_as_instants(counts)))


def _beyond(array: pa.Array) -> Mask | None:
    wrong = beyond(array)
    return None if wrong is None else _flags(wrong)


def _either(left: Mask | None, right: Mask | None) -> Mask | None:
    return right if left is None else left if right is None else left | right


def _from_text(texts: pa.Array) -> tuple[pa.Array, Mask | None]:
    """Instants in ISO-8601: with a zone, or without one, in UTC."""
    try:
        instants = pc.cast(texts, INSTANT)
        return instants, _beyond(instants)
    except pa.ArrowInvalid:
        pass
    likely = pc.match_substring_regex(texts, _WRITTEN)
    cut = pc.replace_substring_regex(pc.if_else(likely, texts, None), r"(\.\d{6})\d+", r"\1")
    zoned = pc.match_substring_regex(cut, _ZONED)
    with_zone = _parsed(pc.if_else(zoned, cut, None), INSTANT)
    without = _parsed(pc.if_else(pc.invert(zoned), cut, None), pa.timestamp("us"))
    instants = pc.coalesce(with_zone, _as_instants(without))
    wrong = _flags(pc.and_(pc.is_valid(texts), pc.is_null(instants)))
    return instants, _either(wrong if wrong.any() else None, _beyond(instants))


def _parsed(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """Parse instants; what cannot be one (the 30th of February) is found by halving and left null."""
    try:
        return pc.cast(texts, kind)
    except pa.ArrowInvalid:
        if len(texts) == 1:
            return pa.nulls(1, kind)
    middle = len(texts) // 2
    return pa.concat_arrays([_parsed(texts[:middle], kind), _parsed(texts[middle:], kind)])


def _as_instants(array: pa.Array) -> pa.Array:
    """Take microseconds, or a timestamp of any zone or none, as the UTC instant they are."""
    return array.cast(pa.int64()).cast(INSTANT)


def _flags(array: pa.Array) -> Mask:
    flags: Mask = pc.fill_null(array, False).to_numpy(zero_copy_only=False)
    return flags
