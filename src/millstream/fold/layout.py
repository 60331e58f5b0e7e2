"""Layout: a feature group as plain arrays, which is all that the kernels know of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from millstream.definitions.windows import folded
from millstream.fold import lanes
from millstream.fold.decay_layout import DecayLayout, decay_layout
from millstream.fold.entry_layout import KINDS, EntryLayout, element_widths, entry_layout, lookup_of, value_width
from millstream.fold.lane_plans import (
    DECAYED,
    LanePlan,
    Slot,
    Slots,
    lane_plan,
)

if TYPE_CHECKING:
    from millstream.definitions import BatchFeatureGroup, StreamFeatureGroup
    from millstream.definitions.windows import WindowedFeature

#: The version of the state format; a state of another version is refused, never guessed at.
STATE_VERSION = 1
#: Reads are exact from this long before a key's newest arrival (µs).
HEAD_SPAN = 5_000_000
#: How many distinct instants of that span a state keeps apart.
HEAD_CAPACITY = 64
#: By how much (µs) an arrival may be ahead of the clock that it is held to: that of another machine.
AHEAD = 300_000_000
#: int64 numbers before the rows of a state: version, newest arrival, tiles, instants.
HEADER = 4
#: How many places of lanes, or other numbers, a formula takes at most.
_NUMBERS = 6
_DAY = 86_400_000_000
#: Where the tile that holds everything older than the longest window starts.
LIFETIME = -(2**62)


#: The columns of a section's rule: the gap of its sessions (0: it has windows of events); the rows, and the time, that its
#: windows hold at most (-1: no bound), and by which step that moves.
RULE_GAP, RULE_ROWS, RULE_WITHIN, RULE_HOP = range(4)


@dataclass(frozen=True)
class Combination:
    """A column that is worked out of two that the kernels give, by their names, and of a field of the request."""

    column: str
    kind: str
    a: str
    b: str
    request: str | None


@dataclass(frozen=True, eq=False)
class FoldLayout:
    """The arrays by which the kernels fold some features: lane groups, windows, features and tile levels.

    `windows` are rows as `spans` knows them, by `window_ops` the lane groups that each needs; `features` are rows of a
    formula, its window, six numbers of its plan and its output place. `meta` says how many lanes there are, whether what
    is older than the longest window is kept, and how many numbers and lanes are given out by all features of the group.
    """

    slots: tuple[Slot, ...]
    ops: np.ndarray
    windows: np.ndarray
    window_ops: np.ndarray
    features: np.ndarray
    levels: np.ndarray
    meta: np.ndarray
    entries: EntryLayout | None

    @property
    def n_lanes(self) -> int:
        """How many int64 lanes one tile, or one stretch, has."""
        return int(self.meta[0])


@dataclass(frozen=True, eq=False)
class Section(FoldLayout):
    """How the features of row windows, or of the sessions of one kind, are folded; see `stretches`.

    `rule` is the rule of the section; `late` (µs) is how long after it happened a row of a session may arrive.
    """

    rule: np.ndarray
    late: int


@dataclass(frozen=True, eq=False)
class Layout(FoldLayout):
    """How a group is folded: its features over windows of time, and in `sections` those over others.

    `columns` are the group's; `outputs` what the kernels give, in the order of their places: those of the columns that
    are folded, then what `combinations` are worked out of. `probes` are the fields of a request that these read; `lookups`
    are those that are looked up among entries, each with the type of the values.
    `text_widths` are the numbers of lanes of the columns that are given out as lanes, which the kernels call texts;
    `inverted` says for each such column, by name, whether the bits of its value are inverted. Of those of them that are
    lists, `listed` says how many lanes an element has, or each of its fields.
    """

    columns: tuple[str, ...]
    dtypes: tuple[str, ...]
    outputs: tuple[tuple[str, str], ...]
    combinations: tuple[Combination, ...]
    probes: tuple[str, ...]
    lookups: tuple[tuple[str, str], ...]
    text_widths: tuple[int, ...]
    inverted: Mapping[str, bool]
    listed: Mapping[str, tuple[int, ...]]
    sections: tuple[Section, ...]
    decay: DecayLayout | None = None

    @property
    def fields_read(self) -> tuple[str, ...]:
        """The fields of a request that its features read."""
        return (*self.probes, *(name for name, _ in self.lookups))

    @cached_property
    def lettered(self) -> Mapping[str, tuple[str, int, int]]:
        """The outputs that are given out as lanes, by name: their type, and from which lane on, up to but not which."""
        ends = list(accumulate(self.text_widths, initial=0))
        given = [output for output in self.outputs if output[0] in self.inverted]
        return {name: (dtype, *lanes) for (name, dtype), lanes in zip(given, pairwise(ends), strict=True)}

    @property
    def beside_lanes(self) -> bool:
        """Whether some features are made by other kernels than those of lanes over windows of time."""
        return bool(self.entries or self.decay or self.sections)

    @property
    def runs_out(self) -> bool:
        """Whether a state has nothing left to read once its events are old enough, whatever other keys wait for.

        That of a session may: what arrived before and is still to be applied can join it to a newer one.
        """
        bounded = all(section.rule[RULE_WITHIN] >= 0 and not section.rule[RULE_GAP] for section in self.sections)
        return bounded and not self.meta[1]

    @property
    def references(self) -> tuple[int, ...]:
        """The lanes of the output that say where a list begins."""
        parts: tuple[FoldLayout, ...] = (self, *self.sections)
        return tuple(place for part in parts if part.entries for place in part.entries.references)

    @property
    def state_bytes_max(self) -> int:
        """The worst-case bytes of one key's state: every tile of every level and a full head, all bags as large as may be.

        Of sessions, whose rows have no bound, those of a day that all lie apart are reckoned with.
        """
        rows = HEAD_CAPACITY + (1 if self.meta[1] else 0) + sum(tiles for _, tiles in self._tiles())
        lanes = HEADER + rows * (1 + self.n_lanes + _most_in_bags(self))
        for section in self.sections:
            kept = HEAD_CAPACITY + (
                int(section.rule[RULE_ROWS]) or (section.late + _DAY) // int(section.rule[RULE_GAP])
            )
            lanes += 3 + kept * (3 + section.n_lanes + _most_in_bags(section))
        return 8 * lanes

    def state_bytes_at(self, per_day: float) -> int:
        """About the bytes of one key's state at a rate of events a day that come by chance: of the tiles that hold any.

        A tile of hop h is empty with the chance exp(-rate * h), the Poisson distribution's; the newest event is apart.
        """
        occupied = sum(tiles * -math.expm1(-per_day * hop / _DAY) for hop, tiles in self._tiles())
        rows = 1 + (1 if self.meta[1] else 0) + occupied
        lanes = HEADER + rows * (1 + self.n_lanes)
        if self.entries:
            longest = max((span for _, span in self.levels.tolist()), default=_DAY)
            kept = per_day * longest / _DAY
            lanes += sum(rows + min(kept, rows * bag.bound) * bag.width for bag in self.entries.bags)
        for section in self.sections:
            most, within = int(section.rule[RULE_ROWS]), int(section.rule[RULE_WITHIN])
            kept = min(most, per_day * within / _DAY if within > 0 else most) if most else 1.0
            bags = sum(1 + bag.width for bag in section.entries.bags) if section.entries else 0
            lanes += 3 + kept * (3 + section.n_lanes + bags)
        return round(8 * lanes)

    def _tiles(self) -> Iterator[tuple[int, int]]:
        """For each level its hop (µs) and how many tiles of it a state may hold."""
        before = 0
        for i, (hop, span) in enumerate(self.levels.tolist()):
            coarser = self.levels[i + 1, 0] if i + 1 < len(self.levels) else hop
            yield hop, int((span - before + coarser + HEAD_SPAN) // hop) + 2
            before = span

    def too_late(self, times: np.ndarray, arrivals: np.ndarray) -> np.ndarray:
        """Which events (µs) are too late for every window, by their arrivals alone; most often none can be."""
        if not len(times) or int((arrivals - times).max()) <= self._longest:
            return np.zeros(len(times), bool)
        return np.asarray(times < self._too_late_before(arrivals))

    @property
    def _longest(self) -> float:
        """How long (µs) after it happened an event may arrive, whenever that was, so that a window holds it."""
        delays: list[float] = [section.late for section in self.sections if section.rule[RULE_GAP] > 0]
        for windows in (self.windows, *(section.windows for section in self.sections)):
            for width, _, delay, _, _, gap in windows.tolist():
                if gap == 0:
                    delays.append(math.inf if width < 0 else delay + width)
        return max(delays, default=math.inf)

    def _too_late_before(self, arrivals: np.ndarray) -> np.ndarray:
        """Per event, the event time (µs) below which it is too late for every window."""
        never = np.full(len(arrivals), np.iinfo(np.int64).min)
        edges = []
        for windows in (self.windows, *(section.windows for section in self.sections)):
            for width, hop, delay, _, _, gap in windows.tolist():
                if gap == 0:
                    edges.append(never if width < 0 else (arrivals - delay - width) // hop * hop)
        edges += [arrivals - section.late for section in self.sections if section.rule[RULE_GAP] > 0]
        return np.asarray(np.min(edges, axis=0))


def _most_in_bags(part: FoldLayout) -> int:
    return sum(bag.most_lanes for bag in part.entries.bags) if part.entries else 0


def layout_of(group: StreamFeatureGroup | BatchFeatureGroup) -> Layout:
    """The layout of a group's windowed features, built once per distinct list of features."""
    return _layout(tuple(group.columns))


