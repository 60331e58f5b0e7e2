"""Batch states of one row each, which nearly all are, as columns: what a run makes of many of them at once.

What becomes of each is what `fold.rows.union` says of it alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.fold.rows import ACTIVE, MAGIC, ROW_SPAN, Row

_HEAD = np.dtype(
    [("magic", "S4"), ("event_time", "<i8"), ("available_time", "<i8"), ("confirmed", "<i8"), ("size", "<u4")]
)
_TIMES = ("event_time", "available_time", "confirmed")


@dataclass(frozen=True, eq=False)
class LoneRows:
    """Dated rows, one for each of some keys; see `Row`. `values` are packed (large_binary), empty for a tombstone."""

    event_time: np.ndarray
    available_time: np.ndarray
    confirmed: np.ndarray
    values: pa.Array

    def __len__(self) -> int:
        return len(self.event_time)

    @property
    def visible(self) -> np.ndarray:
        """The instants (µs) from which a reader could know the rows."""
        visible: np.ndarray = np.maximum(self.event_time, self.available_time)
        return visible

    def take(self, places: np.ndarray) -> LoneRows:
        """The rows at some places."""
        event_time, available_time, confirmed = (
            self.event_time[places],
            self.available_time[places],
            self.confirmed[places],
        )
        return LoneRows(event_time, available_time, confirmed, self.values.take(pa.array(places)))

    def rows(self) -> list[Row]:
        """Each row by itself."""
        columns = (self.event_time, self.available_time, self.confirmed)
        return list(map(Row, *(column.tolist() for column in columns), self.values.to_pylist()))

    def states(self) -> list[bytes]:
        """The bytes of the state that each row is by itself."""
        heads = np.empty(len(self), _HEAD)
        heads["magic"], heads["size"] = MAGIC, np.asarray(pc.binary_length(self.values))
        for name in _TIMES:
            heads[name] = getattr(self, name)
        raw, width = heads.tobytes(), _HEAD.itemsize
        begins = range(0, len(raw), width)
        return [raw[at : at + width] + value for at, value in zip(begins, self.values.to_pylist(), strict=True)]


def lone_rows(states: Sequence[bytes | None]) -> tuple[np.ndarray, LoneRows]:
    """The places of the states that have one row, and those rows.

    >>> from millstream.fold.rows import encode_row
    >>> places, rows = lone_rows([None, encode_row({"tier": "string"}, 10, 12, {"tier": "gold"})])
    >>> places.tolist(), rows.event_time.tolist()
    ([1], [10])
    """
    places, offsets, raw = _lone([b"" if state is None else state for state in states])
    within = offsets[:-1, None] + np.arange(_HEAD.itemsize)
    heads = raw[within].reshape(-1).view(_HEAD)
    of_values = np.ones(len(raw), bool)
    of_values[within] = False
    ends = offsets - _HEAD.itemsize * np.arange(len(offsets))
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(raw[of_values])]
    values = pa.Array.from_buffers(pa.large_binary(), len(places), buffers)
    event_time, available_time, confirmed = (heads[name].astype(np.int64) for name in _TIMES)
    return places, LoneRows(event_time, available_time, confirmed, values)


def _lone(states: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The places of the states that have one row, and their bytes: where each begins, and all of them."""
    sizes = np.fromiter(map(len, states), np.int64, len(states))
    raw = np.frombuffer(b"".join(states), np.uint8)
    places = np.flatnonzero(sizes >= _HEAD.itemsize)
    begins = (np.cumsum(sizes) - sizes)[places]
    heads = raw[begins[:, None] + np.arange(_HEAD.itemsize)].reshape(-1).view(_HEAD)
    lone = (heads["magic"] == MAGIC) & (heads["size"] == sizes[places] - _HEAD.itemsize)
    if len(places) < len(states) or not lone.all():
        places = places[lone]
        raw = np.frombuffer(b"".join([states[place] for place in places.tolist()]), np.uint8)
    return places, np.r_[0, np.cumsum(sizes[places])], raw


def joined(old: LoneRows, confirmed: np.ndarray, new: LoneRows, now: int) -> tuple[np.ndarray, list[bytes]]:
    """The places of the states that are other ones when each old row has a new one beside it, and what they become.

    Args:
        old: the row of each state.
        confirmed: the confirmation of each old row after the run, int64; see `Row.confirmed`.
        new: the row that comes beside each.
        now: the time of the write (µs).
    """
    same = same_rows(old, new)
    newer = (new.event_time > old.event_time) | (
        (new.event_time == old.event_time) & (new.available_time >= old.available_time)
    )
    equal_times = (new.event_time == old.event_time) & (new.available_time == old.available_time)
    above = np.where(newer, new.visible, old.visible)
    below = np.where(newer, old.visible, new.visible)
    alone = equal_times | (above <= now - ROW_SPAN) | (below >= above)
    after = _restated(old, confirmed, new, same)
    moved = (after.confirmed != old.confirmed) | (after.available_time != old.available_time)
    only_old = same | (~newer & alone)
    places = np.flatnonzero(~only_old | moved)
    olds, news = after.take(places).states(), new.take(places).states()
    which = np.select([only_old, newer & alone, newer], [0, 1, 2], 3)[places].tolist()
    return places, [_state(kind, *pair) for kind, *pair in zip(which, olds, news, strict=True)]


def same_rows(old: LoneRows, new: LoneRows) -> np.ndarray:
    """Where two rows have the same event time and values, whenever they became available."""
    values = np.asarray(pc.equal(old.values, new.values)).astype(bool)
    same: np.ndarray = values & (old.event_time == new.event_time)
    return same


def _restated(old: LoneRows, confirmed: np.ndarray, new: LoneRows, same: np.ndarray) -> LoneRows:
    """The old rows after the run: those that it states again were available when the first was."""
    active = (confirmed == ACTIVE) | (new.confirmed == ACTIVE)
    last = np.maximum(np.maximum(confirmed, new.confirmed), np.maximum(old.available_time, new.available_time))
    return replace(
        old,
        available_time=np.where(same, np.minimum(old.available_time, new.available_time), old.available_time),
        confirmed=np.where(same, np.where(active, ACTIVE, last), confirmed),
    )


def _state(kind: int, old: bytes, new: bytes) -> bytes:
    """The state of the old row, the new one, or of both with the newer one first."""
    if kind < 2:
        return new if kind else old
    return new + old[len(MAGIC) :] if kind == 2 else old + new[len(MAGIC) :]
