"""Which model version serves: what is deployed, where rolling back lands, and what a breaking change does at once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import millstream as ms
from millstream.errors import MillstreamError, NotFound, PlanError, RequestError, ServeError
from millstream.serve.catalogue import Deployments
from millstream.train.metrics import Interval
from millstream.train.trainers.trainer import Artefact

HEAD = """
import millstream as ms
user = ms.Entity("user", keys={"user_id": "int64"})
orders = ms.EventStream("orders", time="at", schema={
    "id": "int64", "user_id": "int64", "amount": "float64", "returned": "bool", "at": "timestamp"})
spend = ms.StreamFeatureGroup("spend", entity=user, source=orders, features=[ms.Count(over="24h"), SPEND])
BACK
view = ms.FeatureView("orders", features=[spend, ITEMS])
label = ms.Label(orders, "returned", on="id", absent=None, after="1m")
model = ms.Model("returns", view=view, trainer=ms.LightGBM(rounds=3), examples=orders, label=label)
"""
MEAN, MEAN_AND_MAX = 'ms.Mean("amount", over="24h")', 'ms.Mean("amount", over="24h"), ms.Max("amount", over="7d")'
BACK = (
    'back = ms.StreamFeatureGroup("back", entity=user, source=orders, where="returned", features=[ms.Count(over="7d")])'
)
ASKED = [{"user_id": 1}]


def declare(project: ms.Project, spend: str = MEAN, back: bool = True, **options: Any) -> list[Any]:
    text = HEAD.replace("SPEND", spend).replace("BACK", BACK if back else "").replace("ITEMS", "back" if back else "")
    (project.settings.folder / "features.py").write_text(text)
    return project.apply(agreed=lambda plan: True, **options)


def orders(day: int) -> list[dict[str, Any]]:
    start = np.datetime64("2026-01-01", "us") + np.timedelta64(day, "D")
    return [
        {
            "id": 1000 * day + i,
            "user_id": i % 7,
            "amount": i % 13,
            "returned": i % (3 + day) == 0,
            "at": f"{start + np.timedelta64(i, 'm')}Z",
        }
        for i in range(300)
    ]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[ms.Project]:
    """A project with three trained versions of a model, the first of which is the champion."""
    project = ms.Project(tmp_path, create=True)
    declare(project)
    for day in range(3):
        project.load("orders", orders(day))
        project.backfill()
        project.drain()
        project.train("returns")
    project.deploy("returns", 1)
    yield project
    project.close()


@pytest.mark.parametrize("given", [np.int64(2), np.uint8(2), 2])
def test_a_version_may_be_any_whole_number(project: ms.Project, given: Any) -> None:
    assert project.deploy("returns", given) == 2
    assert project.score("returns", ASKED)["version"].to_pylist() == [2]


@pytest.mark.parametrize("given", [1.5, 2.0, "champion", True, np.True_, 99, -1, 2**70, "²", [2], None.__class__])
def test_what_is_no_version_is_refused_and_the_champion_stays(project: ms.Project, given: Any) -> None:
    with pytest.raises(RequestError):
        project.deploy("returns", given)
    assert project.score("returns", ASKED)["version"].to_pylist() == [1]


def test_rolling_back_walks_through_what_was_champion(project: ms.Project) -> None:
    project.deploy("returns", 2)
    project.deploy("returns", 3)
    assert [project.rollback("returns") for _ in range(2)] == [2, 1]
    with pytest.raises(NotFound, match="no champion before this one"):
        project.rollback("returns")
    project.deploy("returns", 3)
    project.deploy("returns", 1)
    assert [project.rollback("returns") for _ in range(2)] == [3, 1]


def test_rolling_back_passes_over_what_cannot_serve_and_says_so(
    project: ms.Project, caplog: pytest.LogCaptureFixture
) -> None:
    project.deploy("returns", 2)
    project.deploy("returns", 3)
    [second] = [one for one in project.parts.model_versions.versions("returns") if one.version == 2]
    place = project.settings.data / "models" / "returns" / second.digest
    (place / "model.txt").write_text("damaged")
    assert project.rollback("returns") == 1
    assert "returns@2" in caplog.text and "passed over" in caplog.text
    assert "passed over version 2" in project.parts.model_versions.moves("returns")[-1]["reason"]


def served(project: ms.Project) -> Deployments:
    parts = project.parts
    return Deployments("p", parts.registry, parts.model_versions, parts.online, parts.clock)


def test_a_breaking_change_stops_at_once_what_it_breaks_and_its_return_starts_it_again(project: ms.Project) -> None:
    deployments = served(project)
    deployments.refresh()
    assert deployments.current().ready
    with pytest.raises(PlanError, match="returns@1"):
        declare(project, back=False)
    declare(project, back=False, allow_breaking=True)
    assert deployments.refresh()
    with pytest.raises(ServeError, match="back__count_7d"):
        deployments.current().scorer("returns")
    assert not deployments.current().ready
    assert deployments.current().stopped == ("returns",)
    with pytest.raises(ServeError, match="back__count_7d"):
        project.score("returns", ASKED)
    [facts] = project.status()["models"]
    assert facts["state"] == "stopped" and "back__count_7d" in facts["why"]
    declare(project)
    assert project.parts.registry.group("back").id == "back@1"
    deployments.refresh()
    assert deployments.current().ready
    assert project.score("returns", ASKED)["degraded"].to_pylist() == [False]
    project.deploy("returns", 3)
    assert project.rollback("returns") == 1


def test_what_cannot_serve_is_not_deployed(project: ms.Project) -> None:
    declare(project, back=False, allow_breaking=True)
    trained = project.train("returns")
    project.deploy("returns", trained.version)
    with pytest.raises(ServeError, match=r"returns@2.*cannot serve, and the champion stays.*back__count_7d"):
        project.deploy("returns", 2)
    with pytest.raises(NotFound, match="no champion before this one that can serve: version 1"):
        project.rollback("returns")
    assert project.score("returns", ASKED)["version"].to_pylist() == [trained.version]


def test_a_feature_that_no_version_has_read_may_be_taken_away_again(project: ms.Project) -> None:
    declare(project, MEAN_AND_MAX)
    project.backfill()
    assert [change.kind for change in declare(project)] == ["change", "change"]
    assert project.score("returns", ASKED)["degraded"].to_pylist() == [False]
    declare(project, MEAN_AND_MAX)
    project.backfill()
    project.train("returns")
    with pytest.raises(PlanError, match="'returns@4': spend__amount_max_7d is gone") as told:
        declare(project)
    assert "returns@1" not in told.value.message


def test_a_version_is_listed_when_all_of_it_is_there_or_not_at_all(project: ms.Project) -> None:
    parts = project.parts
    artefact = parts.model_versions.load("returns", 1)
    assert artefact.pins == ("back@1", "spend@1")
    declare(project, MEAN_AND_MAX)
    project.backfill()
    declare(project, back=False, allow_breaking=True)
    text = (project.settings.data / "models" / "returns" / artefact.about.digest / "model.txt").read_text()
    fitted = Artefact("lightgbm", text, artefact.encoder)
    with pytest.raises(MillstreamError, match="retired"):
        parts.model_versions.register("returns", fitted, pins=["spend@2"], metrics={"auc": Interval(1, 1, 1)})
    assert [one.version for one in parts.model_versions.versions("returns")] == [1, 2, 3]


def test_a_model_that_is_removed_pins_nothing_until_it_comes_back(project: ms.Project) -> None:
    text = (project.settings.folder / "features.py").read_text()
    (project.settings.folder / "features.py").write_text(text.partition("view =")[0])
    project.apply(agreed=lambda plan: True, allow_breaking=True)
    assert project.parts.registry.pins("spend@1") == []
    declare(project)
    assert project.parts.registry.pins("spend@1") == ["returns@1", "returns@2", "returns@3"]
    assert project.score("returns", ASKED)["version"].to_pylist() == [1]
