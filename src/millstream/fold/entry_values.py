"""What the bags of states, or of history, hold at instants, written beside what lanes give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from millstream.fold import entry_history, entry_states, entry_windows, foremost_entries
from millstream.fold.entries import DISTINCT, FOREMOST, RULE, SPREAD
from millstream.fold.entry_layout import EntryLayout
from millstream.fold.layout import FoldLayout, Layout
from millstream.fold.listed import HeapPart, new_heap
from millstream.fold.past import Past
from millstream.fold.spans import DELAY
from millstream.fold.timelines import moves_of

#: The entries of requests where none is added.
NO_ENTRIES = np.empty((0, 0), np.int64)
#: The lanes of what requests look up, where they look nothing up.
NOTHING_ASKED = np.empty((0, 0), np.int64)
#: Which requests count as one more row of a window of events, where none does.
NONE_ADDED = np.empty(0, np.bool_)


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
        texts: the output's lanes, int64, a row for each state, changed in place; of a list, a reference to it.
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
    """The entries of past events, in the bags and the windows of `part`.

    From `requests` on (-1: there is none) `entries` has those of one more event of each row; `counts` says which of them
    count as a row of a window of events, and is empty where none does. `probes` are the lanes of what requests look up.
    """

    part: FoldLayout
    past: Past
    entries: np.ndarray
    requests: int
    counts: np.ndarray
    probes: np.ndarray

    @classmethod
    def of_events(
        cls,
        part: FoldLayout,
        past: Past,
        entries: np.ndarray,
        requests: np.ndarray | None,
        counts: np.ndarray,
        probes: np.ndarray,
    ) -> EntryHistory:
        """The entries of events, and then those of one more event of each row, where there are any.

        Args:
            part: the layout of the group, or one of its sections, with bags.
            past: the events, and the rows that are asked of them.
            entries: the entries of these events, int64, shape (events, lanes).
            requests: those of one more event of each row, int64, shape (rows, lanes); None where none is added.
            counts: per row, whether its one more event counts as a row of a window of events, bool, shape (rows,); empty
                where none does.
            probes: what requests look up, int64, a row for each row, as `Probes.lanes`.
        """
        if requests is None:
            return cls(part, past, entries, -1, counts, probes)
        return cls(part, past, np.concatenate([entries, requests]), len(entries), counts, probes)

    def by_rule(self, numbers: np.ndarray, texts: np.ndarray) -> list[HeapPart]:
        """Write what the entries in each window are, by the rule itself; returns the heap with the lists."""
        return self._by_rule(np.arange(len(self.past.at)), numbers, texts)

    def sliding(self, numbers: np.ndarray, texts: np.ndarray) -> list[HeapPart]:
        """Write what `by_rule` does, each window sliding along a key's events; returns the heaps with the lists."""
        lines, heaps = self.past.lines, list[HeapPart]()

        def run(first: int, last: int) -> None:
            rows = lines.rows[lines.row_begins[first] : lines.row_begins[last]]
            heaps.append((rows, self._slide(first, last, numbers, texts), self._bags.references))

        self.past.in_shares(run)
        turned = self.past.turned
        return [*heaps, *self._by_rule(turned, numbers, texts)] if len(turned) else heaps

    @property
    def _bags(self) -> EntryLayout:
        assert self.part.entries is not None
        return self.part.entries

    def _slide(self, first: int, last: int, numbers: np.ndarray, texts: np.ndarray) -> np.ndarray:
        """Slide the windows of the keys `first..last`; returns the heap with the lists."""
        lines, features, heap = self.past.lines, self._bags.features, new_heap()
        moved: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for b, w in np.unique(features[:, :2], axis=0).tolist():
            if w not in moved:
                moved[w] = moves_of(lines, self.counts, self.part.windows, w, first, last)
            bag, mine = self._bags.rows[b], features[(features[:, 0] == b) & (features[:, 1] == w)]
            requests = self.requests if self.part.windows[w, DELAY] == 0 else -1
            window = lines, *moved[w], self.entries, requests, bag, mine
            if bag[RULE] == DISTINCT:
                entry_windows.slide_distinct(*window, first, last, numbers)
            elif bag[RULE] == SPREAD:
                entry_windows.slide_quantiles(*window, first, last, numbers)
            elif bag[RULE] == FOREMOST:
                heap = foremost_entries.slide_first(*window, first, last, texts, heap)
            else:
                heap = entry_history.slide_bag(*window, self.probes, first, last, numbers, texts, heap)
        return heap

    def _by_rule(self, rows: np.ndarray, numbers: np.ndarray, texts: np.ndarray) -> list[HeapPart]:
        """Write some rows by the rule itself; returns the heap with their lists."""
        past, entries, requests = self.past, self.entries, self.requests
        if requests >= 0:
            entries = np.concatenate([entries[:requests], entries[requests + rows]])
        found, lists = np.ascontiguousarray(numbers[rows]), np.ascontiguousarray(texts[rows])
        heap = entry_states.exact(
            *past.by_key, past.asked[rows], past.times, past.available, entries, requests,
            self.counts[rows] if len(self.counts) else self.counts, self.probes[rows], past.ordinal[rows], past.at[rows],
            self._bags.rows, self.part.windows, self._bags.features, found, lists, new_heap(),
        )  # fmt: skip
        numbers[rows], texts[rows] = found, lists
        return [(rows, heap, self._bags.references)]
