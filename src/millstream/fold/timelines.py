"""Timelines: the events of each key by time, and the rows that are asked of it in the order in which windows slide past them.

They are laid out once for all windows and all that is read of them. Which events enter a window and leave it before each
row follows from times alone, so it is found once per window, whatever is made of these events then.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from millstream.fold.kernels import in_order
from millstream.fold.lanes import START
from millstream.fold.shares import in_shares
from millstream.fold.spans import GAP, ROWS, span, spans

_ONE = np.uint64(1)


class Timelines(NamedTuple):
    """The events of several keys, key after key, and the rows that are asked of them.

    Attributes:
        events: the numbers of the events, those of a key by time; `begins` says where each key's begin.
        times: when each of those happened, in that order; `available` from when on it counts.
        known: the places of a key's events, counted from its first, as they become available.
        late: which keys have events that become available in another order than that of their times.
        rows: the numbers of the rows, those of a key by ordinal and then instant; `row_begins` says where each key's begin.
        ordinal: by what each of those rows is asked, in that order, and `at` which instant.
        turned: which keys are asked of an earlier instant by a later ordinal, past which windows do not slide.
    """

    events: np.ndarray
    begins: np.ndarray
    times: np.ndarray
    available: np.ndarray
    known: np.ndarray
    late: np.ndarray
    rows: np.ndarray
    row_begins: np.ndarray
    ordinal: np.ndarray
    at: np.ndarray
    turned: np.ndarray


def timelines_of(
    events: np.ndarray,
    begins: np.ndarray,
    times: np.ndarray,
    available: np.ndarray,
    rows: np.ndarray,
    row_begins: np.ndarray,
    ordinal: np.ndarray,
    at: np.ndarray,
) -> Timelines:
    """Lay out events, and the (key, instant) rows that are asked of them.

    Args:
        events: the numbers of the events, grouped by key, int64; see `kernels.by_key`. Those of each key are put in order
            in place.
        begins: where in `events` those of each key begin, and where the last ones end, int64, shape (keys + 1,).
        times: the times of the events (µs), int64, by number.
        available: from which ordinal on each is known, int64, by number.
        rows: the numbers of the rows, grouped by key as those of the events are, int64; put in order in place too.
        row_begins: where in `rows` those of each key begin, and where the last ones end, int64, shape (keys + 1,).
        ordinal: per row, by when an event must be available to count, int64, shape (rows,).
        at: per row, the instant (µs), int64, shape (rows,).

    Returns:
        The timelines, which hold `events`, `rows` and where they begin themselves.
    """
    keys, asked_by = len(begins) - 1, np.empty_like(rows)
    lines = Timelines(
        events, begins, np.empty_like(events), np.empty_like(events), np.empty_like(events), np.zeros(keys, np.bool_),
        rows, row_begins, asked_by, asked_by if ordinal is at else np.empty_like(rows), np.zeros(keys, np.bool_),
    )  # fmt: skip
    in_shares(
        begins[1:] + row_begins[1:],
        lambda first, last: _lay_out(lines, times, available, ordinal, at, ordinal is at, first, last),
    )
    return lines


@njit(cache=True, nogil=True, error_model="numpy")
def _lay_out(lines, times, available, ordinal, at, same, first, last):
    """Put the events and the rows of the keys `first..last` in order; `same` says that ordinals are the instants themselves.

    All is first taken as it comes, which is in order already where it came as it happened; column by column, for the numbers
    of a key lie far apart, and a processor finds its way about one column at a time.
    """
    begin, end = lines.begins[first], lines.begins[last]
    _take(times, lines.events, begin, end, lines.times)
    _take(available, lines.events, begin, end, lines.available)
    begin, end = lines.row_begins[first], lines.row_begins[last]
    _take(ordinal, lines.rows, begin, end, lines.ordinal)
    if not same:
        _take(at, lines.rows, begin, end, lines.at)
    for k in range(first, last):
        begin, end = lines.begins[k], lines.begins[k + 1]
        if not _ascend(lines.times, begin, end):
            lines.events[begin:end] = in_order(lines.events[begin:end].copy(), times)
            _take(times, lines.events, begin, end, lines.times)
            _take(available, lines.events, begin, end, lines.available)
        if not _ascend(lines.available, begin, end):
            lines.late[k] = True
            lines.known[begin:end] = in_order(np.arange(end - begin), lines.available[begin:end])
        begin, end = lines.row_begins[k], lines.row_begins[k + 1]
        if _ascend(lines.ordinal, begin, end) and (same or _ascend(lines.at, begin, end)):
            continue
        lines.rows[begin:end] = in_order(in_order(lines.rows[begin:end].copy(), at), ordinal)
        _take(ordinal, lines.rows, begin, end, lines.ordinal)
        _take(at, lines.rows, begin, end, lines.at)
        lines.turned[k] = not _ascend(lines.at, begin, end)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _take(column, numbers, begin, end, out):
    """Write what a column has at the numbers from `begin` up to `end`; places without a sign need no look at it."""
    for i in range(np.uint64(begin), np.uint64(end)):
        out[i] = column[np.uint64(numbers[i])]


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _ascend(values, begin, end):
    """Whether no value from `begin` up to `end` is less than the one before it."""
    for i in range(begin + 1, end):  # noqa: SIM110 - Numba has no generators
        if values[i] < values[i - 1]:
            return False
    return True


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def slides(lines, k):
    """Whether anything is asked of a key past which windows slide."""
    return lines.row_begins[k] < lines.row_begins[k + 1] and not lines.turned[k]


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def rows_of(lines, k):
    """The numbers of the rows that are asked of a key."""
    return lines.rows[lines.row_begins[k] : lines.row_begins[k + 1]]


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def ends_of(lines, ends, first, k):
    """Of the rows that are asked of keys from `first` on, where the moves before each of those of a key end.

    Args:
        lines: the timelines of all keys.
        ends: where the moves before each row end, int64, as `moves_of` gives it for keys from `first` on.
        first: the first of these keys.
        k: the key.

    Returns:
        A part of `ends`, int64, shape (rows of the key,).
    """
    base = lines.row_begins[first]
    return ends[lines.row_begins[k] - base : lines.row_begins[k + 1] - base]


@njit(cache=True, nogil=True, error_model="numpy")
def moves_of(lines, counts, windows, w, first, last):
    """Which events enter a window before each row of a stretch of keys and, inverted, which leave it.

    An event enters when it is available and its time is past, whichever comes last, unless its time has left the window by
    then. One that has left enters again where a session becomes one with an older one.

    Args:
        lines: the timelines of all keys.
        counts: per row, whether it counts as one more event of a window of events, bool, by number; empty where none does.
        windows: the windows of a layout, int64, a row each; see `spans`.
        w: which of them.
        first: the first key.
        last: the key before which to stop.

    Returns:
        The moves, row after row, int64: each the place of an event, counted from its key's first, inverted (`~`) where it
        leaves; unused room may follow. And where those before each row of these keys end, int64, in the order of
        `lines.rows`; not written for keys past which windows do not slide.
    """
    base = lines.row_begins[first]
    ends = np.empty(lines.row_begins[last] - base, np.int64)
    since, until = np.empty_like(ends), np.empty_like(ends)
    moves = np.empty(2 * (lines.begins[last] - lines.begins[first]), np.int64)
    n, by_clock = START, windows[w, ROWS] == 0 and windows[w, GAP] == 0
    for k in range(first, last):
        if not slides(lines, k):
            continue
        if by_clock and not lines.late[k]:
            n = _moves_by_clock(lines, k, windows, w, moves, n, ends, base)
            continue
        begin, end = lines.begins[k], lines.begins[k + 1]
        row, stop = lines.row_begins[k], lines.row_begins[k + 1]
        times, available = lines.times[begin:end], lines.available[begin:end]
        known = lines.known[begin:end] if lines.late[k] else lines.known[:0]
        ordinal, at = lines.ordinal[row:stop], lines.at[row:stop]
        added = counts[lines.rows[row:stop]] if counts.size > 0 else counts
        spans(times, available, known, ordinal, at, added, windows, w, since, until)
        if lines.late[k]:
            moves, n = _moves_of_late(
                times, available, known, ordinal, since, until, moves, n, ends[row - base : stop - base]
            )
        else:
            moves, n = _moves(times, available, ordinal, since, until, moves, n, ends[row - base : stop - base])
    return moves, ends


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _moves_by_clock(lines, k, windows, w, moves, n, ends, base):
    """Those of a key as `_moves`, of a window that only goes on: an event enters once at most, so that there is room."""
    begin, stop = lines.begins[k], np.uint64(lines.begins[k + 1])
    low = high = np.uint64(begin)
    for q in range(np.uint64(lines.row_begins[k]), np.uint64(lines.row_begins[k + 1])):
        (since, until), by = span(windows, w, lines.at[q]), lines.ordinal[q]
        while low < high and lines.times[low] < since:
            moves[n] = ~(np.int64(low) - begin)
            low += _ONE
            n += 1
        while high < stop and lines.times[high] < until and lines.available[high] <= by:
            if lines.times[high] < since:
                low = high + _ONE
            else:
                moves[n] = np.int64(high) - begin
                n += 1
            high += _ONE
        ends[np.int64(q) - base] = n
    return n


@njit(cache=True, nogil=True, error_model="numpy")
def _moves(times, available, ordinal, since, until, moves, n, ends):
    """Those of one key whose events become available in the order of their times: what a window holds is a stretch of them."""
    low, high = 0, 0
    for q in range(ordinal.size):
        if moves.size < n + 2 * times.size:
            moves = np.concatenate((moves, np.empty(moves.size + 2 * times.size, np.int64)))
        while low > 0 and times[low - 1] >= since[q]:
            low -= 1
            moves[n] = low
            n += 1
        while low < high and times[low] < since[q]:
            moves[n] = ~low
            low += 1
            n += 1
        while high < times.size and times[high] < until[q] and available[high] <= ordinal[q]:
            if times[high] < since[q]:
                low = high + 1
            else:
                moves[n] = high
                n += 1
            high += 1
        ends[q] = n
    return moves, n


@njit(cache=True, nogil=True, error_model="numpy")
def _moves_of_late(times, available, known, ordinal, since, until, moves, n, ends):
    """Those of one key whose events become available in any order."""
    inside = np.zeros(times.size, np.bool_)
    low, high, new = 0, 0, 0
    for q in range(ordinal.size):
        by, passed = ordinal[q], high
        if moves.size < n + 2 * times.size:
            moves = np.concatenate((moves, np.empty(moves.size + 2 * times.size, np.int64)))
        while True:  # one event that leaves, then those that enter
            event, enters = -1, True
            if low > 0 and times[low - 1] >= since[q]:
                low -= 1
                event = low if available[low] <= by else -1
            elif low < high and times[low] < since[q]:
                event, enters = low, False
                low += 1
            elif high < times.size and times[high] < until[q]:
                high += 1
                if times[high - 1] < since[q]:
                    low = high
                elif available[high - 1] <= by:
                    event = high - 1
            elif new < known.size and available[known[new]] <= by:
                if low <= known[new] < passed:
                    event = known[new]
                new += 1
            else:
                break
            if event < 0 or inside[event] == enters:
                continue
            inside[event] = enters
            moves[n] = event if enters else ~event
            n += 1
        ends[q] = n
    return moves, n
