"""Bags merged into one another, few entries or many at a time, are the bag of all their events."""

from __future__ import annotations

import numpy as np
import pytest

from millstream.fold import entries as of
from millstream.fold.lanes import ADD, GREATEST

KINDS = {
    "the first entries": (of.FOREMOST, 2, 5, ADD),
    "up to so many values": (of.BOUNDED, 1, 6, ADD),
    "different values": (of.DISTINCT, 1, 20, None),
    "the newest values": (of.NEWEST, 1, 5, GREATEST),
    "a spread": (of.SPREAD, 1, 16, ADD),
}


def bag_of(rule: int, keys: int, bound: int, merge: int | None) -> np.ndarray:
    groups = [] if merge is None else [merge, 1]
    row = [rule, keys, keys + len(groups) // 2, bound, 0, len(groups) // 2, *groups]
    return np.array(row + [0] * (of.COLUMNS - len(row)), np.int64)


def bag_of_events(bag: np.ndarray, entries: np.ndarray, events: np.ndarray) -> np.ndarray:
    out = np.zeros(1 + len(events) * bag[of.WIDTH] + of.GROWTH, np.int64)
    return out[: of.gather(bag, entries, events.copy(), out, np.int64(0))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("most", [1, 4, 5, 9])
@pytest.mark.parametrize("different", [3, 400])
def test_bags_merged_in_any_order_are_the_bag_of_all_events(kind: str, most: int, different: int) -> None:
    rule, keys, bound, merge = KINDS[kind]
    bag, rng = bag_of(rule, keys, bound, merge), np.random.default_rng(most * different)
    for total in (1, 4, 15, 60):
        lanes = rng.integers(-different, different, (total, keys))
        beside = np.ones((total, 0 if merge is None else 1), np.int64)
        if merge == GREATEST:
            beside = rng.integers(0, 1_000, (total, 1))
        entries = np.column_stack([np.ones(total, np.int64), lanes, beside])
        whole = bag_of_events(bag, entries, np.arange(total))
        cuts = np.cumsum(rng.integers(1, most + 1, total))
        parts = [bag_of_events(bag, entries, some) for some in np.split(np.arange(total), cuts[cuts < total])]
        room = sum(map(len, parts)) + 2 * of.GROWTH
        into, other = np.zeros(room, np.int64), np.zeros(room, np.int64)
        for part in rng.permutation(len(parts)):
            of.union_into(bag, into, parts[part], np.int64(0), other)
        assert into[: of.held_to_rule(bag, into)].tolist() == whole.tolist()
