"""The kernels of what row windows and sessions keep: stretches of a key's rows, in sections behind the rest of a state.

A section is `[size, stretches, stretch..., bags of the first stretch, bags of the second, ...]`, a stretch is
`[first, last, rows, lanes...]`, ascending in time: the instants of its first and last row, and how many rows it has. The
last lane of a state says how many lanes its sections take, that one included.

From the instant on for which a state is exact every stretch is one instant. Before it, row windows keep the fewest of the
newest instants that hold as many rows as the longest window, and sessions keep each of their own as one stretch. Either
follows from the set of events alone, so sections merge in any order and grouping to the same lanes.

What the kernels take of a `layout.Section`, all int64: `ops`, `windows` and `features` as `kernels` says, `bags` and
the features that are made of entries as `entry_states` says, `rule`, whose columns `layout` names (`RULE_GAP` and on),
and `size`, how many lanes a stretch has. `number` is which of its group's sections it is, counted from 0.
"""

import numpy as np
from numba import njit

from millstream.fold import spans
from millstream.fold.emitting import emit_entries
from millstream.fold.entries import GROWTH, INPUT, WIDTH, copy, gather, held_to_rule, lanes_of, union_into, with_room
from millstream.fold.entry_states import joined
from millstream.fold.kernels import by_key, exact_from, in_order
from millstream.fold.lanes import START, clear, combine, emit
from millstream.fold.layout import HEADER, RULE_GAP, RULE_HOP, RULE_ROWS, RULE_WITHIN
from millstream.fold.moments import SPACE
from millstream.fold.spans import LOWEST

SIZE, COUNT, HEAD = 0, 1, 2
FIRST, LAST, ROWS, LANES = 0, 1, 2, 3


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def section_of(data, begin, end, number):
    """Where a section of a state begins, -1 where the state has none.

    Args:
        data: states, one after another, int64.
        begin: where the state begins in `data`.
        end: where it ends.
        number: which of the sections, counted from 0.
    """
    if end - begin <= HEADER:
        return np.int64(-1)
    place = end - data[end - 1]
    for _ in range(number):
        place += data[place + SIZE]
    return place


@njit(cache=True, nogil=True, error_model="numpy")
def exact_of(data, offsets, meta):
    """Per state the instant (µs) from which on it is exact; the lowest int64 for an empty one.

    Args:
        data: the states, one after another, int64.
        offsets: where each begins in `data`, and where the last ends, int64, shape (states + 1,).
        meta: the numbers of the layout of the group, not of the section; see `kernels`.
    """
    found = np.full(offsets.size - 1, LOWEST)
    for k in range(found.size):
        if offsets[k + 1] > offsets[k]:
            found[k] = exact_from(data, offsets[k], meta)
    return found


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _follows(last, first, exact, gap):
    """Whether an instant belongs to the stretch that ends with `last`."""
    return first <= last or (first < exact and first - last <= gap)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _first_kept(stretches, n, exact, oldest, rule):
    """The number of the first of `n` stretches (rows of first, last, rows) that any window may still need."""
    place, rows = n, np.int64(0)
    if rule[RULE_GAP] > 0:
        while place > 0 and stretches[place - 1, LAST] >= oldest:
            place -= 1
        return place
    floor = LOWEST if rule[RULE_WITHIN] < 0 else (exact - rule[RULE_WITHIN]) // rule[RULE_HOP] * rule[RULE_HOP]
    while place > 0 and stretches[place - 1, FIRST] >= floor:
        if stretches[place - 1, FIRST] < exact:
            if rows >= rule[RULE_ROWS]:
                break
            rows += stretches[place - 1, ROWS]
        place -= 1
    return place


