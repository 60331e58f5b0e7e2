"""What a group's row windows and sessions keep behind the rest of its states, and what they give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from millstream.fold import stretches
from millstream.fold.entries import COLUMNS
from millstream.fold.entry_values import NONE_ADDED, NOTHING_ASKED, EntryHistory
from millstream.fold.layout import AHEAD, RULE_GAP, Layout, Section
from millstream.fold.listed import HeapPart, new_heap, together
from millstream.fold.past import LaneHistory, Past
from millstream.fold.spans import LOWEST

if TYPE_CHECKING:
    from millstream.fold.preparation import Prepared

_NO_BAGS = np.empty((0, COLUMNS), np.int64)


@dataclass(frozen=True, eq=False)
class SectionRows:
    """What a section has of events, or of one more at each read: which count for it, their lanes and their entries."""

    counts: np.ndarray
    lanes: np.ndarray
    entries: np.ndarray

    def take(self, places: np.ndarray) -> SectionRows:
        """The rows at some places."""
        return SectionRows(self.counts[places], self.lanes[places], self.entries[places])


_NO_ROWS = SectionRows(NONE_ADDED, np.empty((0, 0), np.int64), np.empty((0, 0), np.int64))


def parted(layout: Layout, requests: np.ndarray) -> tuple[SectionRows, ...]:
    """What requests, as `request_lanes` makes them, add to each section."""
    at = layout.n_lanes + (layout.entries.width if layout.entries else 0)
    found = []
    for section in layout.sections:
        entries = at + 1 + section.n_lanes
        end = entries + (section.entries.width if section.entries else 0)
        counts, lanes = requests[:, at] != 0, np.ascontiguousarray(requests[:, at + 1 : entries])
        found.append(SectionRows(counts, lanes, np.ascontiguousarray(requests[:, entries:end])))
        at = end
    return tuple(found)


def _no_requests(layout: Layout) -> tuple[SectionRows, ...]:
    return (_NO_ROWS,) * len(layout.sections)


def joined(pieces: list[tuple[SectionRows, ...]]) -> tuple[SectionRows, ...]:
    """What each section reads of the events of several pieces, one piece after another."""
    return tuple(
        SectionRows(*(np.concatenate([getattr(one, name) for one in every]) for name in ("counts", "lanes", "entries")))
        for every in zip(*pieces, strict=True)
    )


def _bags(section: Section) -> np.ndarray:
    return section.entries.rows if section.entries else _NO_BAGS


def folded(layout: Layout, events: Prepared, data: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """States that were folded without them, with the sections of the same events behind.

    Args:
        layout: the group's layout.
        events: the events that were folded.
        data: their states without sections, one after another, int64.
        offsets: where each begins in `data`, and where the last ends, int64, shape (keys + 1,).

    Returns:
        The states one after another, and where each begins and the last ends.
    """
    since = stretches.exact_of(data, offsets, layout.meta)
    parts = [
        stretches.fold(
            events.codes, len(events.keys), since, events.times, rows.counts, rows.lanes.reshape(-1), rows.entries,
            section.ops, _bags(section), section.rule, section.meta[0],
        )
        for section, rows in zip(layout.sections, events.sections, strict=True)
    ]  # fmt: skip
    return _closed(data, offsets, parts)


def merged(
    layout: Layout,
    data: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    states: tuple[np.ndarray, np.ndarray],
    *,
    whole: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """States that were merged without them, with the merge of the sections of both behind.

    Args:
        layout: the group's layout.
        data: the states of both sides, with their sections, int64.
        left: where in `data` the states of one side begin, and where the last ends, int64, shape (keys + 1,).
        right: the same of the other side, for the same keys.
        states: the merged states without sections, one after another, and where each begins and the last ends.
        whole: whether these have all events up to their newest arrival, so that sessions which no row can reach any
            more are let go of.

    Returns:
        The states one after another, and where each begins and the last ends.
    """
    since = stretches.exact_of(*states, layout.meta)
    parts = [
        stretches.merge(
            data, left, right, number, since, _oldest(section, *states) if whole else np.full_like(since, LOWEST),
            section.ops, _bags(section), section.rule, section.meta[0],
        )
        for number, section in enumerate(layout.sections)
    ]  # fmt: skip
    return _closed(*states, parts)


def _oldest(section: Section, data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Per state, the instant before which a session of it must have ended so that no row can make it longer."""
    found = np.full(len(offsets) - 1, LOWEST)
    filled = offsets[1:] > offsets[:-1]
    found[filled] = data[offsets[:-1][filled] + 1] - section.late - section.rule[RULE_GAP] - AHEAD
    return found


