"""The lift of rows that come a few at a time: one call for everything that several groups keep of each.

What `prepare` does column by column with arrays of Arrow costs a request more than the read. Here the values of a row are
numbers already, NaN for null and infinity for what fails, and values that are kept as they are have lanes.
"""

import math

import numpy as np
from numba import njit

from millstream.fold.fixed_point import LIMIT, sortable
from millstream.fold.lanes import EMPTY_GREATEST, EMPTY_LEAST, GREATEST, LEAST, START
from millstream.fold.lift import put_fixed, put_power, put_product, put_square

FLAGS, TIMES, POSITIVE, NOT_POSITIVE, SUMS, SQUARES, PRODUCTS, CUBES, FOURTHS, WEIGHED = range(10)
LOGARITHMS, EXTREMES, DATED, BINS, KEPT, KEPT_DATED, CHOSEN = range(10, 17)
#: The columns of a row of `slots`: what is lifted, how it merges, where its lanes go; the numbers of its expression, of
#: the other one and of its condition; the kept values of both (-1: none), and how many lanes the first one has.
LIFT, OP, OFFSET, WIDTH, NUMBER, OTHER, WHERE, VALUE, BY, VALUE_LANES = range(10)
#: The columns of a row of `bags`: where an event's entry begins, its condition, its value and the lanes of that, what stands
#: beside its key, the number and the kept value that it needs as well (-1: none), and the parts of its key: what each is, and
#: whether its bits are inverted.
AT, CONDITION, ENTRY_VALUE, ENTRY_LANES, BESIDE, NEEDED, NEEDED_VALUE, PARTS, MOST_PARTS = 0, 1, 2, 3, 4, 5, 6, 7, 3
NO_PART, OF_VALUE, OF_TIME = range(3)
NOTHING, ONE, THE_TIME = range(3)
#: What a row must be to count: not fail, not be null, be true.
SOUND, THERE, TRUE = range(3)
#: What stands before the lanes of a value that is kept.
NULL, GIVEN, TOO_LONG = range(3)


@njit(cache=True, nogil=True, error_model="numpy")
def lift_rows(numbers, values, at, checks, slots, bags, payload, groups, lanes, entries, counts):
    """Write the lanes and the entries of each row for each group, which are empty where the row does not count.

    Args:
        numbers: the values of the rows, float64, shape (rows, values), NaN for null and infinity for what fails.
        values: the values that are kept as they are, int64, shape (rows, lanes), the lanes of each after `NULL`,
            `GIVEN` or `TOO_LONG`.
        at: the instant of each row (µs), int64, shape (rows,).
        checks: what rows must be to count for a group, int64, each a column of `numbers` and `SOUND`, `THERE` or
            `TRUE`.
        slots: the lane groups of all groups, int64, whose columns are named above.
        bags: their bags, int64, whose columns are named above.
        payload: the lane groups in the payloads of their bags, int64, with the columns of `slots`; offsets count from
            where the entries of a row begin.
        groups: a row for each group, int64: where its lanes begin and how many each row has, the same of its entries,
            and where its checks, its slots, its bags and its payload end.
        lanes: where to write the lanes, int64, shape (1, lanes of all groups and rows).
        entries: where to write the entries, int64, shape (1, lanes of the entries of all groups and rows).
        counts: where to write which rows count, bool, shape (groups, rows).
    """
    check, slot, bag, extra = 0, 0, 0, 0
    for g in range(groups.shape[0]):
        last_check, last_slot, last_bag, last_extra = groups[g, 4], groups[g, 5], groups[g, 6], groups[g, 7]
        for i in range(at.size):
            base, begin = groups[g, 0] + i * groups[g, 1], groups[g, 2] + i * groups[g, 3]
            keep = _counts(numbers[i], checks[check:last_check])
            for s in range(slot, last_slot if keep else slot):
                keep = keep and not _refused(slots[s], numbers[i], values[i])
            for p in range(extra, last_extra if keep else extra):
                keep = keep and not _refused(payload[p], numbers[i], values[i])
            for b in range(bag, last_bag if keep else bag):
                met = _has_entry(bags[b], numbers[i], values[i])
                keep = keep and not (met and values[i, bags[b, ENTRY_VALUE]] == TOO_LONG)
            counts[g, i] = keep
            for s in range(slot, last_slot):
                _put(slots[s], keep, numbers[i], values[i], at[i], lanes, base + slots[s, OFFSET])
            for b in range(bag, last_bag):
                met = keep and _has_entry(bags[b], numbers[i], values[i])
                _put_entry(bags[b], met, values[i], at[i], entries[0], begin + bags[b, AT])
            for p in range(extra, last_extra):
                _put(payload[p], keep, numbers[i], values[i], at[i], entries, begin + payload[p, OFFSET])
        check, slot, bag, extra = last_check, last_slot, last_bag, last_extra


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _has_entry(bag, numbers, values):
    """Whether a row meets a bag's condition, and has what it needs beside its own value."""
    if bag[CONDITION] >= 0 and numbers[bag[CONDITION]] != 1.0:
        return False
    if bag[NEEDED] >= 0 and np.isnan(numbers[bag[NEEDED]]):
        return False
    return bag[NEEDED_VALUE] < 0 or values[bag[NEEDED_VALUE]] != NULL


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _put_entry(bag, met, values, at, entries, place):
    """Write whether a row has an entry in a bag, its key, and what stands beside that."""
    value, size = bag[ENTRY_VALUE], bag[ENTRY_LANES]
    entries[place] = 1 if met and values[value] == GIVEN else 0
    place += 1
    for part in range(PARTS, PARTS + 2 * MOST_PARTS, 2):
        if bag[part] == OF_TIME:
            entries[place] = ~at if bag[part + 1] else at
            place += 1
        elif bag[part] == OF_VALUE:
            for j in range(size):
                entries[place] = ~values[value + 1 + j] if bag[part + 1] else values[value + 1 + j]
                place += 1
    if bag[BESIDE] != NOTHING:
        entries[place] = at if bag[BESIDE] == THE_TIME else 1


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _counts(numbers, checks):
    """Whether a row counts for a group at all."""
    for c in range(checks.shape[0]):
        number = numbers[checks[c, 0]]
        if np.isinf(number) or (checks[c, 1] == THERE and np.isnan(number)) or (checks[c, 1] == TRUE and number != 1.0):
            return False
    return True


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _met(slot, numbers):
    """Whether a row meets a slot's condition, and has the other value that it needs."""
    if slot[WHERE] >= 0 and numbers[slot[WHERE]] != 1.0:
        return False
    return slot[OTHER] < 0 or not np.isnan(numbers[slot[OTHER]])


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _refused(slot, numbers, values):
    """Whether a slot cannot take a row, as an event of the kind would be a dead letter."""
    lift = slot[LIFT]
    if not _met(slot, numbers):
        return False
    if SUMS <= lift <= WEIGHED:
        return abs(numbers[slot[NUMBER]]) >= LIMIT
    if lift < KEPT:
        return False
    value = values[slot[VALUE]]
    by = np.int64(GIVEN) if slot[BY] < 0 else values[slot[BY]]
    return value != NULL and by != NULL and (value == TOO_LONG or by == TOO_LONG)


