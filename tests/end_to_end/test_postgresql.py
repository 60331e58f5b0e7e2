"""A project whose registry is in PostgreSQL, its password in the environment: from apply to a score, and onwards."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from tests.commands import millstream
from tests.end_to_end.running import Up, ask, post, until

import millstream as ms
from millstream.testing.servers.ports import free_port
from millstream.testing.servers.postgresql import PASSWORD, USER, PostgreSQL

SETTINGS = 'name = "offers"\nsync_every = "4s"\nlog_gib = 1\nregistry_url = "{url}"\n'
DEFINITIONS = """
import millstream as ms

user = ms.Entity("user", keys={"user_id": "int64"})
offers = ms.EventStream("offers", time="at", schema={
    "offer_id": "string", "user_id": "int64", "price": "float64", "taken": "bool", "at": "timestamp"})
taste = ms.StreamFeatureGroup("taste", entity=user, source=offers, features=[ms.Count(over="24h"), ms.Last("price")])
view = ms.FeatureView("offers", request={"price": "float64"}, features=[taste])
model = ms.Model("offers", view=view, examples=offers, trainer=ms.LightGBM(rounds=10, leaves=4),
                 label=ms.Label(offers, "taken", on="offer_id", after="1h"))
"""
ROW = {"user_id": 3, "price": 12.0, "at": "2026-01-01T12:00:00Z"}


@pytest.fixture
def folder(postgresql: PostgreSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    (tmp_path / "millstream.toml").write_text(SETTINGS.format(url=postgresql.database(USER)))
    (tmp_path / "features.py").write_text(DEFINITIONS)
    return tmp_path


def deployed(folder: Path) -> ms.Project:
    """The project with a day's history and a champion."""
    project = ms.Project(folder)
    assert len(project.apply()) == 5
    rows = [
        {"offer_id": str(i), "user_id": i % 9, "price": float(i % 50), "taken": i % 50 < 20,
         "at": f"2026-01-01T{i // 60:02}:{i % 60:02}:00Z"} for i in range(600)
    ]  # fmt: skip
    assert project.load("offers", rows) == 600
    assert project.send("offers", [{**rows[0], "offer_id": "new"}]) == 1
    assert project.drain()["events"] == 601
    assert project.backfill() == ["taste@1"]
    assert project.train("offers").id == "offers@1"
    assert project.deploy("offers") == 1
    return project


def test_a_project_lives_in_a_server_from_apply_to_rollback(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = deployed(folder)
    (scored,) = project.score("offers", [ROW]).to_pylist()
    assert scored["version"] == 1
    project.sync()
    assert project.verify().mismatches == 0
    told = json.loads(millstream("score", "offers", json.dumps(ROW), "--json", folder=folder).stdout)
    assert told[0]["score"] == scored["score"]
    assert millstream("train", "offers", folder=folder).returncode == 0
    assert millstream("deploy", "offers", folder=folder).returncode == 0
    assert project.score("offers", [ROW])["version"].to_pylist() == [2]
    assert project.rollback("offers") == 1
    assert project.parts.registry.pins("taste@1") == ["offers@1", "offers@2"]
    assert not (folder / ".millstream" / "registry.db").exists()
    project.close()

    monkeypatch.delenv("PGPASSWORD")
    refused = millstream("status", folder=folder)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "no password supplied" in refused.stderr
    assert "PGPASSWORD" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_what_is_deployed_answers_while_the_server_is_down(folder: Path, postgresql: PostgreSQL) -> None:
    deployed(folder).close()
    up = Up(folder, free_port())
    try:
        until(up.ready, "serving")
        assert post(up.port, "/v1/models/offers/score", ROW)[0] == 200
        postgresql.stop()
        try:
            for _ in range(20):
                status, answer = post(up.port, "/v1/models/offers/score", ROW)
                assert (status, answer["version"]) == (200, 1)
            down = millstream("status", folder=folder)
            assert down.returncode == 1
            assert "Connection refused" in down.stderr
            assert len(down.stderr.split("\n\n")[0].splitlines()) == 1
        finally:
            postgresql.start()
        now = time.time_ns() // 1_000
        event = {"offer_id": "after", "user_id": 777, "price": 5.0, "taken": True, "at": now}
        assert post(up.port, "/v1/streams/offers/events", event)[0] == 202
        path = "/v1/views/offers/features?user_id=777"
        until(lambda: ask(up.port, "GET", path)[1]["features"]["taste__count_24h"] == 1, "an event computed afterwards")
        assert millstream("status", folder=folder).returncode == 0
    finally:
        assert up.stop() == 0
        assert PASSWORD not in up.said()
