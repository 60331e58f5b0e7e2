"""Entries: what an aggregate remembers of several values apart, sorted by value, beside the lanes of a tile.

A bag is `[head, entries...]`; an entry is key lanes, by which entries ascend and are told apart, and beside its key lane
groups that merge as those of `lanes` do: mostly one that counts events, and then what an aggregate keeps of the events of
each key apart, its payload. The head is `entries * 4 + mode`. What a bag keeps of the entries that came together is settled by
its rule, which looks at them alone; so bags merge in any order and grouping to the same lanes.

The rules, by the bound of the bag:

- `FOREMOST`: the first `bound` entries by key, each as often as it counts.
- `BOUNDED`: all entries, or the mode `PASSED` and none if there would be more than `bound`.
- `DISTINCT`: all entries, or the registers of `sketches` (`ESTIMATED`) if there would be more than `bound`.
- `NEWEST`: the `bound` entries whose time, the lane after the key, is greatest; of equal ones those of the greater key.
- `SPREAD`: all entries, or the buckets of `sketches` (`ESTIMATED`) if they would count more than `bound` in all.

What the kernels here take: `bag` is what a bag is like, one row of `bags` (`EntryLayout.rows`), int64, whose columns are
named below (`RULE` and on); bags and entries themselves stand in flat int64 arrays, each named by its array and where it
begins; the `entries` of events are an int64 array of shape (events, lanes), in which a bag's column `bag[INPUT]` says
whether the event has an entry in it (1 or 0), and the entry follows.
"""

import numpy as np
from numba import njit

from millstream.fold.fixed_point import from_sortable
from millstream.fold.lanes import START, combine_one, compare
from millstream.fold.sketches import REGISTER_LANES, bucket_of, register, register_all

FOREMOST, BOUNDED, DISTINCT, SPREAD, NEWEST = range(5)
EXACT, PASSED, ESTIMATED = range(3)
#: The columns of a row of `bags`: its rule, widths of key and entry, bound, where an event's entry begins, how many lane
#: groups stand beside the key, and then the merge and the width of each, of `MOST_GROUPS` at most.
RULE, KEY, WIDTH, BOUND, INPUT, GROUPS, GROUP, MOST_GROUPS = 0, 1, 2, 3, 4, 5, 6, 4
#: How many columns a row of `bags` has.
COLUMNS = GROUP + 2 * MOST_GROUPS
#: Up to how many entries are put among others one by one.
_FEW = 4
#: How many lanes a bag may grow by when it is settled, beyond those of what came together.
GROWTH = REGISTER_LANES + 1


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def lanes_of(bag, data, at):
    """How many lanes a bag takes, its head included.

    Args:
        bag: what the bag is like; see the module.
        data: the array it stands in.
        at: where it begins.
    """
    return 1 + (data[at] >> 2) * bag[WIDTH]


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def absorb(bag, first, into, at, data, start):
    """Merge the lane groups of an entry into those of another, in place.

    Args:
        bag: what their bag is like; see the module.
        first: the lane group to begin with: 0 for all of them, 1 for the payload alone.
        into: the array that the entry which changes stands in.
        at: where that lane group of it begins.
        data: the array that the other entry stands in.
        start: where that lane group of it begins.
    """
    for i in range(first, bag[GROUPS]):
        width = bag[GROUP + 2 * i + 1]
        combine_one(bag[GROUP + 2 * i], width, into, at, data, start)
        at += width
        start += width


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def copy(data, start, out, at, lanes):
    """Copy lanes.

    Args:
        data: the array to copy from.
        start: where they begin there.
        out: the array to copy to, which may be the same one where the lanes move down.
        at: where they begin there.
        lanes: how many they are.
    """
    for j in range(lanes):
        out[at + j] = data[start + j]


@njit(cache=True, nogil=True, error_model="numpy")
def with_room(out, end, lanes):
    """The array, or a longer one that begins with the same, in which there is room for more.

    Args:
        out: the array, int64.
        end: how much of it is written.
        lanes: how many lanes must fit after that.
    """
    if out.size >= end + lanes:
        return out
    longer = np.empty(2 * (end + lanes), np.int64)
    longer[:end] = out[:end]
    return longer


