"""Bounds: which keys have more different values in a window than their features tell apart, and are null for it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from millstream.fold import emitting, entry_states, stretches
from millstream.fold.entries import BOUNDED, RULE
from millstream.fold.entry_values import NO_ENTRIES, NONE_ADDED
from millstream.fold.layout import FoldLayout, Layout
from millstream.fold.listed import new_heap
from millstream.fold.states import States


def beyond_bounds(layout: Layout, states: States, at: np.ndarray) -> np.ndarray:
    """Return which states hold more different values, in the window of some feature at an instant, than it tells apart.

    Whatever is looked up in such a window is null, and in any other it is a number: so one value is looked up in all.

    Args:
        layout: the group's layout.
        states: its states.
        at: the instant (µs) at which each is read, int64, shape (states,).

    Returns:
        One boolean for each state.
    """
    found = np.zeros(len(states), bool)
    anything = np.tile(np.array([1, 0], np.int64), (len(states), 1))
    for number, (part, features) in enumerate(_bounded(layout)):
        if not len(features):
            continue
        numbers = np.zeros((len(states), len(features)))
        texts = np.zeros((len(states), 1), np.int64)
        bags = part.entries.rows  # type: ignore[union-attr]
        if number == 0:
            entry_states.value(
                states.data, states.offsets, at, NO_ENTRIES, anything, bags, part.windows, features, part.meta, numbers,
                texts, new_heap(),
            )  # fmt: skip
        else:
            stretches.value_of_bags(
                states.data, states.offsets, at, number - 1, NO_ENTRIES, NONE_ADDED, anything, bags, part.windows, features,
                part.meta[0], numbers, texts, new_heap(),
            )  # fmt: skip
        found |= np.isnan(numbers).any(axis=1)
    return found


def _bounded(layout: Layout) -> Iterator[tuple[FoldLayout, np.ndarray]]:
    """The parts of a layout, each with a feature for every window of a bag that is bounded, which looks something up in it."""
    parts: tuple[FoldLayout, ...] = (layout, *layout.sections)
    for part in parts:
        rows = [] if part.entries is None else part.entries.features.tolist()
        bags = [] if part.entries is None else part.entries.rows[:, RULE].tolist()
        pairs = sorted({(bag, window) for bag, window, *_ in rows if bags[bag] == BOUNDED})
        features = np.zeros((len(pairs), emitting.COLUMNS), np.int64)
        for out, pair in enumerate(pairs):
            features[out, :4] = (*pair, emitting.COUNTED, out)
        yield part, features
