"""The states of every kind of aggregate come back from every store as they went in, to the bit, and go on from there."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millstream.fold import States, fold, layout_of, merge
from millstream.store.lmdb.store import LmdbOnlineStore
from millstream.store.online import OnlineStore, ShardMeta
from millstream.store.postgresql.access import Access as PostgresqlAccess
from millstream.store.postgresql.server import Server
from millstream.store.postgresql.store import PostgresqlOnlineStore
from millstream.store.redis.access import Access, ServerUrl
from millstream.store.redis.servers import Servers
from millstream.store.redis.store import RedisOnlineStore
from millstream.testing.servers.postgresql import PASSWORD, USER, PostgreSQL
from millstream.testing.servers.redis import RedisServer
from millstream.testing.shards import held, put
from tests.properties.worlds import STREAM, Event, event_lists, group_of, prepared, windows

_numbers = count()


@pytest.fixture(scope="module")
def stores(
    tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer, postgresql: PostgreSQL
) -> Iterator[dict[str, OnlineStore]]:
    """The embedded store, and real servers: Redis so that two keys at once are many already, PostgreSQL by both ways in."""
    database = postgresql.database(USER)
    access = PostgresqlAccess.of(database, PASSWORD)
    plain, copied = Server(access, "plain", 60), Server(access, "copied", 60)
    redis = Servers(ServerUrl.of(redis_server.url), Access())
    yield {
        "lmdb": LmdbOnlineStore(Path(tmp_path_factory.mktemp("kinds"))),
        "redis": RedisOnlineStore(redis, "kinds", 60, chunk=2),
        "postgresql": PostgresqlOnlineStore(plain, 60),
        "copying": PostgresqlOnlineStore(copied, 60, copied=0),
    }
    for server in (plain, copied, redis):
        server.close()


@settings(
    max_examples=12, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(windows, st.booleans(), event_lists(), st.integers(1, 4))
def test_states_of_every_kind_go_on_from_what_a_store_gives_back(
    stores: dict[str, OnlineStore], over: Any, values: bool, events: list[Event], size: int
) -> None:
    group, states = group_of(over, False, STREAM, values), f"g@{next(_numbers)}"
    layout, expected = layout_of(group), dict[bytes, bytes]()
    position: int | None = None
    for start in range(0, len(events), 10 * size):
        batch = prepared(group, events[start : start + 10 * size])
        added = fold(layout, batch)
        meta = ShardMeta(position=start)
        for store in stores.values():
            before, _ = held(store, states, 0, batch.keys)
            assert before == [expected.get(key) for key in batch.keys]
            after = merge(layout, States.from_bytes(before), added).to_bytes()
            put(store, states, 0, list(zip(batch.keys, after, strict=True)), meta, position)
        expected |= zip(batch.keys, after, strict=True)
        position = start
    for name, store in stores.items():
        assert held(store, states, 0, [*expected, b"nobody"])[0] == [*expected.values(), None], name
