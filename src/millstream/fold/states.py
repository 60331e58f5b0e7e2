"""States and values: the kernels' results, and the four functions that everything else calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from millstream.definitions.schema import element_of
from millstream.errors import CorruptState
from millstream.fold import entry_states, kernels, sections
from millstream.fold.combined import combined
from millstream.fold.decayed import DecayedHistory, decayed_of_states
from millstream.fold.entry_values import NONE_ADDED, EntryHistory, of_states
from millstream.fold.keys import places_among
from millstream.fold.layout import AHEAD, HEAD_CAPACITY, HEAD_SPAN, HEADER, STATE_VERSION, Layout
from millstream.fold.listed import fixed_lists, lists_of, new_heap, only_list_of, together
from millstream.fold.ordered import only_value_of, values_of
from millstream.fold.past import LaneHistory, Past
from millstream.fold.probes import Probes, no_probes

if TYPE_CHECKING:
    from millstream.fold.preparation import Prepared

#: The lanes of requests where none is added.
NO_LANES = np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class States:
    """States of several keys, one after another in one int64 array; an empty stretch is the state of no event.

    What a micro-batch adds to a key is a state too, so this is also what travels to the feature topic.

    Attributes:
        data: int64 numbers, the states one after another.
        offsets: where each begins in `data`, and where the last ends.
        overflow: how many instants found no room in a head.
        let_go: the places, ascending, of states just folded that have let go of events and have no tile to show for it.
    """

    data: np.ndarray
    offsets: np.ndarray
    overflow: int = 0
    let_go: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def from_bytes(cls, states: Sequence[bytes | None]) -> States:
        """States read from a store, in order; None or b"" is an empty one.

        Raises `CorruptState` for bytes that are no state of this format version.
        """
        sizes = np.fromiter((len(s) if s else 0 for s in states), np.int64, len(states))
        offsets = np.zeros(len(states) + 1, np.int64)
        np.cumsum(sizes // 8, out=offsets[1:])
        if (sizes % 8).any():
            raise CorruptState(
                "State: its length is not a multiple of 8 bytes.", "restore the store or backfill the group."
            )
        # May be written, as every other array of states: to the kernels what may not is another type, compiled for itself.
        data = np.frombuffer(bytearray().join(s for s in states if s), np.int64)
        filled = offsets[:-1][sizes > 0]
        if len(filled) and ((data[filled] != STATE_VERSION).any() or (sizes[sizes > 0] < 8 * HEADER).any()):
            others = sorted({int(v) for v in data[filled]} - {STATE_VERSION})
            found = f"format version {others[0]}" if others else "a truncated state"
            raise CorruptState(
                f"State: {found} was found, format version {STATE_VERSION} is expected.",
                "backfill the group with this version of Millstream.",
            )
        return cls(data, offsets)

    def to_bytes(self) -> list[bytes]:
        """One byte string per key, b"" for an empty state."""
        raw = self.data.tobytes()
        ends = (self.offsets * 8).tolist()
        return [raw[a:b] for a, b in pairwise(ends)]

    def take(self, places: np.ndarray) -> States:
        """The states at the given places, in that order."""
        sizes = np.diff(self.offsets)[places]
        offsets = np.zeros(len(sizes) + 1, np.int64)
        np.cumsum(sizes, out=offsets[1:])
        data = self.data[np.arange(offsets[-1]) + np.repeat(self.offsets[places] - offsets[:-1], sizes)]
        return States(
            data, offsets, let_go=np.flatnonzero(np.isin(places, self.let_go)).tolist() if self.let_go else ()
        )

    def held_back(self, limit: int, to: int) -> States:
        """The states, of which those that would prune by an instant (µs) beyond a limit prune by `to` instead.

        Whoever prunes less has the same values, and more to read them from. One that has merged events into tiles, or let
        go of some, stays as it is: it does not tell what happened before that instant, and must not be read as if it did.
        """
        whole = self.offsets[1:] > self.offsets[:-1]
        whole[list(self.let_go)] = False
        places = self.offsets[:-1][whole] + 1
        beyond = places[(self.data[places] > limit) & (self.data[places + 1] == 0)]
        if not len(beyond):
            return self
        data = self.data.copy()
        data[beyond] = to
        return States(data, self.offsets, self.overflow, self.let_go)

    @property
    def newest(self) -> np.ndarray:
        """Per key, the instant (µs) by which its state was pruned; the lowest int64 for an empty state."""
        filled = self.offsets[1:] > self.offsets[:-1]
        result = np.full(len(self), np.iinfo(np.int64).min)
        result[filled] = self.data[self.offsets[:-1][filled] + 1]
        return result


@dataclass(frozen=True, eq=False)
class Values:
    """Feature values, one row per state or query."""

    layout: Layout
    numbers: np.ndarray
    texts: np.ndarray
    probes: Probes | None = None
    heap: np.ndarray | None = None

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """Column name to values as a view carries them: float64 with NaN for null, objects with None for null, or `Lists`."""
        layout, numbers = self.layout, self.numbers
        lettered = self._lettered()
        result = {
            name: lettered[name] if name in lettered else numbers[:, place]
            for place, (name, _) in enumerate(layout.outputs)
        }
        return combined(layout, result, self.probes) if layout.combinations else result

    def _lettered(self) -> dict[str, Any]:
        """The columns that are given out as lanes."""
        heap = new_heap() if self.heap is None else self.heap
        row = self.texts[0].tolist() if len(self.texts) == 1 else None
        return {
            name: self._of_lanes(name, *place, heap) if row is None else self._of_row(name, *place, heap, row)
            for name, place in self.layout.lettered.items()
        }

    def _of_lanes(self, name: str, dtype: str, first: int, last: int, heap: np.ndarray) -> Any:
        layout, lanes = self.layout, self.texts[:, first:last]
        if name in layout.listed:
            return lists_of(dtype, layout.listed[name], heap, lanes[:, 0])
        return fixed_lists(dtype, lanes) if element_of(dtype) else values_of(dtype, lanes, layout.inverted[name])

    def _of_row(self, name: str, dtype: str, first: int, last: int, heap: np.ndarray, row: Sequence[int]) -> Any:
        """What `_of_lanes` gives of one row, whose lanes are Python's, sooner."""
        layout = self.layout
        if name in layout.listed:
            return only_list_of(dtype, layout.listed[name], heap, row[first])
        if element_of(dtype):
            return fixed_lists(dtype, self.texts[:, first:last])
        return only_value_of(dtype, row[first:last], layout.inverted[name])


