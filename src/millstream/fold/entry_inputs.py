"""From the columns of events to their entries: key lanes that ascend as the values do, and what merges beside them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit

from millstream.definitions.data_types import as_uuids
from millstream.fold.entries import INPUT, NEWEST, SPREAD
from millstream.fold.entry_layout import Bag, EntryLayout
from millstream.fold.fixed_point import LIMIT
from millstream.fold.lifting import LaneInput, lift_lanes
from millstream.fold.ordered import Coded, coded
from millstream.fold.sketches import mixed

#: The types whose values are told apart by a mixture of their bytes, whatever their length.
HASHED = ("string", "uuid")


class EntryInput:
    """What one bag reads of each row, and which rows it must refuse.

    Args:
        bag: the bag.
        columns: the values of its expression, or of each of its fields.
        where: which rows meet its condition, and have the other value that it needs; None: all do.
        payload: what each lane group of its payload reads.

    Attributes:
        refused: the rows that are refused, for `reason`.
        not_finite: the rows whose number is infinite, which counts as null.
    """

    def __init__(
        self,
        bag: Bag,
        columns: Sequence[pa.ChunkedArray],
        where: np.ndarray | None,
        payload: Sequence[LaneInput] = (),
    ) -> None:
        column = columns[0]
        self._bag, self.payload = bag, tuple(payload)
        for item in self.payload:
            if item.kept:  # a value that has no lanes is none
                where = item.flags | item.refused if where is None else where & (item.flags | item.refused)
        if bag.key[0].form == "hash":
            found = hashed(bag.expression, column, bag.kind, where)
        elif bag.fields:
            read = zip(bag.fields, columns, strict=True)
            found = _together([coded(sql, one, kind, bag.max_bytes, where) for (sql, kind), one in read])
        else:
            found = coded(bag.expression, column, bag.kind, bag.max_bytes, where)
        self._there, self._lanes, self.reason = found.valid, found.lanes, found.reason
        self.refused: Any = found.refused
        self.not_finite: Any = found.infinite
        if bag.rule == SPREAD:
            numbers = np.array(column.cast(pa.float64(), safe=False).to_numpy(), np.float64)
            with np.errstate(invalid="ignore"):
                self.refused = self._there & (np.abs(numbers) >= LIMIT)
            self.reason = f"`{bag.expression}` lies outside +-2**50, the range of quantiles"

    def lift(self, times: np.ndarray, kept: np.ndarray | None, out: np.ndarray, at: int) -> None:
        """Write each kept row's entry: whether there is one, its key, and what stands beside that.

        Args:
            times: the times of the kept rows (µs), int64.
            kept: the numbers of the rows that are kept, in their order; None: all are.
            out: the entries of the kept rows, int64, shape (kept rows, lanes), changed in place.
            at: the lane of `out` at which the entry begins.
        """
        value = self._lanes if kept is None else self._lanes[kept]
        out[:, at] = self._there if kept is None else self._there[kept]
        at += 1
        for part in self._bag.key:
            lanes = times.reshape(-1, 1) if part.form == "time" else value
            out[:, at : at + part.width] = ~lanes if part.inverted else lanes
            at += part.width
        if self._bag.counted:
            out[:, at] = times if self._bag.rule == NEWEST else 1
        for item in self.payload:
            lift_lanes(item, times, kept, out, at + item.slot.offset)


def hashed(sql: str, column: pa.ChunkedArray, kind: str, where: np.ndarray | None) -> Coded:
    """The values of an expression, of any length, as the 64 bits by which they are told apart.

    Args:
        sql: the expression, as it is named where a value is refused.
        column: its values.
        kind: their type.
        where: the rows whose values are wanted, bool; None: all are.
    """
    if kind in HASHED:
        there = np.asarray(column.is_valid()).astype(bool)
        there = there if where is None else there & where
        return Coded(_hashes_of_bytes(kind, column), there, np.zeros(len(there), bool), "")
    found = coded(sql, column, kind, 0, where)
    lanes = found.lanes.copy()
    _mix(lanes, 0)
    return replace(found, lanes=lanes)


def _together(fields: Sequence[Coded]) -> Coded:
    """The fields of structs as lanes, each after one that says whether it is there; a struct is, where any of them is."""
    parts = []
    for one in fields:
        there = one.valid.reshape(-1, 1)
        parts += [there.astype(np.int64), np.where(there, one.lanes, 0)]
    refused = np.logical_or.reduce([one.refused for one in fields])
    infinite = np.logical_or.reduce([np.broadcast_to(one.infinite, len(refused)) for one in fields])
    reason = ", or ".join(dict.fromkeys(one.reason for one in fields if one.refused.any()))
    return Coded(np.hstack(parts), np.logical_or.reduce([one.valid for one in fields]), refused, reason, infinite)


def entries_of(
    layout: EntryLayout | None, bags: Sequence[EntryInput], times: np.ndarray, kept: np.ndarray | None
) -> np.ndarray:
    """Return one row of entries per kept event, int64, shape (kept events, lanes).

    Args:
        layout: the bags of the group, or of a section; None where it has none.
        bags: what each of them reads of the rows, in their order.
        times: the times of the kept events (µs), int64.
        kept: the numbers of the rows that are kept, in their order; None: all are.
    """
    out = np.empty((len(times), layout.width if layout else 0), np.int64)
    for i, item in enumerate(bags):
        item.lift(times, kept, out, int(layout.rows[i, INPUT]))  # type: ignore[union-attr]
    return out


def _hashes_of_bytes(kind: str, column: pa.ChunkedArray) -> np.ndarray:
    """Mixtures of UTF-8 and of the bytes of UUIDs."""
    given = column.combine_chunks()
    raw = as_uuids(given).cast(pa.binary(16)).cast(pa.binary()) if kind == "uuid" else given
    text = pc.fill_null(raw.cast(pa.large_binary()), b"")
    _, offsets, data = text.buffers()
    starts = np.frombuffer(offsets, np.int64, len(text) + 1, text.offset * 8) if len(text) else np.zeros(1, np.int64)
    raw = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8)
    out = np.empty((len(text), 1), np.int64)
    _mix_texts(starts, raw, out)
    return out


def hash_of_bytes(raw: bytes) -> int:
    """The 64 bits by which UTF-8, or the bytes of a UUID, are told apart."""
    out = np.empty((1, 1), np.int64)
    _mix_texts(np.frombuffer(struct.pack("<qq", 0, len(raw)), np.int64), np.frombuffer(raw or b"\0", np.uint8), out)
    return int(out[0, 0])


def hash_of_lane(lane: int) -> int:
    """The 64 bits by which a value of one lane is told apart."""
    out = np.array([[lane]], np.int64)
    _mix(out, 0)
    return int(out[0, 0])


@njit(cache=True, nogil=True, error_model="numpy")
def _mix(out, at):  # type: ignore[no-untyped-def]
    for i in range(out.shape[0]):
        out[i, at] = mixed(out[i, at], np.uint64(1))


@njit(cache=True, nogil=True, error_model="numpy")
def _mix_texts(starts, data, out):  # type: ignore[no-untyped-def]
    """A mixture of each text's length and words of eight bytes."""
    for i in range(out.shape[0]):
        begin, end = starts[i], starts[i + 1]
        found = mixed(end - begin, np.uint64(2))
        for word in range(begin, end, 8):
            packed = np.uint64(0)
            for place in range(word, min(word + 8, end)):
                packed = (packed << np.uint64(8)) | np.uint64(data[place])
            found = mixed(np.int64(packed ^ np.uint64(found)), np.uint64(3))
        out[i, 0] = found
