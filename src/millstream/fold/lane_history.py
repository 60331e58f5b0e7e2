"""Windows that slide along the events of keys: what the lanes of the events in them come to.

Where events become available in the order of their times, a window holds a stretch of them; what adds up is then the
difference of two sums of all events so far, which takes nothing away, as sums are whole numbers. Else events are added as
they enter and taken out as they leave. For least and greatest an event displaces from a queue what it beats. All give what
`history.exact`, the rule itself, gives.
"""

import numpy as np
from numba import njit

from millstream.fold.kernels import lanes_of_events
from millstream.fold.lanes import (
    ADD,
    EMPTY_GREATEST,
    EMPTY_LEAST,
    LEAST,
    START,
    TEXT,
    VECTOR_SUM,
    beats,
    clear,
    combine_one,
    remove_one,
)
from millstream.fold.moments import SPACE
from millstream.fold.sliding_sums import add_up, adds_up, emit_held, slide_sums
from millstream.fold.spans import DELAY, LOWEST, spans
from millstream.fold.timelines import rows_of, slides

#: That no event is left which may enter.
DONE = np.int64(-2)


@njit(cache=True, nogil=True, error_model="numpy")
def slide(lines, lanes, requests, added, ops, windows, window_ops, features, meta, first, last, numbers, texts):
    """Write what windows hold, for the rows of a stretch of keys past which they slide.

    Args:
        lines: the events and the rows of each key, laid out; see `timelines`.
        lanes: the lanes of the events, one event after another, int64, shape (events * lanes,).
        requests: the lanes of one more event of each row, one after another, int64; none at all where none is added.
        added: per row, whether it has that one more event, bool, shape (rows,); empty where none is added.
        ops: the lane groups; the layout's arrays are as `kernels` says.
        windows: the windows.
        window_ops: which lane groups each window needs (1 or 0), int64, shape (windows, lane groups).
        features: the features.
        meta: the numbers of the layout.
        first: the first key.
        last: the key before which to stop.
        numbers: the output's numbers, float64, a row for each row, written for those of these keys past which windows slide.
        texts: the output's lanes, int64, a row for each row; likewise.
    """
    size, events, rows = meta[0], np.int64(0), np.int64(0)
    for k in range(first, last):
        events = max(events, lines.begins[k + 1] - lines.begins[k])
        rows = max(rows, lines.row_begins[k + 1] - lines.row_begins[k])
    found, strings = np.empty((rows, meta[2]), np.float64), np.empty((rows, meta[3]), np.int64)
    since, until = np.empty(rows, np.int64), np.empty(rows, np.int64)
    sums, held = np.empty(size + SPACE, np.int64), np.empty(size + SPACE, np.int64)
    queues, ends = np.empty((2, ops.shape[0], events), np.int64), np.zeros((3, ops.shape[0]), np.int64)
    for k in range(first, last):
        if not slides(lines, k):
            continue
        begin, end, asked = lines.begins[k], lines.begins[k + 1], rows_of(lines, k)
        row, stop = lines.row_begins[k], lines.row_begins[k + 1]
        line = (
            lines.times[begin:end], lines.available[begin:end], lines.known[begin : end if lines.late[k] else begin],
            lines.ordinal[row:stop], lines.at[row:stop],
        )  # fmt: skip
        own, one_more = lanes_of_events(lanes, lines.events[begin:end], size), added[asked] if added.size > 0 else added
        if not lines.late[k]:
            add_up(own, size, ops)
        feature, adds = START, not lines.late[k]
        for w in range(windows.shape[0]):
            of_window = feature
            while feature < features.shape[0] and features[feature, 1] == w:
                feature += 1
            spans(line[0], line[1], line[2], line[3], line[4], one_more, windows, w, since, until)
            of_request = one_more if windows[w, DELAY] == 0 else one_more[:0]
            if adds and adds_up(ops, window_ops[w]):
                slide_sums(line, since, until, own, size, asked, requests, of_request, ops, window_ops[w], features, of_window,
                            feature, sums, held, found, strings)  # fmt: skip
                continue
            _slide(
                line, since, until, own, size, asked, requests, of_request, ops,
                window_ops[w], features, of_window, feature, sums, held, queues[0], queues[1], ends, found, strings,
            )  # fmt: skip
        scatter(features, asked, found, strings, numbers, texts)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def scatter(features, rows, found, strings, numbers, texts):
    """Put what was found into the rows that asked for it, column by column.

    Args:
        features: the features, whose columns alone are written; see `kernels`.
        rows: the numbers of the rows, int64.
        found: the numbers that were found, float64, a row for each of these in their order, or more.
        strings: the lanes that were found, int64; likewise.
        numbers: the output's numbers, float64, a row for each row there is, changed in place.
        texts: the output's lanes, int64; likewise.
    """
    for f in range(features.shape[0]):
        out = features[f, 8]
        if features[f, 0] != TEXT and features[f, 0] < VECTOR_SUM:
            for i in range(rows.size):
                numbers[rows[i], out] = found[i, out]
            continue
        for i in range(rows.size):
            for j in range(out, out + features[f, 3]):
                texts[rows[i], j] = strings[i, j]


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _slide(line, since, until, own, size, rows, requests, added, ops, used, features, first, last, sums, held, queue, late,
           ends, found, strings):  # fmt: skip
    """One window of one key; see `timelines.moves_of` for which events enter it and leave it, and when.

    One that comes to hold older events than before is filled anew: sessions that become one. What adds up is added and taken
    out where events come late (`adds`); else no event need be kept where nothing but that is wanted.
    """
    times, available, known, ordinal, at = line
    adds, kept = known.size > 0, known.size > 0
    for i in range(ops.shape[0]):
        kept = kept or (used[i] and ops[i, 0] != ADD)
    clear(ops, sums, START)
    ends[:] = 0
    low, high, new, by = START, START, START, LOWEST
    for q in range(at.size):
        moved = q > 0 and since[q] < since[q - 1]
        if moved:
            low = _fill(line, since[q], by, low, high, own, size, adds, ops, used, sums, queue, late, ends)
        while low < high and times[low] < since[q]:
            if available[low] <= by:
                moved = True
                if kept:
                    _leave(low, own, size, adds, ops, used, sums, queue, ends)
            low += 1
        by, passed = ordinal[q], high
        while True:
            event, low, high, new = _next(line, since[q], until[q], by, low, high, new, passed)
            if event == DONE:
                break
            if event >= 0:
                moved = True
                if kept:
                    _enter(event, own, size, adds, ops, used, sums, queue, late, ends)
        if moved:
            _read(low, high, own, size, adds, ops, used, sums, queue, late, ends)
        emit_held(sums, held, size, rows[q], requests, added, ops, features, first, last, at[q], found, strings, q)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _next(line, since, until, by, low, high, new, passed):
    """The next event that may enter, -1 where it does not, or `DONE`; then what `_slide` goes by."""
    times, available, known, _, _ = line
    if high < times.size and times[high] < until and (known.size > 0 or available[high] <= by):
        event = high if available[high] <= by and times[high] >= since else np.int64(-1)
        return event, high + 1 if times[high] < since else low, high + 1, new
    if new < known.size and available[known[new]] <= by:
        return known[new] if low <= known[new] < passed else np.int64(-1), low, high, new + 1
    return DONE, low, high, new


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _fill(line, since, by, low, high, own, size, adds, ops, used, sums, queue, late, ends):
    """Fill a window anew with those events before `high` that are known `by` then; returns the first of its time."""
    times, available, _, _, _ = line
    clear(ops, sums, START)
    ends[:] = 0
    while low > 0 and times[low - 1] >= since:
        low -= 1
    for event in range(low, high):
        if available[event] <= by:
            _enter(event, own, size, adds, ops, used, sums, queue, late, ends)
    return low


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _enter(event, own, size, adds, ops, used, sums, queue, late, ends):
    """Add an event to a window: sums add; for least and greatest it displaces from the queue what it beats.

    The queue is in the order of time, so an event older than its last one goes to the heap of the late ones instead:
    a place in the queue would cost as many moves as there are younger events, and for `first` that is all of them.
    """
    row = event * size
    for i in range(ops.shape[0]):
        op, offset, width = ops[i, 0], ops[i, 1], ops[i, 2]
        if not used[i]:
            continue
        if op == ADD:
            if adds:
                combine_one(op, width, sums, offset, own, row + offset)
            continue
        first, last = ends[0, i], ends[1, i]
        if last > first and queue[i, last - 1] > event:
            _push(event, i, own, size, ops, late, ends[2, i])
            ends[2, i] += 1
            continue
        while last > first and not beats(op, width, own, queue[i, last - 1] * size + offset, own, row + offset):
            last -= 1
        queue[i, last] = event
        ends[1, i] = last + 1


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _leave(event, own, size, adds, ops, used, sums, queue, ends):
    """Take the oldest event of a window out again; the heap of the late ones drops it when it comes to the top."""
    for i in range(ops.shape[0]):
        if not used[i]:
            continue
        if ops[i, 0] == ADD:
            if adds:
                remove_one(ops[i, 2], sums, ops[i, 1], own, event * size + ops[i, 1])
        elif ends[1, i] > ends[0, i] and queue[i, ends[0, i]] == event:
            ends[0, i] += 1


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _push(event, i, own, size, ops, late, count):
    """Put an event into the heap of `count` late events, whose top is the least or greatest of them."""
    op, offset, width = ops[i, 0], ops[i, 1], ops[i, 2]
    place = count
    while place > 0:
        above = (place - 1) >> 1
        if not beats(op, width, own, event * size + offset, own, late[i, above] * size + offset):
            break
        late[i, place] = late[i, above]
        place = above
    late[i, place] = event


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _pop(i, own, size, ops, late, count):
    """Take the top out of the heap of late events, which leaves `count` of them."""
    op, offset, width = ops[i, 0], ops[i, 1], ops[i, 2]
    moved, place, below = late[i, count], 0, 1
    while below < count:
        row, right = late[i, below] * size + offset, late[i, below + 1] * size + offset
        if below + 1 < count and beats(op, width, own, right, own, row):
            below, row = below + 1, right
        if not beats(op, width, own, row, own, moved * size + offset):
            break
        late[i, place] = late[i, below]
        place, below = below, 2 * below + 1
    late[i, place] = moved


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _read(low, high, own, size, adds, ops, used, sums, queue, late, ends):
    """What the events of a window, from `low` up to `high`, come to, into its lanes."""
    for i in range(ops.shape[0]):
        op, offset, width = ops[i, 0], ops[i, 1], ops[i, 2]
        if not used[i] or (op == ADD and adds):
            continue
        best = high - 1 if high > low else np.int64(-1)
        if op != ADD:
            best = queue[i, ends[0, i]] if ends[1, i] > ends[0, i] else np.int64(-1)
            while ends[2, i] > 0 and late[i, 0] < low:
                ends[2, i] -= 1
                _pop(i, own, size, ops, late, ends[2, i])
            if ends[2, i] > 0 and (
                best < 0 or beats(op, width, own, late[i, 0] * size + offset, own, best * size + offset)
            ):
                best = late[i, 0]
        fill = np.int64(0) if op == ADD else EMPTY_LEAST if op == LEAST else EMPTY_GREATEST
        for j in range(width):
            sums[offset + j] = own[best * size + offset + j] if best >= 0 else fill
        if op == ADD and best >= 0 and low > 0:
            remove_one(width, sums, offset, own, (low - 1) * size + offset)
