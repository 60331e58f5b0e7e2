"""How far computing is: what was committed on an atomic log, what the records say on any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.computing.chain import PAYMENTS, VELOCITY, Chain, payments, version_of

from millstream.buffer.computed import computed_in
from millstream.buffer.log import Batch
from millstream.buffer.writing import Append, Commit, append_and_commit
from millstream.errors import Fenced
from millstream.history.events import History
from millstream.ingest.stream import StreamIngester
from millstream.store.iceberg.store import IcebergOfflineStore
from millstream.store.online import shard_metas

GV = version_of(VELOCITY)


class Bare:
    """A log that is not atomic, whose transactions do all the same what they are told."""

    atomic = False

    def __init__(self, log: Any) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


class Parts:
    """A log that notes what comes in which transaction."""

    atomic = False

    def __init__(self) -> None:
        self.done: list[list[Any]] = []

    def transaction(self) -> Any:
        return self

    def __enter__(self) -> Any:
        self.done.append([])
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def append(self, *given: Any) -> None:
        self.done[-1].append(given)

    def commit(self, *given: Any) -> None:
        self.done[-1].append(given)
        raise Fenced.moved("a reader", 1, 2)


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    chain = Chain(tmp_path, versions=(GV,))
    chain.log = Bare(chain.log)
    chain.start()
    chain.send(PAYMENTS, payments(60))
    return chain


def commit(chain: Chain, positions: list[int]) -> None:
    known = chain.log.committed("compute/velocity@1", "payments")
    with chain.log.transaction() as work:
        for partition, to in enumerate(positions):
            work.commit("compute/velocity@1", "payments", partition, known[partition], to)


def ends(chain: Chain) -> list[int]:
    return [end for _, end in chain.log.ends("payments")]


def ingester(chain: Chain) -> StreamIngester:
    return chain.ingester(events=History(chain.log, IcebergOfflineStore(chain.folder / "offline"), [PAYMENTS]))


def test_a_worker_goes_by_its_records_when_the_offset_is_behind_or_ahead(chain: Chain) -> None:
    with chain.computer() as computer:
        computer.step()
    chain.send(PAYMENTS, payments(30, first=60))
    reached = computed_in(chain.log, "velocity@1", "payments")
    assert any(reached) and reached != ends(chain)
    for offset in ([0, 0, 0], ends(chain)):
        commit(chain, offset)
        assert computed_in(chain.log, "velocity@1", "payments") == reached
        assert computed_in(chain.log._log, "velocity@1", "payments") == offset
    with chain.computer() as computer:
        while computer.step().records:
            pass
    while ingester(chain).step().records:
        pass
    metas = shard_metas(chain.online, "velocity@1", 2)
    wanted = {f"payments/{partition}": end for partition, end in enumerate(ends(chain))}
    assert [meta and meta.applied for meta in metas] == [wanted, wanted]


def test_each_record_says_of_every_partition_how_far_computing_is(chain: Chain) -> None:
    from millstream.fold.deltas import ranges_of

    with chain.computer() as computer:
        computer.step()
        chain.log.append("payments", 1, Batch(b"{}", "json", 1))
        computer.step()
    last = chain.log.read("features.velocity@1", 0, 0, 100).payloads[-1]
    before, at = ends(chain), ranges_of(last)
    assert {place: to for place, (_, to) in at.items()} == {f"payments/{p}": end for p, end in enumerate(before)}
    assert [begin == to for begin, to in at.values()] == [True, False, True]


def test_an_offset_without_its_data_is_computed_again_by_who_begins(chain: Chain) -> None:
    commit(chain, ends(chain))
    work = ingester(chain)
    assert work.step().lag == 0
    with chain.computer() as computer:
        assert computer.step().records
        assert not computer.step().records
    done = work.step()
    assert (done.records, done.repeated, done.refolded) == (2, 0, 0)


def test_data_comes_before_its_offset_and_an_offset_that_was_moved_is_left_so() -> None:
    log = Parts()
    append_and_commit(log, [Append("t", 0, Batch(b"x", "bytes", 1))], [Commit("c", "s", 0, 1, 5)])
    assert [[one[0] for one in some] for some in log.done] == [["t"], ["c"]]
