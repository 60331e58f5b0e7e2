"""Kernels of what decays: events to what they add, and tiles of a half-life, added from the oldest on, at a read.

A total over tiles is kept as of the end of one half-life; going on to a later one halves it, which is exact.
"""

import math

import numpy as np
from numba import njit

from millstream.fold.fixed_point import multiply_add, sum_of
from millstream.fold.kernels import lanes_of_events
from millstream.fold.lanes import ADD, combine_one
from millstream.fold.layout import HEADER
from millstream.fold.spans import LOWEST

#: How many half-lives back a window begins: that of an instant and these are its tiles.
_BACK = np.int64(40)
#: Limbs of a sum, and places for the sums of tiles: more than a window has, and a power of two.
_LIMBS, _PLACES = 3, 64

_U0, _U1, _WORD, _HALF = np.uint64(0), np.uint64(1), np.uint64(64), np.uint64(1 << 63)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def lift_decayed(numbers, high, low, out, offset):
    """Each number times its weight, rounded once to 2**-64, as the three limbs of a fixed-point sum.

    Args:
        numbers: each event's number, float64, within +-2**50; NaN adds nothing.
        high: the upper half of the 128 bits after the point that its weight has, uint64; see `decay_layout.halvings`.
        low: the lower half, uint64.
        out: the lanes of the events, int64, shape (events, lanes), changed in place.
        offset: the lane of `out` at which the limbs begin.
    """
    for i in range(numbers.size):
        out[i, offset] = out[i, offset + 1] = out[i, offset + 2] = 0
        number = numbers[i]
        if np.isnan(number):
            continue
        fraction, exponent = math.frexp(abs(number))
        if exponent < -74:
            continue
        mantissa = np.uint64(fraction * 2.0**53)
        first, carry = multiply_add(mantissa, low[i], _U0, _U0)
        second, third = multiply_add(mantissa, high[i], _U0, carry)
        lower, upper = _shifted(first, second, third, 117 - exponent)
        if number < 0:
            lower, upper = ~lower + _U1, ~upper + (_U1 if lower == _U0 else _U0)
            out[i, offset + 2] = -1 if (lower != _U0 or upper != _U0) else 0
        out[i, offset], out[i, offset + 1] = np.int64(lower), np.int64(upper)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _shifted(first, second, third, shift):
    """Three limbs shifted down by 64 to 191 bits, ties to even, as (low, high)."""
    sticky = _U0
    if shift >= 128:
        sticky, first, second, third = first, second, third, _U0
        shift -= 64
    rest = np.uint64(shift - 64)
    if rest > _U0:
        sticky |= first << (_WORD - rest)
        first = (first >> rest) | (second << (_WORD - rest))
        second = (second >> rest) | (third << (_WORD - rest))
        third >>= rest
    if first > _HALF or (first == _HALF and (sticky != _U0 or (second & _U1) == _U1)):
        second += _U1
        if second == _U0:
            third += _U1
    return second, third


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _plus(total, held, at):
    """A total and the sum of the next tile, which is made empty."""
    total += sum_of(held[at], held[at + 1], held[at + 2])
    held[at] = held[at + 1] = held[at + 2] = 0
    return total


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _halved(total, times):
    return total if times == 0 or total == 0.0 else math.ldexp(total, -times)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _of_state(data, place, at, requests, request, step, offset, half_life, held):
    """The total of one state (-1: empty) as of the end of the half-life that an instant lies in."""
    total, tile, newest = 0.0, LOWEST, at // half_life
    rows = data[place + 2] + data[place + 3] if place >= 0 else 0
    for i in range(rows):
        row = place + HEADER + i * step
        mine = data[row] // half_life
        if data[row] >= at or mine < newest - _BACK:
            continue
        if mine != tile:
            total = _plus(total, held, 0)
            total, tile = _halved(total, mine - tile if tile != LOWEST else 0), mine
        combine_one(ADD, _LIMBS, held, 0, data, row + 1 + offset)
    if tile != newest:
        total = _plus(total, held, 0)
        total = _halved(total, newest - tile if tile != LOWEST else 0)
    if request >= 0:
        combine_one(ADD, _LIMBS, held, 0, requests, request + offset)
    return _plus(total, held, 0)


