"""A project made by the version before, whose marks were positions of consumers of its log, goes on where it was."""

import tarfile
from collections import Counter
from pathlib import Path

import pytest

import millstream as ms
from millstream.buffer.topics import (
    attempts_mark,
    goal_mark,
    letters_mark,
    schedule_mark,
    start_mark,
    version_marks,
)
from millstream.clock import FileClock, to_micros
from millstream.project import apply

HOUR = 3_600_000_000
NOW = to_micros("2026-01-02T01:30:00Z")
VERSIONS = ["pace@1", "level@1", "total@1", "hourly@1", "strict@1", "late@1"]


@pytest.fixture
def folder(tmp_path):
    """A project with six groups: one live, three on a schedule, one whose backfill died, one that waits for its goal."""
    with tarfile.open(Path(__file__).with_name("made_before_marks.tar.xz")) as made:
        made.extractall(tmp_path / "p", filter="data")
    return tmp_path / "p"


@pytest.fixture
def project(folder):
    found = ms.Project(folder)
    yield found
    found.close()


def marks_of(project):
    marks = project.parts.marks
    return {mark: numbers for gv in VERSIONS for mark in version_marks(gv) if (numbers := marks.read(mark))}


def test_its_marks_are_taken_over_from_the_log(project):
    assert marks_of(project) == {
        start_mark("pace@1"): {"clicks/0": 0, "clicks/1": 0},
        goal_mark("pace@1"): {"clicks/0": 60, "clicks/1": 0},
        schedule_mark("level@1"): {"end": NOW - HOUR // 2, "staging.level@1/0": 0},
        schedule_mark("total@1"): {"end": NOW - HOUR // 2, "features.total@1/0": 0},
        schedule_mark("hourly@1"): {"end": NOW - HOUR // 2, "features.hourly@1/0": 0, "clicks/0": 60, "clicks/1": 20},
        start_mark("strict@1"): {"clicks/0": 60, "clicks/1": 20},
        attempts_mark("strict@1"): {"attempts": 1},
        letters_mark("strict@1"): {"clicks/0": 50},
        start_mark("late@1"): {"clicks/0": 60, "clicks/1": 20},
        goal_mark("late@1"): {"clicks/0": 80, "clicks/1": 20},
        attempts_mark("late@1"): {"attempts": 1},
    }


def test_they_are_taken_over_once(folder):
    before = ms.Project(folder)
    known = marks_of(before)
    moved = known[start_mark("pace@1")]
    before.parts.marks.move(start_mark("pace@1"), moved, {"clicks/0": 7})
    before.close()
    after = ms.Project(folder)
    assert marks_of(after) == known | {start_mark("pace@1"): {**moved, "clicks/0": 7}}
    after.close()


def test_no_interval_runs_again_and_the_next_one_does(project):
    assert project.parts.layers.batch_computer().due() == []
    FileClock(project.settings.data / "clock.json").advance(HOUR)
    due = project.parts.layers.batch_computer().due()
    assert [(one.start, one.end) for one in due] == [(NOW - HOUR // 2, NOW + HOUR // 2)] * 3


def test_it_goes_on_to_what_it_would_have_come_to(project):
    assert sorted(project.backfill()) == ["late@1", "strict@1"]
    FileClock(project.settings.data / "clock.json").advance(HOUR)
    project.drain()
    keys = [{"user_id": user} for user in range(5)]
    counts = {
        name: sum(count or 0 for count in project.features(view, keys)[name].to_pylist())
        for view, name in (
            ("first", "pace__count"), ("first", "hourly__count"), ("second", "strict__count"),
            ("second", "late__count_9000h"),
        )
    }  # fmt: skip
    assert counts == {
        "pace__count": 120, "hourly__count": 120, "strict__count": 108, "late__count_9000h": 120
    }  # fmt: skip
    totals = project.features("first", [{"user_id": 1}, {"user_id": 2}])
    assert totals["total__x_sum"].to_pylist() == totals["level__x"].to_pylist() == [1.5, 2.0]
    letters = Counter(
        zip(*(project.dead_letters("clicks")[name].to_pylist() for name in ("partition", "position")), strict=True)
    )
    assert sorted(letters.values()) == [1] * 12
    assert project.verify().mismatches == 0


def test_what_is_built_anew_writes_no_letter_again(project):
    project.backfill()
    before = project.dead_letters("clicks").num_rows
    assert "strict@1" in project.backfill("strict")
    assert project.dead_letters("clicks").num_rows == before == 12


def test_a_backfill_that_died_counts_its_attempts_on(project):
    version = project.parts.registry.group("strict")
    apply.backfill(project.parts, version)
    assert project.parts.marks.read(attempts_mark("strict@1")) == {"attempts": 2}
