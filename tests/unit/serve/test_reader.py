"""Features as serving reads them: equal to the kernel's, one row or many, and never a failed request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from tests.unit.serve.world import HOUR, NOW, SECOND, SHARDS, VERSIONS, habits, payments, user, velocity, view

from millstream.clock import SimulatedClock
from millstream.errors import StoreError
from millstream.fold import States, encode_key, fold, layout_of, prepare, shard_of, value
from millstream.fold.views import Vector
from millstream.serve.reader import FeatureReader
from millstream.store.lmdb.store import LmdbOnlineStore
from millstream.store.online import EARLY, Answer, Ask, ShardMeta
from millstream.testing.shards import held


def asked(users: Sequence[int | None], payee: int | None = 2) -> dict[str, list[Any]]:
    rows = len(users)
    devices = [None if u is None else f"d{u % 4}" for u in users]
    return {
        "user_id": list(users),
        "payee_id": [payee] * rows,
        "device_id": devices,
        "amount": [50.0] * rows,
        "country": ["de"] * rows,
    }


def at(rows: int, instant: int = NOW) -> np.ndarray:
    return np.full(rows, instant, np.int64)


def same(left: np.ndarray, right: np.ndarray) -> bool:
    if left.dtype == object:
        return left.tolist() == right.tolist()
    return left.tobytes() == right.tobytes()


class Failing:
    """A store whose groups of given names cannot be read."""

    def __init__(self, store: LmdbOnlineStore, gv: str) -> None:
        self._store, self._gv = store, gv

    def read(self, asks: Sequence[Ask]) -> list[Answer]:
        answers = self._store.read(asks)
        for ask, answer in zip(asks, answers, strict=True):
            if ask.states == self._gv:
                answer.values, answer.failure = [None] * len(ask.keys), StoreError("The disk has gone.")
        return answers


class Counting:
    """A store that keeps what it is called for."""

    def __init__(self, store: LmdbOnlineStore) -> None:
        self._store, self.calls = store, list[str]()

    def __getattr__(self, name: str) -> Any:
        self.calls.append(name)
        return getattr(self._store, name)


@pytest.mark.parametrize("users", [[3], [3, 4, 5, None, 9999]])
def test_a_request_takes_one_call_of_the_store_however_many_groups_it_reads(
    online: LmdbOnlineStore, clock: SimulatedClock, users: list[int | None]
) -> None:
    counting = Counting(online)
    reader = FeatureReader(counting, view, VERSIONS, clock)  # type: ignore[arg-type]
    assert len(reader.group_versions) > 2
    counting.calls.clear()  # what the store is was asked once, when the reader was made
    reader.read(asked(users), at(len(users)))
    assert counting.calls == ["read"]


class Halfway:
    """A store in which a write of some shards' first values is done, and the rest of it is pending, or was never told of."""

    def __init__(self, store: LmdbOnlineStore, told: bool) -> None:
        self._store, self._told = store, told

    def read(self, asks: Sequence[Ask]) -> list[Answer]:
        answers = self._store.read(asks)
        for ask, answer in zip(asks, answers, strict=True):
            if ask.states == "velocity@1" and answer.meta is not None:
                pending = ShardMeta(position=9, applied={"payments/0": 999}, applied_at=NOW, newest_arrival=NOW)
                answer.positions = [9, *(answer.meta.position for _ in ask.keys[1:])]
                answer.meta = msgspec.structs.replace(answer.meta, pending=pending if self._told else None)
        return answers


def test_a_value_that_is_ahead_of_its_shard_says_so(online: LmdbOnlineStore, clock: SimulatedClock) -> None:
    users = list(range(12))
    before = FeatureReader(online, view, VERSIONS, clock).read(asked(users), at(len(users)))
    found = FeatureReader(Halfway(online, True), view, VERSIONS, clock).read(  # type: ignore[arg-type]
        asked(users), at(len(users))
    )
    facts, old = found.facts["velocity"], before.facts["velocity"]
    first = [i for i, fact in enumerate(facts) if fact.shard not in {other.shard for other in facts[:i]}]
    assert 1 < len(first) < len(users)
    for i, fact in enumerate(facts):
        ahead = i in first
        assert bytes(fact.positions) == (b'{"payments/0":999}' if ahead else bytes(old[i].positions)), i
        assert fact.fallback is None and fact.age == (0 if ahead else old[i].age)
    assert all(same(found.columns[name], before.columns[name]) for name in before.columns)


def test_a_value_that_nothing_announced_is_not_served(online: LmdbOnlineStore, clock: SimulatedClock) -> None:
    found = FeatureReader(Halfway(online, False), view, VERSIONS, clock).read(asked([3]), at(1))  # type: ignore[arg-type]
    fact = found.facts["velocity"][0]
    assert fact.fallback is not None and "ahead of all that its shard has announced" in fact.fallback
    assert np.isnan(found.columns["velocity__count_1h"][0])


