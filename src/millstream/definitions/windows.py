"""Windowed features: what a group's aggregations come to, column by column, with nesting hops."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeGuard

from millstream.definitions.aggregation import STRING_BYTES, Aggregation
from millstream.definitions.combined import Combined, ZScore
from millstream.definitions.decayed import DECAYED_KINDS, HALF_LIVES, Decayed
from millstream.definitions.durations import UNITS, micros, text
from millstream.definitions.expressions import is_column, type_of
from millstream.definitions.instead import list_given, no_vector, not_of_type
from millstream.definitions.mapped import By, Mapped
from millstream.definitions.over import Session, rows_and_time, suffix
from millstream.definitions.probes import Seen
from millstream.definitions.schema import element_of, fields_of, list_of, map_of, struct_of
from millstream.definitions.values import LISTS, Histogram, Lag, Quantile, percent
from millstream.definitions.vectors import VECTOR_TYPES, VECTORS
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
    "sum", "mean", "std", "var", "skewness", "kurtosis", "geometric_mean", "covariance", "correlation", "zscore",
    "decayed_sum", "decayed_mean",
)  # fmt: skip
_READS: dict[str, tuple[str, ...]] = {kind: _NUMBERS for kind in _OF_NUMBERS}
_READS |= {kind: ("int64", "float64") for kind in ("quantile", "median", "histogram")}
_CATEGORIES = ("int64", "string", "bool", "date", "timestamp", "uuid")
#: What those of which there are maps are called that look the request's value up instead.
_OF_REQUEST = {"count_by": "count_of", "sum_by": "sum_of"}
PROBED = ("seen", "since_seen", "count_of", "sum_of")
_READS |= dict.fromkeys(("entropy", "by", "count_by", "sum_by", "seen", "since_seen"), _CATEGORIES)
#: What the second of two expressions may be, where that is not what the first one may.
_READS_SECOND = {"sum_by": _NUMBERS}
_READS |= {kind: (*_CATEGORIES, "float64") for kind in ("distinct_count", "mode", "top_k")}
#: Those whose value is one of the values that they aggregate, and so of their type.
KEEPING = ("min", "max", "first", "last", "arg_min", "arg_max")
_TOLD_APART = ("lag", "mode")


@dataclass(frozen=True)
class WindowedFeature:
    """One column of a group: an aggregate of an expression over a window. Durations are microseconds.

    `window` None is all time. `hop` is None only for all time without a delay. `dtype` is "int64" for counts, the type
    of the expression for those `KEEPING` one of its values, else "float64". `other` is the second expression of an
    aggregate of two, and `by` its type where it orders; `per` is the span that a rate is for. One that is
    worked out of two others has them as `parts`, whose windows are its own. `request` is the field of the request that one
    reads, as a number or, where it looks it up, as a value of the type of its expression.
    `of` is the type of the expression. `k` says how many values, or which one, is asked for, `share` which quantile,
    `bound` how many different values a window may hold, `bins` the edges between which they are counted. `rows` is how
    many rows a row window holds at least, `window` then the longest time that they may span. `gap` is how far apart the
    rows of a session are at most, and `late` how long after it happened one may arrive. For one that decays the hop is the
    half-life. A map tells its categories apart by `expression`, of the type `of`, and is of `each` of them what that is,
    whose expression is `other`. A list of structs has `fields`, columns with their types, and no expression.
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
    parts: tuple[WindowedFeature, ...] = ()
    request: str | None = None
    by: str = ""
    of: str = ""
    k: int = 0
    share: float = 0.0
    bound: int = 0
    bins: tuple[float, ...] = ()
    rows: int = 0
    gap: int = 0
    late: int = 0
    each: WindowedFeature | None = None
    fields: tuple[tuple[str, str], ...] = ()

    @property
    def read(self) -> tuple[str, ...]:
        """The expressions that it takes of each event."""
        return tuple(sql for sql in (self.expression, self.other, *(name for name, _ in self.fields)) if sql)


def is_typed(feature: WindowedFeature) -> bool:
    """Whether a feature has a state that releases did not have in which every number was kept as a float64."""
    if feature.kind not in KEEPING or feature.dtype == "float64":
        return False
    return feature.dtype != "string" or feature.kind not in ("first", "last") or _is_long(feature)


