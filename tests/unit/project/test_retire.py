"""What nobody reads any more leaves the disk, and what anything still reads stays."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import millstream as ms
from millstream.buffer.topics import version_marks
from millstream.errors import MillstreamError
from millstream.running.work import Sync

HEAD = """
import millstream as ms
user = ms.Entity("user", keys={"user_id": "int64"})
clicks = ms.EventStream("clicks", time="at", schema={"user_id": "int64", "y": "bool", "id": "int64", "at": "timestamp"})
tiers = ms.Table("tiers", path="tiers.parquet", schema={"user_id": "int64", "tier": "string"})
"""
PACE = 'pace = ms.StreamFeatureGroup("pace", entity=user, source=clicks, features=[ms.Count(over="{over}")])\n'
LEVEL = """
level = ms.BatchFeatureGroup("level", entity=user, sources=[tiers], every="1d", query="select user_id, tier from tiers")
"""
MODEL = """
view = ms.FeatureView("v", features=[pace])
label = ms.Label(clicks, "y", on="id", absent=None, after="1m")
model = ms.Model("m", view=view, trainer=ms.LightGBM(rounds=2), examples=clicks, label=label)
"""


@pytest.fixture
def project(tmp_path: Path) -> ms.Project:
    pq.write_table(pa.table({"user_id": [1], "tier": ["gold"]}), tmp_path / "tiers.parquet")
    return ms.Project(tmp_path, create=True)


def declare(project: ms.Project, text: str) -> None:
    (project.settings.folder / "features.py").write_text(HEAD + text)
    project.apply(agreed=lambda plan: True, allow_breaking=True)


def fill(project: ms.Project, first: int = 0, rows: int = 140) -> None:
    at = [f"2026-01-01T{i // 60:02}:{i % 60:02}:00Z" for i in range(first, first + rows)]
    project.load(
        "clicks", [{"user_id": i % 7, "y": i % 3 == 0, "id": first + i, "at": one} for i, one in enumerate(at)]
    )
    project.backfill()
    project.drain()
    project.sync()


def held(project: ms.Project) -> dict[str, list[str]]:
    """What the stores and the log have of group versions, by where."""
    parts = project.parts
    folder = project.settings.data / "online"
    found: dict[str, Any] = {
        "online": [one.name for one in folder.iterdir() if "@" in one.name],
        "topics": [topic for topic in parts.log.topics() if "@" in topic],
        "offline": [table for table in parts.offline.tables() if "@" in table],
    }
    return {place: sorted(names) for place, names in found.items()}


def test_a_group_that_is_removed_leaves_nothing_but_the_rows_of_its_query(project: ms.Project) -> None:
    declare(project, PACE.format(over="1h") + LEVEL)
    fill(project)
    assert held(project) == {
        "online": ["level@1", "pace@1"],
        "topics": ["features.pace@1", "staging.level@1"],
        "offline": ["batch.level@1", "features.pace@1"],
    }
    marks = [mark for gv in ("level@1", "pace@1") for mark in version_marks(gv)]
    assert [bool(project.parts.marks.read(mark)) for mark in marks].count(True) == 3
    declare(project, "")
    assert [project.sync()["dropped"] for _ in range(3)] == [0, 2, 0]
    assert not any(project.parts.marks.read(mark) for mark in marks)
    assert held(project) == {"online": [], "topics": [], "offline": ["batch.level@1"]}


def test_versions_that_newer_ones_replaced_go_and_those_that_are_pinned_stay(project: ms.Project) -> None:
    declare(project, PACE.format(over="1h") + MODEL)
    fill(project)
    project.train("m")
    project.deploy("m")
    for over in ("2h", "3h", "4h"):
        declare(project, PACE.format(over=over) + MODEL)
        fill(project)
    for _ in range(2):
        project.sync()
    assert held(project)["online"] == ["pace@1", "pace@4"]
    assert held(project)["topics"] == ["features.pace@1", "features.pace@4"]
    assert held(project)["offline"] == ["features.pace@1", "features.pace@4"]
    declare(project, PACE.format(over="1h") + MODEL)
    assert project.score("m", [{"user_id": 1}])["degraded"].to_pylist() == [False]
    assert project.verify().mismatches == 0
    for _ in range(2):
        project.sync()
    assert held(project)["online"] == ["pace@1"]


def test_a_build_that_was_replaced_goes(project: ms.Project) -> None:
    declare(project, PACE.format(over="1h"))
    fill(project)
    project.backfill("pace")
    assert held(project)["online"] == ["pace@1", "pace@1.2"]
    for _ in range(2):
        project.sync()
    assert held(project) == {
        "online": ["pace@1.2"], "topics": ["features.pace@1"], "offline": ["features.pace@1"]
    }  # fmt: skip


def test_a_group_that_comes_back_begins_anew_and_whole(project: ms.Project) -> None:
    declare(project, PACE.format(over="24h") + MODEL.partition("label")[0])
    fill(project)
    declare(project, "")
    for _ in range(2):
        project.sync()
    declare(project, PACE.format(over="24h") + MODEL.partition("label")[0])
    fill(project, first=140)
    assert held(project)["online"] == ["pace@2"]
    at = "2026-01-01T12:00:00Z"
    assert project.features("v", [{"user_id": 1}], at=at)["pace__count_24h"].to_pylist() == [40]


def test_a_group_without_a_version_to_read_is_one_sentence(project: ms.Project) -> None:
    declare(project, PACE.format(over="24h") + MODEL.partition("label")[0])
    project.parts.registry.set_state("pace@1", "retired")
    with pytest.raises(MillstreamError, match="View 'v' reads feature group 'pace', which has no version to read"):
        project.features("v", [{"user_id": 1}])


def test_the_sync_layer_drops_too(project: ms.Project) -> None:
    declare(project, PACE.format(over="1h"))
    fill(project)
    declare(project, "")
    for _ in range(2):
        layer = Sync(project.parts)
        layer.step()
    assert layer.facts["dropped"] == 1
    assert held(project) == {"online": [], "topics": [], "offline": []}


def test_dropping_that_dies_goes_on(project: ms.Project, tmp_path: Path) -> None:
    declare(project, PACE.format(over="1h"))
    fill(project)
    project.sync()
    declare(project, "")
    project.sync()
    [unused] = project.parts.registry.builds.unused()
    project.parts.log.drop("features.pace@1")
    project.parts.online.drop("pace@1")
    assert unused.leaving
    assert project.sync()["dropped"] == 1
    assert project.parts.registry.builds.unused() == []
