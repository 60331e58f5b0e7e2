"""Whatever happens between us and the server, every position is applied once, and no reply is taken for another's."""

from __future__ import annotations

import threading

import msgspec
import pytest
from tests.redis_servers import RedisServer
from tests.unit.store.redis.proxy import RedisProxy

from millstream.errors import Fenced, StoreError
from millstream.store.online import BEGUN, Ask, OnlineStore, ShardMeta
from millstream.store.redis import node
from millstream.store.redis.access import Access, ServerUrl
from millstream.store.redis.connection import Connection
from millstream.store.redis.servers import Servers
from millstream.store.redis.store import RedisOnlineStore

STATES, KEYS, ROUNDS = "velocity@1", [b"key-%d" % number for number in range(20)], 25


def opened(url: str, prefix: str, seconds: float = 0.1) -> RedisOnlineStore:
    return RedisOnlineStore(Servers(ServerUrl.of(url), Access()), prefix, seconds, chunk=6)


def step(store: OnlineStore) -> bool:
    """Add the position of the shard to every value, once, whoever else does; returns whether there is more to do."""
    [answer] = store.read([Ask(STATES, 0, KEYS)])
    meta = answer.sound().meta
    assert meta is not None
    if meta.position >= ROUNDS:
        return False
    ahead = answer.ahead(meta.position)
    after = msgspec.structs.replace(meta, position=meta.position + 1, pending=None)
    added = meta.position
    changes = [
        (key, b"%d" % (int(value or 0) + added))
        for place, (key, value) in enumerate(zip(KEYS, answer.values, strict=True))
        if place not in ahead
    ]
    store.write(STATES, 0, changes, after, meta.position)
    return True


def apply_all(store: OnlineStore, failed: list[BaseException]) -> None:
    while True:
        try:
            if not step(store):
                return
        except (StoreError, Fenced):
            continue
        except BaseException as error:
            failed.append(error)
            return


def look_on(store: OnlineStore, over: threading.Event, failed: list[object]) -> None:
    """Read while others write: every value is the sum of the positions that its meta says it holds."""
    while not over.is_set():
        try:
            [answer, other] = store.read([Ask(STATES, 0, KEYS[::-1]), Ask("other@1", 0, KEYS)])
        except StoreError:
            continue
        held = [meta.position if meta else BEGUN for meta in answer.metas()]
        sums = [None if value is None else int(value) for value in answer.values]
        if answer.failure is None and sums != [sum(range(at)) for at in held]:
            failed.append((sums, held))
        if other.failure is None and set(other.values) != {b"theirs"}:
            failed.append(other)


@pytest.mark.parametrize("seed", range(10))
def test_answers_that_fail_lose_nothing_double_nothing_and_mix_nothing(
    redis_server: RedisServer, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "REST", 0.02)
    prefix = f"faults{seed}"
    sound = opened(redis_server.url, prefix, 10)
    sound.write(STATES, 0, [(key, b"0") for key in KEYS[:6]], ShardMeta(position=0), None)
    sound.write("other@1", 0, [(key, b"theirs") for key in KEYS[:6]], ShardMeta(position=0), None)
    sound.load(STATES, 0, [(key, b"0") for key in KEYS], ShardMeta(position=0), 0)
    sound.load("other@1", 0, [(key, b"theirs") for key in KEYS], ShardMeta(position=0), 0)
    failed: list[BaseException] = []
    wrong: list[object] = []
    over = threading.Event()
    with RedisProxy(redis_server.port, seed, 0.25) as proxy:
        store = opened(proxy.url, prefix)
        writers = [threading.Thread(target=apply_all, args=(store, failed)) for _ in range(2)]
        readers = [threading.Thread(target=look_on, args=(store, over, wrong)) for _ in range(2)]
        for thread in writers + readers:
            thread.start()
        for thread in writers:
            thread.join()
        over.set()
        for thread in readers:
            thread.join()
        assert sum(proxy.met.values()) > 5
    [answer] = sound.read([Ask(STATES, 0, KEYS)])
    assert failed == [] and wrong == []
    assert answer.meta == ShardMeta(position=ROUNDS)
    assert answer.values == [b"%d" % sum(range(ROUNDS))] * len(KEYS)


def test_a_caller_that_is_interrupted_leaves_no_reply_to_the_next_one(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    store = opened(redis_server.url, "interrupted", 10)
    store.write(STATES, 0, [(b"a", b"1"), (b"b", b"2")], ShardMeta(position=0), None)
    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(Connection, "receive", interrupted)
            with pytest.raises(KeyboardInterrupt):
                store.read([Ask(STATES, 0, [b"a"])])
        [answer] = store.read([Ask(STATES, 0, [b"b"])])
        assert answer.values == [b"2"]
