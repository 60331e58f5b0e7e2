"""The kernels over entries: what follows the lanes in a state, for each of its rows the bags of the group.

A state is `[header, rows..., bags of the first row, bags of the second, ...]`. Which row an event belongs to is what the
kernels over lanes have found; these add the bags of the same events to the same rows.

What the kernels take beside what those over lanes do (see `kernels`): `bags` has a row for each bag of the group, as
the module `entries` names its columns, in the order in which they follow each other in a state; `features` a row for
each feature that is made of entries: its bag, its window, and then the columns that `emitting` names, in the order of
bags and windows; `entries` are those of events, as the module `entries` says.
"""

import numpy as np
from numba import njit

from millstream.fold.emitting import emit_entries
from millstream.fold.entries import GROWTH, INPUT, WIDTH, copy, gather, held_to_rule, lanes_of, union_into, with_room
from millstream.fold.kernels import by_key, edges_of, in_order, tile_of
from millstream.fold.lanes import START
from millstream.fold.layout import HEADER
from millstream.fold.spans import LOWEST, span, span_by_rule

_HIGHEST = np.int64(2**63 - 1)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _first_instant(data, place, step):
    """Where the instants of a state begin, or the highest number where it has none."""
    return data[place + HEADER + data[place + 2] * step] if data[place + 3] else _HIGHEST


