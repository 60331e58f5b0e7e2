"""Windows that slide along the events of keys: how many different values, and order statistics.

What holds few values has them in order in a buffer. Where one comes to hold more, order statistics are read from the set of
the ranks of the events in it; different values are counted by the numbers that a hash table gives them, and beyond what is
exact rank by rank of each register, so that a value can be taken out again. All give what `entry_states.exact`, the rule
itself, gives.
"""

import numpy as np
from numba import njit

from millstream.fold.bits import first_of, new_set, nth, turn
from millstream.fold.emitting import NUMBER, OUT, between
from millstream.fold.entries import BOUND, INPUT
from millstream.fold.entry_ranks import entries_along, ranked
from millstream.fold.few_values import holds, put_in, read_values, room_for_values, take_out
from millstream.fold.fixed_point import from_sortable
from millstream.fold.lanes import ONE, START
from millstream.fold.sketches import MOST_RANK, REGISTERS, bucket_of, estimated, index_of, middle_of, rank_of
from millstream.fold.timelines import ends_of, rows_of, slides

_U0 = np.uint64(0)


@njit(cache=True, nogil=True, error_model="numpy")
def _numbered(bag, entries, every):
    """A number for each different value of some entries, -1 where there is none, and the value of each number."""
    size = 16
    while size < 2 * every.size:
        size *= 2
    table, of, n = np.full(size, -1, np.int64), np.full(every.size, -1, np.int64), 0
    values = np.empty(every.size, np.int64)
    for i in range(every.size):
        if not entries[every[i], bag[INPUT]]:
            continue
        value = entries[every[i], bag[INPUT] + 1]  # mixed, so that its last bits are as good as any
        place = value & (size - 1)
        while table[place] >= 0 and values[table[place]] != value:
            place = (place + 1) & (size - 1)
        if table[place] < 0:
            table[place], values[n] = n, value
            n += 1
        of[i] = table[place]
    return of, values[:n]


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
def _registers(values, counted):
    """The counts of ranks of the values that are there."""
    counts, most = np.zeros((REGISTERS, MOST_RANK + 1), np.int32), np.zeros(REGISTERS, np.int64)
    held = np.zeros(MOST_RANK + 1, np.int64)
    held[0] = REGISTERS
    for i in range(values.size):
        if counted[i]:
            _note(values[i], ONE, counts, most, held)
    return counts, most, held


