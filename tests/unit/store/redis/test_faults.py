"""Whatever happens between us and the server, every position is applied once, and no reply is taken for another's."""

from __future__ import annotations

import pytest
from tests.unit.store.counting import KEYS, OTHERS, STATES, check, count_up
from tests.unit.store.proxy import AnswersFail

from millstream.store import connections
from millstream.store.online import Ask, ShardMeta
from millstream.store.redis.access import Access, ServerUrl
from millstream.store.redis.connection import Connection
from millstream.store.redis.servers import Servers
from millstream.store.redis.store import RedisOnlineStore
from millstream.testing.servers.redis import RedisServer


def opened(url: str, prefix: str, seconds: float = 0.1) -> RedisOnlineStore:
    return RedisOnlineStore(Servers(ServerUrl.of(url), Access()), prefix, seconds, chunk=6)


@pytest.mark.parametrize("seed", range(10))
def test_answers_that_fail_lose_nothing_double_nothing_and_mix_nothing(
    redis_server: RedisServer, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REST", 0.02)
    prefix = f"faults{seed}"
    sound = opened(redis_server.url, prefix, 10)
    sound.write(STATES, 0, [(key, b"0") for key in KEYS[:6]], ShardMeta(position=0), None)
    sound.write(OTHERS, 0, [(key, b"theirs") for key in KEYS[:6]], ShardMeta(position=0), None)
    sound.load(STATES, 0, [(key, b"0") for key in KEYS], ShardMeta(position=0), 0)
    sound.load(OTHERS, 0, [(key, b"theirs") for key in KEYS], ShardMeta(position=0), 0)
    with AnswersFail(redis_server.port, seed, 0.25) as proxy:
        count_up(opened(f"redis://127.0.0.1:{proxy.port}/0", prefix))
        assert sum(proxy.met.values()) > 5
    check(sound)


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