def _closed(
    data: np.ndarray, offsets: np.ndarray, parts: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    before = np.zeros(len(offsets) - 1, np.int64)
    for i, (more, begins) in enumerate(parts):
        data, offsets = stretches.appended(data, offsets, more, begins, before, i == len(parts) - 1)
        before += np.diff(begins)
    return data, offsets


def of_states(
    layout: Layout,
    data: np.ndarray,
    offsets: np.ndarray,
    at: np.ndarray,
    numbers: np.ndarray,
    texts: np.ndarray,
    heap: np.ndarray | None,
    requests: Sequence[SectionRows] = (),
    probes: np.ndarray = NOTHING_ASKED,
) -> np.ndarray:
    """Write what the sections of states give at instants; returns the heap, with their lists behind those in it.

    Args:
        layout: the group's layout.
        data: the states, one after another, int64.
        offsets: where each begins in `data`, and where the last ends, int64, shape (states + 1,).
        at: the instant of each (µs), int64, shape (states,).
        numbers: the output's numbers, float64, a row for each state, changed in place.
        texts: the output's lanes, int64, a row for each state, changed in place.
        heap: the lists that rows of `texts` refer to already; None where there are none.
        requests: what one more event at each instant adds to each section, as `parted` gives it; none unless given.
        probes: what requests look up, a row for each state, as `Probes.lanes`.
    """
    found = new_heap() if heap is None else heap
    for number, (section, added) in enumerate(zip(layout.sections, requests or _no_requests(layout), strict=True)):
        size = section.meta[0]
        stretches.value(
            data, offsets, at, number, added.lanes.reshape(-1), added.counts, section.ops, section.windows, section.features,
            size, numbers, texts,
        )  # fmt: skip
        if section.entries:
            found = stretches.value_of_bags(
                data, offsets, at, number, added.entries, added.counts, probes, section.entries.rows, section.windows,
                section.entries.features, size, numbers, texts, found,
            )  # fmt: skip
    return found


@dataclass(frozen=True, eq=False)
class SectionHistory:
    """What the sections of a group have of past events; `probes` are the lanes of what requests look up."""

    layout: Layout
    events: Prepared
    past: Past
    requests: Sequence[SectionRows] = ()
    probes: np.ndarray = field(default_factory=lambda: NOTHING_ASKED)

    def write(
        self, numbers: np.ndarray, texts: np.ndarray, heap: np.ndarray | None, *, by_rule: bool = False
    ) -> np.ndarray:
        """Write what the sections' windows give of history; returns the heap, with their lists behind those in it.

        Args:
            numbers: the output's numbers, float64, a row for each (key, instant) row, changed in place.
            texts: the output's lanes, int64, a row for each, changed in place.
            heap: the lists that rows of `texts` refer to already; None where there are none.
            by_rule: whether the rule itself is read, every row of a key being looked at; else windows slide along a
                key's rows.
        """
        every = slice(0, len(self.past.at))
        main = self.layout.entries.references if self.layout.entries else ()
        heaps: list[HeapPart] = [(every, heap, main)] if heap is not None else []
        added = self.requests or _no_requests(self.layout)
        for section, rows, more in zip(self.layout.sections, self.events.sections, added, strict=True):
            heaps += self._write_one(section, rows, more, numbers, texts, by_rule=by_rule)
        return together(heaps, texts)

    def _write_one(
        self,
        section: Section,
        rows: SectionRows,
        more: SectionRows,
        numbers: np.ndarray,
        texts: np.ndarray,
        *,
        by_rule: bool,
    ) -> list[HeapPart]:
        """Write what the windows of one section give of its rows alone; returns the heaps with their lists."""
        past = self.past
        if not rows.counts.all():
            places = np.flatnonzero(rows.counts)
            rows, past = rows.take(places), past.of(places)
        lanes = LaneHistory(section, past, rows.lanes.reshape(-1), more.lanes.reshape(-1), more.counts)
        (lanes.by_rule if by_rule else lanes.sliding)(numbers, texts)
        if section.entries is None:
            return []
        requests = more.entries if len(more.counts) else None
        entries = EntryHistory.of_events(section, past, rows.entries, requests, more.counts, self.probes)
        return (entries.by_rule if by_rule else entries.sliding)(numbers, texts)