@njit(cache=True, nogil=True, error_model="numpy")
def union(bag, left, a, right, b, out, at):
    """Merge two bags of one kind; returns where the result ends.

    Args:
        bag: what both are like; see the module.
        left: the array that one of them stands in.
        a: where it begins.
        right: the array that the other stands in.
        b: where it begins.
        out: the array to write the result into, neither of the two, with room for the lanes of both and `GROWTH` more.
        at: where in `out` it begins.
    """
    mode = max(left[a] & 3, right[b] & 3)
    if mode == PASSED:
        out[at] = PASSED
        return at + 1
    if mode == EXACT:
        _in_order(bag, left, a, right, b, out, at)
        return settle(bag, out, at)
    if bag[RULE] == DISTINCT:
        return _union_registers(left, a, right, b, out, at)
    if left[a] & 3 == right[b] & 3:
        return _in_order(bag, left, a, right, b, out, at)
    return _union_buckets(bag, left, a, right, b, out, at)


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def union_into(bag, into, data, start, other):
    """Merge a bag into the one that another array begins with, in place; `held_to_rule` follows the last of them.

    Args:
        bag: what both are like; see the module.
        into: the array that begins with the bag which changes, with room for the lanes of both and `GROWTH` more.
        data: the array that the other stands in, not `into`.
        start: where it begins.
        other: an array to work in, with as much room.
    """
    if data[start] > 4 * _FEW or (into[0] | data[start]) & 3 != EXACT:
        copy(other, 0, into, 0, union(bag, into, START, data, start, other, START))
        return
    low = START
    for place in range(start + 1, start + lanes_of(bag, data, start), bag[WIDTH]):
        low = _put(bag, into, low, data, place)
    if into[0] >> 2 > bag[BOUND]:
        settle(bag, into, START)


@njit(cache=True, nogil=True, error_model="numpy")
def held_to_rule(bag, into):
    """Hold the bag that an array begins with to its rule, in place, after others were merged into it; returns its lanes.

    Args:
        bag: what it is like; see the module.
        into: the array, as `union_into` was given it.
    """
    return settle(bag, into, START) if into[0] & 3 == EXACT else lanes_of(bag, into, START)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _put(bag, out, low, data, place):
    """Put an entry among those of the bag that `out` begins with, from that of a number on; returns which one it is."""
    width, key, count = bag[WIDTH], bag[KEY], out[0] >> 2
    first, high = data[place], count
    if count > low and out[1 + (count - 1) * width] < first:  # behind all of them, as in a walk back in time
        low = count
    while low < high:
        middle = (low + high) >> 1
        at = 1 + middle * width
        order = -1 if out[at] < first else 1 if out[at] > first else 0
        if order == 0 and key > 1:
            order = compare(out, at + 1, data, place + 1, key - 1)
        if order == 0:
            absorb(bag, START, out, at + key, data, place + key)
            return middle
        if order < 0:
            low = middle + 1
        else:
            high = middle
    if low == count and bag[RULE] == FOREMOST and count == bag[BOUND]:
        return low
    at = 1 + low * width
    for j in range(count * width, at - 1, -1):
        out[j + width] = out[j]
    copy(data, place, out, at, width)
    out[0] += 4
    return low


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _in_order(bag, left, a, right, b, out, at):
    """Merge the entries of two bags of one mode, ascending, those of equal keys into one."""
    width = bag[WIDTH]
    i, end_i = a + 1, a + lanes_of(bag, left, a)
    j, end_j = b + 1, b + lanes_of(bag, right, b)
    end = at + 1
    while i < end_i or j < end_j:
        order = 1 if i >= end_i else -1 if j >= end_j else compare(left, i, right, j, bag[KEY])
        if order <= 0:
            copy(left, i, out, end, width)
            i += width
        if order > 0:
            copy(right, j, out, end, width)
            j += width
        elif order == 0:
            absorb(bag, START, out, end + bag[KEY], right, j + bag[KEY])
            j += width
        end += width
    out[at] = (end - at - 1) // width * 4 + (left[a] & 3)
    return end


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _union_registers(left, a, right, b, out, at):
    for j in range(REGISTER_LANES):
        out[at + 1 + j] = 0
    for side in range(2):
        data, place = (left, a) if side == 0 else (right, b)
        if data[place] & 3 == ESTIMATED:
            register_all(out, at + 1, data, place + 1)
        else:
            for j in range(data[place] >> 2):
                register(out, at + 1, data[place + 1 + j])
    out[at] = REGISTER_LANES * 4 + ESTIMATED
    return at + 1 + REGISTER_LANES


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _union_buckets(bag, left, a, right, b, out, at):
    """One side counts buckets, the other values: those are put into buckets behind where the result ends at most."""
    free = at + lanes_of(bag, left, a) + lanes_of(bag, right, b)
    if left[a] & 3 == ESTIMATED:
        copy(right, b, out, free, lanes_of(bag, right, b))
        _to_buckets(out, free)
        return _in_order(bag, left, a, out, free, out, at)
    copy(left, a, out, free, lanes_of(bag, left, a))
    _to_buckets(out, free)
    return _in_order(bag, right, b, out, free, out, at)