@njit(cache=True, nogil=True, error_model="numpy")
def value(data, offsets, at, requests, size, totals):
    """The totals of states at instants, each as of the end of the half-life that its instant lies in.

    Args:
        data: the states, one after another, int64.
        offsets: where each begins in `data`, and where the last ends, int64, shape (states + 1,).
        at: the instant of each (µs), int64, shape (states,).
        requests: the lanes of one more event at each instant, one after another, int64, or none at all.
        size: how many lanes a row of a state, or an event, has.
        totals: for each total the place of its lanes and its half-life (µs), int64; see `DecayLayout`.

    Returns:
        The totals, float64, shape (totals, states).
    """
    found, held = np.empty((totals.shape[0], at.size)), np.zeros(_LIMBS, np.int64)
    for i in range(at.size):
        place = offsets[i] if offsets[i + 1] > offsets[i] else np.int64(-1)
        request = np.int64(i * size if requests.size > 0 else -1)
        for j in range(totals.shape[0]):
            offset, half_life = totals[j, 0], totals[j, 1]
            found[j, i] = _of_state(data, place, at[i], requests, request, 1 + size, offset, half_life, held)
    return found


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _older(held, oldest, newest):
    """The total of the tiles from `oldest` on before `newest`, as of the end of the latter."""
    total = 0.0
    for tile in range(oldest, newest):
        at = (tile % _PLACES) * _LIMBS
        total = _halved(total + sum_of(held[at], held[at + 1], held[at + 2]), 1)
    return total


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _moving(times, available, known, lanes, size, by, at, requests, offset, half_life, held, found):
    """One key whose queries ascend in ordinal and instant: its tiles fill up and are left behind.

    Events are numbered by their times; `known` lists them as they become available, and nothing where that is the same.
    The total of what is older than the tile of the instant changes only with that tile, or when an event comes late.
    """
    held[:] = 0
    high, new, older, oldest, before = 0, 0, 0.0, LOWEST, LOWEST
    for q in range(at.size):
        newest = at[q] // half_life
        first = newest - _BACK
        changed = newest != before
        if oldest != LOWEST:
            for tile in range(oldest, min(first, oldest + _PLACES)):
                place = (tile % _PLACES) * _LIMBS
                held[place] = held[place + 1] = held[place + 2] = 0
        oldest, before, passed = first, newest, high
        while True:
            if high < times.size and times[high] < at[q] and (known.size > 0 or available[high] <= by[q]):
                event = high
                high += 1
                enters = available[event] <= by[q]
            elif new < known.size and available[known[new]] <= by[q]:
                event = known[new]
                new += 1
                enters = event < passed
            else:
                break
            tile = times[event] // half_life
            if enters and tile >= first:
                combine_one(ADD, _LIMBS, held, (tile % _PLACES) * _LIMBS, lanes, event * size + offset)
                changed = changed or tile < newest
        if changed:
            older = _older(held, first, newest)
        found[q] = _with_newest(older, held, newest, requests, q * size + offset)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _with_newest(older, held, newest, requests, request):
    """What older tiles come to, and the newest one with the request that there may be."""
    place, spare = (newest % _PLACES) * _LIMBS, _PLACES * _LIMBS
    for j in range(_LIMBS):
        held[spare + j] = held[place + j]
    if requests.size > 0:
        combine_one(ADD, _LIMBS, held, spare, requests, request)
    return _plus(older, held, spare)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _by_rule(times, available, lanes, size, by, at, requests, offset, half_life, held, found):
    """One key, every event of which is looked at for every query."""
    for q in range(at.size):
        held[:] = 0
        newest = at[q] // half_life
        first = newest - _BACK
        for event in range(times.size):
            tile = times[event] // half_life
            if available[event] <= by[q] and times[event] < at[q] and tile >= first:
                combine_one(ADD, _LIMBS, held, (tile % _PLACES) * _LIMBS, lanes, event * size + offset)
        found[q] = _with_newest(_older(held, first, newest), held, newest, requests, q * size + offset)


@njit(cache=True, nogil=True, error_model="numpy")
def as_of(lines, lanes, size, requests, totals, by_rule, first, last, found):
    """Write the totals of (key, instant) rows, as `value` gives those of states, for a stretch of keys.

    Args:
        lines: the events and the queries of each key, laid out; see `timelines`.
        lanes: the lanes of the events, one event after another, int64, shape (events * lanes,).
        size: how many lanes an event has.
        requests: the lanes of one more event of each query, one after another, int64, or none at all.
        totals: for each total the place of its lanes and its half-life (µs), int64; see `DecayLayout`.
        by_rule: whether every event of a key is looked at for every query in any case; else its tiles fill up, unless a
            later ordinal asks for an earlier instant.
        first: the first key.
        last: the key before which to stop.
        found: where to write the totals, float64, shape (totals, queries).
    """
    held = np.zeros((_PLACES + 1) * _LIMBS, np.int64)
    for k in range(first, last):
        begin, end, row, stop = lines.begins[k], lines.begins[k + 1], lines.row_begins[k], lines.row_begins[k + 1]
        if row == stop:
            continue
        asked, by, at = lines.rows[row:stop], lines.ordinal[row:stop], lines.at[row:stop]
        passed, open_from = lines.times[begin:end], lines.available[begin:end]
        known = lines.known[begin : end if lines.late[k] else begin]
        own, added = lanes_of_events(lanes, lines.events[begin:end], size), requests
        if requests.size > 0:
            added = lanes_of_events(requests, asked, size)
        one = np.empty(asked.size)
        for j in range(totals.shape[0]):
            offset, half_life = totals[j, 0], totals[j, 1]
            if by_rule or lines.turned[k]:
                _by_rule(passed, open_from, own, size, by, at, added, offset, half_life, held, one)
            else:
                _moving(passed, open_from, known, own, size, by, at, added, offset, half_life, held, one)
            for q in range(asked.size):
                found[j, asked[q]] = one[q]
