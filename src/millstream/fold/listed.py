"""Lists among what the kernels give: the heaps they are written into, and the columns they are read from.

A heap is int64 lanes: first how many are used, then the lanes of elements. A row refers to its list by one number, made of
where that begins and how many elements it has, so that lists may have elements in common: 0 is the empty list, -1 is null.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numba import njit

from millstream.definitions.list_columns import Lists, Maps
from millstream.definitions.schema import element_of, fields_of, is_map
from millstream.fold.lanes import EMPTY_LEAST
from millstream.fold.ordered import arrow_of, value_of
from millstream.fold.shares import in_shares

#: How many bits of a reference say how many elements the list has; those above say where it begins.
_COUNT = np.int64(16)
_COUNTS = (np.int64(1) << _COUNT) - 1
_LISTS = int(_COUNTS) + 1
_ONE = np.uint64(1)

#: Rows, the heap that they refer to, and which of their lanes do.
HeapPart = tuple[np.ndarray | slice, np.ndarray, Sequence[int]]


#: Up to how many elements Python makes one by one.
_FEW = 128
_NULL = np.zeros(1, np.bool_)
_NONE_USED = np.ones(1, np.int64)
#: A field of structs: its name and type, the lane that says whether it is there, and the one before which its others end.
_Field = tuple[str, str, int, int]


@dataclass(slots=True, eq=False)
class LaneElements:
    """Elements of lists as lanes, a row for each; or of maps, whose `fields` each follow a lane that says if it is there."""

    kind: str
    fields: Sequence[_Field]
    lanes: np.ndarray

    def to_arrow(self) -> pa.Array:
        """Return them as Arrow's, instants as whole numbers (µs)."""
        return _structs(self.fields, self.lanes) if self.fields else arrow_of(self.kind, self.lanes)

    def to_pylist(self) -> list[Any]:
        """Return them as Python's, the same values; few of them without Arrow, which would take longer."""
        if len(self.lanes) > _FEW:
            found: list[Any] = self.to_arrow().to_pylist()
            return found
        rows = self.lanes.tolist()
        if not self.fields:
            return [value_of(self.kind, lanes) for lanes in rows]
        # What the lanes of a field that is not there are means nothing.
        return [
            {name: value_of(kind, lanes[at + 1 : end]) if lanes[at] else None for name, kind, at, end in self.fields}
            for lanes in rows
        ]


@lru_cache(maxsize=1_024)
def _form(kind: str, widths: tuple[int, ...]) -> tuple[type[Lists], str, tuple[_Field, ...], int]:
    """What a column of lists is made as, the type of its elements, their fields, and how many lanes each element has."""
    element = element_of(kind) or ""
    fields = fields_of(element) or {}
    ends = list(accumulate((1 + width for width in widths), initial=0)) if fields else [0, *widths]
    places = tuple((name, one, at, end) for (name, one), (at, end) in zip(fields.items(), pairwise(ends), strict=False))
    return Maps if is_map(kind) else Lists, element, places, ends[-1]


def new_heap() -> np.ndarray:
    """A heap without lists."""
    return _NONE_USED.copy()


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def reference(begin, count):  # type: ignore[no-untyped-def]
    """The number by which a row refers to a list of so many elements that begins at a place of a heap."""
    return (begin << _COUNT) | count if count > 0 else np.int64(0)


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
        lanes = int(heap[0]) - 1
        out[end : end + lanes] = heap[1 : 1 + lanes]
        numbers = np.arange(len(texts))[rows] if isinstance(rows, slice) else rows
        for place in places:
            _refer_to(texts, numbers, place, end - 1)
        end += lanes
    out[0] = end
    return out


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _refer_to(texts, rows, place, further):  # type: ignore[no-untyped-def]
    """Let rows refer to where their lists are now: so many places further."""
    column = np.uint64(place)
    for i in range(rows.size):
        row = np.uint64(rows[i])
        if texts[row, column] > 0:
            texts[row, column] += further << _COUNT


def lists_of(kind: str, widths: tuple[int, ...], heap: np.ndarray, refs: np.ndarray) -> Lists:
    """Return a column of lists, or maps, of a type, by how each row refers to its list.

    Args:
        kind: the type of the column, such as "list<int64>".
        widths: how many lanes an element has, or each of its fields, which follows one that says whether it is there.
        heap: the lists.
        refs: how each row refers to its list, int64, as `reference` makes it.
    """
    made, element, fields, width = _form(kind, widths)
    offsets = np.zeros(len(refs) + 1, np.int64)
    np.cumsum(np.where(refs > 0, refs & _COUNTS, 0), out=offsets[1:])
    lanes = np.empty((int(offsets[-1]), width), np.int64)
    refs = np.ascontiguousarray(refs)
    in_shares(
        offsets[1:] + np.arange(len(refs)),
        lambda first, last: _take(heap, refs[first:last], offsets[first : last + 1], lanes.shape[1], lanes.reshape(-1)),
    )
    nulls, elements = refs < 0, LaneElements(element, fields, lanes)
    # Many are Arrow's at once, which takes less memory than their lanes.
    return made(offsets, elements.to_arrow() if len(lanes) > _FEW else elements, ~nulls if nulls.any() else None)


def only_list_of(kind: str, widths: tuple[int, ...], heap: np.ndarray, ref: int) -> Lists:
    """Return what `lists_of` does for one row, sooner: its lanes stay where they are in the heap.

    Args:
        kind, widths, heap: as in `lists_of`.
        ref: how the row refers to its list.
    """
    made, element, fields, width = _form(kind, widths)
    begin, count = divmod(max(ref, 0), _LISTS)
    lanes = heap[begin : begin + count * width].reshape(count, width)
    return made(np.array((0, count)), LaneElements(element, fields, lanes), _NULL.copy() if ref < 0 else None)


def _structs(fields: Sequence[_Field], lanes: np.ndarray) -> pa.Array:
    """Structs, whose fields are lanes side by side."""
    columns = []
    for _, kind, at, end in fields:
        there = lanes[:, at] != 0
        found = arrow_of(kind, lanes[there, at + 1 : end])
        columns.append(found if there.all() else found.take(pa.array(np.cumsum(there) - 1, mask=~there)))
    return pa.StructArray.from_arrays(columns, [name for name, *_ in fields])


def fixed_lists(dtype: str, lanes: np.ndarray) -> Lists:
    """Return a column of lists that all have one length: counts, or numbers, which may be null, in sortable form."""
    if dtype == "list<int64>":
        return Lists.of_equal(pa.array(np.ascontiguousarray(lanes).reshape(-1)), len(lanes))
    nulls = lanes[:, 0] == EMPTY_LEAST
    numbers = arrow_of("float64", np.where(nulls[:, None], 0, lanes).reshape(-1, 1))
    return Lists.of_equal(numbers, len(lanes), ~nulls if nulls.any() else None)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _take(heap, refs, offsets, width, out):  # type: ignore[no-untyped-def]
    """Write the lanes of lists one after another; places without a sign need no look at it."""
    to = np.uint64(offsets[0] * width)
    for i in range(refs.size):
        place = np.uint64(refs[i] >> _COUNT)
        for _ in range((offsets[i + 1] - offsets[i]) * width):
            out[to] = heap[place]
            to += _ONE
            place += _ONE
