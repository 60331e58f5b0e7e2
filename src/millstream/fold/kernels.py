"""Three of the four kernels over plain arrays: fold, merge, value (the fourth is in `history`).

A state is `[version, newest arrival, tiles, instants, rows...]`, a row is `[start, lanes...]`. Tiles come first and then
instants (the exact head), both ascending by start. Which hop a tile has follows from its start and the newest arrival
alone, so a state is a function of the *set* of events in it: states merge in any order and grouping to the same bytes,
and what one micro-batch adds to a key is itself a state.

What the kernels take of a `FoldLayout`, all int64: `ops` has a row (merge, offset, width) for each lane group, by which
`lanes` merges it; `levels` a row (hop, span) in µs for each hop that tiles have, the finest first; `windows` a row for
each window, as `spans` names its columns; `features` a row (formula, window, six numbers, output) for each feature, in
the order of the windows; `meta` is how many lanes a row has, whether what is older than the longest window is kept (1
or 0), and how many numbers and how many lanes all features of the group are given out as.
"""

import numpy as np
from numba import njit

from millstream.fold.lanes import START, clear, combine, emit
from millstream.fold.layout import HEAD_CAPACITY, HEAD_SPAN, HEADER, LIFETIME, STATE_VERSION
from millstream.fold.moments import SPACE
from millstream.fold.spans import LOWEST

_HIGHEST = np.int64(2**63 - 1)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def edges_of(levels, newest, edges):
    """Write per level the instant before which a tile belongs to the next coarser one.

    Args:
        levels: the hops and spans (µs) of tiles; see the module.
        newest: the instant (µs) by which the state is pruned.
        edges: where to write them, int64 µs, shape (levels,) or longer.
    """
    last = levels.shape[0] - 1
    for i in range(last + 1):
        hop = levels[min(i + 1, last), 0]
        edges[i] = (newest - HEAD_SPAN - levels[i, 1]) // hop * hop


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def tile_of(start, levels, edges, lifetime):
    """The start of the tile that holds the instant or finer tile `start`, or `LOWEST` where no window needs it.

    Args:
        start: an instant, or the start of a tile (µs); `LIFETIME` for the tile of all that is older.
        levels: the hops and spans (µs) of tiles; see the module.
        edges: what `edges_of` has written for them.
        lifetime: whether what is older than the longest window is kept, in the tile that starts at `LIFETIME`.
    """
    if start == LIFETIME:
        return start
    for i in range(levels.shape[0]):
        if start >= edges[i]:
            return start // levels[i, 0] * levels[i, 0]
    return np.int64(LIFETIME) if lifetime else LOWEST


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _head_start(newest, data, first_a, end_a, first_b, end_b, step):
    """The first instant that stays apart, and how many of the last five seconds' instants do not fit.

    `data` rows at `first..end` (ascending) of two heads are looked at from the newest back.
    """
    kept, overflow, start, floor = 0, 0, newest - HEAD_SPAN, newest - HEAD_SPAN
    i, j = end_a - step, end_b - step
    while i >= first_a or j >= first_b:
        left = data[i] if i >= first_a else LOWEST
        right = data[j] if j >= first_b else LOWEST
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


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _put_heads(ops, out, end, data, i, end_i, j, end_j, step):
    """Add the instants of two heads, ascending; returns the new end."""
    last = np.int64(-1)
    while i < end_i or j < end_j:
        if j >= end_j or (i < end_i and data[i] <= data[j]):
            last, end = _put(ops, out, last, end, data[i], data, i, step)
            i += step
        else:
            last, end = _put(ops, out, last, end, data[j], data, j, step)
            j += step
    return end


