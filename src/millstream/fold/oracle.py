"""The definition of every feature in a page of plain Python: slow, obvious, and what the kernels are held to.

It keeps no state, no tiles and no lanes. Each value is computed anew from the list of events by the window rule:
`floor_h(t - d - w) <= event_time < t`, or `< floor_h(t - d)` with a delay, over events available by then.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from types import MappingProxyType
from typing import Any
from uuid import UUID

from millstream.fold.oracle_decayed import decayed
from millstream.fold.oracle_values import KINDS, of_values


@dataclass(frozen=True)
class OracleEvent:
    """An event of one key: its time and arrival (µs), when it could be known, and its evaluated expressions.

    `fields` maps the text of each expression and condition to its value on this event; None is null.
    """

    time: int
    arrival: int
    available: int
    fields: Mapping[str, Any]


def oracle(
    columns: Iterable[Any],
    events: list[OracleEvent],
    at: int,
    ordinal: int | None = None,
    request: Mapping[str, Any] = MappingProxyType({}),
    added: OracleEvent | None = None,
) -> dict[str, Any]:
    """The value of each windowed feature of one key at an instant, from the events available by then.

    Args:
        columns: the features, as a group's `columns`.
        events: the events of the key, in any order.
        at: the instant (µs).
        ordinal: by when an event must be available to count; `at` unless given.
        request: the fields of the request by their names, for the features that read any.
        added: the request as one more event, at `at`; none unless given.
    """
    columns = list(columns)
    known = [e for e in events if e.available <= (at if ordinal is None else ordinal) and not _too_late(columns, e)]
    return {column.name: _value(column, known, at, request, added) for column in columns}


def _value(
    column: Any, events: list[OracleEvent], at: int, request: Mapping[str, Any], added: OracleEvent | None
) -> Any:
    if not column.parts:
        return _feature(column, events, at, request, added)
    a, b = (_feature(part, events, at, request, added) for part in column.parts)
    if column.kind == "zscore":
        asked = _clean(request.get(column.request))
        a = None if asked is None or a is None else asked - a
    if a is None or b is None or (b == 0 and column.kind != "difference"):
        return None
    return _clean(float(a - b if column.kind == "difference" else a / b))


def _floor(instant: int, hop: int | None) -> int:
    return instant if not hop else instant // hop * hop


def _too_late(columns: list[Any], event: OracleEvent) -> bool:
    return all(
        event.arrival - event.time > part.late
        if part.gap
        else part.window is not None and event.time < _floor(event.arrival - part.delay - part.window, part.hop)
        for column in columns
        for part in column.parts or (column,)
    )


def _rows(column: Any, events: list[OracleEvent], at: int, added: OracleEvent | None) -> list[OracleEvent]:
    """The events in the window, whatever the feature's filter."""
    until = _floor(at - column.delay, column.hop) if column.delay else at
    rows = [
        e
        for e in events
        if e.time < until and (column.window is None or e.time >= _floor(at - column.delay - column.window, column.hop))
    ]
    if column.rows:
        rows = _newest(rows, column.rows - (added is not None))
    elif column.gap:
        rows = _session([e for e in rows if e.arrival - e.time <= column.late], at, column.gap)
    return [*rows, added] if added is not None and not column.delay else rows