@njit(cache=True, nogil=True, error_model="numpy")
def fold(codes, n_keys, exact, times, counts, lanes, entries, ops, bags, rule, size):
    """The section of each key's events, of those that count: (data, offsets).

    Args:
        codes: which key each event has, int64, shape (events,).
        n_keys: how many keys there are.
        exact: per key, the instant (µs) from which on its state is exact, int64; see `exact_of`.
        times: the times of the events (µs), int64.
        counts: per event, whether it counts for the section, bool.
        lanes: the lanes of the events for the section, one event after another, int64, shape (events * lanes,).
        entries: their entries for it, int64, shape (events, lanes).
        ops: the lane groups; see the module.
        bags: the bags, none where the section has none; see the module.
        rule: the rule of the section; see the module.
        size: how many lanes a stretch has.

    Returns:
        The sections one after another, nothing for a key without an event, and where each begins and the last ends.
    """
    order, begins = by_key(codes, n_keys)
    out, offsets = np.empty(n_keys * HEAD + codes.size * (LANES + size), np.int64), np.zeros(n_keys + 1, np.int64)
    end = np.int64(0)
    for k in range(n_keys):
        mine = order[begins[k] : begins[k + 1]]
        if mine.size:
            mine = in_order(mine[counts[mine]], times)
            out, end = _fold_one(mine, exact[k], times, lanes, entries, ops, bags, rule, size, out, end)
        offsets[k + 1] = end
    return out[:end], offsets


@njit(cache=True, nogil=True, error_model="numpy")
def _fold_one(mine, exact, times, lanes, entries, ops, bags, rule, size, out, at):
    found, begins, n = np.empty((mine.size, LANES), np.int64), np.empty(mine.size + 1, np.int64), 0
    for i in range(mine.size):
        instant = times[mine[i]]
        if n == 0 or not _follows(found[n - 1, LAST], instant, exact, rule[RULE_GAP]):
            found[n, FIRST], found[n, ROWS], begins[n] = instant, 0, i
            n += 1
        found[n - 1, LAST] = instant
        found[n - 1, ROWS] += 1
    begins[n] = mine.size
    kept = _first_kept(found, n, exact, LOWEST, rule)
    out = with_room(out, at, HEAD + (n - kept) * (LANES + size))
    end = at + HEAD
    for r in range(kept, n):
        end = _put(found, r, size, ops, out, end)
        for i in range(begins[r], begins[r + 1]):
            combine(ops, out, end - size, lanes, mine[i] * size)
    for r in range(kept, n):
        for b in range(bags.shape[0]):
            out = with_room(out, end, (begins[r + 1] - begins[r]) * entries.shape[1] + GROWTH)
            end = gather(bags[b], entries, mine[begins[r] : begins[r + 1]], out, end)
    out[at + SIZE], out[at + COUNT] = end - at, n - kept
    return out, end


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _put(found, r, size, ops, out, end):
    """Write a stretch without any rows' lanes; returns where it ends."""
    out[end + FIRST], out[end + LAST], out[end + ROWS] = found[r, FIRST], found[r, LAST], found[r, ROWS]
    clear(ops, out, end + LANES)
    return end + LANES + size


@njit(cache=True, nogil=True, error_model="numpy")
def _bags_of(data, place, bags, size):
    """Where the bags of each stretch of a section begin."""
    count = data[place + COUNT] if place >= 0 else np.int64(0)
    begins = np.empty(count, np.int64)
    at = place + HEAD + count * (LANES + size)
    for r in range(count):
        begins[r] = at
        for b in range(bags.shape[0]):
            at += lanes_of(bags[b], data, at)
    return begins


@njit(cache=True, nogil=True, error_model="numpy")
def merge(data, left, right, number, exact, oldest, ops, bags, rule, size):
    """The pairwise merge of a section of states: (data, offsets), which are as those of `fold`.

    Args:
        data: the states of both sides, int64.
        left: where in `data` the states of one side begin, and where the last ends, int64, shape (keys + 1,).
        right: the same of the other side, for the same keys.
        number: which of the sections, counted from 0.
        exact: per key, the instant (µs) from which on the merged state is exact, int64.
        oldest: per key, an instant (µs), int64: a session that ends before it is let go of; the lowest int64 keeps all.
        ops: the lane groups; see the module.
        bags: the bags, none where the section has none; see the module.
        rule: the rule of the section; see the module.
        size: how many lanes a stretch has.
    """
    n = left.size - 1
    out, offsets = np.empty(left[n] - left[0] + right[n] - right[0] + n * HEAD, np.int64), np.zeros(n + 1, np.int64)
    work, other = np.empty(GROWTH, np.int64), np.empty(GROWTH, np.int64)
    end = np.int64(0)
    for k in range(n):
        if left[k + 1] > left[k] or right[k + 1] > right[k]:
            a = section_of(data, left[k], left[k + 1], number)
            b = section_of(data, right[k], right[k + 1], number)
            out, end, work, other = _merge_one(
                data, a, b, exact[k], oldest[k], ops, bags, rule, size, out, end, work, other
            )
        offsets[k + 1] = end
    return out[:end], offsets


