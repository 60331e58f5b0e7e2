"""The bags of a group as plain arrays: which entries its features remember, and what each feature makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from millstream.definitions.windows import PROBED
from millstream.fold import emitting, entries, lanes
from millstream.fold.fixed_point import sortable
from millstream.fold.lane_plans import Slot, Slots, counted, lane_plan
from millstream.fold.ordered import width_of

if TYPE_CHECKING:
    from millstream.definitions.windows import WindowedFeature

#: Up to how many different values in a window are told apart exactly by a count of them.
DISTINCT_EXACT = 256
#: Up to how many values in a window give an exact quantile.
QUANTILE_EXACT = 64
#: How many registers, or buckets of a span of values that payments have, a worst case is reckoned with.
_ESTIMATED_LANES = {entries.DISTINCT: entries.GROWTH, entries.SPREAD: 2 * 1_024}


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

    `kind` is the type of the expression's values. With `counted` an entry counts the events that have its key, or has the
    time of the newest of them, as its rule says. With `other`, an event has an entry only where that expression has a value
    too. `payload` is what else is kept of the events of a key: lane groups, whose offsets count from the key's end. A value
    of several `fields`, expressions with their types, is each of them in turn, after a lane that says whether it is there.
    """

    rule: int
    bound: int
    key: tuple[Part, ...]
    expression: str
    kind: str
    where: str | None
    counted: bool = True
    max_bytes: int = 0
    other: str | None = None
    payload: tuple[Slot, ...] = ()
    fields: tuple[tuple[str, str], ...] = ()

    @property
    def read(self) -> tuple[tuple[str, str], ...]:
        """The expressions, with their types, that a value is made of."""
        return self.fields or ((self.expression, self.kind),)

    @property
    def key_lanes(self) -> int:
        """How many lanes tell entries apart."""
        return sum(part.width for part in self.key)

    @property
    def groups(self) -> tuple[tuple[int, int], ...]:
        """The merge and the width of each lane group beside the key."""
        own = ((lanes.GREATEST if self.rule == entries.NEWEST else lanes.ADD, 1),) if self.counted else ()
        return (*own, *((slot.op, slot.width) for slot in self.payload))

    @property
    def width(self) -> int:
        """How many lanes an entry has."""
        return self.key_lanes + sum(width for _, width in self.groups)

    @property
    def most_lanes(self) -> int:
        """How many lanes the bag of one tile takes at most."""
        exact = 1 + self.bound * self.width
        return max(exact, _ESTIMATED_LANES.get(self.rule, 0))


@dataclass(frozen=True, eq=False)
class EntryLayout:
    """The arrays by which the kernels over entries know the bags of a group.

    Attributes:
        bags: the bags, in the order in which they follow each other in a state.
        rows: one row per bag; see `fold.entries` for its columns.
        features: a row per feature, by bag and window: those two, then what `fold.emitting` says.
        width: how many lanes an event's entries take.
        references: the lanes of the output that say where a list begins.
    """

    bags: tuple[Bag, ...]
    rows: np.ndarray
    features: np.ndarray
    width: int
    references: tuple[int, ...]


def entry_layout(
    columns: Sequence[WindowedFeature],
    windows: Callable[[WindowedFeature], int],
    places: Sequence[int],
    lookups: Sequence[tuple[str, str]],
) -> EntryLayout | None:
    """Return the bags of those columns that need any, or None.

    Args:
        columns: the columns of the group, or of a section.
        windows: says the number of a column's window.
        places: where each column begins in the output.
        lookups: what requests are looked up by, two lanes of `Probes.lanes` each: the field of the request, and the
            type of the values.
    """
    made = _Bags()
    rows: list[tuple[int, ...]] = []
    for column, place in zip(columns, places, strict=True):
        if column.kind in KINDS:
            bag, (formula, *numbers) = _PLANS[column.kind](column)
            numbers = [2 * lookups.index(lookup_of(column))] if column.request else numbers
            row = (made.place(bag), windows(column), formula, place, *numbers)
            rows.append(row + (0,) * (emitting.COLUMNS - len(row)))
    if not rows:
        return None
    rows.sort(key=lambda row: row[:2])
    bags = tuple(made.all)
    inputs = np.cumsum([0, *(1 + bag.width for bag in bags)])
    table = [row_of(bag, int(at)) for bag, at in zip(bags, inputs, strict=False)]
    references = tuple(place for column, place in zip(columns, places, strict=True) if column.kind in LISTS)
    return EntryLayout(bags, np.array(table, np.int64), np.array(rows, np.int64), int(inputs[-1]), references)


