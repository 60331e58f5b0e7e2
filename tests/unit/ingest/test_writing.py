"""Writing to a store that takes a write in pieces: what is half done is known, and is completed by whoever comes next."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.unit.computing.chain import PAYMENTS, Chain, expected_states, payments
from tests.unit.ingest.test_backfill import run

from millstream.errors import Fenced, StoreError
from millstream.ingest.stream import StreamIngester
from millstream.ingest.writing import TRIES, write_all
from millstream.store.lmdb.store import LmdbOnlineStore
from millstream.store.online import BEGUN, Ask, BulkLoad, Page, ShardMeta, pages, read_shard
from millstream.testing.adversarial_online import AdversarialOnlineStore
from millstream.testing.shards import held, meta_of, pairs

GV = "velocity@1"
KEYS = [b"key-%d" % number for number in range(20)]


class Died(Exception):
    """The process has died."""


class Dying(AdversarialOnlineStore):
    """A store whose writer dies after some pieces of writes."""

    left = -1

    def _chunk(self, *given: Any) -> list[bytes]:
        if self.left == 0:
            raise Died
        self.left -= 1
        return super()._chunk(*given)


class Loading(AdversarialOnlineStore):
    """A store that takes many values faster where nobody reads them yet."""

    loads = 0

    def load(
        self, states: str, shard: int, changes: Sequence[tuple[bytes, bytes]], meta: ShardMeta, expected: int
    ) -> None:
        """Write values and the meta."""
        self.loads += bool(changes)
        head = meta.position.to_bytes(8, "big", signed=True)
        self.embedded.write(states, shard, [(key, head + value) for key, value in changes], meta, expected)


def store_of(folder: Path, seed: int = 1, kind: type[AdversarialOnlineStore] = AdversarialOnlineStore) -> Any:
    return kind(LmdbOnlineStore(folder / "online", map_gib=1), seed)


def stubborn(store: AdversarialOnlineStore, calls: int) -> None:
    """Let a store refuse every key of that many writes."""
    store._stubborn = calls + 1


def test_refused_keys_are_written_again(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    stubborn(store, 3)
    write_all(store, GV, 0, [(key, b"1") for key in KEYS], ShardMeta(position=4), None)
    assert held(store, GV, 0, KEYS) == ([b"1"] * len(KEYS), ShardMeta(position=4))


def test_a_store_that_refuses_for_ever_is_given_up_with_the_write_pending(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    stubborn(store, 10 * TRIES)
    with pytest.raises(Fenced) as raised:
        write_all(store, GV, 0, [(key, b"1") for key in KEYS], ShardMeta(position=4), None)
    assert f"has refused {len(KEYS)} keys {TRIES} times" in raised.value.message
    assert meta_of(store, GV, 0) == ShardMeta(position=BEGUN, pending=ShardMeta(position=4))
    store._stubborn = 0
    write_all(store, GV, 0, [(key, b"1") for key in KEYS], ShardMeta(position=4), BEGUN)
    assert held(store, GV, 0, KEYS[:1]) == ([b"1"], ShardMeta(position=4))


@pytest.mark.parametrize("pieces", range(8))
def test_what_a_dead_writer_left_half_done_is_completed_once(tmp_path: Path, pieces: int) -> None:
    chain = Chain(tmp_path)
    chain.online = store = store_of(tmp_path, seed=pieces, kind=Dying)
    chain.start()
    for part in range(3):
        chain.send(PAYMENTS, payments(40, first=40 * part))
        with chain.computer(micro_batch=10) as computer:
            while computer.step().records:
                pass
        store.left = pieces
        with suppress(Died):
            chain.ingester().step()
        store.left = -1
        chain.clock.advance(3_600_000_000)
    ingester = chain.ingester()
    while (done := ingester.step()).records or done.fenced:
        pass
    assert chain.states(chain.versions[0]) == expected_states(chain, chain.versions[0])
    assert all(meta_of(store, GV, shard).pending is None for shard in range(2))


def test_deltas_that_are_not_those_of_the_pending_write_are_refused(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.online = store = store_of(tmp_path)
    chain.start()
    chain.send(PAYMENTS, payments(60))
    chain.computer().step()
    stubborn(store, 10 * TRIES)
    assert chain.ingester().step().fenced == 2
    store._stubborn = 0
    other = ShardMeta(position=1, applied={"payments/0": 1}, backfilled=True)
    store.embedded.write(GV, 0, [], ShardMeta(position=BEGUN, pending=other), BEGUN)
    with pytest.raises(StoreError, match="are not those that the writer had"):
        StreamIngester(chain.log, store, chain.versions, chain.clock).step()


@pytest.mark.parametrize("kind", [AdversarialOnlineStore, Loading])
def test_backfill_fills_a_store_that_writes_in_pieces(tmp_path: Path, kind: type[AdversarialOnlineStore]) -> None:
    for seed in range(3):
        chain = Chain(tmp_path / str(seed))
        chain.online = store = store_of(chain.folder, seed, kind)
        chain.send(PAYMENTS, payments(120))
        chain.start("end")
        chain.send(PAYMENTS, payments(30, first=120))
        stubborn(store, 3 * TRIES)
        run(chain, chain.versions[0])
        store._stubborn = 0
        with chain.computer() as computer:
            while computer.step().records:
                pass
        ingester = chain.ingester()
        while (done := ingester.step()).records or done.fenced:
            pass
        assert chain.states(chain.versions[0]) == expected_states(chain, chain.versions[0])
        assert isinstance(store, BulkLoad) == (kind is Loading)
        assert getattr(store, "loads", 1) > 0


def test_what_is_answered_late_is_of_one_instant(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    write_all(store, GV, 0, [(key, b"1") for key in KEYS], ShardMeta(position=1), None)
    turns = []

    def others() -> None:
        if not turns:
            turns.append(1)
            write_all(store, GV, 0, [(key, b"2") for key in KEYS], ShardMeta(position=2), 1)

    store.meanwhile = others
    [before] = store.read([Ask(GV, 0, KEYS)])
    [after] = store.read([Ask(GV, 0, KEYS)])
    assert (set(before.values), before.meta.position) == ({b"1"}, 1)
    assert (set(after.values), after.meta.position) == ({b"2"}, 2)


def test_every_reader_between_two_pieces_is_told_what_each_value_holds(tmp_path: Path) -> None:
    store = store_of(tmp_path, seed=3)
    write_all(store, GV, 0, [(key, b"1") for key in KEYS], ShardMeta(position=1), None)
    seen = []

    def others() -> None:
        store.meanwhile = None
        answer = read_shard(store, GV, 0, KEYS)
        seen.append([(value, meta.position) for value, meta in zip(answer.values, answer.metas(), strict=True)])
        store.meanwhile = others

    store.meanwhile = others
    write_all(store, GV, 0, [(key, b"2") for key in KEYS], ShardMeta(position=2), 1)
    assert any(len(set(one)) == 2 for one in seen)
    assert {pair for one in seen for pair in one} == {(b"1", 1), (b"2", 2)}


def test_a_scan_that_does_not_move_on_ends_in_one_sentence(tmp_path: Path) -> None:
    class Stuck(AdversarialOnlineStore):
        def scan(self, states: str, shard: int, cursor: bytes | None = None, limit: int = 10_000) -> Page:
            return Page([], b"1000")

    with pytest.raises(StoreError, match="gives nothing more from cursor"):
        list(pages(store_of(tmp_path, kind=Stuck), GV, 0))
    assert pairs(store_of(tmp_path), GV, 0) == []
