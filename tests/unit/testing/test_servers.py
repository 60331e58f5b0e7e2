"""Servers that the package starts: each tells its version, keeps what it was given, and ends with whoever started it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tests.conftest import needs

from millstream.errors import ServerError
from millstream.testing.servers.kafka import Kafka
from millstream.testing.servers.ports import free_ports
from millstream.testing.servers.postgresql import PostgreSQL
from millstream.testing.servers.redis import RedisServer
from millstream.testing.servers.s3 import S3Server
from millstream.testing.servers.server import Server

EVERY = [Kafka, PostgreSQL, RedisServer, S3Server]
STARTER = """
import sys, threading
from millstream.testing.servers.postgresql import PostgreSQL
from millstream.testing.servers.redis import RedisServer
with RedisServer() as redis, PostgreSQL() as postgresql:
    postgresql.database()
    if sys.argv[1] == "frozen":
        redis.freeze()
        postgresql.freeze()
    print(*(one.pid for server in (redis, postgresql) for one in server.processes()), flush=True)
    print(redis.folder, postgresql.folder, flush=True)
    threading.Event().wait()
"""


def running(pid: int) -> bool:
    """Whether there is a process of that number, which has not ended."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def gone(pids: list[int], folders: list[str], seconds: float = 30) -> bool:
    """Whether no such process runs, and no such folder is there, in a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(map(running, pids)) and not any(map(os.path.exists, folders)):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("server", EVERY, ids=lambda one: one.name)
def test_a_server_tells_its_version(server: type[Server]) -> None:
    needs(server)
    assert server.version()[0].isdigit() or server.version().startswith("Valkey ")


@pytest.mark.parametrize("how", ["as it is", "frozen"])
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM], ids=lambda one: one.name)
def test_servers_end_and_their_folders_go_when_their_starter_is_killed(by: signal.Signals, how: str) -> None:
    needs(RedisServer, PostgreSQL)
    with subprocess.Popen([sys.executable, "-c", STARTER, how], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        try:
            pids, folders = [int(one) for one in starter.stdout.readline().split()], starter.stdout.readline().split()
            assert len(pids) > 2, "PostgreSQL is several processes"
            assert all(map(running, pids[:2])), "Redis, and the first process of PostgreSQL"
            assert all(map(os.path.exists, folders))
            starter.send_signal(by)
            starter.wait(30)
        finally:
            starter.kill()
    assert gone(pids, folders), f"{pids} or {folders} are still there"


def test_what_was_committed_outlives_a_kill_and_goes_with_the_server() -> None:
    needs(RedisServer)
    with RedisServer() as server:
        port = server.port
        server.ask("SET", "a", "1")
        server.kill()
        with pytest.raises(ServerError, match="Redis does not run"):
            server.processes()
        server.start()
        assert (server.port, server.ask("GET", "a")) == (port, b"1")
        assert server.processor_seconds() >= 0
    assert not server.folder.exists()


def test_a_machine_without_a_server_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_: None)
    with pytest.raises(ServerError) as told, Kafka():
        pass
    assert str(told.value).startswith("Kafka cannot be started on this machine.\n\nHint: a Java runtime")


def test_a_server_that_does_not_start_says_why() -> None:
    needs(RedisServer)
    server = RedisServer(appendfsync="now and then")
    with pytest.raises(ServerError, match=r"Redis was begun and does not answer") as told, server:
        pass
    assert "appendfsync" in str(told.value)
    assert not server.folder.exists()


def test_ports_differ_and_so_do_those_above_them() -> None:
    ports = free_ports(20, above=10_000)
    assert len(set(ports)) == 20
    assert max(ports) + 10_000 < 65_536
