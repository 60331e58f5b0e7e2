"""The values of a window that holds few of them, in order, in a buffer: put in, and taken out, sooner than by any tree."""

import numpy as np
from numba import njit

from millstream.fold.entries import INPUT
from millstream.fold.lanes import START

#: How many values a buffer holds at most: as many are moved in about the time in which a tree finds its way.
FEW = 128


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def put_in(values, n, value):
    """Put a value among `n` that ascend, behind those that equal it; returns its place."""
    place = n
    while place > 0 and values[place - 1] > value:
        values[place] = values[place - 1]
        place -= 1
    values[place] = value
    return place


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def take_out(values, n, value):
    """Take a value, the first of those that equal it, out of `n` that ascend; returns its place."""
    place = START
    while values[place] < value:
        place += 1
    for i in range(place + 1, n):
        values[i - 1] = values[i]
    return place


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def holds(values, n, value):
    """Whether a value is among `n` that ascend."""
    place = n
    while place > 0 and values[place - 1] > value:
        place -= 1
    return place > 0 and values[place - 1] == value


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def read_values(bag, entries, numbers, there, values):
    """Write which of some entries are there, and their keys, of one lane.

    Args:
        bag: what the bag is like, one row of `bags`, int64; see `entries`.
        entries: the entries, int64, shape (events, lanes).
        numbers: the rows of `entries` that are read, int64.
        there: where to write which are there, bool, shape (numbers,) or longer.
        values: where to write their keys, int64; likewise.
    """
    at, key = np.uint64(bag[INPUT]), np.uint64(bag[INPUT] + 1)
    for i in range(numbers.size):
        row = np.uint64(numbers[i])
        there[i], values[i] = entries[row, at] != 0, entries[row, key]


@njit(cache=True, nogil=True, error_model="numpy")
def room_for_values(lines, first, last):
    """What `read_values` writes into, for any of a stretch of keys, and a buffer of few values."""
    most = 0
    for k in range(first, last):
        most = max(most, lines.begins[k + 1] - lines.begins[k])
    return np.empty(most, np.bool_), np.empty(most, np.int64), np.empty(FEW, np.int64)
