"""What every online store must do. Subclass it, give it a `factory` fixture, and pytest runs the rest."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event

import msgspec
import pytest

from millstream.errors import Fenced
from millstream.store.online import Ask, Forgets, OnlineStore, ShardMeta, pages
from millstream.testing.processes import PROCESSES
from millstream.testing.shards import held, meta_of, pairs, put

GV = "velocity@1"
Factory = Callable[[], OnlineStore]
_KEYS = [b"key-%03d" % number for number in range(200)]


class OnlineStoreConformance:
    """The contract of `OnlineStore`, as tests.

    Override `factory`: a fixture that returns a picklable callable, which opens one and the same store, at first empty,
    in this process or another.
    """

    @pytest.fixture
    def factory(self) -> Factory:
        """How to open the store under test."""
        raise NotImplementedError("override the fixture `factory`")

    @pytest.fixture
    def store(self, factory: Factory) -> OnlineStore:
        """The store, opened here."""
        return factory()

    def test_what_does_not_exist_reads_as_none(self, store: OnlineStore) -> None:
        assert held(store, GV, 0, [b"a", b"b"]) == ([None, None], None)
        assert meta_of(store, GV, 0) is None
        assert pairs(store, GV, 0) == []
        store.drop(GV)

    def test_values_come_back_in_the_order_of_the_keys_with_their_meta(self, store: OnlineStore) -> None:
        meta = ShardMeta(
            position=7,
            applied={"payments/0": 3, "payments/1": 9},
            newest_arrival=1_700_000_000_000_000,
            applied_at=5,
            backfilled=True,
            epoch=2,
            extra={"confirmed": "12"},
        )
        put(store, GV, 0, [(b"a", b"1"), (b"b", b"")], meta, None)
        assert held(store, GV, 0, [b"b", b"x", b"a", b"b"]) == ([b"", None, b"1", b""], meta)
        assert meta_of(store, GV, 0) == meta
        assert held(store, GV, 0, []) == ([], meta)

    def test_a_write_replaces_adds_and_leaves_the_rest(self, store: OnlineStore) -> None:
        put(store, GV, 0, [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")], ShardMeta(position=1), None)
        put(store, GV, 0, [(b"a", b"9"), (b"b", b""), (b"d", b"4")], ShardMeta(position=2), 1)
        assert held(store, GV, 0, [b"a", b"b", b"c", b"d"])[0] == [b"9", b"", b"3", b"4"]
        put(store, GV, 0, [], ShardMeta(position=3), 2)
        assert pairs(store, GV, 0) == [(b"a", b"9"), (b"b", b""), (b"c", b"3"), (b"d", b"4")]

    def test_one_call_answers_for_many_shards(self, store: OnlineStore) -> None:
        put(store, GV, 0, [(b"a", b"1")], ShardMeta(position=1), None)
        put(store, GV, 1, [(b"b", b"2")], ShardMeta(position=2), None)
        asks = [Ask(GV, 1, [b"b", b"a"]), Ask("other@1", 0, [b"a"]), Ask(GV, 0, [b"a"]), Ask(GV, 1), Ask(GV, 1, [b"b"])]
        found = [(answer.values, answer.meta and answer.meta.position) for answer in store.read(asks)]
        assert found == [([b"2", None], 2), ([None], None), ([b"1"], 1), ([], 2), ([b"2"], 2)]
        assert store.read([]) == []

    def test_facts_of_all_versions_come_in_one_call(self, store: OnlineStore) -> None:
        put(store, GV, 1, [(b"b", b"2")], ShardMeta(position=2), None)
        assert store.facts({GV: 3, "other@1": 1}) == {GV: [None, ShardMeta(position=2), None], "other@1": [None]}
        assert store.facts({}) == {}

    def test_a_write_that_was_refused_in_part_says_what_each_value_holds(self, store: OnlineStore) -> None:
        put(store, GV, 0, [(key, b"1") for key in _KEYS], ShardMeta(position=1), None)
        refused = store.write(GV, 0, [(key, b"2") for key in _KEYS], ShardMeta(position=2), 1)
        [answer] = store.read([Ask(GV, 0, _KEYS)])
        assert answer.meta is not None
        assert (answer.meta.position, answer.meta.pending) == ((1, ShardMeta(position=2)) if refused else (2, None))
        assert _torn(store) == []
        if refused:
            assert answer.ahead(1) == {place for place, value in enumerate(answer.values) if value == b"2"}
            with pytest.raises(Fenced):
                store.write(GV, 0, [(key, b"3") for key in _KEYS], ShardMeta(position=3), 1)
            put(store, GV, 0, [(key, b"2") for key in refused], ShardMeta(position=2), 1)
        assert held(store, GV, 0, _KEYS) == ([b"2"] * len(_KEYS), ShardMeta(position=2))

    def test_what_is_ahead_is_not_written_again(self, store: OnlineStore) -> None:
        put(store, GV, 0, [(key, b"1") for key in _KEYS], ShardMeta(position=1), None)
        if not store.write(GV, 0, [(key, b"2") for key in _KEYS], ShardMeta(position=2), 1):
            return
        [answer] = store.read([Ask(GV, 0, _KEYS)])
        ahead = {_KEYS[place] for place in answer.ahead(1)}
        assert ahead <= set(store.write(GV, 0, [(key, b"twice") for key in sorted(ahead)], ShardMeta(position=2), 1))

    @pytest.mark.parametrize("expected", [None, 0, 4, 6])
    def test_a_stale_writer_is_fenced_and_changes_nothing(self, store: OnlineStore, expected: int | None) -> None:
        put(store, GV, 0, [(b"a", b"1")], ShardMeta(position=5), None)
        with pytest.raises(Fenced):
            store.write(GV, 0, [(b"a", b"2"), (b"b", b"2")], ShardMeta(position=9), expected)
        assert held(store, GV, 0, [b"a", b"b"]) == ([b"1", None], ShardMeta(position=5))

    def test_a_writer_that_expects_a_shard_which_is_not_there_is_fenced(self, store: OnlineStore) -> None:
        with pytest.raises(Fenced):
            store.write(GV, 0, [(b"a", b"1")], ShardMeta(position=2), 1)
        assert held(store, GV, 0, [b"a"]) == ([None], None)

    def test_group_versions_and_shards_are_apart(self, store: OnlineStore) -> None:
        places = [(GV, 0), (GV, 1), ("velocity@2", 0)]
        for position, place in enumerate(places):
            put(store, *place, [(b"a", b"%d" % position)], ShardMeta(position=position), None)
        for position, place in enumerate(places):
            assert held(store, *place, [b"a"]) == ([b"%d" % position], ShardMeta(position=position))

    def test_any_bytes_are_a_key(self, store: OnlineStore) -> None:
        keys = [
            b"",
            b"\0",
            b"\0" * 479,
            b"\xff" * 511,
            b"a" * 500,
            b"a" * 501,
            b"a" * 502,
            b"a" * 5000,
            b"meta",
            b"states",
        ]
        items = [(key, b"value of %d" % number) for number, key in enumerate(keys)]
        put(store, GV, 0, items, ShardMeta(position=1), None)
        assert held(store, GV, 0, keys)[0] == [value for _, value in items]
        assert held(store, GV, 0, [b"a" * 503, b"\0" * 480])[0] == [None, None]
        assert sorted(pairs(store, GV, 0)) == sorted(items)

    @pytest.mark.parametrize("limit", [1, 7, 1000])
    def test_pages_of_a_scan_cover_every_key(self, store: OnlineStore, limit: int) -> None:
        keys = [b"%d" % number for number in range(50)] + [b"x" * length for length in range(490, 520)] + [b""]
        put(store, GV, 0, [(key, key) for key in keys], ShardMeta(position=1), None)
        found = [pair for page in pages(store, GV, 0, None, limit) for pair in page.items]
        assert all(key == value for key, value in found)
        assert {key for key, _ in found} == set(keys)

    @pytest.mark.parametrize("count", [0, 1, 150])
    def test_forgotten_keys_read_as_none_and_all_else_stays(self, store: OnlineStore, count: int) -> None:
        forget, meta = forgetting(store), ShardMeta(position=4, extra={"log": "7"})
        put(store, GV, 0, [(key, b"1") for key in _KEYS], meta, None)
        put(store, GV, 1, [(key, b"2") for key in _KEYS], meta, None)
        gone = [*_KEYS[:count], b"", b"never there", b"long" * 200]
        forget(GV, 0, gone, 4)
        forget(GV, 0, gone, 4)  # as who was not answered does
        assert held(store, GV, 0, _KEYS) == ([None] * count + [b"1"] * (200 - count), meta)
        assert pairs(store, GV, 0) == [(key, b"1") for key in _KEYS[count:]]
        assert held(store, GV, 1, _KEYS)[0] == [b"2"] * 200
        put(store, GV, 0, [(_KEYS[0], b"3")], ShardMeta(position=5), 4)
        assert held(store, GV, 0, _KEYS[:1]) == ([b"3"], ShardMeta(position=5))

    @pytest.mark.parametrize("expected", [3, 5])
    def test_nothing_is_forgotten_of_a_shard_that_is_elsewhere(self, store: OnlineStore, expected: int) -> None:
        forget = forgetting(store)
        with pytest.raises(Fenced):
            forget(GV, 0, [b"a"], expected)
        put(store, GV, 0, [(b"a", b"1")], ShardMeta(position=4), None)
        with pytest.raises(Fenced):
            forget(GV, 0, [b"a"], expected)
        assert held(store, GV, 0, [b"a"])[0] == [b"1"]

    def test_nothing_is_forgotten_while_a_write_is_pending(self, store: OnlineStore) -> None:
        forget = forgetting(store)
        put(store, GV, 0, [(key, b"1") for key in _KEYS], ShardMeta(position=1), None)
        refused = store.write(GV, 0, [(key, b"2") for key in _KEYS], ShardMeta(position=2), 1)
        with pytest.raises(Fenced):
            forget(GV, 0, _KEYS, 1)
        assert None not in held(store, GV, 0, _KEYS)[0]
        if refused:
            put(store, GV, 0, [(key, b"2") for key in refused], ShardMeta(position=2), 1)
        forget(GV, 0, _KEYS, 2)
        assert pairs(store, GV, 0) == []

    def test_what_is_written_while_others_forget_stays(self, store: OnlineStore, factory: Factory) -> None:
        forgetting(store)
        put(store, GV, 0, [(key, b"0") for key in _KEYS], ShardMeta(position=0), None)
        over = PROCESSES.Event()
        other = PROCESSES.Process(target=_forget_what_is_old, args=(factory, over))
        other.start()
        try:
            for position in range(1, 60):
                keys = _KEYS[position : position + 3]
                put(store, GV, 0, [(key, b"new") for key in keys], ShardMeta(position=position), position - 1)
        finally:
            over.set()
            other.join(30)
        assert other.exitcode == 0
        assert held(store, GV, 0, _KEYS[1:62])[0] == [b"new"] * 61

    def test_a_dropped_version_is_gone_and_can_begin_anew(self, store: OnlineStore) -> None:
        for shard in range(2):
            put(store, GV, shard, [(b"a", b"1")], ShardMeta(position=5), None)
        put(store, "other@1", 0, [(b"a", b"1")], ShardMeta(position=5), None)
        store.drop(GV)
        assert [held(store, GV, shard, [b"a"]) for shard in range(2)] == [([None], None)] * 2
        assert pairs(store, GV, 0) == []
        with pytest.raises(Fenced):
            store.write(GV, 0, [(b"a", b"2")], ShardMeta(position=6), 5)
        put(store, GV, 0, [(b"b", b"2")], ShardMeta(position=0, epoch=1), None)
        assert held(store, GV, 0, [b"a", b"b"]) == ([None, b"2"], ShardMeta(position=0, epoch=1))
        assert held(store, "other@1", 0, [b"a"])[0] == [b"1"]

    def test_threads_read_states_and_meta_of_one_write(self, store: OnlineStore) -> None:
        _write_round(store, 0)
        stop = threading.Event()
        torn: list[object] = []

        def reader() -> None:
            while not stop.is_set():
                torn.extend(_torn(store))

        readers = [threading.Thread(target=reader) for _ in range(3)]
        for thread in readers:
            thread.start()
        for position in range(1, 60):
            _write_round(store, position)
        stop.set()
        for thread in readers:
            thread.join()
        assert torn == []

    def test_another_process_sees_writes_and_drops(self, store: OnlineStore, factory: Factory) -> None:
        put(store, GV, 0, [(b"a", b"1")], ShardMeta(position=1), None)
        here, there = PROCESSES.Pipe()
        child = PROCESSES.Process(target=_answer, args=(factory, there))
        child.start()
        try:
            assert _ask(here, b"a") == (b"1", 1)
            put(store, GV, 0, [(b"a", b"2")], ShardMeta(position=2), 1)
            assert _ask(here, b"a") == (b"2", 2)
            store.drop(GV)
            assert _ask(here, b"a") == (None, None)
            put(store, GV, 0, [(b"a", b"3")], ShardMeta(position=1), None)
            assert _ask(here, b"a") == (b"3", 1)
        finally:
            here.send(None)
            child.join()

    def test_reads_during_drops_see_one_write_or_nothing(self, store: OnlineStore, factory: Factory) -> None:
        _write_round(store, 0)
        children, pipes = [], []
        for _ in range(2):
            here, there = PROCESSES.Pipe()
            children.append(PROCESSES.Process(target=_read_for_ever, args=(factory, there)))
            children[-1].start()
            pipes.append(here)
        try:
            for pipe in pipes:
                pipe.recv()
            end = time.monotonic() + 2
            while time.monotonic() < end:
                store.drop(GV)
                _write_round(store, 0)
                for position in range(1, 4):
                    _write_round(store, position)
        finally:
            for pipe in pipes:
                pipe.send(None)
        assert [pipe.recv() for pipe in pipes] == [[], []]
        for child in children:
            child.join()

    def test_two_processes_that_race_apply_each_position_once(self, store: OnlineStore, factory: Factory) -> None:
        rounds = 100
        put(store, GV, 0, [(b"sum", b"0")], ShardMeta(position=0), None)
        children = [PROCESSES.Process(target=_count_up, args=(factory, rounds)) for _ in range(2)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        assert [child.exitcode for child in children] == [0, 0]
        assert held(store, GV, 0, [b"sum"]) == ([b"%d" % sum(range(rounds))], ShardMeta(position=rounds))

    @pytest.mark.parametrize("delay", [0.05, 0.15, 0.3])
    def test_a_killed_writer_loses_nothing_acknowledged_and_tears_nothing(self, factory: Factory, delay: float) -> None:
        here, there = PROCESSES.Pipe(duplex=False)
        child = PROCESSES.Process(target=_write_for_ever, args=(factory, there))
        child.start()
        there.close()
        acknowledged = here.recv()
        threading.Event().wait(delay)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        try:
            while True:
                acknowledged = here.recv()
        except EOFError:
            pass
        store = factory()
        meta = meta_of(store, GV, 0)
        assert meta is not None
        assert acknowledged <= meta.position <= acknowledged + 1
        assert _torn(store) == []
        _write_round(store, meta.position + 1)
        assert _torn(store) == []


def _write_round(store: OnlineStore, position: int) -> None:
    value = b"%d" % position
    items = [(key, value) for key in _KEYS]
    put(store, GV, 0, items, ShardMeta(position=position), None if position == 0 else position - 1)


def _torn(store: OnlineStore) -> list[object]:
    """The values that are not what the store says they hold."""
    [answer] = store.read([Ask(GV, 0, _KEYS)])
    told = [None if meta is None or meta.position < 0 else b"%d" % meta.position for meta in answer.metas()]
    return [pair for pair in zip(answer.values, told, strict=True) if pair[0] != pair[1]]


def _answer(factory: Factory, pipe: Connection) -> None:
    store = factory()
    while (key := pipe.recv()) is not None:
        [state], meta = held(store, GV, 0, [key])
        pipe.send((state, None if meta is None else meta.position))


def _ask(pipe: Connection, key: bytes) -> tuple[bytes | None, int | None]:
    pipe.send(key)
    answer: tuple[bytes | None, int | None] = pipe.recv()
    return answer


def _read_for_ever(factory: Factory, pipe: Connection) -> None:
    """Reads in threads, through one store and through ever new ones; sends at the end what was not as it should be."""
    stop = threading.Event()
    wrong: list[str] = []
    kept = factory()

    def read(opened: Factory) -> None:
        while not stop.is_set():
            try:
                store = opened()
                torn = _torn(store)
                if torn or set(_values(store)) - {b"%d" % position for position in range(4)}:
                    wrong.append(repr(torn))
            except Exception as error:
                wrong.append(repr(error))

    threads = [threading.Thread(target=read, args=(opened,)) for opened in (lambda: kept, lambda: kept, factory)]
    for thread in threads:
        thread.start()
    pipe.send(None)
    pipe.recv()
    stop.set()
    for thread in threads:
        thread.join()
    pipe.send(wrong[:5])


def _values(store: OnlineStore) -> list[bytes]:
    return [value for _, value in pairs(store, GV, 0)]


def _count_up(factory: Factory, rounds: int) -> None:
    """Adds each position below `rounds` to a sum, beside another process that does the same."""
    store = factory()
    while True:
        [answer] = store.read([Ask(GV, 0, [b"sum"])])
        [state], meta = answer.values, answer.meta
        assert meta is not None and state is not None
        if meta.position >= rounds:
            return
        step = msgspec.structs.replace(meta, position=meta.position + 1, pending=None)
        changes = [] if answer.ahead(meta.position) else [(b"sum", b"%d" % (int(state) + meta.position))]
        try:
            put(store, GV, 0, changes, step, meta.position)
        except Fenced:
            continue


def _write_for_ever(factory: Factory, pipe: Connection) -> None:
    store = factory()
    position = 0
    while True:
        _write_round(store, position)
        pipe.send(position)
        position += 1


def forgetting(store: OnlineStore) -> Callable[[str, int, Sequence[bytes], int], None]:
    """How a store forgets keys; the test is skipped where it cannot."""
    if not isinstance(store, Forgets):
        pytest.skip("this store cannot let go of single keys")
    return store.forget


def _forget_what_is_old(factory: Factory, over: Event) -> None:
    """Remove the keys whose value is an old one, as they were read, until it is over."""
    store = factory()
    while not over.is_set():
        [answer] = store.read([Ask(GV, 0, _KEYS)])
        old = [key for key, value in zip(_KEYS, answer.values, strict=True) if value == b"0"]
        with suppress(Fenced):
            if answer.meta is not None:
                forgetting(store)(GV, 0, old, answer.meta.position)
