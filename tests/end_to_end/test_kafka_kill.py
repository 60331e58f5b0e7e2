"""Several processes compute and ingest a project whose log is on Kafka, and are killed or stopped at random moments.

So is the server, which comes back with its files. In the end every acknowledged event counts once, and what is served is
the fold of history.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.commands import begin
from tests.end_to_end.clicks import Clicks, view
from tests.end_to_end.running import together, until

import millstream as ms
from millstream.running.starter import Process
from millstream.testing.servers.kafka import Kafka

SEED = 11
LAYERS = ("compute", "compute", "ingest", "ingest")
STOPPED = 3.0
"""Seconds after which others have what one had that is stopped, and it does not know."""
SETTINGS = """
shards = 2
partitions = 3
micro_batch = 500
sync_every = "1h"

[log]
kind = "kafka"
servers = "{servers}"
prefix = "{prefix}"
session_s = 2.0
"""


class Cluster:
    """A project, and the processes of its layers."""

    def __init__(self, folder: Path, kafka: Kafka) -> None:
        (folder / "millstream.toml").write_text(SETTINGS.format(servers=kafka.servers, prefix=kafka.prefix()))
        (folder / "features.py").write_text("")
        self.folder, self.kafka, self.chance = folder, kafka, random.Random(SEED)
        self.project = ms.Project(folder)
        self.project.apply(view)
        self.project.drain()
        self.clicks = Clicks(self.project)
        self.processes = [self.started(layer) for layer in LAYERS]

    def started(self, layer: str) -> Process:
        """A process of a layer."""
        return begin("run", layer, folder=self.folder, output=self.folder / f"{layer}.out")

    def produce(self, stop: threading.Event) -> None:
        """Send events until told to stop."""
        while not stop.is_set():
            self.clicks.send(self.project, 60, pause=0.2)
            stop.wait(0.05)

    def supervise(self) -> None:
        """Start again who has ended, which nobody does but one who did not find the server when he began."""
        for at, layer in enumerate(LAYERS):
            if self.processes[at].poll() is not None:
                said = (self.folder / f"{layer}.out").read_text()[-2_000:]
                assert "has not answered within" in said, said
                self.processes[at] = self.started(layer)

    def settled(self) -> bool:
        """Whether what is served is what was acknowledged."""
        self.supervise()
        return self.clicks.served() == self.clicks.acknowledged()

    def said(self) -> str:
        """The end of what each layer has said."""
        return "\n".join((self.folder / f"{layer}.out").read_text()[-3_000:] for layer in sorted({*LAYERS}))

    def disturb(self, number: int) -> None:
        """Kill or stop a layer's process; every seventh time the server."""
        self.supervise()
        time.sleep(self.chance.uniform(0.2, 1.2))
        if number % 7 == 3:
            self.kafka.kill()
            self.kafka.start()
            return
        at = self.chance.randrange(len(LAYERS))
        process = self.processes[at]
        if self.chance.random() < 0.4:
            process.send_signal(signal.SIGSTOP)
            time.sleep(STOPPED)
            process.send_signal(signal.SIGCONT)
            return
        process.kill()
        process.wait()
        self.processes[at] = self.started(LAYERS[at])


@pytest.fixture
def cluster(kafka: Kafka, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, kafka)
    yield cluster
    for process in cluster.processes:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
    cluster.project.close()


@pytest.mark.chaos
@pytest.mark.parametrize("kills", [7, 60])
def test_whatever_is_killed_or_stopped_each_acknowledged_event_counts_once(cluster: Cluster, kills: int) -> None:
    with together(cluster.produce):
        for number in range(kills):
            cluster.disturb(number)
    with suppress(AssertionError):
        until(cluster.settled, "every event counts once", 240)
    served, acknowledged = cluster.clicks.served(), cluster.clicks.acknowledged()
    assert served == acknowledged, cluster.said()
    for process in cluster.processes:
        process.terminate()
    assert [process.wait(60) for process in cluster.processes] == [0] * len(LAYERS)
    cluster.clicks.check()
