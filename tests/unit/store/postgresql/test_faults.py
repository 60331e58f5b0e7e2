"""Whatever happens between us and the server, or to the server, every position is applied once."""

from __future__ import annotations

import random
import time

import pytest
from tests.unit.store.counting import KEYS, OTHERS, STATES, check, count_up
from tests.unit.store.proxy import AnswersFail

from millstream.store import connections
from millstream.store.online import Ask, OnlineStore, ShardMeta
from millstream.store.postgresql.access import Access
from millstream.store.postgresql.connection import Connection
from millstream.store.postgresql.server import Server
from millstream.store.postgresql.store import PostgresqlOnlineStore
from millstream.testing.servers.postgresql import PASSWORD, USER, PostgreSQL

KILLS = 6


def opened(url: str, seconds: float, copied: int = 1 << 20) -> PostgresqlOnlineStore:
    return PostgresqlOnlineStore(Server(Access.of(url, PASSWORD), "faults", seconds), seconds, copied=copied)


def begin(store: OnlineStore) -> None:
    for states, value in ((STATES, b"0"), (OTHERS, b"theirs")):
        store.write(states, 0, [(key, value) for key in KEYS], ShardMeta(position=0), None)


@pytest.mark.parametrize("seed", range(3))
def test_answers_that_fail_lose_nothing_double_nothing_and_mix_nothing(
    postgresql: PostgreSQL, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REST", 0.02)
    url = postgresql.database(USER)
    sound = opened(url, 10)
    begin(sound)
    with AnswersFail(postgresql.port, seed, 0.1) as proxy:
        through = url.replace(str(postgresql.port), str(proxy.port))
        count_up(opened(f"{through}?sslmode=disable", 0.3, seed % 2 << 20))
        assert sum(proxy.met.values()) > 5
    check(sound)


@pytest.mark.parametrize("copied", [0, 1 << 20])
def test_a_server_that_is_killed_in_the_middle_of_writes_applies_each_once(
    postgresql: PostgreSQL, copied: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REST", 0.05)
    store, rng = opened(postgresql.database(USER), 5, copied), random.Random(copied)
    begin(store)

    def kill_and_start() -> None:
        for _ in range(KILLS // 2):
            time.sleep(rng.uniform(0.05, 0.3))
            postgresql.crash()
            postgresql.start()

    port = postgresql.port
    count_up(store, kill_and_start)
    assert postgresql.port == port
    check(store)


def test_a_caller_that_is_interrupted_leaves_no_rows_to_the_next_one(
    postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    store = opened(postgresql.database(USER), 10)
    store.write(STATES, 0, [(b"a", b"1"), (b"b", b"2")], ShardMeta(position=0), None)
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(Connection, "_wait", interrupted)
            with pytest.raises(KeyboardInterrupt):
                store.read([Ask(STATES, 0, [b"a"])])
        [answer] = store.read([Ask(STATES, 0, [b"b"])])
        assert answer.values == [b"2"]