@njit(cache=True, nogil=True, error_model="numpy")
def merge_one(data, a, b, out, at, ops, levels, meta, edges):
    """Merge two states, row by row, into an array; returns (end, overflow).

    Args:
        data: states, one after another, int64.
        a: where the one begins in `data`; -1 for the state of no event.
        b: where the other does; not -1 as well.
        out: where to write the result, int64; another part of the array that holds the two will do.
        at: where in `out` it begins.
        ops: the lane groups; see the module.
        levels: the hops and spans (µs) of tiles; see the module.
        meta: the numbers of the layout; see the module.
        edges: to work in, int64, one place for each level.

    Returns:
        Where the result ends in `out`, and for how many instants the head had no room.
    """
    step = 1 + meta[0]
    newest = LOWEST
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
    edges_of(levels, newest, edges)
    apart, overflow = _head_start(newest, data, heads[0], ends[0], heads[1], ends[1], step)
    end = at + HEADER
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
        tile = tile_of(best, levels, edges, meta[1])
        if tile != LOWEST:
            last, end = _put(ops, out, last, end, tile, data, cursors[which], step)
        cursors[which] += step
    count = (end - at - HEADER) // step
    end = _put_heads(ops, out, end, data, cursors[2], ends[0], cursors[3], ends[1], step)
    out[at], out[at + 1], out[at + 2] = STATE_VERSION, newest, count
    out[at + 3] = (end - at - HEADER) // step - count
    return end, overflow


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def fold_one(order, times, arrivals, lanes, out, at, ops, levels, meta, edges):
    """Fold the events of one key to its state; returns (end, overflow).

    Args:
        order: the numbers of the events, int64, ascending in time.
        times: the times of all events (µs), int64, by number.
        arrivals: the instants (µs) by which they let go of what is older, int64; see `states.settled`.
        lanes: the lanes of all events, one event after another, int64, shape (events * lanes,).
        out: where to write the state, int64.
        at: where in `out` it begins.
        ops: the lane groups; see the module.
        levels: the hops and spans (µs) of tiles; see the module.
        meta: the numbers of the layout; see the module.
        edges: to work in, int64, one place for each level.

    Returns:
        Where the state ends in `out`, and for how many instants the head had no room.
    """
    step = 1 + meta[0]
    newest = LOWEST
    for i in range(order.size):
        newest = max(newest, arrivals[order[i]])
    edges_of(levels, newest, edges)
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
            start = tile_of(start, levels, edges, meta[1])
            if start == LOWEST:
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
def by_key(codes, n_keys):
    """Event numbers grouped by key (a stable counting sort), and where each key's begin."""
    begins = np.zeros(n_keys + 1, np.int64)
    for i in range(codes.size):
        begins[np.uint64(codes[i] + 1)] += 1
    for k in range(n_keys):
        begins[k + 1] += begins[k]
    free, order = begins[:-1].copy(), np.empty(codes.size, np.int64)
    for i in range(codes.size):
        key = np.uint64(codes[i])
        order[np.uint64(free[key])] = i
        free[key] += 1
    return order, begins


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def ascending(values):
    """Whether no value is less than the one before it."""
    for i in range(1, values.size):  # noqa: SIM110 - Numba has no generators
        if values[i] < values[i - 1]:
            return False
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def in_order(order, values):
    """The given numbers, sorted (stably) by their values."""
    for i in range(1, order.size):
        if values[order[i]] < values[order[i - 1]]:
            keys = np.empty(order.size, np.int64)
            for j in range(order.size):
                keys[j] = values[order[j]]
            return order[np.argsort(keys, kind="mergesort")]
    return order


@njit(cache=True, nogil=True, error_model="numpy")
def lanes_of_events(lanes, events, size):
    """The lanes of the given events, one after another.

    Args:
        lanes: the lanes of all events, one event after another, int64.
        events: the numbers of those that are wanted, int64.
        size: how many lanes an event has.
    """
    out, width = np.empty(events.size * size, np.int64), np.uint64(size)
    for i in range(events.size):  # places without a sign need no look at it
        to, source = np.uint64(i * size), np.uint64(events[i] * size)
        for j in range(width):
            out[to + j] = lanes[source + j]
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def fold(codes, n_keys, times, arrivals, lanes, ops, levels, meta):
    """Events to one state per key: (data, offsets, overflow).

    Args:
        codes: which key each event has, int64, shape (events,).
        n_keys: how many keys there are; one without an event gets an empty state.
        times: the times of the events (µs), int64, in any order; ascending ones are folded fastest.
        arrivals: the instants (µs) by which they let go of what is older, int64; see `states.settled`.
        lanes: their lanes, one event after another, int64, shape (events * lanes,).
        ops: the lane groups; see the module.
        levels: the hops and spans (µs) of tiles; see the module.
        meta: the numbers of the layout; see the module.

    Returns:
        The states one after another and where each begins and the last ends, as `States` has them, and for how many
        instants heads had no room.
    """
    step = 1 + meta[0]
    order, begins = by_key(codes, n_keys)
    out = np.empty(n_keys * HEADER + codes.size * step, np.int64)
    offsets = np.zeros(n_keys + 1, np.int64)
    edges = np.zeros(max(levels.shape[0], 1), np.int64)
    overflow, end = 0, np.int64(0)
    for k in range(n_keys):
        if begins[k + 1] > begins[k]:
            mine = in_order(order[begins[k] : begins[k + 1]], times)
            end, more = fold_one(mine, times, arrivals, lanes, out, end, ops, levels, meta, edges)
            overflow += more
        offsets[k + 1] = end
    return out[:end], offsets, overflow


