"""The four kernels over plain arrays: fold, merge, value, as_of.

A state is `[version, newest arrival, tiles, instants, rows...]`, a row is `[start, lanes...]`. Tiles come first and then
instants (the exact head), both ascending by start. Which hop a tile has follows from its start and the newest arrival
alone, so a state is a function of the *set* of events in it: states merge in any order and grouping to the same bytes,
and what one micro-batch adds to a key is itself a state.
"""

import numpy as np
from numba import njit

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
from millstream.fold.layout import HEAD_CAPACITY, HEAD_SPAN, HEADER, LIFETIME, STATE_VERSION

_LOWEST = np.int64(-(2**63))
_HIGHEST = np.int64(2**63 - 1)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _edges(levels, newest, edges):
    """Per level, the instant before which a tile belongs to the next coarser one."""
    last = levels.shape[0] - 1
    for i in range(last + 1):
        hop = levels[min(i + 1, last), 0]
        edges[i] = (newest - HEAD_SPAN - levels[i, 1]) // hop * hop


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _tile_of(start, levels, edges, lifetime):
    """The start of the tile that holds the instant or finer tile `start`, or `_LOWEST` where no window needs it."""
    if start == LIFETIME:
        return start
    for i in range(levels.shape[0]):
        if start >= edges[i]:
            return start // levels[i, 0] * levels[i, 0]
    return np.int64(LIFETIME) if lifetime else _LOWEST


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _head_start(newest, data, first_a, end_a, first_b, end_b, step):
    """The first instant that stays apart, and how many of the last five seconds' instants do not fit.

    `data` rows at `first..end` (ascending) of two heads are looked at from the newest back.
    """
    kept, overflow, start, floor = 0, 0, newest - HEAD_SPAN, newest - HEAD_SPAN
    i, j = end_a - step, end_b - step
    while i >= first_a or j >= first_b:
        left = data[i] if i >= first_a else _LOWEST
        right = data[j] if j >= first_b else _LOWEST
        instant = max(left, right)
        if instant < floor:
            break
        if left == instant:
            i -= step
        if right == instant:
            j -= step
        if instant >= newest:
            continue
        if kept < HEAD_CAPACITY:
            kept += 1
            start = instant if kept == HEAD_CAPACITY else floor
        else:
            overflow += 1
    return start, overflow


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _put(ops, out, last, end, start, data, row, step):
    """Add a row at `start` to the ascending rows whose last one begins at `last`; returns the new (last, end)."""
    if last >= 0 and out[last] == start:
        combine(ops, out, last + 1, data, row + 1)
        return last, end
    out[end] = start
    for j in range(1, step):
        out[end + j] = data[row + j]
    return end, end + step


