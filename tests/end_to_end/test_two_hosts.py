"""A project of two hosts: each has a folder, and all that it keeps is in servers; what one learns the other serves."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.kafka import Kafka
from tests.postgresql import PASSWORD, USER, PostgreSQL
from tests.redis_servers import RedisServer
from tests.s3_servers import KEY, SECRET, S3Server

import millstream as ms

SETTINGS = """
name = "offers"
partitions = 2
shards = 1
registry_url = "{registry}"

[log]
kind = "kafka"
servers = "127.0.0.1:{kafka}"
prefix = "{prefix}"

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
offers = ms.EventStream("offers", time="at", schema={
    "offer_id": "string", "user_id": "int64", "price": "float64", "taken": "bool", "at": "timestamp"})
accounts = ms.Table("accounts", path="accounts.parquet", time="changed", schema={
    "user_id": "int64", "tier": "int64", "changed": "timestamp"})
taste = ms.StreamFeatureGroup("taste", entity=user, source=offers, features=[ms.Count(over="24h"), ms.Last("price")])
standing = ms.BatchFeatureGroup("standing", entity=user, sources=[accounts], every="1h", time="changed",
    query="select user_id, changed, tier from accounts")
view = ms.FeatureView("offers", request={"price": "float64"}, features=[taste, standing])
model = ms.Model("offers", view=view, examples=offers, trainer=ms.LightGBM(rounds=10, leaves=4),
                 label=ms.Label(offers, "taken", on="offer_id", after="1h"))
"""
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
    folders = [tmp_path / "first", tmp_path / "second"]
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
