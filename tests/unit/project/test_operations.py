"""A command that dies at any of its writes is finished or undone by whoever looks next, and stops nothing meanwhile."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.project.killed import dies

import millstream as ms
from millstream.cli.checks import checked
from millstream.errors import PlanError

user = ms.Entity("user", keys={"user_id": "int64"})
SCHEMA = {"id": "int64", "user_id": "int64", "y": "bool", "at": "timestamp"}
clicks = ms.EventStream("clicks", time="at", schema=SCHEMA, partitions=2)
visits = ms.EventStream("visits", time="at", schema=SCHEMA, partitions=2)
pace = ms.StreamFeatureGroup("pace", entity=user, source=clicks, features=[ms.Count()])
since = ms.StreamFeatureGroup("pace", entity=user, source=clicks, features=[ms.Count(), ms.Count(over="24h")])
seen = ms.StreamFeatureGroup("seen", entity=user, source=visits, features=[ms.Count()])
view = ms.FeatureView("v", features=[pace])
later = ms.FeatureView("w", features=[since, seen])
label = ms.Label(clicks, "y", on="id", absent=None, after="1m")
model = ms.Model("m", view=view, trainer=ms.LightGBM(rounds=2), examples=clicks, label=label)
HISTORY, KEY = 210, [{"user_id": 1}]


def events(first: int, rows: int) -> list[dict[str, Any]]:
    start = np.datetime64("2026-01-01", "us")
    return [
        {"id": i, "user_id": i % 7, "y": i % 3 == 0, "at": f"{start + np.timedelta64(i, 'm')}Z"}
        for i in range(first, first + rows)
    ]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a project with a live group and a model of two versions, the first of which is the champion."""
    folder = tmp_path_factory.mktemp("live") / "p"
    project = ms.Project(folder, create=True)
    project.apply(model)
    project.load(clicks, events(0, HISTORY))
    project.backfill()
    project.train("m")
    project.load(clicks, events(HISTORY, 70))
    project.drain()
    project.train("m")
    project.deploy("m", 1)
    project.close()
    return folder


Look = Callable[[ms.Project, Path], None]


def killed_everywhere(
    live: Path, tmp_path: Path, look: Look, name: str, *arguments: Any, least: int, every: int = 1, **options: Any
) -> None:
    """Kill a command before each of its writes in turn, or some of them, and look each time at what is left."""
    for number in range(0, 200, every):
        folder = tmp_path / str(number)
        shutil.copytree(live, folder)
        died = dies(folder, name, *arguments, before=number, **options)
        project = ms.Project(folder)
        look(project, folder)
        assert project.parts.registry.operations.unfinished() == [], f"after {number} writes"
        project.close()
        shutil.rmtree(folder)
        if not died:
            assert number >= least
            return
    raise AssertionError("the command never came to its end")


def counted(project: ms.Project, name: str = "v") -> int:
    found = project.features(name, KEY)
    assert project.score("m", KEY)["degraded"].to_pylist() == [False]
    count: int = found["pace__count"].to_pylist()[0]
    return count


def test_an_apply_that_dies_stops_no_stream_and_is_finished_by_the_next_who_looks(live: Path, tmp_path: Path) -> None:
    def look(project: ms.Project, folder: Path) -> None:
        project.send(clicks, events(280, 7))
        assert project.drain()["events"] >= 7
        assert counted(project) == 41
        if "visits" in {stream.name for stream in project.parts.registry.streams()}:
            project.send(visits, events(0, 7))
        else:
            project.apply(later)
            project.send(visits, events(0, 7))
        assert project.backfill() == ["pace@2", "seen@1"]
        assert project.features("w", KEY).to_pylist()[0] | {"pace__count_24h": 0} == {
            "pace__count": 41, "pace__count_24h": 0, "seen__count": 1
        }  # fmt: skip

    killed_everywhere(live, tmp_path, look, "apply", later, least=6, every=2)


def test_a_backfill_anew_that_dies_is_served_whole_and_goes_on(live: Path, tmp_path: Path) -> None:
    def look(project: ms.Project, folder: Path) -> None:
        assert counted(project) == 40
        project.send(clicks, events(280, 7))
        project.drain()
        assert counted(project) == 41
        if folder.name == "9":
            assert project.verify().mismatches == 0
        project.backfill()
        assert counted(project) == 41
        assert project.parts.registry.group("pace").building is None

    killed_everywhere(live, tmp_path, look, "backfill", "pace", least=8, every=3)


def test_a_training_that_dies_leaves_a_version_that_can_be_deployed_or_none(live: Path, tmp_path: Path) -> None:
    def look(project: ms.Project, folder: Path) -> None:
        for version in project.parts.model_versions.versions("m"):
            assert f"m@{version.version}" in project.parts.registry.pins("pace@1")
            assert project.deploy("m", version.version) == version.version
            assert counted(project) == 40

    killed_everywhere(live, tmp_path, look, "train", "m", least=1)


@pytest.mark.parametrize("name", ["deploy", "rollback"])
def test_a_champion_is_one_or_the_other(live: Path, tmp_path: Path, name: str) -> None:
    def look(project: ms.Project, folder: Path) -> None:
        assert project.score("m", KEY)["version"].to_pylist()[0] in (1, 2)
        assert counted(project) == 40
        project.deploy("m", 2)
        assert project.rollback("m") == 1

    if name == "rollback":
        shutil.copytree(live, tmp_path / "deployed")
        live = tmp_path / "deployed"
        project = ms.Project(live)
        project.deploy("m", 2)
        project.close()
        killed_everywhere(live, tmp_path, lambda project, folder: counted(project), "rollback", "m", least=1)
        return
    killed_everywhere(live, tmp_path, look, "deploy", "m", 2, least=1)


def test_what_the_log_cannot_follow_is_refused_before_anything_is_written(live: Path, tmp_path: Path) -> None:
    shutil.copytree(live, tmp_path / "p")
    project = ms.Project(tmp_path / "p")
    before = project.parts.registry.revision()
    fewer = ms.EventStream("clicks", time="at", schema=SCHEMA, partitions=1)
    with pytest.raises(PlanError, match="partitions was given 1; its topic has 2, and may get more, never fewer"):
        project.apply(fewer, allow_breaking=True)
    assert project.parts.registry.revision() == before
    project.apply(ms.EventStream("clicks", time="at", schema=SCHEMA), allow_breaking=True)
    project.send(clicks, events(280, 7))
    project.drain()
    assert counted(project) == 41


def test_what_is_unfinished_is_listed(live: Path, tmp_path: Path) -> None:
    folder = tmp_path / "p"
    shutil.copytree(live, folder)
    assert {one.name: one.fine for one in checked(folder)}["operations"]
    assert dies(folder, "backfill", "pace", before=8)
    project = ms.Project(folder)
    [told] = project.status()["operations"]
    assert told.startswith("backfill pace@1: ")
    [check] = [one for one in checked(folder) if one.name == "operations"]
    assert not check.fine and "backfill pace@1" in check.found
    project.backfill()
    assert project.status()["operations"] == []