@njit(cache=True, nogil=True, error_model="numpy")
def settle(bag, out, at):
    """Hold the sorted entries of a bag to its rule, in place; returns where it ends.

    Args:
        bag: what the bag is like; see the module.
        out: the array it stands in, with room for `GROWTH` lanes more.
        at: where it begins; its mode is `EXACT`.
    """
    rule, bound, width = bag[RULE], bag[BOUND], bag[WIDTH]
    count = out[at] >> 2
    end = at + 1 + count * width
    if rule == FOREMOST:
        return _foremost(bag, out, at, end)
    if rule == SPREAD:
        total = np.int64(0)
        for i in range(at + 2, end, width):
            total += out[i]
        return _to_buckets(out, at) if total > bound else end
    if count <= bound:
        return end
    if rule == BOUNDED:
        out[at] = PASSED
        return at + 1
    if rule == NEWEST:
        return _newest(bag, out, at, end)
    found = out[at + 1 : end].copy()
    out[at] = REGISTER_LANES * 4 + ESTIMATED
    for j in range(REGISTER_LANES):
        out[at + 1 + j] = 0
    for j in range(found.size):
        register(out, at + 1, found[j])
    return at + 1 + REGISTER_LANES


@njit(cache=True, nogil=True, error_model="numpy")
def _newest(bag, out, at, end):
    """Drop the oldest entry, of equal ones that of the smallest key, until as many are left as may be."""
    width, bound, key = bag[WIDTH], bag[BOUND], bag[KEY]
    count = (end - at - 1) // width
    when = np.empty(count, np.int64)
    for i in range(count):
        when[i] = out[at + 1 + i * width + key]
    ascending = np.sort(when)
    edge, skip = ascending[count - bound], -bound
    for i in range(count):
        skip += 1 if when[i] >= edge else 0
    place, kept = at + 1, 0
    for i in range(count):
        if when[i] < edge:
            continue
        if when[i] == edge and skip > 0:
            skip -= 1
            continue
        copy(out, at + 1 + i * width, out, place, width)
        place += width
        kept += 1
    out[at] = kept * 4
    return place


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _foremost(bag, out, at, end):
    width, left, kept = bag[WIDTH], bag[BOUND], 0
    place = at + 1
    while place < end and left > 0:
        out[place + bag[KEY]] = min(out[place + bag[KEY]], left)
        left -= out[place + bag[KEY]]
        place += width
        kept += 1
    out[at] = kept * 4
    return place


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _to_buckets(out, at):
    """Turn entries of (sortable number, count) into those of (bucket, count), in place; returns where they end."""
    count, end = out[at] >> 2, at + 1
    for i in range(at + 1, at + 1 + 2 * count, 2):
        bucket, many = bucket_of(from_sortable(out[i])), out[i + 1]
        if end > at + 1 and out[end - 2] == bucket:
            out[end - 1] += many
            continue
        out[end], out[end + 1] = bucket, many
        end += 2
    out[at] = (end - at - 1) // 2 * 4 + ESTIMATED
    return end


@njit(cache=True, nogil=True, error_model="numpy")
def ordered(bag, entries, events):
    """Events in the order of their entries' keys.

    Args:
        bag: what the bag of the entries is like; see the module.
        entries: the entries of all events; see the module.
        events: the numbers of the events to sort, int64, which have an entry each; changed in place where they are few.
    """
    first, n = bag[INPUT] + 1, events.size
    if n < 12:
        for i in range(1, n):
            moved, j = events[i], i - 1
            while j >= 0 and compare(entries[events[j]], first, entries[moved], first, bag[KEY]) > 0:
                events[j + 1] = events[j]
                j -= 1
            events[j + 1] = moved
        return events
    for lane in range(bag[KEY] - 1, -1, -1):
        keys = np.empty(n, np.int64)
        for i in range(n):
            keys[i] = entries[events[i], first + lane]
        events = events[np.argsort(keys, kind="mergesort")]
    return events


@njit(cache=True, nogil=True, error_model="numpy")
def gather(bag, entries, events, out, at):
    """Write the bag of the entries that some events have; returns where it ends.

    Args:
        bag: what it is like; see the module.
        entries: the entries of all events; see the module.
        events: the numbers of the events, int64, in any order; one without an entry adds nothing.
        out: the array to write it into, with room for an entry of each event and `GROWTH` lanes more.
        at: where in `out` it begins.
    """
    there, n = np.empty(events.size, np.int64), 0
    for event in events:
        if entries[event, bag[INPUT]]:
            there[n] = event
            n += 1
    width, first, end = bag[WIDTH], bag[INPUT] + 1, at + 1
    last = np.int64(-1)
    for event in ordered(bag, entries, there[:n]):
        if last >= 0 and compare(out, last, entries[event], first, bag[KEY]) == 0:
            absorb(bag, START, out, last + bag[KEY], entries[event], first + bag[KEY])
            continue
        last = end
        copy(entries[event], first, out, end, width)
        end += width
    out[at] = (end - at - 1) // width * 4
    return settle(bag, out, at)