@lru_cache(maxsize=512)
def _layout(published: tuple[WindowedFeature, ...]) -> Layout:
    columns, combinations = _outputs(published)
    kinds = dict.fromkeys(map(_section_key, columns))
    slots = {kind: Slots() for kind in (_OF_TIME, *kinds)}
    plans = [None if one.kind in KINDS else lane_plan(one, slots[_section_key(one)]) for one in columns]
    places, texts = _places(columns, plans)
    planned = list(zip(columns, plans, places, strict=True))
    lookups = tuple(dict.fromkeys(lookup_of(column) for column in columns if column.request))
    parts = {
        kind: _fold_layout(
            [one for one in planned if _section_key(one[0]) == kind], found.all, len(columns), sum(texts), lookups
        )
        for kind, found in slots.items()
    }
    of_time = [one for one in planned if _section_key(one[0]) == _OF_TIME]
    return Layout(
        **parts.pop(_OF_TIME), columns=tuple(c.name for c in published), dtypes=tuple(c.dtype for c in published),
        outputs=tuple((c.name, c.dtype) for c in columns), combinations=combinations,
        probes=tuple(dict.fromkeys(one.request for one in combinations if one.request is not None)), lookups=lookups,
        text_widths=tuple(texts), inverted=_inverted(columns, plans),
        listed={c.name: widths for c in columns if (widths := element_widths(c))},
        sections=tuple(
            Section(**part, rule=_rule([one for one in columns if _section_key(one) == kind]), late=kind[2])
            for kind, part in parts.items()
        ),
        decay=decay_layout(of_time, sum(slot.width for slot in slots[_OF_TIME].all)),
    )  # fmt: skip


