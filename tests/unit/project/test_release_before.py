"""The release before and this one on one project: it is gone on with where it stood, and they may take turns."""

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import millstream as ms
from millstream.clock import FileClock, to_micros
from millstream.store.iceberg.days import DAY

BEFORE = "11499ef"
"""The last commit whose tables were not divided by day."""
HOUR = 3_600_000_000
HERE = Path(__file__)
USERS = [{"user_id": number} for number in range(3)]
TURN = """
import sys
import millstream as ms
with ms.Project(sys.argv[1]) as project:
    first = int(sys.argv[2])
    at = project.parts.clock.now()
    project.send("clicks", [{"user_id": n % 3, "ms": float(n), "at": at} for n in range(first, first + 5)])
    layers = getattr(project.parts, "layers", project.parts)
    layers.archiver().step()
    events = project.parts.histories.events if layers is not project.parts else project.parts.history
    print(events().read("clicks").num_rows)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with 24 events in four hours over midnight, synced every hour by the release before."""
    with tarfile.open(HERE.with_name("made_before_days.tar.xz")) as made:
        made.extractall(tmp_path / "p", filter="data")
    return tmp_path / "p"


@pytest.fixture(scope="module")
def code_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of the release before, from git's history."""
    place = tmp_path_factory.mktemp("before")
    packed = subprocess.run(
        ["git", "archive", BEFORE, "src"], cwd=HERE.parent.parents[2], capture_output=True, check=False
    )
    if packed.returncode:
        pytest.skip(f"git's history here does not reach back to {BEFORE}")
    subprocess.run(["tar", "x", "-C", str(place)], input=packed.stdout, check=True)
    return place / "src"


def turn(code: Path, folder: Path, first: int) -> int:
    """Five more events, archived by a release; how many it finds in history then."""
    done = ran(code, folder, first)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def ran(code: Path, folder: Path, first: int) -> subprocess.CompletedProcess[str]:
    """A turn of a release, however it ends."""
    return subprocess.run(
        [sys.executable, "-c", TURN, str(folder), str(first)],
        env={"PYTHONPATH": str(code), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_project_of_the_release_before_is_gone_on_with_where_it_stood(folder: Path) -> None:
    with ms.Project(folder) as project:
        before = project.features("pace_view", USERS).to_pylist()
        assert [row["pace__count_30d"] for row in before] == [8, 8, 8]
        clock = FileClock(project.settings.data / "clock.json")
        assert clock.now() == to_micros("2026-01-02T03:00:00Z")
        for _ in range(2):
            project.send("clicks", [{"user_id": 1, "ms": 2.0, "at": clock.now()}])
            project.drain()
            project.sync()
            clock.advance(HOUR)
        after = project.features("pace_view", USERS).to_pylist()
        sums = [row["pace__ms_sum_30d"] for row in before]
        assert [row["pace__ms_sum_30d"] for row in after] == [sums[0], sums[1] + 4.0, sums[2]]
        assert project.parts.offline.scan("events.clicks").num_rows == 26
        history = project.parts.histories.events().read("clicks")
        assert history.num_rows == history.group_by(["_partition", "_position"]).aggregate([]).num_rows == 26
        assert project.history("pace").num_rows == 14
        syncer = project.parts.layers.syncer()
        reports = [report for _ in USERS for report in syncer.step()]
        assert all(report.compared for report in reports) and not any(report.disagreeing for report in reports)
        assert project.parts.identity.stepped_back() == []


def shared(folder: Path) -> tuple[Path, Path, str]:
    """Make a project that two releases use by turns: the code of this one, the settings, and what they say."""
    user = ms.Entity("user", keys={"user_id": "int64"})
    clicks = ms.EventStream("clicks", time="at", schema={"user_id": "int64", "ms": "float64", "at": "timestamp"})
    pace = ms.StreamFeatureGroup("pace", entity=user, source=clicks, features=[ms.Count(over="1h")])
    with ms.Project(folder, create=True) as project:
        project.apply(ms.FeatureView("pace_view", features=[pace]))
    settings = folder / "millstream.toml"
    return Path(ms.__file__).parents[1], settings, settings.read_text()


def test_the_release_before_and_this_one_archive_by_turns(tmp_path: Path, code_before: Path) -> None:
    """The rows that the release before adds to a table of days are of no day, and are read all the same."""
    code, settings, plain = shared(tmp_path / "p")
    settings.write_text(f"{plain}\n[offline]\nby_day = true\n")
    counts = [turn(code, tmp_path / "p", 0)]
    settings.write_text(plain)  # a table stays as it was made
    counts += [turn(one, tmp_path / "p", 5 * n) for n, one in enumerate((code_before, code, code_before, code), 1)]
    assert counts == [5, 10, 15, 20, 25]
    with ms.Project(tmp_path / "p") as project:
        found = project.parts.histories.events().read("clicks")
        assert sorted(found["ms"].to_pylist()) == [float(n) for n in range(25)]
        days = project.parts.offline.scan("events.clicks", [DAY])[DAY]
        assert (len(days), days.null_count) == (25, 10)


def test_the_release_before_refuses_a_table_for_spark(tmp_path: Path, code_before: Path) -> None:
    """It would add the columns that are called otherwise there once more, and find none of the rows that lack them."""
    code, settings, plain = shared(tmp_path / "p")
    settings.write_text(f"{plain}\n[offline]\nfor_spark = true\n")
    assert turn(code, tmp_path / "p", 0) == 5
    settings.write_text(plain)
    refused = ran(code_before, tmp_path / "p", 5)
    assert "another program has renamed to '_log_partition' its column '_partition'" in refused.stderr
    assert turn(code, tmp_path / "p", 10) == 15
