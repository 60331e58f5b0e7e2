"""A stream of which nothing can be taken is not passed over in silence."""

import logging
from pathlib import Path

import pytest

import millstream as ms
from millstream.errors import TrainingError

user = ms.Entity("user", keys={"user_id": "int64"})
s = ms.EventStream("s", time="at", schema={"id": "int64", "user_id": "int64", "y": "bool", "at": "timestamp"})
g = ms.StreamFeatureGroup("g", entity=user, source=s, features=[ms.Count()])
view = ms.FeatureView("v", features=[g])
model = ms.Model("m", view=view, examples=s, label=ms.Label(s, "y", on="id", absent=None, after="1m"))
GOOD = {"id": 1, "user_id": 1, "y": True, "at": "2026-01-01T10:00:00Z"}
BAD = {"id": 2, "user_id": 1, "y": "perhaps", "at": "2026-01-01T10:00:00Z"}


@pytest.fixture
def project(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> ms.Project:
    caplog.set_level(logging.WARNING)
    project = ms.Project(tmp_path, create=True)
    project.apply(model)
    return project


def test_load_says_how_many_are_dead_letters(project: ms.Project, caplog: pytest.LogCaptureFixture) -> None:
    assert (project.load(s, [GOOD]), project.load(s, [GOOD]).dead, caplog.text) == (1, 0, "")  # type: ignore[attr-defined]
    some = project.load(s, [GOOD, BAD, BAD])
    assert (some, some.dead) == (3, 2)  # type: ignore[attr-defined]
    assert "Stream 's': 2 of 3 events are dead letters; the first: " in caplog.text
    assert project.load(s, [BAD]).dead == 1  # type: ignore[attr-defined]
    assert "all 1 events are dead letters" in caplog.text
    assert project.drain()["dead"] == 3


def test_drain_backfill_and_train_say_that_all_of_a_stream_are(
    project: ms.Project, caplog: pytest.LogCaptureFixture
) -> None:
    said = "Stream 's': all of its 2 events are dead letters"
    project.send(s, [BAD, BAD])
    assert project.drain()["dead"] == 2
    assert said in caplog.text
    caplog.clear()
    project.backfill()
    assert said in caplog.text
    with pytest.raises(TrainingError, match=said):
        project.train(model)


def test_a_stream_of_which_some_can_be_taken_is_not_complained_of(
    project: ms.Project, caplog: pytest.LogCaptureFixture
) -> None:
    project.send(s, [BAD, GOOD, BAD])
    project.drain()
    project.backfill()
    assert "all of its" not in caplog.text
