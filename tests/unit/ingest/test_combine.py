"""Combining delta records."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.computing.chain import PAYMENTS, VELOCITY, payments

from millstream.buffer.codec.events import decode, encode
from millstream.buffer.log import Records
from millstream.computing.deltas import by_shard
from millstream.fold import Deltas, States, fold, layout_of, merge, prepare
from millstream.ingest.combine import combine, concatenate

LAYOUT = layout_of(VELOCITY)


def record(rows: list[dict[str, object]]) -> Deltas:
    batches = encode(PAYMENTS, rows)
    records = [Records.of("payments", 0, b, np.arange(b.count), 1_700_000_000_000_000) for b in batches]
    (prepared,) = prepare([VELOCITY], PAYMENTS, decode(PAYMENTS, records).table)
    ((keys, states),) = by_shard(prepared.keys, fold(LAYOUT, prepared), 1)
    return Deltas({}, 0, 0, keys, states)


def one_by_one(records: list[Deltas]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for deltas in records:
        for key, state in zip(deltas.keys, deltas.states.to_bytes(), strict=True):
            (found[key],) = merge(LAYOUT, States.from_bytes([found.get(key)]), States.from_bytes([state])).to_bytes()
    return found


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=9), st.integers(0, 1000))
def test_combining_is_merging_one_after_another(sizes: list[int], seed: int) -> None:
    records = [record(payments(n, seed + i, users=4)) if n else record([]) for i, n in enumerate(sizes)]
    keys, states = combine(LAYOUT, records)
    assert keys == sorted(set(keys))
    assert dict(zip(keys, states.to_bytes(), strict=True)) == one_by_one(records)


def test_lists_of_states_follow_each_other() -> None:
    parts = [record(payments(5, 1)).states, record(payments(9, 2)).states]
    assert concatenate(parts).to_bytes() == [*parts[0].to_bytes(), *parts[1].to_bytes()]
    assert concatenate([parts[1].take(np.array([1]))]).to_bytes() == parts[1].to_bytes()[1:2]
