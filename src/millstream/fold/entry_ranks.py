"""The entries along a key's events, and their ranks: the places they have in the order of their keys."""

import numpy as np
from numba import njit

from millstream.fold.entries import INPUT, KEY, copy
from millstream.fold.lanes import compare
from millstream.fold.timelines import rows_of

_ONE = np.uint64(1)


@njit(cache=True, nogil=True, error_model="numpy")
def entries_along(lines, k, requests):
    """The places of the entries of a key's events, by time, and then of one more of each row, where there are any.

    Args:
        lines: the events and the rows of each key, laid out; see `timelines`.
        k: the key.
        requests: the first place of the entries of one more event of each row; -1 where none is added.

    Returns:
        Rows of `entries`, int64, shape (events of the key,), or (events and rows of the key,).
    """
    events = lines.events[lines.begins[k] : lines.begins[k + 1]]
    return events if requests < 0 else np.concatenate((events, requests + rows_of(lines, k)))


@njit(cache=True, nogil=True, error_model="numpy")
def ranked(bag, entries, every):
    """The rank of each of some entries in the order of their keys, -1 where there is none, and the keys in that order.

    Args:
        bag: what the bag is like, one row of `bags`, int64; see `entries`.
        entries: the entries, int64, shape (events, lanes).
        every: the rows of `entries` that are looked at, int64, as `entries_along` gives them.

    Returns:
        The ranks, int64, shape (places of `every`,); the keys, int64, lane by lane, one after another; and whether their
        order is that of the entries as they are given (1), or the reverse (-1), or another (0).
    """
    lanes = bag[KEY]
    there, keys = np.empty(every.size, np.int64), np.empty(every.size * lanes, np.int64)
    n = _keys_of(bag, entries, every, there, keys)
    ranks, direction = np.full(every.size, -1, np.int64), _direction(keys, n, lanes)
    if direction > 0:
        for rank in range(n):
            ranks[there[rank]] = rank
        return ranks, keys[: n * lanes], direction
    ordered = np.empty(n * lanes, np.int64)
    if direction < 0:
        for rank in range(n):
            ranks[there[n - 1 - rank]] = rank
            copy(keys, (n - 1 - rank) * lanes, ordered, rank * lanes, lanes)
        return ranks, ordered, direction
    order = np.arange(n)
    for lane in range(lanes - 1, -1, -1):
        order = order[np.argsort(keys[lane : n * lanes : lanes][order], kind="mergesort")]
    for rank in range(n):
        ranks[there[order[rank]]] = rank
        copy(keys, order[rank] * lanes, ordered, rank * lanes, lanes)
    return ranks, ordered, direction


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _keys_of(bag, entries, every, there, keys):
    """Write which of some entries are there, and their keys; returns how many are."""
    at, lanes, n = np.uint64(bag[INPUT]), np.uint64(bag[KEY]), np.uint64(0)
    for i in range(every.size):  # places without a sign need no look at it
        there[n] = i
        if entries[np.uint64(every[i]), at]:
            n += _ONE
    for lane in range(lanes):  # lane by lane, for a loop within this one would take most of the time
        at += _ONE
        to = np.uint64(lane)
        for i in range(n):
            keys[to] = entries[np.uint64(every[np.uint64(there[i])]), at]
            to += lanes
    return np.int64(n)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _direction(keys, n, lanes):
    """Whether `n` keys ascend (1), or descend (-1), or neither (0)."""
    up, down = True, True
    for i in range(1, n):
        order = compare(keys, (i - 1) * lanes, keys, i * lanes, lanes)
        up, down = up and order <= 0, down and order >= 0
        if not up and not down:
            return 0
    return 1 if up else -1
