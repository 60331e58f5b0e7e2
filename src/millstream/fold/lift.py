"""Lift: one event as the lanes of an instant, column by column, before any merging."""

import numpy as np
from numba import njit

from millstream.fold.fixed_point import high_product, sortable, to_fixed
from millstream.fold.lanes import EMPTY_GREATEST

_U0, _U1 = np.uint64(0), np.uint64(1)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def lift_count(flags, out, offset):
    """Each event counts one where its flag is set."""
    for i in range(flags.size):
        out[i, offset] = 1 if flags[i] else 0


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def lift_sum(numbers, out, offset):
    """Each event's number as three limbs of a fixed-point sum (NaN adds nothing)."""
    for i in range(numbers.size):
        out[i, offset] = out[i, offset + 1] = out[i, offset + 2] = 0
        number = numbers[i]
        if np.isnan(number):
            continue
        low, high = to_fixed(number)
        if number < 0:
            low, high = ~low + _U1, ~high + (_U1 if low == _U0 else _U0)
            out[i, offset + 2] = -1 if (low != _U0 or high != _U0) else 0
        out[i, offset], out[i, offset + 1] = np.int64(low), np.int64(high)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def lift_squares(numbers, out, offset):
    """The exact square of each event's fixed-point number, as four limbs."""
    for i in range(numbers.size):
        for j in range(4):
            out[i, offset + j] = 0
        number = numbers[i]
        if np.isnan(number):
            continue
        low, high = to_fixed(number)
        cross, cross_high = low * high, high_product(low, high)
        doubled, doubled_high = cross << _U1, (cross_high << _U1) | (cross >> np.uint64(63))
        second = high_product(low, low) + doubled
        carry = _U1 if second < doubled else _U0
        third = high * high + doubled_high
        carry_high = _U1 if third < doubled_high else _U0
        result = third + carry
        carry_high += _U1 if result < third else _U0
        out[i, offset], out[i, offset + 1] = np.int64(low * low), np.int64(second)
        out[i, offset + 2], out[i, offset + 3] = np.int64(result), np.int64(high_product(high, high) + carry_high)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def lift_extreme(numbers, empty, out, offset):
    """Each event's number in sortable form (NaN stays `empty`)."""
    for i in range(numbers.size):
        number = numbers[i]
        out[i, offset] = empty if np.isnan(number) else sortable(number)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def lift_dated(times, numbers, empty, out, offset):
    """Each event's (time, number), both `empty` for NaN."""
    for i in range(numbers.size):
        number = numbers[i]
        missing = np.isnan(number)
        out[i, offset] = empty if missing else times[i]
        out[i, offset + 1] = empty if missing else sortable(number)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def lift_time(times, flags, out, offset):
    """Each event's time where its flag is set."""
    for i in range(flags.size):
        out[i, offset] = times[i] if flags[i] else EMPTY_GREATEST


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def lift_text(times, valid, starts, data, empty, width, out, offset):
    """Each event's (time, text): UTF-8 bytes packed big-endian, so that lanes compare as the bytes do, length last."""
    for i in range(valid.size):
        if not valid[i]:
            for j in range(width):
                out[i, offset + j] = empty
            continue
        out[i, offset] = times[i]
        size = starts[i + 1] - starts[i]
        for j in range(width - 1):
            packed = _U0
            for k in range(8):
                place = j * 8 + k
                byte = np.uint64(data[starts[i] + place]) if place < size else _U0
                if place == (width - 1) * 8 - 1:
                    byte = np.uint64(size)
                packed = (packed << np.uint64(8)) | byte
            out[i, offset + 1 + j] = np.int64(packed ^ np.uint64(1 << 63))
