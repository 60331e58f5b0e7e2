"""What to write instead of an aggregation of a type that it does not take."""

from __future__ import annotations

from collections.abc import Sequence

from millstream.definitions.schema import digits_of, element_of
from millstream.errors import DefinitionError

#: What makes a number, or a category, of an expression of each type.
_NUMBER = {
    "bool": "cast({} as bigint)", "timestamp": "epoch({})", "date": "epoch({})", "string": "try_cast({} as double)",
    "bytes": "octet_length({})", "decimal": "cast({} as double)",
}  # fmt: skip
_CATEGORY = {"float64": "cast({} as bigint)", "bytes": "base64({})", "decimal": "cast({} as varchar)"}


def not_of_type(thing: str, kind: str, expression: str, found: str, allowed: Sequence[str]) -> DefinitionError:
    """Return the error for an aggregation of an expression whose type is none of those that it takes.

    Args:
        thing: whose aggregation it is.
        kind: the aggregation's kind, such as "sum".
        expression: what it was to aggregate.
        found: the type of the expression.
        allowed: the types that it takes.

    >>> print(not_of_type("Group 'g'", "sum", "price", "decimal(10, 2)", ("int64", "float64")).hint)
    make a number of it in derive=, as cast(price as double), or use ms.Last('price').
    >>> print(not_of_type("Group 'g'", "seen", "price", "decimal(10, 2)", ("int64", "uuid")).hint)
    make a category of it in derive=, as cast(price as varchar).
    """
    what, of = f"{kind} of `{expression}`", "decimal" if digits_of(found) else found
    if "uuid" in allowed:
        hint = f"make a category of it in derive=, as {_CATEGORY[of].format(expression)}."
        return DefinitionError.wrong_type(thing, what, found, " or ".join(allowed), hint)
    hint = f"use ms.Last({expression!r}), ms.Count or ms.DistinctCount."
    if of in _NUMBER:
        hint = f"make a number of it in derive=, as {_NUMBER[of].format(expression)}, or use ms.Last({expression!r})."
    return DefinitionError.wrong_type(thing, what, found, "a number", hint)


def list_given(thing: str, kind: str, expression: str, found: str) -> DefinitionError:
    """Return the error for a list where one value is taken.

    Args:
        thing: whose aggregation it is.
        kind: the aggregation's kind.
        expression: what it was to aggregate.
        found: the type of the expression, a list.
    """
    hint = f"take one of its elements in derive=, as {expression}[1], or how many there are, as len({expression})."
    return DefinitionError.wrong_type(thing, f"{kind} of `{expression}`", found, "a single value", hint)


def no_vector(thing: str, kind: str, expression: str, found: str, allowed: Sequence[str]) -> DefinitionError:
    """Return the error for a sum or mean of vectors of what is no list of floating-point numbers.

    Args:
        thing: whose aggregation it is.
        kind: the aggregation's kind.
        expression: what it was to aggregate.
        found: the type of the expression.
        allowed: the types of lists that it takes.
    """
    hint = f"declare '{expression}' as list<float64>."
    if element_of(found) is None:
        hint = f"use ms.Sum({expression!r}) or ms.Mean({expression!r}) for single numbers, or {hint}"
    return DefinitionError.wrong_type(thing, f"{kind} of `{expression}`", found, " or ".join(allowed), hint)
