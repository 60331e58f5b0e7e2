"""The fourth kernel, as_of, in the two ways that everything is held to: by the rule itself, and by the states of serving.

`exact` looks at every event for every (key, instant) row. `sweep` goes through the states that serving would have held, one
event after another. What windows give that slide, as `lane_history` has it, is what the rule says.
"""

import numpy as np
from numba import njit

from millstream.fold.kernels import fold_one, in_order, lanes_of_events, merge_one, value_one
from millstream.fold.lane_history import scatter
from millstream.fold.lanes import START, clear, combine, emit
from millstream.fold.layout import HEADER
from millstream.fold.moments import SPACE
from millstream.fold.spans import span_by_rule
from millstream.fold.timelines import rows_of


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
        feature = START
        for w in range(windows.shape[0]):
            begin = feature
            while feature < features.shape[0] and features[feature, 1] == w:
                feature += 1
            mine, one_more = events[begins[codes[q]] : begins[codes[q] + 1]], added.size > 0 and added[q]
            since, until = span_by_rule(windows, w, at[q], mine, times, available, ordinal[q], one_more)
            clear(ops, sums, START)
            if one_more and windows[w, 2] == 0:
                combine(ops, sums, START, requests, q * meta[0])
            for event in mine:
                if available[event] <= ordinal[q] and since <= times[event] < until:
                    combine(ops, sums, START, lanes, event * meta[0])
            emit(features, begin, feature, sums, START, at[q], numbers, texts, q)


@njit(cache=True, nogil=True, error_model="numpy")
def sweep(lines, settled, lanes, requests, ops, windows, features, levels, meta, first, last, numbers, texts):
    """Write what the states that serving would have held give, for the rows of a stretch of keys.

    Args:
        lines: the events and the rows of each key, laid out; see `timelines`.
        settled: the instants (µs) by which events let go of what is older, int64, by number; see `states.settled`.
        lanes: the lanes of the events, one event after another, int64, shape (events * lanes,).
        requests: the lanes of one more event of each row, one after another, int64; none at all where none is added.
        ops: the lane groups; the layout's arrays are as `kernels` says.
        windows: the windows.
        features: the features.
        levels: the hops and spans (µs) of tiles.
        meta: the numbers of the layout.
        first: the first key.
        last: the key before which to stop.
        numbers: the output's numbers, float64, a row for each row, written for the rows of these keys alone.
        texts: the output's lanes, int64, a row for each row; likewise.
    """
    size, scratch = meta[0], np.empty(0, np.int64)
    acc, bounds = np.empty(windows.shape[0] * size + SPACE, np.int64), np.empty(windows.shape[0], np.int64)
    edges = np.zeros(max(levels.shape[0], 1), np.int64)
    for k in range(first, last):
        row, stop, begin, end = lines.row_begins[k], lines.row_begins[k + 1], lines.begins[k], lines.begins[k + 1]
        rows, ordinal, at = rows_of(lines, k), lines.ordinal[row:stop], lines.at[row:stop]
        found, strings = np.empty((rows.size, meta[2]), np.float64), np.empty((rows.size, meta[3]), np.int64)
        order = in_order(np.arange(end - begin), lines.available[begin:end])
        mine = lines.events[begin:end][order]
        need = 2 * (HEADER + (mine.size + 2) * (1 + size)) + HEADER + 1 + size
        if scratch.size < need:
            scratch = np.empty(2 * need, np.int64)
        own, added = (
            lanes_of_events(lanes, mine, size),
            lanes_of_events(requests, rows, size) if requests.size else requests,
        )
        _sweep(lines.times[begin:end][order], settled[mine], lines.available[begin:end][order], own, ordinal, at, added, ops,
               windows, features, levels, meta, (found, strings, bounds, acc, edges), scratch)  # fmt: skip
        scatter(features, rows, found, strings, numbers, texts)


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