def settled(events: Prepared, now: int | None = None) -> np.ndarray:
    """Per event, the instant (µs) by which a state may let go of what is older: its arrival, or its own time if earlier.

    An event that arrived while the clock was ahead must not prune what its key has of the time before. (The time itself
    is not past when it happens, hence the microsecond.) One from beyond `now` prunes by `now`.
    """
    found: np.ndarray = np.minimum(events.arrivals, events.times + 1)
    return found if now is None else np.where(found > now + AHEAD, now, found)


def fold(layout: Layout, prepared: Prepared, now: int | None = None) -> States:
    """Fold events to one state per key, aligned with `prepared.keys`.

    Args:
        layout: the group's layout.
        prepared: its events, in any order, as `prepare` makes them.
        now: the clock's time (µs), which bounds by what instant states let go of older events; None where it is not
            known.
    """
    if not kernels.ascending(
        prepared.times
    ):  # those of each key would be sorted apart, which takes several times as long
        prepared = prepared.take(np.argsort(prepared.times, kind="stable"))
    result = kernels.fold(
        prepared.codes, len(prepared.keys), prepared.times, settled(prepared, now), prepared.lanes.reshape(-1),
        layout.ops, layout.levels, layout.meta,
    )  # fmt: skip
    states = States(*result)
    if layout.entries:
        data, offsets = entry_states.fold(
            states.data, states.offsets, prepared.codes, prepared.times, prepared.entries, layout.entries.rows,
            layout.levels, layout.meta,
        )  # fmt: skip
        states = States(data, offsets, states.overflow)
    let_go = _let_go(layout, prepared, states)
    if layout.sections:
        states = States(*sections.folded(layout, prepared, states.data, states.offsets), states.overflow)
    return replace(states, let_go=let_go)


