"""Locks of a registry in PostgreSQL: one process at a time on whatever host, and the death of one lets go."""

from __future__ import annotations

import threading
import time

import pytest
from tests.commands import Program

from millstream.errors import StoreError
from millstream.registry.definitions import Registry
from millstream.testing.servers.postgresql import PostgreSQL

HOLDING = """
import sys, threading
from millstream.registry.definitions import Registry

with Registry(sys.argv[1]).locks.alone("sync", wait=False) as lock:
    print(lock is not None, flush=True)
    threading.Event().wait()
"""


@pytest.fixture
def server(postgresql: PostgreSQL) -> str:
    return postgresql.database()


def test_one_at_a_time_holds_what_is_called_the_same_in_one_registry(server: str, postgresql: PostgreSQL) -> None:
    first, second, another = Registry(server).locks, Registry(server).locks, Registry(postgresql.database()).locks
    assert first.shared
    with first.alone("sync", wait=False) as held:
        assert held is not None and held.held
        with second.alone("sync", wait=False) as refused, second.alone("batch kyc@1", wait=False) as other:
            assert refused is None and other is not None
        with another.alone("sync", wait=False) as elsewhere:
            assert elsewhere is not None
    with second.alone("sync", wait=False) as now:
        assert now is not None


def test_two_projects_in_schemas_of_one_database_do_not_know_of_each_other(server: str, postgresql: PostgreSQL) -> None:
    name = server.rpartition("/")[2]
    for schema in ("one", "two"):
        postgresql.execute(f"create schema {schema}", name)
    one, two = (Registry(f"{server}?options=-csearch_path%3D{schema}").locks for schema in ("one", "two"))
    with one.alone("sync", wait=False) as first, two.alone("sync", wait=False) as second:
        assert first is not None and second is not None


def test_a_process_that_is_killed_lets_go(server: str) -> None:
    holder = Program(HOLDING, server)
    assert holder.stdout.readline().strip() == "True"
    locks = Registry(server).locks
    with locks.alone("sync", wait=False) as refused:
        assert refused is None
    begun = time.monotonic()
    threading.Timer(0.5, holder.kill).start()
    with locks.alone("sync", wait=True) as held:
        assert held is not None
        assert 0.5 <= time.monotonic() - begun < 10


def test_who_holds_a_lock_learns_that_its_server_has_forgotten_it(server: str, postgresql: PostgreSQL) -> None:
    locks, others = Registry(server).locks, Registry(server).locks
    with locks.alone("sync", wait=False) as held:
        assert held is not None and held.held
        postgresql.stop()
        try:
            assert not held.held
            with pytest.raises(StoreError), others.alone("sync", wait=False):
                pass
        finally:
            postgresql.start()
        assert not held.held
        with others.alone("sync", wait=False) as taken:
            assert taken is not None
    with locks.alone("sync", wait=False) as again:
        assert again is not None and again.held


def test_who_holds_a_lock_learns_that_its_connection_was_ended(server: str, postgresql: PostgreSQL) -> None:
    locks, name = Registry(server).locks, server.rpartition("/")[2]
    with locks.alone("sync", wait=False) as held:
        assert held is not None and held.held
        postgresql.execute(
            f"select pg_terminate_backend(l.pid) from pg_locks l join pg_database d on d.oid = l.database "
            f"where l.locktype = 'advisory' and d.datname = '{name}'"
        )
        assert not held.held
        with Registry(server).locks.alone("sync", wait=False) as taken:
            assert taken is not None
    with locks.alone("sync", wait=False) as again:
        assert again is not None and again.held


def test_a_lock_does_not_stay_with_a_connection_that_others_use(server: str) -> None:
    registry, other = Registry(server), Registry(server)
    for _ in range(3):
        with registry.locks.alone("sync", wait=False) as held:
            assert held is not None
        registry.revision()
        with other.locks.alone("sync", wait=False) as free:
            assert free is not None
