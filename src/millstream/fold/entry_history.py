"""The kernel as_of over entries: history and (key, instant) rows, each window sliding along a key's events.

The entries of a key are ranked once per bag. A window then holds how many of its events have each rank, as a binary
indexed tree (Fenwick, 1994), so that an event enters or leaves in the logarithm of how many ranks there are, and what is
asked for is found in the tree: order statistics, the first entries, those that are there at all. What bags keep in
registers is counted rank by rank here, so that an event can be taken out again. Entries led by their time need no tree:
they are in that order already. All give what `entry_states.exact`, the rule itself, gives.
"""

import numpy as np
from numba import njit

from millstream.fold.emitting import DISTINCT_COUNT, QUANTILE, emit_entries
from millstream.fold.entries import (
    BOUND,
    BOUNDED,
    DISTINCT,
    END_OP,
    FIRST_OP,
    GROWTH,
    INPUT,
    KEY,
    PASSED,
    RULE,
    SPREAD,
    WIDTH,
    copy,
    gather,
    ordered,
    same_key,
)
from millstream.fold.entry_states import exact
from millstream.fold.fixed_point import from_sortable
from millstream.fold.kernels import LOWEST, in_order
from millstream.fold.sketches import MOST_RANK, REGISTERS, bucket_of, estimated, index_of, middle_of, rank_of


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _add(tree, group, change):
    place = group + 1
    while place < tree.size:
        tree[place] += change
        place += place & -place


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _find(tree, row):
    """The group that holds the row of a number, counted from 0, and how many rows lie before that group."""
    place, before, step = 0, np.int64(0), 1
    while 2 * step < tree.size:
        step *= 2
    while step > 0:
        beyond = place + step
        if beyond < tree.size and before + tree[beyond] <= row:
            place = beyond
            before += tree[beyond]
        step //= 2
    return place, before


@njit(cache=True, nogil=True, error_model="numpy")
def _groups(bag, entries, mine, place):
    """The group of each event, -1 for none, by the order of their keys; and an event of each group.

    `place` has room for a number of every event.
    """
    there, n = np.empty(mine.size, np.int64), 0
    for i in range(mine.size):
        if entries[mine[i], bag[INPUT]]:
            there[n] = mine[i]
            n += 1
    found = ordered(bag, entries, there[:n].copy())
    firsts, groups = np.empty(n, np.int64), 0
    for i in range(n):
        if i == 0 or not same_key(bag, entries, found[i - 1], found[i]):
            firsts[groups] = found[i]
            groups += 1
        place[found[i]] = groups - 1
    of = np.full(mine.size, -1, np.int64)
    for i in range(mine.size):
        if entries[mine[i], bag[INPUT]]:
            of[i] = place[mine[i]]
    return of, firsts[:groups]


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _note(value, change, counts, most, held):
    """Count a value in, or out of, the ranks of its register; `held` counts registers by their greatest rank."""
    index, rank = index_of(value), rank_of(value)
    counts[index, rank] += change
    before = most[index]
    if change > 0 and rank > before:
        most[index] = rank
    elif change < 0 and rank == before and counts[index, rank] == 0:
        while most[index] > 0 and counts[index, most[index]] == 0:
            most[index] -= 1
    held[before] -= 1
    held[most[index]] += 1


