"""Stream computing: exactly once, whatever the micro-batches, the restarts and the rivals."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.computing.chain import (
    ACTIVITY,
    BASE,
    DEVICES,
    LOGINS,
    PARTITIONS,
    PAYMENTS,
    SECOND,
    USER,
    VELOCITY,
    Chain,
    events,
    expected_states,
    payments,
    version_of,
)

import millstream as ms
from millstream.buffer.codec.events import dead_letters
from millstream.buffer.topics import COMPUTING, computing_consumer, dead_topic, feature_topic
from millstream.buffer.worker import EveryPartition
from millstream.computing.positions import Positions
from millstream.computing.stream import StreamComputer
from millstream.definitions.group_version import GroupVersion
from millstream.errors import LogError
from millstream.fold import decode_deltas, layout_of
from millstream.ingest.combine import combine
from millstream.testing.adversarial_log import AdversarialLog
from millstream.testing.worker_suite import shared_among


def deltas(chain: Chain, version: GroupVersion) -> list[Any]:
    topic = feature_topic(version.id)
    return [decode_deltas(one) for s in range(version.shards) for one in chain.log.read(topic, s, 0, 10**6).payloads]


def delta_states(chain: Chain, version: GroupVersion) -> dict[bytes, bytes]:
    """The states that all deltas of a version add up to."""
    keys, states = combine(layout_of(version.group), deltas(chain, version))
    return dict(zip(keys, states.to_bytes(), strict=True))


def letters(chain: Chain, stream: str) -> list[Any]:
    return dead_letters([chain.log.read(dead_topic(stream), p, 0, 10**6) for p in range(PARTITIONS)])


class Rival:
    """A log on which something happens just before each transaction of the one who holds it."""

    def __init__(self, log: Any, before: Any) -> None:
        self._log, self._before = log, before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    @contextmanager
    def transaction(self) -> Any:
        self._before()
        with self._log.transaction() as work:
            yield work


ACTIONS = ["send", "send", "step", "step", "restart", "forget ids", "fenced", "wait"]
actions = st.lists(st.sampled_from(ACTIONS), min_size=4, max_size=16)


@settings(max_examples=30, deadline=None)
@given(actions, st.integers(1, 40), st.integers(0, 10_000))
def test_cuts_restarts_and_rivals_change_nothing(todo: list[str], micro_batch: int, seed: int) -> None:
    folder = Path(tempfile.mkdtemp())
    chain = Chain(folder, versions=(version_of(VELOCITY), version_of(DEVICES, shards=1)))
    chain.start()
    computer, sent = chain.computer(micro_batch=micro_batch), 0
    for number, action in enumerate(todo):
        if action == "send":
            chain.send(PAYMENTS, payments(25, seed + number, first=sent))
            sent += 25
        elif action == "wait":
            chain.clock.advance(1200 * SECOND)
        elif action == "step":
            computer.step()
        elif action == "fenced":
            lost = chain.computer(micro_batch=micro_batch)
            lost._log = Rival(chain.log, computer.step)
            lost.step()
            lost.close()
        else:
            computer.close()
            if action == "forget ids":
                shutil.rmtree(folder / "repeats", ignore_errors=True)
            computer = chain.computer(micro_batch=micro_batch)
    while computer.step().records:
        pass
    computer.close()
    for version in chain.versions:
        assert delta_states(chain, version) == expected_states(chain, version)
    shutil.rmtree(folder)


def test_a_fenced_batch_is_discarded_whole(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.start()
    chain.send(PAYMENTS, payments(40))
    winner = chain.computer()
    loser = StreamComputer(
        Rival(chain.log, winner.step), chain.streams, chain.versions, chain.clock, data=tmp_path / "other"
    )
    progress = loser.step()
    assert (progress.fenced, progress.records, progress.lag) == (1, 0, 0)
    assert loser.counters == {"payments": {"fenced": 1}}
    assert delta_states(chain, chain.versions[0]) == expected_states(chain, chain.versions[0])


def test_workers_share_the_partitions(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.start()
    chain.send(PAYMENTS, payments(200))
    joined = [chain.log.worker(COMPUTING, ["payments"]) for _ in range(2)]
    shared = shared_among(joined, {"payments": PARTITIONS})
    assert sorted(len(one["payments"]) for one in shared) == [1, 2]
    workers = [chain.computer(worker=one) for one in joined]
    read = [worker.step().records for worker in workers]
    assert sum(read) == 200 and all(read)
    assert [worker.step().lag for worker in workers] == [0, 0]
    assert delta_states(chain, chain.versions[0]) == expected_states(chain, chain.versions[0])
    for worker in workers:
        worker.close()


def test_a_worker_that_has_lost_its_partitions_discards_its_batch_and_goes_on_with_what_it_has(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.start()
    chain.send(PAYMENTS, payments(40))
    silent = chain.log.worker(COMPUTING, ["payments"], owner="silent")
    assert set(silent.assigned()["payments"]) == set(range(PARTITIONS))

    class Elsewhere:
        """A worker that believes to have what another, under its name, has given up."""

        def __getattr__(self, name: str) -> Any:
            return getattr(silent, name)

        def assigned(self) -> Any:
            return {"payments": dict.fromkeys(range(PARTITIONS), 1)}

    loser = chain.computer(worker=Elsewhere())
    silent.close()
    with chain.computer(worker=chain.log.worker(COMPUTING, ["payments"])) as winner:
        winner._mine("payments")
        assert loser.step().fenced == 1
        assert winner.step().records == 40
    assert delta_states(chain, chain.versions[0]) == expected_states(chain, chain.versions[0])


@pytest.mark.parametrize("atomic", [True, False])
def test_a_partition_that_comes_back_is_read_from_where_its_last_owner_was(tmp_path: Path, atomic: bool) -> None:
    chain = Chain(tmp_path)
    chain.log = AdversarialLog(chain.log, seed=1, atomic=atomic, torn=0.0)
    chain.start()
    owned = [{"payments": {0: 1, 1: 1, 2: 1}}, {}]

    class Told(EveryPartition):
        def __init__(self, number: int) -> None:
            super().__init__(chain.log, ["payments"])
            self._number = number

        def assigned(self) -> Any:
            return owned[self._number]

    with chain.computer(worker=Told(0)) as first, chain.computer(worker=Told(1)) as second:

        def compute(worker: StreamComputer, number: int) -> int:
            chain.send(PAYMENTS, payments(30, number, first=30 * number))
            return sum(worker.step().records for _ in range(12))

        assert (compute(first, 0), second.step().records) == (30, 0)
        owned[:] = [{}, {"payments": {0: 2, 1: 2, 2: 2}}]
        assert (first.step().records, compute(second, 1)) == (0, 30)
        owned[:] = [{"payments": {0: 3, 1: 3, 2: 3}}, {}]
        assert (compute(first, 2), second.step().records) == (30, 0)
        assert first.step().lag == second.step().lag == 0


def test_what_was_remembered_of_a_partition_is_forgotten_though_its_hint_is_lost(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    embedded = chain.log
    chain.log = AdversarialLog(embedded, seed=1, atomic=False, torn=0.0)
    chain.start()
    consumer, positions = computing_consumer(chain.versions[0].id), Positions(chain.log)
    before = positions.of(consumer, "payments")
    chain.send(PAYMENTS, payments(30))
    with chain.computer() as computer:
        for _ in range(12):
            computer.step()
    after = embedded.committed(consumer, "payments")
    with embedded.transaction() as work:
        for partition, (at, was) in enumerate(zip(after, before, strict=True)):
            work.commit(consumer, "payments", partition, at, was)
    assert positions.of(consumer, "payments") == before
    positions.forget("payments", 1)
    assert positions.of(consumer, "payments") == after != before


def test_every_batch_appends_one_record_to_each_feature_partition(tmp_path: Path) -> None:
    chain = Chain(tmp_path, versions=(version_of(VELOCITY, shards=3),))
    chain.start()
    chain.send(PAYMENTS, payments(1))
    chain.computer().step()
    assert [following for _, following in chain.log.ends("features.velocity@1")] == [2, 2, 2]
    ranges = [delta.ranges for delta in deltas(chain, chain.versions[0])[1::2]]
    assert ranges[0] == ranges[1] == ranges[2]
    assert [end - begin for begin, end in ranges[0].values()] == [1]


def test_versions_at_the_same_place_share_one_reading(tmp_path: Path) -> None:
    chain = Chain(tmp_path, versions=(version_of(VELOCITY), version_of(DEVICES), version_of(VELOCITY, version=2)))
    chain.start()
    chain.send(PAYMENTS, payments(50))
    reads: list[str] = []

    class Watched(Rival):
        def read(self, topic: str, *rest: Any) -> Any:
            reads.append(topic)
            return self._log.read(topic, *rest)

    computer = StreamComputer(
        Watched(chain.log, lambda: None), chain.streams, chain.versions, chain.clock, data=tmp_path
    )
    assert computer.step().records == 50
    assert len(reads) == PARTITIONS


def test_a_version_that_starts_behind_catches_up_and_joins(tmp_path: Path) -> None:
    chain = Chain(tmp_path, versions=(version_of(VELOCITY),))
    chain.start()
    for number in range(6):
        chain.send(PAYMENTS, payments(30, number, first=30 * number))
    chain.computer().step()
    chain.versions = (version_of(VELOCITY), version_of(DEVICES))
    chain.start()
    with chain.computer(micro_batch=60) as computer:
        chain.send(PAYMENTS, payments(30, 9, first=180))
        while computer.step().records:
            pass
        chain.send(PAYMENTS, payments(30, 10, first=210))
        assert computer.step().records == 30
    for version in chain.versions:
        assert delta_states(chain, version) == expected_states(chain, version)


def test_a_union_has_ranges_of_each_stream(tmp_path: Path) -> None:
    chain = Chain(tmp_path, streams=(PAYMENTS, LOGINS), versions=(version_of(ACTIVITY, shards=1),))
    chain.start()
    chain.send(PAYMENTS, payments(30))
    chain.send(LOGINS, [{k: v for k, v in row.items() if k != "id"} for row in payments(30, 1)])
    chain.computer().step()
    start, *others = [set(delta.ranges) for delta in deltas(chain, chain.versions[0])]
    assert start == {f"{stream}/{p}" for stream in ("payments", "logins") for p in range(PARTITIONS)}
    assert {place.split("/")[0] for place in others[0]} == {"payments"}
    assert {place.split("/")[0] for place in others[1]} == {"logins"}
    assert delta_states(chain, chain.versions[0]) == expected_states(chain, chain.versions[0])


def test_wrong_events_become_dead_letters_and_the_rest_goes_on(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.start()
    good = payments(3)
    bad = [
        {"id": "x", "user_id": "seven", "at": BASE},
        {"id": "y", "user_id": 1, "at": "2999-01-01T00:00:00Z"},
        {"id": "z", "user_id": 1, "amount": 1.0},
    ]
    chain.send(PAYMENTS, [good[0], bad[0], good[1], bad[1], bad[2], good[2]])
    computer = chain.computer()
    progress = computer.step()
    assert (progress.records, progress.dead) == (6, 3)
    found = letters(chain, "payments")
    assert sorted(letter.payload[7] for letter in found) == ["x", "y", "z"]
    assert all(letter.reason for letter in found)
    assert delta_states(chain, chain.versions[0]) == expected_states(chain, chain.versions[0])


def test_a_stream_that_no_group_reads_is_checked_too(tmp_path: Path) -> None:
    chain = Chain(tmp_path, versions=())
    chain.send(PAYMENTS, [{"id": "x", "user_id": "seven", "at": BASE}])
    assert chain.computer().step().dead == 1
    assert chain.computer().step().dead == 0


def test_dead_letters_of_a_stream_are_written_once_for_all_versions(tmp_path: Path) -> None:
    chain = Chain(tmp_path, versions=(version_of(VELOCITY),))
    chain.start()
    chain.send(PAYMENTS, [{"id": "x", "user_id": "seven", "at": BASE}, *payments(2)])
    chain.computer().step()
    chain.versions = (version_of(VELOCITY), version_of(DEVICES))
    chain.start()
    chain.drain()
    assert len(letters(chain, "payments")) == 1


def test_a_row_that_a_group_cannot_fold_is_a_dead_letter_of_that_group(tmp_path: Path) -> None:
    strict = ms.StreamFeatureGroup(
        "strict", entity=USER, source=PAYMENTS, derive={"n": "cast(device as bigint)"}, features=[ms.Max("n")]
    )
    huge = ms.StreamFeatureGroup("huge", entity=USER, source=PAYMENTS, features=[ms.Sum("amount", over="1h")])
    chain = Chain(tmp_path, versions=(version_of(strict), version_of(huge)))
    chain.start()
    rows = [
        {"id": "a", "user_id": 1, "device": "5", "amount": 1.0, "at": BASE},
        {"id": "b", "user_id": 1, "device": "five", "amount": 2.0, "at": BASE},
        {"id": "c", "user_id": 1, "device": "6", "amount": 1e300, "at": BASE},
    ]
    chain.send(PAYMENTS, rows)
    computer = chain.computer()
    computer.step()
    found = {letter.reason.split(":")[0]: letter for letter in letters(chain, "payments")}
    assert sorted(found) == ["huge@1", "strict@1"]
    assert '"b"' in found["strict@1"].payload and '"c"' in found["huge@1"].payload
    places = {row["_position"] for row in events(chain.log, PAYMENTS).to_pylist() if row["id"] == "b"}
    assert found["strict@1"].position in places
    assert computer.counters["strict@1"]["dead"] == computer.counters["huge@1"]["dead"] == 1
    assert [len(delta_states(chain, version)) for version in chain.versions] == [1, 1]


def test_what_does_not_count_is_counted_by_reason(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.start()
    row = {"id": "a", "user_id": 1, "device": "5", "amount": 1.0, "at": BASE}
    chain.send(PAYMENTS, [row, row, {**row, "id": "b", "user_id": None}, {**row, "id": "c", "amount": -1.0}])
    computer = chain.computer()
    assert computer.step().skipped == {"null_key": 1, "filtered": 1}
    assert computer.counters == {
        "payments": {"records": 4, "repeats": 1},
        "velocity@1": {"null_key": 1, "filtered": 1},
    }


def test_lag_says_what_is_left(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.start()
    for number in range(4):
        chain.send(PAYMENTS, payments(30, number, first=30 * number))
    computer = chain.computer(micro_batch=3)
    progress = computer.step()
    assert progress.records + progress.lag == 120
    assert progress.lag > 0


def test_a_version_that_has_not_started_is_left_alone(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.send(PAYMENTS, payments(5))
    assert chain.computer().step().keys == 0


def test_a_stream_without_a_topic_is_an_error(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    with pytest.raises(LogError, match="logins"):
        StreamComputer(chain.log, [LOGINS], [], chain.clock, data=tmp_path)
