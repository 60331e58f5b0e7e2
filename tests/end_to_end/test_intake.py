"""`millstream run intake` and `millstream up` take files in: whoever is killed, every line is there once."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import msgspec
import pytest
from tests.commands import begin
from tests.end_to_end.running import Up, until
from tests.kinesis import CREDENTIALS, REGION, ForeignStream, KinesisServer
from tests.unit.project.test_bound_streams import BINDING, VIEW, rows

import millstream as ms
from millstream.buffer.lag import records_ever
from millstream.running.starter import Process
from millstream.testing.servers.ports import free_port

KILLS = 3
CLICKS = ms.EventStream("clicks", time="at", schema={"id": "string", "user_id": "int64", "at": "timestamp"})
FEATURES = """
import millstream as ms

user = ms.Entity("user", keys={"user_id": "int64"})
schema = {"id": "string", "user_id": "int64", "amount": "float64", "at": "timestamp"}
payments = ms.EventStream("payments", time="at", deduplicate="id", schema=schema)
spend = ms.StreamFeatureGroup("spend", entity=user, source=payments, features=[ms.Count(over="24h")])
view = ms.FeatureView("fraud", features=[spend])
"""


def run_intake(folder: Path) -> Process:
    return begin("run", "intake", folder=folder)


def test_every_line_is_taken_in_once_though_intake_is_killed(tmp_path: Path):
    (tmp_path / "millstream.toml").write_text(BINDING)
    (tmp_path / "incoming").mkdir()
    with ms.Project(tmp_path) as project:
        project.apply(VIEW)
        written = 0
        for kill in range(KILLS):
            process = run_intake(tmp_path)
            before, until = records_ever(project.parts.log, "payments"), time.monotonic() + 30
            while time.monotonic() < until:
                with (tmp_path / "incoming" / f"{kill % 3}.jsonl").open("ab") as file:
                    for row in rows(written, 20):
                        file.write(msgspec.json.encode(row) + b"\n")
                written += 20
                time.sleep(0.01 + 0.003 * kill)
                if records_ever(project.parts.log, "payments") > before:
                    break
            process.send_signal(signal.SIGKILL)
            process.wait()
        project.drain()
        assert records_ever(project.parts.log, "payments") == written  # the history leaves out what is there twice
        events = project.parts.histories.events().read(project.parts.registry.stream("payments"))
        assert sorted(events["id"].to_pylist()) == sorted(f"p{n}" for n in range(written))


def write(folder: Path, name: str, first: int, count: int) -> None:
    with (folder / name).open("ab") as file:
        file.write(b"".join(msgspec.json.encode(row) + b"\n" for row in rows(first, count)))


def test_two_processes_share_the_sources_and_one_that_is_killed_is_replaced(tmp_path: Path):
    (tmp_path / "millstream.toml").write_text(BINDING + '[streams.clicks]\nkind = "files"\npath = "clicks/*.jsonl"\n')
    (tmp_path / "incoming").mkdir()
    (tmp_path / "clicks").mkdir()
    with ms.Project(tmp_path) as project:
        project.apply(VIEW, CLICKS)
        log = project.parts.log
        processes = [run_intake(tmp_path), run_intake(tmp_path)]
        try:
            until(lambda: len(list(tmp_path.glob(".millstream/log/workers/*/*.worker"))) == 2, "both have joined")
            for number in range(3):
                write(tmp_path / "incoming", "a.jsonl", 20 * number, 20)
                write(tmp_path / "clicks", "a.jsonl", 20 * number, 20)
                time.sleep(0.3)
            processes[0].kill()
            processes[0].wait()
            write(tmp_path / "incoming", "b.jsonl", 60, 20)
            write(tmp_path / "clicks", "b.jsonl", 60, 20)
            for stream in ("payments", "clicks"):
                until(lambda: records_ever(log, stream) == 80, f"all of {stream} is taken in")  # noqa: B023
            assert processes[1].poll() is None
        finally:
            for process in processes:
                process.kill()
                process.wait()
        for stream in ("payments", "clicks"):
            assert project.parts.histories.events().read(project.parts.registry.stream(stream)).num_rows == 80


def test_up_takes_in_what_streams_are_bound_to(tmp_path: Path):
    (tmp_path / "millstream.toml").write_text(BINDING)
    (tmp_path / "incoming").mkdir()
    (tmp_path / "features.py").write_text(FEATURES)
    write(tmp_path / "incoming", "a.jsonl", 0, 40)
    up = Up(tmp_path, free_port())
    try:
        until(lambda: "intake" in up.layers(), "intake runs")
        with ms.Project(tmp_path) as project:
            until(lambda: "payments" in project.parts.log.topics(), "the definitions are applied")
            until(lambda: records_ever(project.parts.log, "payments") == 40, "all is taken in")
            assert up.kill("intake")
            write(tmp_path / "incoming", "a.jsonl", 40, 40)
            until(lambda: records_ever(project.parts.log, "payments") == 80, "its successor goes on")

            def counted() -> bool:
                found = project.features("fraud", [{"user_id": user} for user in range(5)])
                return found["spend__count_24h"].to_pylist() == [16] * 5

            until(counted, "what was taken in is served")
    finally:
        assert up.stop() == 0


def test_every_record_of_kinesis_is_taken_in_once_though_intake_is_killed_and_shards_split(
    tmp_path: Path, kinesis: KinesisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = ForeignStream(kinesis)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "millstream.toml").write_text(
        f'[streams.payments]\nkind = "kinesis"\nname = "{foreign.name}"\nregion = "{REGION}"\n'
        f'endpoint = "{kinesis.endpoint}"\nread_every_s = 0.05\n'
    )
    with ms.Project(tmp_path) as project:
        project.apply(VIEW)
        log, written = project.parts.log, 0
        for kill in range(5):
            process = run_intake(tmp_path)
            before, until_then = records_ever(log, "payments"), time.monotonic() + 30
            while time.monotonic() < until_then and records_ever(log, "payments") == before:
                foreign.put(kill % 2, [msgspec.json.encode(row) for row in rows(written, 5)])
                written += 5
                time.sleep(0.005 * kill)
            if kill == 2:
                foreign.split(0)
            process.kill()
            process.wait()
        project.drain()
        assert records_ever(log, "payments") == written
        events = project.parts.histories.events().read(project.parts.registry.stream("payments"))
        assert sorted(events["id"].to_pylist()) == sorted(f"p{n}" for n in range(written))