@njit(cache=True, nogil=True, error_model="numpy")
def _registers(firsts, counted, entries, lane):
    """The counts of ranks of the values that are there."""
    counts, most = np.zeros((REGISTERS, MOST_RANK + 1), np.int32), np.zeros(REGISTERS, np.int64)
    held = np.zeros(MOST_RANK + 1, np.int64)
    held[0] = REGISTERS
    for group in range(firsts.size):
        if counted[group]:
            _note(entries[firsts[group], lane], 1, counts, most, held)
    return counts, most, held


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _quantile(bag, tree, total, firsts, entries, share):
    """The interpolation between two order statistics, of their buckets' middles where there are too many."""
    if total == 0:
        return np.nan
    lane, place = bag[INPUT] + 1, np.float64(total - 1) * share
    low = np.int64(np.floor(place))
    rest = place - np.float64(low)
    left = from_sortable(entries[firsts[_find(tree, low)[0]], lane])
    right = from_sortable(entries[firsts[_find(tree, min(low + 1, total - 1))[0]], lane])
    if total > bag[BOUND]:
        left, right = middle_of(bucket_of(left)), middle_of(bucket_of(right))
    if rest >= 0.5:
        return right - (right - left) * (1.0 - rest)
    return left + (right - left) * rest


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _counted(bag, tree, counted, total, different, firsts, entries, out):
    """The bag of entries that are only counted, as many as it keeps, into `out`."""
    if bag[RULE] == BOUNDED and different > bag[BOUND]:
        out[0] = PASSED
        return
    row, end, kept, left = np.int64(0), 1, 0, bag[BOUND]
    while row < total and (bag[RULE] == BOUNDED or left > 0):
        group, _ = _find(tree, row)
        copy(entries[firsts[group]], bag[INPUT] + 1, out, end, bag[KEY])
        many = counted[group] if bag[RULE] == BOUNDED else min(counted[group], left)
        out[end + bag[KEY]] = many
        left -= many
        row += counted[group]
        end += bag[WIDTH]
        kept += 1
    out[0] = kept * 4


@njit(cache=True, nogil=True, error_model="numpy")
def slide(
    mine, times, available, known, entries, ordinal, at, rows, bags, pays, windows, features, inner, numbers, refs, heap,
    used, place,
):  # fmt: skip
    """One key whose queries ascend in ordinal and instant; returns how much of the heap is used, or -1.

    `mine` are the events by time, `times` and `available` theirs in that order, `known` their places as they become
    available, or nothing where that is the same order; `rows` are the output rows of the queries. `place` has room for a
    number of every event there is.
    """
    work, feature = np.empty(GROWTH, np.int64), 0
    of, firsts = np.empty(0, np.int64), np.empty(0, np.int64)
    while feature < features.shape[0]:
        b, w, last = features[feature, 0], features[feature, 1], feature + 1
        while last < features.shape[0] and features[last, 0] == b and features[last, 1] == w:
            last += 1
        bag = bags[b]
        if feature == 0 or features[feature - 1, 0] != b:
            of, firsts = _groups(bag, entries, mine, place)
        if work.size < 1 + mine.size * bag[WIDTH] + GROWTH:
            work = np.empty(1 + mine.size * bag[WIDTH] + GROWTH, np.int64)
        used = _slide_window(
            mine, times, available, known, entries, ordinal, at, rows, bag, pays, windows[w], features[feature:last], inner,
            numbers, refs, heap, used, work, of, firsts,
        )  # fmt: skip
        if used < 0:
            return used
        feature = last
    return used


