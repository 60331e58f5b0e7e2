"""Formulas over a bag: counts, quantiles, single values and lists, from the sorted entries of a window.

A value goes into the lanes of the output as the kernels over lanes put it there: after one that says whether there is any.
A list goes into a heap, and a reference to it into the lanes of the output; see `fold.listed`.
"""

import math

import numpy as np
from numba import njit

from millstream.fold.entries import ESTIMATED, KEY, PASSED, WIDTH, copy, with_room
from millstream.fold.fixed_point import from_sortable, sortable, sum_of
from millstream.fold.lanes import COUNT, EMPTY_GREATEST, EMPTY_LEAST, ONE, START, TEXT, emit
from millstream.fold.listed import reference
from millstream.fold.sketches import middle_of, registered

DISTINCT_COUNT, QUANTILE, ENTROPY, LAG, MODE, ROWS, MOST, RECENT, MAPPED, SEEN, COUNTED, SINCE, SUMMED = range(13)
#: From here on formulas look up what a request has.
LOOKS_UP = SEEN
#: The columns of a row of `features` after its bag and window: its formula, output, a number that the formula takes (of what
#: is looked up, where that stands in the lanes of a request); and for a list, where in an entry what it holds begins, how
#: many lanes that has, and whether their bits are inverted.
FORMULA, OUT, NUMBER, SKIP, LANES, INVERTED = range(2, 8)
#: Then for a map, how many lanes a value has, and from `INNER` on what `lanes` makes of those beside each key: its formula
#: and window, `INNER_NUMBERS` numbers and its output.
VALUE_LANES, INNER, INNER_NUMBERS = 8, 9, 6
#: How many columns a row of `features` has.
COLUMNS = INNER + INNER_NUMBERS + 3


@njit(cache=True, nogil=True, error_model="numpy")
def emit_entries(bag, feature, data, at, probes, numbers, texts, row, heap):
    """Write one feature of a bag into an output row; returns the heap, which may be another.

    Args:
        bag: what the bag is like; see `entries`.
        feature: the feature, one row of `features`, int64, whose columns are named above.
        data: the array that begins with the bag, int64.
        at: the instant (µs) that is read.
        probes: what requests look up, a row for each row of the output, as `Probes.lanes`; only formulas that look up
            read them.
        numbers: the output's numbers, float64, shape (rows, numbers), NaN for null.
        texts: the output's lanes, int64, shape (rows, lanes), of features that are given out as such.
        row: the row of both to write.
        heap: the lists that there are already; see `listed`.
    """
    number, heap = _emitted(bag, feature, data, at, probes, texts, row, heap)
    if feature[FORMULA] <= ENTROPY or feature[FORMULA] >= LOOKS_UP:
        numbers[row, feature[OUT]] = number
    return heap


@njit(cache=True, nogil=True, error_model="numpy")
def _emitted(bag, feature, data, at, probes, texts, row, heap):
    """The number that a feature is, where it is one; what is written as lanes or into the heap is written."""
    formula, out, mode, number = feature[FORMULA], feature[OUT], data[0] & 3, np.nan
    if formula == DISTINCT_COUNT:
        number = np.float64(registered(data, ONE) if mode == ESTIMATED else data[0] >> 2)
    elif formula == QUANTILE:
        number = _quantile(data, from_sortable(feature[NUMBER]))
    elif formula == ENTROPY:
        number = np.nan if mode == PASSED else _entropy(bag, data)
    elif formula == LAG:
        _lag(bag, feature[NUMBER], data, texts, row, out)
    elif formula == MODE:
        _mode(bag, data, texts, row, out)
    elif formula >= LOOKS_UP:
        number = _looked_up(bag, feature, data, at, probes[row])
    elif formula == ROWS:
        texts[row, out], heap = _rows(bag, feature, data, heap)
    elif mode == PASSED:
        texts[row, out] = -1
    elif formula == MAPPED:
        texts[row, out], heap = _mapped(bag, feature, data, heap)
    else:
        places = _recent(bag, data) if formula == RECENT else _most(bag, data)
        texts[row, out], heap = _listed(bag, feature, data, places[: feature[NUMBER]], heap)
    return number, heap


@njit(cache=True, nogil=True, error_model="numpy")
def _listed(bag, feature, data, places, heap):
    """Add the list of what the entries at some places hold; returns a reference to it, and the heap."""
    begin = heap[0]
    heap, to = with_room(heap, begin, places.size * feature[LANES]), begin
    for place in places:
        copy(data, place + feature[SKIP], heap, to, feature[LANES])
        to += feature[LANES]
    heap[0] = to
    return reference(begin, places.size), heap


@njit(cache=True, nogil=True, error_model="numpy")
def _mapped(bag, feature, data, heap):
    """Add the keys that count most, each with what its lanes come to; returns a reference to the list, and the heap."""
    places, begin, width = _most(bag, data)[: feature[NUMBER]], heap[0], feature[VALUE_LANES]
    heap, to = with_room(heap, begin, places.size * (2 + feature[LANES] + width)), begin
    inner = feature[INNER:COLUMNS].copy().reshape(1, COLUMNS - INNER)
    number, kept = np.empty((1, 1)), np.empty((1, 1 + width), np.int64)
    for place in places:
        heap[to] = 1
        copy(data, place, heap, to + 1, feature[LANES])
        to += 1 + feature[LANES]
        emit(inner, START, ONE, data, place + bag[KEY], START, number, kept, START)
        if inner[0, 0] == COUNT:
            kept[0, 0], kept[0, 1] = 0, np.int64(number[0, 0])
        elif inner[0, 0] != TEXT:
            kept[0, 0] = EMPTY_LEAST if np.isnan(number[0, 0]) else 0
            kept[0, 1] = sortable(number[0, 0])
        heap[to] = 1 if kept[0, 0] != EMPTY_LEAST and kept[0, 0] != EMPTY_GREATEST else 0
        copy(kept[0], 1, heap, to + 1, width)
        to += 1 + width
    heap[0] = to
    return reference(begin, places.size), heap


