"""Windows that slide along the events of keys: the first of their entries, one of them or a list.

They are read from the set of the ranks of the events in a window. Where ranks follow the times of events, or run against
them, a window holds a stretch of ranks: the entries of a key are then written once, and every list is a part of them. All
give what `entry_states.exact`, the rule itself, gives.
"""

import numpy as np
from numba import njit

from millstream.fold.bits import new_set, numbers_from, turn
from millstream.fold.emitting import FORMULA, INVERTED, LAG, LANES, NUMBER, OUT, SKIP
from millstream.fold.entries import BOUND, KEY, with_room
from millstream.fold.entry_ranks import entries_along, ranked
from millstream.fold.lanes import EMPTY_LEAST, ONE, START
from millstream.fold.listed import reference
from millstream.fold.timelines import ends_of, rows_of, slides


@njit(cache=True, nogil=True, error_model="numpy")
def slide_first(lines, moves, ends, entries, requests, bag, features, first, last, texts, heap):
    """Write what a window's first entries give, for the rows of a stretch of keys; returns the heap with the lists.

    Args:
        lines, moves, ends, entries, requests, bag, features, first, last: as in `entry_windows.slide_distinct`.
        texts: the output's lanes, int64, a row for each row, written for those of these keys past which windows slide; of
            a list, the reference to it.
        heap: the lists that there are already; see `listed`.
    """
    start, chosen, whole = START, np.empty(bag[BOUND], np.int64), np.empty(features.shape[0], np.int64)
    lanes = START  # of all lists: room for them at once, for a heap that grows would be copied again and again
    for f in range(features.shape[0]):
        lanes += features[f, LANES] if features[f, FORMULA] != LAG else 0
    heap = with_room(heap, heap[0], lanes * (lines.begins[last] - lines.begins[first]))
    for k in range(first, last):
        if not slides(lines, k):
            continue
        ranks, keys, direction = ranked(bag, entries, entries_along(lines, k, requests))
        rows, mine = rows_of(lines, k), ends_of(lines, ends, first, k)
        if requests >= 0 or lines.late[k] or direction == 0:
            added = ranks[ranks.size - rows.size :] if requests >= 0 else ranks[:0]
            heap = _slide_set(ranks, keys, moves, mine, start, added, chosen, bag, features, rows, texts, heap)
        else:
            heap = _with_whole(keys, bag[KEY], features, whole, heap)
            _slide_stretch(ranks, keys, direction, moves, mine, start, whole, bag, features, rows, texts)
        start = mine[mine.size - 1]
    return heap


@njit(cache=True, nogil=True, error_model="numpy")
def _with_whole(keys, lanes, features, whole, heap):
    """The heap with what every entry of a key holds, for each feature that is a list; writes where it begins."""
    for f in range(features.shape[0]):
        whole[f] = heap[0]
        if features[f, FORMULA] != LAG:
            heap = with_room(heap, heap[0], keys.size // lanes * features[f, LANES])
            heap[0] = _put_values(keys, lanes, START, keys.size // lanes, features[f], heap, heap[0])
    return heap


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _put_values(keys, lanes, rank, end, feature, heap, to):
    """Write what the entries of the ranks from `rank` up to `end` hold; returns where that ends."""
    skip, width, turned = feature[SKIP], feature[LANES], -feature[INVERTED]  # -1 has every bit set
    for i in range(rank, end):
        for j in range(width):
            heap[to + j] = keys[i * lanes + skip + j] ^ turned
        to += width
    return to


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _slide_stretch(ranks, keys, direction, moves, ends, start, whole, bag, features, rows, texts):
    """Those of one key whose ranks follow time or run against it; its lists are parts of what `whole` says the begins of."""
    total, edge = START, START
    for q in range(rows.size):
        for m in range(np.uint64(start), np.uint64(ends[q])):
            rank = ranks[np.uint64(moves[m] if moves[m] >= 0 else ~moves[m])]
            if rank < 0:
                continue
            if moves[m] < 0:
                total -= 1
                continue
            total += 1  # the newest one so far, or one that comes back before it
            edge = rank if total == 1 else max(edge, rank) if direction > 0 else min(edge, rank)
        start = ends[q]
        rank = edge if direction < 0 else edge - total + 1
        for f in range(features.shape[0]):
            count, out = min(features[f, NUMBER], total), features[f, OUT]
            if features[f, FORMULA] == LAG:
                last = rank + count - 1 if count == features[f, NUMBER] else np.int64(-1)
                _write_one(keys, last, bag[KEY], texts, rows[q], out)
            else:
                texts[np.uint64(rows[q]), np.uint64(out)] = reference(whole[f] + rank * features[f, LANES], count)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _write_one(keys, rank, lanes, texts, row, out):
    """Write the entry of a rank, -1 for none, whose lanes are inverted so that the newest comes first."""
    texts[row, out] = EMPTY_LEAST
    if rank >= 0:
        for j in range(lanes):
            texts[row, out + j] = ~keys[rank * lanes + j]


@njit(cache=True, nogil=True, error_model="numpy")
def _slide_set(ranks, keys, moves, ends, start, added, chosen, bag, features, rows, texts, heap):
    """Those of one key whose ranks are in any order, or have one more event of each row among them."""
    room = START
    for f in range(features.shape[0]):
        room += features[f, NUMBER] * features[f, LANES]
    bits, counts = new_set(keys.size // bag[KEY])
    total = START
    for q in range(rows.size):
        for m in range(start, ends[q]):
            rank, change = (ranks[moves[m]], ONE) if moves[m] >= 0 else (ranks[~moves[m]], -ONE)
            if rank >= 0:
                total += change
                turn(bits, counts, rank, change)
        start, one = ends[q], added[q] if added.size else np.int64(-1)
        if one >= 0:
            turn(bits, counts, one, ONE)
        kept = min(total + (1 if one >= 0 else 0), chosen.size)
        numbers_from(bits, counts, START, kept, chosen)
        if one >= 0:
            turn(bits, counts, one, -ONE)
        if heap.size < heap[0] + room:
            heap = with_room(heap, heap[0], room)
        _write_first(keys, chosen, kept, bag, features, texts, rows[q], heap)
    return heap


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _write_first(keys, chosen, kept, bag, features, texts, row, heap):
    """Write what the entries of some ranks, in their order, give: one of them, or the list of them; the heap has room."""
    for f in range(features.shape[0]):
        count, out, to = min(features[f, NUMBER], kept), features[f, OUT], heap[0]
        if features[f, FORMULA] == LAG:
            last = chosen[count - 1] if count == features[f, NUMBER] else np.int64(-1)
            _write_one(keys, last, bag[KEY], texts, row, out)
            continue
        texts[row, out] = reference(to, count)
        for i in range(count):
            to = _put_values(keys, bag[KEY], chosen[i], chosen[i] + 1, features[f], heap, to)
        heap[0] = to