def _let_go(layout: Layout, prepared: Prepared, states: States) -> Sequence[int]:
    """The places of states without a tile though some of their events are too old for the head, or too many for it."""
    times = prepared.times
    if not len(times) or (times.max() - times.min() <= HEAD_SPAN and not layout.sections):
        return ()
    oldest = np.full(len(states), np.iinfo(np.int64).max)
    np.minimum.at(oldest, prepared.codes, times)
    filled = np.flatnonzero(states.offsets[1:] > states.offsets[:-1])
    heads = states.offsets[:-1][filled]
    gone = oldest[filled] < states.data[heads + 1] - HEAD_SPAN
    if layout.sections:
        gone |= states.data[heads + 3] >= HEAD_CAPACITY
    gone &= states.data[heads + 2] == 0
    found: list[int] = filled[gone].tolist()
    return found


def merge(layout: Layout, left: States, right: States, *, whole: bool = False) -> States:
    """Merge states of the same keys pairwise; which side is which, and in what order, never matters.

    Args:
        layout: the group's layout.
        left: one state for each key.
        right: as many, of the same keys in the same order.
        whole: whether the result has all events up to its newest arrival, so that it may let go of sessions that are
            over.
    """
    data = np.concatenate([left.data, right.data])
    places = left.offsets, right.offsets + len(left.data)
    states = States(*kernels.merge(data, *places, layout.ops, layout.levels, layout.meta))
    found: tuple[np.ndarray, np.ndarray]
    if layout.entries:
        found = entry_states.merge(
            data, *places, states.data, states.offsets, layout.entries.rows, layout.levels, layout.meta
        )
        states = States(*found, states.overflow)
    if layout.sections:
        found = sections.merged(layout, data, *places, (states.data, states.offsets), whole=whole)
        states = States(*found, states.overflow)
    return states


def pruned(layout: Layout, states: States, newest: np.ndarray) -> States:
    """Prune states that are whole by instants, where those are later than their own.

    Args:
        layout: the group's layout.
        states: states that have all events up to their newest arrival.
        newest: the instant (µs) for each state, int64, shape (states,); an empty state stays so.
    """
    filled = states.offsets[1:] > states.offsets[:-1]
    return merge(layout, states, _bare(newest, filled), whole=True)


def spent(layout: Layout, states: States, by: int) -> np.ndarray:
    """Tell which states have nothing that a read needs at an instant or after it: they read as those of no event.

    Args:
        layout: the group's layout.
        states: states that have all events up to their newest arrival.
        by: the instant (µs).

    Returns:
        Bool, shape (states,).
    """
    left = pruned(layout, states, np.full(len(states), by))
    nothing = pruned(layout, _bare(np.full(1, by), np.ones(1, bool)), np.full(1, by)).data
    found: np.ndarray = np.diff(left.offsets) == len(nothing)
    rows = left.data[left.offsets[:-1][found][:, None] + np.arange(len(nothing))]
    found[found] = (rows == nothing).all(1)
    return found


def _bare(newest: np.ndarray, filled: np.ndarray) -> States:
    """States of no event that were pruned by instants; empty ones where that is not `filled`."""
    bare = np.zeros((len(newest), HEADER), np.int64)
    bare[:, 0], bare[:, 1] = STATE_VERSION, newest
    offsets = np.zeros(len(newest) + 1, np.int64)
    np.cumsum(np.where(filled, HEADER, 0), out=offsets[1:])
    return States(bare[filled].reshape(-1), offsets)


