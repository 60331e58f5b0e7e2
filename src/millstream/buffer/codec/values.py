"""One value from outside, judged for the type of its column: the rules that `columns` applies to whole columns.

A row decides the same in whatever form it comes, so both must say the same of every value.
"""

from __future__ import annotations

import math
import re
from base64 import b64decode
from collections.abc import Callable
from datetime import date, datetime
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import Any
from uuid import UUID

import numpy as np

from millstream.clock import to_micros
from millstream.definitions.data_types import EPOCH
from millstream.definitions.schema import digits_of, element_of
from millstream.engines.engine import FIRST, LAST
from millstream.engines.instants import other_unit
from millstream.engines.uuid_texts import WRITTEN
from millstream.errors import MillstreamError, shown

EXPECTED = {
    "int64": "a whole number of 64 bits",
    "float64": "a number",
    "string": "text",
    "bool": "true or false",
    "timestamp": "an instant of the years 1 to 9999 (ISO-8601, or microseconds since the epoch)",
    "date": "a date of the years 1 to 9999 (ISO-8601)",
    "uuid": "a UUID (32 hexadecimal digits, with its dashes or without)",
    "bytes": "bytes (as text, in base64)",
}
#: The types beside text whose values JSON has as text alone.
TEXTS = ("date", "uuid", "bytes")
DAY = 86_400_000_000
_DIGITS = 19  # of the largest int64
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_UUID = re.compile(WRITTEN)
_NUMBER = re.compile(r"[+-]?(?:\d{1,100}(?:\.\d{0,100})?|\.\d{1,100})(?:[eE][+-]?\d{1,5})?", re.ASCII)


def expected(kind: str) -> str:
    """Return what a value of a type is, in words.

    >>> expected("decimal(10, 2)")
    'a decimal of at most 10 digits, 2 of them behind the point'
    """
    digits, element = digits_of(kind), element_of(kind)
    if element is not None:
        return f"a list whose elements are null or {EXPECTED['float64' if element == 'float32' else element]}"
    if digits is None:
        return EXPECTED[kind]
    return f"a decimal of at most {digits[0]} digits, {digits[1]} of them behind the point"


class Unfit(Exception):
    """A value is not of the type that its column declares."""


def fit(value: Any, kind: str) -> Any:
    """Return a value as a column of that type holds it, None for null; raises `Unfit` for one of another type.

    NaN, infinities and the missing values of NumPy and pandas are null in every column. A whole number may be written
    as a float or a decimal. Instants become microseconds; an instant at midnight, UTC, is a date.

    >>> fit(7.0, "int64"), fit(float("inf"), "float64"), fit("2024-01-01T00:00:00Z", "timestamp")
    (7, None, 1704067200000000)
    """
    if is_missing(value):
        return None
    if kind in _FITS:
        return _FITS[kind](value)
    digits = digits_of(kind)
    return _list(value, element_of(kind) or "") if digits is None else _decimal(value, *digits)


def instant(argument: str, value: Any) -> int:
    """Return an instant that an argument was given as microseconds, or raise `MillstreamError`.

    >>> instant("at", "2024-01-01T00:00:00Z")
    1704067200000000
    """
    try:
        at = fit(value, "timestamp")
    except Unfit:
        at = None
    if at is None:
        unit = other_unit(value) if isinstance(value, int) and not isinstance(value, bool) else None
        said = f"which looks like {unit} since 1970; expected" if unit else "expected"
        hint = "write it as '2024-01-31T12:00:00Z' or a datetime; without a zone it is taken as UTC."
        raise MillstreamError(f"{argument} was given {shown(value)}, {said} {EXPECTED['timestamp']}.", hint)
    return int(at)


def is_missing(value: Any) -> bool:
    """Say whether a value stands for null: None, NaN, an infinity, NaT, pandas' NA."""
    if value is None:
        return True
    if isinstance(value, float | np.floating):
        return not math.isfinite(value)
    if isinstance(value, Decimal):
        return not value.is_finite()
    if isinstance(value, np.datetime64):
        return bool(np.isnat(value))
    return type(value).__name__ in ("NaTType", "NAType")