@njit(cache=True, nogil=True, error_model="numpy")
def slide_distinct(lines, moves, ends, entries, requests, bag, features, first, last, numbers):
    """Write how many different values a window holds, for the rows of a stretch of keys.

    Args:
        lines: the events and the rows of each key, laid out; see `timelines`.
        moves, ends: which events enter the window and leave it, int64, as `timelines.moves_of` gives them for these keys.
        entries: those of the events, int64, shape (events, lanes), and from `requests` on of one more event of each row.
        requests: the row of `entries` from which on those stand; -1 where none is added.
        bag: what the bag is like, one row of `bags`, int64; see `entries`.
        features: the features of that bag and that window, int64, a row each, as `emitting` names the columns.
        first, last: the first key, and the key before which to stop.
        numbers: the output's numbers, float64, a row for each row, written for those of these keys past which windows slide.
    """
    start, (there, values, few) = START, room_for_values(lines, first, last)
    for k in range(first, last):
        if not slides(lines, k):
            continue
        rows, mine = rows_of(lines, k), ends_of(lines, ends, first, k)
        read_values(bag, entries, lines.events[lines.begins[k] : lines.begins[k + 1]], there, values)
        if not _slide_few_distinct(
            there, values, few, moves, mine, start, entries, requests, bag, features, rows, numbers
        ):
            _slide_many_distinct(lines, k, moves, mine, start, entries, requests, bag, features, rows, numbers)
        start = mine[mine.size - 1]


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _slide_few_distinct(
    there, values, few, moves, ends, start, entries, requests, bag, features, rows, numbers
):  # fmt: skip
    """Those of one key; returns whether every window holds few enough values, else what is written counts for nothing."""
    n, different, at = START, START, bag[INPUT]
    for q in range(rows.size):
        for m in range(np.uint64(start), np.uint64(ends[q])):
            event = np.uint64(moves[m] if moves[m] >= 0 else ~moves[m])
            if not there[event]:
                continue
            if moves[m] < 0:
                n -= 1
                place = take_out(few, n + 1, values[event])
                different -= place == n or few[place] != values[event]
            elif n == few.size:
                return False
            else:
                place = put_in(few, n, values[event])
                different += place == 0 or few[place - 1] != values[event]
                n += 1
        start, found = ends[q], different
        if requests >= 0 and entries[requests + rows[q], at]:
            found += not holds(few, n, entries[requests + rows[q], at + 1])
        if found > bag[BOUND]:
            return False
        for f in range(features.shape[0]):
            numbers[np.uint64(rows[q]), np.uint64(features[f, OUT])] = np.float64(found)
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def _slide_many_distinct(lines, k, moves, ends, start, entries, requests, bag, features, rows, numbers):
    """The same of any number of values."""
    of, values = _numbered(bag, entries, entries_along(lines, k, requests))
    added, counted = of[of.size - rows.size :] if requests >= 0 else of[:0], np.zeros(values.size, np.int64)
    beyond = _slide_distinct(of, moves, ends, start, added, counted, bag[BOUND], features, rows, numbers)
    if beyond < rows.size:
        _slide_estimates(of, values, moves, ends, added, counted, bag[BOUND], features, rows, numbers, beyond)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _slide_distinct(of, moves, ends, start, added, counted, bound, features, rows, numbers):
    """Those of one key, up to the row that finds too many to count; returns the place of that row."""
    different = START
    for q in range(rows.size):
        for m in range(start, ends[q]):
            value, change = (of[moves[m]], ONE) if moves[m] >= 0 else (of[~moves[m]], -ONE)
            if value >= 0:
                counted[value] += change
                if counted[value] == (1 if change > 0 else 0):
                    different += change
        start, found = ends[q], different
        if added.size and added[q] >= 0 and counted[added[q]] == 0:
            found += 1
        if found > bound:
            return q
        for f in range(features.shape[0]):
            numbers[rows[q], features[f, OUT]] = np.float64(found)
    return rows.size


@njit(cache=True, nogil=True, error_model="numpy")
def _slide_estimates(of, values, moves, ends, added, counted, bound, features, rows, numbers, first):
    """The same from a row on, for which events have moved already: an estimate where there are too many."""
    ranks, most, held = _registers(values, counted)
    different = np.count_nonzero(counted)
    for q in range(first, rows.size):
        for m in range(ends[q - 1] if q > first else ends[q], ends[q]):
            value, change = (of[moves[m]], ONE) if moves[m] >= 0 else (of[~moves[m]], -ONE)
            if value >= 0:
                counted[value] += change
                if counted[value] == (1 if change > 0 else 0):
                    different += change
                    _note(values[value], change, ranks, most, held)
        one = added[q] if added.size and added[q] >= 0 and counted[added[q]] == 0 else np.int64(-1)
        found = different + (1 if one >= 0 else 0)
        if found > bound:
            found = _estimated_with(values, one, ranks, most, held)
        for f in range(features.shape[0]):
            numbers[rows[q], features[f, OUT]] = np.float64(found)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _estimated_with(values, one, ranks, most, held):
    """What registers say with one more value, where there is one (not -1)."""
    if one < 0:
        return estimated(held)
    _note(values[one], ONE, ranks, most, held)
    found = estimated(held)
    _note(values[one], -ONE, ranks, most, held)
    return found