def _is_long(feature: WindowedFeature) -> bool:
    return feature.max_bytes > 255 and feature.max_bytes % 8 == 7


def untyped(feature: WindowedFeature) -> WindowedFeature:
    """Return the feature as those releases had it."""
    if not is_typed(feature):
        return feature
    if feature.dtype == "string":
        return replace(feature, max_bytes=feature.max_bytes - 1)
    return replace(feature, dtype="float64")


def undated(feature: WindowedFeature) -> WindowedFeature:
    """Return the feature as releases had it to which a date was its first instant."""
    return replace(feature, dtype="timestamp") if feature.dtype == "date" else feature


def default_hop(span: int) -> int:
    """Return the hop (µs) of a window whose length plus delay is `span` (µs).

    >>> text(default_hop(micros("24h"))), text(default_hop(micros("2d")))
    ('15m', '1h')
    """
    return next((hop for longest, hop in _HOPS if span <= longest), _HOPS[-1][1])


def folded(columns: Iterable[WindowedFeature]) -> tuple[WindowedFeature, ...]:
    """Return what is folded for some columns: each as it is, or the parts that it is worked out of.

    >>> count = WindowedFeature("n", "count", None, None, None, None, 0, "int64", 0)
    >>> [part.name for part in folded([count, replace(count, name="twice", kind="ratio", parts=(count, count))])]
    ['n', 'n', 'n']
    """
    return tuple(one for column in columns for one in column.parts or (column,))


def fields_read(column: WindowedFeature) -> tuple[tuple[str, str], ...]:
    """Return the fields of a request that a column reads, each with the type it must be of, "" for any number."""
    return tuple((one.request, one.of) for one in (column, *column.parts) if one.request is not None)


def windowed_features(thing: str, features: object, columns: Mapping[str, str]) -> tuple[WindowedFeature, ...]:
    """Return one feature per aggregation and window, in order, checked.

    Args:
        thing: the group, for errors.
        features: the aggregations, as they were given.
        columns: the types of the group's columns, derived ones too.

    Raises:
        DefinitionError: for wrong types, for two columns of one name and for hops that do not nest.
    """
    given = _aggregations(thing, features)
    found = [feature for aggregation in given for feature in _columns(thing, aggregation, columns)]
    seen: set[str] = set()
    for feature in found:
        if feature.name in seen:
            raise DefinitionError.same_name(thing, "features", feature.name, 'give one of them a name, name="...".')
        seen.add(feature.name)
    explicit = [part for one in given for part in ((one.a, one.b) if isinstance(one, Combined) else (one,))]
    _check_nesting(thing, folded(found), [step for one in explicit if (step := one.hop)])
    return tuple(found)


def _aggregations(thing: str, features: object) -> tuple[Aggregation, ...]:
    given = tuple(features) if isinstance(features, Sequence) and not isinstance(features, str) else ()
    if not given or not all(isinstance(one, Aggregation) for one in given):
        hint = 'write features=[ms.Count(over="1h")].'
        raise DefinitionError.expected(thing, "features", features, "a list of aggregations", hint)
    return given


def _columns(thing: str, aggregation: Aggregation, columns: Mapping[str, str]) -> list[WindowedFeature]:
    """The columns of an aggregation, each with the parts that it is worked out of, if it is."""
    if isinstance(aggregation, Combined):
        parts = []
        for argument, part in (("a", aggregation.a), ("b", aggregation.b)):
            [one] = _expand(thing, part, columns, f"{aggregation.name}.{argument}")
            one = untyped(one) if one.dtype in _NUMBERS else one
            if one.dtype not in ("int64", "float64"):
                what = f"{argument} of {aggregation.kind} '{aggregation.name}'"
                raise DefinitionError.wrong_type(thing, what, one.dtype, "a number", "choose aggregations of numbers.")
            parts.append(one)
        return [_worked_out(aggregation.name, aggregation.kind, tuple(parts), None)]
    found = _expand(thing, aggregation, columns)
    if not isinstance(aggregation, ZScore):
        return found
    return [
        _worked_out(
            one.name,
            one.kind,
            tuple(replace(one, name=f"{one.name}.{kind}", kind=kind, request=None) for kind in ("mean", "std")),
            aggregation.request,
        )
        for one in found
    ]


