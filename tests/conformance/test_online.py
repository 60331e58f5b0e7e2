"""The online stores against their contract: the embedded one, real servers, and the one that keeps no more than that."""

from functools import partial
from itertools import count
from pathlib import Path

import pytest

from millstream.store.lmdb.store import LmdbOnlineStore
from millstream.store.postgresql.access import Access as PostgresqlAccess
from millstream.store.postgresql.server import Server
from millstream.store.postgresql.store import PostgresqlOnlineStore
from millstream.store.redis.access import Access, ServerUrl
from millstream.store.redis.servers import Servers
from millstream.store.redis.store import RedisOnlineStore
from millstream.testing.adversarial_online import AdversarialOnlineStore
from millstream.testing.online_suite import Factory, OnlineStoreConformance
from millstream.testing.servers.postgresql import PASSWORD, USER, PostgreSQL


class TestLmdb(OnlineStoreConformance):
    of = ("online store", "LMDB")

    @pytest.fixture
    def factory(self, tmp_path) -> Factory:
        return partial(LmdbOnlineStore, tmp_path / "online")


def adversarial(path: Path, seed: int) -> AdversarialOnlineStore:
    return AdversarialOnlineStore(LmdbOnlineStore(path), seed)


class TestAdversarial(OnlineStoreConformance):
    @pytest.fixture(params=[1, 2])
    def factory(self, tmp_path, request) -> Factory:
        return partial(adversarial, tmp_path / "online", request.param)


_prefixes = count()


def redis_store(url: str, prefix: str, chunk: int) -> RedisOnlineStore:
    return RedisOnlineStore(Servers(ServerUrl.of(url), Access()), prefix, 10, chunk=chunk)


class TestRedis(OnlineStoreConformance):
    of = ("online store", "Redis")

    @pytest.fixture
    def factory(self, redis_server) -> Factory:
        return partial(redis_store, redis_server.url, f"suite{next(_prefixes)}", 1_000)


class TestValkey(OnlineStoreConformance):
    """By so few keys at once that writes of the suite come in chunks."""

    of = ("online store", "Valkey")

    @pytest.fixture
    def factory(self, valkey_server) -> Factory:
        return partial(redis_store, valkey_server.url, f"suite{next(_prefixes)}", 7)


def postgresql_store(url: str, schema: str) -> PostgresqlOnlineStore:
    return PostgresqlOnlineStore(Server(PostgresqlAccess.of(url, PASSWORD), schema, 10), 10)


@pytest.fixture(scope="module")
def database(postgresql: PostgreSQL) -> str:
    return postgresql.database(USER)


class TestPostgresql(OnlineStoreConformance):
    of = ("online store", "PostgreSQL")

    @pytest.fixture
    def factory(self, database) -> Factory:
        return partial(postgresql_store, database, f"suite {next(_prefixes)}")
