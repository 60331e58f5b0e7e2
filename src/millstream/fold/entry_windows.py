"""Windows that slide along the events of keys: how many different values, order statistics, and the first entries.

Order statistics and first entries are read from the set of the ranks of the events in a window; where ranks follow the times
of events, that set is a stretch, of which nothing need be kept but its end. Different values are counted by the numbers that
a hash table gives them, and beyond what is exact rank by rank of each register, so that a value can be taken out again. All
give what `entry_states.exact`, the rule itself, gives.
"""

import numpy as np
from numba import njit

from millstream.fold.bits import first_of, new_set, nth, numbers_from, turn
from millstream.fold.emitting import FORMULA, INVERTED, LAG, LANES, NUMBER, OUT, SKIP, between
from millstream.fold.entries import BOUND, INPUT, KEY, copy, with_room
from millstream.fold.fixed_point import from_sortable
from millstream.fold.lanes import EMPTY_LEAST, ONE, START, compare
from millstream.fold.sketches import MOST_RANK, REGISTERS, bucket_of, estimated, index_of, middle_of, rank_of
from millstream.fold.timelines import ends_of, rows_of, slides

_U0 = np.uint64(0)


@njit(cache=True, nogil=True, error_model="numpy")
def entries_along(lines, k, requests):
    """The places of the entries of a key's events, by time, and then of one more of each row, where there are any.

    Args:
        lines, requests: as in `slide_distinct`.
        k: the key.

    Returns:
        Rows of `entries`, int64, shape (events of the key,), or (events and rows of the key,).
    """
    events = lines.events[lines.begins[k] : lines.begins[k + 1]]
    return events if requests < 0 else np.concatenate((events, requests + rows_of(lines, k)))


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


@njit(cache=True, nogil=True, error_model="numpy")
def ranked(bag, entries, every):
    """The rank of each of some entries in the order of their keys, -1 where there is none, and the keys in that order.

    Args:
        bag, entries: as in `slide_distinct`.
        every: the rows of `entries` that are looked at, int64, as `entries_along` gives them.

    Returns:
        The ranks, int64, shape (places of `every`,); the keys, int64, lane by lane, one after another; and whether their
        order is that of the entries as they are given (1), or the reverse (-1), or another (0).
    """
    lanes = bag[KEY]
    there, keys = np.empty(every.size, np.int64), np.empty(every.size * lanes, np.int64)
    n = _keys_of(bag, entries, every, there, keys)
    order, direction = np.arange(n), 1
    if not _ascend(keys, order, lanes):
        order, direction = order[::-1].copy(), -1
        if not _ascend(keys, order, lanes):
            direction = 0
            for lane in range(lanes - 1, -1, -1):
                order = order[np.argsort(keys[lane : n * lanes : lanes][order], kind="mergesort")]
    ranks, ordered = np.full(every.size, -1, np.int64), np.empty(n * lanes, np.int64)
    _place(there, keys, order, lanes, ranks, ordered)
    return ranks, ordered, direction


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _keys_of(bag, entries, every, there, keys):
    """Write which of some entries are there, and their keys; returns how many are."""
    n = START
    for i in range(every.size):
        if entries[every[i], bag[INPUT]]:
            there[n] = i
            for j in range(bag[KEY]):
                keys[n * bag[KEY] + j] = entries[every[i], bag[INPUT] + 1 + j]
            n += 1
    return n


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _place(there, keys, order, lanes, ranks, ordered):
    """Write the rank of each entry that is there, and the keys in order."""
    for rank in range(order.size):
        ranks[there[order[rank]]] = rank
        copy(keys, order[rank] * lanes, ordered, rank * lanes, lanes)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _ascend(keys, order, lanes):
    """Whether keys ascend in an order."""
    for i in range(1, order.size):  # noqa: SIM110 - Numba has no generators
        if compare(keys, order[i - 1] * lanes, keys, order[i] * lanes, lanes) > 0:
            return False
    return True


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
    start = np.int64(0)
    for k in range(first, last):
        if slides(lines, k):
            of, values = _numbered(bag, entries, entries_along(lines, k, requests))
            rows, mine = rows_of(lines, k), ends_of(lines, ends, first, k)
            added = of[of.size - rows.size :] if requests >= 0 else of[:0]
            counted = np.zeros(values.size, np.int64)
            beyond = _slide_distinct(of, moves, mine, start, added, counted, bag[BOUND], features, rows, numbers)
            if beyond < rows.size:
                _slide_estimates(of, values, moves, mine, added, counted, bag[BOUND], features, rows, numbers, beyond)
            start = mine[mine.size - 1]


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
    start = np.int64(0)
    for k in range(first, last):
        if slides(lines, k):
            ranks, keys, _ = ranked(bag, entries, entries_along(lines, k, requests))
            rows, mine = rows_of(lines, k), ends_of(lines, ends, first, k)
            added = ranks[ranks.size - rows.size :] if requests >= 0 else ranks[:0]
            bits, counts = new_set(keys.size)
            _slide_quantiles(
                ranks, keys, bits, counts, np.full(keys.size, np.nan), moves, mine, start, added, bag[BOUND], features, rows,
                numbers,
            )  # fmt: skip
            start = mine[mine.size - 1]


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


