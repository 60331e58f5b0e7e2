"""The definition of every feature in a page of plain Python: slow, obvious, and what the kernels are held to.

It keeps no state, no tiles and no lanes. Each value is computed anew from the list of events by the window rule:
`floor_h(t - d - w) <= event_time < t`, or `< floor_h(t - d)` with a delay, over events available by then.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any


@dataclass(frozen=True)
class OracleEvent:
    """An event of one key: its time and arrival (µs), when it could be known, and its evaluated expressions.

    `fields` maps the text of each expression and condition to its value on this event; None is null.
    """

    time: int
    arrival: int
    available: int
    fields: Mapping[str, Any]


def oracle(columns: Iterable[Any], events: list[OracleEvent], at: int, ordinal: int | None = None) -> dict[str, Any]:
    """The value of each windowed feature at `at`, from the events available by `ordinal` (`at` when not given)."""
    columns = list(columns)
    known = [e for e in events if e.available <= (at if ordinal is None else ordinal) and not _too_late(columns, e)]
    return {column.name: _feature(column, known, at) for column in columns}


def _floor(instant: int, hop: int | None) -> int:
    return instant if not hop else instant // hop * hop


def _too_late(columns: list[Any], event: OracleEvent) -> bool:
    return all(
        column.window is not None and event.time < _floor(event.arrival - column.delay - column.window, column.hop)
        for column in columns
    )


def _feature(column: Any, events: list[OracleEvent], at: int) -> Any:
    until = _floor(at - column.delay, column.hop) if column.delay else at
    inside = [
        e
        for e in events
        if e.time < until
        and (column.window is None or e.time >= _floor(at - column.delay - column.window, column.hop))
        and (column.where is None or e.fields[column.where] is True)
    ]
    if column.kind == "time_since":
        return (at - max(e.time for e in inside)) / 1e6 if inside else None
    if column.kind == "count" and column.expression is None:
        return len(inside)
    dated = [(e.time, _clean(e.fields[column.expression])) for e in inside]
    return _aggregate(column.kind, [(time, v) for time, v in dated if v is not None], column.dtype)


def _clean(value: Any) -> Any:
    if isinstance(value, float):
        return None if not math.isfinite(value) else value + 0.0
    return value


def _aggregate(kind: str, dated: list[tuple[int, Any]], dtype: str) -> Any:
    if kind == "count":
        return len(dated)
    if kind in ("first", "last"):
        order = [(time, v.encode() if dtype == "string" else v, v) for time, v in dated]
        return (min if kind == "first" else max)(order)[2] if order else None
    values = [v for _, v in dated]
    if kind in ("min", "max"):
        return {"min": min, "max": max}[kind](values) if values else None
    fixed = [round(Fraction(v) * 2**64) for v in values]
    count, total = len(fixed), sum(fixed)
    if kind == "sum":
        return total / 2**64
    if kind == "mean":
        return total / (count * 2**64) if count else None
    if count < 2:
        return None
    spread = (count * sum(x * x for x in fixed) - total * total) / 2**128
    variance = spread / (float(count) * float(count - 1))
    return math.sqrt(variance) if kind == "std" else variance