@njit(cache=True, nogil=True, error_model="numpy")
def slide_quantiles(lines, moves, ends, entries, requests, bag, features, first, last, numbers):
    """Write the order statistics of a window, for the rows of a stretch of keys.

    Args:
        lines, moves, ends, entries, requests, bag, features, first, last, numbers: as in `slide_distinct`.
    """
    start, (there, values, few) = START, room_for_values(lines, first, last)
    for k in range(first, last):
        if not slides(lines, k):
            continue
        rows, mine = rows_of(lines, k), ends_of(lines, ends, first, k)
        read_values(bag, entries, lines.events[lines.begins[k] : lines.begins[k + 1]], there, values)
        if not _slide_few_quantiles(
            there, values, few, moves, mine, start, entries, requests, bag, features, rows, numbers
        ):
            ranks, keys, _ = ranked(bag, entries, entries_along(lines, k, requests))
            added = ranks[ranks.size - rows.size :] if requests >= 0 else ranks[:0]
            bits, counts = new_set(keys.size)
            _slide_quantiles(
                ranks, keys, bits, counts, np.full(keys.size, np.nan), moves, mine, start, added, bag[BOUND], features, rows,
                numbers,
            )  # fmt: skip
        start = mine[mine.size - 1]


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _slide_few_quantiles(
    there, values, few, moves, ends, start, entries, requests, bag, features, rows, numbers
):  # fmt: skip
    """Those of one key; returns whether every window holds few enough values, else what is written counts for nothing."""
    n, at = START, bag[INPUT]
    for q in range(rows.size):
        for m in range(np.uint64(start), np.uint64(ends[q])):
            event = np.uint64(moves[m] if moves[m] >= 0 else ~moves[m])
            if not there[event]:
                continue
            if moves[m] < 0:
                take_out(few, n, values[event])
                n -= 1
            elif n == few.size:
                return False
            else:
                put_in(few, n, values[event])
                n += 1
        start, more = ends[q], requests >= 0 and entries[requests + rows[q], at] != 0
        if more:
            if n == few.size:
                return False
            put_in(few, n, entries[requests + rows[q], at + 1])
            n += 1
        for f in range(features.shape[0]):
            share = from_sortable(features[f, NUMBER])
            found = _quantile_of_few(bag[BOUND], few, n, share)
            numbers[np.uint64(rows[q]), np.uint64(features[f, OUT])] = found
        if more:
            take_out(few, n, entries[requests + rows[q], at + 1])
            n -= 1
    return True


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _quantile_of_few(bound, values, total, share):
    """The interpolation between two of the values, of their buckets' middles where there are too many."""
    if total == 0:
        return np.nan
    place = np.float64(total - 1) * share
    low = np.int64(np.floor(place))
    left, right = from_sortable(values[low]), from_sortable(values[min(low + 1, total - 1)])
    if total > bound:
        left, right = middle_of(bucket_of(left)), middle_of(bucket_of(right))
    return between(left, right, place - np.float64(low))


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _slide_quantiles(
    ranks, keys, bits, counts, middles, moves, ends, start, added, bound, features, rows, numbers
):  # fmt: skip
    """Those of one key; `bits` and `counts` are a set without any rank, `middles` has room for that of each rank's bucket."""
    total = START
    for q in range(rows.size):
        for m in range(start, ends[q]):
            rank, change = (ranks[moves[m]], ONE) if moves[m] >= 0 else (ranks[~moves[m]], -ONE)
            if rank >= 0:
                turn(bits, counts, rank, change)
                total += change
        start, one = ends[q], added[q] if added.size else np.int64(-1)
        if one >= 0:
            turn(bits, counts, one, ONE)
            total += 1
        for f in range(features.shape[0]):
            share = from_sortable(features[f, NUMBER])
            numbers[rows[q], features[f, OUT]] = _quantile(bound, bits, counts, total, keys, middles, share)
        if one >= 0:
            turn(bits, counts, one, -ONE)
            total -= 1


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _quantile(bound, bits, counts, total, keys, middles, share):
    """The interpolation between two order statistics, of their buckets' middles where there are too many."""
    if total == 0:
        return np.nan
    place = np.float64(total - 1) * share
    low = np.int64(np.floor(place))
    rest = place - np.float64(low)
    left, after = nth(bits, counts, low)
    right = left
    if low + 1 < total:
        right = first_of(left >> 6, after) if after != _U0 else nth(bits, counts, low + 1)[0]
    if total <= bound:
        return between(from_sortable(keys[left]), from_sortable(keys[right]), rest)
    for rank in (left, right):
        if np.isnan(middles[rank]):
            middles[rank] = middle_of(bucket_of(from_sortable(keys[rank])))
    return between(middles[left], middles[right], rest)
