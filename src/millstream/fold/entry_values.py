"""What the bags of states, or of history, hold at instants: the kernels over entries, and the heap of their lists."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from millstream.fold import entry_history, entry_states, kernels
from millstream.fold.entry_layout import EntryLayout
from millstream.fold.layout import Layout
from millstream.fold.listed import column_of

if TYPE_CHECKING:
    from millstream.fold.prepare import Prepared

#: Below this many events and queries history is read on the calling thread.
_PARALLEL_ROWS = 50_000


@dataclass(frozen=True, eq=False)
class Heap:
    """Lists of lanes: `refs` (row, list) says where in `lanes` each begins, -1 for null."""

    refs: np.ndarray
    lanes: np.ndarray

    def columns(self, bags: EntryLayout) -> dict[str, np.ndarray]:
        """The columns that are made of lists."""
        return {one.name: column_of(one, self.refs[:, place], self.lanes) for place, one in enumerate(bags.lists)}


def of_states(
    layout: Layout, bags: EntryLayout, data: np.ndarray, offsets: np.ndarray, at: np.ndarray, numbers: np.ndarray
) -> Heap:
    """Write into `numbers` what the bags of states give at instants (µs); returns their lists."""
    return _with_heap(
        bags, len(at),
        lambda refs, heap: entry_states.value(
            data, offsets, at, bags.rows, bags.payloads, layout.windows, bags.features, bags.inner, layout.meta, numbers,
            refs, heap,
        ),
    )  # fmt: skip


def by_rule(
    layout: Layout,
    bags: EntryLayout,
    events: Prepared,
    available: np.ndarray,
    codes: np.ndarray,
    ordinal: np.ndarray,
    at: np.ndarray,
    numbers: np.ndarray,
) -> Heap:
    """Write into `numbers` what the entries in each window are, by the rule itself; returns their lists.

    `codes` are those of the queries' keys; see `fold.exact` for the rest.
    """
    order, begins = kernels.by_key(events.codes, _keys(events, codes))
    available, ordinal, at = (np.ascontiguousarray(one, np.int64) for one in (available, ordinal, at))
    return _with_heap(
        bags, len(at),
        lambda refs, heap: entry_states.exact(
            order, begins, codes, events.times, available, events.entries, ordinal, at, bags.rows, bags.payloads,
            layout.windows, bags.features, bags.inner, numbers, refs, heap, 0,
        ),
    )  # fmt: skip


def of_history(
    layout: Layout,
    bags: EntryLayout,
    events: Prepared,
    available: np.ndarray,
    codes: np.ndarray,
    ordinal: np.ndarray,
    at: np.ndarray,
    numbers: np.ndarray,
) -> Heap:
    """What `by_rule` gives, each window sliding along a key's events; keys are divided among threads where there are many."""
    n_keys = _keys(events, codes)
    order, begins = kernels.by_key(events.codes, n_keys)
    queries, query_begins = kernels.by_key(codes, n_keys)
    available, ordinal, at = (np.ascontiguousarray(one, np.int64) for one in (available, ordinal, at))
    refs = np.full((len(at), len(bags.lists)), -1, np.int64)

    def lists_of(first: int, last: int) -> np.ndarray:
        size = int(query_begins[last] - query_begins[first]) * sum(8 * one.width for one in bags.lists) + 64
        while True:
            heap = np.empty(size, np.int64)
            used = entry_history.as_of(
                order, begins, queries, query_begins, events.times, available, events.entries, ordinal, at, bags.rows,
                bags.payloads, layout.windows, bags.features, bags.inner, first, last, numbers, refs, heap,
            )  # fmt: skip
            if used >= 0:
                return heap[:used]
            size *= 4

    edges = _divided(begins[1:] + query_begins[1:])
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        heaps = list(pool.map(lists_of, edges[:-1], edges[1:]))
    start = 0
    for first, last, heap in zip(edges[:-1], edges[1:], heaps, strict=True):
        rows = queries[query_begins[first] : query_begins[last]]
        refs[rows] = np.where(refs[rows] >= 0, refs[rows] + start, -1)
        start += len(heap)
    return Heap(refs, np.concatenate(heaps))


def _divided(work: np.ndarray) -> list[int]:
    """The first key of each share of the work, and the end: one share where there is little."""
    workers = min(os.cpu_count() or 1, 8)
    if work[-1] < _PARALLEL_ROWS or workers == 1:
        return [0, len(work)]
    cuts = np.searchsorted(work, np.linspace(0, work[-1], 4 * workers + 1)[1:-1]).tolist()
    return [0, *sorted(set(cuts) - {0, len(work)}), len(work)]


def _keys(events: Prepared, codes: np.ndarray) -> int:
    return int(max(len(events.keys), codes.max(initial=0) + 1))


def _with_heap(bags: EntryLayout, rows: int, write: Callable[[np.ndarray, np.ndarray], int]) -> Heap:
    """The lists, once the heap is long enough for what is written."""
    refs, size = np.full((rows, len(bags.lists)), -1, np.int64), rows * sum(8 * one.width for one in bags.lists) + 64
    while True:
        heap = np.empty(size, np.int64)
        used = write(refs, heap)
        if used >= 0:
            return Heap(refs, heap[:used])
        size *= 4


def joined(heaps: list[Heap]) -> Heap:
    """The lists of some rows, then those of the next."""
    starts = np.cumsum([0, *(len(heap.lanes) for heap in heaps)])
    refs = [np.where(heap.refs >= 0, heap.refs + start, -1) for heap, start in zip(heaps, starts, strict=False)]
    return Heap(np.concatenate(refs), np.concatenate([heap.lanes for heap in heaps]))