def reason(name: str, kind: str, value: Any = None) -> str:
    """Say why a value of a column makes its row a dead letter.

    Args:
        name: the column.
        kind: its type, such as "timestamp".
        value: what it holds, where that is known: a number in a column of instants may be of another unit, which is
            said.
    """
    number = value if isinstance(value, int | float | Decimal) and not isinstance(value, bool) else None
    unit = other_unit(int(number)) if kind == "timestamp" and number is not None and math.isfinite(number) else None
    if unit is None:
        return f"Wrong type: column '{name}' does not hold {expected(kind)}."
    return (
        f"Wrong unit: column '{name}' holds {number}, which looks like {unit} since the epoch; "
        "expected microseconds or ISO-8601."
    )


def _int64(value: Any) -> int:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if isinstance(value, float | np.floating):
        whole = value == math.floor(value)
    elif isinstance(value, Decimal):
        whole = value.adjusted() < _DIGITS and value == value.to_integral_value()
    if whole and -(2**63) <= (number := int(value)) < 2**63:
        return number
    raise Unfit


def _float64(value: Any) -> float | None:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | Decimal | np.integer | np.floating):
        raise Unfit
    try:
        number = float(value)
    except OverflowError:  # a whole number beyond every float is as infinite as 1e400
        return None
    return number + 0.0 if math.isfinite(number) else None


def _string(value: Any) -> str:
    if isinstance(value, str) and (value.isascii() or encodes(value)):
        return str(value)
    raise Unfit


def encodes(text: str) -> bool:
    """Say whether text is UTF-8: JSON and Python can spell half of a surrogate pair, which no key and no file holds."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bool(value: Any) -> bool:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise Unfit


def _timestamp(value: Any) -> int:
    if isinstance(value, str | date | np.datetime64):
        try:
            at = to_micros(value)
        except (MillstreamError, OverflowError, ValueError):
            raise Unfit from None
    else:
        at = _int64(value)
        if other_unit(at):
            raise Unfit
    if FIRST <= at <= LAST:
        return at
    raise Unfit


def _date(value: Any) -> date:
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    try:
        if isinstance(value, str) and _DATE.fullmatch(value):
            return date.fromisoformat(value)
    except ValueError:
        raise Unfit from None
    if isinstance(value, date | np.datetime64) or (isinstance(value, str) and _DATE.match(value)):
        day, rest = divmod(_timestamp(value), DAY)
        if not rest:
            return date.fromordinal(EPOCH + day)
    raise Unfit


def _uuid(value: Any) -> UUID:
    if isinstance(value, UUID):
        return value
    if isinstance(value, bytes) and len(value) == 16:
        return UUID(bytes=bytes(value))
    if isinstance(value, str) and _UUID.fullmatch(value):
        return UUID(value)
    raise Unfit


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str):
        try:
            return b64decode(value, validate=True)
        except ValueError:
            pass
    raise Unfit


def _decimal(value: Any, precision: int, scale: int) -> Decimal:
    """A decimal with so many digits behind the point; a float is the shortest decimal that it is."""
    if isinstance(value, bool | np.bool_):
        raise Unfit
    if isinstance(value, float | np.floating):
        number = Decimal(repr(float(value)))
    elif isinstance(value, int | np.integer):
        number = Decimal(int(value))
    elif isinstance(value, Decimal):
        number = value
    elif isinstance(value, str) and _NUMBER.fullmatch(value):
        number = Decimal(value)
    else:
        raise Unfit
    context = Context(prec=precision, traps=[Inexact, InvalidOperation])
    try:
        found = context.quantize(number, Decimal(1).scaleb(-scale))
    except (Inexact, InvalidOperation):
        raise Unfit from None
    return found if found else found.copy_abs()


def _list(value: Any, element: str) -> list[Any]:
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim == 1):
        return [fit(one, element) for one in value]
    raise Unfit


def _float32(value: Any) -> float | None:
    number = _float64(value)
    if number is None:
        return None
    with np.errstate(over="ignore"):
        rounded = float(np.float32(number))
    return rounded if math.isfinite(rounded) else None


_FITS: dict[str, Callable[[Any], Any]] = {
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