def value(
    layout: Layout,
    states: States,
    at: np.ndarray,
    probes: Probes | None = None,
    requests: np.ndarray | None = None,
) -> Values:
    """Feature values of states at instants, exact from five seconds before each key's newest arrival on.

    Args:
        layout: the group's layout.
        states: one state for each row of the result.
        at: the instant (µs) at which each is read, int64, shape (states,).
        probes: what the layout reads of each request, as `probes_of` makes it; nulls unless given.
        requests: one more event at each instant, int64, as `request_lanes` makes them; none unless given.
    """
    added, more, others = _parted(layout, requests)
    asked = no_probes(layout, len(at)) if probes is None else probes
    numbers, texts = kernels.value(
        states.data, states.offsets, at, added, layout.ops, layout.windows, layout.features, layout.meta
    )
    heap = None
    if layout.entries:
        heap = of_states(layout, layout.entries, states.data, states.offsets, at, numbers, texts, more, asked.lanes)
    if layout.decay:
        decayed_of_states(layout.decay, states.data, states.offsets, at, added, numbers)
    if layout.sections:
        heap = sections.of_states(layout, states.data, states.offsets, at, numbers, texts, heap, others, asked.lanes)
    return Values(layout, numbers, texts, probes, heap)


def as_of(
    layout: Layout,
    events: Prepared,
    available: np.ndarray,
    keys: Sequence[bytes] | pa.Array,
    ordinal: np.ndarray,
    at: np.ndarray,
    probes: Probes | None = None,
    requests: np.ndarray | None = None,
    *,
    sweep: bool = False,
) -> Values:
    """The features of (key, instant) rows from history, each by the events available by its ordinal.

    For a point-in-time join, availability and ordinal are instants (µs); for a recomputation by log position they are
    ranks of positions.

    Args:
        layout: the group's layout.
        events: the events of all keys, as `prepare` makes them.
        available: per event, from which ordinal on it is known, int64, shape (events,).
        keys: the encoded key of each row; one that no event has reads as empty history.
        ordinal: per row, by when an event must be available to count, int64, shape (rows,).
        at: per row, the instant (µs), int64, shape (rows,).
        probes: what the layout reads of each request, a row each; as in `value`.
        requests: one more event of each row at its instant; as in `value`.
        sweep: whether every key goes through the states that serving would have held; else its windows slide along its
            events.
    """
    # Column by column, which is how they are read; every row is written. A lone row or column would lie row by row too,
    # for which the kernels would be compiled once more: there are never fewer than two.
    rows, width = len(at), int(layout.meta[2])
    numbers = np.empty((max(rows, 2), max(width, 2)), np.float64, order="F")
    texts = np.zeros((len(at), int(layout.meta[3])), np.int64)
    asked, n_keys = _codes(keys, events.keys)
    past = Past(n_keys, events.codes, events.times, _plain(available), asked, *_asked_by(ordinal, at))
    added, more, others = _parted(layout, requests)
    has_one = NONE_ADDED if requests is None else np.ones(rows, bool)
    told = no_probes(layout, rows) if probes is None else probes
    lanes = LaneHistory(layout, past, events.lanes.reshape(-1), added, has_one)
    if sweep:
        lanes.sweeping(settled(events), numbers, texts)
    else:
        lanes.sliding(numbers, texts)
    heap = None
    if sweep and layout.beside_lanes:
        heap = _sweep(layout, events, past, requests, told, numbers, texts)
    elif layout.entries:
        entries = EntryHistory.of_events(layout, past, events.entries, more, NONE_ADDED, told.lanes)
        heap = together(entries.sliding(numbers, texts), texts)
    if layout.decay and not sweep:
        DecayedHistory(layout.decay, events, past, added).sliding(numbers)
    if layout.sections and not sweep:
        heap = sections.SectionHistory(layout, events, past, others, told.lanes).write(numbers, texts, heap)
    return Values(layout, numbers[:rows, :width], texts, probes, heap)


