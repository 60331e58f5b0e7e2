"""The bags of a group as plain arrays: which entries its features remember, and what each feature makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from millstream.fold import emitting, entries, lanes
from millstream.fold.fixed_point import sortable
from millstream.fold.ordered import width_of

if TYPE_CHECKING:
    from millstream.definitions.windows import WindowedFeature

#: Up to how many different values in a window are told apart exactly by a count of them.
DISTINCT_EXACT = 256
#: Up to how many values in a window give an exact quantile.
QUANTILE_EXACT = 64
#: How many registers, or buckets of a span of values that payments have, a worst case is reckoned with.
_ESTIMATED_LANES = {entries.DISTINCT: entries.GROWTH, entries.SPREAD: 2 * 1_024}
_SEVERAL = (entries.FOREMOST, entries.NEWEST)


@dataclass(frozen=True)
class Part:
    """Some lanes of an entry's key: the event's time, or a value in a form whose lanes ascend as the values do.

    `form` is "time", "value" or "hash"; `inverted` lanes descend.
    """

    form: str
    width: int = 1
    inverted: bool = False


@dataclass(frozen=True)
class Bag:
    """What is remembered of one expression: the rule and bound of a bag, the key of an entry, and what merges beside it.

    `kind` is the type of the expression's values.
    The payload is a count of events, or (`dated`) the time of the newest one.
    """

    rule: int
    bound: int
    key: tuple[Part, ...]
    expression: str
    kind: str
    where: str | None
    counted: bool = True
    dated: bool = False
    max_bytes: int = 0

    @property
    def key_lanes(self) -> int:
        """How many lanes tell entries apart."""
        return sum(part.width for part in self.key)

    @property
    def width(self) -> int:
        """How many lanes an entry has."""
        return self.key_lanes + self.counted + self.dated

    @property
    def most_lanes(self) -> int:
        """How many lanes the bag of one tile takes at most."""
        exact = 1 + self.bound * self.width
        return max(exact, _ESTIMATED_LANES.get(self.rule, 0))


@dataclass(frozen=True)
class Listed:
    """A column whose values come from the heap: elements of a type, of some lanes each; `lone` takes the first one."""

    name: str
    kind: str
    width: int
    lone: bool


@dataclass(frozen=True, eq=False)
class EntryLayout:
    """The arrays by which the kernels over entries know the bags of a group.

    Attributes:
        bags: the bags, in the order in which they follow each other in a state.
        rows: one row per bag; see `fold.entries` for its columns.
        payloads: (op, offset in the entry, width) of what merges of an entry.
        features: (bag, window, formula, output, four numbers) by bag and window.
        inner: lane features that maps are made of.
        lists: the columns that come from the heap, by output.
        width: how many lanes an event's entries take.
    """

    bags: tuple[Bag, ...]
    rows: np.ndarray
    payloads: np.ndarray
    features: np.ndarray
    inner: np.ndarray
    lists: tuple[Listed, ...]
    width: int


def entry_layout(columns: Sequence[WindowedFeature], windows: Callable[[WindowedFeature], int]) -> EntryLayout | None:
    """Return the bags of those columns that need any, or None; `windows` says the number of a column's window."""
    made = _Bags()
    rows: list[tuple[int, ...]] = []
    lists: list[Listed] = []
    for place, column in enumerate(columns):
        plan = _PLANS.get(column.kind)
        if plan is None:
            continue
        bag, formula, numbers, listed = plan(column)
        out = place
        if listed:
            out = len(lists)
            lists.append(listed)
        rows.append((made.place(bag), windows(column), formula, out, *numbers, *[0] * (4 - len(numbers))))
    if not rows:
        return None
    rows.sort(key=lambda row: row[:2])
    bags = tuple(made.all)
    table, payloads, width = _tables(bags)
    return EntryLayout(bags, table, payloads, np.array(rows, np.int64), np.empty((0, 9), np.int64), tuple(lists), width)


class _Bags:
    """The bags of a group, each shared by every feature that finds in it what it needs."""

    def __init__(self) -> None:
        self.all: list[Bag] = []

    def place(self, wanted: Bag) -> int:
        """The index of a bag, which is added where there is none like it; one of several first entries has room for more."""
        for i, bag in enumerate(self.all):
            several = wanted.rule in _SEVERAL
            if replace(bag, bound=wanted.bound) == wanted if several else bag == wanted:
                self.all[i] = replace(bag, bound=max(bag.bound, wanted.bound))
                return i
        self.all.append(wanted)
        return len(self.all) - 1


