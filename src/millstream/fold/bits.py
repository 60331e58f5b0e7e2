"""Sets of small numbers as bits, counted word by word, so that one is added, and the n-th of them found, in little time.

A set is two arrays: the bits, 64 to a word, and how many there are in the words before each, as a binary indexed tree
(Fenwick, 1994).
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

_U0, _U1, _U63 = np.uint64(0), np.uint64(1), np.uint64(63)


@intrinsic
def _trailing_zeros(context, number):
    """How many bits of an unsigned number, not 0, are 0 after its last 1."""
    signature = types.uint64(types.uint64)

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return signature, generate


@njit(cache=True, nogil=True, error_model="numpy")
def new_set(size):
    """The bits, and the counts, of no number at all of those below `size`."""
    words = (size + 63) // 64
    return np.zeros(words, np.uint64), np.zeros(words + 1, np.int64)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def turn(bits, counts, number, change):
    """Add a number that is not in the set, or take out one that is.

    Args:
        bits: the bits of the set, uint64, shape (words,); this and `counts` are as `new_set` makes them, changed in place.
        counts: its counts, int64, shape (words + 1,).
        number: the number, from 0 on, and below the size of the set.
        change: 1 to add it, -1 to take it out.
    """
    word = number >> 6
    bits[word] ^= _U1 << (np.uint64(number) & _U63)
    place = word + 1
    while place < counts.size:
        counts[place] += change
        place += place & -place


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def word_of(counts, n):
    """The word that holds the n-th number of a set, counted from 0, and how many are in the words before it."""
    place, before, step = 0, np.int64(0), 1
    while 2 * step < counts.size:
        step *= 2
    while step > 0:
        beyond = place + step
        if beyond < counts.size and before + counts[beyond] <= n:
            place = beyond
            before += counts[beyond]
        step >>= 1
    return place, before


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def first_of(word, left):
    """The first number of those bits of a word that are left, of which there must be any."""
    return np.int64(word) * 64 + np.int64(_trailing_zeros(left))


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def nth(bits, counts, n):
    """The n-th number of a set, counted from 0, and the bits of its word that come after it.

    Args:
        bits: the bits of the set, uint64, shape (words,).
        counts: its counts, int64, shape (words + 1,).
        n: which of its numbers, in ascending order; less than how many there are.

    Returns:
        The number, int64, and those bits, uint64: 0 where its word has no more.
    """
    word, before = word_of(counts, n)
    left = bits[word]
    for _ in range(n - before):
        left &= left - _U1
    return first_of(word, left), left & (left - _U1)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def numbers_from(bits, counts, n, many, out):
    """Write so many numbers of a set, in their order, from the n-th on.

    Args:
        bits: the bits of the set, uint64, shape (words,).
        counts: its counts, int64, shape (words + 1,).
        n: which of its numbers is the first, counted from 0.
        many: how many to write; the set has as many from there on.
        out: where to write them, int64, shape (many,) or longer.
    """
    if many == 0:
        return
    number, left = nth(bits, counts, n)
    out[0], word = number, number >> 6
    for i in range(1, many):
        if left == _U0:
            word, _ = word_of(counts, n + i)
            left = bits[word]
        out[i] = first_of(word, left)
        left &= left - _U1
