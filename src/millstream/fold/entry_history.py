"""The kernel as_of over entries: history and (key, instant) rows, each window sliding along a key's events.

The entries of a key are ranked once per bag. A window then holds how many of its events have each rank, as a binary
indexed tree (Fenwick, 1994), so that an event enters or leaves in the logarithm of how many ranks there are, and what is
asked for is found in the tree: order statistics, the first entries, those that are there at all. What bags keep in
registers is counted rank by rank here, so that an event can be taken out again. All give what `entry_states.exact`, the
rule itself, gives.
"""

import numpy as np
from numba import njit

from millstream.fold.emitting import FORMULA, LOOKS_UP, NUMBER, OUT, QUANTILE, between, emit_entries
from millstream.fold.entries import (
    BOUND,
    BOUNDED,
    DISTINCT,
    GROUPS,
    GROWTH,
    INPUT,
    KEY,
    NEWEST,
    PASSED,
    RULE,
    SPREAD,
    WIDTH,
    absorb,
    copy,
    ordered,
    same_key,
)
from millstream.fold.entry_payloads import payload_of, payload_trees, put_payload
from millstream.fold.entry_states import exact
from millstream.fold.fixed_point import from_sortable
from millstream.fold.kernels import ascending, in_order
from millstream.fold.sketches import MOST_RANK, REGISTERS, bucket_of, estimated, index_of, middle_of, rank_of
from millstream.fold.spans import spans


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _add(tree, group, change):
    place = group + 1
    while place < tree.size:
        tree[place] += change
        place += place & -place


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _find(tree, row):
    """The group that holds the row of a number, counted from 0."""
    place, before, step = 0, np.int64(0), 1
    while 2 * step < tree.size:
        step *= 2
    while step > 0:
        beyond = place + step
        if beyond < tree.size and before + tree[beyond] <= row:
            place = beyond
            before += tree[beyond]
        step //= 2
    return place


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
    left = from_sortable(entries[firsts[_find(tree, low)], lane])
    right = from_sortable(entries[firsts[_find(tree, min(low + 1, total - 1))], lane])
    if total > bag[BOUND]:
        left, right = middle_of(bucket_of(left)), middle_of(bucket_of(right))
    return between(left, right, rest)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _counted(bag, tree, counted, total, different, firsts, entries, trees, one, request, out):
    """The bag of entries that are counted, as many as it keeps, into `out`; `request` is one more event, of the group `one`."""
    if bag[RULE] == BOUNDED and different > bag[BOUND]:
        out[0] = PASSED
        return
    row, end, kept, left = np.int64(0), 1, 0, bag[BOUND]
    while row < total and (bag[RULE] == BOUNDED or left > 0):
        group = _find(tree, row)
        copy(entries[firsts[group]], bag[INPUT] + 1, out, end, bag[KEY])
        many = counted[group] if bag[RULE] == BOUNDED else min(counted[group], left)
        out[end + bag[KEY]] = many
        if bag[GROUPS] > 1:
            payload_of(bag, trees[0][group], trees[1][group], trees[3], out, end + bag[KEY] + 1)
            if group == one:
                absorb(bag, 1, out, end + bag[KEY] + 1, entries[request], bag[INPUT] + 2 + bag[KEY])
        left -= many
        row += counted[group]
        end += bag[WIDTH]
        kept += 1
    out[0] = kept * 4


