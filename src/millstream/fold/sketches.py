"""Estimates whose size is bounded: registers that count different values, and buckets of one per cent for quantiles.

Both are functions of the values alone: registers keep maxima and buckets keep counts, so they merge in any order to the
same bits. Registers are HyperLogLog's (Flajolet and others, 2007), read by Ertl's estimator ("New cardinality estimation
algorithms for HyperLogLog sketches", 2017), which needs no table of corrections. Buckets are DDSketch's (Masson, Rim and
Lee, 2019) with 35 to a power of two, found by comparison with a table instead of by a logarithm.
"""

import math

import numpy as np
from numba import njit

#: How many registers, of six bits each, ten to a lane: a standard error of 1.04 / 64.
REGISTERS, PER_LANE = 4_096, 10
REGISTER_LANES = (REGISTERS + PER_LANE - 1) // PER_LANE
_INDEX_BITS = 12
_MOST = 64 - _INDEX_BITS
#: The greatest rank a register can hold.
MOST_RANK = _MOST + 1
_ALPHA = 0.5 / math.log(2.0)

#: How many buckets there are from one power of two to the next: each spans less than 2 % of its magnitude.
_PER_OCTAVE = 35
_EDGES = np.array([2.0 ** (i / _PER_OCTAVE) for i in range(_PER_OCTAVE + 1)])
#: What lies in a bucket is said to be this, the number whose relative distance to both edges is the same.
_MIDDLES = 2.0 * _EDGES[:-1] * _EDGES[1:] / (_EDGES[:-1] + _EDGES[1:])
#: Powers of two from here on have buckets of their own; a number nearer to zero counts as zero.
_SMALLEST = -64

_U6, _U63 = np.uint64(6), np.uint64(63)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def mixed(lane, seed):
    """A lane as 64 bits that look random and are another for every other lane (SplitMix64's finaliser)."""
    bits = np.uint64(lane) + seed * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64(bits ^ (bits >> np.uint64(31)))


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def index_of(value):
    """The register of a mixed value."""
    return np.int64(np.uint64(value) >> np.uint64(_MOST))


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def rank_of(value):
    """What a mixed value says to its register: how many bits it has after the index up to the first that is set."""
    rest = np.uint64(value) << np.uint64(_INDEX_BITS)
    rank = np.int64(1)
    while rank <= _MOST and not rest >> _U63:
        rest <<= np.uint64(1)
        rank += 1
    return rank


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def register(lanes, at, value):
    """Note a mixed value in registers.

    Args:
        lanes: the array that the registers stand in, int64.
        at: where their `REGISTER_LANES` lanes begin.
        value: the value, as `mixed` gives it.
    """
    index, rank = index_of(value), np.uint64(rank_of(value))
    place, shift = at + index // PER_LANE, _U6 * np.uint64(index % PER_LANE)
    held = np.uint64(lanes[place])
    if (held >> shift) & _U63 < rank:
        lanes[place] = np.int64((held & ~(_U63 << shift)) | (rank << shift))


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def register_all(into, at, lanes, start):
    """Keep the greater of each two registers, in place.

    Args:
        into: the array that the registers which change stand in, int64.
        at: where their `REGISTER_LANES` lanes begin.
        lanes: the array that the others stand in, int64.
        start: where theirs begin.
    """
    for i in range(REGISTER_LANES):
        left, right, kept = np.uint64(into[at + i]), np.uint64(lanes[start + i]), np.uint64(0)
        if left == right:
            continue
        for j in range(PER_LANE):
            mask = _U63 << (_U6 * np.uint64(j))
            kept |= max(left & mask, right & mask)
        into[at + i] = np.int64(kept)


@njit(cache=True, nogil=True, error_model="numpy")
def registered(lanes, at):
    """About how many different values the registers were told of, to the nearest whole number."""
    held = np.zeros(_MOST + 2, np.int64)
    for i in range(REGISTERS):
        held[(np.uint64(lanes[at + i // PER_LANE]) >> (_U6 * np.uint64(i % PER_LANE))) & _U63] += 1
    return estimated(held)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def estimated(held):
    """About how many different values there were, to the nearest whole number, from how many registers hold each rank."""
    m = np.float64(REGISTERS)
    z = m * _tau(1.0 - held[_MOST + 1] / m)
    for rank in range(_MOST, 0, -1):
        z = 0.5 * (z + held[rank])
    z += m * _sigma(held[0] / m)
    return np.int64(np.rint(_ALPHA * m * m / z))


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _sigma(x):
    if x == 1.0:
        return np.inf
    y, z, before = 1.0, x, -1.0
    while z != before:
        x *= x
        before = z
        z += x * y
        y += y
    return z


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _tau(x):
    if x == 0.0 or x == 1.0:
        return 0.0
    y, z, before = 1.0, 1.0 - x, -1.0
    while z != before:
        x = math.sqrt(x)
        before = z
        y *= 0.5
        z -= (1.0 - x) * (1.0 - x) * y
    return z / 3.0


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def bucket_of(number):
    """The bucket of a number; buckets are in the order of the numbers in them, and that of zero is 0."""
    fraction, exponent = math.frexp(abs(number))
    if number == 0.0 or exponent <= _SMALLEST:
        return np.int64(0)
    scaled, low, high = 2.0 * fraction, 0, _PER_OCTAVE
    while high - low > 1:
        middle = (low + high) // 2
        if scaled >= _EDGES[middle]:
            low = middle
        else:
            high = middle
    bucket = np.int64((exponent - _SMALLEST - 1) * _PER_OCTAVE + low + 1)
    return bucket if number > 0 else -bucket


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def middle_of(bucket):
    """What every number of a bucket is said to be: off by less than 1 % of its magnitude."""
    if bucket == 0:
        return 0.0
    place = abs(bucket) - 1
    number = math.ldexp(_MIDDLES[place % _PER_OCTAVE], place // _PER_OCTAVE + _SMALLEST)
    return number if bucket > 0 else -number
