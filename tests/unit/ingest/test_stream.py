"""Stream ingestion: exactly once, from the store's own position."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.computing.chain import (
    DEVICES,
    PARTITIONS,
    PAYMENTS,
    VELOCITY,
    Chain,
    expected_states,
    in_right_shard,
    payments,
    version_of,
)

from millstream.buffer.log import Batch
from millstream.buffer.topics import INGESTION, feature_topic, ingestion_consumer
from millstream.buffer.worker import EveryPartition, Owned
from millstream.errors import CorruptState, Fenced, StoreError
from millstream.history.events import History
from millstream.ingest.stream import Applied, StreamIngester
from millstream.store.iceberg.store import IcebergOfflineStore
from millstream.store.lmdb.store import LmdbOnlineStore
from millstream.testing.shards import meta_of, pairs
from millstream.testing.worker_suite import shared_among

actions = st.lists(
    st.sampled_from(["send", "send", "ingest", "ingest", "restart", "save", "lose", "rival"]), min_size=4, max_size=16
)


@settings(max_examples=30, deadline=None)
@given(actions, st.integers(0, 10_000))
def test_restarts_and_a_store_that_lost_its_last_writes_change_nothing(todo: list[str], seed: int) -> None:
    folder = Path(tempfile.mkdtemp())
    chain = Chain(folder, versions=(version_of(VELOCITY), version_of(DEVICES, shards=1)))
    chain.start()
    computer, ingester, sent = chain.computer(micro_batch=9), chain.ingester(), 0
    for number, action in enumerate(todo):
        if action == "send":
            chain.send(PAYMENTS, payments(25, seed + number, first=sent))
            sent += 25
            computer.step()
            computer.step()
        elif action == "ingest":
            ingester.step()
        elif action == "rival":
            late = StreamIngester(chain.log, Slow(chain.online, ingester.step), chain.versions, chain.clock)
            late.step()
        elif action == "save" and (folder / "online").exists():
            shutil.copytree(folder / "online", folder / "saved", dirs_exist_ok=True)
        elif action == "lose" and (folder / "saved").exists():
            shutil.copytree(folder / "saved", folder / f"online{number}")
            chain.online = LmdbOnlineStore(folder / f"online{number}", map_gib=1)
            ingester = chain.ingester()
        else:
            ingester = chain.ingester()
    chain.drain()
    for version in chain.versions:
        assert chain.states(version) == expected_states(chain, version)
        assert in_right_shard(chain, version)
    computer.close()
    shutil.rmtree(folder)


class Slow:
    """A store on which something happens between the reading and the writing of a shard."""

    def __init__(self, online: Any, between: Any) -> None:
        self._online, self._between = online, between

    def __getattr__(self, name: str) -> Any:
        return getattr(self._online, name)

    def write(self, *arguments: Any) -> None:
        self._between()
        self._online.write(*arguments)


def test_a_rival_that_was_faster_leaves_nothing_to_do(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.start()
    chain.send(PAYMENTS, payments(60))
    chain.computer().step()
    late = StreamIngester(chain.log, Slow(chain.online, chain.ingester().step), chain.versions, chain.clock)
    applied = late.step()
    assert (applied.fenced, applied.records) == (2, 0)  # both shards are as they were when the step began
    assert chain.states(chain.versions[0]) == expected_states(chain, chain.versions[0])


class GoneBack(Slow):
    """A store that answers as it was some time ago, and has come up again before the write."""

    def __init__(self, online: Any, before: Any) -> None:
        super().__init__(online, lambda: None)
        self._before = before

    def read(self, asks: Any) -> Any:
        return self._before.read(asks)


def test_values_of_a_store_that_had_gone_back_for_a_moment_are_not_written(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.start()
    computer = chain.computer()
    for number in range(3):
        chain.send(PAYMENTS, payments(60, number, first=60 * number))
        computer.step()
        if number == 1:
            shutil.copytree(tmp_path / "online", tmp_path / "before")
        if number < 2:
            chain.drain()
    before = LmdbOnlineStore(tmp_path / "before", map_gib=1)
    misled = StreamIngester(chain.log, GoneBack(chain.online, before), chain.versions, chain.clock)
    assert (misled.step().fenced, misled.step().written) == (2, 0)
    chain.drain()
    assert chain.states(chain.versions[0]) == expected_states(chain, chain.versions[0])
    computer.close()


def test_the_store_says_what_it_has_applied_and_the_log_is_told(tmp_path: Path) -> None:
    chain = Chain(tmp_path, versions=(version_of(VELOCITY, shards=1),))
    chain.start()
    chain.send(PAYMENTS, payments(60))
    chain.drain()
    meta = meta_of(chain.online, "velocity@1", 0)
    assert meta is not None
    assert meta.applied == {f"payments/{p}": next_ for p, (_, next_) in enumerate(chain.log.ends("payments"))}
    assert meta.position == 2 and meta.backfilled
    assert meta.newest_arrival == chain.clock.now()
    assert chain.log.committed("ingest/velocity@1", "features.velocity@1") == [2]


def test_ingestion_goes_on_from_the_store_not_from_what_the_log_was_told(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.start()
    chain.send(PAYMENTS, payments(60))
    chain.drain()
    chain.online.drop("velocity@1")
    chain.drain()
    assert chain.states(chain.versions[0]) == expected_states(chain, chain.versions[0])


def test_only_what_changed_is_written(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.start()
    chain.send(PAYMENTS, payments(60, users=30))
    chain.drain()
    chain.send(PAYMENTS, [{"id": "new", "user_id": 3, "amount": 5.0, "at": chain.clock.now()}])
    chain.computer().step()
    applied = chain.ingester().step()
    assert (applied.records, applied.keys, applied.written, applied.lag) == (2, 1, 1, 0)


def test_a_version_that_began_in_the_middle_waits(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.send(PAYMENTS, payments(30))
    chain.start("end")
    chain.send(PAYMENTS, payments(30, first=30))
    chain.computer().step()
    applied = chain.ingester().step()
    assert applied.waiting == ("velocity@1",)
    assert (applied.records, applied.lag) == (0, 4)
    assert meta_of(chain.online, "velocity@1", 0) is None


class Told(EveryPartition):
    """A worker that owns what it is told, and is fenced once where it is to be."""

    owned: Owned
    fenced = False

    def assigned(self) -> Owned:
        return self.owned

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        with super().transaction() as work:
            yield work
            if self.fenced:
                self.fenced = False
                raise Fenced("Its partitions have gone to another.", "ask again.")


def test_workers_share_the_shards(tmp_path: Path) -> None:
    chain = Chain(tmp_path, versions=(version_of(VELOCITY, shards=4),))
    chain.start()
    chain.send(PAYMENTS, payments(60))
    chain.computer().step()
    topic = feature_topic("velocity@1")
    with closing(chain.log.worker(INGESTION, [topic])) as one, closing(chain.log.worker(INGESTION, [topic])) as other:
        owned = shared_among([one, other], {topic: 4})
        assert [len(some[topic]) for some in owned] == [2, 2]
        first, second = chain.ingester(worker=one), chain.ingester(worker=other)
        metas = [meta_of(chain.online, "velocity@1", shard) for shard in range(4) if first.step()]
        assert {shard for shard, meta in enumerate(metas) if meta is not None} == owned[0][topic].keys()
        assert second.step().records == 4
    assert chain.states(chain.versions[0]) == expected_states(chain, chain.versions[0])


def test_of_a_shard_that_others_have_had_nothing_is_remembered(tmp_path: Path) -> None:
    chain = Chain(tmp_path, versions=(version_of(VELOCITY, shards=1),))
    chain.start()
    computer, topic = chain.computer(), feature_topic("velocity@1")
    worker = Told(chain.log, [topic])
    ingester, taken = chain.ingester(worker=worker), []
    for number, owned in enumerate([{topic: {0: 1}}, {}, {topic: {0: 3}}]):
        chain.send(PAYMENTS, payments(20, number, first=20 * number))
        computer.step()
        worker.owned, worker.fenced = owned, number == 0
        taken.append(ingester.step().records)
        if not owned:
            assert chain.ingester().step().records
    assert [records > 0 for records in taken] == [True, False, True]
    (told,) = chain.log.committed(ingestion_consumer("velocity@1"), topic)
    assert told == meta_of(chain.online, "velocity@1", 0).position
    assert chain.states(chain.versions[0]) == expected_states(chain, chain.versions[0])


def test_what_a_fenced_transaction_did_not_tell_the_log_is_told_after_the_next_step(tmp_path: Path) -> None:
    chain = Chain(tmp_path, versions=(version_of(VELOCITY, shards=1),))
    chain.start()
    chain.send(PAYMENTS, payments(20))
    chain.computer().step()
    topic = feature_topic("velocity@1")
    worker = Told(chain.log, [topic])
    worker.owned, worker.fenced = {topic: {0: 1}}, True
    ingester = chain.ingester(worker=worker)
    assert ingester.step().records
    assert chain.log.committed(ingestion_consumer("velocity@1"), topic) == [None]
    assert ingester.step().records == 0
    assert chain.log.committed(ingestion_consumer("velocity@1"), topic) == [chain.log.ends(topic)[0][1]]


def test_many_small_batches_are_applied_in_few_writes(tmp_path: Path) -> None:
    chain = Chain(tmp_path, versions=(version_of(VELOCITY, shards=1),))
    chain.start()
    computer = chain.computer()
    for number in range(60):
        chain.send(PAYMENTS, payments(2, number, first=2 * number))
        computer.step()
    ingester, steps = chain.ingester(), 0
    while ingester.step().records:
        steps += 1
    assert steps <= 4
    assert chain.states(chain.versions[0]) == expected_states(chain, chain.versions[0])


def test_a_missing_delta_is_refused(tmp_path: Path) -> None:
    chain = Chain(tmp_path, versions=(version_of(VELOCITY, shards=1),))
    chain.start()
    for number in range(3):
        chain.send(PAYMENTS, payments(30, number, first=30 * number))
        chain.drain() if number == 0 else chain.computer().step()
    meta = meta_of(chain.online, "velocity@1", 0)
    assert meta is not None
    chain.online.write("velocity@1", 0, [], msgspec.structs.replace(meta, position=3), meta.position)
    with pytest.raises(StoreError, match=r"the events of 'payments/\d' .* begins at \d+, expected \d+"):
        chain.ingester().step()
    assert meta_of(chain.online, "velocity@1", 0).position == 3


def deltas_of(chain: Chain) -> list[bytes]:
    return chain.log.read("features.velocity@1", 0, 0, 10**6).payloads


def written_again(chain: Chain, payloads: list[bytes]) -> None:
    """What a worker does that does not know that it was done before."""
    for payload in payloads:
        chain.log.append("features.velocity@1", 0, Batch(payload, "bytes", 1))


def computed_again(chain: Chain, folder: Path, micro_batch: int) -> list[bytes]:
    """The deltas of the same events, cut in another way."""
    other = Chain(folder, versions=chain.versions, clock=chain.clock)
    other.start()
    for partition in range(PARTITIONS):
        found = chain.log.read("payments", partition, 0, 10**6)
        for payload, encoding, count in zip(found.payloads, found.encodings, found.counts.tolist(), strict=True):
            other.log.append("payments", partition, Batch(payload, encoding, count))
    with other.computer(micro_batch=micro_batch) as computer:
        while computer.step().records:
            pass
    return deltas_of(other)


def one_shard(folder: Path) -> Chain:
    """A chain whose deltas are all in one partition, from four micro-batches, with its history."""
    chain = Chain(folder, versions=(version_of(VELOCITY, shards=1),))
    chain.start()
    with chain.computer() as computer:
        for number in range(4):
            chain.send(PAYMENTS, payments(30, number, first=30 * number))
            computer.step()
    return chain


def applied(chain: Chain) -> Applied:
    """Apply all that the buffer holds, with the history at hand."""
    history = History(chain.log, IcebergOfflineStore(chain.folder / "offline"), [PAYMENTS])
    ingester, total = chain.ingester(events=history), Applied()
    while (done := ingester.step()).records:
        total += replace(done, lag=0)
    return total


def test_a_delta_that_comes_again_is_left_out_and_counted(tmp_path: Path) -> None:
    chain = one_shard(tmp_path)
    deltas = deltas_of(chain)
    written_again(chain, [deltas[2], deltas[1], *deltas])
    done = applied(chain)
    assert (done.records, done.repeated, done.refolded) == (12, 6, 0)
    assert chain.states(chain.versions[0]) == expected_states(chain, chain.versions[0])
    written_again(chain, deltas[1:])
    assert applied(chain).repeated == 4
    assert chain.states(chain.versions[0]) == expected_states(chain, chain.versions[0])


@pytest.mark.parametrize("missing", [{1}, {2}, {2, 3}, {1, 3}])
def test_events_of_a_delta_that_is_missing_are_folded_again(tmp_path: Path, missing: set[int]) -> None:
    chain = one_shard(tmp_path)
    deltas = deltas_of(chain)
    chain.log.drop("features.velocity@1")
    chain.log.create("features.velocity@1", 1)
    written_again(chain, [payload for number, payload in enumerate(deltas) if number not in missing])
    done = applied(chain)
    assert done.refolded == len({number + 1 for number in missing} - missing)
    assert chain.states(chain.versions[0]) == expected_states(chain, chain.versions[0])


@pytest.mark.parametrize("micro_batch", [1, 7, 45, 1_000])
def test_a_repeat_that_is_cut_differently_counts_once(tmp_path: Path, micro_batch: int) -> None:
    chain = one_shard(tmp_path / "one")
    again = computed_again(chain, tmp_path / "other", micro_batch)
    deltas = deltas_of(chain)
    written_again(chain, again)
    done = applied(chain)
    assert done.refolded == 0 and done.repeated > 0
    chain.online.drop("velocity@1")
    chain.log.drop("features.velocity@1")
    chain.log.create("features.velocity@1", 1)
    written_again(chain, [*deltas[:3], *again, *deltas])
    applied(chain)
    assert chain.states(chain.versions[0]) == expected_states(chain, chain.versions[0])
    meta = meta_of(chain.online, "velocity@1", 0)
    assert meta is not None
    assert meta.applied == {f"payments/{p}": end for p, (_, end) in enumerate(chain.log.ends("payments"))}


def test_a_shard_stops_when_events_that_it_lacks_are_gone(tmp_path: Path) -> None:
    chain = one_shard(tmp_path)
    deltas = deltas_of(chain)
    chain.log.drop("features.velocity@1")
    chain.log.create("features.velocity@1", 1)
    written_again(chain, [*deltas[:2], *deltas[3:]])
    for partition, (_, end) in enumerate(chain.log.ends("payments")):
        chain.log.trim("payments", partition, end)
    with pytest.raises(StoreError, match="nor can they be read again"):
        applied(chain)


def test_deltas_that_were_trimmed_too_early_are_an_error(tmp_path: Path) -> None:
    chain = Chain(tmp_path, versions=(version_of(VELOCITY, shards=1),))
    chain.start()
    chain.send(PAYMENTS, payments(30))
    chain.drain()
    for number in range(2):
        chain.send(PAYMENTS, payments(30, number, first=30 + 30 * number))
        chain.computer().step()
    chain.log.trim("features.velocity@1", 0, 3)
    with pytest.raises(StoreError, match="the store is at 2, but the buffer begins at 3"):
        chain.ingester().step()


def test_a_damaged_shard_does_not_keep_the_others_waiting(tmp_path: Path) -> None:
    chain = Chain(tmp_path, versions=(version_of(VELOCITY, shards=1), version_of(DEVICES)))
    chain.start()
    chain.send(PAYMENTS, payments(30))
    chain.drain()
    for key, _ in pairs(chain.online, "velocity@1", 0):
        meta = meta_of(chain.online, "velocity@1", 0)
        assert meta is not None
        chain.online.write("velocity@1", 0, [(key, b"not a state")], meta, meta.position)
    before = chain.states(chain.versions[0])
    chain.send(PAYMENTS, payments(30, first=30))
    chain.computer().step()
    with pytest.raises(CorruptState):
        chain.ingester().step()
    assert chain.states(chain.versions[0]) == before
    assert chain.states(chain.versions[1]) == expected_states(chain, chain.versions[1])
