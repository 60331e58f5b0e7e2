"""The servers that the demo runs on with `--servers`: what starts them, and what the project's settings say of them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from millstream.errors import ServerError

if TYPE_CHECKING:
    from millstream.testing.servers.server import Server

SECTIONS = """registry_url = "{registry}"

[log]
kind = "kafka"
servers = "{kafka}"
prefix = "flights"

[online]
kind = "redis"
url = "{redis}"
prefix = "flights"

[offline]
kind = "iceberg"
path = "s3://{bucket}/flights"
endpoint = "{endpoint}"
access_key = "{key}"
catalog = {{type = "sql", uri = "{catalog}"}}
"""


class Started:
    """The servers of one run, each on its own port of the loopback.

    Attributes:
        every: the servers.
        settings: what millstream.toml says of them.
        secrets: what the environment of the process holds while the demo runs.
    """

    def __init__(self, stack: ExitStack) -> None:
        from millstream.testing.servers import kafka, postgresql, redis, s3

        kinds: tuple[type[Server], ...] = (kafka.Kafka, redis.RedisServer, postgresql.PostgreSQL, s3.S3Server)
        for kind in kinds:
            lacks = kind.lacking()
            if lacks is not None:
                raise ServerError.lacking(kind.name, lacks)
        log, online, database, files = kafka.Kafka(), redis.RedisServer(), postgresql.PostgreSQL(), s3.S3Server()
        self.every: tuple[Server, ...] = (log, online, database, files)
        with ThreadPoolExecutor(len(kinds)) as together:  # Kafka takes seconds, and the others start meanwhile
            begun = [together.submit(stack.enter_context, server) for server in self.every]
        for one in begun:
            one.result()
        self.secrets = {"PGPASSWORD": postgresql.PASSWORD, "MILLSTREAM_S3_SECRET": s3.SECRET}
        self.settings = SECTIONS.format(
            registry=database.database(postgresql.USER), kafka=log.servers, redis=online.url, bucket=files.bucket(),
            endpoint=files.endpoint, key=s3.KEY, catalog=database.database(postgresql.USER),
        )  # fmt: skip

    def versions(self) -> dict[str, str]:
        """By server, the version of its program."""
        return {server.name: server.version() for server in self.every}

    def processor_seconds(self) -> dict[str, float]:
        """By server, the seconds of processor time that it has used since it was started."""
        return {server.name: round(server.processor_seconds(), 1) for server in self.every}


@contextmanager
def started() -> Iterator[Started]:
    """Start the servers for as long as the block runs; the signal to terminate ends the block, and so them.

    Raises:
        ServerError: when the machine lacks one of them, or one does not start.
    """
    with _terminated_by_exception(), ExitStack() as stack:
        servers = Started(stack)
        stack.enter_context(_environment(servers.secrets))
        yield servers


@contextmanager
def _environment(said: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in said}
    os.environ.update(said)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _terminated_by_exception() -> Iterator[None]:
    """Let SIGTERM raise `SystemExit`, as Ctrl-C raises an exception; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminated(number: int, _: FrameType | None) -> Any:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