def _worked_out(name: str, kind: str, parts: tuple[WindowedFeature, ...], request: str | None) -> WindowedFeature:
    return WindowedFeature(name, kind, None, None, None, None, 0, "float64", 0, parts=parts, request=request)


def _expand(
    thing: str, aggregation: Aggregation, columns: Mapping[str, str], stem: str | None = None
) -> list[WindowedFeature]:
    kind = aggregation.kind if _is_map(aggregation) else _OF_REQUEST.get(aggregation.kind, aggregation.kind)
    types = _source_types(thing, aggregation, columns)
    source_type, by, *_ = [*types, "", ""]
    several = isinstance(aggregation.expression, tuple)
    if several:
        source_type = struct_of(dict(zip(aggregation.values, types, strict=True)))
    each = _each(thing, aggregation, columns) if _is_map(aggregation) else None
    if aggregation.where is not None:
        check_condition(thing, f"where of {aggregation.kind}", aggregation.where, columns)
    dtype = _dtype(aggregation, source_type) if each is None else map_of(source_type, each.dtype)
    texts = not {"string", "bytes"}.isdisjoint((dtype, by)) or kind in ("first", "last")
    return [
        WindowedFeature(
            name=stem if over is None else f"{stem}_{suffix(over)}",
            kind=kind,
            expression=None if several else aggregation.expression,
            where=aggregation.where,
            **_window(thing, aggregation, over),
            delay=aggregation.delay,
            dtype=dtype,
            max_bytes=_max_bytes(aggregation, texts),
            other=aggregation.values[1] if len(aggregation.values) > 1 and not several else None,
            per=getattr(aggregation, "per", 0),
            by=by if hasattr(aggregation, "by") else "",
            of=source_type,
            k=_how_many(aggregation),
            share=share,
            bound=getattr(aggregation, "categories", 0),
            bins=getattr(aggregation, "bins", ()),
            each=each,
            fields=tuple((fields_of(source_type) or {}).items()),
            request=getattr(aggregation, "request", None),
        )
        for stem, share in _stems(thing, aggregation, stem)
        for over in aggregation.over
    ]


def _dtype(aggregation: Aggregation, source_type: str) -> str:
    """The type of a column, by the type of what it aggregates."""
    kind = aggregation.kind
    if isinstance(aggregation, Histogram):
        return list_of("int64")
    if isinstance(aggregation, VECTORS):
        return list_of("float64")
    if isinstance(aggregation, LISTS):
        return list_of(source_type)
    if kind in (*KEEPING, *_TOLD_APART) and source_type:
        return source_type
    if isinstance(aggregation, Seen):
        return "bool"
    return "int64" if kind in ("count", "distinct_count", "count_by") else "float64"


def _is_map(aggregation: Aggregation) -> TypeGuard[Mapped]:
    """Whether it gives a map, and does not look a value of the request up."""
    return isinstance(aggregation, Mapped) and getattr(aggregation, "request", None) is None


def _each(thing: str, aggregation: Mapped, columns: Mapping[str, str]) -> WindowedFeature:
    """What a map is of each category: of the events of its own filter that have one."""
    [each] = _expand(thing, aggregation.of_each, columns, "")
    return replace(each, where=aggregation.where, other=aggregation.category)


def _how_many(aggregation: Aggregation) -> int:
    """How many values are asked for, or which one."""
    if isinstance(aggregation, Histogram):
        return len(aggregation.bins) - 1
    said = (getattr(aggregation, argument, None) for argument in ("n", "k", "dim"))
    return next((one for one in said if one is not None), int(aggregation.kind == "mode"))


def _max_bytes(aggregation: Aggregation, texts: bool) -> int:
    """How many bytes a string that it keeps may have, 0 where it keeps none."""
    if getattr(aggregation, "request", None) is not None:
        return 0
    given: int = getattr(aggregation, "max_bytes", None) or 0
    if aggregation.kind in KEEPING:
        return (given or STRING_BYTES) if texts else 0
    return given


