"""The fourth kernel, as_of: history and (key, instant) rows to feature rows.

A key goes through the states that serving would have held, one event after another; or every window slides along its
events, however late they became available. Both give what `exact`, the rule itself, gives.
"""

import numpy as np
from numba import njit

from millstream.fold.kernels import ascending, fold_one, in_order, lanes_of_events, merge_one, value_one
from millstream.fold.lanes import (
    ADD,
    EMPTY_GREATEST,
    EMPTY_LEAST,
    LEAST,
    TEXT,
    VECTOR_SUM,
    beats,
    clear,
    combine,
    combine_one,
    emit,
    remove_one,
)
from millstream.fold.layout import HEADER
from millstream.fold.moments import SPACE
from millstream.fold.spans import GAP, LOWEST, ROWS, span_by_rule, spans


@njit(cache=True, nogil=True, error_model="numpy")
def _sweep(
    times, arrivals, available, lanes, ordinal, at, requests, ops, windows, features, levels, meta, out, scratch
):
    """One key by merging each event into its state as it becomes available, and reading at each query."""
    numbers, texts, bounds, acc, edges = out
    one = np.empty(1, np.int64)
    half = (scratch.size - HEADER - 1 - meta[0]) // 2
    place, other, single, have, known = np.int64(0), half, 2 * half, False, 0
    for q in range(at.size):
        while known < times.size and available[known] <= ordinal[q]:
            one[0] = known
            if have:
                fold_one(one, times, arrivals, lanes, scratch, single, ops, levels, meta, edges)
                merge_one(scratch, place, single, scratch, other, ops, levels, meta, edges)
                place, other = other, place
            else:
                fold_one(one, times, arrivals, lanes, scratch, place, ops, levels, meta, edges)
                have = True
            known += 1
        where = place if have else np.int64(-1)
        request = np.int64(q * meta[0] if requests.size > 0 else -1)
        value_one(
            scratch, where, at[q], ops, windows, features, meta, bounds, acc, numbers, texts, q, requests, request
        )


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _slide(times, available, known, lanes, ordinal, at, requests, added, ops, windows, window_ops, features, meta, out,
           queue, late, ends):  # fmt: skip
    """One key whose queries ascend in ordinal and instant: each window slides, adding and removing events.

    Events are numbered by their times; `known` lists them as they become available, and nothing where that is the same.
    One enters a window when it is available and its time is past, whichever comes last, unless its time has left the
    window by then. A window that comes to hold older ones than before is filled anew: sessions that become one.
    """
    numbers, texts, sums, held, begins, finishes = out
    feature, size = 0, meta[0]
    for w in range(windows.shape[0]):
        begin = feature
        while feature < features.shape[0] and features[feature, 1] == w:
            feature += 1
        clear(ops, sums, 0)
        ends[:] = 0
        low, high, new, by = 0, 0, 0, LOWEST
        spans(times, available, known, ordinal, at, added, windows, w, begins, finishes)
        for q in range(at.size):
            since, until = begins[q], finishes[q]
            moved = False
            if q > 0 and since < begins[q - 1]:
                clear(ops, sums, 0)
                ends[:] = 0
                while low > 0 and times[low - 1] >= since:
                    low -= 1
                for event in range(low, high):
                    if available[event] <= by:
                        _enter(event, lanes, size, ops, window_ops, w, sums, queue, late, ends)
                moved = True
            while low < high and times[low] < since:
                if available[low] <= by:
                    _leave(low, lanes, size, ops, window_ops, w, sums, queue, late, ends)
                    moved = True
                low += 1
            by, passed = ordinal[q], high
            while True:
                if high < times.size and times[high] < until and (known.size > 0 or available[high] <= by):
                    event = high
                    high += 1
                    enters = available[event] <= by
                    if times[event] < since:
                        low, enters = high, False
                elif new < known.size and available[known[new]] <= by:
                    event = known[new]
                    new += 1
                    enters = low <= event < passed
                else:
                    break
                if enters:
                    _enter(event, lanes, size, ops, window_ops, w, sums, queue, late, ends)
                    moved = True
            if moved:
                _fronts(low, lanes, size, ops, window_ops, w, sums, queue, late, ends)
            if added.size > 0 and added[q] and windows[w, 2] == 0:
                for j in range(size):
                    held[j] = sums[j]
                combine(ops, held, 0, requests, q * size)
                emit(features, begin, feature, held, 0, at[q], numbers, texts, q)
            else:
                emit(features, begin, feature, sums, 0, at[q], numbers, texts, q)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _enter(event, lanes, size, ops, used, w, sums, queue, late, ends):
    """Add an event to a window: sums add; for least and greatest it displaces from the queue what it beats.

    The queue is in the order of time, so an event older than its last one goes to the heap of the late ones instead:
    a place in the queue would cost as many moves as there are younger events, and for `first` that is all of them.
    """
    row = event * size
    for i in range(ops.shape[0]):
        if not used[w, i]:
            continue
        op, offset, width = ops[i, 0], ops[i, 1], ops[i, 2]
        if op == ADD:
            combine_one(op, width, sums, offset, lanes, row + offset)
            continue
        first, last = ends[0, i], ends[1, i]
        if last > first and queue[i, last - 1] > event:
            _push(event, i, lanes, size, ops, late, ends[2, i])
            ends[2, i] += 1
            continue
        while last > first and not beats(op, width, lanes, queue[i, last - 1] * size + offset, lanes, row + offset):
            last -= 1
        queue[i, last] = event
        ends[1, i] = last + 1


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _leave(event, lanes, size, ops, used, w, sums, queue, late, ends):
    """Take the oldest event of a window out again; the heap of the late ones drops it when it comes to the top."""
    for i in range(ops.shape[0]):
        if not used[w, i]:
            continue
        if ops[i, 0] == ADD:
            remove_one(ops[i, 2], sums, ops[i, 1], lanes, event * size + ops[i, 1])
        elif ends[1, i] > ends[0, i] and queue[i, ends[0, i]] == event:
            ends[0, i] += 1


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _push(event, i, lanes, size, ops, late, count):
    """Put an event into the heap of `count` late events, whose top is the least or greatest of them."""
    op, offset, width = ops[i, 0], ops[i, 1], ops[i, 2]
    place = count
    while place > 0:
        above = (place - 1) >> 1
        if not beats(op, width, lanes, event * size + offset, lanes, late[i, above] * size + offset):
            break
        late[i, place] = late[i, above]
        place = above
    late[i, place] = event


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _pop(i, lanes, size, ops, late, count):
    """Take the top out of the heap of late events, which leaves `count` of them."""
    op, offset, width = ops[i, 0], ops[i, 1], ops[i, 2]
    moved, place, below = late[i, count], 0, 1
    while below < count:
        row, right = late[i, below] * size + offset, late[i, below + 1] * size + offset
        if below + 1 < count and beats(op, width, lanes, right, lanes, row):
            below, row = below + 1, right
        if not beats(op, width, lanes, row, lanes, moved * size + offset):
            break
        late[i, place] = late[i, below]
        place, below = below, 2 * below + 1
    late[i, place] = moved


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _fronts(low, lanes, size, ops, used, w, sums, queue, late, ends):
    """The least and greatest of a window whose oldest event is `low`, from queue and heap, into its lanes."""
    for i in range(ops.shape[0]):
        if not used[w, i] or ops[i, 0] == ADD:
            continue
        op, offset, width = ops[i, 0], ops[i, 1], ops[i, 2]
        best = queue[i, ends[0, i]] if ends[1, i] > ends[0, i] else np.int64(-1)
        while ends[2, i] > 0 and late[i, 0] < low:
            ends[2, i] -= 1
            _pop(i, lanes, size, ops, late, ends[2, i])
        if ends[2, i] > 0:
            top = late[i, 0]
            if best < 0 or beats(op, width, lanes, top * size + offset, lanes, best * size + offset):
                best = top
        if best < 0:
            for j in range(width):
                sums[offset + j] = EMPTY_LEAST if op == LEAST else EMPTY_GREATEST
            continue
        for j in range(width):
            sums[offset + j] = lanes[best * size + offset + j]


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _ascending_by(first, then):
    for i in range(1, first.size):
        if first[i] < first[i - 1] or (first[i] == first[i - 1] and then[i] < then[i - 1]):
            return False
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def exact(events, begins, codes, times, available, lanes, ordinal, at, requests, added, ops, windows, features, meta,
          numbers, texts):  # fmt: skip
    """Queries by the window rule itself, event by event: no state, no head, nothing that could overflow.

    Args:
        events: the numbers of the events, grouped by key, int64; see `kernels.by_key`.
        begins: where in `events` those of each key begin, and where the last ones end, int64, shape (keys + 1,).
        codes: which key each query has, int64, shape (queries,).
        times: the times of the events (µs), int64, by number.
        available: from which ordinal on each is known, int64, by number.
        lanes: their lanes, one event after another, int64, shape (events * lanes,).
        ordinal: per query, by when an event must be available to count, int64, shape (queries,).
        at: per query, the instant (µs), int64, shape (queries,).
        requests: the lanes of one more event of each query, one after another, int64; none at all where none is added.
        added: per query, whether it has that one more event, bool; empty where none is added.
        ops: the lane groups; these and the next three are as `kernels` says.
        windows: the windows.
        features: the features.
        meta: the numbers of the layout.
        numbers: the output's numbers, float64, a row for each query, NaN for null.
        texts: the output's lanes, int64, a row for each query.
    """
    sums = np.empty(meta[0] + SPACE, np.int64)
    for q in range(at.size):
        feature = 0
        for w in range(windows.shape[0]):
            begin = feature
            while feature < features.shape[0] and features[feature, 1] == w:
                feature += 1
            mine, one_more = events[begins[codes[q]] : begins[codes[q] + 1]], added.size > 0 and added[q]
            since, until = span_by_rule(windows, w, at[q], mine, times, available, ordinal[q], one_more)
            clear(ops, sums, 0)
            if one_more and windows[w, 2] == 0:
                combine(ops, sums, 0, requests, q * meta[0])
            for event in mine:
                if available[event] <= ordinal[q] and since <= times[event] < until:
                    combine(ops, sums, 0, lanes, event * meta[0])
            emit(features, begin, feature, sums, 0, at[q], numbers, texts, q)