@njit(cache=True, nogil=True, error_model="numpy")
def _put(slot, keep, numbers, values, at, lanes, place):
    """Write the lanes of one slot."""
    lift = slot[LIFT]
    met = keep and _met(slot, numbers)
    number = numbers[slot[NUMBER]] if slot[NUMBER] >= 0 else 0.0
    if not met:
        number = np.nan
    if lift <= NOT_POSITIVE:
        there = not np.isnan(number)
        if lift == POSITIVE or lift == NOT_POSITIVE:  # noqa: SIM109 - Numba compares numbers faster than it searches
            there = there and (number > 0) == (lift == POSITIVE)
        if lift == TIMES:
            lanes[0, place] = at if there else _empty(slot[OP])
        else:
            lanes[0, place] = 1 if there else 0
    elif lift == SUMS:
        put_fixed(number, lanes, START, place)
    elif lift == LOGARITHMS:
        put_fixed(math.log(number) if number > 0 else np.nan, lanes, START, place)
    elif lift == SQUARES:
        put_square(number, lanes, START, place)
    elif lift == PRODUCTS:
        put_product(number, numbers[slot[OTHER]] if met else np.nan, lanes, START, place)
    elif lift == CUBES or lift == FOURTHS:  # noqa: SIM109
        put_power(number, 3 if lift == CUBES else 4, slot[WIDTH], lanes, START, place)
    elif lift == WEIGHED:
        lanes[0, place] = 0 if np.isnan(number) else 1
    elif lift == BINS:
        for j in range(slot[WIDTH]):
            lanes[0, place + j] = 1 if number == j else 0
    elif lift == EXTREMES:
        lanes[0, place] = _empty(slot[OP]) if np.isnan(number) else sortable(number)
    elif lift == DATED:
        lanes[0, place] = _empty(slot[OP]) if np.isnan(number) else at
        lanes[0, place + 1] = _empty(slot[OP]) if np.isnan(number) else sortable(number)
    else:
        _put_kept(slot, met, values, at, lanes, place)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _put_kept(slot, met, values, at, lanes, place):
    """What a value is chosen by, its time, and the value itself; the latter two inverted for the latest of the least."""
    value, by = slot[VALUE], slot[BY]
    if not met or values[value] != GIVEN or (by >= 0 and values[by] != GIVEN):
        for j in range(slot[WIDTH]):
            lanes[0, place + j] = _empty(slot[OP])
        return
    size, inverted = slot[VALUE_LANES], slot[LIFT] == CHOSEN and slot[OP] == LEAST
    if by >= 0:
        for j in range(slot[WIDTH] - size - 1):
            lanes[0, place + j] = values[by + 1 + j]
        place += slot[WIDTH] - size - 1
    when = np.int64(0) if slot[LIFT] == KEPT else at
    lanes[0, place] = ~when if inverted else when
    for j in range(size):
        lane = values[value + 1 + j]
        lanes[0, place + 1 + j] = ~lane if inverted else lane


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _empty(op):
    if op == LEAST:
        return EMPTY_LEAST
    return EMPTY_GREATEST if op == GREATEST else np.int64(0)
