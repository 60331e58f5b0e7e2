"""A log that was restored, emptied or replaced under its stores is seen, said and mended."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import millstream as ms
from millstream.cli.app import main
from millstream.cli.checks import checked
from millstream.clock import FileClock, to_micros
from millstream.errors import SteppedBack

user = ms.Entity("user", keys={"user_id": "int64"})
clicks = ms.EventStream("clicks", time="at", schema={"user_id": "int64", "at": "timestamp"}, partitions=2)
pace = ms.StreamFeatureGroup("pace", entity=user, source=clicks, features=[ms.Count(over="1d")])
view = ms.FeatureView("pace", request={}, features=[pace])
DECLARED = """
import millstream as ms
user = ms.Entity("user", keys={"user_id": "int64"})
clicks = ms.EventStream("clicks", time="at", schema={"user_id": "int64", "at": "timestamp"}, partitions=2)
pace = ms.StreamFeatureGroup("pace", entity=user, source=clicks, features=[ms.Count(over="1d")])
view = ms.FeatureView("pace", request={}, features=[pace])
"""


def opened(folder: Path) -> ms.Project:
    if not (folder / ".millstream").exists():
        (folder / ".millstream").mkdir(parents=True)
        FileClock(folder / ".millstream" / "clock.json").set(to_micros("2026-01-01T12:00:00Z"), rate=0.0)
        (folder / "millstream.toml").write_text('name = "shop"\nshards = 1\nlog_gib = 1\n')
        (folder / "features.py").write_text(DECLARED)
        project = ms.Project(folder)
        project.apply(view)
        return project
    return ms.Project(folder)


def send(project: ms.Project, users: range) -> None:
    for number in users:
        project.send("clicks", [{"user_id": number, "at": "2026-01-01T11:30:00Z"}])


def counts(project: ms.Project, users: range) -> list[int]:
    rows = project.features("pace", [{"user_id": number} for number in users]).to_pylist()
    return [row["pace__count_1d"] for row in rows]


def restored(folder: Path) -> None:
    shutil.rmtree(folder / ".millstream" / "log")
    shutil.copytree(folder / "copy", folder / ".millstream" / "log")


def emptied(folder: Path) -> None:
    shutil.rmtree(folder / ".millstream" / "log")
    opened(folder).apply(view)


def replaced(folder: Path) -> None:
    with_others = opened(folder / "other")
    send(with_others, range(100, 130))
    with_others.drain()
    with_others.close()
    shutil.rmtree(folder / ".millstream" / "log")
    shutil.copytree(folder / "other" / ".millstream" / "log", folder / ".millstream" / "log")


def filled(folder: Path) -> None:
    """Ten events, a copy of the log, and ten events more, all computed, ingested and archived."""
    project = opened(folder)
    send(project, range(10))
    project.drain()
    project.close()
    shutil.copytree(folder / ".millstream" / "log", folder / "copy")
    project = opened(folder)
    send(project, range(10, 20))
    project.drain()
    project.parts.archiver().step()
    project.close()


@pytest.mark.parametrize("step_back", [restored, emptied, replaced])
def test_a_log_that_stepped_back_is_seen_and_said_and_nobody_goes_on(tmp_path: Path, step_back: Callable[[Path], None]):
    filled(tmp_path)
    step_back(tmp_path)
    project = opened(tmp_path)
    assert len(project.status()["stepped_back"]) == 1
    (check,) = [one for one in checked(tmp_path) if one.name == "identity"]
    assert not check.fine
    assert "Archive of 'clicks'" in check.found and "Group version 'pace@1'" in check.found
    send(project, range(20, 60))
    for layer in (project.parts.ingester(), project.parts.archiver()):
        with pytest.raises(SteppedBack, match=r"which was read|in log|another record") as caught:
            layer.step()
        assert "millstream repair" in caught.value.hint
    with pytest.raises(SteppedBack):
        project.drain()
    project.close()


def test_a_whole_project_that_was_restored_goes_on(tmp_path: Path):
    filled(tmp_path / "shop")
    shutil.copytree(tmp_path / "shop", tmp_path / "copy")
    project = opened(tmp_path / "shop")
    send(project, range(20, 30))
    project.drain()
    project.close()
    project = opened(tmp_path / "copy")
    assert project.status()["stepped_back"] == []
    send(project, range(20, 30))
    project.drain()
    assert counts(project, range(31)) == [1] * 30 + [0]
    project.close()


@pytest.mark.parametrize(("step_back", "users"), [(restored, 60), (emptied, 60), (replaced, 60)])
def test_repair_keeps_all_that_the_archive_or_the_log_holds_and_counts_it_once(
    tmp_path: Path, step_back: Callable[[Path], None], users: int
):
    filled(tmp_path)
    step_back(tmp_path)
    project = opened(tmp_path)
    send(project, range(20, users))
    before = project.parts.log.identity()
    project.close()
    main_ends_with(["repair", "--yes", "--json", "--project", str(tmp_path)], 0)
    project = opened(tmp_path)
    assert project.status()["stepped_back"] == [] == project.parts.stepped_back()
    assert int(project.parts.log.identity().partition("@")[2]) > int(before.partition("@")[2])
    assert counts(project, range(users + 1)) == [1] * users + [0]
    send(project, range(5))
    project.drain()
    project.parts.archiver().step()
    assert counts(project, range(users + 1)) == [2] * 5 + [1] * (users - 5) + [0]
    assert project.parts.history().read("clicks").num_rows >= users + 5
    project.backfill("pace")
    assert counts(project, range(users + 1)) == [2] * 5 + [1] * (users - 5) + [0]
    project.close()
    main_ends_with(["repair", "--project", str(tmp_path)], 0)


def main_ends_with(arguments: list[str], code: int) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == code
