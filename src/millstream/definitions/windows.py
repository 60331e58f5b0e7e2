"""Windowed features: what a group's aggregations come to, column by column, with nesting hops."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from millstream.definitions.aggregation import Aggregation, First, Last
from millstream.definitions.durations import UNITS, micros, text
from millstream.definitions.expressions import is_column, type_of
from millstream.errors import DefinitionError

#: The default hop of a window by window plus delay: the first row that is long enough.
_HOPS = tuple(
    (micros(span), micros(hop))
    for span, hop in {
        "1m": "1s", "5m": "5s", "10m": "10s", "1h": "1m", "6h": "5m", "24h": "15m", "7d": "1h", "30d": "6h",
        "90d": "1d",
    }.items()
)  # fmt: skip
_NUMBERS = ("int64", "float64", "bool")
_OF_NUMBERS = (
    "sum", "mean", "std", "var", "skewness", "kurtosis", "geometric_mean", "covariance", "correlation",
)  # fmt: skip
_READS: dict[str, tuple[str, ...]] = {"min": (*_NUMBERS, "timestamp"), "max": (*_NUMBERS, "timestamp")}
_READS |= {kind: _NUMBERS for kind in _OF_NUMBERS}


@dataclass(frozen=True)
class WindowedFeature:
    """One column of a group: an aggregate of an expression over a window. Durations are microseconds.

    `window` None is all time. `hop` is None only for all time without a delay. `dtype` is "int64" for counts,
    "string" for the first or last of strings, else "float64". `other` is the second expression of an aggregate of two,
    `per` the span that a rate is for.
    """

    name: str
    kind: str
    expression: str | None
    where: str | None
    window: int | None
    hop: int | None
    delay: int
    dtype: str
    max_bytes: int
    other: str | None = None
    per: int = 0


def default_hop(span: int) -> int:
    """Return the hop (µs) of a window whose length plus delay is `span` (µs).

    >>> text(default_hop(micros("24h"))), text(default_hop(micros("2d")))
    ('15m', '1h')
    """
    return next((hop for longest, hop in _HOPS if span <= longest), _HOPS[-1][1])


def windowed_features(thing: str, features: object, columns: Mapping[str, str]) -> tuple[WindowedFeature, ...]:
    """Return one feature per aggregation and window, in order, checked against the group's `columns`.

    Raises `DefinitionError` for wrong types, for two columns of one name and for hops that do not nest.
    """
    given = _aggregations(thing, features)
    found = [feature for aggregation in given for feature in _expand(thing, aggregation, columns)]
    seen: set[str] = set()
    for feature in found:
        if feature.name in seen:
            raise DefinitionError.same_name(thing, "features", feature.name, 'give one of them a name, name="...".')
        seen.add(feature.name)
    _check_nesting(thing, found, [step for one in given if (step := one.hop)])
    return tuple(found)


def _aggregations(thing: str, features: object) -> tuple[Aggregation, ...]:
    given = tuple(features) if isinstance(features, Sequence) and not isinstance(features, str) else ()
    if not given or not all(isinstance(one, Aggregation) for one in given):
        hint = 'write features=[ms.Count(over="1h")].'
        raise DefinitionError.expected(thing, "features", features, "a list of aggregations", hint)
    return given


def _expand(thing: str, aggregation: Aggregation, columns: Mapping[str, str]) -> list[WindowedFeature]:
    kind = aggregation.kind
    source_type = _source_type(thing, aggregation, columns)
    if aggregation.where is not None:
        check_condition(thing, f"where of {kind}", aggregation.where, columns)
    dtype = "int64" if kind == "count" else "float64"
    if kind in ("first", "last") and source_type == "string":
        dtype = "string"
    stem = _stem(thing, aggregation)
    return [
        WindowedFeature(
            name=stem if written is None else f"{stem}_{written}",
            kind=kind,
            expression=aggregation.expression,
            where=aggregation.where,
            window=(window := None if written is None else micros(written)),
            hop=_hop(thing, aggregation, window),
            delay=aggregation.delay,
            dtype=dtype,
            max_bytes=aggregation.max_bytes if isinstance(aggregation, First | Last) else 0,
            other=getattr(aggregation, "other", None),
            per=getattr(aggregation, "per", 0),
        )
        for written in aggregation.over
    ]


def _source_type(thing: str, aggregation: Aggregation, columns: Mapping[str, str]) -> str | None:
    if aggregation.expression is None:
        return None
    kind = aggregation.kind
    allowed = _READS.get(kind)
    for expression in reversed(aggregation.values):
        found = type_of(thing, kind, expression, columns)
        if allowed and found not in allowed:
            hint = f"use ms.Last({expression!r}), ms.Count, or make a number of it in derive=."
            raise DefinitionError.wrong_type(thing, f"{kind} of `{expression}`", found, "a number", hint)
    return found


def check_condition(thing: str, argument: str, sql: str, columns: Mapping[str, str]) -> None:
    """Raise `DefinitionError` unless the expression is a condition over one row of `columns`."""
    found = type_of(thing, argument, sql, columns)
    if found != "bool":
        raise DefinitionError.wrong_type(thing, f"{argument} `{sql}`", found, "bool", f"compare it, as in `{sql} > 0`.")


def _stem(thing: str, aggregation: Aggregation) -> str:
    """The column's name without its window."""
    if aggregation.name is not None:
        return aggregation.name
    if aggregation.expression is None:
        return aggregation.kind
    read = aggregation.values
    if not all(is_column(expression) for expression in read):
        what = f"name of {aggregation.kind}({', '.join(f'`{expression}`' for expression in read)})"
        given = ", ".join(f'"{expression}"' for expression in read)
        hint = f'write ms.{type(aggregation).__name__}({given}, name="...").'
        raise DefinitionError.expected(thing, what, None, "a name, for an expression has none", hint)
    return "_".join([*(expression.strip() for expression in read), aggregation.kind])


def _hop(thing: str, aggregation: Aggregation, window: int | None) -> int | None:
    span = (window or 0) + aggregation.delay
    if span == 0:
        return None
    if aggregation.hop is not None and aggregation.hop > span:
        hint = f'use a hop of at most "{text(span)}", or leave it out for "{text(default_hop(span))}".'
        raise DefinitionError.expected(thing, "hop", text(aggregation.hop), "no more than window plus delay", hint)
    return aggregation.hop or default_hop(span)


def _check_nesting(thing: str, features: Iterable[WindowedFeature], explicit: Sequence[int]) -> None:
    hops = sorted({feature.hop for feature in features if feature.hop})
    for fine, coarse in pairwise(hops):
        if coarse % fine:
            wrong = fine if fine in explicit else coarse
            choices = [text(hop) for hop in _nesting([hop for hop in hops if hop != wrong], wrong)]
            raise DefinitionError.hops_do_not_nest(thing, text(fine), text(coarse), choices)


def _nesting(others: list[int], wrong: int) -> list[int]:
    """The hops next to `wrong`, below and above, that nest with all the others."""
    below = max((hop for hop in others if hop < wrong), default=None)
    above = min((hop for hop in others if hop > wrong), default=None)
    if above is None:
        step = below or wrong
        return [step * (wrong // step), step * (wrong // step + 1)]
    step = below or UNITS["ms"]
    fits = [hop for n in range(1, 5000) if above % n == 0 and (hop := above // n) % step == 0]
    lower, upper = [hop for hop in fits if hop < wrong], [hop for hop in fits if hop > wrong]
    return lower[:1] + upper[-1:] or [above]
