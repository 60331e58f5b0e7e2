"""From the columns of events to lanes: what each lane group reads of every row, and which rows it must refuse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.engines.instants import micros
from millstream.fold import lanes, lift
from millstream.fold.decayed import lift_decayed
from millstream.fold.fixed_point import LIMIT
from millstream.fold.lane_plans import Slot
from millstream.fold.layout import FoldLayout
from millstream.fold.ordered import Coded, coded, lift_texts

EMPTY = {lanes.LEAST: lanes.EMPTY_LEAST, lanes.GREATEST: lanes.EMPTY_GREATEST, lanes.ADD: np.int64(0)}
_POWERS = {"cubes": 3, "fourths": 4}

#: What is kept as multiples of 2**-64, so that its range is bounded.
_SUMMED = ("sum", "squares", "products", "decayed", *_POWERS)


def flat(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def flags(column: pa.ChunkedArray) -> np.ndarray:
    """A condition as booleans; unknown is false."""
    return np.asarray(pc.fill_null(column.cast(pa.bool_()), False)).astype(bool)


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """A numeric or boolean column, or one of instants (µs) or dates, as float64, NaN where null."""
    if pa.types.is_temporal(column.type):
        column = micros(column)
    return np.array(column.cast(pa.float64(), safe=False).to_numpy(), np.float64)


def present(column: pa.ChunkedArray) -> np.ndarray:
    """Where a column has a value that an aggregate takes."""
    if pa.types.is_floating(column.type):
        return np.asarray(np.isfinite(_numbers(column)))
    return np.asarray(column.is_valid()).astype(bool)


class LaneInput:
    """What one lane group reads of each row, and which rows it must refuse."""

    def __init__(
        self,
        slot: Slot,
        expression: str | None,
        where_sql: str | None,
        other: str | None,
        columns: dict[str, pa.ChunkedArray],
        rows: int,
    ) -> None:
        self.slot, self.reason = slot, ""
        self.refused: Any = np.False_
        self.not_finite: Any = np.False_
        self.numbers: Any = None
        self.others: Any = None
        self.flags: Any = None
        self.starts: Any = None
        self.text: Any = None
        self.kept: tuple[Coded, ...] = ()
        column = columns[expression] if expression else None
        where = flags(columns[where_sql]) if where_sql else None
        if other:
            where = present(columns[other]) if where is None else where & present(columns[other])
        if slot.lift in ("rows", "time", "present", "decayed_count"):
            self.flags = np.ones(rows, bool) if where is None else where
            if column is not None:
                self.flags = self.flags & present(column)
        elif slot.kinds:
            self._read_kept(columns, [sql for sql in (expression, other) if sql], where)
        elif slot.lift == "text":
            self._read_text(column, where)
        elif slot.lift == "vector":
            self._read_vectors(column, where)
        elif slot.lift in ("positive", "not_positive", "logarithms"):
            self._read_signs(column, where)
        else:
            self._read_numbers(column, where)
        if slot.lift == "products":
            self.others = _numbers(columns[other])  # type: ignore[index]

    def _read_text(self, column: pa.ChunkedArray, where: np.ndarray | None) -> None:
        text = flat(column.cast(pa.string()))
        if where is not None:
            text = pc.if_else(pa.array(where), text, pa.scalar(None, pa.string()))
        longest, self.text = self.slot.max_bytes, text
        sizes = np.asarray(pc.fill_null(pc.binary_length(text), 0))
        self.refused = sizes > longest
        self.reason = f"`{self.slot.expression}` is longer than {longest} bytes (max_bytes of this aggregate)"

    def _read_vectors(self, column: pa.ChunkedArray, where: np.ndarray | None) -> None:
        """Which rows have a vector: one of the length that is asked for, all of whose elements are finite numbers."""
        vectors, dim = flat(column), (self.slot.width - 1) // 3
        there = np.asarray(vectors.is_valid()).astype(bool)
        sizes = np.asarray(pc.fill_null(pc.list_value_length(vectors), 0)).astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(sizes)])[:-1]
        elements = _numbers(pa.chunked_array([vectors.flatten()]))
        fine = np.concatenate([[0], np.cumsum(np.abs(elements) < LIMIT)])
        whole = (sizes == dim) & (fine[starts + sizes] - fine[starts] == dim)
        if where is not None:
            there &= where
        self.flags, self.refused = there & whole, there & ~whole
        self.reason = f"`{self.slot.expression}` is no vector of {dim} finite numbers within +-2**50"
        self.numbers, self.starts = elements, starts

    def _read_kept(self, columns: dict[str, pa.ChunkedArray], read: Sequence[str], where: np.ndarray | None) -> None:
        """The value that is kept, and the one that it is chosen by where there is one."""
        said = [sql for sql in (self.slot.expression, self.slot.other) if sql]
        parts = zip(said, read, self.slot.kinds, strict=False)
        self.kept = tuple(coded(sql, columns[wide], kind, self.slot.max_bytes, where) for sql, wide, kind in parts)
        there = [one.valid | one.refused for one in self.kept]
        self.flags = np.logical_and.reduce([one.valid for one in self.kept])
        self.refused = np.logical_and.reduce(there) & ~self.flags
        self.reason = ", or ".join(one.reason for one in self.kept if one.reason)
        self.not_finite = np.logical_or.reduce([np.broadcast_to(one.infinite, len(self.flags)) for one in self.kept])

    def _read_numbers(self, column: pa.ChunkedArray, where: np.ndarray | None) -> None:
        numbers = _numbers(column)
        if where is not None:
            numbers[~where] = np.nan
        self.not_finite = np.isinf(numbers)
        numbers[self.not_finite] = np.nan
        if self.slot.lift in _SUMMED:
            with np.errstate(invalid="ignore"):
                self.refused = np.abs(numbers) >= LIMIT
            self.reason = f"`{self.slot.expression}` lies outside +-2**50, the range of exact sums"
        self.numbers = numbers

    @property
    def weighed(self) -> np.ndarray:
        """What of each row decays: its number, or 1 where it is only counted; NaN for nothing."""
        return np.where(self.flags, 1.0, np.nan) if self.numbers is None else np.asarray(self.numbers)

    def _read_signs(self, column: pa.ChunkedArray, where: np.ndarray | None) -> None:
        """Which numbers are positive, or are not; for their logarithms, those that are."""
        numbers = _numbers(column)
        there = np.isfinite(numbers) if where is None else where & np.isfinite(numbers)
        self.flags = there & ((numbers <= 0) if self.slot.lift == "not_positive" else (numbers > 0))
        self.numbers = np.where(self.flags, numbers, np.nan)


def lanes_of(
    layout: FoldLayout, inputs: list[LaneInput], times: np.ndarray, kept: np.ndarray, everything: bool
) -> np.ndarray:
    """One row of lanes per kept event, int64, shape (kept events, lanes).

    Args:
        layout: what is folded, which says how many lanes there are.
        inputs: what each lane group reads of all rows.
        times: the times of all rows (µs), int64.
        kept: the numbers of the rows that are kept, int64.
        everything: whether those are all rows, in their order.
    """
    out = np.empty((len(kept), layout.n_lanes), np.int64)
    when = np.ascontiguousarray(times if everything else times[kept])
    for item in inputs:
        lift_lanes(item, when, None if everything else kept, out, item.slot.offset)
    return out


def lift_lanes(item: LaneInput, when: np.ndarray, kept: np.ndarray | None, out: np.ndarray, at: int) -> None:
    """Write one lane group of each kept row.

    Args:
        item: what the lane group reads of all rows.
        when: the times of the kept rows (µs), int64.
        kept: the numbers of the rows that are kept, int64; None: all are.
        out: the lanes of the kept rows, int64, shape (kept rows, lanes), changed in place.
        at: the lane of `out` at which the group begins.
    """

    def pick(values: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(values if kept is None else values[kept])

    slot, empty = item.slot, EMPTY[item.slot.op]
    if slot.lift in ("rows", "present", "positive", "not_positive"):
        lift.lift_count(pick(item.flags), out, at)
    elif slot.half_life:
        lift_decayed(when, pick(item.weighed), slot.half_life, out, at)
    elif slot.lift == "time":
        lift.lift_time(when, pick(item.flags), empty, out, at)
    elif slot.lift == "sum":
        lift.lift_sum(pick(item.numbers), out, at)
    elif slot.lift == "vector":
        lift.lift_vectors(item.numbers, pick(item.starts), pick(item.flags), out, at, (slot.width - 1) // 3)
    elif slot.lift == "squares":
        lift.lift_squares(pick(item.numbers), out, at)
    elif slot.lift == "products":
        lift.lift_product(pick(item.numbers), pick(item.others), out, at)
    elif slot.lift == "bins":
        _put_bins(pick(item.numbers), slot, out, at)
    elif slot.lift in _POWERS:
        lift.lift_power(pick(item.numbers), _POWERS[slot.lift], slot.width, out, at)
    elif slot.lift == "logarithms":
        lift.lift_logarithm(pick(item.numbers), out, at)
    elif slot.lift == "extreme":
        lift.lift_extreme(pick(item.numbers), empty, out, at)
    elif slot.lift == "dated":
        lift.lift_dated(when, pick(item.numbers), empty, out, at)
    elif slot.kinds:
        _put_kept(item, when, pick, out, at)
    else:
        text = item.text if kept is None else item.text.take(pa.array(kept))
        valid = np.asarray(text.is_valid()).astype(bool)
        lift_texts(text, valid, when, empty, out, at, slot.width)


def bin_of(numbers: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    """Return the bin that each number lies in, counted from 0, as float64; NaN for none."""
    places = np.searchsorted(edges, numbers, side="right") - 1
    places[numbers == edges[-1]] = len(edges) - 2
    inside = (places >= 0) & (places < len(edges) - 1) & ~np.isnan(numbers)
    return np.where(inside, places, np.nan)


def _put_bins(numbers: np.ndarray, slot: Slot, out: np.ndarray, at: int) -> None:
    """One for the bin that each number lies in, if it lies in any; in the last one its end does too."""
    out[:, at : at + slot.width] = 0
    places = bin_of(numbers, slot.bins)
    inside = np.flatnonzero(~np.isnan(places))
    out[inside, at + places[inside].astype(np.int64)] = 1


def _put_kept(
    item: LaneInput, when: np.ndarray, pick: Callable[[np.ndarray], np.ndarray], out: np.ndarray, at: int
) -> None:
    """What a value is chosen by, its time, and the value itself; the latter two inverted for the latest of the least."""
    slot, valid, empty = item.slot, pick(item.flags), EMPTY[item.slot.op]
    first = np.zeros_like(when) if slot.lift == "kept" else when
    parts = [first.reshape(-1, 1), pick(item.kept[0].lanes)]
    if slot.lift == "chosen":
        inverted = slot.op == lanes.LEAST
        parts = [pick(item.kept[1].lanes), *(~part if inverted else part for part in parts)]
    for part in parts:
        out[:, at : at + part.shape[1]] = np.where(valid[:, None], part, empty)
        at += part.shape[1]