def _tables(bags: Sequence[Bag]) -> tuple[np.ndarray, np.ndarray, int]:
    """The rows of the bags, those of their payloads, and how many lanes an event's entries take."""
    table: list[tuple[int, ...]] = []
    payloads: list[tuple[int, int, int]] = []
    at = 0
    for bag in bags:
        begin, offset = len(payloads), bag.key_lanes
        if bag.counted:
            payloads.append((lanes.ADD, offset, 1))
        if bag.dated:
            payloads.append((lanes.GREATEST, offset + bag.counted, 1))
        table.append((bag.rule, bag.key_lanes, bag.width, bag.bound, at, begin, len(payloads)))
        at += 1 + bag.width
    return np.array(table, np.int64).reshape(-1, 7), np.array(payloads, np.int64).reshape(-1, 3), at


_Plan = tuple[Bag, int, tuple[int, ...], Listed | None]


def _value(column: WindowedFeature, inverted: bool = False) -> Part:
    return Part("value", width_of(column.of, column.max_bytes), inverted)


def _listed(column: WindowedFeature, lone: bool = False) -> Listed:
    return Listed(column.name, column.of, width_of(column.of, column.max_bytes), lone)


def _bag(column: WindowedFeature, rule: int, bound: int, *key: Part, **payload: bool) -> Bag:
    kind = "float64" if rule == entries.SPREAD else column.of
    max_bytes = column.max_bytes if any(part.form == "value" for part in key) else 0
    return Bag(rule, bound, key, column.expression or "", kind, column.where, max_bytes=max_bytes, **payload)


def _distinct_count(column: WindowedFeature) -> _Plan:
    bag = _bag(column, entries.DISTINCT, DISTINCT_EXACT, Part("hash"), counted=False)
    return bag, emitting.DISTINCT_COUNT, (), None


def _quantile(column: WindowedFeature) -> _Plan:
    bag = _bag(column, entries.SPREAD, QUANTILE_EXACT, Part("value"))
    return bag, emitting.QUANTILE, (int(sortable(column.share)),), None


def _categories(column: WindowedFeature) -> Bag:
    return _bag(column, entries.BOUNDED, column.bound, _value(column))


def _entropy(column: WindowedFeature) -> _Plan:
    return _categories(column), emitting.ENTROPY, (), None


def _most(column: WindowedFeature) -> _Plan:
    value = _value(column)
    return _categories(column), emitting.MOST, (column.k, 0, value.width), _listed(column, column.kind == "mode")


def _dated(column: WindowedFeature) -> _Plan:
    """The first or last rows by time, then value; or one of them."""
    newest = column.kind != "first_k"
    value, lone = _value(column, newest), column.kind == "lag"
    bag = _bag(column, entries.FOREMOST, column.k, Part("time", 1, newest), value)
    formula = emitting.NTH_ROW if lone else emitting.FOREMOST_ROWS
    return bag, formula, (column.k, 1, value.width, int(newest)), _listed(column, lone)


def _extremes(column: WindowedFeature) -> _Plan:
    greatest = column.kind == "max_k"
    value = _value(column, greatest)
    bag = _bag(column, entries.FOREMOST, column.k, value)
    return bag, emitting.FOREMOST_ROWS, (column.k, 0, value.width, int(greatest)), _listed(column)


def _recent(column: WindowedFeature) -> _Plan:
    value = _value(column)
    bag = _bag(column, entries.NEWEST, column.k, value, counted=False, dated=True)
    return bag, emitting.RECENT, (column.k, 0, value.width), _listed(column)


_PLANS: Mapping[str, Callable[[WindowedFeature], _Plan]] = {
    "distinct_count": _distinct_count, "quantile": _quantile, "median": _quantile, "entropy": _entropy,
    "top_k": _most, "mode": _most, "first_k": _dated, "last_k": _dated, "lag": _dated, "max_k": _extremes,
    "min_k": _extremes, "last_distinct_k": _recent,
}  # fmt: skip
#: The kinds of features that are made of entries, not of lanes.
KINDS = frozenset(_PLANS)