#: Which section a column belongs to: whether its windows are of rows, the gap of its sessions, and how late their rows are.
_OF_TIME = (False, 0, 0)


def _section_key(column: WindowedFeature) -> tuple[bool, int, int]:
    return column.rows > 0, column.gap, column.late


_Planned = tuple["WindowedFeature", "LanePlan | None", int]


def _fold_layout(
    planned: Sequence[_Planned],
    slots: Sequence[Slot],
    numbers: int,
    texts: int,
    lookups: Sequence[tuple[str, str]],
) -> dict[str, Any]:
    """What a `FoldLayout` is made of for some columns with their plans and places, and their lane groups."""
    columns = [column for column, _, _ in planned]
    windows, order = _windows(columns)
    used = np.zeros((len(windows), len(slots)), np.int64)
    for column, plan, _ in planned:
        if plan and plan.formula != DECAYED:
            used[order[_window_key(column)], plan.needs] = 1
    lifetime = any(column.window is None for column in columns)
    return {
        "slots": tuple(slots), "windows": windows, "window_ops": used, "levels": _levels(columns),
        "ops": np.array([(slot.op, slot.offset, slot.width) for slot in slots], np.int64).reshape(-1, 3),
        "features": _features(planned, order),
        "meta": np.array([sum(slot.width for slot in slots), int(lifetime), numbers, texts], np.int64),
        "entries": entry_layout(
            columns, lambda column: order[_window_key(column)], [place for _, _, place in planned], lookups
        ),
    }  # fmt: skip


def _rule(columns: Sequence[WindowedFeature]) -> np.ndarray:
    """The gap of a section's sessions; how many rows, and how long ago, its windows hold at most, moving by the longest hop."""
    within = [column.window for column in columns]
    longest = -1 if None in within else max(one for one in within if one is not None)
    hop = max(column.hop or 1 for column in columns)
    return np.array([columns[0].gap, max(column.rows for column in columns), longest, hop], np.int64)


