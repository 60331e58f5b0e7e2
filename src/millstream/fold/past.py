"""The fourth kernel, as_of: history and (key, instant) rows to feature rows.

A key goes through the states that serving would have held, one event after another; or, where its events became
available in the order of their times, every window slides along them. Both give what `exact`, the rule itself, gives.
"""

import numpy as np
from numba import njit

from millstream.fold.kernels import LOWEST, fold_one, in_order, merge_one, value_one
from millstream.fold.lanes import (
    ADD,
    EMPTY_GREATEST,
    EMPTY_LEAST,
    LEAST,
    beats,
    clear,
    combine,
    combine_one,
    emit,
    remove_one,
)
from millstream.fold.layout import HEADER


@njit(cache=True, nogil=True, error_model="numpy")
def _sweep(times, arrivals, available, lanes, ordinal, at, ops, windows, features, levels, meta, out, scratch):
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
        value_one(scratch, where, at[q], ops, windows, features, meta, bounds, acc, numbers, texts, q)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _slide(times, available, lanes, ordinal, at, ops, windows, window_ops, features, meta, out, queue, ends):
    """One key whose events become available in the order of their times: each window slides, adding and removing."""
    numbers, texts, sums = out
    feature, size = 0, meta[0]
    for w in range(windows.shape[0]):
        width, hop, delay = windows[w, 0], windows[w, 1], windows[w, 2]
        begin = feature
        while feature < features.shape[0] and features[feature, 1] == w:
            feature += 1
        clear(ops, sums, 0)
        ends[:] = 0
        low, high = 0, 0
        for q in range(at.size):
            until = at[q] if delay == 0 else (at[q] - delay) // hop * hop
            since = LOWEST if width < 0 else (at[q] - delay - width) // hop * hop
            while high < times.size and available[high] <= ordinal[q] and times[high] < until:
                _enter(high, lanes, size, ops, window_ops, w, sums, queue, ends)
                high += 1
            while low < high and times[low] < since:
                _leave(low, lanes, size, ops, window_ops, w, sums, queue, ends)
                low += 1
            _fronts(lanes, size, ops, window_ops, w, sums, queue, ends)
            emit(features, begin, feature, sums, 0, at[q], numbers, texts, q)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _enter(event, lanes, size, ops, used, w, sums, queue, ends):
    """Add an event to a window: sums add; for least and greatest it displaces from the queue what it beats."""
    row = event * size
    for i in range(ops.shape[0]):
        if not used[w, i]:
            continue
        op, offset, width = ops[i, 0], ops[i, 1], ops[i, 2]
        if op == ADD:
            combine_one(op, width, sums, offset, lanes, row + offset)
            continue
        first, last = ends[0, i], ends[1, i]
        while last > first and not beats(op, width, lanes, queue[i, last - 1] * size + offset, lanes, row + offset):
            last -= 1
        queue[i, last] = event
        ends[1, i] = last + 1


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _leave(event, lanes, size, ops, used, w, sums, queue, ends):
    """Take the oldest event of a window out again."""
    for i in range(ops.shape[0]):
        if not used[w, i]:
            continue
        if ops[i, 0] == ADD:
            remove_one(ops[i, 2], sums, ops[i, 1], lanes, event * size + ops[i, 1])
        elif ends[1, i] > ends[0, i] and queue[i, ends[0, i]] == event:
            ends[0, i] += 1


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _fronts(lanes, size, ops, used, w, sums, queue, ends):
    """The least and greatest of a window, from the fronts of their queues, into its lanes."""
    for i in range(ops.shape[0]):
        if used[w, i] and ops[i, 0] != ADD:
            offset, width = ops[i, 1], ops[i, 2]
            if ends[1, i] > ends[0, i]:
                row = queue[i, ends[0, i]] * size
                for j in range(width):
                    sums[offset + j] = lanes[row + offset + j]
            else:
                sums[offset] = EMPTY_LEAST if ops[i, 0] == LEAST else EMPTY_GREATEST


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _ascending(values):
    for i in range(1, values.size):  # noqa: SIM110 - Numba has no generators
        if values[i] < values[i - 1]:
            return False
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def _rows(lanes, events, size):
    """The lanes of the given events, one after another."""
    out = np.empty(events.size * size, np.int64)
    for i in range(events.size):
        for j in range(size):
            out[i * size + j] = lanes[events[i] * size + j]
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def as_of(events, event_begins, queries, query_begins, times, arrivals, available, lanes, ordinal, at, ops, windows,
          window_ops, features, levels, meta, sweep, first, last, numbers, texts):  # fmt: skip
    """History and (key, instant) rows to feature rows, for the keys `first..last`.

    An event counts for the queries whose ordinal is not below its availability. `sweep` forces the state machine, which
    is what serving does; else a key whose availability follows its event times takes the sliding path.
    """
    n_windows = windows.shape[0]
    acc, bounds = np.empty(n_windows * meta[0], np.int64), np.empty(n_windows, np.int64)
    edges, ends = np.zeros(max(levels.shape[0], 1), np.int64), np.zeros((2, ops.shape[0]), np.int64)
    scratch, queue = np.empty(0, np.int64), np.empty((ops.shape[0], 0), np.int64)
    for k in range(first, last):
        asked = in_order(queries[query_begins[k] : query_begins[k + 1]], ordinal)
        if asked.size == 0:
            continue
        mine = in_order(events[event_begins[k] : event_begins[k + 1]], available)
        when, known, rows = times[mine], available[mine], _rows(lanes, mine, meta[0])
        by, moments = ordinal[asked], at[asked]
        found, strings = np.empty((asked.size, meta[2]), np.float64), np.empty((asked.size, meta[3]), np.int64)
        if not sweep and _ascending(when) and _ascending(moments):
            if queue.shape[1] < mine.size:
                queue = np.empty((ops.shape[0], 2 * mine.size), np.int64)
            _slide(when, known, rows, by, moments, ops, windows, window_ops, features, meta, (found, strings, acc), queue,
                   ends)  # fmt: skip
        else:
            need = 2 * (HEADER + (mine.size + 2) * (1 + meta[0])) + HEADER + 1 + meta[0]
            if scratch.size < need:
                scratch = np.empty(2 * need, np.int64)
            _sweep(when, arrivals[mine], known, rows, by, moments, ops, windows, features, levels, meta,
                   (found, strings, bounds, acc, edges), scratch)  # fmt: skip
        for i in range(asked.size):
            for j in range(meta[2]):
                numbers[asked[i], j] = found[i, j]
            for j in range(meta[3]):
                texts[asked[i], j] = strings[i, j]


@njit(cache=True, nogil=True, error_model="numpy")
def exact(events, begins, codes, times, available, lanes, ordinal, at, ops, windows, features, meta, numbers, texts):
    """Queries by the window rule itself, event by event: no state, no head, nothing that could overflow."""
    sums = np.empty(meta[0], np.int64)
    for q in range(at.size):
        feature = 0
        for w in range(windows.shape[0]):
            begin = feature
            while feature < features.shape[0] and features[feature, 1] == w:
                feature += 1
            width, hop, delay = windows[w, 0], windows[w, 1], windows[w, 2]
            until = at[q] if delay == 0 else (at[q] - delay) // hop * hop
            since = LOWEST if width < 0 else (at[q] - delay - width) // hop * hop
            clear(ops, sums, 0)
            for place in range(begins[codes[q]], begins[codes[q] + 1]):
                event = events[place]
                if available[event] <= ordinal[q] and since <= times[event] < until:
                    combine(ops, sums, 0, lanes, event * meta[0])
            emit(features, begin, feature, sums, 0, at[q], numbers, texts, q)
