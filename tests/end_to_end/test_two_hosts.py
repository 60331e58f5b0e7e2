"""A project of several hosts: each has a folder, and all that it keeps is in servers; one that is gone is not missed."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.commands import begin, millstream
from tests.end_to_end.running import ask, post, until

import millstream as ms
from millstream.testing.servers.kafka import Kafka
from millstream.testing.servers.ports import free_port
from millstream.testing.servers.postgresql import PASSWORD, USER, PostgreSQL
from millstream.testing.servers.redis import RedisServer
from millstream.testing.servers.s3 import KEY, SECRET, S3Server

SETTINGS = """
name = "offers"
partitions = 2
shards = 2
sync_every = "2s"
online_read_ms = 20000
registry_url = "{registry}"

[log]
kind = "kafka"
servers = "127.0.0.1:{kafka}"
prefix = "{prefix}"
session_s = 2.0

[online]
kind = "redis"
url = "{redis}"
prefix = "{prefix}"

[offline]
kind = "iceberg"
path = "s3://{bucket}/shop"
endpoint = "{endpoint}"
access_key = "{key}"
catalog = {{type = "sql", uri = "{catalog}"}}
"""
DEFINITIONS = """
import millstream as ms

user = ms.Entity("user", keys={"user_id": "int64"})
offers = ms.EventStream("offers", time="at", deduplicate="offer_id", partition_by="user_id", schema={
    "offer_id": "string", "user_id": "int64", "price": "float64", "taken": "bool", "at": "timestamp"})
accounts = ms.Table("accounts", path="accounts.parquet", time="changed", schema={
    "user_id": "int64", "tier": "int64", "changed": "timestamp"})
taste = ms.StreamFeatureGroup("taste", entity=user, source=offers, features=[ms.Count(over="24h"), ms.Last("price")])
standing = ms.BatchFeatureGroup("standing", entity=user, sources=[accounts], every="2s", time="changed",
    query="select user_id, changed, tier from accounts")
view = ms.FeatureView("offers", request={"price": "float64"}, features=[taste, standing])
model = ms.Model("offers", view=view, examples=offers, trainer=ms.LightGBM(rounds=10, leaves=4),
                 label=ms.Label(offers, "taken", on="offer_id", after="1h"))
"""
LAYERS = ("compute", "ingest", "batch", "sync", "monitor", "serve")
NOW = time.time_ns() // 1_000
ROW = {"user_id": 3, "price": 12.0, "at": "2026-01-01T12:00:00Z"}
OFFERS = [
    {"offer_id": str(i), "user_id": i % 9, "price": float(i % 50), "taken": i % 50 < 20,
     "at": f"2026-01-01T{i // 60:02}:{i % 60:02}:00Z"} for i in range(600)
]  # fmt: skip


@pytest.fixture
def hosts(
    kafka: Kafka, redis_server: RedisServer, postgresql: PostgreSQL, s3: S3Server, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> list[Path]:  # fmt: skip
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    monkeypatch.setenv("MILLSTREAM_S3_SECRET", SECRET)
    said = SETTINGS.format(
        registry=postgresql.database(USER), kafka=kafka.port, prefix=kafka.prefix(), redis=redis_server.url,
        bucket=s3.bucket(), endpoint=s3.endpoint, key=KEY, catalog=postgresql.database(USER),
    )  # fmt: skip
    folders = [tmp_path / name for name in ("first", "second", "third")]
    for folder in folders:
        folder.mkdir()
        (folder / "millstream.toml").write_text(said)
        (folder / "features.py").write_text(DEFINITIONS)
        changed = pa.array([1_767_200_000_000_000] * 9, pa.timestamp("us", "UTC"))
        table = pa.table({"user_id": range(9), "tier": range(9), "changed": changed})
        pq.write_table(table, folder / "accounts.parquet")
    return folders


def test_what_one_host_learns_the_other_serves_verifies_and_learns_on(hosts: list[Path]) -> None:
    with ms.Project(hosts[0]) as first:
        first.apply()
        assert first.load("offers", OFFERS) == 600
        first.drain()
        assert sorted(first.backfill()) == ["standing@1", "taste@1"]
        first.sync()
        learnt = first.training_set("offers").table
        assert first.train("offers").id == "offers@1"
        assert first.deploy("offers") == 1
        (scored,) = first.score("offers", [ROW]).to_pylist()
        snapshots = first.parts.model_versions.version("offers", 1).facts["pins"]["snapshots"]
        assert list(snapshots) == ["batch.standing@1"]
    assert not (hosts[0] / ".millstream" / "models").exists()
    assert not (hosts[0] / ".millstream" / "offline").exists()

    with ms.Project(hosts[1]) as second:
        (again,) = second.score("offers", [ROW]).to_pylist()
        assert (again["score"], again["version"], again["degraded"]) == (scored["score"], 1, False)
        second.drain()
        second.sync()
        verified = second.verify()
        assert (verified.mismatches, verified.requests) == (0, 2)
        offline = second.parts.offline
        assert offline.scan("captures.offers").num_rows == 2
        assert offline.pinned("batch.standing@1") == {"offers@1"}
        assert offline.scan("batch.standing@1", snapshot=snapshots["batch.standing@1"]).num_rows >= 9
        assert offline.scan("events.offers").num_rows == 600
        assert second.training_set("offers").table.equals(learnt)
        assert second.train("offers").id == "offers@2"
        assert not list(second.parts.settings.data.glob("models/*"))

    with ms.Project(hosts[0]) as first:
        assert first.deploy("offers") == 2
        assert first.score("offers", [ROW])["version"].to_pylist() == [2]


class Host:
    """The processes of all layers on a host."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.probes = folder, free_port(), [free_port() for _ in LAYERS]
        self.processes = [
            begin("run", layer, "--port", str(self.port), "--probes", f"127.0.0.1:{probe}",
                  folder=folder, output=folder / f"{layer}.out")
            for layer, probe in zip(LAYERS, self.probes, strict=True)
        ]  # fmt: skip

    def ready(self) -> bool:
        """Whether all of its processes answer that they are."""
        return all(answers(probe, "/readyz") for probe in self.probes) and answers(self.port, "/readyz")

    def is_gone(self) -> None:
        """Lose the host, with all that is on its disk."""
        for process in self.processes:
            process.kill()
        shutil.rmtree(self.folder)

    def ends(self) -> None:
        """Tell the processes to end, and wait until they have."""
        for process in self.processes:
            process.terminate()
        assert [process.wait(60) for process in self.processes] == [0] * len(LAYERS)


