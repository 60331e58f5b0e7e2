"""Columns from the heap: what the kernels over entries wrote as lanes, as values."""

from __future__ import annotations

import numpy as np

from millstream.definitions.whole_numbers import objects
from millstream.fold.entry_layout import Listed
from millstream.fold.lanes import EMPTY_LEAST
from millstream.fold.ordered import values_of


def column_of(listed: Listed, refs: np.ndarray, heap: np.ndarray) -> np.ndarray:
    """Return one column: lone values as views carry them, or an array of lists.

    Args:
        listed: the column.
        refs: per row, where in the heap its list begins; -1 is null.
        heap: int64 lanes; a list is its count and its elements.
    """
    there = refs >= 0
    counts = np.where(there, heap[np.maximum(refs, 0)], 0) if len(heap) else np.zeros(len(refs), np.int64)
    if listed.lone:
        return _values(listed, heap, np.where(counts > 0, refs + 1, -1))
    ends = np.cumsum(counts)
    within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)
    elements = _values(listed, heap, np.repeat(refs + 1, counts) + within * listed.width).tolist()
    cuts = zip((ends - counts).tolist(), ends.tolist(), there.tolist(), strict=True)
    return objects([elements[begin:end] if known else None for begin, end, known in cuts])


def _values(listed: Listed, heap: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The values whose lanes begin at some places of the heap, null at -1."""
    lanes = np.zeros((len(places), 1 + listed.width), np.int64)
    lanes[:, 0] = np.where(places >= 0, 0, EMPTY_LEAST)
    there = np.flatnonzero(places >= 0)
    lanes[there, 1:] = heap[places[there, None] + np.arange(listed.width)]
    return values_of(listed.kind, lanes, False)
