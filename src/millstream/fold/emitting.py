"""Formulas over a bag: counts, quantiles, lists and maps, from the sorted entries of a window.

A list goes into the heap as `[count, elements...]`; a map's element is its key's lanes and one lane for its value.
"""

import math

import numpy as np
from numba import njit

from millstream.fold.entries import ESTIMATED, KEY, PASSED, WIDTH, copy
from millstream.fold.fixed_point import from_sortable, sortable
from millstream.fold.lanes import emit
from millstream.fold.sketches import middle_of, registered

DISTINCT_COUNT, QUANTILE, ENTROPY, FOREMOST_ROWS, NTH_ROW, RECENT, MOST, MAPPED = range(8)
#: The columns of a row of `features`: its bag, window, formula, output and what the formula takes.
_FORMULA, _OUT, _LIMIT, _SKIP, _LANES, _INVERTED = 2, 3, 4, 5, 6, 7


@njit(cache=True, nogil=True, error_model="numpy")
def emit_entries(bag, feature, inner, data, at, instant, numbers, refs, row, heap, used):
    """Write one feature of the bag at `at` of `data` into the output row; returns how much of the heap is used, or -1."""
    formula, out, mode = feature[_FORMULA], feature[_OUT], data[at] & 3
    if formula == DISTINCT_COUNT:
        numbers[row, out] = np.float64(registered(data, at + 1) if mode == ESTIMATED else data[at] >> 2)
        return used
    if formula == QUANTILE:
        numbers[row, out] = _quantile(data, at, from_sortable(feature[_LIMIT]))
        return used
    if formula == ENTROPY:
        numbers[row, out] = np.nan if mode == PASSED else _entropy(bag, data, at)
        return used
    if mode == PASSED:
        refs[row, out] = -1
        return used
    count = data[at] >> 2
    if heap.size < used + 1 + _elements(bag, feature, data, at) * (feature[_LANES] + 1):
        return -1
    refs[row, out] = used
    if formula == FOREMOST_ROWS or formula == NTH_ROW:  # noqa: SIM109 - Numba compares numbers faster than it searches
        return _rows(bag, feature, data, at, heap, used)
    order = _most(bag, data, at, min(count, feature[_LIMIT]))
    if formula == RECENT:
        order = _recent(bag, data, at, min(count, feature[_LIMIT]))
    heap[used] = order.size
    end = used + 1
    for i in range(order.size):
        place = at + 1 + order[i] * bag[WIDTH]
        copy(data, place, heap, end, feature[_LANES])
        end += feature[_LANES]
        if formula == MAPPED:
            found = np.empty((1, 1))
            which = feature[_SKIP]
            emit(inner, which, which + 1, data, place + bag[KEY] + 1, instant, found, np.empty((1, 0), np.int64), 0)
            heap[end] = sortable(found[0, 0])
            end += 1
    return end


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _elements(bag, feature, data, at):
    """How many elements a list may have."""
    if feature[_FORMULA] == NTH_ROW:
        return np.int64(1)
    if feature[_FORMULA] != FOREMOST_ROWS:
        return min(data[at] >> 2, feature[_LIMIT])
    total = np.int64(0)
    for i in range(data[at] >> 2):
        total += data[at + 1 + i * bag[WIDTH] + bag[KEY]]
    return min(total, feature[_LIMIT])


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _rows(bag, feature, data, at, heap, used):
    """The first entries, each as often as it counts; or the one at a place among them."""
    limit, lanes, count = feature[_LIMIT], feature[_LANES], 0
    nth, end = feature[_FORMULA] == NTH_ROW, used + 1
    for i in range(data[at] >> 2):
        place = at + 1 + i * bag[WIDTH]
        for _ in range(data[place + bag[KEY]]):
            count += 1
            if count > limit:
                break
            if nth and count < limit:
                continue
            for j in range(lanes):
                lane = data[place + feature[_SKIP] + j]
                heap[end + j] = ~lane if feature[_INVERTED] else lane
            end += lanes
    heap[used] = (end - used - 1) // lanes
    return end


@njit(cache=True, nogil=True, error_model="numpy")
def _most(bag, data, at, limit):
    """The places of the entries that count most, of equal ones the smaller key first."""
    count = data[at] >> 2
    many = np.empty(count, np.int64)
    for i in range(count):
        many[i] = -data[at + 1 + i * bag[WIDTH] + bag[KEY]]
    return np.argsort(many, kind="mergesort")[:limit]


@njit(cache=True, nogil=True, error_model="numpy")
def _recent(bag, data, at, limit):
    """The places of the entries that were seen last, of equal ones the greater key first."""
    count = data[at] >> 2
    when = np.empty(count, np.int64)
    for i in range(count):
        when[i] = data[at + 1 + (count - 1 - i) * bag[WIDTH] + bag[KEY]]
    return (count - 1 - np.argsort(-when, kind="mergesort"))[:limit]


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _quantile(data, at, share):
    """The linear interpolation between two order statistics, as NumPy's; of buckets, between their middles."""
    estimated, total = data[at] & 3 == ESTIMATED, np.int64(0)
    end = at + 1 + 2 * (data[at] >> 2)
    for i in range(at + 2, end, 2):
        total += data[i]
    if total == 0:
        return np.nan
    place = np.float64(total - 1) * share
    low = np.int64(math.floor(place))
    rest, seen, i = place - np.float64(low), np.int64(0), at + 1
    while seen + data[i + 1] <= low:
        seen += data[i + 1]
        i += 2
    following = i if low + 1 < seen + data[i + 1] or i + 2 >= end else i + 2
    left = middle_of(data[i]) if estimated else from_sortable(data[i])
    right = middle_of(data[following]) if estimated else from_sortable(data[following])
    if rest >= 0.5:
        return right - (right - left) * (1.0 - rest)
    return left + (right - left) * rest


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _entropy(bag, data, at):
    """Shannon's entropy in bits of the shares of the entries, in the order of their keys."""
    count, total = data[at] >> 2, np.int64(0)
    if count == 0:
        return np.nan
    for i in range(count):
        total += data[at + 1 + i * bag[WIDTH] + bag[KEY]]
    result = 0.0
    for i in range(count):
        share = np.float64(data[at + 1 + i * bag[WIDTH] + bag[KEY]]) / np.float64(total)
        result -= share * math.log2(share)
    return result