@njit(cache=True, nogil=True, error_model="numpy")
def _merge_one(data, a, b, exact, oldest, ops, bags, rule, size, out, at, work, other):
    step = LANES + size
    places, held = np.array([a, b]), (_bags_of(data, a, bags, size), _bags_of(data, b, bags, size))
    total = held[0].size + held[1].size
    found, begins, n = np.empty((total, LANES), np.int64), np.empty(total + 1, np.int64), 0
    sources, of_bags = np.empty(total, np.int64), np.empty(total, np.int64)
    cursors = np.zeros(2, np.int64)
    for s in range(total):
        side = 0
        if cursors[0] == held[0].size:
            side = 1
        elif cursors[1] < held[1].size:
            ours, theirs = places[0] + HEAD + cursors[0] * step, places[1] + HEAD + cursors[1] * step
            side = 1 if data[theirs] < data[ours] else 0
        row = places[side] + HEAD + cursors[side] * step
        sources[s], of_bags[s] = row, held[side][cursors[side]]
        cursors[side] += 1
        if n == 0 or not _follows(found[n - 1, LAST], data[row + FIRST], exact, rule[RULE_GAP]):
            found[n, FIRST], found[n, LAST], found[n, ROWS], begins[n] = data[row + FIRST], data[row + LAST], 0, s
            n += 1
        found[n - 1, LAST] = max(found[n - 1, LAST], data[row + LAST])
        found[n - 1, ROWS] += data[row + ROWS]
    begins[n] = total
    kept = _first_kept(found, n, exact, oldest, rule)
    out = with_room(out, at, HEAD + (n - kept) * step)
    end = at + HEAD
    for r in range(kept, n):
        end = _put(found, r, size, ops, out, end)
        for s in range(begins[r], begins[r + 1]):
            combine(ops, out, end - size, data, sources[s] + LANES)
    for r in range(kept, n):
        mine = of_bags[begins[r] : begins[r + 1]]
        out, end, work, other = joined(data, mine, mine.size, bags, out, end, work, other)
    out[at + SIZE], out[at + COUNT] = end - at, n - kept
    return out, end, work, other


@njit(cache=True, nogil=True, error_model="numpy")
def appended(data, offsets, more, begins, before, closing):
    """States with one more section behind each that has any event: (data, offsets).

    Args:
        data: the states, one after another, int64.
        offsets: where each begins in `data`, and where the last ends, int64, shape (states + 1,).
        more: the sections, one for each state, as `fold` or `merge` gives them.
        begins: where each begins in `more`, and where the last ends, int64, shape (states + 1,).
        before: per state, how many lanes the sections take that it has already, int64.
        closing: whether it is the last section, so that the lane that ends them all follows.
    """
    n = offsets.size - 1
    out, found = np.empty(data.size + more.size + n, np.int64), np.zeros(n + 1, np.int64)
    end = np.int64(0)
    for k in range(n):
        if offsets[k + 1] > offsets[k]:
            copy(data, offsets[k], out, end, offsets[k + 1] - offsets[k])
            end += offsets[k + 1] - offsets[k]
            copy(more, begins[k], out, end, begins[k + 1] - begins[k])
            end += begins[k + 1] - begins[k]
            if closing:
                out[end] = before[k] + begins[k + 1] - begins[k] + 1
                end += 1
        found[k + 1] = end
    return out[:end], found


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _inside(data, place, at, window, more, step):
    """The stretches that a window holds at an instant: from the first returned on, up to but not the second.

    With `more` one more row happens at the instant.
    """
    beyond = data[place + COUNT] if place >= 0 else np.int64(0)
    while beyond > 0 and data[place + HEAD + (beyond - 1) * step] >= at:
        beyond -= 1
    begin, wanted, gap = beyond, window[spans.ROWS], window[spans.GAP]
    if gap > 0:
        newest = at
        while begin > 0 and newest - data[place + HEAD + (begin - 1) * step + LAST] <= gap:
            begin -= 1
            newest = data[place + HEAD + begin * step]
        return begin, beyond
    width, hop = window[spans.WIDTH], window[spans.HOP]
    floor = LOWEST if width < 0 else (at - width) // hop * hop
    rows = np.int64(more)
    while begin > 0 and rows < wanted and data[place + HEAD + (begin - 1) * step] >= floor:
        begin -= 1
        rows += data[place + HEAD + begin * step + ROWS]
    return begin, beyond