@njit(cache=True, nogil=True, error_model="numpy")
def merge_one(data, a, b, out, at, ops, levels, meta, edges):
    """Merge the states at `a` and `b` of `data` (-1: none) into `out` from `at`; returns (end, overflow)."""
    step = 1 + meta[0]
    newest = _LOWEST
    tiles = np.zeros(2, np.int64)
    heads = np.zeros(2, np.int64)
    ends = np.zeros(2, np.int64)
    for side in range(2):
        place = a if side == 0 else b
        if place >= 0:
            newest = max(newest, data[place + 1])
            tiles[side] = place + HEADER
            heads[side] = tiles[side] + data[place + 2] * step
            ends[side] = heads[side] + data[place + 3] * step
    _edges(levels, newest, edges)
    apart, overflow = _head_start(newest, data, heads[0], ends[0], heads[1], ends[1], step)
    end, count = at + HEADER, 0
    cursors = np.array([tiles[0], tiles[1], heads[0], heads[1]])
    limits = np.array([heads[0], heads[1], ends[0], ends[1]])
    last = np.int64(-1)
    while True:
        best, which = _HIGHEST, -1
        for i in range(4):
            if cursors[i] < limits[i]:
                start = data[cursors[i]]
                if start < best and (i < 2 or start < apart):
                    best, which = start, i
        if which < 0:
            break
        tile = _tile_of(best, levels, edges, meta[1])
        if tile != _LOWEST:
            last, end = _put(ops, out, last, end, tile, data, cursors[which], step)
        cursors[which] += step
    count = (end - at - HEADER) // step
    last = np.int64(-1)
    i, j = cursors[2], cursors[3]
    while i < ends[0] or j < ends[1]:
        if j >= ends[1] or (i < ends[0] and data[i] <= data[j]):
            last, end = _put(ops, out, last, end, data[i], data, i, step)
            i += step
        else:
            last, end = _put(ops, out, last, end, data[j], data, j, step)
            j += step
    out[at], out[at + 1], out[at + 2] = STATE_VERSION, newest, count
    out[at + 3] = (end - at - HEADER) // step - count
    return end, overflow


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def fold_one(order, times, arrivals, lanes, out, at, ops, levels, meta, edges):
    """The state of the events `order` (ascending in time) of one key, into `out` from `at`; returns (end, overflow)."""
    step = 1 + meta[0]
    newest = _LOWEST
    for i in range(order.size):
        newest = max(newest, arrivals[order[i]])
    _edges(levels, newest, edges)
    apart, kept, overflow, previous = newest - HEAD_SPAN, 0, 0, _HIGHEST
    for i in range(order.size - 1, -1, -1):
        instant = times[order[i]]
        if instant < newest - HEAD_SPAN:
            break
        if instant >= newest or instant == previous:
            continue
        previous = instant
        kept += 1
        if kept == HEAD_CAPACITY:
            apart = instant
        elif kept > HEAD_CAPACITY:
            overflow += 1
    end, last, count = at + HEADER, np.int64(-1), -1
    for i in range(order.size):
        event = order[i]
        start = times[event]
        if start < apart:
            start = _tile_of(start, levels, edges, meta[1])
            if start == _LOWEST:
                continue
        elif count < 0:
            count, last = (end - at - HEADER) // step, np.int64(-1)
        if last >= 0 and out[last] == start:
            combine(ops, out, last + 1, lanes, event * meta[0])
            continue
        last, out[end] = end, start
        for j in range(meta[0]):
            out[end + 1 + j] = lanes[event * meta[0] + j]
        end += step
    rows = (end - at - HEADER) // step
    count = rows if count < 0 else count
    out[at], out[at + 1], out[at + 2], out[at + 3] = STATE_VERSION, newest, count, rows - count
    return end, overflow


@njit(cache=True, nogil=True, error_model="numpy")
def _by_key(codes, n_keys):
    """Event numbers grouped by key (a stable counting sort), and where each key's begin."""
    begins = np.zeros(n_keys + 1, np.int64)
    for i in range(codes.size):
        begins[codes[i] + 1] += 1
    for k in range(n_keys):
        begins[k + 1] += begins[k]
    free, order = begins[:-1].copy(), np.empty(codes.size, np.int64)
    for i in range(codes.size):
        order[free[codes[i]]] = i
        free[codes[i]] += 1
    return order, begins


@njit(cache=True, nogil=True, error_model="numpy")
def _in_order(order, values):
    """The given numbers, sorted (stably) by their values."""
    for i in range(1, order.size):
        if values[order[i]] < values[order[i - 1]]:
            keys = np.empty(order.size, np.int64)
            for j in range(order.size):
                keys[j] = values[order[j]]
            return order[np.argsort(keys, kind="mergesort")]
    return order


@njit(cache=True, nogil=True, error_model="numpy")
def fold(codes, n_keys, times, arrivals, lanes, ops, levels, meta):
    """Events to one state per key: (data, offsets, overflow)."""
    step = 1 + meta[0]
    order, begins = _by_key(codes, n_keys)
    out = np.empty(n_keys * HEADER + codes.size * step, np.int64)
    offsets = np.zeros(n_keys + 1, np.int64)
    edges = np.zeros(max(levels.shape[0], 1), np.int64)
    overflow, end = 0, np.int64(0)
    for k in range(n_keys):
        if begins[k + 1] > begins[k]:
            mine = _in_order(order[begins[k] : begins[k + 1]], times)
            end, more = fold_one(mine, times, arrivals, lanes, out, end, ops, levels, meta, edges)
            overflow += more
        offsets[k + 1] = end
    return out[:end], offsets, overflow