def row_of(bag: Bag, at: int) -> np.ndarray:
    """A bag as the kernels know it, whose events' entries begin at a lane; see `fold.entries` for the columns."""
    groups = [number for group in bag.groups for number in group]
    row = [bag.rule, bag.key_lanes, bag.width, bag.bound, at, len(bag.groups), *groups]
    return np.array(row + [0] * (entries.COLUMNS - len(row)), np.int64)


def lookup_of(column: WindowedFeature) -> tuple[str, str]:
    """The field of a request that a column looks up, and the type of the values that it is looked up among."""
    return column.request or "", column.of


def value_width(column: WindowedFeature) -> int:
    """How many lanes of output a column takes that is given out as lanes, or 0.

    A value takes one more, which says whether there is any; a list takes the one that refers to it.
    """
    if column.kind in LISTS:
        return 1
    return 1 + width_of(column.of, column.max_bytes) if column.kind in ("lag", "mode") else 0


def element_widths(column: WindowedFeature) -> tuple[int, ...]:
    """How many lanes an element of a column of lists has, or each of its fields, which follows one that says if it is there."""
    if column.kind not in LISTS:
        return ()
    if column.each is not None:
        return width_of(column.of, column.max_bytes), width_of(column.each.dtype, column.each.max_bytes)
    kinds = [kind for _, kind in column.fields] or [column.of]
    return tuple(width_of(kind, column.max_bytes) for kind in kinds)


def _value(column: WindowedFeature, *, inverted: bool = False) -> Part:
    """The lanes of a value, or of all fields of one."""
    if not column.fields:
        return Part("value", width_of(column.of, column.max_bytes), inverted)
    widths = element_widths(column)
    return Part("value", sum(widths) + len(widths), inverted)


#: The rules of which a bag with a greater bound holds what one with a smaller one does.
_AS_MANY = (entries.FOREMOST, entries.NEWEST)


class _Bags:
    """The bags of a group, each shared by every feature that finds in it what it needs."""

    def __init__(self) -> None:
        self.all: list[Bag] = []

    def place(self, wanted: Bag) -> int:
        """The index of a bag, which is added where there is none like it; one of the first entries has room for more."""
        for i, bag in enumerate(self.all):
            if bag == wanted or (wanted.rule in _AS_MANY and replace(bag, bound=wanted.bound) == wanted):
                self.all[i] = replace(bag, bound=max(bag.bound, wanted.bound))
                return i
            if _but_for_its_payload(bag, wanted):
                self.all[i] = bag if bag.payload else wanted
                return i
        self.all.append(wanted)
        return len(self.all) - 1


def _but_for_its_payload(bag: Bag, wanted: Bag) -> bool:
    """Whether one of two bags of what is looked up has all that the other has, and a payload beside it."""
    hashed = bag.rule == entries.BOUNDED and bag.key[0].form == "hash"
    return hashed and not (bag.payload and wanted.payload) and replace(bag, payload=()) == replace(wanted, payload=())


#: A bag, and what stands in a row of `features` from its formula on, without its output.
_Plan = tuple[Bag, tuple[int, ...]]


def _bag(column: WindowedFeature, rule: int, bound: int, *key: Part, counted: bool = True) -> Bag:
    kind = "float64" if rule == entries.SPREAD else column.of
    max_bytes = column.max_bytes if any(part.form == "value" for part in key) else 0
    return Bag(rule, bound, key, column.expression or "", kind, column.where, counted, max_bytes, fields=column.fields)


def _distinct_count(column: WindowedFeature) -> _Plan:
    return _bag(column, entries.DISTINCT, DISTINCT_EXACT, Part("hash"), counted=False), (emitting.DISTINCT_COUNT, 0)


