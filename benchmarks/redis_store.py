"""Ingestion into Redis, and the read of 8 groups, beside redis-py pipelines of the same bytes.

Fair: one server, on the same machine and cores, which writes its append-only file as servers are set up to; the peer is
redis-py with its C parser. What is ingested are the same states of the same keys in the same micro-batches. Ours also reads
deltas from the log, reads each key's old state, merges, compares and moves positions; the peer only writes, a pipeline of
`HSET` a micro-batch. Reads: the same fields of the same hashes in one pipeline; ours also compares checksums, and tells what
the values hold.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import redis

from benchmarks.harness import Claim, Scale, in_turns, seconds
from benchmarks.ingestion import Deltas, Items
from millstream.store.online import Ask, OnlineStore, ShardMeta
from millstream.store.redis.access import Access, ServerUrl
from millstream.store.redis.records import Place, asked
from millstream.store.redis.servers import Servers
from millstream.store.redis.store import RedisOnlineStore
from millstream.testing.servers.redis import RedisServer

GROUPS = 8
READS = 2_000


class Recording(RedisOnlineStore):
    """The store, keeping what is written to each shard."""

    def __init__(self, servers: Servers, prefix: str) -> None:
        super().__init__(servers, prefix, 60)
        self.writes: list[tuple[int, Items]] = []

    def write(
        self, states: str, shard: int, changes: Sequence[tuple[bytes, bytes]], meta: ShardMeta, expected: int | None
    ) -> Sequence[bytes]:
        """Write, and keep the changes."""
        self.writes.append((shard, list(changes)))
        return super().write(states, shard, changes, meta, expected)


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """A Redis server of its own, and its URL."""
    remedy = RedisServer.lacking()
    if remedy is not None:
        raise SystemExit(f"redis_store needs redis-server: {remedy}")
    path = folder / "redis.sock"
    with RedisServer(unixsocket=str(path)):
        yield f"unix://{path}"


def run(scale: Scale) -> Iterator[Claim]:
    """Micro-batches of payments as they come, then reads of one key in 8 groups."""
    with tempfile.TemporaryDirectory() as name, server(Path(name)) as url:
        folder, client, prefixes = Path(name), redis.Redis.from_url(url), count()
        servers = Servers(ServerUrl.of(url), Access())
        deltas = Deltas(folder, scale.of(800_000, least=1_000), scale.of(50_000, least=100), batches=20)
        recorded = Recording(servers, f"b{next(prefixes)}")
        deltas.ingest(recorded, at_once=1)
        writes = [write for write in recorded.writes if write[1]]

        def ours() -> float:
            client.flushall()
            return deltas.keys / deltas.ingest(RedisOnlineStore(servers, f"b{next(prefixes)}", 60), at_once=1)

        def theirs() -> float:
            client.flushall()
            return deltas.keys / seconds(lambda: _put(client, writes))

        found = in_turns(ours, theirs, scale.repeats)
        note = f"states of {sum(len(value) for _, items in writes for _, value in items) / deltas.keys:,.0f} bytes"
        yield Claim("ingestion", "keys/s", *found, "a redis-py pipeline of HSET a micro-batch", "higher", 0.6, note)
        yield from _reads(scale, client, RedisOnlineStore(servers, "reads", 60))


def _put(client: Any, writes: Sequence[tuple[int, Items]]) -> None:
    for shard, items in writes:
        pipeline = client.pipeline(transaction=False)
        name = b"raw/%d" % shard
        for key, value in items:
            pipeline.hset(name, key, value)
        pipeline.execute()


def _reads(scale: Scale, client: Any, store: OnlineStore) -> Iterator[Claim]:
    keys = [b"user-%d" % number for number in range(1_000)]
    asks = [Ask(f"group{number}@1", 0, ()) for number in range(GROUPS)]
    for ask in asks:
        meta = ShardMeta(position=1, applied={"payments/0": 9, "payments/1": 8}, newest_arrival=1, applied_at=1)
        store.write(ask.states, 0, [(key, bytes(400)) for key in keys], meta, None)
    places = [Place("reads", ask.states, 0) for ask in asks]
    reads = scale.of(READS, least=50)

    def ours() -> float:
        return seconds(lambda: [_read(store, asks, keys[at % 1_000]) for at in range(reads)]) / reads * 1e6

    def theirs() -> float:
        return seconds(lambda: [_fetch(client, places, keys[at % 1_000]) for at in range(reads)]) / reads * 1e6

    name = f"one key of {GROUPS} groups"
    yield Claim(name, "us", *in_turns(ours, theirs, scale.repeats), "one redis-py pipeline of HMGET", "lower", 1 / 1.3)


def _read(store: OnlineStore, asks: Sequence[Ask], key: bytes) -> None:
    store.read([Ask(ask.states, ask.shard, [key]) for ask in asks])


def _fetch(client: Any, places: Sequence[Place], key: bytes) -> None:
    pipeline = client.pipeline(transaction=False)
    for place in places:
        _, name, *fields = asked(place, [key])
        pipeline.hmget(name, fields)
    pipeline.execute()