def _stems(thing: str, aggregation: Aggregation, given: str | None) -> list[tuple[str, float]]:
    """The names without their windows of what an aggregation comes to, and which quantile each is."""
    stem = _stem(thing, aggregation) if given is None else given
    if isinstance(aggregation, Quantile):
        begin = stem.removesuffix("_quantile") if given is None and aggregation.name is None else stem
        return [(f"{begin}_{percent(share)}", share) for share in aggregation.q]
    if isinstance(aggregation, Lag) and given is None and aggregation.name is None:
        stem = f"{stem}_{aggregation.n}"
    if isinstance(aggregation, LISTS) and given is None and aggregation.name is None:
        stem = f"{stem.removesuffix('_k')}_{aggregation.k}"
    return [(stem, 0.5)]


def _source_types(thing: str, aggregation: Aggregation, columns: Mapping[str, str]) -> list[str]:
    """The types of the expressions that it takes of each event; of a map what tells the categories apart."""
    kind = aggregation.kind
    types: list[str] = []
    values = aggregation.values[:1] if _is_map(aggregation) else aggregation.values
    for place, expression in enumerate(values):
        allowed = _READS_SECOND.get(kind, _READS.get(kind)) if place else _READS.get(kind)
        found = type_of(thing, kind, expression, columns)
        types.append(found)
        if isinstance(aggregation, VECTORS):
            if found not in VECTOR_TYPES:
                raise no_vector(thing, kind, expression, found, VECTOR_TYPES)
        elif element_of(found) and kind != "count":
            raise list_given(thing, kind, expression, found)
        elif allowed and found not in allowed:
            raise not_of_type(thing, kind, expression, found, allowed)
    return types


def check_condition(thing: str, argument: str, sql: str, columns: Mapping[str, str]) -> None:
    """Refuse an expression that is no condition over one row.

    Args:
        thing: whose condition it is, for errors.
        argument: the argument that it was given as, for errors.
        sql: the expression.
        columns: the types of the columns that it may read.

    Raises:
        DefinitionError: for what is no boolean, and for what `type_of` refuses.
    """
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
    kind = f"{aggregation.aggregate.kind}_by" if isinstance(aggregation, By) else aggregation.kind
    return "_".join([*(expression.strip() for expression in read), kind])


def _window(thing: str, aggregation: Aggregation, over: str | Session | None) -> dict[str, Any]:
    """What a window is, as the fields of a feature."""
    if isinstance(over, Session):
        return {"window": None, "hop": None, "gap": over.gap, "late": over.late}
    if isinstance(aggregation, Decayed):
        half_life = micros(aggregation.half_life)
        return {"window": HALF_LIVES * half_life, "hop": half_life}
    rows, within = rows_and_time(over)
    return {
        "window": within,
        "hop": None if rows and within is None else _hop(thing, aggregation, within),
        "rows": rows,
    }


def _hop(thing: str, aggregation: Aggregation, window: int | None) -> int | None:
    span = (window or 0) + aggregation.delay
    if span == 0:
        return None
    if aggregation.hop is not None and aggregation.hop > span:
        hint = f'use a hop of at most "{text(span)}", or leave it out for "{text(default_hop(span))}".'
        raise DefinitionError.expected(thing, "hop", text(aggregation.hop), "no more than window plus delay", hint)
    return aggregation.hop or default_hop(span)


def _check_nesting(thing: str, features: Iterable[WindowedFeature], explicit: Sequence[int]) -> None:
    features = tuple(features)
    hops = sorted({feature.hop for feature in features if feature.hop})
    half_lives = {feature.hop for feature in features if feature.kind in DECAYED_KINDS}
    for fine, coarse in pairwise(hops):
        if coarse % fine:
            if fine in half_lives or coarse in half_lives:
                raise _half_life_does_not_nest(thing, fine, coarse, coarse in half_lives)
            wrong = fine if fine in explicit else coarse
            choices = [text(hop) for hop in _nesting([hop for hop in hops if hop != wrong], wrong)]
            raise DefinitionError.hops_do_not_nest(thing, text(fine), text(coarse), choices)


def _half_life_does_not_nest(thing: str, fine: int, coarse: int, longer: bool) -> DefinitionError:
    """The error for a half-life beside a hop, or another half-life, of which neither divides the other."""
    half_life, other = (coarse, fine) if longer else (fine, coarse)
    return DefinitionError.expected(
        thing,
        "half_life",
        text(half_life),
        f"one that divides {text(other)}, the hop of another feature, or is a multiple of it",
        "choose another half-life or another hop=, or make it a feature of a group of its own.",
    )


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