def test_a_store_that_cannot_be_reached_leaves_defaults_in_place(
    online: LmdbOnlineStore, clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(asks: Sequence[Ask]) -> list[Answer]:
        raise StoreError("The store does not answer.")

    monkeypatch.setattr(online, "read", read)
    found = FeatureReader(online, view, VERSIONS, clock).read(asked([3, 4]), at(2))
    assert all(fact.fallback for facts in found.facts.values() for fact in facts)
    assert found.columns["kyc__tier"].tolist() == ["none", "none"]


def test_values_are_those_of_the_kernel_for_each_key(reader: FeatureReader, online: LmdbOnlineStore) -> None:
    users = list(range(25))  # some of them have no history
    read = reader.read(asked(users), at(25))
    keys = [encode_key(user.keys, [u]) for u in users]
    for group in (velocity, habits):
        states = [held(online, f"{group.name}@1", shard_of(key, SHARDS), [key])[0][0] for key in keys]
        expected = value(layout_of(group), States.from_bytes(states), at(25)).columns
        for name, column in expected.items():
            assert same(read.columns[f"{group.name}__{name}"], column), name


def test_one_row_reads_the_same_bits_as_many(reader: FeatureReader) -> None:
    instants = NOW - np.arange(30, dtype=np.int64) * SECOND // 10
    users = [*range(29), None]
    many = reader.read(asked(users), instants)
    for i, one_user in enumerate(users):
        one = reader.read(asked([one_user]), instants[i : i + 1])
        for name in view.columns:
            assert same(one.columns[name], many.columns[name][i : i + 1]), name
        assert {name: facts[0] for name, facts in one.facts.items()} == {
            name: facts[i] for name, facts in many.facts.items()
        }


def test_a_window_empties_as_time_goes_by_and_nothing_is_written(reader: FeatureReader) -> None:
    counts = [
        float(reader.read(asked([3]), at(1, NOW + t)).columns["together__count_24h"][0])
        for t in (0, 24 * HOUR, 96 * HOUR)
    ]
    assert counts[0] > 0
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 0.0


def test_a_null_key_reads_as_empty_history(reader: FeatureReader) -> None:
    read = reader.read(asked([None]), at(1))
    assert read.columns["velocity__count_1h"][0] == 0.0
    assert np.isnan(read.columns["habits__amount_mean_30d"][0])
    assert read.columns["habits__country_last"][0] is None
    assert read.columns["kyc__tier"][0] == "none"
    assert read.facts["velocity"][0].shard is None
    assert read.facts["velocity"][0].fallback is None


def test_a_group_is_read_under_another_key(reader: FeatureReader) -> None:
    read = reader.read(asked([3, 4], payee=2), at(2))
    assert read.columns["payee__kyc__tier"].tolist() == ["t2", "t2"]
    assert read.columns["kyc__tier"].tolist() == ["none", "t1"]
    assert set(read.facts) == {"velocity", "habits", "together", "kyc", "payee__kyc"}


def test_facts_say_version_positions_and_both_ages(reader: FeatureReader) -> None:
    fact = reader.read(asked([3]), at(1)).facts["velocity"][0]
    assert fact.version == "velocity@1"
    assert fact.shard == shard_of(encode_key(user.keys, [3]), SHARDS)
    assert bytes(fact.positions) == b'{"payments/0":400}'
    assert (fact.age, fact.applied) == (2 * SECOND, SECOND)


def test_positions_are_those_of_the_moment(reader: FeatureReader, online: LmdbOnlineStore) -> None:
    before = reader.read(asked([3]), at(1)).facts["velocity"][0]
    online.write("velocity@1", before.shard or 0, [], ShardMeta(position=5, applied={"payments/0": 410}), 4)
    assert bytes(reader.read(asked([3]), at(1)).facts["velocity"][0].positions) == b'{"payments/0":410}'


@pytest.mark.parametrize("users", [[3], [3, 4, 5]])
def test_a_store_that_fails_gives_nulls_and_says_so(
    online: LmdbOnlineStore, clock: SimulatedClock, users: list[int]
) -> None:
    reader = FeatureReader(Failing(online, "velocity@1"), view, VERSIONS, clock)  # type: ignore[arg-type]
    read = reader.read(asked(users), at(len(users)))
    assert np.isnan(read.columns["velocity__count_1h"]).all()
    assert read.columns["habits__amount_mean_30d"][0] > 0
    assert "cannot be read" in str(read.facts["velocity"][0].fallback)
    assert read.facts["habits"][0].fallback is None


def test_a_store_that_fails_leaves_defaults_in_place(online: LmdbOnlineStore, clock: SimulatedClock) -> None:
    read = FeatureReader(Failing(online, "kyc@1"), view, VERSIONS, clock).read(asked([4]), at(1))  # type: ignore[arg-type]
    assert read.columns["kyc__tier"].tolist() == ["none"]
    assert np.isnan(read.columns["over_limit"][0])


def test_a_group_without_anything_ingested_is_flagged(tmp_path: Path, clock: SimulatedClock) -> None:
    read = FeatureReader(LmdbOnlineStore(tmp_path / "empty"), view, VERSIONS, clock).read(asked([3]), at(1))
    fact = read.facts["velocity"][0]
    assert (fact.fallback, fact.age, fact.applied) == ("nothing is ingested yet", None, None)
    assert np.isnan(read.columns["velocity__count_1h"][0])


@pytest.mark.parametrize("bad", [b"x", b"\0" * 32, b"\x01" + b"\0" * 7])
def test_a_corrupt_state_costs_its_own_key_only(reader: FeatureReader, online: LmdbOnlineStore, bad: bytes) -> None:
    good = reader.read(asked([3, 4]), at(2)).columns["velocity__count_1h"]
    for gv in ("velocity@1", "kyc@1"):
        key = encode_key(user.keys, [4])
        shard = shard_of(key, SHARDS)
        online.write(gv, shard, [(key, bad)], ShardMeta(position=5), 4)
    read = reader.read(asked([3, 4]), at(2))
    assert read.columns["velocity__count_1h"][0] == good[0]
    assert np.isnan(read.columns["velocity__count_1h"][1])
    assert [fact.fallback for fact in read.facts["velocity"]] == [None, "the state of the key is corrupt"]
    assert read.columns["kyc__tier"].tolist() == ["none", "none"]
    assert read.facts["kyc"][1].fallback == "the state of the key is corrupt"


def test_a_batch_row_that_no_run_confirms_expires(reader: FeatureReader, online: LmdbOnlineStore) -> None:
    later = at(1, NOW + 31 * 24 * HOUR)
    assert reader.read(asked([4]), later).columns["kyc__tier"].tolist() == ["none"]
    key = encode_key(user.keys, [4])
    meta = ShardMeta(position=5, extra={"confirmed": str(NOW + 30 * 24 * HOUR)})
    online.write("kyc@1", shard_of(key, SHARDS), [], meta, 4)
    assert reader.read(asked([4]), later).columns["kyc__tier"].tolist() == ["t1"]
    assert reader.read(asked([4, 6, 8]), np.repeat(later, 3)).columns["kyc__tier"][0] == "t1"


def test_an_instant_before_what_a_state_tells_apart_reads_as_null_and_says_so(
    reader: FeatureReader, online: LmdbOnlineStore
) -> None:
    users = list(range(25))
    newest = {}
    for u in users:
        key = encode_key(user.keys, [u])
        state = held(online, "velocity@1", shard_of(key, SHARDS), [key])[0][0]
        newest[u] = int(States.from_bytes([state]).newest[0]) if state else None
    for before in (0, 4 * SECOND, 5 * SECOND, 5 * SECOND + 1, HOUR):
        instants = np.array([NOW if newest[u] is None else newest[u] - before for u in users], np.int64)
        read = reader.read(asked(users, None), instants)
        for place, u in enumerate(users):
            early = newest[u] is not None and before > 5 * SECOND
            assert (read.facts["velocity"][place].fallback == EARLY) == early
            assert np.isnan(read.columns["velocity__count_1h"][place]) == early


def test_a_head_that_is_full_is_exact_from_its_oldest_instant_on() -> None:
    layout = layout_of(velocity)
    for many, exact in ((63, NOW - 5 * SECOND - 999), (64, NOW - 64 * 1_000), (200, NOW - 64 * 1_000)):
        times = NOW - np.arange(many, 0, -1) * 1_000
        table = pa.table({
            "payment_id": [""] * many, "user_id": [1] * many, "device_id": [""] * many, "amount": [1.0] * many,
            "country": [""] * many, "paid_at": pa.array(times, pa.timestamp("us", tz="UTC")), "_partition": [0] * many,
            "_position": np.arange(many), "_arrival": np.full(many, NOW),
        })  # fmt: skip
        (state,) = fold(layout, prepare([velocity], payments, table)[0]).to_bytes()
        for nudge in (-1, 0):
            (columns,), early = Vector([layout]).read([[state]], np.array([exact + nudge]))
            assert (early is not None) == (nudge < 0)
            if nudge == 0:
                assert columns["count_1h"].tolist() == [int((times < exact).sum())]