@njit(cache=True, nogil=True, error_model="numpy")
def _by_time_and_group(times, of):
    """The place of each event, whose times ascend, by time and then group; and the group at each place."""
    events = np.arange(times.size)
    for i in range(1, times.size):
        j = i - 1
        while j >= 0 and times[events[j]] == times[i] and of[events[j]] > of[i]:
            events[j + 1] = events[j]
            j -= 1
        events[j + 1] = i
    places, groups = np.empty(times.size, np.int64), np.empty(times.size, np.int64)
    for i in range(times.size):
        places[events[i]] = i
        groups[i] = of[events[i]]
    return places, groups


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _mark(place, group, change, marks, latest):
    """Note in a tree of places which event of each group is the newest; those that leave are the oldest."""
    if change > 0 and place > latest[group]:
        if latest[group] >= 0:
            _add(marks, latest[group], -1)
        latest[group] = place
        _add(marks, place, 1)
    elif change < 0 and place == latest[group]:
        latest[group] = -1
        _add(marks, place, -1)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _latest(bag, marks, different, times, groups, firsts, entries, latest, one, at, out):
    """The bag of the entries that were seen last, as many as it keeps, oldest first, into `out`.

    A request whose group is `one` (-1: there is none) is the newest of all, and of its group the one that counts.
    """
    kept, end, before = min(different, bag[BOUND]), 1, np.int64(-1)
    if one >= 0:
        different, kept, before = different - 1, kept - 1, latest[one]
        if before >= 0:
            _add(marks, before, -1)
    for i in range(different - kept, different):
        place = _find(marks, i)
        copy(entries[firsts[groups[place]]], bag[INPUT] + 1, out, end, bag[KEY])
        out[end + bag[KEY]] = times[place]
        end += bag[WIDTH]
    if one >= 0:
        kept += 1
        copy(entries[firsts[one]], bag[INPUT] + 1, out, end, bag[KEY])
        out[end + bag[KEY]] = at
    if before >= 0:
        _add(marks, before, 1)
    out[0] = kept * 4


@njit(cache=True, nogil=True, error_model="numpy")
def _slide(
    mine, times, available, known, entries, added, counts, probes, ordinal, at, rows, bags, windows, features, numbers, texts,
    place, heap,
):  # fmt: skip
    """One key whose queries ascend in ordinal and instant; one more event of each has the entries at its place in `added`.

    `mine` are the events by time, `times` and `available` theirs in that order, `known` their places as they become
    available, or nothing where that is the same order; `rows` are the output rows of the queries. `place` has room for a
    number of every event there is.
    """
    work, feature = np.empty(GROWTH, np.int64), 0
    of, firsts, every = np.empty(0, np.int64), np.empty(0, np.int64), np.concatenate((mine, added))
    while feature < features.shape[0]:
        b, w, last = features[feature, 0], features[feature, 1], feature + 1
        while last < features.shape[0] and features[last, 0] == b and features[last, 1] == w:
            last += 1
        if feature == 0 or features[feature - 1, 0] != b:
            of, firsts = _groups(bags[b], entries, every, place)
        if work.size < 1 + firsts.size * bags[b, WIDTH]:
            work = np.empty(1 + firsts.size * bags[b, WIDTH], np.int64)
        heap = _slide_window(
            times, available, known, entries, counts, probes, ordinal, at, rows, bags[b], windows, w, features[feature:last],
            numbers, texts, work, of, firsts, every, heap,
        )  # fmt: skip
        feature = last
    return heap