@njit(cache=True, nogil=True, error_model="numpy")
def as_of(events, event_begins, queries, query_begins, times, arrivals, available, lanes, ordinal, at, requests, added, ops,
          windows, window_ops, features, levels, meta, sweep, first, last, numbers, texts):  # fmt: skip
    """History and (key, instant) rows to feature rows, for a stretch of keys.

    An event counts for the queries whose ordinal is not below its availability. The windows of a key slide, unless a
    later ordinal asks for an earlier instant: its row windows and sessions are read by the rule then, its other windows
    from states.

    Args:
        events: the numbers of the events, grouped by key, int64; see `kernels.by_key`.
        event_begins: where in `events` those of each key begin, and where the last ones end, int64, shape (keys + 1,).
        queries: the numbers of the queries, grouped by key likewise.
        query_begins: where in `queries` those of each key begin, and where the last ones end.
        times: the times of the events (µs), int64, by number.
        arrivals: the instants (µs) by which they let go of what is older, int64; see `states.settled`.
        available: from which ordinal on each is known, int64, by number.
        lanes: their lanes, one event after another, int64, shape (events * lanes,).
        ordinal: per query, by when an event must be available to count, int64, shape (queries,).
        at: per query, the instant (µs), int64, shape (queries,).
        requests: the lanes of one more event of each query, one after another, int64; none at all where none is added.
        added: per query, whether it has that one more event, bool; empty where none is added.
        ops: the lane groups; the layout's arrays are as `kernels` says.
        windows: the windows.
        window_ops: which lane groups each window needs (1 or 0), int64, shape (windows, lane groups).
        features: the features.
        levels: the hops and spans (µs) of tiles.
        meta: the numbers of the layout.
        sweep: whether keys go through the states that serving would have held in any case.
        first: the first key.
        last: the key before which to stop.
        numbers: the output's numbers, float64, a row for each query, written for the queries of these keys alone.
        texts: the output's lanes, int64, a row for each query; likewise.
    """
    n_windows = windows.shape[0]
    held = np.empty(meta[0] + SPACE, np.int64)
    acc, bounds = np.empty(n_windows * meta[0] + SPACE, np.int64), np.empty(n_windows, np.int64)
    edges, ends = np.zeros(max(levels.shape[0], 1), np.int64), np.zeros((3, ops.shape[0]), np.int64)
    scratch, queues = np.empty(0, np.int64), np.empty((2, ops.shape[0], 0), np.int64)
    begins, finishes, codes = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(1, np.int64)
    for k in range(first, last):
        asked = queries[query_begins[k] : query_begins[k + 1]]
        if asked.size == 0:
            continue
        mine, by, moments = events[event_begins[k] : event_begins[k + 1]], ordinal[asked], at[asked]
        if not _ascending_by(by, moments):
            asked = in_order(in_order(asked, at), ordinal)
            by, moments = ordinal[asked], at[asked]
        if not ascending(moments) and n_windows > 0 and windows[0, ROWS] + windows[0, GAP] > 0:
            codes[0] = k
            for q in asked:
                one = slice(q, q + 1)
                exact(events, event_begins, codes, times, available, lanes, ordinal[one], at[one],
                      requests[q * meta[0] : (q + 1) * meta[0]], added[one], ops, windows, features, meta, numbers[one],
                      texts[one])  # fmt: skip
            continue
        extra = lanes_of_events(requests, asked, meta[0]) if requests.size > 0 else requests
        has_extra = added[asked] if added.size > 0 else added
        if begins.size < asked.size:
            begins, finishes = np.empty(2 * asked.size, np.int64), np.empty(2 * asked.size, np.int64)
        found, strings = np.empty((asked.size, meta[2]), np.float64), np.empty((asked.size, meta[3]), np.int64)
        if not sweep and ascending(moments):
            passed = times[mine]
            if not ascending(passed):
                mine = in_order(mine, times)
                passed = times[mine]
            open_from = available[mine]
            known = in_order(np.arange(0 if ascending(open_from) else mine.size), open_from)
            if queues.shape[2] < mine.size:
                queues = np.empty((2, ops.shape[0], 2 * mine.size), np.int64)
            _slide(passed, open_from, known, lanes_of_events(lanes, mine, meta[0]), by, moments, extra, has_extra, ops, windows,
                   window_ops, features, meta, (found, strings, acc, held, begins, finishes), queues[0], queues[1],
                   ends)  # fmt: skip
        else:
            mine = in_order(mine, available)
            need = 2 * (HEADER + (mine.size + 2) * (1 + meta[0])) + HEADER + 1 + meta[0]
            if scratch.size < need:
                scratch = np.empty(2 * need, np.int64)
            _sweep(times[mine], arrivals[mine], available[mine], lanes_of_events(lanes, mine, meta[0]), by, moments, extra,
                   ops, windows, features, levels, meta, (found, strings, bounds, acc, edges), scratch)  # fmt: skip
        for f in range(features.shape[0]):
            out = features[f, 8]
            if features[f, 0] != TEXT and features[f, 0] < VECTOR_SUM:
                for i in range(asked.size):
                    numbers[asked[i], out] = found[i, out]
                continue
            for i in range(asked.size):
                for j in range(out, out + features[f, 3]):
                    texts[asked[i], j] = strings[i, j]
