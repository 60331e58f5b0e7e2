"""The flights demo on Kafka, Redis, PostgreSQL and S3: what it finds embedded, and servers that end with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.commands import millstream
from tests.conftest import needs
from tests.end_to_end.running import until

from millstream.demos.flights import on_servers
from millstream.demos.flights.report import Report
from millstream.demos.flights.run import learn, look_back, set_up
from millstream.demos.flights.season import DAY, OPENING, Season, Tally
from millstream.demos.flights.spending import Spending
from millstream.testing.servers.kafka import Kafka
from millstream.testing.servers.postgresql import PostgreSQL
from millstream.testing.servers.redis import RedisServer
from millstream.testing.servers.s3 import S3Server

PROGRAMS = ("java", "redis-server", "postgres", "weed")


def half_a_day(folder: Path, settings: str) -> tuple[dict[str, Any], Spending]:
    """What the demo finds in half a day after a week to learn from."""
    show, spending, outcome = Report(quiet=True), Spending(), Tally()
    project, flights = set_up(folder, settings)
    with project:
        season = Season(project, flights, spending)
        learnt = learn(project, season, OPENING - 7 * DAY, show)
        for day in season.run(OPENING, OPENING + DAY // 2):
            outcome.add(day)
        season.archive()
        found = look_back(project, season, learnt, outcome, show)
        season.close()
    return found, spending


def test_servers_give_what_the_embedded_parts_give(tmp_path: Path) -> None:
    needs(Kafka, RedisServer, PostgreSQL, S3Server)
    embedded, _ = half_a_day(tmp_path / "embedded", "")
    before = os.environ.get("PGPASSWORD")
    with on_servers.started() as servers:
        served, spending = half_a_day(tmp_path / "served", servers.settings)
        assert list(servers.versions()) == ["Kafka", "Redis", "PostgreSQL", "SeaweedFS"]
        assert all(used > 0 for used in servers.processor_seconds().values())
        data = tmp_path / "served" / ".millstream"
        assert not [name for name in ("log", "online", "offline", "models", "registry.db") if (data / name).exists()]
    measured = {"events_per_second", "score_latency_ms"}
    assert {key: served[key] for key in served if key not in measured} == {
        key: embedded[key] for key in embedded if key not in measured
    }
    assert (served["verify"]["mismatches"], served["parity"]["unexplained"]) == (0, 0)
    assert (served["lost"], served["doubled"]) == (0, 0)
    assert served["requests"] > 200
    assert all(0 <= part["waited"] <= part["seconds"] for part in spending.rounded().values())
    assert {"computing", "ingestion", "archive and sync", "training", "scoring"} <= set(spending.parts)
    assert os.environ.get("PGPASSWORD") == before


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The demo on servers, as a process that keeps what is temporary in a folder of its own."""
    needs(Kafka, RedisServer, PostgreSQL, S3Server)
    place = tmp_path / "temporary"
    place.mkdir()
    place.chmod(0o777)
    for above in tmp_path.parents:  # PostgreSQL runs as another user where we are root
        if above.stat().st_uid == os.geteuid() and above.stat().st_mode & 0o001 == 0:
            above.chmod(above.stat().st_mode | 0o001)
    tmp_path.chmod(0o711)
    command = [sys.executable, "-m", "millstream", "demo", "flights", "--servers", "--project", str(tmp_path / "demo")]
    environment = {**os.environ, "TMPDIR": str(place)}
    with ExitStack() as stack:
        output = stack.enter_context((tmp_path / "output").open("wb"))
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
        stack.callback(process.wait)
        stack.callback(process.kill)
        yield process


def servers_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes of its servers; none until each has one."""
    every = psutil.Process(process.pid).children(recursive=True)
    names = {one.name() for one in every}
    return every if names >= set(PROGRAMS) else []


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda one: one.name)
def test_whatever_ends_the_demo_ends_its_servers(
    demo: subprocess.Popen[bytes], by: signal.Signals, tmp_path: Path
) -> None:
    def said() -> str:
        return (tmp_path / "output").read_text()

    until(lambda: "are started" in said(), "servers that are started", 120)
    servers = servers_of(demo)
    assert servers, said()
    demo.send_signal(by)
    assert demo.wait(60) != 0
    _, running = psutil.wait_procs(servers, timeout=30)
    assert [one.name() for one in running if one.status() != psutil.STATUS_ZOMBIE] == []
    until(lambda: not list((tmp_path / "temporary").iterdir()), "no folder of theirs", 30)
    assert "Traceback" not in said()


def test_a_server_that_is_missing_is_named_with_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    refused = millstream("demo", "flights", "--servers", "--json", "--project", "demo", folder=tmp_path)
    assert (refused.returncode, refused.stdout) == (1, "")
    told = refused.stderr[refused.stderr.index("Kafka cannot") :]
    assert told.startswith("Kafka cannot be started on this machine.")
    assert "make servers" in told
    assert not (tmp_path / "demo").exists()
    assert json.dumps(refused.stderr).count("Traceback") == 0