@njit(cache=True, nogil=True, error_model="numpy")
def merge(data, left, right, ops, levels, meta):
    """Pairwise merge of the states between offsets `left` and `right` (both into `data`): (data, offsets, overflow)."""
    n = left.size - 1
    size = left[n] - left[0] + right[n] - right[0] + n * HEADER
    out, offsets = np.empty(size, np.int64), np.zeros(n + 1, np.int64)
    edges = np.zeros(max(levels.shape[0], 1), np.int64)
    overflow, end = 0, np.int64(0)
    for k in range(n):
        a = left[k] if left[k + 1] > left[k] else np.int64(-1)
        b = right[k] if right[k + 1] > right[k] else np.int64(-1)
        if a >= 0 or b >= 0:
            end, more = merge_one(data, a, b, out, end, ops, levels, meta, edges)
            overflow += more
        offsets[k + 1] = end
    return out[:end], offsets, overflow


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _read_class(data, place, first, last, at, ops, windows, bounds, acc, meta):
    """Sum up the rows of one state for the windows `first..last`, which end together and nest."""
    step = 1 + meta[0]
    hop, delay = windows[first, 1], windows[first, 2]
    until = at if delay == 0 else (at - delay) // hop * hop
    for w in range(first, last):
        width, hop = windows[w, 0], windows[w, 1]
        bounds[w] = _LOWEST if width < 0 else (at - delay - width) // hop * hop
        clear(ops, acc, w * meta[0])
    rows = data[place + 2] + data[place + 3] if place >= 0 else 0
    for i in range(rows):
        row = place + HEADER + i * step
        start = data[row]
        if start >= until or start < bounds[last - 1]:
            continue
        w = first
        while start < bounds[w]:
            w += 1
        combine(ops, acc, w * meta[0], data, row + 1)
    for w in range(first + 1, last):
        combine(ops, acc, w * meta[0], acc, (w - 1) * meta[0])


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def value_one(data, place, at, ops, windows, features, meta, bounds, acc, numbers, texts, row):
    """The features of one state (-1: empty) at one instant, into an output row."""
    first, feature = 0, 0
    while first < windows.shape[0]:
        last = first + 1
        while last < windows.shape[0] and windows[last, 3] == windows[first, 3]:
            last += 1
        _read_class(data, place, first, last, at, ops, windows, bounds, acc, meta)
        for w in range(first, last):
            begin = feature
            while feature < features.shape[0] and features[feature, 1] == w:
                feature += 1
            emit(features, begin, feature, acc, w * meta[0], at, numbers, texts, row)
        first = last


@njit(cache=True, nogil=True, error_model="numpy")
def value(data, offsets, at, probes, ops, windows, features, meta):
    """States at instants to (numbers, texts), one row each; `probes` holds request fields, one row each."""
    n = offsets.size - 1
    numbers, texts = np.empty((n, meta[2]), np.float64), np.empty((n, meta[3]), np.int64)
    bounds, acc = np.empty(windows.shape[0], np.int64), np.empty(windows.shape[0] * meta[0], np.int64)
    for i in range(n):
        place = offsets[i] if offsets[i + 1] > offsets[i] else np.int64(-1)
        value_one(data, place, at[i], ops, windows, features, meta, bounds, acc, numbers, texts, i)
    return numbers, texts


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
            since = _LOWEST if width < 0 else (at[q] - delay - width) // hop * hop
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
        asked = _in_order(queries[query_begins[k] : query_begins[k + 1]], ordinal)
        if asked.size == 0:
            continue
        mine = _in_order(events[event_begins[k] : event_begins[k + 1]], available)
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
            since = _LOWEST if width < 0 else (at[q] - delay - width) // hop * hop
            clear(ops, sums, 0)
            for place in range(begins[codes[q]], begins[codes[q] + 1]):
                event = events[place]
                if available[event] <= ordinal[q] and since <= times[event] < until:
                    combine(ops, sums, 0, lanes, event * meta[0])
            emit(features, begin, feature, sums, 0, at[q], numbers, texts, q)
