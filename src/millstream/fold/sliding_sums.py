"""Windows of what adds up alone, where events come in the order of their times: differences, whatever enters and leaves."""

import numpy as np
from numba import njit

from millstream.fold.lanes import ADD, START, clear, combine, emit

_U0, _ONE = np.uint64(0), np.uint64(1)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def add_up(own, size, ops):
    """Make of each event's lanes that add up those of all events up to it.

    Args:
        own: the lanes of a key's events, one event after another, int64, changed in place.
        size: how many lanes an event has.
        ops: the lane groups, int64; see `kernels`.
    """
    for row in range(size, own.size, size):
        for i in range(ops.shape[0]):
            if ops[i, 0] != ADD:
                continue
            carry = _U0
            for place in range(np.uint64(row + ops[i, 1]), np.uint64(row + ops[i, 1] + ops[i, 2])):
                left, right = np.uint64(own[place]), np.uint64(own[place - np.uint64(size)])
                total = left + right
                own[place] = np.int64(total + carry)
                carry = _ONE if total < left or total + carry < total else _U0


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def adds_up(ops, used):
    """Whether a window needs nothing but what adds up.

    Args:
        ops: the lane groups, int64; see `kernels`.
        used: which of them it needs (1 or 0), int64.
    """
    for i in range(ops.shape[0]):  # noqa: SIM110 - Numba has no generators
        if used[i] and ops[i, 0] != ADD:
            return False
    return True


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def slide_sums(line, since, until, own, size, rows, requests, added, ops, used, features, first, last, sums, held, found,
                strings):  # fmt: skip
    """Write what one window of one key holds at each row.

    Args:
        line: the key's timeline: times, from when on each event counts, nothing, and of the rows the ordinals and instants.
        since, until: from when on, and before when, the window holds times (µs), int64, one place for each row.
        own: the sums of the lanes of all events up to each, int64, as `add_up` makes them.
        size: how many lanes an event has.
        rows: the numbers of the rows, int64.
        requests: the lanes of one more event of each row, one after another, by number, int64.
        added: which rows have that one more event, bool; empty where none has.
        ops: the lane groups; these and the features are as `kernels` says.
        used: which of the lane groups the window needs (1 or 0), int64.
        features: the features, of which those from `first` up to `last` are the window's.
        first, last: the first of the window's features, and the one before which to stop.
        sums, held: room for the lanes of a row and what a formula works in, int64.
        found: the numbers of the key's rows, float64, changed in place.
        strings: their lanes, int64, likewise.
    """
    times, available, _, ordinal, at = line
    low, high, count = np.uint64(0), np.uint64(0), np.uint64(times.size)
    clear(ops, sums, START)
    for q in range(at.size):
        before = low, high
        while high < count and times[high] < until[q] and available[high] <= ordinal[q]:
            high += _ONE
        while low < high and times[low] < since[q]:
            low += _ONE
        while low > 0 and times[low - _ONE] >= since[q]:
            low -= _ONE
        if before != (low, high):
            _take_difference(own, size, np.int64(low), np.int64(high), ops, used, sums)
        emit_held(sums, held, size, rows[q], requests, added, ops, features, first, last, at[q], found, strings, q)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _take_difference(own, size, low, high, ops, used, sums):
    """What the events from `low` up to `high` add up to, from the sums of all up to each."""
    for i in range(ops.shape[0]):
        if not used[i]:
            continue
        borrow = _U0
        for j in range(ops[i, 1], ops[i, 1] + ops[i, 2]):
            left = np.uint64(own[np.uint64((high - 1) * size + j)]) if high > low else _U0
            right = np.uint64(own[np.uint64((low - 1) * size + j)]) if high > low > 0 else _U0
            total = left - right
            sums[np.uint64(j)] = np.int64(total - borrow)
            borrow = _ONE if left < right or total < borrow else _U0


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def emit_held(sums, held, size, row, requests, added, ops, features, first, last, at, found, strings, q):
    """Write what a window holds at one row, and the one more event of the row where it has one.

    Args:
        sums, held: what the window holds, int64, and room for as much.
        size: how many lanes an event has.
        row: the number of the row.
        requests, added, ops, features, first, last, found, strings: as in `slide_sums`.
        at: the instant (µs) of the row.
        q: the place of the row among those of its key.
    """
    if added.size > 0 and added[q]:
        for j in range(size):
            held[j] = sums[j]
        combine(ops, held, START, requests, row * size)
        emit(features, first, last, held, START, at, found, strings, q)
    else:
        emit(features, first, last, sums, START, at, found, strings, q)
