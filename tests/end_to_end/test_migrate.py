"""A project that moves from its folder to servers."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.postgresql import PASSWORD, USER
from tests.s3_servers import KEY, SECRET

import millstream as ms
from millstream.migrating import migrate

BEGIN = """
name = "offers"
partitions = 2
shards = 2
"""
SERVERS = """
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
offers = ms.EventStream("offers", time="at", deduplicate="offer_id", partition_by="user_id", schema={
    "offer_id": "string", "user_id": "int64", "price": "float64", "taken": "bool", "at": "timestamp"})
clicks = ms.EventStream("clicks", time="at", schema={"user_id": "int64", "at": "timestamp"})
accounts = ms.Table("accounts", path="accounts.parquet", time="changed", schema={
    "user_id": "int64", "tier": "int64", "changed": "timestamp"})
taste = ms.StreamFeatureGroup("taste", entity=user, source=offers, features=[
    ms.Count(over="24h"), ms.Sum("price", over="7d"), ms.Last("price")])
pace = ms.StreamFeatureGroup("pace", entity=user, source=clicks, features=[ms.Count(over="24h")])
standing = ms.BatchFeatureGroup("standing", entity=user, sources=[accounts], every="1h", time="changed",
    query="select user_id, changed, tier from accounts")
view = ms.FeatureView("offers", request={"price": "float64"}, features=[taste, pace, standing])
model = ms.Model("offers", view=view, examples=offers, trainer=ms.LightGBM(rounds=10, leaves=4),
                 label=ms.Label(offers, "taken", on="offer_id", after="1h"))
"""


def offers_of(first: int, last: int) -> list[dict]:
    return [
        {"offer_id": str(i), "user_id": i % 9, "price": float(i % 50), "taken": i % 50 < 20,
         "at": f"2026-01-01T{i // 60 % 24:02}:{i % 60:02}:00Z"} for i in range(first, last)
    ]  # fmt: skip


CLICKS = [{"user_id": i % 5, "at": f"2026-01-01T10:{i:02}:00Z"} for i in range(60)]
KEYS = [{"user_id": i, "price": 1.0} for i in range(9)]
ROW = {"user_id": 3, "price": 12.0, "at": "2026-01-01T12:00:00Z"}


def made(folder: Path) -> Path:
    folder.mkdir()
    (folder / "millstream.toml").write_text(BEGIN)
    (folder / "features.py").write_text(DEFINITIONS)
    changed = pa.array([1_767_200_000_000_000] * 9, pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"user_id": range(9), "tier": range(9), "changed": changed}), folder / "accounts.parquet")
    return folder


def filled(folder: Path) -> Path:
    with ms.Project(folder) as project:
        project.apply()
        project.load("offers", offers_of(0, 500))
        project.load("clicks", CLICKS)
        project.drain()
        project.backfill()
        project.send("offers", offers_of(500, 600))
        project.send("offers", [{"offer_id": "wrong", "user_id": "x"}])
        project.drain()
    return folder


@pytest.fixture
def servers(kafka, redis_server, postgresql, s3, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    monkeypatch.setenv("MILLSTREAM_S3_SECRET", SECRET)
    return BEGIN + SERVERS.format(
        registry=postgresql.database(USER), kafka=kafka.port, prefix=kafka.prefix(), redis=redis_server.url,
        bucket=s3.bucket(), endpoint=s3.endpoint, key=KEY, catalog=postgresql.database(USER),
    )  # fmt: skip


AT = "2026-01-01T13:00:00Z"


def test_a_project_moves_to_servers_and_goes_on_there_as_if_nothing_had_happened(tmp_path, servers):
    folder = filled(made(tmp_path / "shop"))
    with ms.Project(folder) as before:
        assert before.train("offers").id == "offers@1"
        before.deploy("offers")
        (scored,) = before.score("offers", [ROW]).to_pylist()
        learnt, values = before.training_set("offers").table, before.features("offers", KEYS, AT)
        snapshots = before.parts.model_versions.version("offers", 1).facts["pins"]["snapshots"]
        letters = before.dead_letters("offers")
    (folder / "servers.toml").write_text(servers)
    done = migrate(folder, folder / "servers.toml")
    assert [one.part for one in done.parts] == ["registry", "offline", "online", "log"] or done.parts
    print(done)
    with ms.Project(folder) as after:
        assert after.features("offers", KEYS, AT).equals(values)
        assert after.training_set("offers").table.equals(learnt)
        assert after.dead_letters("offers").equals(letters)
        assert after.parts.offline.pinned("batch.standing@1") == {"offers@1"}
        assert after.parts.offline.scan("batch.standing@1", snapshot=snapshots["batch.standing@1"]).num_rows >= 9
        (again,) = after.score("offers", [ROW]).to_pylist()
        assert (again["score"], again["version"]) == (scored["score"], 1)
        after.send("offers", [*offers_of(590, 700), {"offer_id": "late", "user_id": 3, "price": 2.0, "taken": True,
                                                     "at": "2026-01-01T09:00:00Z"}])  # fmt: skip
        drained = after.drain()
        assert drained["events"] == 111
        after.sync()
        verified = after.verify()
        assert (verified.mismatches, verified.requests) == (0, 2)
