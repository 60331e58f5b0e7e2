"""Shards on the nodes of a cluster, behind sentinels, and read from replicas."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from tests.conftest import redis_program

from millstream.errors import StoreError
from millstream.store.online import Ask, OnlineStore, ReadsInTime, ShardMeta
from millstream.store.redis.access import Access, ServerUrl
from millstream.store.redis.servers import SLOTS, Servers, slot_of
from millstream.store.redis.store import RedisOnlineStore
from millstream.testing.servers.redis import RedisServer, Sentinel
from millstream.testing.shards import held, pairs, put

STATES, SHARDS = "velocity@1", 12
KEYS = [b"key-%d" % number for number in range(30)]


def opened(url: str, service: str = "", copies: bool = False) -> RedisOnlineStore:
    return RedisOnlineStore(Servers(ServerUrl.of(url), Access(), service, copies), "nodes", 5, chunk=8)


def until(true: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[RedisServer]]:
    """Three primaries, and a replica of the first."""
    program, each = redis_program("redis"), -(-SLOTS // 3)
    settings = {"cluster-enabled": "yes", "cluster-node-timeout": "1000", "cluster-require-full-coverage": "no"}
    with ExitStack() as stack:
        servers = [stack.enter_context(RedisServer(program, **settings)) for _ in range(4)]
        first = servers[0]
        for number, server in enumerate(servers[:3]):
            last = min(SLOTS, (number + 1) * each) - 1
            assert server.ask("CLUSTER", "ADDSLOTSRANGE", str(number * each), str(last)) == b"OK"
            assert server.ask("CONFIG", "SET", "cluster-replica-validity-factor", "0") == b"OK"
        for server in servers[1:]:
            first.ask("CLUSTER", "MEET", "127.0.0.1", str(server.port))
        until(lambda: all(b"cluster_known_nodes:4" in one.ask("CLUSTER", "INFO") for one in servers))
        name = first.ask("CLUSTER", "MYID")
        until(lambda: servers[3].ask("CLUSTER", "REPLICATE", name) == b"OK")
        until(lambda: all(b"cluster_state:ok" in one.ask("CLUSTER", "INFO") for one in servers))
        until(lambda: b"master_link_status:up" in servers[3].ask("INFO", "replication"))
        yield servers


def fill(store: OnlineStore) -> list[Ask]:
    for shard in range(SHARDS):
        put(store, STATES, shard, [(key, b"%d" % shard) for key in KEYS], ShardMeta(position=1), None)
    return [Ask(STATES, shard, KEYS[:3]) for shard in range(SHARDS)]


def answered(store: OnlineStore, asks: list[Ask]) -> list[bool]:
    """Which asks are answered; those that are, are right."""
    answers = store.read(asks)
    assert all(one.failure is not None or set(one.values) == {b"%d" % at} for at, one in enumerate(answers))
    return [one.failure is None for one in answers]


def test_shards_lie_on_all_nodes_and_are_read_written_scanned_and_dropped_by_one_store(
    nodes: list[RedisServer],
) -> None:
    store = opened(f"{nodes[1].url[:-2]},127.0.0.1:{nodes[2].port}/0")
    asks = fill(store)
    assert len({slot_of(b"nodes:velocity@1/%d" % shard) * 3 // SLOTS for shard in range(SHARDS)}) == 3
    assert answered(store, asks) == [True] * SHARDS
    assert store.facts({STATES: SHARDS}) == {STATES: [ShardMeta(position=1)] * SHARDS}
    assert pairs(store, STATES, 5) == sorted((key, b"5") for key in KEYS)
    assert store.states() == [STATES]
    store.drop(STATES)
    assert store.states() == [] and store.facts({STATES: 2}) == {STATES: [None, None]}


def test_a_shard_that_moves_is_followed_while_it_moves_and_afterwards(nodes: list[RedisServer]) -> None:
    store = opened(nodes[1].url)
    store.drop(STATES)
    asks = fill(store)
    shard = next(n for n in range(SHARDS) if slot_of(b"nodes:velocity@1/%d" % n) * 3 // SLOTS == 1)
    slot, source, target = str(slot_of(b"nodes:velocity@1/%d" % shard)), nodes[1], nodes[2]
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.ask("CLUSTER", "MYID"))
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.ask("CLUSTER", "MYID"))
    assert answered(store, asks) == [True] * SHARDS
    place = f"nodes:velocity@1/{shard}"
    assert source.ask("MIGRATE", "127.0.0.1", str(target.port), place, "0", "5000") == b"OK"
    assert answered(store, asks) == [True] * SHARDS
    put(store, STATES, shard, [(KEYS[9], b"new")], ShardMeta(position=2), 1)
    for node in (target, source, nodes[0]):
        node.ask("CLUSTER", "SETSLOT", slot, "NODE", target.ask("CLUSTER", "MYID"))
    for _ in range(2):
        assert answered(store, asks) == [True] * SHARDS
    assert held(store, STATES, shard, [KEYS[9]]) == ([b"new"], ShardMeta(position=2))
    store.drop(STATES)


def test_a_node_that_dies_costs_its_own_shards_until_its_replica_takes_over(nodes: list[RedisServer]) -> None:
    store = opened(nodes[1].url)
    store.drop(STATES)
    asks = fill(store)
    until(lambda: nodes[0].ask("WAIT", "1", "1000") == 1)
    nodes[0].kill()
    mine = [slot_of(b"nodes:velocity@1/%d" % shard) < -(-SLOTS // 3) for shard in range(SHARDS)]
    assert [not one for one in answered(store, asks)] == mine
    until(lambda: all(answered(store, asks)), 60)
    for shard in range(SHARDS):
        until(lambda shard=shard: written(store, shard))
    nodes[0].start()


def written(store: OnlineStore, shard: int) -> bool:
    try:
        put(store, STATES, shard, [(KEYS[0], b"%d" % shard)], ShardMeta(position=2), 1)
    except StoreError:
        return False
    return True


def test_sentinels_name_the_primary_and_scoring_reads_its_replicas() -> None:
    program = redis_program("redis")
    with ExitStack() as stack:
        first, second = (stack.enter_context(RedisServer(program)) for _ in range(2))
        second.ask("REPLICAOF", "127.0.0.1", str(first.port))
        sentinel = stack.enter_context(Sentinel(program))
        sentinel.ask("SENTINEL", "MONITOR", "features", "127.0.0.1", str(first.port), "1")
        sentinel.ask("SENTINEL", "SET", "features", "down-after-milliseconds", "300", "failover-timeout", "3000")
        store = opened(sentinel.url, "features", copies=True)
        until(lambda: b"master_link_status:up" in second.ask("INFO", "replication"))
        with pytest.raises(StoreError, match="knows no server 'featurs'"):
            opened(sentinel.url, "featurs").facts({STATES: 1})
        put(store, STATES, 0, [(b"a", b"1")], ShardMeta(position=1), None)
        until(lambda: first.ask("WAIT", "1", "1000") == 1)
        until(lambda: sound(sentinel.ask("SENTINEL", "REPLICAS", "features")))
        assert isinstance(store, ReadsInTime)
        served = opened(sentinel.url, "features", copies=True).served(2)
        before = reads(second)
        assert held(served, STATES, 0, [b"a"]) == ([b"1"], ShardMeta(position=1))
        assert reads(second) == before + 1
        first.kill()
        until(lambda: moved(store), 60)
        until(lambda: served.read([Ask(STATES, 0, [b"a"])])[0].values == [b"2"])


def moved(store: OnlineStore) -> bool:
    try:
        put(store, STATES, 0, [(b"a", b"2")], ShardMeta(position=2), 1)
    except StoreError:
        return False
    return True


def sound(copies: list[list[bytes]]) -> bool:
    """Whether a sentinel knows a replica that is neither down nor disconnected, as far as it has heard."""
    return any(copy[copy.index(b"flags") + 1] == b"slave" for copy in copies)


def reads(server: RedisServer) -> int:
    """How many commands that read shards a server has carried out."""
    told = server.ask("INFO", "commandstats").decode()
    found = [line for line in told.splitlines() if line.startswith("cmdstat_hmget:")]
    return int(found[0].partition("calls=")[2].partition(",")[0]) if found else 0
