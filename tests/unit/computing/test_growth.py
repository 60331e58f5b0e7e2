"""A stream whose topic gets more partitions while it is computed, and while group versions begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.computing.chain import (
    PARTITIONS,
    PAYMENTS,
    VELOCITY,
    Chain,
    LogHistory,
    expected_states,
    payments,
    version_of,
)

from millstream.buffer.codec.events import partition_of
from millstream.buffer.computed import computed_in
from millstream.buffer.lag import records_behind, records_ever
from millstream.buffer.log import Batch
from millstream.buffer.retention import reached, trim_consumed
from millstream.buffer.topics import CHECK, COMPUTING, computing_consumer, dead_topic
from millstream.buffer.writing import widen
from millstream.computing.positions import Positions
from millstream.computing.start_markers import start_markers, start_version
from millstream.errors import LogError
from millstream.history.events import History
from millstream.ingest.backfill import fold_history, go_live
from millstream.store.iceberg.store import IcebergOfflineStore
from millstream.store.online import shard_metas
from millstream.testing.adversarial_log import AdversarialLog

GV = "velocity@1"


@pytest.fixture(params=["embedded", "gaps", "torn"])
def chain(tmp_path: Path, request: pytest.FixtureRequest) -> Chain:
    chain = Chain(tmp_path)
    if request.param != "embedded":
        chain.log = AdversarialLog(chain.log, seed=3, atomic=request.param == "gaps")
    return chain


def drain(chain: Chain, **options: Any) -> None:
    """Compute and ingest until nothing is left, whatever the log keeps back."""
    history = History(chain.log, IcebergOfflineStore(chain.folder / "offline"), [PAYMENTS])
    ingester = chain.ingester(events=history)
    with chain.computer(**options) as computer:
        for _ in range(500):
            computed, ingested = computer.step(), ingester.step()
            if not (computed.lag or computed.fenced or ingested.lag or ingested.fenced):
                return
    raise AssertionError("the buffer is empty in the end")


def expected(chain: Chain, number: int = 0) -> dict[bytes, bytes]:
    """What folding everything at once gives, by the log that keeps nothing back."""
    log = chain.log
    chain.log = getattr(log, "embedded", log)
    try:
        return expected_states(chain, chain.versions[number])
    finally:
        chain.log = log


def test_a_partition_that_comes_is_computed_from_its_first_event_on(chain: Chain) -> None:
    chain.start()
    chain.send(PAYMENTS, payments(40))
    drain(chain)
    chain.log.grow("payments", 5)
    chain.send(PAYMENTS, payments(60, first=40))
    chain.log.append("payments", 4, Batch(b"{}", "json", 1))
    assert all(end for _, end in chain.log.ends("payments"))
    drain(chain)
    assert chain.states(chain.versions[0]) == expected(chain)
    applied = {f"payments/{partition}": end for partition, (_, end) in enumerate(chain.log.ends("payments"))}
    assert all(meta and meta.applied == applied for meta in shard_metas(chain.online, GV, 2))
    assert chain.log.behind(dead_topic("payments"), 4, 0).records >= 1


def test_a_worker_that_runs_takes_in_what_comes_to_a_new_partition(chain: Chain) -> None:
    chain.start()
    with chain.computer(worker=chain.log.worker(COMPUTING, ["payments"])) as running:
        for first in range(0, 150, 30):
            chain.send(PAYMENTS, payments(30, first=first))
            for _ in range(3):
                running.step()
            chain.log.grow("payments", len(chain.log.ends("payments")) + 1)
        running._worker.close()
    drain(chain)
    assert len(chain.log.ends("payments")) == 8
    assert chain.states(chain.versions[0]) == expected(chain)


def test_a_log_that_grows_by_itself_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.log = AdversarialLog(chain.log, seed=5, widest=9)
    chain.start()
    for first in range(0, 200, 20):
        chain.send(PAYMENTS, payments(20, first=first))
        drain(chain, micro_batch=7)
    assert chain.log.topics()["payments"] > PARTITIONS
    assert chain.log.topics()["features.velocity@1"] == 2
    assert chain.states(chain.versions[0]) == expected(chain)


def test_markers_of_before_growth_hold_and_later_versions_have_one_in_every_partition(chain: Chain) -> None:
    chain.versions = (version_of(VELOCITY), version_of(VELOCITY, version=2))
    first, second = chain.versions
    chain.send(PAYMENTS, payments(40))
    before = start_version(chain.log, chain.marks, first, [PAYMENTS], chain.clock)
    chain.log.grow("payments", 5)
    chain.send(PAYMENTS, payments(60, first=40))
    assert start_version(chain.log, chain.marks, first, [PAYMENTS], chain.clock) == before
    assert start_markers(chain.marks, GV) == before
    assert computed_in(chain.log, GV, "payments") == [*before.values(), 0, 0]
    after = start_version(chain.log, chain.marks, second, [PAYMENTS], chain.clock)
    assert list(after) == [f"payments/{partition}" for partition in range(5)]
    chain.send(PAYMENTS, payments(30, first=100))
    history = History(chain.log, IcebergOfflineStore(chain.folder / "offline"), [PAYMENTS])
    for version in chain.versions:
        fold_history(version, history, chain.online, chain.log, chain.marks, _Registry(), chain.clock)
    drain(chain)
    for number, version in enumerate(chain.versions):
        assert go_live(version, chain.online, chain.log, chain.marks, _Registry())
        assert chain.states(version) == expected(chain, number)


def test_a_version_whose_first_deltas_are_gone_goes_on_in_every_partition(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.start()
    chain.log.grow("payments", 5)
    chain.send(PAYMENTS, payments(60))
    drain(chain)
    chain.log.drop("features.velocity@1")
    chain.online.drop(GV)
    chain.log.grow("payments", 6)
    chain.start()
    chain.send(PAYMENTS, payments(30, first=60))
    fold_history(
        chain.versions[0], LogHistory(chain.log), chain.online, chain.log, chain.marks, _Registry(), chain.clock
    )
    drain(chain)
    assert chain.states(chain.versions[0]) == expected(chain)


def test_what_is_lost_of_a_new_partition_is_folded_from_its_first_event_on(chain: Chain) -> None:
    chain.start()
    chain.send(PAYMENTS, payments(20))
    drain(chain)
    chain.log.grow("payments", 4)
    ahead = getattr(chain.log, "embedded", chain.log)
    rows = payments(40, first=20)
    chain.send(PAYMENTS, rows[:20])
    with ahead.transaction() as work:  # somebody has committed what he has not written
        work.commit(computing_consumer(GV), "payments", 3, None, chain.log.ends("payments")[3][1])
    chain.send(PAYMENTS, rows[20:])
    if chain.log.atomic:
        [_, _, _, at] = computed_in(chain.log, GV, "payments")
        assert at == ahead.committed(computing_consumer(GV), "payments")[3]
    else:
        assert computed_in(chain.log, GV, "payments")[3] == 0
    drain(chain)
    assert chain.states(chain.versions[0]) == expected(chain)


def test_events_of_a_new_partition_stay_until_everybody_has_read_them(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.start()
    chain.send(PAYMENTS, payments(20))
    drain(chain)
    chain.log.grow("payments", 4)
    chain.log.append("payments", 3, Batch(b"{}", "json", 1))
    consumers = [CHECK, computing_consumer(GV)]
    assert None not in reached(chain.log, "payments", consumers)[:3]
    assert reached(chain.log, "payments", consumers)[3] is None
    trim_consumed(chain.log, PAYMENTS, consumers, chain.clock, early=True)
    assert chain.log.ends("payments")[3] == (0, 1)
    assert records_behind(chain.log, "payments", computed_in(chain.log, GV, "payments")) == 1
    drain(chain)
    trim_consumed(chain.log, PAYMENTS, consumers, chain.clock, early=True)
    assert chain.log.ends("payments")[3] == (1, 1)


def test_where_readers_stand_is_told_of_the_partitions_that_come(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.log = AdversarialLog(chain.log, seed=1, atomic=False, torn=0.0)
    chain.start()
    positions = Positions(chain.log)
    assert positions.of(computing_consumer(GV), "payments") == [0, 0, 0]
    chain.log.grow("payments", 5)
    assert positions.of(computing_consumer(GV), "payments") == [0] * 5
    assert positions.of(CHECK, "payments") == [None] * 5
    assert positions.standing(computing_consumer(GV), ["payments"]) == {f"payments/{p}": (0, 0) for p in range(5)}


def test_an_id_is_repeated_in_its_partition_alone(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.start()
    rows = payments(30)
    places = [(_partition(row, 3), row["id"]) for row in rows]
    chain.send(PAYMENTS, rows)
    chain.log.grow("payments", 7)
    places += [(_partition(row, 7), row["id"]) for row in rows]
    chain.send(PAYMENTS, rows)
    with chain.computer() as computer:
        while computer.step().records:
            pass
        assert computer.counters["payments"]["repeats"] == 60 - len(set(places))
    assert len({name for _, name in places}) < len(set(places)) < 60
    drain(chain)
    assert chain.states(chain.versions[0]) == expected(chain)


def _partition(row: dict[str, Any], partitions: int) -> int:
    ((partition, _),) = partition_of(PAYMENTS, [row], partitions)
    return partition


def test_a_topic_is_widened_whoever_makes_it(tmp_path: Path) -> None:
    log = Chain(tmp_path).log
    widen(log, "dead.payments", 2)
    widen(log, "dead.payments", 5)
    widen(log, "dead.payments", 3)
    assert log.topics()["dead.payments"] == 5

    class Raced:
        def __getattr__(self, name: str) -> Any:
            return getattr(log, name)

        def create(self, topic: str, partitions: int) -> None:
            log.create(topic, 1)
            raise LogError("it is there with another number of partitions", "")

    widen(Raced(), "dead.logins", 4)  # type: ignore[arg-type]
    assert log.topics()["dead.logins"] == 4
    assert records_ever(log, "dead.logins") == 0


class _Registry:
    """The part of a registry that backfill calls."""

    def set_state(self, gv: str, state: str) -> None:
        pass

    def go_live(self, gv: str) -> bool:
        return True