@pytest.fixture
def running(hosts: list[Path]) -> Iterator[list[Host]]:
    """Two hosts that run every layer; more may be added. The third folder is that of who looks on."""
    with ms.Project(hosts[2]) as operator:
        operator.apply()
        operator.load("offers", OFFERS)
        operator.drain()
        operator.backfill()
        operator.train("offers")
        operator.deploy("offers")
    found = [Host(folder) for folder in hosts[:2]]
    try:
        yield found
    finally:
        for process in (process for host in found for process in host.processes):
            process.kill()


def answers(port: int, path: str) -> bool:
    try:
        return ask(port, "GET", path)[0] == 200
    except OSError:
        return False


def sent(ports: list[int], numbers: range) -> None:
    """Send offers of now to services in turns; the same number is the same offer."""
    for number in numbers:
        offer = {"offer_id": f"live-{number}", "user_id": number % 9, "price": 1.0, "taken": False, "at": NOW + number}
        assert post(ports[number % len(ports)], "/v1/streams/offers/events", offer)[0] == 202


def counted(port: int) -> list[int]:
    """How many offers of the last day are served, by user."""
    return [
        ask(port, "GET", f"/v1/views/offers/features?user_id={user}")[1]["features"]["taste__count_24h"] or 0
        for user in range(9)
    ]


def told(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The processes that live, by layer, as `status` tells on a host that runs none."""
    facts = json.loads(millstream("status", "--json", folder=folder).stdout)
    return {layer["name"]: [p for p in layer.get("processes", ()) if p["alive"]] for layer in facts["layers"]}


def working(processes: list[dict[str, Any]]) -> list[int]:
    return [one["pid"] for one in processes if not one["facts"].get("standing_by")]


def test_a_host_that_is_lost_with_its_disk_is_not_missed(running: list[Host], hosts: list[Path]) -> None:
    first, second = running
    until(lambda: first.ready() and second.ready(), "all layers of both hosts are ready")
    sent([first.port, second.port], range(90))
    until(lambda: counted(first.port) == counted(second.port) == [10] * 9, "both serve what both have taken")
    for host in (first, second):
        for user in range(9):
            assert post(host.port, "/v1/models/offers/score", {"user_id": user, "price": 3.0})[0] == 200
    shares = {layer: 1 if layer in ("sync", "monitor") else 2 for layer in LAYERS}
    seen = until(
        lambda: (
            (found := told(hosts[2]))
            and all(len(found[layer]) == 2 and len(working(found[layer])) == shares[layer] for layer in LAYERS)
            and found
        ),
        "status tells of the processes of both hosts, and who stands by",
    )
    assert {one["pid"] for one in seen["compute"]} == {host.processes[0].pid for host in running}

    first.is_gone()
    sent([second.port], range(90, 180))
    sent([second.port], range(80, 100))  # again, as who was not answered does
    until(lambda: counted(second.port) == [20] * 9, "the other has all partitions and shards, and tells repeats")
    until(lambda: working(told(hosts[2])["sync"]) == [second.processes[3].pid], "the other syncs")
    hosts[0].mkdir()
    for name in ("millstream.toml", "features.py", "accounts.parquet"):
        shutil.copy(hosts[1] / name, hosts[0] / name)
    running.append(Host(hosts[0]))
    until(running[-1].ready, "a host with an empty disk joins")
    sent([second.port, running[-1].port], range(170, 270))
    until(lambda: counted(running[-1].port) == counted(second.port) == [30] * 9, "both serve what both have taken")
    for user in range(9):
        assert post(running[-1].port, "/v1/models/offers/score", {"user_id": user, "price": 3.0})[0] == 200
    for host in running[1:]:
        host.ends()
    with ms.Project(hosts[2]) as operator:
        operator.drain()
        operator.sync()
        found = operator.verify()
        assert (found.mismatches, found.requests >= 18) == (0, True)
        assert operator.features("offers", [{"user_id": 4, "price": 1.0}])["taste__count_24h"].to_pylist() == [30]
        assert operator.parts.offline.scan("events.offers").num_rows == 600 + 270 + 30
        assert operator.dead_letters("offers").num_rows == 0
    alive = {one["pid"] for layer in told(hosts[2]).values() for one in layer}
    assert alive <= {process.pid for process in first.processes}  # who was killed counts as gone after a minute