@njit(cache=True, nogil=True, error_model="numpy")
def value(data, offsets, at, number, requests, added, ops, windows, features, size, numbers, texts):
    """Write what lanes of a section say at instants.

    Args:
        data: the states, one after another, int64.
        offsets: where each begins in `data`, and where the last ends, int64, shape (states + 1,).
        at: the instant of each (µs), int64, shape (states,).
        number: which of the sections, counted from 0.
        requests: the lanes of one more row of each state at its instant, one after another, int64; none at all where
            none is added.
        added: per state, whether it has that one more row, bool; empty where none is added.
        ops: the lane groups; see the module.
        windows: the section's windows; see the module.
        features: its features that are made of lanes; see the module.
        size: how many lanes a stretch has.
        numbers: the output's numbers, float64, a row for each state, NaN for null.
        texts: the output's lanes, int64, a row for each state.
    """
    acc, step = np.empty(size + SPACE, np.int64), LANES + size
    for i in range(at.size):
        place = section_of(data, offsets[i], offsets[i + 1], number)
        more, feature = added.size > 0 and added[i], START
        begin, beyond = np.int64(0), np.int64(-1)
        for w in range(windows.shape[0]):
            since, until = _inside(data, place, at[i], windows[w], more, step)
            if until != beyond or since > begin:
                clear(ops, acc, START)
                begin, beyond = until, until
                if more:
                    combine(ops, acc, START, requests, i * size)
            while begin > since:
                begin -= 1
                combine(ops, acc, START, data, place + HEAD + begin * step + LANES)
            last = feature
            while last < features.shape[0] and features[last, 1] == w:
                last += 1
            emit(features, feature, last, acc, START, at[i], numbers, texts, i)
            feature = last


@njit(cache=True, nogil=True, error_model="numpy")
def value_of_bags(
    data, offsets, at, number, requests, added, probes, bags, windows, features, size, numbers, texts, heap
):
    """Write what bags of a section say at instants; returns the heap with the lists.

    Args:
        data: the states, one after another, int64.
        offsets: where each begins in `data`, and where the last ends, int64, shape (states + 1,).
        at: the instant of each (µs), int64, shape (states,).
        number: which of the sections, counted from 0.
        requests: the entries of one more row of each state at its instant, int64, a row each; none at all where none is
            added.
        added: per state, whether it has that one more row, bool; empty where none is added.
        probes: what requests look up, a row for each state, as `Probes.lanes`.
        bags: the bags; see the module.
        windows: the section's windows; see the module.
        features: its features that are made of entries; see the module.
        size: how many lanes a stretch has.
        numbers: the output's numbers, float64, a row for each state, NaN for null.
        texts: the output's lanes, int64, a row for each state; of a list, a reference to it.
        heap: the lists that there are already; see `listed`.
    """
    work, other, step = np.empty(GROWTH, np.int64), np.empty(GROWTH, np.int64), LANES + size
    for i in range(at.size):
        place = section_of(data, offsets[i], offsets[i + 1], number)
        begins, more = _bags_of(data, place, bags, size), added.size > 0 and added[i]
        begin, beyond = np.int64(0), np.int64(-1)
        room = (data[place + SIZE] if place >= 0 else START) + requests.shape[1] + 2 * GROWTH
        work, other = with_room(work, START, room), with_room(other, START, room)
        for f in range(features.shape[0]):
            bag = bags[features[f, 0]]
            since, until = _inside(data, place, at[i], windows[features[f, 1]], more, step)
            if until != beyond or since > begin or features[f, 0] != features[max(f - 1, 0), 0]:
                begin, beyond = until, until
                work[0] = 0
                if more and requests[i, bag[INPUT]]:
                    work[0] = 4
                    copy(requests[i], bag[INPUT] + 1, work, 1, bag[WIDTH])
            while begin > since:
                begin -= 1
                source = begins[begin]
                for b in range(features[f, 0]):
                    source += lanes_of(bags[b], data, source)
                union_into(bag, work, data, source, other)
            held_to_rule(bag, work)
            heap = emit_entries(bag, features[f], work, at[i], probes, numbers, texts, i, heap)
    return heap
