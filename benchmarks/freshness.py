"""How soon an event is in the values that are served, through Kafka and Redis; and again after a worker was killed.

The servers, the processes of the layers, the producer and the reader share the machine. The producer sends batches of Arrow
every ten milliseconds, and among them probes: an event of a user of its own, at the time of now. The reader asks the store
for the users of all probes that it has not seen yet, in one request, again and again. A probe's time begins before it is sent
and ends when a value has it. There is no peer that serves values of the same contract; the lines are for information.

For the second line four processes compute, of which each has one partition. One is killed (SIGKILL), and a probe is sent to
every partition at once: what counts is the time from the kill until all of them are served. The session times out after the
default of the settings.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

import millstream as ms
from benchmarks.harness import Claim, Scale
from millstream.running.starter import Process, Starter
from millstream.testing.servers.kafka import Kafka
from millstream.testing.servers.redis import RedisServer

RATE = 5_000
"""Events a second."""
TICK = 0.01
"""Seconds between two batches of the producer."""
PROBED = 0.05
"""Seconds between two probes."""
LOOK = 0.002
"""Seconds between two looks of the reader."""
PARTITIONS = 4
OVER = ["5m", "1h", "24h"]
USERS = 10_000
FIRST_PROBE = 1 << 40
SETTLING = 10.0
"""Seconds in which workers that have just begun come to share the partitions."""
PATIENCE = 120.0
SETTINGS = """
name = "freshness"
partitions = {partitions}
shards = 4

[log]
kind = "kafka"
servers = "{servers}"
prefix = "{prefix}"

[online]
kind = "redis"
url = "{redis}"
prefix = "{prefix}"
"""
user = ms.Entity("user", keys={"user_id": "int64"})
payments = ms.EventStream(
    "payments", time="at", partition_by="user_id", schema={"user_id": "int64", "amount": "float64", "at": "timestamp"}
)
spending = ms.StreamFeatureGroup(
    "spending",
    entity=user,
    source=payments,
    features=[
        ms.Count(over=OVER),
        ms.Sum("amount", over=OVER),
        ms.Mean("amount", over=OVER),
        ms.Max("amount", over=OVER),
    ],
)
view = ms.FeatureView("spending", features=[spending])


def run(scale: Scale) -> Iterator[Claim]:
    """5,000 events a second: the time of probes; then the time after a kill."""
    with project() as running:
        spans = [running.probed(scale.of(20, least=2), scale.of(RATE, least=200)) for _ in range(scale.repeats)]
        rate = f"at {scale.of(RATE, least=200):,} events/s"
        for share in (50, 99):
            found = [float(np.percentile(one, share)) * 1e3 for one in spans]
            yield Claim(f"event to value served, p{share}", "ms", found, note=rate)
        running.compute_by(PARTITIONS)
        lost = [running.after_a_kill() for _ in range(min(scale.repeats, 5))]
        yield Claim("first value after a kill", "s", lost, note=f"{PARTITIONS} workers, one killed; session of 6 s")


class Running:
    """A project whose layers run as processes.

    Args:
        folder: the project's folder.
        stack: ends what is begun.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack, self._next = folder, stack, FIRST_PROBE
        self.project = stack.enter_context(ms.Project(folder))
        self.project.apply(view)
        self.project.drain()
        self._starter = stack.enter_context(Starter(folder / "starter.out"))
        self._chance = np.random.default_rng(7)
        self.computing = [self._begin("compute")]
        self._begin("ingest")
        self._until_served(self._probe(1))

    def probed(self, seconds: float, rate: int) -> list[float]:
        """The times (s) of the probes that are sent among events at a rate (a second) for so many seconds."""
        stop = threading.Event()
        producer = threading.Thread(target=self._produce, args=(rate, stop))
        producer.start()
        spans: list[float] = []
        waiting: dict[int, float] = {}
        began = time.perf_counter()
        while (now := time.perf_counter()) < began + seconds or waiting:
            if now < began + seconds and now - max(waiting.values(), default=began) >= PROBED:
                waiting |= self._probe(1)
            for served in self._served(list(waiting)):
                spans.append(time.perf_counter() - waiting.pop(served))
            assert now < began + seconds + PATIENCE, "a probe is not served"
            time.sleep(LOOK)
        stop.set()
        producer.join()
        return spans

    def compute_by(self, processes: int) -> None:
        """Let so many processes compute, and wait until they share the partitions."""
        self.computing += [self._begin("compute") for _ in range(processes - len(self.computing))]
        self._settle()

    def after_a_kill(self) -> float:
        """Kill one of those that compute; the time (s) until a probe of every partition is served. Another one begins then."""
        killed = self.computing.pop(0)
        began = time.perf_counter()
        killed.kill()
        killed.wait()
        self._until_served(self._probe(8 * PARTITIONS))
        found = time.perf_counter() - began
        self.computing.append(self._begin("compute"))
        self._settle()
        return found

    def _settle(self) -> None:
        time.sleep(SETTLING)
        self._until_served(self._probe(8 * PARTITIONS))

    def _produce(self, rate: int, stop: threading.Event) -> None:
        due = time.perf_counter()
        while not stop.is_set():
            self._send(self._chance.integers(0, USERS, max(1, int(rate * TICK))))
            due += TICK
            time.sleep(max(0.0, due - time.perf_counter()))

    def _probe(self, count: int) -> dict[int, float]:
        """Send probes; by user, when."""
        users = np.arange(self._next, self._next + count)
        self._next += count
        began = time.perf_counter()
        self._send(users)
        return dict.fromkeys(users.tolist(), began)

    def _send(self, users: np.ndarray) -> None:
        now = pa.array(np.full(len(users), time.time_ns() // 1_000), pa.timestamp("us", "UTC"))
        self.project.send(payments, pa.table({"user_id": users, "amount": np.ones(len(users)), "at": now}))

    def _served(self, users: list[int]) -> list[int]:
        if not users:
            return []
        found = self.project.features(view, [{"user_id": one} for one in users])
        return [one for one, count in zip(users, found["spending__count_24h"].to_pylist(), strict=True) if count]

    def _until_served(self, probes: dict[int, float]) -> None:
        end, left = time.perf_counter() + PATIENCE, list(probes)
        while left:
            seen = set(self._served(left))
            left = [one for one in left if one not in seen]
            assert time.perf_counter() < end, "a probe is not served"
            time.sleep(LOOK)

    def _begin(self, layer: str) -> Process:
        with (self.folder / f"{layer}.out").open("ab") as output, open(os.devnull) as nothing:
            command = ["run", layer, "--project", str(self.folder)]
            begun = self._starter.begin(command, nothing.fileno(), output)
        self._stack.callback(begun.wait)
        self._stack.callback(begun.kill)
        return begun


@contextmanager
def project() -> Iterator[Running]:
    """A project on servers of its own, whose layers run."""
    for kind in (Kafka, RedisServer):
        remedy = kind.lacking()
        if remedy is not None:
            raise SystemExit(f"freshness needs {kind.name}: {remedy}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        kafka, redis = stack.enter_context(Kafka()), stack.enter_context(RedisServer())
        said = {"servers": kafka.servers, "redis": redis.url, "prefix": kafka.prefix(), "partitions": PARTITIONS}
        (folder / "millstream.toml").write_text(SETTINGS.format(**said))
        (folder / "features.py").write_text("")
        yield Running(folder, stack)
