"""Many delta records as one: each key once, with the merge of all that was added to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from millstream.fold import Layout, States, merge


class Keyed(Protocol):
    """What is combined: sorted keys, each once, and the state of each."""

    @property
    def keys(self) -> list[bytes]:
        """The keys."""
        ...

    @property
    def states(self) -> States:
        """Their states, in the order of the keys."""
        ...


def combine(layout: Layout, records: Sequence[Keyed]) -> tuple[list[bytes], States]:
    """The distinct keys of some records whose keys are sorted, sorted too, and each one's merged state.

    Equal keys are merged two and two, so a key that occurs n times is copied log2(n) times.
    """
    if len(records) == 1:
        return records[0].keys, records[0].states
    keys = [key for record in records for key in record.keys]
    if not keys:
        return [], records[0].states
    encoded = pa.array(keys, pa.binary()).dictionary_encode()
    found: list[bytes] = encoded.dictionary.to_pylist()
    ranked = sorted(range(len(found)), key=found.__getitem__)
    ranks = np.empty(len(found), np.int64)
    ranks[ranked] = np.arange(len(found))
    homes = ranks[encoded.indices.to_numpy()]
    order = np.argsort(homes, kind="stable")
    states = _merge_equal(layout, concatenate([record.states for record in records]), order, homes[order])
    return [found[i] for i in ranked], states


def _merge_equal(layout: Layout, pool: States, places: np.ndarray, homes: np.ndarray) -> States:
    """The states at some places of a pool, those with equal homes (ascending) merged into one."""
    while True:
        begins = np.flatnonzero(np.r_[True, homes[1:] != homes[:-1]])
        if len(begins) == len(homes):
            return pool.take(places)
        rank = np.arange(len(homes)) - np.repeat(begins, np.diff(np.r_[begins, len(homes)]))
        left = np.flatnonzero(rank % 2 == 0)
        paired = np.r_[homes[left[:-1] + 1] == homes[left[:-1]], left[-1] + 1 < len(homes)]
        two = left[paired]
        merged = merge(layout, pool.take(places[two]), pool.take(places[two + 1]))
        kept = places[left]
        kept[paired] = len(pool) + np.arange(len(two))
        pool, places, homes = concatenate([pool, merged]), kept, homes[left]


def concatenate(parts: Sequence[States]) -> States:
    """The states of some lists, one list after another."""
    sizes = np.concatenate([np.diff(part.offsets) for part in parts])
    offsets = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    return States(np.concatenate([part.data[part.offsets[0] : part.offsets[-1]] for part in parts]), offsets)
