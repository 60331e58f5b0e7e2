"""Lanes: what an aggregate remembers, as int64 numbers that merge in any order.

Three merges are enough for every aggregate of the package. `ADD` adds little-endian 64-bit limbs with carry, so a
sum of any width is exact. `LEAST` and `GREATEST` keep the smaller or larger of two tuples compared lane by lane, which
gives min and max (one lane) and first and last (time, then value). All three are associative and commutative, and an
empty lane group is their identity. A new aggregate is a new list of lanes and a formula; no kernel changes.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

ADD, LEAST, GREATEST = 0, 1, 2

#: Sums keep multiples of 2**-64 (about 5.4e-20): a float64 of magnitude 2**-12 or more is kept without any rounding.
FRACTION_BITS = 64
#: Values of sums and moments lie strictly within +-2**50 (about 1.1e15); what lies outside is a dead letter.
LIMIT = float(2**50)

EMPTY_LEAST = np.int64(2**63 - 1)
EMPTY_GREATEST = np.int64(-(2**63))

COUNT, SUM, MEAN, VAR, STD, NUMBER, TEXT, SINCE = range(8)

_U0, _U1 = np.uint64(0), np.uint64(1)
_SIGN = np.int64(0x7FFFFFFFFFFFFFFF)


@intrinsic
def _high_product(context, left, right):
    """The upper 64 bits of the 128-bit product of two unsigned numbers."""
    signature = types.uint64(types.uint64, types.uint64)

    def generate(context, builder, signature, arguments):
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(arguments[0], wide), builder.zext(arguments[1], wide))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return signature, generate


@intrinsic
def _bits_of(context, number):
    """The bit pattern of a float64."""
    signature = types.int64(types.float64)

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(64))

    return signature, generate


@intrinsic
def _float_of(context, bits):
    """The float64 of a bit pattern."""
    signature = types.float64(types.int64)

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.DoubleType())

    return signature, generate


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def sortable(number):
    """A float64 as an int64 of the same order (-0.0 becomes 0.0)."""
    bits = _bits_of(number + 0.0)
    return bits if bits >= 0 else bits ^ _SIGN


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def from_sortable(lane):
    """The float64 that `sortable` was given."""
    return _float_of(lane if lane >= 0 else lane ^ _SIGN)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def clear(ops, lanes, at):
    """Make the lanes from `at` empty."""
    for i in range(ops.shape[0]):
        op, offset, width = ops[i, 0], at + ops[i, 1], ops[i, 2]
        fill = np.int64(0)
        if op == LEAST:
            fill = EMPTY_LEAST
        elif op == GREATEST:
            fill = EMPTY_GREATEST
        for j in range(width):
            lanes[offset + j] = fill


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _add(into, at, lanes, start, width):
    if width == 1:
        into[at] += lanes[start]
        return
    carry = _U0
    for j in range(width):
        left, right = np.uint64(into[at + j]), np.uint64(lanes[start + j])
        total = left + right
        over = total < left
        result = total + carry
        carry = _U1 if over or result < total else _U0
        into[at + j] = np.int64(result)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _subtract(into, at, lanes, start, width):
    if width == 1:
        into[at] -= lanes[start]
        return
    borrow = _U0
    for j in range(width):
        left, right = np.uint64(into[at + j]), np.uint64(lanes[start + j])
        total = left - right
        under = left < right
        result = total - borrow
        borrow = _U1 if under or total < borrow else _U0
        into[at + j] = np.int64(result)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _compare(left, at, right, start, width):
    for j in range(width):
        a, b = left[at + j], right[start + j]
        if a != b:
            return -1 if a < b else 1
    return 0


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def combine_one(op, width, into, at, lanes, start):
    """Merge one lane group into another, in place."""
    if op == ADD:
        _add(into, at, lanes, start, width)
        return
    order = _compare(lanes, start, into, at, width)
    if (op == LEAST and order < 0) or (op == GREATEST and order > 0):
        for j in range(width):
            into[at + j] = lanes[start + j]


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def combine(ops, into, at, lanes, start):
    """Merge a row of lanes into another, in place."""
    for i in range(ops.shape[0]):
        combine_one(ops[i, 0], ops[i, 2], into, at + ops[i, 1], lanes, start + ops[i, 1])


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def remove_one(width, into, at, lanes, start):
    """Take an added lane group out again (only `ADD` can)."""
    _subtract(into, at, lanes, start, width)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def beats(op, width, left, at, right, start):
    """Whether the left lane group would stay when the right one is merged with it and differs."""
    order = _compare(left, at, right, start, width)
    return order < 0 if op == LEAST else order > 0


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _fixed(number):
    """The magnitude of round(number * 2**64), ties to even, as (low, high) limbs."""
    bits = np.uint64(_bits_of(number))
    exponent = np.int64((bits >> np.uint64(52)) & np.uint64(0x7FF))
    mantissa = bits & np.uint64(0xFFFFFFFFFFFFF)
    if exponent == 0:
        return _U0, _U0
    mantissa |= np.uint64(1 << 52)
    shift = exponent - 1075 + FRACTION_BITS
    if shift >= 0:
        up = np.uint64(shift)
        return mantissa << up, _U0 if shift == 0 else mantissa >> np.uint64(64 - shift)
    if shift < -54:
        return _U0, _U0
    down = np.uint64(-shift)
    whole, rest, half = mantissa >> down, mantissa & ((_U1 << down) - _U1), _U1 << (down - _U1)
    if rest > half or (rest == half and (whole & _U1) == _U1):
        whole += _U1
    return whole, _U0


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
        low, high = _fixed(number)
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
        low, high = _fixed(number)
        cross, cross_high = low * high, _high_product(low, high)
        doubled, doubled_high = cross << _U1, (cross_high << _U1) | (cross >> np.uint64(63))
        second = _high_product(low, low) + doubled
        carry = _U1 if second < doubled else _U0
        third = high * high + doubled_high
        carry_high = _U1 if third < doubled_high else _U0
        result = third + carry
        carry_high += _U1 if result < third else _U0
        out[i, offset], out[i, offset + 1] = np.int64(low * low), np.int64(second)
        out[i, offset + 2], out[i, offset + 3] = np.int64(result), np.int64(_high_product(high, high) + carry_high)


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


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _rounded(head, below, sticky, exponent):
    """`head` (not 0) followed by the bits of `below` and of `sticky`, as the nearest float64, times 2**exponent."""
    shift = 0
    while head < np.uint64(1 << 63):
        head <<= _U1
        shift += 1
    if shift > 0:
        head |= below >> np.uint64(64 - shift)
        below <<= np.uint64(shift)
    if (below | sticky) != _U0:
        head |= _U1
    return np.ldexp(np.float64(head), exponent - shift)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _magnitude(low, middle, high):
    """The magnitude of a three-limb number as unsigned limbs."""
    a, b, c = np.uint64(low), np.uint64(middle), np.uint64(high)
    if high < 0:
        a, b, c = ~a, ~b, ~c
        a += _U1
        if a == _U0:
            b += _U1
            if b == _U0:
                c += _U1
    return a, b, c


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def sum_of(low, middle, high):
    """A fixed-point sum of three limbs as the nearest float64."""
    a, b, c = _magnitude(low, middle, high)
    exponent = 128 - FRACTION_BITS
    for _ in range(2):
        if c == _U0:
            c, b, a = b, a, _U0
            exponent -= 64
    if c == _U0:
        return 0.0
    result = _rounded(c, b, a, exponent)
    return -result if high < 0 else result


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _divided(limb, rest, divisor):
    """(rest * 2**64 + limb) / divisor as (quotient, next rest), for a rest below a divisor below 2**32."""
    half = np.uint64(32)
    upper = (rest << half) | (limb >> half)
    lower = ((upper % divisor) << half) | (limb & np.uint64(0xFFFFFFFF))
    return ((upper // divisor) << half) | (lower // divisor), lower % divisor


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def mean_of(count, low, middle, high):
    """A fixed-point sum divided by a count, rounded once (beyond 2**32 events the sum is rounded before it)."""
    if count >= 1 << 32:
        return sum_of(low, middle, high) / np.float64(count)
    a, b, c = _magnitude(low, middle, high)
    n = np.uint64(count)
    q3, rest = _divided(c, _U0, n)
    q2, rest = _divided(b, rest, n)
    q1, rest = _divided(a, rest, n)
    q0, rest = _divided(_U0, rest, n)
    exponent = 192 - 2 * FRACTION_BITS
    sticky = rest
    for _ in range(3):
        if q3 == _U0:
            q3, q2, q1, q0 = q2, q1, q0, _U0
            exponent -= 64
    if q3 == _U0:
        return 0.0
    result = _rounded(q3, q2, q1 | q0 | sticky, exponent)
    return -result if high < 0 else result


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _multiply_add(left, right, plus, carry):
    """left * right + plus + carry as (low, high) limbs; it never overflows."""
    low, high = left * right, _high_product(left, right)
    low += plus
    if low < plus:
        high += _U1
    low += carry
    if low < carry:
        high += _U1
    return low, high


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _less(left, right, borrow):
    """left - right - borrow as (limb, next borrow)."""
    middle = left - right
    result = middle - borrow
    return result, _U1 if left < right or middle < borrow else _U0


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def variance_of(count, lanes, sums, squares):
    """The sample variance: count * squares - sum**2, formed exactly, then rounded and divided once each."""
    a, b, c = _magnitude(lanes[sums], lanes[sums + 1], lanes[sums + 2])
    s0, k = _multiply_add(a, a, _U0, _U0)
    s1, k = _multiply_add(a, b, _U0, k)
    s2, s3 = _multiply_add(a, c, _U0, k)
    s1, k = _multiply_add(b, a, s1, _U0)
    s2, k = _multiply_add(b, b, s2, k)
    s3, s4 = _multiply_add(b, c, s3, k)
    s2, k = _multiply_add(c, a, s2, _U0)
    s3, k = _multiply_add(c, b, s3, k)
    s4, _ = _multiply_add(c, c, s4, k)
    n = np.uint64(count)
    d0, k = _multiply_add(np.uint64(lanes[squares]), n, _U0, _U0)
    d1, k = _multiply_add(np.uint64(lanes[squares + 1]), n, _U0, k)
    d2, k = _multiply_add(np.uint64(lanes[squares + 2]), n, _U0, k)
    d3, d4 = _multiply_add(np.uint64(lanes[squares + 3]), n, _U0, k)
    d0, k = _less(d0, s0, _U0)
    d1, k = _less(d1, s1, k)
    d2, k = _less(d2, s2, k)
    d3, k = _less(d3, s3, k)
    d4, k = _less(d4, s4, k)
    exponent = 256 - 2 * FRACTION_BITS
    for _ in range(4):
        if d4 == _U0:
            d4, d3, d2, d1, d0 = d3, d2, d1, d0, _U0
            exponent -= 64
    if d4 == _U0:
        return 0.0
    return _rounded(d4, d3, d2 | d1 | d0, exponent) / (np.float64(count) * np.float64(count - 1))


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def emit(features, first, last, lanes, base, at, numbers, texts, row):
    """Write the features `first` to `last` of one window, whose merged lanes begin at `base`, into the output row."""
    for i in range(first, last):
        formula, out, a, b, c = (
            features[i, 0],
            features[i, 5],
            base + features[i, 2],
            base + features[i, 3],
            base + features[i, 4],
        )
        if formula == TEXT:
            for j in range(b - base):
                texts[row, out + j] = lanes[a + j]
            continue
        result = np.nan
        if formula == COUNT:
            result = np.float64(lanes[a])
        elif formula == SUM:
            result = sum_of(lanes[a], lanes[a + 1], lanes[a + 2])
        elif formula == MEAN:
            if lanes[b] > 0:
                result = mean_of(lanes[b], lanes[a], lanes[a + 1], lanes[a + 2])
        elif formula == VAR or formula == STD:  # noqa: SIM109 - Numba compares numbers faster than it searches
            if lanes[b] > 1:
                result = variance_of(lanes[b], lanes, a, c)
                if formula == STD:
                    result = np.sqrt(result)
        elif formula == NUMBER:
            if lanes[a] != EMPTY_LEAST and lanes[a] != EMPTY_GREATEST:
                result = from_sortable(lanes[b])
        elif formula == SINCE and lanes[a] != EMPTY_GREATEST:
            result = np.float64(at - lanes[a]) / 1e6
        numbers[row, out] = result