def _feature(
    column: Any, events: list[OracleEvent], at: int, request: Mapping[str, Any], added: OracleEvent | None
) -> Any:
    rows = _rows(column, events, at, added)
    inside = [e for e in rows if column.where is None or e.fields[column.where] is True]
    if column.kind == "share":
        return len(inside) / len(rows) if rows else None
    if column.kind == "rate":
        return float(Fraction(len(inside) * column.per, column.window))
    if column.kind in ("time_since", "age"):
        which = max if column.kind == "time_since" else min
        return (at - which(e.time for e in inside)) / 1e6 if inside else None
    if column.kind in ("arg_min", "arg_max"):
        return _chosen(column, inside)
    if column.each is not None:
        return _mapped(column, inside)
    if column.fields:
        structs = [(e.time, {name: _clean(e.fields[name]) for name, _ in column.fields}) for e in inside]
        return of_values(column, [(time, one) for time, one in structs if any(v is not None for v in one.values())])
    if column.request is not None:
        return _looked_up(column, inside, at, request.get(column.request))
    if column.other is not None:
        pairs = [(_clean(e.fields[column.expression]), _clean(e.fields[column.other])) for e in inside]
        return _together(column.kind, [(x, y) for x, y in pairs if x is not None and y is not None])
    if column.kind == "count" and column.expression is None:
        return len(inside)
    dated = [(e.time, _clean(e.fields[column.expression]) if column.expression else 1.0) for e in inside]
    dated = [(time, v) for time, v in dated if v is not None]
    if column.kind.startswith("decayed"):
        return decayed(column, dated, at)
    if column.kind in ("vector_sum", "vector_mean"):
        vectors: list[Any] = [v for _, v in dated]
        return _vector(column, vectors)
    if column.kind == "histogram":
        return _counts(column.bins, [float(v) for _, v in dated])
    return of_values(column, dated) if column.kind in KINDS else _aggregate(column.kind, dated)


def _newest(rows: list[OracleEvent], wanted: int) -> list[OracleEvent]:
    """The rows of the newest instants, one instant after another until they are as many as wanted."""
    kept: list[OracleEvent] = []
    for instant in sorted({e.time for e in rows}, reverse=True):
        if len(kept) >= wanted:
            break
        kept += [e for e in rows if e.time == instant]
    return kept


def _session(rows: list[OracleEvent], at: int, gap: int) -> list[OracleEvent]:
    """The rows that lead back from the instant in steps of at most the gap."""
    kept, reached = [], at
    for e in sorted(rows, key=lambda e: e.time, reverse=True):
        if reached - e.time > gap:
            break
        kept.append(e)
        reached = e.time
    return kept


def _mapped(column: Any, events: list[OracleEvent]) -> dict[Any, Any] | None:
    """What the events of each category come to, of those with most events first, of equally many the smaller one."""
    groups: dict[Any, list[tuple[int, Any]]] = {}
    for e in events:
        category = _clean(e.fields[column.expression])
        value = _clean(e.fields[column.each.expression]) if column.each.expression else 1.0
        if category is not None and value is not None:
            groups.setdefault(category, []).append((e.time, value))
    if len(groups) > column.bound:
        return None
    ranked = sorted(groups, key=lambda category: (-len(groups[category]), _rank(category)))
    return {category: _aggregate(column.each.kind, groups[category]) for category in ranked[: column.k]}


def _counts(edges: tuple[float, ...], values: list[float]) -> list[int]:
    """How many values lie from each edge up to the next, in the last bin with its end."""
    bins = [sum(low <= v < high for v in values) for low, high in pairwise(edges)]
    bins[-1] += values.count(edges[-1])
    return bins


def _vector(column: Any, vectors: list[list[float]]) -> list[float] | None:
    """Sum or mean of each element by itself."""
    if column.kind == "vector_mean" and not vectors:
        return None
    by = len(vectors) if column.kind == "vector_mean" else 1
    return [sum(_fixed(one[j]) for one in vectors) / (by * 2**64) for j in range(column.k)]


def _clean(value: Any) -> Any:
    if isinstance(value, float):
        return None if not math.isfinite(value) else value + 0.0
    return value


def _aggregate(kind: str, dated: list[tuple[int, Any]]) -> Any:
    if kind == "count":
        return len(dated)
    if kind in ("first", "last"):
        order = [(time, _rank(v), v) for time, v in dated]
        return (min if kind == "first" else max)(order)[2] if order else None
    values = [v for _, v in dated]
    if kind in ("min", "max"):
        return {"min": min, "max": max}[kind](values, key=_rank) if values else None
    if kind == "geometric_mean":
        return _geometric_mean(values)
    fixed = [_fixed(v) for v in values]
    count, total = len(fixed), sum(fixed)
    if kind == "sum":
        return total / 2**64
    if kind == "mean":
        return total / (count * 2**64) if count else None
    if kind in ("skewness", "kurtosis"):
        return _shape(kind, fixed)
    if count < 2:
        return None
    spread = (count * sum(x * x for x in fixed) - total * total) / 2**128
    variance = spread / (float(count) * float(count - 1))
    return math.sqrt(variance) if kind == "std" else variance


