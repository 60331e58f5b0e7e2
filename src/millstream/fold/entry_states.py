"""The kernels over entries: what follows the lanes in a state, for each of its rows the bags of the group.

A state is `[header, rows..., bags of the first row, bags of the second, ...]`. Which row an event belongs to is what the
kernels over lanes have found; these add the bags of the same events to the same rows.
"""

import numpy as np
from numba import njit

from millstream.fold.emitting import emit_entries
from millstream.fold.entries import GROWTH, INPUT, WIDTH, copy, gather, lanes_of, union, with_room
from millstream.fold.kernels import by_key, edges_of, in_order, tile_of
from millstream.fold.layout import HEADER
from millstream.fold.spans import LOWEST, span, span_by_rule

_HIGHEST = np.int64(2**63 - 1)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _first_instant(data, place, step):
    """Where the instants of a state begin, or the highest number where it has none."""
    return data[place + HEADER + data[place + 2] * step] if data[place + 3] else _HIGHEST


@njit(cache=True, nogil=True, error_model="numpy")
def fold(fixed, offsets, codes, times, entries, bags, levels, meta):
    """The states of events, with the bags of their entries behind the lanes: (data, offsets)."""
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
    """Where the bags of each row of a state begin, and where the last ones end; of no state (-1) nothing."""
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
    """Write the bags of one row, merged from those that begin at `sources`, from `end` on; returns (out, end, left, right).

    `left` and `right` are free to work in, and grow as `out` does.
    """
    for b in range(bags.shape[0]):
        bag = bags[b]
        size = lanes_of(bag, data, sources[0])
        left = with_room(left, 0, size + GROWTH)
        copy(data, sources[0], left, 0, size)
        sources[0] += size
        for i in range(1, count):
            more = lanes_of(bag, data, sources[i])
            right = with_room(right, 0, size + more + GROWTH)
            size = union(bag, left, 0, data, sources[i], right, 0)
            left, right = right, left
            sources[i] += more
        out = with_room(out, end, size)
        copy(left, 0, out, end, size)
        end += size
    return out, end, left, right


@njit(cache=True, nogil=True, error_model="numpy")
def merge(data, left, right, fixed, offsets, bags, levels, meta):
    """The pairwise merge of states whose lanes are merged already (`fixed`), with their bags: (data, offsets)."""
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

    `requests` are the entries of one more event at each instant, or none at all; `probes` is what requests look up.
    """
    step = 1 + meta[0]
    work, other = np.empty(GROWTH, np.int64), np.empty(GROWTH, np.int64)
    for i in range(offsets.size - 1):
        place = offsets[i] if offsets[i + 1] > offsets[i] else np.int64(-1)
        begins, feature = rows_of(data, place, bags, step), 0
        while feature < features.shape[0]:
            last = feature + 1
            while last < features.shape[0] and features[last, 0] == features[feature, 0]:
                last += 1
            work, other, heap = _value_bag(
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
    nest, size, until, r = np.int64(-1), np.int64(1), LOWEST, np.int64(0)
    work[0] = 0
    for f in range(features.shape[0]):
        since, end = span(windows, features[f, 1], at)
        if windows[features[f, 1], 3] != nest:
            nest, size, until, r = windows[features[f, 1], 3], np.int64(1), end, np.int64(begins.size - 2)
            work[0] = 0
            if requests.shape[0] > 0 and windows[features[f, 1], 2] == 0 and requests[row, bag[INPUT]]:
                work[0], size = 4, 1 + bag[WIDTH]
                copy(requests[row], bag[INPUT] + 1, work, 1, bag[WIDTH])
        while r >= 0 and data[place + HEADER + r * step] >= since:
            if data[place + HEADER + r * step] < until:
                source = begins[r]
                for b in range(features[0, 0]):
                    source += lanes_of(bags[b], data, source)
                more = lanes_of(bag, data, source)
                if more > 1 or data[source]:
                    other = with_room(other, 0, size + more + GROWTH)
                    size = union(bag, work, 0, data, source, other, 0)
                    work, other = other, work
            r -= 1
        heap = emit_entries(bag, features[f], work, at, probes, numbers, texts, row, heap)
    return work, other, heap


@njit(cache=True, nogil=True, error_model="numpy")
def exact(
    events, begins, codes, times, available, entries, requests, counts, probes, ordinal, at, bags, windows, features, numbers,
    texts, heap,
):  # fmt: skip
    """Write what bags hold of history into numbers and lanes, by the window rule itself; returns the heap with the lists.

    One more event of each query has its entries in the rows of `entries` from `requests` on (-1: there is none); `counts`
    says which of them count as a row of a window of events, and is empty where none does. `probes` is what requests look up.
    """
    work = np.empty(GROWTH, np.int64)
    for q in range(at.size):
        mine = events[begins[codes[q]] : begins[codes[q] + 1]]
        work = with_room(work, 0, (mine.size + 1) * entries.shape[1] + GROWTH)
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
                gather(bags[features[f, 0]], entries, inside[:count], work, 0)
            heap = emit_entries(bags[features[f, 0]], features[f], work, at[q], probes, numbers, texts, q, heap)
    return heap