@njit(cache=True, nogil=True, error_model="numpy")
def _slide_window(
    times, available, known, entries, counts, probes, ordinal, at, rows, bag, windows, w, features, numbers, texts, work, of,
    firsts, every, heap,
):  # fmt: skip
    """One window of one bag, query by query; see `history._slide` for which events enter it and leave it, and when.

    `every` are the places of the entries of the events, and then of one more of each query.
    """
    tree, counted, sums = np.zeros(firsts.size + 1, np.int64), np.zeros(firsts.size, np.int64), np.zeros(2, np.int64)
    ranks, most, held = np.zeros((0, 0), np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64)
    inside, lane = np.zeros(times.size, np.bool_), bag[INPUT] + 1
    recent, looks_up = times.size if bag[RULE] == NEWEST else 0, features[0, FORMULA] >= LOOKS_UP
    marks, latest = np.zeros(recent + 1, np.int64), np.full(firsts.size if recent else 0, -1, np.int64)
    ranks_of, groups_of = _by_time_and_group(times[:recent], of)
    trees = payload_trees(bag, of[: times.size], firsts.size)
    low, high, new = 0, 0, 0
    begins, finishes = np.empty(at.size, np.int64), np.empty(at.size, np.int64)
    spans(times, available, known, ordinal, at, counts, windows, w, begins, finishes)
    for q in range(at.size):
        since, until = begins[q], finishes[q]
        by, passed, moved, one = ordinal[q], high, q == 0, np.int64(-1)
        while True:  # one event that leaves, then those that enter
            event, change = -1, 1
            if low > 0 and times[low - 1] >= since:  # a session that has become one with an older one
                low -= 1
                event = low if available[low] <= by else -1
            elif low < high and times[low] < since:
                event, change = low, -1
                low += 1
            elif high < times.size and times[high] < until and (known.size > 0 or available[high] <= by):
                high += 1
                if times[high - 1] < since:
                    low = high
                elif available[high - 1] <= by:
                    event = high - 1
            elif new < known.size and available[known[new]] <= by:
                if low <= known[new] < passed:
                    event = known[new]
                new += 1
            else:
                break
            if event < 0 or inside[event] == (change > 0):
                continue
            inside[event] = change > 0
            if of[event] < 0:
                continue
            moved = True
            if bag[GROUPS] > 1:
                row, payload = entries[every[event]], bag[INPUT] + 2 + bag[KEY]
                put_payload(bag, trees[0][of[event]], trees[2][event], trees[3], row, payload, change > 0)
            if recent:
                _mark(ranks_of[event], of[event], change, marks, latest)
            if _count(of[event], change, tree, counted, sums) and held.size:
                _note(entries[firsts[of[event]], lane], change, ranks, most, held)
        if of.size > times.size and windows[w, 2] == 0:
            moved, one = True, of[times.size + q]
        if one >= 0 and _count(one, 1, tree, counted, sums) and held.size:
            _note(entries[firsts[one], lane], 1, ranks, most, held)
        if bag[RULE] == DISTINCT and sums[1] > bag[BOUND] and not held.size:
            ranks, most, held = _registers(firsts, counted, entries, lane)
        if moved and bag[RULE] == NEWEST:
            _latest(bag, marks, sums[1], times, groups_of, firsts, entries, latest, one, at[q], work)
        request = every[times.size + q] if one >= 0 else np.int64(-1)
        if moved and not looks_up and bag[RULE] != DISTINCT and bag[RULE] != SPREAD and bag[RULE] != NEWEST:
            _counted(bag, tree, counted, sums[0], sums[1], firsts, entries, trees, one, request, work)
        for f in range(features.shape[0]):
            if looks_up:
                key = probes[rows[q], features[f, NUMBER] + 1]
                _looked_up(bag, key, counted, sums[1], firsts, entries, trees, one, request, work)
            heap = _emit(
                bag, features[f], tree, sums, held, firsts, entries, work, at[q], probes, numbers, texts, rows[q], heap
            )
        if one >= 0 and _count(one, -1, tree, counted, sums) and held.size:
            _note(entries[firsts[one], lane], -1, ranks, most, held)
    return heap


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _count(group, change, tree, counted, sums):
    """Count an event in or out, in `sums` too: events, and groups that are there; whether its group came or went."""
    _add(tree, group, change)
    counted[group] += change
    sums[0] += change
    different = counted[group] == (1 if change > 0 else 0)
    if different:
        sums[1] += change
    return different


