"""All folded groups of a view, valued in one call: a request reads many groups, and each call of a kernel costs.

This is the kernel `value` over the groups of a view instead of one; it adds nothing to what a value is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from millstream.fold import sections
from millstream.fold.decayed import decayed_of_states
from millstream.fold.entry_values import NOTHING_ASKED, of_states
from millstream.fold.kernels import exact_from, value_one
from millstream.fold.layout import HEADER, STATE_VERSION, Layout
from millstream.fold.moments import SPACE
from millstream.fold.probes import Probes, no_probes
from millstream.fold.states import NO_LANES, Values

if TYPE_CHECKING:
    from millstream.fold.requests import Added

_VERSION = STATE_VERSION.to_bytes(8, "little")
_SMALLEST = 8 * HEADER


class Vector:
    """The values of several folded groups, group after group, for the same rows.

    >>> from millstream import Count, Entity, EventStream, StreamFeatureGroup
    >>> from millstream.fold import layout_of
    >>> clicks = EventStream("clicks", time="at", schema={"user_id": "int64", "at": "timestamp"})
    >>> user = Entity("user", keys={"user_id": "int64"})
    >>> pace = StreamFeatureGroup("pace", entity=user, source=clicks, features=[Count(over="5m")])
    >>> Vector([layout_of(pace)]).read([[None, b""]], np.array([5, 6]))
    ([{'count_5m': array([0., 0.])}], None)
    """

    def __init__(self, layouts: Sequence[Layout]) -> None:
        self._layouts = tuple(layouts)
        self._numbers = tuple(_number_places(layout) for layout in layouts)
        self._more = tuple(bool(layout.text_widths or layout.combinations or layout.beside_lanes) for layout in layouts)
        self._asking = tuple(bool(layout.fields_read) for layout in layouts)
        self._no_requests = np.full(len(layouts), -1)
        self._cuts = np.zeros((len(layouts) + 1, 3), np.int64)
        if layouts:
            parts = [[layout.ops, layout.windows, layout.features] for layout in layouts]
            self._cuts[1:] = np.cumsum([[len(part) for part in row] for row in parts], axis=0)
            self._ops, self._windows, self._features = (np.concatenate(part) for part in zip(*parts, strict=True))
            self._meta = np.stack([layout.meta for layout in layouts])

    def read(
        self,
        states: Sequence[Sequence[bytes | None]],
        at: NDArray[np.int64],
        probes: Sequence[Probes | None] | None = None,
        requests: Added | None = None,
    ) -> tuple[list[dict[str, NDArray[Any]]], NDArray[np.bool_] | None]:
        """Read the groups' values, and say which instants lie before what a state is exact for.

        Args:
            states: one sequence of states per group, with a state for each instant; empty ones, None or b"", are those
                of no event, the others must be `readable`.
            at: the instants (µs), shape (rows,).
            probes: for each group, what it reads of the requests; None, for one or for all, is nulls.
            requests: one more event of each group at each instant; none unless given.

        Returns:
            Each group's columns, one value for each instant; and for each group and instant, shape (groups, rows),
            whether it lies before what the state is exact for, or None where none does.
        """
        if not self._layouts:
            return [], None
        flat = [state or b"" for group in states for state in group]
        places, begins = [], [0]
        for state in flat:
            places.append(begins[-1] if state else -1)
            begins.append(begins[-1] + (len(state) >> 3))
        data = np.frombuffer(bytearray().join(flat), np.int64) if begins[-1] else _EMPTY
        added, kept = (NO_LANES, self._no_requests) if requests is None else (requests.lanes, requests.begins)
        numbers, texts, early, any_early = _value_all(
            data, np.array(places, np.int64), at, added, kept, self._ops, self._windows, self._features, self._meta,
            self._cuts,
        )  # fmt: skip
        rows, offsets = len(at), np.array(begins, np.int64)
        found: list[dict[str, NDArray[Any]]] = []
        for i, layout in enumerate(self._layouts):
            mine = slice(i * rows, (i + 1) * rows)
            if not self._more[i]:
                found.append({name: numbers[mine, place] for name, place in self._numbers[i]})
                continue
            asked = None if probes is None else probes[i]
            if asked is None and self._asking[i]:
                asked = no_probes(layout, rows)
            each = offsets[mine.start : mine.stop + 1]
            added_here = requests if requests is not None and requests.begins[i] >= 0 else None
            heap = _beside_lanes(layout, data, each, at, numbers[mine], texts[mine], asked, added_here, i)
            found.append(Values(layout, numbers[mine], texts[mine], asked, heap).columns)
        return found, early.reshape(len(self._layouts), rows) if any_early else None


def _beside_lanes(
    layout: Layout,
    data: NDArray[np.int64],
    offsets: NDArray[np.int64],
    at: NDArray[np.int64],
    numbers: NDArray[np.float64],
    texts: NDArray[np.int64],
    probes: Probes | None,
    requests: Added | None,
    group: int,
) -> NDArray[np.int64] | None:
    """Write what other kernels than those of lanes give of a group's states; returns the heap with the lists, if any."""
    heap, asked = None, NOTHING_ASKED if probes is None else probes.lanes
    if layout.entries:
        more = None if requests is None else requests.entries[group]
        heap = of_states(layout, layout.entries, data, offsets, at, numbers, texts, more, asked)
    if layout.decay:
        begin = 0 if requests is None else int(requests.begins[group])
        one_more = NO_LANES if requests is None else requests.lanes[begin : begin + len(at) * layout.n_lanes]
        decayed_of_states(layout.decay, data, offsets, at, one_more, numbers)
    if layout.sections:
        others = () if requests is None else requests.sections[group]
        heap = sections.of_states(layout, data, offsets, at, numbers, texts, heap, others, asked)
    return heap


def _number_places(layout: Layout) -> tuple[tuple[str, int], ...]:
    return tuple((name, place) for place, name in enumerate(layout.columns))


_EMPTY = np.empty(0, np.int64)


def readable(state: bytes) -> bool:
    """Return whether bytes are a state of the format that this version reads."""
    return state[:8] == _VERSION and len(state) >= _SMALLEST and not len(state) & 7


@njit(cache=True, nogil=True, error_model="numpy")
def _value_all(data, places, at, requests, begins, ops, windows, features, meta, cuts):  # type: ignore[no-untyped-def]
    groups, rows = meta.shape[0], at.size
    wide, text, lanes, most = 1, 1, 1, 1
    for g in range(groups):
        wide, text = max(wide, meta[g, 2]), max(text, meta[g, 3])
        lanes, most = max(lanes, meta[g, 0]), max(most, cuts[g + 1, 1] - cuts[g, 1])
    numbers, texts = np.empty((groups * rows, wide), np.float64), np.empty((groups * rows, text), np.int64)
    bounds, acc = np.empty(most, np.int64), np.empty(most * lanes + SPACE, np.int64)
    early, any_early = np.zeros(groups * rows, np.bool_), False
    for g in range(groups):
        mine = ops[cuts[g, 0] : cuts[g + 1, 0]]
        spans = windows[cuts[g, 1] : cuts[g + 1, 1]]
        wanted = features[cuts[g, 2] : cuts[g + 1, 2]]
        for i in range(rows):
            row = g * rows + i
            request = np.int64(-1 if begins[g] < 0 else begins[g] + i * meta[g, 0])
            value_one(data, places[row], at[i], mine, spans, wanted, meta[g], bounds, acc, numbers, texts, row, requests,
                      request)  # fmt: skip
            if places[row] >= 0 and at[i] < exact_from(data, places[row], meta[g]):
                early[row], any_early = True, True
    return numbers, texts, early, any_early
