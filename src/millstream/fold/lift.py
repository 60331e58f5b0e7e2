"""Lift: one event as the lanes of an instant, before any merging; of many events column by column.

What the kernels here take: `numbers` are the values of events, float64, within +-2**50, NaN for null; `times` are in
µs, int64; `flags` are booleans; each has the shape (events,). `out` are the lanes of the events, int64, shape (events,
lanes), in which a kernel writes one lane group, from the lane `offset` on. `empty` is what stands for no value in a
lane of that group: `EMPTY_LEAST` or `EMPTY_GREATEST` of `lanes`, as it merges.
"""

import math

import numpy as np
from numba import njit

from millstream.fold.fixed_point import high_product, multiply_add, sortable, to_fixed

_U0, _U1 = np.uint64(0), np.uint64(1)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def lift_count(flags, out, offset):
    """Each event counts one where its flag is set.

    Args:
        flags: which events count; see the module.
        out: the lanes to write into; see the module.
        offset: the lane of the count.
    """
    for i in range(flags.size):
        out[i, offset] = 1 if flags[i] else 0


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def lift_sum(numbers, out, offset):
    """Each event's number as three limbs of a fixed-point sum.

    Args:
        numbers: the numbers; NaN adds nothing.
        out: the lanes to write into; see the module.
        offset: the lane of the lowest limb.
    """
    for i in range(numbers.size):
        put_fixed(numbers[i], out, i, offset)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def put_fixed(number, out, i, offset):
    """One number as three limbs of a fixed-point sum.

    Args:
        number: the number, within +-2**50; NaN adds nothing.
        out: the lanes to write into; see the module.
        i: the row of `out`.
        offset: the lane of the lowest limb.
    """
    out[i, offset] = out[i, offset + 1] = out[i, offset + 2] = 0
    if np.isnan(number):
        return
    low, high = to_fixed(number)
    if number < 0:
        low, high = ~low + _U1, ~high + (_U1 if low == _U0 else _U0)
        out[i, offset + 2] = -1 if (low != _U0 or high != _U0) else 0
    out[i, offset], out[i, offset + 1] = np.int64(low), np.int64(high)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def lift_vectors(elements, starts, flags, out, offset, dim):
    """Each event's vector as a count and three limbs for each element, which are sums of 2**128 more than there is.

    So that none of them is below 0: what merges adds all lanes as the limbs of one number, and no element borrows of the
    next.

    Args:
        elements: the elements of all vectors, one vector after another, float64.
        starts: where each event's begin in `elements`, int64, shape (events,).
        flags: which events have a vector; the others add nothing.
        out: the lanes to write into; see the module.
        offset: the lane of the count.
        dim: how many elements a vector has.
    """
    for i in range(flags.size):
        out[i, offset] = 1 if flags[i] else 0
        for j in range(dim):
            place = offset + 1 + 3 * j
            put_fixed(elements[starts[i] + j] if flags[i] else np.nan, out, i, place)
            if flags[i]:
                out[i, place + 2] += 1


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def lift_squares(numbers, out, offset):
    """The exact square of each event's fixed-point number, as four limbs.

    Args:
        numbers: the numbers; NaN adds nothing.
        out: the lanes to write into; see the module.
        offset: the lane of the lowest limb.
    """
    for i in range(numbers.size):
        put_square(numbers[i], out, i, offset)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def put_square(number, out, i, offset):
    """The exact square of one fixed-point number, as four limbs.

    Args:
        number: the number, within +-2**50; NaN adds nothing.
        out: the lanes to write into; see the module.
        i: the row of `out`.
        offset: the lane of the lowest limb.
    """
    for j in range(4):
        out[i, offset + j] = 0
    if np.isnan(number):
        return
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
    """Each event's number in sortable form.

    Args:
        numbers: the numbers, of any size; NaN stays `empty`.
        empty: what stands for no value; see the module.
        out: the lanes to write into; see the module.
        offset: the lane of the number.
    """
    for i in range(numbers.size):
        number = numbers[i]
        out[i, offset] = empty if np.isnan(number) else sortable(number)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def lift_dated(times, numbers, empty, out, offset):
    """Each event's (time, number), both `empty` where it has no number.

    Args:
        times: the times of the events; see the module.
        numbers: the numbers, of any size; NaN for none.
        empty: what stands for no value; see the module.
        out: the lanes to write into; see the module.
        offset: the lane of the time.
    """
    for i in range(numbers.size):
        number = numbers[i]
        missing = np.isnan(number)
        out[i, offset] = empty if missing else times[i]
        out[i, offset + 1] = empty if missing else sortable(number)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def lift_time(times, flags, empty, out, offset):
    """Each event's time where its flag is set, else `empty`.

    Args:
        times: the times of the events; see the module.
        flags: which events count.
        empty: what stands for no value; see the module.
        out: the lanes to write into; see the module.
        offset: the lane of the time.
    """
    for i in range(flags.size):
        out[i, offset] = times[i] if flags[i] else empty


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def lift_logarithm(numbers, out, offset):
    """The natural logarithm of each event's number as three limbs of a fixed-point sum.

    Args:
        numbers: the numbers, above 0, of any size; NaN adds nothing.
        out: the lanes to write into; see the module.
        offset: the lane of the lowest limb.
    """
    for i in range(numbers.size):
        put_fixed(math.log(numbers[i]), out, i, offset)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def lift_product(numbers, others, out, offset):
    """The exact product of each event's two fixed-point numbers, as four limbs in two's complement.

    Args:
        numbers: the one number of each event; see the module.
        others: the other; where either is NaN, nothing is added.
        out: the lanes to write into; see the module.
        offset: the lane of the lowest limb.
    """
    for i in range(numbers.size):
        put_product(numbers[i], others[i], out, i, offset)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def put_product(number, other, out, i, offset):
    """The exact product of two fixed-point numbers, as four limbs in two's complement.

    Args:
        number: the one number, within +-2**50.
        other: the other; where either is NaN, nothing is added.
        out: the lanes to write into; see the module.
        i: the row of `out`.
        offset: the lane of the lowest limb.
    """
    for j in range(4):
        out[i, offset + j] = 0
    if np.isnan(number) or np.isnan(other):
        return
    low, high = to_fixed(other)
    out[i, offset], out[i, offset + 1] = np.int64(low), np.int64(high)
    low, high = to_fixed(number)
    _multiply(out, i, offset, np.int64(4), low, high)
    if (number < 0) != (other < 0):
        _negate(out, i, offset, 4)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def lift_power(numbers, power, width, out, offset):
    """The exact third or fourth power of each event's fixed-point number.

    Args:
        numbers: the numbers; NaN adds nothing.
        power: 3 or 4.
        width: how many limbs it has: six for the third power, eight for the fourth.
        out: the lanes to write into; see the module.
        offset: the lane of the lowest limb.
    """
    for i in range(numbers.size):
        put_power(numbers[i], power, width, out, i, offset)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def put_power(number, power, width, out, i, offset):
    """The exact third or fourth power of one fixed-point number.

    Args:
        number: the number, within +-2**50; NaN adds nothing.
        power: 3 or 4.
        width: how many limbs it has: six for the third power, eight for the fourth.
        out: the lanes to write into; see the module.
        i: the row of `out`.
        offset: the lane of the lowest limb.
    """
    for j in range(width):
        out[i, offset + j] = 0
    if np.isnan(number):
        return
    low, high = to_fixed(number)
    out[i, offset], out[i, offset + 1] = np.int64(low), np.int64(high)
    for _ in range(power - 1):
        _multiply(out, i, offset, width, low, high)
    if number < 0 and power == 3:
        _negate(out, i, offset, width)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _multiply(out, i, offset, width, low, high):
    """Multiply the magnitude of `width` limbs by one of two, in place."""
    below, carry, carry_high = _U0, _U0, _U0
    for j in range(width):
        limb = np.uint64(out[i, offset + j])
        upper, carry_high = multiply_add(below, high, carry_high, _U0)
        result, carry = multiply_add(limb, low, upper, carry)
        out[i, offset + j] = np.int64(result)
        below = limb


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _negate(out, i, offset, width):
    carry = _U1
    for j in range(width):
        limb = ~np.uint64(out[i, offset + j]) + carry
        carry = _U1 if carry == _U1 and limb == _U0 else _U0
        out[i, offset + j] = np.int64(limb)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def lift_text(times, valid, starts, data, empty, width, out, offset):
    """Each event's (time, text): UTF-8 bytes packed big-endian, so that lanes compare as the bytes do, length last.

    Args:
        times: what stands in the lane before the text, int64: the times of the events, or 0.
        valid: which events have a text, bool; the lanes of the others are `empty`.
        starts: where each text begins in `data`, and where the last ends, int64, shape (events + 1,).
        data: the bytes of all texts, uint8.
        empty: what stands in each of their lanes.
        width: how many lanes are written, the one before the text included.
        out: the lanes to write into; see the module.
        offset: the lane before the text.
    """
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
                    byte = np.uint64(size & 255)
                elif place == (width - 1) * 8 - 2 and size > 255:
                    byte = np.uint64(size >> 8)
                packed = (packed << np.uint64(8)) | byte
            out[i, offset + 1 + j] = np.int64(packed ^ np.uint64(1 << 63))
