"""Which times a window holds at an instant: by the clock, by how many rows they hold, or by the gaps between them.

A window is a row `[width, hop, delay, class, rows, gap]`, durations in µs. Its width is -1 where it is not bound by time;
`rows` is how many rows a row window holds at least, `gap` how far apart the rows of a session may be, each 0 otherwise.
"""

import numpy as np
from numba import njit

LOWEST = np.int64(-(2**63))
#: The columns of a window.
WIDTH, HOP, DELAY, CLASS, ROWS, GAP = range(6)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def span(windows, w, at):
    """The times that a window holds at an instant: from the first returned on, up to but not at the second.

    Args:
        windows: the windows of a layout, int64, a row each; see the module.
        w: which of them; of one of rows, the bound by time alone is looked at.
        at: the instant (µs).
    """
    width, hop, delay = windows[w, WIDTH], windows[w, HOP], windows[w, DELAY]
    until = at if delay == 0 else (at - delay) // hop * hop
    since = LOWEST if width < 0 else (at - delay - width) // hop * hop
    return since, until


@njit(cache=True, nogil=True, error_model="numpy")
def span_by_rule(windows, w, at, events, times, available, by, added):
    """The times that a window of any kind holds at an instant, by the rule itself; returned as by `span`.

    Args:
        windows: the windows of a layout, int64, a row each; see the module.
        w: which of them.
        at: the instant (µs).
        events: the numbers of the events of a key, int64, in any order.
        times: the times of the events (µs), int64, by number.
        available: from which ordinal on each is known, int64, by number.
        by: the ordinal by which an event must be available to count.
        added: whether one more event happens at the instant.
    """
    since, until = span(windows, w, at)
    wanted, gap = windows[w, ROWS], windows[w, GAP]
    if wanted == 0 and gap == 0:
        return since, until
    past, n = np.empty(events.size, np.int64), 0
    for event in events:
        if available[event] <= by and times[event] < at:
            past[n] = times[event]
            n += 1
    past = np.sort(past[:n])
    place = n
    if wanted > 0:
        while place > 0 and n - place + added < wanted:
            place -= 1
            while place > 0 and past[place - 1] == past[place]:
                place -= 1
    elif n > 0 and at - past[n - 1] <= gap:
        place = n - 1
        while place > 0 and past[place] - past[place - 1] <= gap:
            place -= 1
    return (max(since, past[place]) if place < n else until), until


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def spans_by_time(windows, w, at, since, until):
    """Write what `span` gives at some instants.

    Args:
        windows: the windows of a layout, int64, a row each; see the module.
        w: which of them.
        at: the instants (µs), int64.
        since: where to write from when on the window holds times (µs), int64, one place for each instant.
        until: where to write before when it does, likewise.
    """
    for q in range(at.size):
        since[q], until[q] = span(windows, w, at[q])


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def spans_of_rows(times, available, known, ordinal, at, added, windows, w, since, until):
    """Write the times that a window of the newest rows holds of a key's events, at ascending ordinals and instants.

    What holds enough rows once will hold enough of newer ones ever after, so that the window's oldest instant only goes
    up.

    Args:
        times: the times of the events (µs), int64, ascending, shape (events,).
        available: from which ordinal on each is known, int64, shape (events,).
        known: the numbers of the events as they become available, int64; nothing where that is their order.
        ordinal: by when an event must be available to count, int64, ascending, one for each instant.
        at: the instants (µs), int64, ascending.
        added: at which of them one more event happens, bool; empty where none does.
        windows: the windows of a layout, int64, a row each; see the module.
        w: which of them.
        since: where to write from when on the window holds times (µs), int64, one place for each instant.
        until: where to write before when it does, likewise.
    """
    low, high, new, count, wanted = 0, 0, 0, 0, windows[w, ROWS]
    for q in range(at.size):
        by, passed = ordinal[q], high
        while high < times.size and times[high] < at[q] and (known.size > 0 or available[high] <= by):
            count += available[high] <= by
            high += 1
        while new < known.size and available[known[new]] <= by:
            count += low <= known[new] < passed
            new += 1
        while count > wanted:
            beyond, rows = _oldest_instant(times, available, by, low, high)
            if count - rows < wanted:
                break
            low, count = beyond, count - rows
        begin, left = low, count
        if added.size > 0 and added[q]:
            while left >= wanted and left > 0:
                beyond, rows = _oldest_instant(times, available, by, begin, high)
                if left - rows < wanted - 1:
                    break
                begin, left = beyond, left - rows
        since[q], until[q] = span(windows, w, at[q])
        since[q] = max(since[q], times[begin]) if left > 0 else until[q]


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _oldest_instant(times, available, by, low, high):
    """Of the events from `low` on, where those after the oldest available ones' instant begin, and how many these are."""
    place, rows = low, 0
    while place < high and available[place] > by:
        place += 1
    instant = times[place]
    while place < high and times[place] == instant:
        rows += available[place] <= by
        place += 1
    return place, rows


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def spans_of_sessions(times, available, known, ordinal, at, windows, w, since, until):
    """Write the times that the session before an instant holds of a key's events, at ascending ordinals and instants.

    Args:
        times: the times of the events (µs), int64, ascending; the arguments are those of `spans_of_rows`.
        available: from which ordinal on each is known.
        known: the numbers of the events as they become available, or nothing.
        ordinal: by when an event must be available to count.
        at: the instants (µs).
        windows: the windows of a layout.
        w: which of them.
        since: where to write from when on the window holds times (µs).
        until: where to write before when it does.
    """
    high, new, begin, newest, gap = 0, 0, -1, -1, windows[w, GAP]
    for q in range(at.size):
        by, passed = ordinal[q], high
        while True:
            if high < times.size and times[high] < at[q] and (known.size > 0 or available[high] <= by):
                event = high if available[high] <= by else -1
                high += 1
            elif new < known.size and available[known[new]] <= by:
                event = known[new] if known[new] < passed else -1
                new += 1
            else:
                break
            if event < 0:
                continue
            if newest < 0 or times[event] - times[newest] > gap:
                begin, newest = event, event
            elif times[event] >= times[newest]:
                newest = event
            elif event < begin and times[begin] - times[event] <= gap:
                begin = _begin_of_session(times, available, by, event, gap)
        since[q] = until[q] = at[q]
        if newest >= 0 and at[q] - times[newest] <= gap:
            since[q] = times[begin]


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _begin_of_session(times, available, by, event, gap):
    begin, place = event, event - 1
    while place >= 0 and times[begin] - times[place] <= gap:
        if available[place] <= by:
            begin = place
        place -= 1
    return begin


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def spans(times, available, known, ordinal, at, added, windows, w, since, until):
    """Write the times that a window of any kind holds: from `since` on, up to but not at `until`.

    Args:
        times: the times of the events (µs), int64, ascending; the arguments are those of `spans_of_rows`.
        available: from which ordinal on each is known.
        known: the numbers of the events as they become available, or nothing.
        ordinal: by when an event must be available to count.
        at: the instants (µs).
        added: at which of them one more event happens, or nothing.
        windows: the windows of a layout.
        w: which of them.
        since: where to write from when on the window holds times (µs).
        until: where to write before when it does.
    """
    if windows[w, ROWS] > 0:
        spans_of_rows(times, available, known, ordinal, at, added, windows, w, since, until)
    elif windows[w, GAP] > 0:
        spans_of_sessions(times, available, known, ordinal, at, windows, w, since, until)
    else:
        spans_by_time(windows, w, at, since, until)