def _quantile(column: WindowedFeature) -> _Plan:
    bag = _bag(column, entries.SPREAD, QUANTILE_EXACT, Part("value"))
    return bag, (emitting.QUANTILE, int(sortable(column.share)))


def _categories(column: WindowedFeature) -> _Plan:
    bag = _bag(column, entries.BOUNDED, column.bound, _value(column))
    return bag, (emitting.ENTROPY if column.kind == "entropy" else emitting.MODE, 0)


def _lag(column: WindowedFeature) -> _Plan:
    value = _value(column, inverted=True)
    return _bag(column, entries.FOREMOST, column.k, Part("time", inverted=True), value), (emitting.LAG, column.k)


def _last(column: WindowedFeature) -> _Plan:
    bag, (_, k) = _lag(column)
    return bag, (emitting.ROWS, k, 1, bag.key_lanes - 1, 1)


def _first(column: WindowedFeature) -> _Plan:
    value = _value(column)
    return _bag(column, entries.FOREMOST, column.k, Part("time"), value), (emitting.ROWS, column.k, 1, value.width, 0)


def _edge(column: WindowedFeature) -> _Plan:
    """The greatest values, or the least."""
    value = _value(column, inverted=column.kind == "max_k")
    bag = _bag(column, entries.FOREMOST, column.k, value)
    return bag, (emitting.ROWS, column.k, 0, value.width, int(value.inverted))


def _latest(column: WindowedFeature) -> _Plan:
    """The different values that were seen last."""
    value = _value(column)
    return _bag(column, entries.NEWEST, column.k, value), (emitting.RECENT, column.k, 0, value.width, 0)


def _probe(column: WindowedFeature) -> _Plan:
    """What is looked up, by the same 64 bits whatever its type and length."""
    bag = _bag(column, entries.BOUNDED, column.bound, Part("hash"))
    if column.kind == "since_seen":
        newest = Slot("time", None, column.where, lanes.GREATEST, 1, 1)
        return replace(bag, payload=(newest,)), (emitting.SINCE,)
    if column.kind == "sum_of":
        total = Slot("sum", column.other, column.where, lanes.ADD, 3, 1, other=column.expression)
        return replace(bag, other=column.other, payload=(total,)), (emitting.SUMMED,)
    return bag, (emitting.SEEN if column.kind == "seen" else emitting.COUNTED,)


def _top(column: WindowedFeature) -> _Plan:
    bag = _categories(column)[0]
    return bag, (emitting.MOST, column.k, 0, bag.key_lanes, 0)


def _mapped(column: WindowedFeature) -> _Plan:
    """What each category's events come to: lanes that follow those of the category, of which the first counts them."""
    each, slots, value = column.each, Slots(), _value(column)
    assert each is not None
    slots.place(counted(each))
    plan = lane_plan(each, slots)
    bag = _bag(column, entries.BOUNDED, column.bound, value)
    bag = replace(bag, other=each.expression, payload=tuple(slots.all[1:]))
    numbers = (*plan.numbers, *[0] * (emitting.INNER_NUMBERS - len(plan.numbers)))
    width = element_widths(column)[1]
    return bag, (emitting.MAPPED, column.k, 0, value.width, 0, width, plan.formula, 0, *numbers, 0)


_PLANS: Mapping[str, Callable[[WindowedFeature], _Plan]] = {
    "distinct_count": _distinct_count, "quantile": _quantile, "median": _quantile, "entropy": _categories,
    "mode": _categories, "lag": _lag, "last_k": _last, "first_k": _first, "max_k": _edge, "min_k": _edge,
    "top_k": _top, "last_distinct_k": _latest, **dict.fromkeys(("by", "count_by", "sum_by"), _mapped),
    **dict.fromkeys(PROBED, _probe),
}  # fmt: skip
#: Those of them whose columns are lists, or maps.
LISTS = frozenset({"by", "count_by", "sum_by", "first_k", "last_distinct_k", "last_k", "max_k", "min_k", "top_k"})
#: The kinds of features that are made of entries, not of lanes.
KINDS = frozenset(_PLANS)
