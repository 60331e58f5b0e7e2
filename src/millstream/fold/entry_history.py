"""Windows that slide along the events of keys: bags that are written down, of categories, what is looked up, or the latest.

A window holds how many of its events have each different key of an entry, and which of these are there at all; what is kept
beside them is in the trees of `entry_payloads`. All give what `entry_states.exact`, the rule itself, gives.
"""

import numpy as np
from numba import njit

from millstream.fold.bits import new_set, numbers_from, turn
from millstream.fold.emitting import FORMULA, LOOKS_UP, NUMBER, emit_entries
from millstream.fold.entries import BOUND, GROUPS, GROWTH, INPUT, KEY, NEWEST, PASSED, RULE, WIDTH, absorb, copy
from millstream.fold.entry_payloads import payload_of, payload_trees, put_payload
from millstream.fold.entry_ranks import entries_along, ranked
from millstream.fold.lanes import ONE, START, compare
from millstream.fold.timelines import ends_of, rows_of, slides


@njit(cache=True, nogil=True, error_model="numpy")
def _grouped(bag, entries, every):
    """The group of each of some entries by the order of their keys, -1 where there is none, and the key of each group."""
    of, keys, _ = ranked(bag, entries, every)
    lanes, many = bag[KEY], START
    groups = np.empty(keys.size // lanes, np.int64)
    for rank in range(groups.size):
        if rank == 0 or compare(keys, rank * lanes, keys, (many - 1) * lanes, lanes) != 0:
            copy(keys, rank * lanes, keys, many * lanes, lanes)
            many += 1
        groups[rank] = many - 1
    for i in range(of.size):
        if of[i] >= 0:
            of[i] = groups[of[i]]
    return of, keys[: many * lanes]


@njit(cache=True, nogil=True, error_model="numpy")
def slide_bag(lines, moves, ends, entries, requests, bag, features, probes, first, last, numbers, texts, heap):
    """Write what is made of the bags of a window, for the rows of a stretch of keys; returns the heap with the lists.

    Args:
        lines: the events and the rows of each key, laid out; see `timelines`.
        moves: which events enter the window and leave it, int64, as `timelines.moves_of` gives them for these keys.
        ends: where in `moves` those before each row end, int64; likewise.
        entries: the entries of the events, int64, shape (events, lanes), and from `requests` on those of one more event of
            each row.
        requests: the row of `entries` from which on those stand; -1 where none is added.
        bag: what the bag is like, one row of `bags`, int64, whose rule is `BOUNDED` or `NEWEST`; see `entries`.
        features: the features of that bag and that window, int64, a row each, as `emitting` names the columns.
        probes: what requests look up, a row for each row, as `Probes.lanes`.
        first: the first key.
        last: the key before which to stop.
        numbers: the output's numbers, float64, a row for each row, written for those of these keys past which windows slide.
        texts: the output's lanes, int64, a row for each row; likewise; of a list, a reference to it.
        heap: the lists that there are already; see `listed`.
    """
    work, start = np.empty(GROWTH, np.int64), np.int64(0)
    for k in range(first, last):
        if not slides(lines, k):
            continue
        every, rows, mine = entries_along(lines, k, requests), rows_of(lines, k), ends_of(lines, ends, first, k)
        of, keys = _grouped(bag, entries, every)
        added = of[of.size - rows.size :] if requests >= 0 else of[:0]
        at = lines.at[lines.row_begins[k] : lines.row_begins[k + 1]]
        room = 1 + keys.size // bag[KEY] * bag[WIDTH]
        if work.size < room:
            work = np.empty(room, np.int64)
        if bag[RULE] == NEWEST:
            times = lines.times[lines.begins[k] : lines.begins[k + 1]]
            heap = _slide_newest(times, of, keys, moves, mine, start, added, bag, features, at, rows, probes, numbers, texts,
                                 work, heap)  # fmt: skip
        else:
            heap = _slide_counted(of, keys, entries, every, moves, mine, start, added, bag, features, at, rows, probes, numbers,
                                  texts, work, heap)  # fmt: skip
        start = mine[mine.size - 1]
    return heap


@njit(cache=True, nogil=True, error_model="numpy")
def _slide_counted(
    of, keys, entries, every, moves, ends, start, added, bag, features, at, rows, probes, numbers, texts, work, heap
):
    counted, looks_up = np.zeros(keys.size // bag[KEY], np.int64), features[0, FORMULA] >= LOOKS_UP
    bits, counts = new_set(counted.size)
    trees, payload, different = (
        payload_trees(bag, of[: of.size - added.size], counted.size),
        bag[INPUT] + 2 + bag[KEY],
        0,
    )
    for q in range(rows.size):
        stale = q == 0 or added.size > 0 or ends[q] > start
        for m in range(start, ends[q]):
            event, change = (moves[m], ONE) if moves[m] >= 0 else (~moves[m], -ONE)
            group = of[event]
            if group < 0:
                continue
            if bag[GROUPS] > 1:
                put_payload(bag, trees[0][group], trees[2][event], trees[3], entries[every[event]], payload, change > 0)
            different += _count(group, change, bits, counts, counted)
        start = ends[q]
        one, request = np.int64(-1), np.int64(-1)
        if added.size and added[q] >= 0:
            one, request = added[q], every[every.size - added.size + q]
            different += _count(one, ONE, bits, counts, counted)
        if stale and not looks_up:
            _write_counted(bag, bits, counts, counted, different, keys, entries, trees, one, request, work)
        for f in range(features.shape[0]):
            if looks_up:
                key = probes[rows[q], features[f, NUMBER] + 1]
                _look_up(bag, key, counted, different, keys, entries, trees, one, request, work)
            heap = emit_entries(bag, features[f], work, at[q], probes, numbers, texts, rows[q], heap)
        if one >= 0:
            different += _count(one, -ONE, bits, counts, counted)
    return heap


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _count(group, change, bits, counts, counted):
    """Count an event in or out; by how many there are more groups, or fewer (-1)."""
    counted[group] += change
    if counted[group] != (1 if change > 0 else 0):
        return 0
    turn(bits, counts, group, change)
    return change


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _write_counted(bag, bits, counts, counted, different, keys, entries, trees, one, request, out):
    """The bag of all groups that are there into `out`; `request` is one more event, of the group `one` (-1: none)."""
    if different > bag[BOUND]:
        out[0] = PASSED
        return
    groups = out[out.size - different :]  # each is read before its place, or one after it, is written
    numbers_from(bits, counts, START, different, groups)
    end = 1
    for i in range(different):
        _write_entry(bag, groups[i], counted, keys, entries, trees, one, request, out, end)
        end += bag[WIDTH]
    out[0] = different * 4


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _write_entry(bag, group, counted, keys, entries, trees, one, request, out, at):
    copy(keys, group * bag[KEY], out, at, bag[KEY])
    beside = at + bag[KEY]
    out[beside] = counted[group]
    if bag[GROUPS] > 1:
        payload_of(bag, trees[0][group], trees[1][group], trees[3], out, beside + 1)
        if group == one:
            absorb(bag, ONE, out, beside + 1, entries[request], bag[INPUT] + 2 + bag[KEY])


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _look_up(bag, key, counted, different, keys, entries, trees, one, request, out):
    """The bag of the one entry that has a key, of one lane, into `out`: without any where there is none.

    `request` is one more event, of the group `one`.
    """
    out[0] = PASSED if different > bag[BOUND] else 0
    group, high = 0, keys.size
    while group < high:
        middle = (group + high) // 2
        if keys[middle] < key:
            group = middle + 1
        else:
            high = middle
    if out[0] == PASSED or group == keys.size or keys[group] != key or counted[group] == 0:
        return
    _write_entry(bag, group, counted, keys, entries, trees, one, request, out, 1)
    out[0] = 4


@njit(cache=True, nogil=True, error_model="numpy")
def _by_time_and_group(times, of):
    """The place of each event, whose times ascend, by time and then group; and the event at each place."""
    events = np.arange(times.size)
    for i in range(1, times.size):
        j = i - 1
        while j >= 0 and times[events[j]] == times[i] and of[events[j]] > of[i]:
            events[j + 1] = events[j]
            j -= 1
        events[j + 1] = i
    places = np.empty(times.size, np.int64)
    for i in range(times.size):
        places[events[i]] = i
    return places, events


@njit(cache=True, nogil=True, error_model="numpy")
def _slide_newest(
    times, of, keys, moves, ends, start, added, bag, features, at, rows, probes, numbers, texts, work, heap
):
    """The bags of the groups that were seen last; of each, the newest event is marked; those that leave are the oldest."""
    places, events = _by_time_and_group(times, of)
    bits, counts = new_set(times.size)
    latest, different = np.full(keys.size // bag[KEY], -1, np.int64), START
    for q in range(rows.size):
        stale = q == 0 or added.size > 0 or ends[q] > start
        for m in range(start, ends[q]):
            enters = moves[m] >= 0
            event = moves[m] if enters else ~moves[m]
            group, place = of[event], places[event]
            if group < 0 or (place <= latest[group] if enters else place != latest[group]):
                continue
            if latest[group] >= 0:
                turn(bits, counts, latest[group], -ONE)
                different -= 1
            latest[group] = place if enters else -1
            if enters:
                turn(bits, counts, place, ONE)
                different += 1
        start, one = ends[q], added[q] if added.size else np.int64(-1)
        if stale:
            _write_newest(bag, bits, counts, different, times, events, of, keys, latest, one, at[q], work)
        for f in range(features.shape[0]):
            heap = emit_entries(bag, features[f], work, at[q], probes, numbers, texts, rows[q], heap)
    return heap


@njit(cache=True, nogil=True, error_model="numpy")
def _write_newest(bag, bits, counts, different, times, events, of, keys, latest, one, at, out):
    """The bag of the groups that were seen last, as many as it keeps, oldest first, into `out`.

    A request whose group is `one` (-1: there is none) is the newest of all, and of its group the one that counts.
    """
    before = latest[one] if one >= 0 else np.int64(-1)
    if before >= 0:
        turn(bits, counts, before, -ONE)
        different -= 1
    kept, end = min(different, bag[BOUND] - (1 if one >= 0 else 0)), 1
    found = np.empty(kept, np.int64)
    numbers_from(bits, counts, different - kept, kept, found)
    for place in found:
        copy(keys, of[events[place]] * bag[KEY], out, end, bag[KEY])
        out[end + bag[KEY]] = times[events[place]]
        end += bag[WIDTH]
    if one >= 0:
        kept += 1
        copy(keys, one * bag[KEY], out, end, bag[KEY])
        out[end + bag[KEY]] = at
    if before >= 0:
        turn(bits, counts, before, ONE)
    out[0] = kept * 4