@njit(cache=True, nogil=True, error_model="numpy")
def _recent(bag, data):
    """The places of the entries by their times, the newest first, of equal ones the later of the entries."""
    count = data[0] >> 2
    when = np.empty(count, np.int64)
    for i in range(count):
        when[i] = -data[1 + (count - 1 - i) * bag[WIDTH] + bag[KEY]]
    return 1 + bag[WIDTH] * (count - 1 - np.argsort(when, kind="mergesort"))


@njit(cache=True, nogil=True, error_model="numpy")
def _most(bag, data):
    """The places of the entries by how much they count, most first, of equal ones the smaller key first."""
    count = data[0] >> 2
    many = np.empty(count, np.int64)
    for i in range(count):
        many[i] = -data[1 + i * bag[WIDTH] + bag[KEY]]
    return 1 + bag[WIDTH] * np.argsort(many, kind="mergesort")


@njit(cache=True, nogil=True, error_model="numpy")
def _rows(bag, feature, data, heap):
    """Add the list of the first so many events, in the order of their entries; returns a reference to it, and the heap."""
    count, width = np.int64(0), bag[WIDTH]
    end = 1 + (data[0] >> 2) * width
    for place in range(1, end, width):
        count += data[place + bag[KEY]]
    count, begin = min(count, feature[NUMBER]), heap[0]
    heap, to, left = with_room(heap, begin, count * feature[LANES]), begin, count
    for place in range(1, end, width):
        for _ in range(min(left, data[place + bag[KEY]])):
            for j in range(feature[LANES]):
                lane = data[place + feature[SKIP] + j]
                heap[to + j] = ~lane if feature[INVERTED] else lane
            to += feature[LANES]
            left -= 1
        if left == 0:
            break
    heap[0] = to
    return reference(begin, count), heap


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _looked_up(bag, feature, data, at, probes):
    """What the entry says whose key, of one lane, is that of a request; null without one, and where too many differ.

    An entry is its key, how often it counts, and then what the formula is made of.
    """
    formula, asked = feature[FORMULA], feature[NUMBER]
    if data[0] & 3 == PASSED or not probes[asked]:
        return np.nan
    key, low, high = probes[asked + 1], np.int64(0), data[0] >> 2
    while low < high:
        middle = (low + high) // 2
        if data[1 + middle * bag[WIDTH]] < key:
            low = middle + 1
        else:
            high = middle
    place = 1 + low * bag[WIDTH]
    there = low < data[0] >> 2 and data[place] == key
    if formula == SEEN or not there:
        return np.nan if formula == SINCE else np.float64(there)
    beside = place + bag[KEY]
    if formula == COUNTED:
        return np.float64(data[beside])
    if formula == SINCE:
        return np.float64(at - data[beside + 1]) / 1e6
    return sum_of(data[beside + 1], data[beside + 2], data[beside + 3])


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _lag(bag, n, data, texts, row, out):
    """The n-th event, whose lanes are inverted so that the newest comes first."""
    texts[row, out], seen = EMPTY_LEAST, np.int64(0)
    for place in range(1, 1 + (data[0] >> 2) * bag[WIDTH], bag[WIDTH]):
        seen += data[place + bag[KEY]]
        if seen >= n:
            for j in range(bag[KEY]):
                texts[row, out + j] = ~data[place + j]
            return


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _mode(bag, data, texts, row, out):
    """The key that counts most, of equal ones the smallest."""
    texts[row, out], most = EMPTY_LEAST, np.int64(0)
    for place in range(1, 1 + (data[0] >> 2) * bag[WIDTH], bag[WIDTH]):
        if data[place + bag[KEY]] > most:
            most = data[place + bag[KEY]]
            texts[row, out] = 0
            copy(data, place, texts[row], out + 1, bag[KEY])


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def between(left, right, rest):
    """The point on the way from one number to another, rounded as NumPy's quantiles are.

    Args:
        left: the number that the way begins at.
        right: the number that it ends at.
        rest: how much of the way is gone, from 0 up to, not including, 1.
    """
    if rest >= 0.5:
        return right - (right - left) * (1.0 - rest)
    return left + (right - left) * rest


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _quantile(data, share):
    """The linear interpolation between two order statistics, as NumPy's; of buckets, between their middles."""
    estimated, total = data[0] & 3 == ESTIMATED, np.int64(0)
    end = 1 + 2 * (data[0] >> 2)
    for i in range(2, end, 2):
        total += data[i]
    if total == 0:
        return np.nan
    place = np.float64(total - 1) * share
    low = np.int64(math.floor(place))
    rest, seen, i = place - np.float64(low), np.int64(0), 1
    while seen + data[i + 1] <= low:
        seen += data[i + 1]
        i += 2
    following = i if low + 1 < seen + data[i + 1] or i + 2 >= end else i + 2
    left = middle_of(data[i]) if estimated else from_sortable(data[i])
    right = middle_of(data[following]) if estimated else from_sortable(data[following])
    return between(left, right, rest)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _entropy(bag, data):
    """Shannon's entropy in bits of the shares of the entries, in the order of their keys."""
    count, total = data[0] >> 2, np.int64(0)
    if count == 0:
        return np.nan
    for i in range(count):
        total += data[1 + i * bag[WIDTH] + bag[KEY]]
    result = 0.0
    for i in range(count):
        share = np.float64(data[1 + i * bag[WIDTH] + bag[KEY]]) / np.float64(total)
        result -= share * math.log2(share)
    return result