@njit(cache=True, nogil=True, error_model="numpy")
def merge(data, left, right, ops, levels, meta):
    """Merge states pairwise: (data, offsets, overflow), which are as those of `fold`.

    Args:
        data: the states of both sides, int64.
        left: where in `data` the states of one side begin, and where the last ends, int64, shape (keys + 1,).
        right: the same of the other side, for the same keys.
        ops: the lane groups; see the module.
        levels: the hops and spans (µs) of tiles; see the module.
        meta: the numbers of the layout; see the module.
    """
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
def exact_from(data, place, meta):
    """The instant (µs) from which on a state is exact: what happened before it may be merged with what came later.

    Args:
        data: states, one after another, int64.
        place: where the state begins in `data`.
        meta: the numbers of the layout; see the module.
    """
    newest, count, step = data[place + 1], data[place + 3], 1 + meta[0]
    start, kept = newest - HEAD_SPAN, 0
    row = place + HEADER + (data[place + 2] + count - 1) * step
    for _ in range(count if count >= HEAD_CAPACITY else 0):
        if data[row] < newest:
            kept += 1
            if kept == HEAD_CAPACITY:
                return max(start, data[row])
        row -= step
    return start


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _read_class(data, place, first, last, at, ops, windows, bounds, acc, meta, requests, request):
    """Sum up the rows of one state for the windows `first..last`, which end together and nest.

    Where they end at the instant itself, the lanes of the request at `request` count too (-1: there is none).
    """
    step = 1 + meta[0]
    hop, delay = windows[first, 1], windows[first, 2]
    until = at if delay == 0 else (at - delay) // hop * hop
    for w in range(first, last):
        width, hop = windows[w, 0], windows[w, 1]
        bounds[w] = LOWEST if width < 0 else (at - delay - width) // hop * hop
        clear(ops, acc, w * meta[0])
    if request >= 0 and delay == 0:
        combine(ops, acc, first * meta[0], requests, request)
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
def value_one(data, place, at, ops, windows, features, meta, bounds, acc, numbers, texts, row, requests, request):
    """Write the features of one state at one instant into an output row.

    Args:
        data: states, one after another, int64.
        place: where the state begins in `data`; -1 for the state of no event.
        at: the instant (µs).
        ops: the lane groups; see the module.
        windows: the windows; see the module.
        features: the features; see the module.
        meta: the numbers of the layout; see the module.
        bounds: to work in, int64, one place for each window.
        acc: to work in, int64, the lanes of each window and `moments.SPACE` more.
        numbers: the output's numbers, float64, shape (rows, numbers), NaN for null.
        texts: the output's lanes, int64, shape (rows, lanes), of features that are given out as such.
        row: the row of both to write.
        requests: lanes of more events, one after another, int64.
        request: where in `requests` those of one more event at the instant begin; -1: there is none.
    """
    first, feature = START, START
    while first < windows.shape[0]:
        last = first + 1
        while last < windows.shape[0] and windows[last, 3] == windows[first, 3]:
            last += 1
        _read_class(data, place, first, last, at, ops, windows, bounds, acc, meta, requests, request)
        for w in range(first, last):
            begin = feature
            while feature < features.shape[0] and features[feature, 1] == w:
                feature += 1
            emit(features, begin, feature, acc, w * meta[0], at, numbers, texts, row)
        first = last


@njit(cache=True, nogil=True, error_model="numpy")
def value(data, offsets, at, requests, ops, windows, features, meta):
    """Read states at instants: (numbers, texts), one row for each state.

    Args:
        data: the states, one after another, int64.
        offsets: where each begins in `data`, and where the last ends, int64, shape (states + 1,).
        at: the instant of each (µs), int64, shape (states,).
        requests: the lanes of one more event at each instant, int64, shape (states * lanes,), or none at all.
        ops: the lane groups; see the module.
        windows: the windows; see the module.
        features: the features; see the module.
        meta: the numbers of the layout; see the module.

    Returns:
        The numbers, float64, NaN for null, and the lanes of what is given out as lanes, int64; see `value_one`.
    """
    n = offsets.size - 1
    numbers, texts = np.empty((n, meta[2]), np.float64), np.empty((n, meta[3]), np.int64)
    bounds, acc = np.empty(windows.shape[0], np.int64), np.empty(windows.shape[0] * meta[0] + SPACE, np.int64)
    for i in range(n):
        place = offsets[i] if offsets[i + 1] > offsets[i] else np.int64(-1)
        request = np.int64(i * meta[0] if requests.size > 0 else -1)
        value_one(data, place, at[i], ops, windows, features, meta, bounds, acc, numbers, texts, i, requests, request)
    return numbers, texts
