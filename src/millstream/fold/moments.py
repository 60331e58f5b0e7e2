"""Moments formed exactly: products and differences of fixed-point sums as wide whole numbers, rounded once at the end.

A wide number is `WIDTH` little-endian 64-bit limbs in two's complement, wide enough for whatever 2**32 values within
+-2**50 can make of the terms below: nothing overflows, and nothing is rounded before the quotient. The terms are the
textbook's, multiplied by the power of the count that makes them whole: count * sum(xy) - sum(x) * sum(y), and so on.

What the formulas take: `count`, how many values, or pairs of them, there were; `lanes`, the int64 array that their sums
stand in; where each sum begins in it, which has three limbs, or of squares and products four, of cubes six and of
fourth powers eight; and `space`, where `SPACE` limbs begin in it that are free to work in.
"""

import numpy as np
from numba import njit

from millstream.fold.fixed_point import FRACTION_BITS, multiply_add, rounded

#: Limbs of a wide number: n**3 * sum(x**4) has at most 3 * 32 + 4 * 114 + 32 = 584 bits and a sign.
WIDTH = 10
#: Limbs that a formula needs to work in, behind the lanes that it reads.
SPACE = 5 * WIDTH

_U0, _U1 = np.uint64(0), np.uint64(1)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _widen(lanes, at, width, to):
    """The number of `width` limbs at `at` as a wide one."""
    fill = np.int64(-1) if lanes[at + width - 1] < 0 else np.int64(0)
    for j in range(WIDTH):
        lanes[to + j] = lanes[at + j] if j < width else fill


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _times(lanes, left, right, to):
    """left * right, at a place of its own."""
    for j in range(WIDTH):
        lanes[to + j] = 0
    for i in range(WIDTH):
        carry, factor = _U0, np.uint64(lanes[left + i])
        if factor == _U0:
            continue
        for j in range(WIDTH - i):
            limb, carry = multiply_add(factor, np.uint64(lanes[right + j]), np.uint64(lanes[to + i + j]), carry)
            lanes[to + i + j] = np.int64(limb)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _scale(lanes, at, factor):
    """Multiply by a count, in place."""
    carry, by = _U0, np.uint64(factor)
    for j in range(WIDTH):
        limb, carry = multiply_add(by, np.uint64(lanes[at + j]), _U0, carry)
        lanes[at + j] = np.int64(limb)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _plus(lanes, at, other):
    """Add another wide number, in place."""
    carry = _U0
    for j in range(WIDTH):
        left, right = np.uint64(lanes[at + j]), np.uint64(lanes[other + j])
        total = left + right
        result = total + carry
        carry = _U1 if total < left or result < total else _U0
        lanes[at + j] = np.int64(result)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _negate(lanes, at):
    carry = _U1
    for j in range(WIDTH):
        limb = ~np.uint64(lanes[at + j]) + carry
        carry = _U1 if carry == _U1 and limb == _U0 else _U0
        lanes[at + j] = np.int64(limb)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _float_of(lanes, at, degree):
    """A wide number, a multiple of 2**(-64 * degree), as the nearest float64; it is left as its magnitude."""
    negative = lanes[at + WIDTH - 1] < 0
    if negative:
        _negate(lanes, at)
    top = WIDTH - 1
    while top >= 0 and lanes[at + top] == 0:
        top -= 1
    if top < 0:
        return 0.0
    below, sticky = np.uint64(lanes[at + top - 1]) if top > 0 else _U0, _U0
    for j in range(top - 1):
        sticky |= np.uint64(lanes[at + j])
    result = rounded(np.uint64(lanes[at + top]), below, sticky, 64 * top - FRACTION_BITS * degree)
    return -result if negative else result


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _co_moment(count, lanes, left, right, products, space):
    """count * sum(xy) - sum(x) * sum(y), from the sums at `left` and `right` and the products of four limbs."""
    a, b, c, d = space, space + WIDTH, space + 2 * WIDTH, space + 3 * WIDTH
    _widen(lanes, left, 3, a)
    _widen(lanes, right, 3, b)
    _times(lanes, a, b, c)
    _negate(lanes, c)
    _widen(lanes, products, 4, d)
    _scale(lanes, d, count)
    _plus(lanes, d, c)
    return _float_of(lanes, d, 2)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def covariance_of(count, lanes, left, right, products, space):
    """The sample covariance of two or more pairs.

    Args:
        count: how many pairs there were, two or more.
        lanes: the array that the sums stand in; see the module.
        left: where the sum of the left values begins.
        right: where that of the right ones does.
        products: where that of their products does.
        space: where there is space to work in.
    """
    return _co_moment(count, lanes, left, right, products, space) / (np.float64(count) * np.float64(count - 1))


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def correlation_of(count, lanes, left, right, products, squares_left, squares_right, space):
    """Pearson's correlation of two or more pairs; NaN where either side is constant.

    Args:
        count: how many pairs there were, two or more.
        lanes: the array that the sums stand in; see the module.
        left: where the sum of the left values begins.
        right: where that of the right ones does.
        products: where that of their products does.
        squares_left: where that of the squares of the left values does.
        squares_right: where that of the squares of the right ones does.
        space: where there is space to work in.
    """
    along = _co_moment(count, lanes, left, left, squares_left, space)
    across = _co_moment(count, lanes, right, right, squares_right, space)
    if along == 0.0 or across == 0.0:
        return np.nan
    shared = _co_moment(count, lanes, left, right, products, space)
    return min(1.0, max(-1.0, shared / (np.sqrt(along) * np.sqrt(across))))


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def skewness_of(count, lanes, sums, squares, cubes, space):
    """The adjusted Fisher-Pearson coefficient of three or more values; NaN where they are all the same.

    Args:
        count: how many values there were, three or more.
        lanes: the array that the sums stand in; see the module.
        sums: where their sum begins.
        squares: where that of their squares does.
        cubes: where that of their third powers does.
        space: where there is space to work in.
    """
    n = np.float64(count)
    spread = _co_moment(count, lanes, sums, sums, squares, space) / n
    if spread == 0.0:
        return np.nan
    total, square, term, more = space, space + WIDTH, space + 2 * WIDTH, space + 3 * WIDTH
    _widen(lanes, sums, 3, total)
    _widen(lanes, squares, 4, square)
    _times(lanes, total, square, term)
    _scale(lanes, term, 3)
    _negate(lanes, term)
    _widen(lanes, cubes, 6, more)
    _scale(lanes, more, count)
    _plus(lanes, term, more)
    _scale(lanes, term, count)  # n * (n * S3 - 3 * S1 * S2)
    _times(lanes, total, total, square)
    _times(lanes, square, total, more)
    _scale(lanes, more, 2)
    _plus(lanes, term, more)  # + 2 * S1**3
    third = _float_of(lanes, term, 3) / (n * n)
    return n * np.sqrt(n - 1.0) / (n - 2.0) * (third / (spread * np.sqrt(spread)))


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def kurtosis_of(count, lanes, sums, squares, cubes, fourths, space):
    """The bias-corrected excess kurtosis of four or more values; NaN where they are all the same.

    Args:
        count: how many values there were, four or more.
        lanes: the array that the sums stand in; see the module.
        sums: where their sum begins.
        squares: where that of their squares does.
        cubes: where that of their third powers does.
        fourths: where that of their fourth powers does.
        space: where there is space to work in.
    """
    n = np.float64(count)
    spread = _co_moment(count, lanes, sums, sums, squares, space) / n
    if spread == 0.0:
        return np.nan
    total, twice, term = space, space + WIDTH, space + 2 * WIDTH
    more, last = space + 3 * WIDTH, space + 4 * WIDTH
    _widen(lanes, sums, 3, total)
    _widen(lanes, cubes, 6, more)
    _times(lanes, total, more, term)
    _scale(lanes, term, 4)
    _negate(lanes, term)
    _widen(lanes, fourths, 8, more)
    _scale(lanes, more, count)
    _plus(lanes, term, more)
    _scale(lanes, term, count)  # n * (n * S4 - 4 * S1 * S3)
    _times(lanes, total, total, twice)
    _widen(lanes, squares, 4, more)
    _times(lanes, twice, more, last)
    _scale(lanes, last, 6)
    _plus(lanes, term, last)
    _scale(lanes, term, count)  # n * (... + 6 * S1**2 * S2)
    _times(lanes, twice, twice, more)
    _scale(lanes, more, 3)
    _negate(lanes, more)
    _plus(lanes, term, more)  # - 3 * S1**4
    fourth = _float_of(lanes, term, 4) / (n * n * n)
    scaled = n * (n + 1.0) * (n - 1.0) * fourth / ((n - 2.0) * (n - 3.0) * (spread * spread))
    return scaled - 3.0 * (n - 1.0) * (n - 1.0) / ((n - 2.0) * (n - 3.0))
