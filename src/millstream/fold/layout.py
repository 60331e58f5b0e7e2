"""Layout: a feature group as plain arrays, which is all that the kernels know of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from millstream.fold import lanes

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
_DAY = 86_400_000_000
#: Where the tile that holds everything older than the longest window starts.
LIFETIME = -(2**62)

_EXTREMES = {"min": (lanes.LEAST, "extreme"), "max": (lanes.GREATEST, "extreme")}
_DATED = {"first": lanes.LEAST, "last": lanes.GREATEST}


@dataclass(frozen=True)
class Slot:
    """One lane group: what is lifted from an event, and how it merges."""

    lift: str
    expression: str | None
    where: str | None
    op: int
    width: int
    offset: int = 0
    max_bytes: int = 0


@dataclass(frozen=True, eq=False)
class Layout:
    """The arrays by which the kernels fold one group: lane groups, windows, features and tile levels."""

    slots: tuple[Slot, ...]
    columns: tuple[str, ...]
    dtypes: tuple[str, ...]
    text_widths: tuple[int, ...]
    ops: np.ndarray
    windows: np.ndarray
    window_ops: np.ndarray
    features: np.ndarray
    levels: np.ndarray
    meta: np.ndarray

    @property
    def n_lanes(self) -> int:
        """How many int64 lanes one tile of this group has."""
        return int(self.meta[0])

    @property
    def state_bytes_max(self) -> int:
        """The worst-case bytes of one key's state: every tile of every level and a full head."""
        rows = HEAD_CAPACITY + (1 if self.meta[1] else 0) + sum(tiles for _, tiles in self._tiles())
        return 8 * (HEADER + rows * (1 + self.n_lanes))

    def state_bytes_at(self, per_day: float) -> int:
        """About the bytes of one key's state at a rate of events a day that come by chance: of the tiles that hold any.

        A tile of hop h is empty with the chance exp(-rate * h), the Poisson distribution's; the newest event is apart.
        """
        occupied = sum(tiles * -math.expm1(-per_day * hop / _DAY) for hop, tiles in self._tiles())
        rows = 1 + (1 if self.meta[1] else 0) + occupied
        return round(8 * (HEADER + rows * (1 + self.n_lanes)))

    def _tiles(self) -> Iterator[tuple[int, int]]:
        """For each level its hop (µs) and how many tiles of it a state may hold."""
        before = 0
        for i, (hop, span) in enumerate(self.levels.tolist()):
            coarser = self.levels[i + 1, 0] if i + 1 < len(self.levels) else hop
            yield hop, int((span - before + coarser + HEAD_SPAN) // hop) + 2
            before = span

    def too_late_before(self, arrivals: np.ndarray) -> np.ndarray:
        """Per event, the event time (µs) below which it is too late for every window, by its arrival alone."""
        if self.meta[1]:
            return np.full(len(arrivals), np.iinfo(np.int64).min)
        edges = [(arrivals - w[2] - w[0]) // w[1] * w[1] for w in self.windows]
        return np.asarray(np.min(edges, axis=0))


def layout_of(group: StreamFeatureGroup | BatchFeatureGroup) -> Layout:
    """The layout of a group's windowed features, built once per distinct list of features."""
    return _layout(tuple(group.columns))


@lru_cache(maxsize=512)
def _layout(columns: tuple[WindowedFeature, ...]) -> Layout:
    slots: list[Slot] = []
    plans = [_plan(column, slots) for column in columns]
    windows, order = _windows(columns)
    features, texts = _features(columns, plans, order)
    used = np.zeros((len(windows), len(slots)), np.int64)
    for column, (_, _, places) in zip(columns, plans, strict=True):
        used[order[_window_key(column)], places] = 1
    levels = _levels(columns)
    lifetime = any(column.window is None for column in columns)
    width = sum(slot.width for slot in slots)
    meta = np.array([width, int(lifetime), len(columns), sum(texts)], np.int64)
    ops = np.array([(slot.op, slot.offset, slot.width) for slot in slots], np.int64).reshape(-1, 3)
    return Layout(
        slots=tuple(slots), columns=tuple(c.name for c in columns), dtypes=tuple(c.dtype for c in columns),
        text_widths=tuple(texts), ops=ops, windows=windows, window_ops=used, features=features, levels=levels, meta=meta,
    )  # fmt: skip


def _slot(slots: list[Slot], lift: str, column: WindowedFeature, op: int, width: int) -> int:
    """The index of the lane group with these facts, shared by every feature that needs the same."""
    expression = None if lift in ("rows", "time") else column.expression
    max_bytes = column.max_bytes if lift == "text" else 0
    for i, slot in enumerate(slots):
        if (slot.lift, slot.expression, slot.where, slot.op, slot.width) == (lift, expression, column.where, op, width):
            return i
    offset = slots[-1].offset + slots[-1].width if slots else 0
    slots.append(Slot(lift, expression, column.where, op, width, offset, max_bytes))
    return len(slots) - 1


def _plan(column: WindowedFeature, slots: list[Slot]) -> tuple[int, tuple[int, int, int], list[int]]:
    """The formula of a feature, the lane offsets it reads, and the lane groups it needs."""
    kind = column.kind
    if kind == "count":
        place = _slot(slots, "present" if column.expression else "rows", column, lanes.ADD, 1)
        return lanes.COUNT, (slots[place].offset, 0, 0), [place]
    if kind == "time_since":
        place = _slot(slots, "time", column, lanes.GREATEST, 1)
        return lanes.SINCE, (slots[place].offset, 0, 0), [place]
    if kind in _EXTREMES:
        op, lift = _EXTREMES[kind]
        place = _slot(slots, lift, column, op, 1)
        return lanes.NUMBER, (slots[place].offset, slots[place].offset, 0), [place]
    if kind in _DATED:
        if column.dtype == "string":
            width = column.max_bytes // 8 + 1
            place = _slot(slots, "text", column, _DATED[kind], 1 + width)
            return lanes.TEXT, (slots[place].offset, 1 + width, 0), [place]
        place = _slot(slots, "dated", column, _DATED[kind], 2)
        return lanes.NUMBER, (slots[place].offset, slots[place].offset + 1, 0), [place]
    total = _slot(slots, "sum", column, lanes.ADD, 3)
    if kind == "sum":
        return lanes.SUM, (slots[total].offset, 0, 0), [total]
    count = _slot(slots, "present", column, lanes.ADD, 1)
    if kind == "mean":
        return lanes.MEAN, (slots[total].offset, slots[count].offset, 0), [total, count]
    squares = _slot(slots, "squares", column, lanes.ADD, 4)
    formula = {"var": lanes.VAR, "std": lanes.STD}[kind]
    return formula, (slots[total].offset, slots[count].offset, slots[squares].offset), [total, count, squares]


def _window_key(column: WindowedFeature) -> tuple[int, int, int]:
    hop = column.hop or 1
    return (-1 if column.window is None else column.window, hop, column.delay)


def _windows(columns: tuple[WindowedFeature, ...]) -> tuple[np.ndarray, dict[tuple[int, int, int], int]]:
    """Distinct windows as rows (width, hop, delay, class), nested within a class, and where each went.

    The windows of one class end at the same instant, and each contains the one before it. So a read adds every tile to
    one window only, and then each window to the next.
    """
    distinct = sorted({_window_key(c) for c in columns}, key=lambda w: (w[0] < 0, w[0], w[1]))
    classes: list[list[tuple[int, int, int]]] = []
    for window in distinct:
        for nest in classes:
            same_end = nest[-1][2] == window[2] and (window[2] == 0 or nest[-1][1] == window[1])
            if same_end and (window[0] < 0 or window[1] % nest[-1][1] == 0):
                nest.append(window)
                break
        else:
            classes.append([window])
    rows = [(*window, number) for number, nest in enumerate(classes) for window in nest]
    order = {(w[0], w[1], w[2]): i for i, w in enumerate(rows)}
    return np.array(rows, np.int64).reshape(-1, 4), order


def _features(columns, plans, order) -> tuple[np.ndarray, list[int]]:  # type: ignore[no-untyped-def]
    """Feature rows (formula, window, lane offsets a b c, output place), sorted by window; widths of the text outputs."""
    rows: list[tuple[int, ...]] = []
    texts: list[int] = []
    for place, (column, (formula, (a, b, c), _)) in enumerate(zip(columns, plans, strict=True)):
        out = place
        if formula == lanes.TEXT:
            out = sum(texts)
            texts.append(b)
        rows.append((formula, order[_window_key(column)], a, b, c, out))
    rows.sort(key=lambda row: row[1])
    return np.array(rows, np.int64).reshape(-1, 6), texts


def _levels(columns: tuple[WindowedFeature, ...]) -> np.ndarray:
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
