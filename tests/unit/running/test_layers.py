"""Layers in their loops: they work until stopped, take up new definitions, and outlive what waiting may mend."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.unit.running.threads import layers

import millstream as ms
from millstream.clock import FileClock, to_micros
from millstream.errors import DiskFull, Fenced, ProjectError, StoreError
from millstream.project.identity import Identity
from millstream.project.parts import Parts
from millstream.running.layers import _loop, _Renewed, _step, run_layer
from millstream.running.meter import Meter
from millstream.running.repeating import Every
from millstream.running.work import Batch, Ingest
from millstream.usage.layers import snapshot

user = ms.Entity("user", keys={"user_id": "int64"})
clicks = ms.EventStream("clicks", time="at", schema={"user_id": "int64", "at": "timestamp"})
pace = ms.StreamFeatureGroup("pace", entity=user, source=clicks, features=[ms.Count(over="1h")])
view = ms.FeatureView("pace", features=[pace])


@pytest.fixture
def project(tmp_path: Path) -> ms.Project:
    (tmp_path / ".millstream").mkdir()
    FileClock(tmp_path / ".millstream" / "clock.json").set(to_micros("2026-01-01T12:00:00Z"), rate=0.0)
    return ms.Project(tmp_path, create=True)


def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def count(project: ms.Project) -> int | None:
    found: int | None = project.features("pace", [{"user_id": 1}])["pace__count_1h"].to_pylist()[0]
    return found


def test_layers_compute_and_ingest_what_is_sent_and_take_up_new_definitions(project: ms.Project) -> None:
    project.apply(clicks)
    with layers(project.settings, "compute", "ingest"):
        project.send("clicks", [{"user_id": 1, "at": "2026-01-01T11:30:00Z"}])
        project.apply(view)
        project.send("clicks", [{"user_id": 1, "at": "2026-01-01T11:40:00Z"}])
        until(lambda: count(project) == 2)
        until(lambda: project.parts.registry.group("pace").state == "live")
        seen = until(lambda: len(snapshot(project.settings.data)["layers"]) == 2 and snapshot(project.settings.data))
        assert {name: one["state"] for name, one in seen["layers"].items()} == {"compute": "up", "ingest": "up"}


def test_with_computing_stopped_ingestion_waits_and_nothing_is_lost(project: ms.Project) -> None:
    project.apply(view)
    with layers(project.settings, "ingest"):
        project.send("clicks", [{"user_id": 1, "at": "2026-01-01T11:30:00Z"}])
    with layers(project.settings, "compute"):
        project.send("clicks", [{"user_id": 1, "at": "2026-01-01T11:40:00Z"}])
        until(lambda: project.parts.log.committed("compute/pace@1", "clicks") != [0, 0, 0, 0])
    project.drain()
    assert count(project) == 2


def test_an_unknown_layer_is_named(project: ms.Project) -> None:
    with pytest.raises(ProjectError, match="no layer 'injest'") as told:
        run_layer(project.settings, "injest", threading.Event())
    assert told.value.hint == "did you mean 'ingest'?"


class Failing:
    """Work whose steps raise, one after another, then do one record."""

    def __init__(self, *errors: Exception) -> None:
        self.facts: dict[str, Any] = {}
        self._errors = list(errors)

    def step(self) -> int:
        if self._errors:
            raise self._errors.pop(0)
        return 1

    def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize("error", [DiskFull("The disk is full."), StoreError("A shard is damaged.")])
def test_what_waiting_may_mend_is_reported_and_tried_again(error: Exception) -> None:
    work = Failing(error)
    handled, wait = _step(work, 0.02)
    assert (handled, wait) == (0, 1.0)
    assert work.facts["error"] == str(error)
    assert _step(work, 0.02) == (1, 0.02)
    assert "error" not in work.facts


def test_a_fenced_step_is_tried_again_at_once() -> None:
    assert _step(Failing(Fenced("Another worker was first.")), 0.02) == (1, 0.0)


def test_what_nobody_expected_ends_the_process() -> None:
    with pytest.raises(ZeroDivisionError):
        _step(Failing(ZeroDivisionError()), 0.02)


class Counting:
    """Work that counts its steps."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {"steps": 0}
        self.closed = False

    def step(self) -> int:
        self.facts["steps"] += 1
        return 1

    def close(self) -> None:
        self.closed = True


