"""Lanes: what an aggregate remembers, as int64 numbers that merge in any order.

Three merges are enough for every aggregate of the package. `ADD` adds little-endian 64-bit limbs with carry, so a
sum of any width is exact. `LEAST` and `GREATEST` keep the smaller or larger of two tuples compared lane by lane, which
gives min and max (one lane) and first and last (time, then value). All three are associative and commutative, and an
empty lane group is their identity. A new aggregate is a new list of lanes and a formula; no kernel changes.

What the kernels here take: lanes stand in flat int64 arrays, and a row or a lane group of them is named by its array
and the place where it begins; `ops` has a row (merge, offset, width) for each lane group of a row, the offset counting
from where the row begins.
"""

import math

import numpy as np
from numba import njit

from millstream.fold.fixed_point import from_sortable, mean_of, sortable, sum_of, variance_of
from millstream.fold.moments import SPACE, correlation_of, covariance_of, kurtosis_of, skewness_of

ADD, LEAST, GREATEST = 0, 1, 2

EMPTY_LEAST = np.int64(2**63 - 1)
EMPTY_GREATEST = np.int64(-(2**63))

COUNT, SUM, MEAN, VAR, STD, NUMBER, TEXT, SINCE = range(8)
SHARE, RATE, COVARIANCE, CORRELATION, SKEWNESS, KURTOSIS, GEOMETRIC, VECTOR_SUM, VECTOR_MEAN = range(8, 17)

#: The first place, and a change by one. A number that is written where a kernel is called is a type of its own to Numba, for
#: which what is called would be compiled once more.
START, ONE = np.int64(0), np.int64(1)

_U0, _U1 = np.uint64(0), np.uint64(1)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def clear(ops, lanes, at):
    """Make a row of lanes empty, in place.

    Args:
        ops: the lane groups of the row; see the module.
        lanes: the array it stands in.
        at: where it begins.
    """
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
def compare(left, at, right, start, width):
    """Which of two tuples of lanes is smaller: -1 the left one, 1 the right one, 0 neither.

    Args:
        left: the array that the left one stands in.
        at: where it begins.
        right: the array that the right one stands in.
        start: where it begins.
        width: how many lanes each has.
    """
    for j in range(width):
        a, b = left[at + j], right[start + j]
        if a != b:
            return -1 if a < b else 1
    return 0


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def combine_one(op, width, into, at, lanes, start):
    """Merge one lane group into another, in place.

    Args:
        op: how it merges: `ADD`, `LEAST` or `GREATEST`.
        width: how many lanes it has.
        into: the array that the group which changes stands in.
        at: where it begins.
        lanes: the array that the other group stands in.
        start: where it begins.
    """
    if op == ADD:
        _add(into, at, lanes, start, width)
        return
    order = compare(lanes, start, into, at, width)
    if (op == LEAST and order < 0) or (op == GREATEST and order > 0):
        for j in range(width):
            into[at + j] = lanes[start + j]


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def combine(ops, into, at, lanes, start):
    """Merge a row of lanes into another, in place.

    Args:
        ops: the lane groups of a row; see the module.
        into: the array that the row which changes stands in.
        at: where it begins.
        lanes: the array that the other row stands in.
        start: where it begins.
    """
    for i in range(ops.shape[0]):
        combine_one(ops[i, 0], ops[i, 2], into, at + ops[i, 1], lanes, start + ops[i, 1])


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def remove_one(width, into, at, lanes, start):
    """Take an added lane group out again (only `ADD` can).

    Args:
        width: how many lanes it has.
        into: the array that the group which changes stands in.
        at: where it begins.
        lanes: the array that what was added stands in.
        start: where it begins.
    """
    _subtract(into, at, lanes, start, width)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def beats(op, width, left, at, right, start):
    """Whether the left lane group would stay when the right one is merged with it and differs.

    Args:
        op: how they merge: `LEAST` or `GREATEST`.
        width: how many lanes each has.
        left: the array that the left one stands in.
        at: where it begins.
        right: the array that the right one stands in.
        start: where it begins.
    """
    order = compare(left, at, right, start, width)
    return order < 0 if op == LEAST else order > 0


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def emit(features, first, last, lanes, base, at, numbers, texts, row):
    """Write some features of one window into an output row.

    Args:
        features: the features, as rows (formula, window, six numbers, output); see `layout.FoldLayout`.
        first: the first of them to write.
        last: the one before which to stop.
        lanes: the array in which the window's merged lanes stand; its last `SPACE` numbers are free to work in.
        base: where those begin.
        at: the instant (µs) that is read.
        numbers: the output's numbers, float64, shape (rows, numbers), NaN for null.
        texts: the output's lanes, int64, shape (rows, lanes), of features that are given out as such.
        row: the row of both to write.
    """
    for i in range(first, last):
        formula, out = features[i, 0], features[i, 8]
        a, b, c = base + features[i, 2], base + features[i, 3], base + features[i, 4]
        if formula == TEXT:
            for j in range(features[i, 3]):
                texts[row, out + j] = lanes[a + j]
            continue
        if formula >= VECTOR_SUM:
            _emit_vector(formula, features[i, 3], lanes, a, texts, row, out)
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
        elif formula == SINCE:
            if lanes[a] != EMPTY_LEAST and lanes[a] != EMPTY_GREATEST:
                result = np.float64(at - lanes[a]) / 1e6
        elif formula >= SHARE:
            result = _derived(features, i, lanes, base)
        numbers[row, out] = result


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _emit_vector(formula, dim, lanes, at, texts, row, out):
    """Write the elements of a sum of vectors, or of their mean, in sortable form; null is the first of a mean of none."""
    count = lanes[at]
    if formula == VECTOR_MEAN and count == 0:
        texts[row, out] = EMPTY_LEAST
        return
    for j in range(dim):
        low, middle, high = lanes[at + 1 + 3 * j], lanes[at + 2 + 3 * j], lanes[at + 3 + 3 * j] - count
        if formula == VECTOR_SUM:
            texts[row, out + j] = sortable(sum_of(low, middle, high))
        else:
            texts[row, out + j] = sortable(mean_of(count, low, middle, high))


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _derived(features, i, lanes, base):
    """The value of a feature that is worked out from several lane groups."""
    formula, count = features[i, 0], lanes[base + features[i, 2]]
    b, c, d = base + features[i, 3], base + features[i, 4], base + features[i, 5]
    e, f, space = base + features[i, 6], base + features[i, 7], lanes.size - SPACE
    if formula == SHARE:
        return np.float64(lanes[b]) / np.float64(count) if count > 0 else np.nan
    if formula == RATE:
        return np.float64(count) * np.float64(features[i, 3]) / np.float64(features[i, 4])
    if formula == GEOMETRIC:
        if count == 0 or lanes[b] > 0:
            return np.nan
        return math.exp(mean_of(count, lanes[c], lanes[c + 1], lanes[c + 2]))
    if formula == SKEWNESS:
        return skewness_of(count, lanes, b, c, d, space) if count > 2 else np.nan
    if formula == KURTOSIS:
        return kurtosis_of(count, lanes, b, c, d, e, space) if count > 3 else np.nan
    if count < 2:
        return np.nan
    if formula == COVARIANCE:
        return covariance_of(count, lanes, b, c, d, space)
    return correlation_of(count, lanes, b, c, d, e, f, space)
