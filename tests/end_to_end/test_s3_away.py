"""The storage is away for a while: what is served goes on, what would be archived waits, and is there once afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.conftest import needs
from tests.end_to_end.test_postgresql import DEFINITIONS, ROW

import millstream as ms
from millstream.errors import StoreError
from millstream.testing.servers.s3 import KEY, SECRET, S3Server

SETTINGS = """
name = "offers"
partitions = 2
shards = 1
log_gib = 1

[offline]
kind = "iceberg"
path = "s3://{bucket}/shop"
endpoint = "{endpoint}"
access_key = "{key}"
timeout = "2s"
"""


def test_what_is_served_goes_on_and_what_waited_is_archived_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs(S3Server)
    monkeypatch.setenv("MILLSTREAM_S3_SECRET", SECRET)
    rows = [
        {"offer_id": str(i), "user_id": i % 9, "price": float(i % 50), "taken": i % 50 < 20,
         "at": f"2026-01-01T{i // 60:02}:{i % 60:02}:00Z"} for i in range(500)
    ]  # fmt: skip
    with S3Server() as server:
        (tmp_path / "millstream.toml").write_text(
            SETTINGS.format(bucket=server.bucket(), endpoint=server.endpoint, key=KEY)
        )
        (tmp_path / "features.py").write_text(DEFINITIONS)
        with ms.Project(tmp_path) as project:
            project.apply()
            project.load("offers", rows[:400])
            project.drain()
            project.backfill()
            project.sync()
            project.train("offers")
            project.deploy("offers")
            before = project.score("offers", [ROW]).to_pylist()
            server.kill()
            project.send("offers", rows[400:])
            assert project.drain()["events"] == 100
            (scored,) = project.score("offers", [ROW]).to_pylist()
            assert (scored["version"], scored["degraded"]) == (1, False)
            for act in (project.sync, lambda: project.train("offers")):
                with pytest.raises(StoreError, match=f"'{server.endpoint}' cannot be reached") as said:
                    act()
                assert SECRET not in str(said.value)
            server.start()
            project.sync()
            archived = project.parts.offline.scan("events.offers")["offer_id"].to_pylist()
            assert sorted(map(int, archived)) == list(range(500))
            verified = project.verify()
            assert (verified.mismatches, verified.requests, len(before)) == (0, 2, 1)
            assert project.train("offers").id == "offers@2"
