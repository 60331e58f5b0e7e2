"""Whatever happens between us and Kafka, each acknowledged event counts once.

Two computing workers, an ingesting one and a producer reach the server through a proxy that delays requests, drops them,
cuts answers, and lets requests be carried out after their client has connected anew. In the end a connection without
faults takes what is left, and what is served is what was acknowledged, and the fold of history.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest
from tests.end_to_end.clicks import Clicks, clicks, view
from tests.end_to_end.running import together
from tests.kafka_proxy import KafkaProxy

import millstream as ms
from millstream.buffer.topics import COMPUTING, INGESTION, feature_topic
from millstream.computing.stream import StreamComputer
from millstream.errors import MillstreamError
from millstream.testing.servers.kafka import Kafka

FAULTS, ROWS, SHARE = 10, 40, 0.15
SETTINGS = """
shards = 2
partitions = 2

[log]
kind = "kafka"
servers = "127.0.0.1:{port}"
prefix = "{prefix}"
wait_s = {seconds}
session_s = 1.0
"""


class World:
    """A project whose log can be reached by two ways, of which one meets faults."""

    def __init__(self, folder: Path, kafka: Kafka) -> None:
        self._folder, self._prefix = folder, kafka.prefix()
        self.sound = self._opened(kafka.port, seconds=60)
        self.sound.apply(view)
        self.sound.drain()
        self.clicks = Clicks(self.sound)
        self._producer, *self._computing, self._ingesting = [self._opened(kafka.proxied, seconds=1) for _ in range(4)]

    def layers(self) -> list[Callable[[threading.Event], None]]:
        """What is to run meanwhile, begun anew where it could not begin."""
        begin = (self._ingest, *(partial(self._compute, one) for one in self._computing))
        return [partial(begun, one) for one in begin]

    def produce(self, proxy: KafkaProxy) -> None:
        """Send clicks, until some of what passes has met faults."""
        while sum(proxy.met.values()) < FAULTS:
            self.clicks.send(self._producer, ROWS, pause=0.02)
            time.sleep(0.03)

    def close(self) -> None:
        self._ingesting.parts.__dict__.pop("online", None)
        for project in (self._producer, *self._computing, self._ingesting, self.sound):
            project.close()

    def _opened(self, port: int, seconds: int) -> ms.Project:
        """The project with a log of its own, at a port of the server's, whose answers are waited for so long."""
        filled = SETTINGS.format(port=port, prefix=self._prefix, seconds=seconds)
        (self._folder / "millstream.toml").write_text(filled)
        return ms.Project(self._folder)

    def _compute(self, project: ms.Project, stop: threading.Event) -> None:
        """Compute what comes as one of several workers, with an index of event ids of its own."""
        parts, data = project.parts, self._folder / f"computing{self._computing.index(project)}"
        worker = parts.log.worker(COMPUTING, [clicks.name])
        versions = self.sound.parts.registry.groups()
        with StreamComputer(parts.log, [clicks], versions, parts.clock, data=data, worker=worker) as computer:
            until_told(stop, computer.step)

    def _ingest(self, stop: threading.Event) -> None:
        """Take in what was computed, into the store, which a process opens once."""
        parts = self._ingesting.parts
        parts.__dict__["online"] = self.sound.parts.online
        with closing(parts.log.worker(INGESTION, [feature_topic("pace@1")])) as worker:
            until_told(stop, parts.layers.ingester(worker).step)


def begun(work: Callable[[threading.Event], None], stop: threading.Event) -> None:
    """Run a layer, which may fail as it begins."""
    until_told(stop, partial(work, stop))


def until_told(stop: threading.Event, step: Callable[[], object]) -> None:
    """Do again and again what the proxy may let fail."""
    while not stop.is_set():
        with suppress(MillstreamError):
            step()
        stop.wait(0.01)


@pytest.fixture
def world(kafka: Kafka, tmp_path: Path) -> Iterator[World]:
    with closing(World(tmp_path, kafka)) as world:
        yield world


@pytest.mark.parametrize(
    "seed", [*range(10), *(pytest.param(seed, marks=pytest.mark.chaos) for seed in range(10, 300))]
)
def test_requests_that_fail_lose_nothing_and_double_nothing(kafka: Kafka, world: World, seed: int) -> None:
    with KafkaProxy(kafka.behind, seed, SHARE, kafka.proxied) as proxy, together(*world.layers()):
        world.produce(proxy)
    world.clicks.check()
