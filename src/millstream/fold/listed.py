"""Lists among what the kernels give: the heaps they are written into, and the columns they are read from.

A heap is int64 lanes: first how many are used, then lists, each a count and the lanes of so many elements. A row refers to
its list by where that begins: 0 is the empty list, which is written nowhere, and -1 is null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numba import njit

from millstream.definitions.list_columns import Lists, Maps
from millstream.definitions.schema import element_of, fields_of, is_map
from millstream.fold.lanes import EMPTY_LEAST
from millstream.fold.ordered import arrow_of
from millstream.fold.shares import in_shares

#: Rows, the heap that they refer to, and which of their lanes do.
HeapPart = tuple[np.ndarray | slice, np.ndarray, Sequence[int]]


def new_heap() -> np.ndarray:
    """A heap without lists."""
    return np.ones(1, np.int64)


def together(parts: Sequence[HeapPart], texts: np.ndarray) -> np.ndarray:
    """Put heaps together into one that rows refer to instead.

    Args:
        parts: the rows that refer to a heap, it, and which of their lanes do.
        texts: the lanes of all rows, changed in place.
    """
    used = [(rows, heap, places) for rows, heap, places in parts if heap[0] > 1]
    if len(used) < 2:
        return used[0][1] if used else new_heap()
    out = np.empty(1 + sum(int(heap[0]) - 1 for _, heap, _ in used), np.int64)
    end = 1
    for rows, heap, places in used:
        out[end : end + heap[0] - 1] = heap[1 : heap[0]]
        for place in places:
            refs = texts[rows, place]
            texts[rows, place] = np.where(refs > 0, refs + (end - 1), refs)
        end += int(heap[0]) - 1
    out[0] = end
    return out


def lists_of(kind: str, widths: Sequence[int], heap: np.ndarray, refs: np.ndarray) -> Lists:
    """Return a column of lists, or maps, of a type, by where each row's begins.

    Args:
        kind: the type of the column, such as "list<int64>".
        widths: how many lanes an element has, or each of its fields, which follows one that says whether it is there.
        heap: the lists.
        refs: where each row's begins in the heap, int64; 0 is the empty list, -1 null.
    """
    element = element_of(kind) or ""
    fields = fields_of(element)
    counts = np.where(refs > 0, heap[np.maximum(refs, 0)], 0)
    offsets = np.zeros(len(refs) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    lanes = np.empty((int(offsets[-1]), sum(widths) + (len(widths) if fields else 0)), np.int64)
    refs = np.ascontiguousarray(refs)
    in_shares(
        offsets[1:] + np.arange(len(refs)),
        lambda first, last: _take(heap, refs[first:last], offsets[first : last + 1], lanes),
    )
    nulls = refs < 0
    elements = _structs(fields, widths, lanes) if fields else arrow_of(element, lanes)
    return (Maps if is_map(kind) else Lists)(offsets, elements, ~nulls if nulls.any() else None)


def _structs(fields: Mapping[str, str], widths: Sequence[int], lanes: np.ndarray) -> pa.Array:
    """Structs, whose fields are lanes side by side."""
    columns, at = [], 0
    for kind, width in zip(fields.values(), widths, strict=True):
        there = lanes[:, at] != 0
        found = arrow_of(kind, lanes[there, at + 1 : at + 1 + width])
        columns.append(found if there.all() else found.take(pa.array(np.cumsum(there) - 1, mask=~there)))
        at += 1 + width
    return pa.StructArray.from_arrays(columns, list(fields))


def fixed_lists(dtype: str, lanes: np.ndarray) -> Lists:
    """Return a column of lists that all have one length: counts, or numbers, which may be null, in sortable form."""
    if dtype == "list<int64>":
        return Lists.of_equal(pa.array(np.ascontiguousarray(lanes).reshape(-1)), len(lanes))
    nulls = lanes[:, 0] == EMPTY_LEAST
    numbers = arrow_of("float64", np.where(nulls[:, None], 0, lanes).reshape(-1, 1))
    return Lists.of_equal(numbers, len(lanes), ~nulls if nulls.any() else None)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _take(heap, refs, offsets, out):  # type: ignore[no-untyped-def]
    for i in range(refs.size):
        place = refs[i] + 1
        for j in range(offsets[i], offsets[i + 1]):
            for lane in range(out.shape[1]):
                out[j, lane] = heap[place]
                place += 1