def _outputs(
    published: tuple[WindowedFeature, ...],
) -> tuple[tuple[WindowedFeature, ...], tuple[Combination, ...]]:
    """What the kernels give: the columns that are folded, and what else others are worked out of, each once."""
    outputs = [column for column in published if not column.parts]
    known = {replace(column, name=""): column.name for column in reversed(outputs)}
    for part in folded(column for column in published if column.parts):
        if known.setdefault(replace(part, name=""), part.name) == part.name:
            outputs.append(part)
    combinations = tuple(
        Combination(
            column.name,
            column.kind,
            known[replace(column.parts[0], name="")],
            known[replace(column.parts[1], name="")],
            column.request,
        )
        for column in published
        if column.parts
    )
    return tuple(outputs), combinations


_Window = tuple[int, int, int, int, int]


def _window_key(column: WindowedFeature) -> _Window:
    hop = column.hop or 1
    return (-1 if column.window is None else column.window, hop, column.delay, column.rows, column.gap)


def _windows(columns: Sequence[WindowedFeature]) -> tuple[np.ndarray, dict[_Window, int]]:
    """Distinct windows as rows (width, hop, delay, class, rows, gap), nested within a class, and where each went.

    The windows of one class end at the same instant, and each contains the one before it. So a read adds every tile to
    one window only, and then each window to the next.
    """
    distinct = sorted({_window_key(c) for c in columns}, key=lambda w: (w[0] < 0, w[0], w[1], w[3]))
    classes: list[list[_Window]] = []
    for window in distinct:
        for nest in classes:
            same_end = nest[-1][2] == window[2] and (window[2] == 0 or nest[-1][1] == window[1])
            if same_end and (window[0] < 0 or window[1] % nest[-1][1] == 0):
                nest.append(window)
                break
        else:
            classes.append([window])
    every = [(window, number) for number, nest in enumerate(classes) for window in nest]
    rows = [(*window[:3], number, *window[3:]) for window, number in every]
    return np.array(rows, np.int64).reshape(-1, 6), {window: i for i, (window, _) in enumerate(every)}


def _places(columns: Sequence[WindowedFeature], plans: Sequence[LanePlan | None]) -> tuple[list[int], list[int]]:
    """Where each column begins in the numbers, or in the lanes, that are given out; widths of those that are lanes."""
    places: list[int] = []
    texts: list[int] = []
    for place, (column, plan) in enumerate(zip(columns, plans, strict=True)):
        width = _lanes_out(column, plan)
        places.append(sum(texts) if width else place)
        texts += [width] if width else []
    return places, texts


def _lanes_out(column: WindowedFeature, plan: LanePlan | None) -> int:
    """How many lanes a column is given out as, 0 for a number."""
    if plan is None:
        return value_width(column)
    return plan.numbers[1] if plan.formula in (lanes.TEXT, lanes.VECTOR_SUM, lanes.VECTOR_MEAN) else 0


def _features(planned: Sequence[_Planned], order: Mapping[_Window, int]) -> np.ndarray:
    """Feature rows (formula, window, six numbers of the plan, output place) of what lanes give, by window."""
    rows: list[tuple[int, ...]] = []
    for column, plan, out in planned:
        if plan is None or plan.formula == DECAYED:
            continue
        numbers = (*plan.numbers, *[0] * (_NUMBERS - len(plan.numbers)))
        rows.append((plan.formula, order[_window_key(column)], *numbers, out))
    rows.sort(key=lambda row: row[1])
    return np.array(rows, np.int64).reshape(-1, _NUMBERS + 3)


def _inverted(columns: Sequence[WindowedFeature], plans: Sequence[LanePlan | None]) -> dict[str, bool]:
    """The columns that are given out as lanes, and whether the bits of their values are inverted."""
    given = zip(columns, plans, strict=True)
    return {column.name: column.kind == "arg_min" for column, plan in given if _lanes_out(column, plan)}


def _levels(columns: Sequence[WindowedFeature]) -> np.ndarray:
    """Tile levels (hop, span), finest first: tiles of a hop are kept for the longest window that moves by it."""
    spans: dict[int, int] = {}
    for column in columns:
        if column.hop:
            span = (column.window or 0) + column.delay
            spans[column.hop] = max(spans.get(column.hop, 0), span)
    rows, longest = [], 0
    for hop in sorted(spans):
        longest = max(longest, spans[hop])
        rows.append((hop, longest))
    return np.array(rows, np.int64).reshape(-1, 2)
