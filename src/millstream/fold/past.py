"""History that is asked: events, the (key, instant) rows that are asked of them, and what their lanes give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from millstream.fold import history, kernels, lane_history
from millstream.fold.layout import FoldLayout
from millstream.fold.shares import in_shares
from millstream.fold.timelines import Timelines, timelines_of


@dataclass(frozen=True, eq=False)
class Past:
    """Events, and the rows that are asked of them; see `fold.as_of` for what these are.

    `codes` are the keys of the events, which happened at `times`, and `asked` those of the rows.
    """

    n_keys: int
    codes: np.ndarray
    times: np.ndarray
    available: np.ndarray
    asked: np.ndarray
    ordinal: np.ndarray
    at: np.ndarray

    @cached_property
    def lines(self) -> Timelines:
        """The timelines of all keys."""
        events, begins = self.by_key
        every = np.array_equal(self.codes, self.asked)  # as where each event is asked about
        rows, row_begins = (events.copy(), begins) if every else kernels.by_key(self.asked, self.n_keys)
        return timelines_of(events, begins, self.times, self.available, rows, row_begins, self.ordinal, self.at)

    @cached_property
    def by_key(self) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of the events, key after key, and where each key's begin."""
        found: tuple[np.ndarray, np.ndarray] = kernels.by_key(self.codes, self.n_keys)
        return found

    @property
    def turned(self) -> np.ndarray:
        """The rows that are read by the rule, for windows do not slide past all that is asked of their keys."""
        turned = self.lines.turned
        return np.flatnonzero(turned[self.asked]) if turned.any() else np.empty(0, np.int64)

    def of(self, places: np.ndarray) -> Past:
        """The same rows, asked of the events at some places."""
        return replace(self, codes=self.codes[places], times=self.times[places], available=self.available[places])

    def in_shares(self, run: Callable[[int, int], object]) -> None:
        """Call `run(first, last)` for every stretch of keys, side by side where there are many events and rows."""
        in_shares(self.lines.begins[1:] + self.lines.row_begins[1:], run)


@dataclass(frozen=True, eq=False)
class LaneHistory:
    """The lanes of past events, in the windows of `part`.

    `requests` are lanes to add to each row that is `added` one; both are empty where none is.
    """

    part: FoldLayout
    past: Past
    lanes: np.ndarray
    requests: np.ndarray
    added: np.ndarray

    def by_rule(self, numbers: np.ndarray, texts: np.ndarray) -> None:
        """Write what the lanes in each window come to, by the rule itself."""
        self._by_rule(np.arange(len(self.past.at)), numbers, texts)

    def sliding(self, numbers: np.ndarray, texts: np.ndarray) -> None:
        """Write what `by_rule` does, each window sliding along a key's events."""
        part, past = self.part, self.past
        if not len(part.features):
            return
        past.in_shares(
            lambda first, last: lane_history.slide(
                past.lines, self.lanes, self.requests, self.added, part.ops, part.windows, part.window_ops, part.features,
                part.meta, first, last, numbers, texts,
            )
        )  # fmt: skip
        if len(past.turned):
            self._by_rule(past.turned, numbers, texts)

    def sweeping(self, settled: np.ndarray, numbers: np.ndarray, texts: np.ndarray) -> None:
        """Write what the states that serving would have held give.

        Args:
            settled: per event, the instant (µs) by which it lets go of what is older, int64, shape (events,); see
                `states.settled`.
            numbers: the output's numbers, float64, a row for each (key, instant) row, changed in place.
            texts: the output's lanes, int64, a row for each, changed in place.
        """
        part, past = self.part, self.past
        if not len(part.features):
            return
        past.in_shares(
            lambda first, last: history.sweep(
                past.lines, settled, self.lanes, self.requests, part.ops, part.windows, part.features, part.levels,
                part.meta, first, last, numbers, texts,
            )
        )  # fmt: skip

    def _by_rule(self, rows: np.ndarray, numbers: np.ndarray, texts: np.ndarray) -> None:
        """Write some rows by the rule itself."""
        part, past, requests, added = self.part, self.past, self.requests, self.added
        if not len(part.features):
            return
        if len(requests):
            requests = requests.reshape(len(past.at), -1)[rows].reshape(-1)
        found, strings = np.ascontiguousarray(numbers[rows]), np.ascontiguousarray(texts[rows])
        history.exact(
            *past.by_key, past.asked[rows], past.times, past.available, self.lanes, past.ordinal[rows], past.at[rows],
            requests, added[rows] if len(added) else added, part.ops, part.windows, part.features, part.meta, found, strings,
        )  # fmt: skip
        numbers[rows], texts[rows] = found, strings
