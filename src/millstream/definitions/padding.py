"""What fills a list up to its greatest length, where a view reads it as an array."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from math import isfinite
from numbers import Integral, Real

from millstream.errors import DefinitionError

Value = str | float | int | bool
Pad = Value | datetime | Mapping[str, Value | datetime]

_EXAMPLES = {"float64": "0.0", "int64": "0", "bool": "False", "string": '""', "timestamp": "datetime(1970, 1, 1)"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def pads(thing: str, fields: Mapping[str, str], pad: object) -> tuple[Value, ...]:
    """Return the value that fills each field of a list's elements, an instant as µs.

    Args:
        thing: whose it is, for a message.
        fields: the type of each field by its name; "" is that of elements which have none.
        pad: one value, or a mapping with one for each field.

    Raises:
        DefinitionError: a field has no value of its type, or of a type that nothing fills.

    >>> pads("to_array()", {"": "float64"}, 0), pads("to_array()", {"n": "int64", "s": "string"}, {"s": "", "n": -1})
    ((0.0,), (-1, ''))
    """
    for name, kind in fields.items():
        if kind not in _EXAMPLES:
            what = f"'{name}'" if name else "its element"
            hint = "read it by .spread(), or make text or a number of it in derive=."
            raise DefinitionError.wrong_type(thing, what, kind, "a number, an instant, text or a truth", hint)
    if "" in fields:
        return (_value(thing, "pad", fields[""], pad),)
    if not isinstance(pad, Mapping) or set(pad) != set(fields):
        shown = ", ".join(f'"{name}": {_EXAMPLES[kind]}' for name, kind in fields.items())
        raise DefinitionError.expected(thing, "pad", pad, "a value for each field", f"write pad={{{shown}}}.")
    return tuple(_value(thing, f"pad of '{name}'", kind, pad[name]) for name, kind in fields.items())


def _value(thing: str, what: str, kind: str, value: object) -> Value:
    """A value as a list of a type carries it."""
    truth = isinstance(value, bool)
    if kind == "float64" and isinstance(value, Real) and not truth and isfinite(value):
        return float(value)
    if kind == "int64" and isinstance(value, Integral) and not truth and -(2**63) <= int(value) < 2**63:
        return int(value)
    if (kind == "bool" and truth) or (kind == "string" and isinstance(value, str)):
        return value  # type: ignore[return-value]
    if kind == "timestamp" and isinstance(value, datetime):
        return ((value if value.tzinfo else value.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)
    raise DefinitionError.expected(thing, what, value, f"a value of type {kind}", f"write {_EXAMPLES[kind]}, say.")
