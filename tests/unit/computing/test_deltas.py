"""Delta records: what several group versions add in one micro-batch is what each adds alone."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

import millstream as ms
from millstream.computing.deltas import by_shard, fold_all, prepare_all
from millstream.definitions.group_version import GroupVersion
from millstream.fold import States, shard_of

STREAM = ms.EventStream(
    "pay", time="at", schema={"user_id": "int64", "payee_id": "int64", "amount": "float64", "at": "timestamp"}
)
USER = ms.Entity("user", keys={"user_id": "int64"})
PAIR = ms.Entity("pair", keys={"user_id": "int64", "payee_id": "int64"})
FEATURES = [ms.Count(over="1h"), ms.Sum("amount", over="1h"), ms.DistinctCount("payee_id", over="1h")]
RANGES = {"pay/0": (0, 40_000)}


def events(rows: int) -> pa.Table:
    rng = np.random.default_rng(3)
    times = rng.integers(0, 3_600_000_000, rows)
    return pa.table({
        "user_id": rng.integers(0, 50, rows), "payee_id": rng.integers(0, 9, rows), "amount": rng.random(rows),
        "at": pa.array(times, pa.timestamp("us", "UTC")), "_arrival": times, "_partition": np.zeros(rows, np.int64),
        "_position": np.arange(rows),
    })  # fmt: skip


def folded(versions, table):
    prepared = prepare_all(versions, STREAM, table)
    return fold_all(versions, prepared, [RANGES] * len(versions), 10**16, 7, 1_000_000)


def test_groups_that_are_folded_side_by_side_leave_the_records_of_each_alone():
    versions = [
        GroupVersion(ms.StreamFeatureGroup(f"of_{entity.name}", entity=entity, source=STREAM, features=FEATURES), 1)
        for entity in (USER, PAIR)
    ]
    table = events(40_000)
    together, alone = folded(versions, table), [folded([version], table)[0] for version in versions]
    for one, other in zip(together, alone, strict=True):
        assert (one.keys, one.overflow, one.records) == (other.keys, other.overflow, other.records)
    assert [one.keys for one in together] == [50, 450]


def test_a_batch_without_events_leaves_an_empty_record_in_every_shard():
    version = GroupVersion(ms.StreamFeatureGroup("of_user", entity=USER, source=STREAM, features=FEATURES), 1)
    (found,) = folded([version], events(0))
    assert (found.keys, [len(some) for some in found.records]) == (0, [1] * version.shards)


def test_the_keys_of_a_shard_ascend_and_keep_their_states():
    keys = [number.to_bytes(3, "big") for number in np.random.default_rng(1).permutation(300).tolist()]
    sizes = np.arange(300) % 4
    data = np.repeat(np.arange(300), sizes)
    states = States(data, np.concatenate([[0], np.cumsum(sizes)]))
    found = list(by_shard(keys, states, 4))
    assert sorted(key for mine, _ in found for key in mine) == sorted(keys)
    for shard, (mine, part) in enumerate(found):
        assert mine == sorted(mine) and {shard_of(key, 4) for key in mine} == {shard}
        for place, key in enumerate(mine):
            number = keys.index(key)
            assert part.data[part.offsets[place] : part.offsets[place + 1]].tolist() == [number] * sizes[number]