@njit(cache=True, nogil=True, error_model="numpy")
def _emit(bag, feature, tree, sums, held, firsts, entries, work, at, probes, numbers, texts, row, heap):
    """Write a feature of a window, whose bag, where it is written down, is `work`."""
    if bag[RULE] == DISTINCT:
        numbers[row, feature[OUT]] = np.float64(estimated(held) if sums[1] > bag[BOUND] else sums[1])
        return heap
    if feature[FORMULA] == QUANTILE:
        share = from_sortable(feature[NUMBER])
        numbers[row, feature[OUT]] = _quantile(bag, tree, sums[0], firsts, entries, share)
        return heap
    return emit_entries(bag, feature, work, at, probes, numbers, texts, row, heap)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _looked_up(bag, key, counted, different, firsts, entries, trees, one, request, out):
    """The bag of the one entry that has a key, of one lane, into `out`: without any where there is none.

    `request` is one more event, of the group `one`.
    """
    out[0] = PASSED if different > bag[BOUND] else 0
    lane, group, high = bag[INPUT] + 1, 0, firsts.size
    while group < high:
        middle = (group + high) // 2
        if entries[firsts[middle], lane] < key:
            group = middle + 1
        else:
            high = middle
    if out[0] == PASSED or group == firsts.size or counted[group] == 0 or entries[firsts[group], lane] != key:
        return
    out[0], out[1], out[1 + bag[KEY]] = 4, key, counted[group]
    if bag[GROUPS] > 1:
        payload_of(bag, trees[0][group], trees[1][group], trees[3], out, 2 + bag[KEY])
        if group == one:
            absorb(bag, 1, out, 2 + bag[KEY], entries[request], bag[INPUT] + 2 + bag[KEY])


@njit(cache=True, nogil=True, error_model="numpy")
def as_of(
    events, event_begins, queries, query_begins, times, available, entries, requests, counts, probes, ordinal, at, bags,
    windows, features, first, last, numbers, texts, heap,
):  # fmt: skip
    """History and (key, instant) rows to feature rows, for a stretch of keys; returns the heap with their lists.

    A key whose later ordinals ask for earlier instants is read by the rule itself.

    Args:
        events: the numbers of the events, grouped by key, int64; see `kernels.by_key`.
        event_begins: where in `events` those of each key begin, and where the last ones end, int64, shape (keys + 1,).
        queries: the numbers of the queries, grouped by key likewise.
        query_begins: where in `queries` those of each key begin, and where the last ones end.
        times: the times of the events (µs), int64, by number; this and what follows, up to `features`, is as
            `entry_states.exact` has it.
        available: from which ordinal on each is known.
        entries: the entries of the events, then those of one more event of each query.
        requests: the row of `entries` from which on those stand; -1 where none is added.
        counts: per query, whether its one more event counts as a row of a window of events.
        probes: what requests look up, a row for each query.
        ordinal: per query, by when an event must be available to count.
        at: per query, the instant (µs).
        bags: the bags of the group.
        windows: the windows.
        features: the features that are made of entries.
        first: the first key.
        last: the key before which to stop.
        numbers: the output's numbers, float64, a row for each query, written for the queries of these keys alone.
        texts: the output's lanes, int64, a row for each query; likewise.
        heap: the lists that there are already; see `listed`.
    """
    place, codes = np.empty(entries.shape[0], np.int64), np.empty(1, np.int64)
    for k in range(first, last):
        asked = queries[query_begins[k] : query_begins[k + 1]]
        if asked.size == 0:
            continue
        asked = in_order(in_order(asked, at), ordinal)
        if ascending(at[asked]):
            mine = in_order(events[event_begins[k] : event_begins[k + 1]], times)
            open_from = available[mine]
            known = in_order(np.arange(0 if ascending(open_from) else mine.size), open_from)
            added = asked[:0] if requests < 0 else requests + asked
            heap = _slide(
                mine, times[mine], open_from, known, entries, added, counts[asked] if counts.size > 0 else counts,
                probes, ordinal[asked], at[asked], asked, bags, windows, features, numbers, texts, place, heap,
            )  # fmt: skip
            continue
        codes[0] = k
        for q in asked:
            one = slice(q, q + 1)
            mine_of = np.int64(-1) if requests < 0 else requests + q
            heap = exact(
                events, event_begins, codes, times, available, entries, mine_of, counts[one], probes[one], ordinal[one],
                at[one], bags, windows, features, numbers[one], texts[one], heap,
            )  # fmt: skip
    return heap