def _sweep(
    layout: Layout,
    events: Prepared,
    past: Past,
    requests: np.ndarray | None,
    probes: Probes,
    numbers: np.ndarray,
    texts: np.ndarray,
) -> np.ndarray:
    """Write what is kept beside lanes, or decays, of the state that serving would have held; returns the heap with lists."""
    heaps, at = [], past.at
    for row, code in enumerate(past.asked.tolist()):
        known = past.available <= past.ordinal[row]
        states = fold(layout, events.take(np.flatnonzero((events.codes == code) & known)))
        offsets = states.offsets[code : code + 2] if code < len(events.keys) else np.zeros(2, np.int64)
        one = slice(row, row + 1)
        found, heap = np.ascontiguousarray(numbers[one]), None
        added, more, others = _parted(layout, None if requests is None else requests[one])
        if layout.entries:
            heap = of_states(
                layout, layout.entries, states.data, offsets, at[one], found, texts[one], more, probes.lanes[one]
            )
        if layout.decay:
            decayed_of_states(layout.decay, states.data, offsets, at[one], added, found)
        heap = sections.of_states(
            layout, states.data, offsets, at[one], found, texts[one], heap, others, probes.lanes[one]
        )
        numbers[one] = found
        heaps.append((np.array([row]), heap, layout.references))
    return together(heaps, texts)


def exact(
    layout: Layout,
    events: Prepared,
    available: np.ndarray,
    keys: Sequence[bytes] | pa.Array,
    ordinal: np.ndarray,
    at: np.ndarray,
    probes: Probes | None = None,
    requests: np.ndarray | None = None,
) -> Values:
    """What `as_of` gives, by the window rule itself: every event of a key is looked at for every query.

    For the few values whose history must be told apart from what a state could hold; slow for many.

    Args:
        layout: the group's layout.
        events: the events of all keys.
        available: per event, from which ordinal on it is known.
        keys: the encoded key of each row.
        ordinal: per row, by when an event must be available to count.
        at: per row, the instant (µs).
        probes: what the layout reads of each request; as in `value`.
        requests: one more event of each row at its instant; as in `value`.
    """
    numbers, texts = _empty(layout, len(at))
    asked, n_keys = _codes(keys, events.keys)
    past = Past(n_keys, events.codes, events.times, _plain(available), asked, *_asked_by(ordinal, at))
    added, more, others = _parted(layout, requests)
    has_one = NONE_ADDED if requests is None else np.ones(len(at), bool)
    told = no_probes(layout, len(at)) if probes is None else probes
    LaneHistory(layout, past, events.lanes.reshape(-1), added, has_one).by_rule(numbers, texts)
    heap = None
    if layout.entries:
        entries = EntryHistory.of_events(layout, past, events.entries, more, NONE_ADDED, told.lanes)
        heap = together(entries.by_rule(numbers, texts), texts)
    if layout.decay:
        DecayedHistory(layout.decay, events, past, added).by_rule(numbers)
    if layout.sections:
        section_rows = sections.SectionHistory(layout, events, past, others, told.lanes)
        heap = section_rows.write(numbers, texts, heap, by_rule=True)
    return Values(layout, numbers, texts, probes, heap)


def _parted(
    layout: Layout, requests: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None, tuple[sections.SectionRows, ...]]:
    """The lanes of requests, one after another, their entries, and what they add to sections, where there are requests."""
    if requests is None:
        return NO_LANES, None, ()
    end = layout.n_lanes + (layout.entries.width if layout.entries else 0)
    lanes, entries = requests[:, : layout.n_lanes].reshape(-1), np.ascontiguousarray(requests[:, layout.n_lanes : end])
    return lanes, entries, sections.parted(layout, requests)


def _plain(instants: np.ndarray) -> np.ndarray:
    """Instants as every kernel takes them: int64, one after another, in an array that may be written."""
    return np.require(instants, np.int64, ["C", "W"])


def _asked_by(ordinal: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ordinals and instants as kernels take them; the same array twice where the instants themselves are the ordinals."""
    instants = _plain(at)
    return instants if ordinal is at else _plain(ordinal), instants


def _empty(layout: Layout, rows: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full((rows, int(layout.meta[2])), np.nan), np.zeros((rows, int(layout.meta[3])), np.int64)


def _codes(keys: Sequence[bytes] | pa.Array, known: Sequence[bytes]) -> tuple[np.ndarray, int]:
    """Query keys as codes of the events' keys; unknown ones share a last code that has no events."""
    asked = keys if isinstance(keys, pa.Array) else pa.array(keys, pa.binary())
    return places_among(known, asked), len(known) + 1
