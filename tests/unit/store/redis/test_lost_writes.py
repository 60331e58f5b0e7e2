"""A server that has lost its last second, or gave way to a replica that lagged: ingestion goes on from what it still has."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from tests.conftest import redis_program

import millstream as ms
from millstream.errors import StoreError
from millstream.store.redis.store import RedisOnlineStore
from millstream.testing.servers.redis import RedisServer
from millstream.testing.shards import pairs

USER = ms.Entity("user", keys={"user_id": "int64"})
PAYMENTS = ms.EventStream(
    "payments", time="paid_at", schema={"user_id": "int64", "amount": "float64", "paid_at": "timestamp"}
)
SPEED = ms.StreamFeatureGroup(
    "speed",
    entity=USER,
    source=PAYMENTS,
    features=[
        ms.Count(over=["5m", "24h"]),
        ms.Sum("amount", over="1h"),
        ms.Std("amount", over="30d"),
        ms.Last("amount"),
    ],
)
VIEW = ms.FeatureView("speed", features=[SPEED])
USERS, BATCHES = 40, 6


def opened(folder: Path, url: str, chunk: int) -> ms.Project:
    (folder / "millstream.toml").write_text(f'[online]\nkind = "redis"\nurl = "{url}"\ntimeout = "5s"')
    project = ms.Project(folder)
    assert isinstance(project.parts.online, RedisOnlineStore)
    project.parts.online._chunk = chunk
    return project


def send(project: ms.Project, rng: random.Random) -> None:
    now = project.clock.now()
    rows = [
        {"user_id": rng.randrange(USERS), "amount": rng.uniform(0, 99), "paid_at": now - rng.randrange(10**9)}
        for _ in range(200)
    ]
    project.send(PAYMENTS, rows)
    drain(project)


def drain(project: ms.Project) -> None:
    """Drain, as layers do: what fails because the server was away is tried again."""
    end = time.monotonic() + 30
    while True:
        try:
            project.drain()
            return
        except StoreError:
            assert time.monotonic() < end
            time.sleep(0.05)


def held(project: ms.Project) -> list[list[tuple[bytes, bytes]]]:
    (version,) = project.parts.registry.groups()
    return [pairs(project.parts.online, version.states, shard) for shard in range(version.shards)]


@pytest.mark.parametrize("chunk", [1_000, 3])
def test_what_a_restart_has_lost_is_ingested_again_once(tmp_path: Path, chunk: int) -> None:
    rng = random.Random(chunk)
    with RedisServer(redis_program("redis")) as server, opened(tmp_path, server.url, chunk) as project:
        project.apply(VIEW)
        sizes = []
        for _ in range(BATCHES):
            send(project, rng)
            sizes.append(server.journal.stat().st_size)
        before, at = held(project), project.clock.now()
        keys = [{"user_id": user} for user in range(USERS)]
        values = project.features(VIEW, keys, at=at)
        lost = 0
        for _ in range(5):
            server.lose(rng.randrange(sizes[0] // 2, server.journal.stat().st_size))
            server.start()
            lost += held(project) != before
            drain(project)
            assert held(project) == before
            assert project.features(VIEW, keys, at=at).equals(values)
        assert lost > 2


def test_a_replica_that_lagged_takes_over_and_is_caught_up(tmp_path: Path) -> None:
    rng = random.Random(1)
    program = redis_program("valkey")
    with RedisServer(program) as first, RedisServer(program) as second, opened(tmp_path, first.url, 7) as project:
        project.apply(VIEW)
        second.ask("REPLICAOF", "127.0.0.1", str(first.port))
        send(project, rng)
        assert first.ask("WAIT", "1", "10000") == 1
        second.ask("REPLICAOF", "NO", "ONE")  # from here on it lags for ever
        for _ in range(BATCHES):
            send(project, rng)
        before, at = held(project), project.clock.now()
        values = project.features(VIEW, [{"user_id": user} for user in range(USERS)], at=at)
        project.close()
        with opened(tmp_path, second.url, 7) as after:
            assert held(after) != before
            drain(after)
            assert held(after) == before
            assert after.features(VIEW, [{"user_id": user} for user in range(USERS)], at=at).equals(values)


def test_a_server_that_comes_back_empty_is_filled_again_from_the_buffer(tmp_path: Path) -> None:
    rng = random.Random(2)
    with RedisServer(redis_program("valkey")) as server, opened(tmp_path, server.url, 100) as project:
        project.apply(VIEW)
        send(project, rng)
        before = held(project)
        server.ask("FLUSHALL")
        assert sum(map(len, held(project))) == 0
        drain(project)
        assert held(project) == before