@njit(cache=True, nogil=True, error_model="numpy")
def slide_first(lines, moves, ends, entries, requests, bag, features, first, last, texts, heap):
    """Write what a window's first entries give, for the rows of a stretch of keys; returns the heap with the lists.

    Args:
        lines, moves, ends, entries, requests, bag, features, first, last: as in `slide_distinct`.
        texts: the output's lanes, int64, a row for each row, written as `numbers` are there; of a list, where it begins.
        heap: the lists that there are already; see `listed`.
    """
    start, chosen = np.int64(0), np.empty(bag[BOUND], np.int64)
    for k in range(first, last):
        if slides(lines, k):
            ranks, keys, direction = ranked(bag, entries, entries_along(lines, k, requests))
            rows, mine = rows_of(lines, k), ends_of(lines, ends, first, k)
            added = ranks[ranks.size - rows.size :] if requests >= 0 else ranks[:0]
            if added.size or lines.late[k]:
                direction = 0
            heap = _slide_first(
                ranks, keys, direction, moves, mine, start, added, chosen, bag, features, rows, texts, heap
            )
            start = mine[mine.size - 1]
    return heap


@njit(cache=True, nogil=True, error_model="numpy")
def _slide_first(ranks, keys, direction, moves, ends, start, added, chosen, bag, features, rows, texts, heap):
    """The same for one key; with a direction, ranks follow time or run against it, and a window holds a stretch of them."""
    room = START
    for f in range(features.shape[0]):
        room += 1 + features[f, NUMBER] * features[f, LANES]
    bits, counts = new_set(keys.size // bag[KEY] if direction == 0 else 0)
    total, edge, kept = np.int64(0), np.int64(0), np.int64(0)
    for q in range(rows.size):
        for m in range(start, ends[q]):
            rank, change = (ranks[moves[m]], ONE) if moves[m] >= 0 else (ranks[~moves[m]], -ONE)
            if rank < 0:
                continue
            total += change
            if direction == 0:
                turn(bits, counts, rank, change)
            elif change > 0:  # the newest one so far, or one that comes back before it
                edge = rank if total == 1 else max(edge, rank) if direction > 0 else min(edge, rank)
        start, one = ends[q], added[q] if added.size else np.int64(-1)
        if one >= 0:
            turn(bits, counts, one, ONE)
        kept = min(total + (1 if one >= 0 else 0), chosen.size)
        if direction == 0:
            numbers_from(bits, counts, START, kept, chosen)
        else:
            for i in range(kept):
                chosen[i] = edge + i if direction < 0 else edge - total + 1 + i
        if one >= 0:
            turn(bits, counts, one, -ONE)
        if heap.size < heap[0] + room:
            heap = with_room(heap, heap[0], room)
        _write_first(keys, chosen, kept, bag, features, texts, rows[q], heap)
    return heap


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _write_first(keys, chosen, kept, bag, features, texts, row, heap):
    """Write what the entries of some ranks, in their order, give: one of them, or the list of them; the heap has room."""
    lanes = bag[KEY]
    for f in range(features.shape[0]):
        count, out = min(features[f, NUMBER], kept), features[f, OUT]
        if features[f, FORMULA] == LAG:
            texts[row, out] = EMPTY_LEAST
            if count == features[f, NUMBER]:
                for j in range(lanes):
                    texts[row, out + j] = ~keys[chosen[count - 1] * lanes + j]
            continue
        to = heap[0]
        texts[row, out] = to if count else START
        if count:
            heap[to] = count
            to += 1
        for i in range(count):
            place = chosen[i] * lanes + features[f, SKIP]
            for j in range(features[f, LANES]):
                heap[to] = ~keys[place + j] if features[f, INVERTED] else keys[place + j]
                to += 1
        heap[0] = to