@njit(cache=True, nogil=True, error_model="numpy")
def _slide_window(
    mine, times, available, known, entries, ordinal, at, rows, bag, pays, window, features, inner, numbers, refs, heap,
    used, work, of, firsts,
):  # fmt: skip
    width, hop, delay = window[0], window[1], window[2]
    tree, counted = np.zeros(firsts.size + 1, np.int64), np.zeros(firsts.size, np.int64)
    ranks, most, held = np.zeros((0, 0), np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64)
    inside = np.zeros(mine.size, np.bool_)
    total, different, low, high, new, by = np.int64(0), np.int64(0), 0, 0, 0, LOWEST
    alone = bag[RULE] != DISTINCT and bag[RULE] != SPREAD and bag[END_OP] - bag[FIRST_OP] == 1 and _counts(bag, pays)
    for q in range(at.size):
        until = at[q] if delay == 0 else (at[q] - delay) // hop * hop
        since = LOWEST if width < 0 else (at[q] - delay - width) // hop * hop
        by, passed = ordinal[q], high
        while True:  # one event that leaves, then those that enter
            event, change = -1, 1
            if low < high and times[low] < since:
                event, change = low, -1
                low += 1
                if not inside[event]:
                    continue
            elif high < times.size and times[high] < until and (known.size > 0 or available[high] <= by):
                event = high
                high += 1
                if times[event] < since:
                    low = high
                    continue
                if available[event] > by:
                    continue
            elif new < known.size and available[known[new]] <= by:
                event = known[new]
                new += 1
                if not low <= event < passed or inside[event]:
                    continue
            else:
                break
            inside[event] = change > 0
            group = of[event]
            if group < 0:
                continue
            _add(tree, group, change)
            counted[group] += change
            total += change
            if counted[group] == (1 if change > 0 else 0):
                different += change
                if held.size:
                    _note(entries[firsts[group], bag[INPUT] + 1], change, ranks, most, held)
        if bag[RULE] == DISTINCT and different > bag[BOUND] and not held.size:
            ranks, most, held = _registers(firsts, counted, entries, bag[INPUT] + 1)
        if alone:
            _counted(bag, tree, counted, total, different, firsts, entries, work)
        elif bag[RULE] != DISTINCT and bag[RULE] != SPREAD:
            gather(bag, pays, entries, mine[low:high][inside[low:high]], work, 0)
        for f in range(features.shape[0]):
            if features[f, 2] == DISTINCT_COUNT:
                count = estimated(held) if different > bag[BOUND] else different
                numbers[rows[q], features[f, 3]] = np.float64(count)
            elif features[f, 2] == QUANTILE:
                share = from_sortable(features[f, 4])
                numbers[rows[q], features[f, 3]] = _quantile(bag, tree, total, firsts, entries, share)
            else:
                used = emit_entries(bag, features[f], inner, work, 0, at[q], numbers, refs, rows[q], heap, used)
                if used < 0:
                    return used
    return used


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _counts(bag, pays):
    """Whether the one thing that merges beside the keys is the count of events."""
    return pays[bag[FIRST_OP], 0] == 0


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _ascending(values):
    for i in range(1, values.size):  # noqa: SIM110 - Numba has no generators
        if values[i] < values[i - 1]:
            return False
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def as_of(
    events, event_begins, queries, query_begins, times, available, entries, ordinal, at, bags, pays, windows, features,
    inner, first, last, numbers, refs, heap,
):  # fmt: skip
    """History and (key, instant) rows to feature rows, for the keys `first..last`; how much of the heap is used, or -1.

    Events are in the order of time for each key. A key whose later ordinals ask for earlier instants is read by the rule
    itself.
    """
    used, codes = np.int64(0), np.empty(1, np.int64)
    place = np.empty(entries.shape[0], np.int64)
    for k in range(first, last):
        asked = queries[query_begins[k] : query_begins[k + 1]]
        if asked.size == 0:
            continue
        asked = in_order(in_order(asked, at), ordinal)
        mine = in_order(events[event_begins[k] : event_begins[k + 1]], times)
        if _ascending(at[asked]):
            open_from = available[mine]
            known = in_order(np.arange(0 if _ascending(open_from) else mine.size), open_from)
            used = slide(
                mine, times[mine], open_from, known, entries, ordinal[asked], at[asked], asked, bags, pays, windows, features,
                inner, numbers, refs, heap, used, place,
            )  # fmt: skip
        else:
            codes[0] = k
            for q in asked:
                used = exact(
                    events, event_begins, codes, times, available, entries, ordinal[q : q + 1], at[q : q + 1], bags, pays,
                    windows, features, inner, numbers[q : q + 1], refs[q : q + 1], heap, used,
                )  # fmt: skip
                if used < 0:
                    return used
        if used < 0:
            return used
    return used