@njit(cache=True, nogil=True, error_model="numpy")
def fold(fixed, offsets, codes, times, entries, bags, levels, meta):
    """The states of events, with the bags of their entries behind the lanes: (data, offsets).

    Args:
        fixed: the states of the same events without bags, one after another, as `kernels.fold` gives them.
        offsets: where each begins in `fixed`, and where the last ends, int64, shape (keys + 1,).
        codes: which key each event has, int64, shape (events,).
        times: the times of the events (µs), int64.
        entries: their entries, int64, shape (events, lanes).
        bags: the bags of the group; see the module.
        levels: the hops and spans (µs) of tiles; see `kernels`.
        meta: the numbers of the layout; see `kernels`.

    Returns:
        The states one after another, and where each begins and the last ends.
    """
    step, n_keys = 1 + meta[0], offsets.size - 1
    order, begins = by_key(codes, n_keys)
    room = bags.shape[0] * (fixed.size // step) + codes.size * entries.shape[1]
    out, found = np.empty(fixed.size + room, np.int64), np.zeros(n_keys + 1, np.int64)
    edges, end = np.zeros(max(levels.shape[0], 1), np.int64), np.int64(0)
    for k in range(n_keys):
        size = offsets[k + 1] - offsets[k]
        out = with_room(out, end, size)
        copy(fixed, offsets[k], out, end, size)
        place = end
        end += size
        if size > 0:
            mine = in_order(order[begins[k] : begins[k + 1]], times)
            edges_of(levels, out[place + 1], edges)
            apart, i = _first_instant(out, place, step), 0
            for r in range(out[place + 2] + out[place + 3]):
                start, begin = out[place + HEADER + r * step], i
                while i < mine.size:
                    instant = times[mine[i]]
                    tile = instant if instant >= apart else tile_of(instant, levels, edges, meta[1])
                    if tile == LOWEST:
                        begin = i + 1
                    elif tile != start:
                        break
                    i += 1
                for b in range(bags.shape[0]):
                    out = with_room(out, end, (i - begin) * entries.shape[1] + GROWTH)
                    end = gather(bags[b], entries, mine[begin:i], out, end)
        found[k + 1] = end
    return out[:end], found


@njit(cache=True, nogil=True, error_model="numpy")
def rows_of(data, place, bags, step):
    """Where the bags of each row of a state begin, and where the last ones end.

    Args:
        data: states, one after another, int64.
        place: where the state begins in `data`; -1 for the state of no event.
        bags: the bags of the group; see the module.
        step: how many numbers a row has, its start included.

    Returns:
        One number more than the state has rows, int64; of no state one that means nothing.
    """
    rows = data[place + 2] + data[place + 3] if place >= 0 else np.int64(0)
    begins = np.empty(rows + 1, np.int64)
    at = place + HEADER + rows * step
    for r in range(rows):
        begins[r] = at
        for b in range(bags.shape[0]):
            at += lanes_of(bags[b], data, at)
    begins[rows] = at
    return begins


@njit(cache=True, nogil=True, error_model="numpy")
def joined(data, sources, count, bags, out, end, left, right):
    """Write the bags of one row, merged from those of several; returns (out, end, left, right).

    Args:
        data: the array in which the bags to merge stand, int64.
        sources: where the bags of each row to merge begin, int64; changed in place.
        count: how many of these rows there are, one or more.
        bags: the bags of the group; see the module.
        out: the array to write into, int64.
        end: where in `out` to begin.
        left: an array to work in, int64.
        right: another one.

    Returns:
        The array that was written into, longer where there was too little room, where the bags end in it, and the two
        arrays to work in, which may have grown too.
    """
    for b in range(bags.shape[0]):
        bag = bags[b]
        size, room = lanes_of(bag, data, sources[0]), 2 * GROWTH
        for i in range(count):
            room += lanes_of(bag, data, sources[i])
        left, right = with_room(left, START, room), with_room(right, START, room)
        copy(data, sources[0], left, 0, size)
        sources[0] += size
        for i in range(1, count):
            more = lanes_of(bag, data, sources[i])
            union_into(bag, left, data, sources[i], right)
            sources[i] += more
        if count > 1:
            size = held_to_rule(bag, left)
        out = with_room(out, end, size)
        copy(left, 0, out, end, size)
        end += size
    return out, end, left, right


@njit(cache=True, nogil=True, error_model="numpy")
def merge(data, left, right, fixed, offsets, bags, levels, meta):
    """The pairwise merge of states whose lanes are merged already, with their bags: (data, offsets).

    Args:
        data: the states of both sides, with their bags, int64.
        left: where in `data` the states of one side begin, and where the last ends, int64, shape (keys + 1,).
        right: the same of the other side, for the same keys.
        fixed: the merged states without bags, one after another, as `kernels.merge` gives them.
        offsets: where each begins in `fixed`, and where the last ends, int64, shape (keys + 1,).
        bags: the bags of the group; see the module.
        levels: the hops and spans (µs) of tiles; see `kernels`.
        meta: the numbers of the layout; see `kernels`.

    Returns:
        The states one after another, and where each begins and the last ends.
    """
    n_keys = offsets.size - 1
    out = np.empty(left[n_keys] - left[0] + right[n_keys] - right[0] + fixed.size, np.int64)
    found, edges = np.zeros(n_keys + 1, np.int64), np.zeros(max(levels.shape[0], 1), np.int64)
    work, other = np.empty(GROWTH, np.int64), np.empty(GROWTH, np.int64)
    end = np.int64(0)
    for k in range(n_keys):
        size = offsets[k + 1] - offsets[k]
        out = with_room(out, end, size)
        copy(fixed, offsets[k], out, end, size)
        place = end
        end += size
        if size > 0:
            a = left[k] if left[k + 1] > left[k] else np.int64(-1)
            b = right[k] if right[k + 1] > right[k] else np.int64(-1)
            edges_of(levels, out[place + 1], edges)
            out, end, work, other = _merge_rows(data, a, b, out, place, end, bags, levels, edges, meta, work, other)
        found[k + 1] = end
    return out[:end], found


@njit(cache=True, nogil=True, error_model="numpy")
def _merge_rows(data, a, b, out, place, end, bags, levels, edges, meta, work, other):
    """Write the bags of every row of the state at `place` of `out`, from those of the states at `a` and `b` of `data`."""
    step = 1 + meta[0]
    apart = _first_instant(out, place, step)
    begins = (rows_of(data, a, bags, step), rows_of(data, b, bags, step))
    # Four ascending lists of rows: the tiles of both states, and the instants of both.
    cursors, limits = np.zeros(4, np.int64), np.zeros(4, np.int64)
    for side in range(2):
        state = a if side == 0 else b
        if state >= 0:
            limits[side] = cursors[2 + side] = data[state + 2]
            limits[2 + side] = data[state + 2] + data[state + 3]
    sources = np.empty(limits[2] + limits[3] + 1, np.int64)
    for r in range(out[place + 2] + out[place + 3]):
        start, count = out[place + HEADER + r * step], 0
        for i in range(4):
            state = a if i % 2 == 0 else b
            while cursors[i] < limits[i]:
                instant = data[state + HEADER + cursors[i] * step]
                if i < 2 or instant < apart:
                    instant = tile_of(instant, levels, edges, meta[1])
                if instant != LOWEST:
                    if instant != start:
                        break
                    sources[count] = begins[i % 2][cursors[i]]
                    count += 1
                cursors[i] += 1
        out, end, work, other = joined(data, sources, count, bags, out, end, work, other)
    return out, end, work, other


@njit(cache=True, nogil=True, error_model="numpy")
def value(data, offsets, at, requests, probes, bags, windows, features, meta, numbers, texts, heap):
    """Write what the bags of states say at instants into numbers and lanes; returns the heap with the lists.

    Args:
        data: the states, one after another, int64.
        offsets: where each begins in `data`, and where the last ends, int64, shape (states + 1,).
        at: the instant of each (µs), int64, shape (states,).
        requests: the entries of one more event at each instant, int64, shape (states, lanes), or no row where none is
            added.
        probes: what requests look up, a row for each state, as `Probes.lanes`.
        bags: the bags of the group; see the module.
        windows: the windows; see `spans`.
        features: the features that are made of entries; see the module.
        meta: the numbers of the layout; see `kernels`.
        numbers: the output's numbers, float64, a row for each state.
        texts: the output's lanes, int64, a row for each state; of a list, a reference to it.
        heap: the lists that there are already; see `listed`.
    """
    step = 1 + meta[0]
    work, other = np.empty(GROWTH, np.int64), np.empty(GROWTH, np.int64)
    for i in range(offsets.size - 1):
        place = offsets[i] if offsets[i + 1] > offsets[i] else np.int64(-1)
        begins, feature = rows_of(data, place, bags, step), 0
        room = begins[begins.size - 1] - begins[0] + requests.shape[1] + 2 * GROWTH
        work, other = with_room(work, START, room), with_room(other, START, room)
        while feature < features.shape[0]:
            last = feature + 1
            while last < features.shape[0] and features[last, 0] == features[feature, 0]:
                last += 1
            heap = _value_bag(
                data,
                place,
                begins,
                at[i],
                requests,
                probes,
                bags,
                windows,
                features[feature:last],
                step,
                numbers,
                texts,
                i,
                work,
                other,
                heap,
            )
            feature = last
    return heap


@njit(cache=True, nogil=True, error_model="numpy")
def _value_bag(
    data, place, begins, at, requests, probes, bags, windows, features, step, numbers, texts, row, work, other, heap
):
    """The features of one bag; those of windows that end together and nest add rows to what the one before has."""
    bag = bags[features[0, 0]]
    nest, until, r = np.int64(-1), LOWEST, np.int64(0)
    work[0] = 0
    for f in range(features.shape[0]):
        since, end = span(windows, features[f, 1], at)
        if windows[features[f, 1], 3] != nest:
            nest, until, r = windows[features[f, 1], 3], end, np.int64(begins.size - 2)
            work[0] = 0
            if requests.shape[0] > 0 and windows[features[f, 1], 2] == 0 and requests[row, bag[INPUT]]:
                work[0] = 4
                copy(requests[row], bag[INPUT] + 1, work, 1, bag[WIDTH])
        while r >= 0 and data[place + HEADER + r * step] >= since:
            if data[place + HEADER + r * step] < until:
                source = begins[r]
                for b in range(features[0, 0]):
                    source += lanes_of(bags[b], data, source)
                if data[source]:
                    union_into(bag, work, data, source, other)
            r -= 1
        held_to_rule(bag, work)
        heap = emit_entries(bag, features[f], work, at, probes, numbers, texts, row, heap)
    return heap


@njit(cache=True, nogil=True, error_model="numpy")
def exact(
    events, begins, codes, times, available, entries, requests, counts, probes, ordinal, at, bags, windows, features, numbers,
    texts, heap,
):  # fmt: skip
    """Write what bags hold of history, by the window rule itself; returns the heap with the lists.

    Args:
        events: the numbers of the events, grouped by key, int64; see `kernels.by_key`.
        begins: where in `events` those of each key begin, and where the last ones end, int64, shape (keys + 1,).
        codes: which key each query has, int64, shape (queries,).
        times: the times of the events (µs), int64, by number.
        available: from which ordinal on each is known, int64, by number.
        entries: the entries of the events, int64, and from `requests` on those of one more event of each query.
        requests: the row of `entries` from which on those stand; -1 where none is added.
        counts: per query, whether its one more event counts as a row of a window of events, bool; empty where none
            does.
        probes: what requests look up, a row for each query, as `Probes.lanes`.
        ordinal: per query, by when an event must be available to count, int64, shape (queries,).
        at: per query, the instant (µs), int64, shape (queries,).
        bags: the bags of the group; see the module.
        windows: the windows; see `spans`.
        features: the features that are made of entries; see the module.
        numbers: the output's numbers, float64, a row for each query.
        texts: the output's lanes, int64, a row for each query; of a list, a reference to it.
        heap: the lists that there are already; see `listed`.
    """
    work = np.empty(GROWTH, np.int64)
    for q in range(at.size):
        mine = events[begins[codes[q]] : begins[codes[q] + 1]]
        work = with_room(work, START, (mine.size + 1) * entries.shape[1] + GROWTH)
        inside = np.empty(mine.size + 1, np.int64)
        for f in range(features.shape[0]):
            if f == 0 or features[f, 1] != features[f - 1, 1] or features[f, 0] != features[f - 1, 0]:
                one_more = counts.size > 0 and counts[q]
                since, until = span_by_rule(
                    windows, features[f, 1], at[q], mine, times, available, ordinal[q], one_more
                )
                count = 0
                for event in mine:
                    if available[event] <= ordinal[q] and since <= times[event] < until:
                        inside[count] = event
                        count += 1
                if requests >= 0 and windows[features[f, 1], 2] == 0:
                    inside[count] = requests + q
                    count += 1
                gather(bags[features[f, 0]], entries, inside[:count], work, START)
            heap = emit_entries(bags[features[f, 0]], features[f], work, at[q], probes, numbers, texts, q, heap)
    return heap
