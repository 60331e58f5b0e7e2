"""Deltas in parts: a log that takes small records only, and is torn anywhere, gives the states of one fold of all events."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.unit.computing.chain import PAYMENTS, VELOCITY, Chain, expected_states, payments, version_of

from millstream.buffer.computed import computed_in
from millstream.buffer.log import Batch
from millstream.buffer.parts import part_of
from millstream.history.events import History
from millstream.ingest.stream import StreamIngester
from millstream.store.iceberg.store import IcebergOfflineStore
from millstream.store.online import shard_metas
from millstream.testing.adversarial_log import AdversarialLog

GV = version_of(VELOCITY)
TOPIC = "features.velocity@1"


class Killed(Exception):
    """The process died."""


class Torn:
    """A log that takes so many batches of a transaction, and none after them; nothing is committed then."""

    atomic = False

    def __init__(self, log: Any, batches: int) -> None:
        self._log, self._left = log, batches

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        yield self
        raise Killed

    def append(self, topic: str, partition: int, batch: Batch, arrival: int | None = None) -> None:
        if topic == TOPIC and self._left:
            self._left -= 1
            self._log.append(topic, partition, batch, arrival)

    def commit(self, *_: Any) -> None:
        pass


def begin(folder: Path, largest: int = 700, *, atomic: bool = False) -> Chain:
    chain = Chain(folder, versions=(GV,))
    chain.log = AdversarialLog(chain.log, 4, atomic=atomic, torn=0.0, largest=largest)
    chain.start()
    for at in range(0, 60, 3):
        for row in payments(3, first=at):
            chain.send(PAYMENTS, [row])
    return chain


def ingester(chain: Chain) -> StreamIngester:
    return chain.ingester(events=History(chain.log, IcebergOfflineStore(chain.folder / "offline"), [PAYMENTS]))


def settle(chain: Chain) -> None:
    with chain.computer() as computer:
        work = ingester(chain)
        for _ in range(500):
            done, applied = computer.step(), work.step()
            if not (done.records or done.lag or applied.records or applied.lag):
                return
    raise AssertionError("the buffer is empty in the end")


def check_states(chain: Chain) -> None:
    found, log = chain.states(GV), chain.log
    chain.log = log.embedded  # which gives all that it has in one read
    assert found == expected_states(chain, GV)
    chain.log = log


def payloads(chain: Chain) -> list[bytes]:
    log = chain.log.embedded
    return [payload for shard in range(2) for payload in log.read(TOPIC, shard, 0, 10**6).payloads]


@pytest.mark.parametrize("atomic", [True, False])
def test_deltas_in_parts_give_the_states_of_one_fold(tmp_path: Path, atomic: bool) -> None:
    chain = begin(tmp_path, atomic=atomic)
    settle(chain)
    parts = [part for payload in payloads(chain) if (part := part_of(payload))]
    assert len(parts) > 4 and all(len(payload) <= 700 for payload in payloads(chain))
    check_states(chain)


@pytest.mark.parametrize("torn", range(12))
def test_a_worker_that_dies_between_any_two_parts_leaves_nothing_lost_or_doubled(tmp_path: Path, torn: int) -> None:
    """Be it within a record, or before the one of the next partition: whoever computes next, or ingests, sees it."""
    chain = begin(tmp_path)
    log, chain.log = chain.log, Torn(chain.log, torn)
    with chain.computer() as computer, pytest.raises(Killed):
        computer.step()
    chain.log = log
    work = ingester(chain)
    for _ in range(20):
        work.step()  # what is torn is waited for; whatever is whole is taken
    settle(chain)
    check_states(chain)
    one, other = shard_metas(chain.online, GV.states, 2)
    assert one and other and one.applied == other.applied


@pytest.mark.parametrize("torn", range(1, 12))
def test_a_torn_record_between_those_of_others_is_folded_again_from_the_source(tmp_path: Path, torn: int) -> None:
    chain = begin(tmp_path)
    log, chain.log = chain.log, Torn(chain.log, torn)
    with chain.computer() as computer, pytest.raises(Killed):
        computer.step()
    left = [log.embedded.read(TOPIC, shard, 1, 10**6).payloads for shard in range(2)]
    chain.log = log
    settle(chain)
    for shard, some in enumerate(left):  # what the dead worker has sent comes once more, long after
        for payload in some[-1:]:
            log.append(TOPIC, shard, Batch(payload, "bytes", 1))
    chain.send(PAYMENTS, payments(1, first=70))
    settle(chain)
    check_states(chain)


def test_what_nobody_completes_is_folded_again_after_a_minute(tmp_path: Path) -> None:
    chain = begin(tmp_path)
    settle(chain)
    for row in payments(30, first=70):
        chain.send(PAYMENTS, [row])
    log, chain.log = chain.log, Torn(chain.log, 1)
    before = len(payloads_of(log))
    with chain.computer() as computer, pytest.raises(Killed):
        computer.step()
    chain.log = log
    assert len(payloads_of(log)) == before + 1
    assert part_of(payloads_of(log)[-1]) is not None
    work = ingester(chain)
    waiting = [work.step() for _ in range(8)]  # a read of this log may give nothing
    assert all(done.lag and not done.refolded for done in waiting)
    chain.clock.advance(61_000_000)
    later = [work.step() for _ in range(8)]
    assert (later[-1].lag, sum(done.refolded for done in later)) == (0, 1)


def payloads_of(log: Any) -> list[bytes]:
    return log.embedded.read(TOPIC, 0, 0, 10**6).payloads


def test_a_torn_record_does_not_count_as_computed(tmp_path: Path) -> None:
    chain = begin(tmp_path)
    began = computed_in(chain.log, "velocity@1", "payments")
    log, chain.log = chain.log, Torn(chain.log, 1)
    with chain.computer() as computer, pytest.raises(Killed):
        computer.step()
    assert part_of(payloads_of(log)[-1]) is not None
    assert computed_in(log, "velocity@1", "payments") == began
