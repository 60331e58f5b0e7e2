"""Exact arithmetic on 64-bit limbs: fixed-point sums, their means and variances, each rounded once.

A number is kept as a multiple of 2**-64 in little-endian limbs, so adding is exact and its order does not matter. Sums
have three limbs, sums of squares four. Results are formed from the exact limbs and rounded to float64 at the end.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

#: Sums keep multiples of 2**-64 (about 5.4e-20): a float64 of magnitude 2**-12 or more is kept without any rounding.
FRACTION_BITS = 64
#: Values of sums and moments lie strictly within +-2**50 (about 1.1e15); what lies outside is a dead letter.
LIMIT = float(2**50)

_U0, _U1 = np.uint64(0), np.uint64(1)
_SIGN = np.int64(0x7FFFFFFFFFFFFFFF)


@intrinsic
def high_product(context, left, right):
    """The upper 64 bits of the 128-bit product of two unsigned numbers.

    Args:
        context: what Numba compiles in, which it gives itself: callers give the two numbers alone.
        left: the one number, uint64.
        right: the other, uint64.
    """
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


@intrinsic
def _leading_zeros(context, number):
    """How many bits of an unsigned number, not 0, are 0 before its first 1."""
    signature = types.uint64(types.uint64)

    def generate(context, builder, signature, arguments):
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return signature, generate


@intrinsic
def _fused(context, left, right, plus):
    """left * right + plus, rounded once."""
    signature = types.float64(types.float64, types.float64, types.float64)

    def generate(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return signature, generate


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _power_of_two(exponent):
    """2.0**exponent, for exponents of normal numbers."""
    return _float_of((np.int64(exponent) + 1023) << 52)


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
def to_fixed(number):
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
def _normalised(head, below):
    """Two limbs shifted up until the first bit of `head` (not 0) is 1, and by how many bits."""
    shift = _leading_zeros(head)
    if shift > _U0:
        head = (head << shift) | (below >> (np.uint64(64) - shift))
        below <<= shift
    return head, below, np.int64(shift)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def rounded(head, below, sticky, exponent):
    """A number of many bits as the nearest float64.

    Args:
        head: its first 64 bits, uint64, not 0.
        below: the 64 bits that follow, uint64.
        sticky: not 0 where any bit after those is 1, uint64.
        exponent: the power of two that the number is multiplied by, the bits of `head` standing before its point.
    """
    head, below, shift = _normalised(head, below)
    if (below | sticky) != _U0:
        head |= _U1
    return np.float64(head) * _power_of_two(exponent - shift)


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
    """A fixed-point sum of three limbs as the nearest float64.

    Args:
        low: the lowest limb, int64.
        middle: the next one.
        high: the highest one, with the sign.
    """
    a, b, c = _magnitude(low, middle, high)
    exponent = 128 - FRACTION_BITS
    for _ in range(2):
        if c == _U0:
            c, b, a = b, a, _U0
            exponent -= 64
    if c == _U0:
        return 0.0
    result = rounded(c, b, a, exponent)
    return -result if high < 0 else result


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _divided(limb, rest, divisor):
    """(rest * 2**64 + limb) / divisor as (quotient, next rest), for a rest below a divisor below 2**32."""
    half = np.uint64(32)
    upper = (rest << half) | (limb >> half)
    lower = ((upper % divisor) << half) | (limb & np.uint64(0xFFFFFFFF))
    return ((upper // divisor) << half) | (lower // divisor), lower % divisor


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _quotient(head, below, divisor):
    """(head + below / 2**64) / divisor as a float64, and whether it is surely the nearest one.

    The upper 106 bits are divided as two floats. What is left out, and what the second division rounds, is below
    2**-98 of the result; where adding or taking away so much gives the same float64, that is the nearest one.
    """
    upper = np.float64(head >> np.uint64(11))
    lower = np.float64(((head & np.uint64(0x7FF)) << np.uint64(42)) | (below >> np.uint64(22))) * _power_of_two(-53)
    quotient = upper / divisor
    more = (_fused(-quotient, divisor, upper) + lower) / divisor
    slack = quotient * _power_of_two(-98)
    result = quotient + (more + slack)
    return result * 2048.0, result == quotient + (more - slack)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def mean_of(count, low, middle, high):
    """A fixed-point sum divided by a count, rounded once (beyond 2**32 events the sum is rounded before it).

    Args:
        count: how many values were added, one or more.
        low: the lowest limb of the sum, int64.
        middle: the next one.
        high: the highest one, with the sign.
    """
    if count >= 1 << 32:
        return sum_of(low, middle, high) / np.float64(count)
    a, b, c = _magnitude(low, middle, high)
    head, below, exponent = c, b, 128 - FRACTION_BITS
    if c == _U0:
        head, below, exponent = b, a, 64 - FRACTION_BITS
    if head != _U0:
        head, below, shift = _normalised(head, below)
        result, sure = _quotient(head, below, np.float64(count))
        if sure:
            result *= _power_of_two(exponent - shift)
            return -result if high < 0 else result
    return _mean_by_limbs(np.uint64(count), a, b, c, high < 0)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _mean_by_limbs(n, a, b, c, negative):
    """The same by long division, which is sure of every bit."""
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
    result = rounded(q3, q2, q1 | q0 | sticky, exponent)
    return -result if negative else result


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def multiply_add(left, right, plus, carry):
    """left * right + plus + carry as (low, high) limbs; it never overflows.

    Args:
        left: a limb, uint64; so are the others.
        right: the limb that it is multiplied by.
        plus: what is added to the product.
        carry: what is added too, as from the limbs before.
    """
    low, high = left * right, high_product(left, right)
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
    """The sample variance: count * squares - sum**2, formed exactly, then rounded and divided once each.

    Args:
        count: how many values there were, two or more.
        lanes: the array that their sums stand in, int64.
        sums: where the three limbs of their sum begin.
        squares: where the four limbs of the sum of their squares begin.
    """
    a, b, c = _magnitude(lanes[sums], lanes[sums + 1], lanes[sums + 2])
    s0, k = multiply_add(a, a, _U0, _U0)
    s1, k = multiply_add(a, b, _U0, k)
    s2, s3 = multiply_add(a, c, _U0, k)
    s1, k = multiply_add(b, a, s1, _U0)
    s2, k = multiply_add(b, b, s2, k)
    s3, s4 = multiply_add(b, c, s3, k)
    s2, k = multiply_add(c, a, s2, _U0)
    s3, k = multiply_add(c, b, s3, k)
    s4, _ = multiply_add(c, c, s4, k)
    n = np.uint64(count)
    d0, k = multiply_add(np.uint64(lanes[squares]), n, _U0, _U0)
    d1, k = multiply_add(np.uint64(lanes[squares + 1]), n, _U0, k)
    d2, k = multiply_add(np.uint64(lanes[squares + 2]), n, _U0, k)
    d3, d4 = multiply_add(np.uint64(lanes[squares + 3]), n, _U0, k)
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
    return rounded(d4, d3, d2 | d1 | d0, exponent) / (np.float64(count) * np.float64(count - 1))
