"""How a feature is made of lanes: the lane groups that it needs, each shared by all that need the same, and its formula."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from millstream.definitions.decayed import DECAYED_KINDS
from millstream.fold import lanes
from millstream.fold.ordered import width_of

if TYPE_CHECKING:
    from millstream.definitions.windows import WindowedFeature

#: The formula of what decays, which has kernels of its own.
DECAYED = -1

_VECTORS = {"vector_sum": lanes.VECTOR_SUM, "vector_mean": lanes.VECTOR_MEAN}
_EXTREMES = {"min": lanes.LEAST, "max": lanes.GREATEST}
_DATED = {"first": lanes.LEAST, "last": lanes.GREATEST}
_CHOSEN = {"arg_min": lanes.LEAST, "arg_max": lanes.GREATEST}


@dataclass(frozen=True)
class Slot:
    """One lane group: what is lifted from an event, and how it merges.

    With `other`, an event counts only where that expression has a value too. `kinds` are the types of the expression and
    of the other one, where their values are kept as they are.
    """

    lift: str
    expression: str | None
    where: str | None
    op: int
    width: int
    offset: int = 0
    max_bytes: int = 0
    other: str | None = None
    kinds: tuple[str, ...] = ()
    half_life: int = 0
    bins: tuple[float, ...] = ()


@dataclass(frozen=True)
class LanePlan:
    """How a feature is made: its formula, the numbers it takes, and the lane groups it needs.

    A number is the place of a lane, or one of the definition's (what follows the places of a rate or a text).
    """

    formula: int
    numbers: tuple[int, ...]
    needs: tuple[int, ...]


class Slots:
    """The lane groups of a group of features, each shared by every feature that needs the same."""

    def __init__(self) -> None:
        self.all: list[Slot] = []

    def place(self, wanted: Slot) -> int:
        """The index of a lane group, which is added where there is none with the same facts.

        Strings of as many lanes are kept alike; what is too long for one feature is refused for all of the group.
        """
        for i, slot in enumerate(self.all):
            if replace(slot, offset=0, max_bytes=wanted.max_bytes) == wanted:
                self.all[i] = replace(slot, max_bytes=min(slot.max_bytes, wanted.max_bytes))
                return i
        last = self.all[-1] if self.all else None
        self.all.append(replace(wanted, offset=last.offset + last.width if last else 0))
        return len(self.all) - 1

    def plan(self, formula: int, *wanted: Slot, numbers: tuple[int, ...] = ()) -> LanePlan:
        """A feature that reads lane groups in the order of its formula, and then numbers of its definition."""
        needs = tuple(self.place(slot) for slot in wanted)
        return LanePlan(formula, (*(self.all[place].offset for place in needs), *numbers), needs)


def counted(column: WindowedFeature) -> Slot:
    """The lane group that counts the events of a feature: all of its filter, or those that have a value."""
    return _slot(column, "present" if column.expression else "rows", lanes.ADD, 1)


def lane_plan(column: WindowedFeature, slots: Slots) -> LanePlan:
    """How a feature that is made of lanes is made; what it needs is added to the lane groups."""
    kind, of = column.kind, partial(_slot, column)
    if kind == "count":
        return slots.plan(lanes.COUNT, counted(column))
    if kind == "time_since":
        return slots.plan(lanes.SINCE, of("time", lanes.GREATEST, 1))
    if kind == "age":
        return slots.plan(lanes.SINCE, of("time", lanes.LEAST, 1))
    if kind == "share":
        every = replace(of("rows", lanes.ADD, 1), where=None)
        return slots.plan(lanes.SHARE, every, of("rows", lanes.ADD, 1))
    if kind == "rate":
        numbers = (column.per, column.window or 1)
        shared = math.gcd(*numbers)
        rate = (numbers[0] // shared, numbers[1] // shared)
        return slots.plan(lanes.RATE, of("rows", lanes.ADD, 1), numbers=rate)
    if kind == "histogram":  # counts are never negative, so that they add as the limbs of one number would
        counts = replace(of("bins", lanes.ADD, column.k), bins=column.bins)
        return slots.plan(lanes.TEXT, counts, numbers=(column.k,))
    if kind in _VECTORS:
        return _vector(column, slots)
    if kind in _EXTREMES:
        return _extreme(column, slots)
    if kind in _DATED:
        return _dated(column, slots)
    if kind in _CHOSEN:
        return _chosen(column, slots)
    if kind in DECAYED_KINDS:
        return _decayed(column, slots)
    return _moments(column, slots)


def _vector(column: WindowedFeature, slots: Slots) -> LanePlan:
    """A count, and beside it a sum for each element, none of which is ever below 0; see `lift.lift_vectors`."""
    sums = _slot(column, "vector", lanes.ADD, 1 + 3 * column.k)
    return slots.plan(_VECTORS[column.kind], sums, numbers=(column.k,))


def _extreme(column: WindowedFeature, slots: Slots) -> LanePlan:
    op = _EXTREMES[column.kind]
    if column.dtype == "float64":
        plan = slots.plan(lanes.NUMBER, _slot(column, "extreme", op, 1))
        return replace(plan, numbers=plan.numbers * 2)
    return _kept(column, "kept", op, slots)


def _kept(column: WindowedFeature, lift: str, op: int, slots: Slots) -> LanePlan:
    """A value as it is, after a lane that says whether there is one."""
    width = 1 + width_of(column.dtype, column.max_bytes)
    return slots.plan(lanes.TEXT, _slot(column, lift, op, width), numbers=(width,))


def _chosen(column: WindowedFeature, slots: Slots) -> LanePlan:
    """A value after those that it is chosen by: another value, then its time."""
    before, width = width_of(column.by, column.max_bytes), 1 + width_of(column.dtype, column.max_bytes)
    plan = slots.plan(lanes.TEXT, _slot(column, "chosen", _CHOSEN[column.kind], before + width), numbers=(width,))
    return replace(plan, numbers=(plan.numbers[0] + before, width))


def _dated(column: WindowedFeature, slots: Slots) -> LanePlan:
    op = _DATED[column.kind]
    if column.dtype != "float64":
        return _kept(column, "text" if column.dtype == "string" else "kept_dated", op, slots)
    plan = slots.plan(lanes.NUMBER, _slot(column, "dated", op, 2))
    return replace(plan, numbers=(plan.numbers[0], plan.numbers[0] + 1))


def _decayed(column: WindowedFeature, slots: Slots) -> LanePlan:
    """The lane groups of a total and, for a mean, of what it is divided by."""
    total, count = (
        replace(_slot(column, lift, lanes.ADD, 3), half_life=column.hop or 0) for lift in ("decayed", "decayed_count")
    )
    wanted = {"decayed_sum": (total,), "decayed_count": (count,), "decayed_mean": (total, count)}
    return slots.plan(DECAYED, *wanted[column.kind])


def _moments(column: WindowedFeature, slots: Slots) -> LanePlan:
    of = partial(_slot, column)
    total, count, squares = of("sum", lanes.ADD, 3), of("present", lanes.ADD, 1), of("squares", lanes.ADD, 4)
    cubes, fourths = of("cubes", lanes.ADD, 6), of("fourths", lanes.ADD, 8)
    products = of("products", lanes.ADD, 4)
    other = [replace(slot, expression=slot.other, other=slot.expression) for slot in (total, squares)]
    others, squares_of_others = other
    wanted = {
        "sum": (lanes.SUM, total),
        "mean": (lanes.MEAN, total, count),
        "var": (lanes.VAR, total, count, squares),
        "std": (lanes.STD, total, count, squares),
        "skewness": (lanes.SKEWNESS, count, total, squares, cubes),
        "kurtosis": (lanes.KURTOSIS, count, total, squares, cubes, fourths),
        "covariance": (lanes.COVARIANCE, count, total, others, products),
        "correlation": (lanes.CORRELATION, count, total, others, products, squares, squares_of_others),
        "geometric_mean": (lanes.GEOMETRIC, of("positive", lanes.ADD, 1), of("not_positive", lanes.ADD, 1),
                           of("logarithms", lanes.ADD, 3)),
    }  # fmt: skip
    formula, *needed = wanted[column.kind]
    return slots.plan(formula, *needed)  # type: ignore[arg-type]


def _slot(column: WindowedFeature, lift: str, op: int, width: int) -> Slot:
    """The lane group of a column's own expression and filter."""
    if lift in ("rows", "time"):
        return Slot(lift, None, column.where, op, width)
    keeps = lift in ("text", "kept", "kept_dated", "chosen")
    kinds = (column.dtype, column.by)[: 2 if column.by else 1] if keeps and lift != "text" else ()
    return Slot(
        lift, column.expression, column.where, op, width, max_bytes=column.max_bytes if keeps else 0,
        other=column.other, kinds=kinds,
    )  # fmt: skip
