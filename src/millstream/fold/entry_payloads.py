"""Payloads in history: what lane groups keep of the events of each group that are inside, as they enter and leave.

Most of what is merged cannot be taken out again. So the events of a group are the leaves of a tree, in which every node is
what those below it come to: one that enters or leaves changes the nodes above it only, and the first is what all come to.
The trees stand one after another, the node `i` of a tree having the nodes `2 * i` and `2 * i + 1` below it.
"""

import numpy as np
from numba import njit

from millstream.fold.entries import GROUP, GROUPS, KEY, WIDTH, absorb, copy
from millstream.fold.lanes import ADD, EMPTY_GREATEST, EMPTY_LEAST, LEAST, ONE


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def width_of_payload(bag):
    """How many lanes stand beside the count of an entry."""
    return bag[WIDTH] - bag[KEY] - 1 if bag[GROUPS] > 1 else 0


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _clear(bag, out, at):
    for i in range(1, bag[GROUPS]):
        op = bag[GROUP + 2 * i]
        fill = np.int64(0) if op == ADD else EMPTY_LEAST if op == LEAST else EMPTY_GREATEST
        for _ in range(bag[GROUP + 2 * i + 1]):
            out[at] = fill
            at += 1


@njit(cache=True, nogil=True, error_model="numpy")
def payload_trees(bag, of, groups):
    """The trees of groups of events without an event inside: (begins, sizes, nodes, lanes).

    Args:
        bag: what the bag is like, one row of `bags`, int64; see `entries`.
        of: the group of each event, int64, shape (events,); -1: none.
        groups: how many groups there are.

    Returns:
        Where the tree of each group begins, in nodes; how many leaves it has; which node of its tree each event is; and
        the lanes of the nodes, one after another. All int64.
    """
    width = width_of_payload(bag)
    sizes, nodes = np.zeros(groups, np.int64), np.zeros(of.size, np.int64)
    if width == 0:
        return sizes, sizes, nodes, np.empty(0, np.int64)
    for event in range(of.size):
        if of[event] >= 0:
            nodes[event] = sizes[of[event]]
            sizes[of[event]] += 1
    begins = 2 * (np.cumsum(sizes) - sizes)
    for event in range(of.size):
        if of[event] >= 0:
            nodes[event] += sizes[of[event]]
    lanes = np.empty(2 * np.sum(sizes) * width, np.int64)
    for node in range(2 * np.sum(sizes)):
        _clear(bag, lanes, node * width)
    return begins, sizes, nodes, lanes


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def put_payload(bag, begin, node, lanes, entry, at, inside):
    """Let an event enter, or leave, the tree of its group.

    Args:
        bag: what the bag is like; see `entries`.
        begin: where the tree begins, in nodes; this, `node` and `lanes` are what `payload_trees` gives.
        node: which node of it the event is.
        lanes: the lanes of all nodes, changed in place.
        entry: the array that the event's entry stands in, int64.
        at: where its payload begins there.
        inside: whether the event enters; else it leaves.
    """
    width = width_of_payload(bag)
    if inside:
        copy(entry, at, lanes, (begin + node) * width, width)
    else:
        _clear(bag, lanes, (begin + node) * width)
    node //= 2
    while node > 0:
        place, below = (begin + node) * width, (begin + 2 * node) * width
        copy(lanes, below, lanes, place, width)
        absorb(bag, ONE, lanes, place, lanes, below + width)
        node //= 2


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def payload_of(bag, begin, size, lanes, out, at):
    """Write what the events of a group come to that are inside.

    Args:
        bag: what the bag is like; see `entries`.
        begin: where the tree of the group begins, in nodes; this, `size` and `lanes` are what `payload_trees` gives.
        size: how many leaves it has.
        lanes: the lanes of all nodes.
        out: the array to write the payload into, int64.
        at: where in `out` it begins.
    """
    if size > 0:
        width = width_of_payload(bag)
        copy(lanes, (begin + 1) * width, out, at, width)
    else:
        _clear(bag, out, at)