def _rank(value: Any) -> Any:
    """What a value is compared by: strings and UUIDs by their bytes."""
    return value.encode() if isinstance(value, str) else value.bytes if isinstance(value, UUID) else value


def _chosen(column: Any, events: list[OracleEvent]) -> Any:
    """Of the events with the least or greatest `other`, the latest; of those of one time, the larger value."""
    rows = [(_clean(e.fields[column.other]), e.time, _clean(e.fields[column.expression])) for e in events]
    rows = [row for row in rows if row[0] is not None and row[2] is not None]
    if not rows:
        return None
    edge = (min if column.kind == "arg_min" else max)(_rank(by) for by, _, _ in rows)
    return max((row for row in rows if _rank(row[0]) == edge), key=lambda row: (row[1], _rank(row[2])))[2]


def _looked_up(column: Any, events: list[OracleEvent], at: int, asked: Any) -> Any:
    """What a feature says of the events whose value is the one that is asked for."""
    read = (column.expression, column.other or column.expression)
    rows = [(e.time, *(_clean(e.fields[sql]) for sql in read)) for e in events]
    rows = [row for row in rows if None not in row]
    if asked is None or len({value for _, value, _ in rows}) > column.bound:
        return None
    alike = [(time, number) for time, value, number in rows if value == asked]
    if column.kind == "since_seen":
        return (at - max(time for time, _ in alike)) / 1e6 if alike else None
    if column.kind == "sum_of":
        return sum(_fixed(number) for _, number in alike) / 2**64
    return len(alike) > 0 if column.kind == "seen" else len(alike)


def _fixed(value: float) -> int:
    return round(Fraction(value) * 2**64)


def _geometric_mean(values: list[float]) -> float | None:
    if not values or min(values) <= 0:
        return None
    return math.exp(sum(_fixed(math.log(v)) for v in values) / (len(values) * 2**64))


def _co_moment(xs: list[int], ys: list[int]) -> float:
    """n * sum(xy) - sum(x) * sum(y) of multiples of 2**-64, rounded once."""
    return (len(xs) * sum(x * y for x, y in zip(xs, ys, strict=True)) - sum(xs) * sum(ys)) / 2**128


def _together(kind: str, pairs: list[tuple[float, float]]) -> float | None:
    if len(pairs) < 2:
        return None
    xs, ys = [_fixed(x) for x, _ in pairs], [_fixed(y) for _, y in pairs]
    shared, n = _co_moment(xs, ys), float(len(pairs))
    if kind == "covariance":
        return shared / (n * (n - 1))
    along, across = _co_moment(xs, xs), _co_moment(ys, ys)
    if along == 0 or across == 0:
        return None
    return min(1.0, max(-1.0, shared / (math.sqrt(along) * math.sqrt(across))))


def _shape(kind: str, xs: list[int]) -> float | None:
    """Central moments by their definition: every deviation from the mean, times the count, is a whole number."""
    n = len(xs)
    spread = _co_moment(xs, xs) / n if n else 0.0
    if n < (3 if kind == "skewness" else 4) or spread == 0:
        return None
    away = [n * x - sum(xs) for x in xs]
    if kind == "skewness":
        third = float(Fraction(sum(d**3 for d in away), n * 2**192)) / (n * n)
        return n * math.sqrt(n - 1) / (n - 2) * (third / (spread * math.sqrt(spread)))
    fourth = float(Fraction(sum(d**4 for d in away), n * 2**256)) / (float(n) * n * n)
    scaled = n * (n + 1.0) * (n - 1) * fourth / ((n - 2.0) * (n - 3) * (spread * spread))
    return scaled - 3.0 * (n - 1) * (n - 1) / ((n - 2.0) * (n - 3))
