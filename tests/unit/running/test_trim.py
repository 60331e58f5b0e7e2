"""What the sync layer lets the log forget of a project, and what it keeps."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import millstream as ms
from millstream.buffer.log import Batch
from millstream.clock import FileClock, to_micros
from millstream.ingest.retention import DAY, WEEK, trim

user = ms.Entity("user", keys={"user_id": "int64"})
clicks = ms.EventStream("clicks", time="at", schema={"user_id": "int64", "at": "timestamp"}, partitions=1)
pace = ms.StreamFeatureGroup("pace", entity=user, source=clicks, features=[ms.Count(over="1h")])
tiers = ms.Table("tiers", path="tiers.parquet", schema={"user_id": "int64", "tier": "string"})
level = ms.BatchFeatureGroup("level", entity=user, sources=[tiers], every="1d", query="select user_id, tier from tiers")
logged = ms.BatchFeatureGroup(
    "logged", entity=user, sources=[clicks], every="1d", query="select user_id, count(*) as n from clicks group by 1"
)
view = ms.FeatureView("all", features=[pace, level, logged])


@pytest.fixture
def project(tmp_path: Path) -> ms.Project:
    """A project that has computed, ingested, archived and synced an event, a dead letter, runs and a capture."""
    data = tmp_path / ".millstream"
    data.mkdir()
    clock = FileClock(data / "clock.json")
    clock.set(to_micros("2026-01-01T12:00:00Z"), rate=0.0)
    pq.write_table(pa.table({"user_id": [1], "tier": ["gold"]}), tmp_path / "tiers.parquet")
    project = ms.Project(tmp_path, create=True)
    project.apply(view)
    project.send(
        "clicks", [{"user_id": 1, "at": "2026-01-01T11:30:00Z"}, {"user_id": "x", "at": "2026-01-01T11:31:00Z"}]
    )
    project.drain()
    return project


def capture(project: ms.Project) -> None:
    sink = pa.BufferOutputStream()
    table = pa.table({"_request_id": ["a"], "_received_at": [1]})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    project.parts.log.create("captures.fraud", 1)
    project.parts.log.append("captures.fraud", 0, Batch(sink.getvalue().to_pybytes(), "arrow", 1))


def later(project: ms.Project, micros: int) -> None:
    clock = project.clock
    assert isinstance(clock, FileClock)
    clock.set(clock.now() + micros, rate=0.0)


def kept(project: ms.Project, topic: str) -> int:
    return sum(following - first for first, following in project.parts.log.ends(topic))


BUFFER = ("features.pace@1", "staging.level@1", "staging.logged@1")


def test_deltas_and_runs_go_a_day_after_both_stores_have_them(project: ms.Project) -> None:
    later(project, DAY + 1)
    trim(project.parts)
    assert kept(project, "features.pace@1") > 0  # no sync has seen them
    assert (kept(project, "staging.level@1"), kept(project, "staging.logged@1")) == (0, 0)
    project.sync()
    trim(project.parts)
    assert kept(project, "features.pace@1") == 0
    assert project.features("all", [{"user_id": 1}]).to_pylist()[0]["level__tier"] == "gold"


def test_what_is_young_stays(project: ms.Project) -> None:
    capture(project)
    project.sync()
    before = {topic: kept(project, topic) for topic in (*BUFFER, "dead.clicks", "captures.fraud", "clicks")}
    assert min(before.values()) > 0
    later(project, DAY - 1_000_000)
    assert trim(project.parts) == 0
    later(project, WEEK - DAY)
    trim(project.parts)
    assert {topic: kept(project, topic) for topic in before} == before | dict.fromkeys(BUFFER, 0)


def test_events_dead_letters_and_captures_go_a_week_later_once_archived(project: ms.Project) -> None:
    capture(project)
    later(project, WEEK + 1)
    trim(project.parts)
    assert [kept(project, topic) for topic in ("clicks", "dead.clicks", "captures.fraud")] == [2, 1, 1]
    project.sync()
    trim(project.parts)
    assert [kept(project, topic) for topic in ("clicks", "dead.clicks", "captures.fraud")] == [0, 0, 0]


def test_events_that_nobody_has_checked_stay(tmp_path: Path) -> None:
    project = ms.Project(tmp_path, create=True)
    project.apply(clicks)
    project.send("clicks", [{"user_id": 1, "at": "2026-01-01T11:30:00Z"}])
    FileClock(tmp_path / ".millstream" / "clock.json").set(project.clock.now() + WEEK + DAY, rate=0.0)
    project = ms.Project(tmp_path)
    project.sync()
    assert (trim(project.parts), kept(project, "clicks")) == (0, 1)


def test_what_a_store_that_is_built_anew_will_need_stays(project: ms.Project) -> None:
    project.sync()
    later(project, DAY + 1)
    for gv in ("pace@1", "level@1"):
        project.parts.online.drop(gv)
    before = [kept(project, topic) for topic in BUFFER[:2]]
    trim(project.parts)
    assert [kept(project, topic) for topic in BUFFER[:2]] == before
    project.drain()
    assert project.features("all", [{"user_id": 1}]).to_pylist()[0]["level__tier"] == "gold"


def test_of_a_log_that_is_nearly_full_what_is_used_goes_before_its_time(project: ms.Project, monkeypatch):
    parts = project.parts
    for _ in range(2):
        parts.layers.archiver().step()
        parts.layers.syncer().step()
    assert trim(parts) == 0
    assert parts.identity.stepped_back() == []
    monkeypatch.setattr(type(parts.log), "filled", lambda _: 0.9)
    assert trim(parts) > 0
    assert parts.log.ends("clicks") == [(2, 2)]
    assert all(first == end for first, end in parts.log.ends("features.pace@1"))
    assert project.features("all", [{"user_id": 1}]).to_pylist()[0]["pace__count_1h"] == 1
    project.send("clicks", [{"user_id": 1, "at": "2026-01-01T11:59:00Z"}])
    project.drain()
    assert project.features("all", [{"user_id": 1}]).to_pylist()[0]["pace__count_1h"] == 2
    assert parts.identity.stepped_back() == []