def test_a_registry_that_fails_for_a_while_is_reported_and_asked_again(
    project: ms.Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("millstream.running.layers.LOOK", 0.02)
    reachable = threading.Event()
    reachable.set()
    revision = [1]

    def asked(_: Identity) -> int:
        if not reachable.is_set():
            raise StoreError("Registry 'r' cannot be used: database is locked.")
        return revision[0]

    monkeypatch.setattr(Identity, "revision", asked)
    made: list[Counting] = []
    stop = threading.Event()
    loop = threading.Thread(
        target=_loop,
        args=(
            project.settings,
            Meter(project.settings, "compute"),
            lambda _: made.append(Counting()) or made[-1],
            stop,
        ),
    )
    loop.start()
    try:
        until(lambda: made and made[0].facts["steps"])
        reachable.clear()
        until(lambda: "locked" in made[0].facts.get("error", ""))
        done = made[0].facts["steps"]
        until(lambda: made[0].facts["steps"] > done + 2)  # what is made goes on
        revision[0] = 2
        reachable.set()
        until(lambda: len(made) == 2 and made[-1].facts["steps"])
        until(lambda: "error" not in made[-1].facts)
    finally:
        stop.set()
        loop.join(20)
    assert not loop.is_alive()
    assert all(work.closed for work in made)
    assert capsys.readouterr().err.count("Error: Registry 'r' cannot be used: database is locked.") == 1


def test_a_registry_that_cannot_be_asked_at_the_start_ends_the_layer(
    project: ms.Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(_: Identity) -> int:
        raise StoreError("Registry 'r' cannot be used: permission denied.")

    monkeypatch.setattr(Identity, "revision", asked)
    with pytest.raises(StoreError, match="permission denied"):
        _loop(project.settings, Meter(project.settings, "compute"), lambda _: Counting(), threading.Event())


def test_definitions_that_cannot_be_read_are_asked_for_again_and_nothing_is_closed_twice(project: ms.Project) -> None:
    work = Counting()
    tries = iter([StoreError("Registry 'r' cannot be used."), None])

    def made(_: Parts) -> Counting:
        if error := next(tries):
            raise error
        return work

    renewed = _Renewed(project.parts, made)
    assert _step(renewed, 0.02) == (0, 1.0)
    assert _step(renewed, 0.02) == (1, 0.02)
    assert renewed.facts == {"steps": 1}
    renewed.close()
    renewed.close()
    assert work.closed


def test_every_waits_between_two_times() -> None:
    done: list[int] = []
    every = Every(3_600.0, lambda: done.append(1) or len(done))
    assert (every.step(), every.step(), done) == (1, None, [1])


def test_a_layer_ends_when_its_supervisor_is_gone(project: ms.Project) -> None:
    project.apply(view)
    read, write = os.pipe()
    command = [sys.executable, "-m", "millstream", "run", "compute", "-C", str(project.settings.folder), "--supervised"]
    process = subprocess.Popen(command, stdin=read, stdout=subprocess.PIPE, text=True)
    os.close(read)
    assert process.stdout is not None
    assert process.stdout.readline() == "compute: started\n"
    os.close(write)
    assert process.wait(30) == 0


def test_the_batch_layer_goes_on_where_a_table_is_missing_and_keeps_saying_so(project: ms.Project) -> None:
    tiers = ms.Table("tiers", path="tiers.parquet", schema={"user_id": "int64", "tier": "string"})
    names = ms.Table("names", path="names.parquet", schema={"user_id": "int64", "name": "string"})
    groups = [
        ms.BatchFeatureGroup(
            f"of_{one.name}", entity=user, sources=[one], every="1d", query=f"select * from {one.name}"
        )
        for one in (tiers, names)
    ]
    project.apply(*groups)
    pq.write_table(pa.table({"user_id": [1], "tier": ["gold"]}), project.settings.folder / "tiers.parquet")
    work = Batch(project.parts)
    for _ in range(2):
        _step(work, 0.02)
        assert "names" in work.facts["error"]
    assert project.parts.log.ends("staging.of_tiers@1") == [(0, 1)]


def test_a_part_of_ingestion_that_fails_does_not_keep_the_others_from_their_turn(project: ms.Project) -> None:
    project.apply(view)
    project.send("clicks", [{"user_id": 1, "at": "2026-01-01T11:30:00Z"}])
    project.parts.layers.computer().step()
    work = Ingest(project.parts)

    def damaged() -> None:
        raise StoreError("A shard is damaged.")

    work._batch.step = damaged
    end = time.monotonic() + 30
    while not work.facts["archived"]:
        with pytest.raises(StoreError, match="damaged"):
            work.step()
        assert time.monotonic() < end
    work.close()
    assert (count(project), work.facts["archived"]) == (1, 1)
