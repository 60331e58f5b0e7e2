"""What the bags of states, or of history, hold at instants, written beside what lanes give."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from millstream.fold import entry_history, entry_states, kernels
from millstream.fold.entry_layout import EntryLayout
from millstream.fold.layout import Layout
from millstream.fold.listed import HeapPart, new_heap, together
from millstream.fold.shares import in_shares

#: The entries of requests where none is added.
NO_ENTRIES = np.empty((0, 0), np.int64)
#: The lanes of what requests look up, where they look nothing up.
NOTHING_ASKED = np.empty((0, 0), np.int64)
#: Which requests count as one more row of a window of events, where none does.
NONE_ADDED = np.empty(0, np.bool_)

if TYPE_CHECKING:
    from millstream.fold.preparation import Prepared


def of_states(
    layout: Layout,
    bags: EntryLayout,
    data: np.ndarray,
    offsets: np.ndarray,
    at: np.ndarray,
    numbers: np.ndarray,
    texts: np.ndarray,
    requests: np.ndarray | None = None,
    probes: np.ndarray = NOTHING_ASKED,
) -> np.ndarray:
    """Write what the bags of states give at instants; returns the heap with the lists.

    Args:
        layout: the layout of the group.
        bags: its bags.
        data: the states, one after another, int64.
        offsets: where each begins in `data`, and where the last ends, int64, shape (states + 1,).
        at: the instant of each (µs), int64, shape (states,).
        numbers: the output's numbers, float64, a row for each state, changed in place.
        texts: the output's lanes, int64, a row for each state, changed in place; of a list, where it begins in the
            heap.
        requests: the entries of one more event at each instant, int64, a row each; none unless given.
        probes: what requests look up, a row for each state, as `Probes.lanes`.
    """
    found: np.ndarray = entry_states.value(
        data,
        offsets,
        at,
        NO_ENTRIES if requests is None else requests,
        probes,
        bags.rows,
        layout.windows,
        bags.features,
        layout.meta,
        numbers,
        texts,
        new_heap(),
    )
    return found


@dataclass(frozen=True, eq=False)
class EntryHistory:
    """The entries of events, and the (key, instant) rows that are asked of them; `codes` are those of the rows' keys.

    See `fold.as_of` for the rest.
    """

    layout: Layout
    bags: EntryLayout
    events: Prepared
    available: np.ndarray
    codes: np.ndarray
    ordinal: np.ndarray
    at: np.ndarray
    requests: np.ndarray | None = None
    probes: np.ndarray = field(default_factory=lambda: NOTHING_ASKED)

    def by_rule(self, numbers: np.ndarray, texts: np.ndarray) -> np.ndarray:
        """Write what the entries in each window are, by the rule itself; returns the heap with the lists."""
        order, begins = self._by_key()
        entries, requests = self._with_requests()
        found: np.ndarray = entry_states.exact(
            order, begins, self.codes, self.events.times, self.available, entries, requests, NONE_ADDED, self.probes,
            self.ordinal, self.at, self.bags.rows, self.layout.windows, self.bags.features, numbers, texts, new_heap(),
        )  # fmt: skip
        return found

    def sliding(self, numbers: np.ndarray, texts: np.ndarray) -> np.ndarray:
        """Write what `by_rule` does, each window sliding along a key's events."""
        order, begins = self._by_key()
        queries, query_begins = kernels.by_key(self.codes, len(begins) - 1)
        entries, requests = self._with_requests()
        heaps: list[HeapPart] = []

        def run(first: int, last: int) -> None:
            heap = entry_history.as_of(
                order, begins, queries, query_begins, self.events.times, self.available, entries, requests, NONE_ADDED,
                self.probes, self.ordinal, self.at, self.bags.rows, self.layout.windows, self.bags.features, first, last,
                numbers, texts, new_heap(),
            )  # fmt: skip
            heaps.append((queries[query_begins[first] : query_begins[last]], heap, self.bags.references))

        in_shares(begins[1:] + query_begins[1:], run)
        return together(heaps, texts)

    def _with_requests(self) -> tuple[np.ndarray, int]:
        """The entries of the events and then of one more event of each row, and where the latter begin (-1: none)."""
        entries = self.events.entries
        return (entries, -1) if self.requests is None else (np.concatenate([entries, self.requests]), len(entries))

    def _by_key(self) -> tuple[np.ndarray, np.ndarray]:
        n_keys = int(max(len(self.events.keys), self.codes.max(initial=0) + 1))
        order, begins = kernels.by_key(self.events.codes, n_keys)
        return order, begins
