"""A log that was restored, emptied or replaced under its stores is seen, said and mended."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

import millstream as ms
from millstream.cli.app import main
from millstream.cli.checks import checked
from millstream.clock import FileClock, to_micros
from millstream.errors import SteppedBack
from millstream.project.repair import repair
from millstream.registry import pinning
from millstream.serve.reader import FeatureReader
from millstream.testing.adversarial_online import AdversarialOnlineStore

user = ms.Entity("user", keys={"user_id": "int64"})
clicks = ms.EventStream("clicks", time="at", schema={"user_id": "int64", "at": "timestamp"}, partitions=2)
pace = ms.StreamFeatureGroup("pace", entity=user, source=clicks, features=[ms.Count(over="1d")])
view = ms.FeatureView("pace", features=[pace])
DECLARED = """
import millstream as ms
user = ms.Entity("user", keys={"user_id": "int64"})
clicks = ms.EventStream("clicks", time="at", schema={"user_id": "int64", "at": "timestamp"}, partitions=2)
pace = ms.StreamFeatureGroup("pace", entity=user, source=clicks, features=[ms.Count(over="1d")])
view = ms.FeatureView("pace", features=[pace])
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
    project.parts.layers.archiver().step()
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
    for layer in (project.parts.layers.ingester(), project.parts.layers.archiver()):
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
    assert project.status()["stepped_back"] == [] == project.parts.identity.stepped_back()
    assert int(project.parts.log.identity().partition("@")[2]) > int(before.partition("@")[2])
    assert counts(project, range(users + 1)) == [1] * users + [0]
    send(project, range(5))
    project.drain()
    project.parts.layers.archiver().step()
    assert counts(project, range(users + 1)) == [2] * 5 + [1] * (users - 5) + [0]
    assert project.parts.histories.events().read("clicks").num_rows >= users + 5
    project.backfill("pace")
    assert counts(project, range(users + 1)) == [2] * 5 + [1] * (users - 5) + [0]
    project.close()
    main_ends_with(["repair", "--project", str(tmp_path)], 0)


def main_ends_with(arguments: list[str], code: int) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == code


plans = ms.Table("plans", path="plans.parquet", time="seen", schema={"user_id": "int64", "plan": "string",
                                                                    "seen": "timestamp"})  # fmt: skip
tier = ms.BatchFeatureGroup(
    "tier", entity=user, sources=[plans], every="1h", time="seen", query="select user_id, seen, plan from plans"
)
tiers = ms.FeatureView("tiers", features=[tier])
BEGIN = to_micros("2026-01-01T12:00:00Z")


def run_at(folder: Path, hour: int, users: range) -> None:
    """One run of the query at an hour, whose rows say which it was."""
    FileClock(folder / ".millstream" / "clock.json").set(BEGIN + hour * 3_600_000_000, rate=0.0)
    seen = pa.array([BEGIN + hour * 3_600_000_000 - 1] * len(users), pa.timestamp("us", "UTC"))
    table = pa.table({"user_id": list(users), "plan": [f"hour {hour}"] * len(users), "seen": seen})
    pq.write_table(table, folder / "plans.parquet")
    project = opened(folder)
    project.apply(tiers)
    project.drain()
    project.close()


def told(folder: Path, users: int) -> list[str | None]:
    project = opened(folder)
    found = project.features("tiers", [{"user_id": number} for number in range(users)])["tier__plan"].to_pylist()
    project.close()
    return found


@pytest.mark.parametrize("step_back", [restored, emptied, replaced])
@pytest.mark.parametrize("later", [1, 4])
def test_runs_of_a_query_go_on_after_the_log_has_stepped_back(
    tmp_path: Path, step_back: Callable[[Path], None], later: int
) -> None:
    opened(tmp_path).close()
    run_at(tmp_path, 0, range(4))
    shutil.copytree(tmp_path / ".millstream" / "log", tmp_path / "copy")
    for hour in (1, 2, 3):
        run_at(tmp_path, hour, range(hour, 4))
    step_back(tmp_path)
    project = opened(tmp_path)
    assert any("Group version 'tier@1'" in one for one in project.parts.identity.stepped_back())
    assert any("Offline table of 'tier@1'" in one for one in project.parts.identity.stepped_back())
    for _ in range(later):
        project.parts.log.create("staging.tier@1", 1)
        project.write(tier, [{"user_id": 4, "plan": "between", "seen": "2026-01-01T15:00:00Z"}])
    with pytest.raises(SteppedBack, match="millstream repair"):
        project.parts.layers.batch_ingester().flush()
    project.close()
    main_ends_with(["repair", "--yes", "--project", str(tmp_path)], 0)
    project = opened(tmp_path)
    assert project.parts.identity.stepped_back() == []
    project.close()
    expected = ["hour 0", "hour 1", "hour 2", "hour 3"]
    assert told(tmp_path, 5) == [*expected, "between"]
    run_at(tmp_path, 5, range(2))
    assert told(tmp_path, 5) == ["hour 5", "hour 5", *expected[2:], "between"]
    project = opened(tmp_path)
    rows = project.parts.offline.scan("batch.tier@1", ["user_id", "plan"]).to_pylist()
    assert sum(row["plan"] == "between" for row in rows) == 1
    project.close()


def test_states_of_a_query_that_hold_less_than_its_offline_table_are_built_anew_by_repair(tmp_path: Path) -> None:
    opened(tmp_path).close()
    run_at(tmp_path, 0, range(4))
    for part in ("log", "online"):
        shutil.copytree(tmp_path / ".millstream" / part, tmp_path / f"copy of {part}")
    run_at(tmp_path, 1, range(1, 4))
    for part in ("log", "online"):
        shutil.rmtree(tmp_path / ".millstream" / part)
        shutil.copytree(tmp_path / f"copy of {part}", tmp_path / ".millstream" / part)
    main_ends_with(["repair", "--yes", "--project", str(tmp_path)], 0)
    assert told(tmp_path, 4) == ["hour 0", "hour 1", "hour 1", "hour 1"]


other = ms.StreamFeatureGroup("pace", entity=user, source=clicks, features=[ms.Count(over="1d"), ms.Count(over="1h")])
later = ms.FeatureView("pace", features=[other])


def registry_of(folder: Path) -> Path:
    return folder / ".millstream" / "registry.db"


def taken_back(folder: Path) -> None:
    for place in folder.glob(".millstream/registry.db*"):
        place.unlink()
    shutil.copy(folder / "copy.db", registry_of(folder))


def lost(folder: Path) -> None:
    for place in folder.glob(".millstream/registry.db*"):
        place.unlink()


def anothers(folder: Path) -> None:
    lost(folder)
    opened(folder / "other").close()
    shutil.copy(registry_of(folder / "other"), registry_of(folder))


@pytest.mark.parametrize("step_back", [taken_back, lost, anothers])
def test_a_registry_that_stepped_back_is_seen_said_and_gone_on_with_by_repair(
    tmp_path: Path, step_back: Callable[[Path], None]
) -> None:
    project = opened(tmp_path)
    send(project, range(10))
    project.drain()
    shutil.copy(registry_of(tmp_path), tmp_path / "copy.db")
    project.apply(later)
    project.backfill()
    send(project, range(5))
    project.drain()
    project.close()
    step_back(tmp_path)
    project = opened(tmp_path)
    (said,) = project.status()["stepped_back"]
    assert said.startswith("Registry: it is ")
    (check,) = [one for one in checked(tmp_path) if one.name == "identity"]
    assert not check.fine
    assert "Registry: it is " in check.found
    for act in (project.drain, lambda: project.apply(later), lambda: project.backfill("pace")):
        with pytest.raises(SteppedBack, match="Registry: it is") as caught:
            act()
        assert "millstream repair" in caught.value.hint
    project.close()
    main_ends_with(["repair", "--yes", "--json", "--project", str(tmp_path)], 0)
    project = opened(tmp_path)
    assert project.parts.identity.stepped_back() == []
    if step_back is lost:
        project.apply(view)
        project.backfill()
    assert counts(project, range(11)) == [2] * 5 + [1] * 5 + [0]
    project.apply(later)
    project.backfill()
    assert project.parts.registry.group("pace").version == (4 if step_back is lost else 3)  # no number means two things
    assert counts(project, range(11)) == [2] * 5 + [1] * 5 + [0]
    send(project, range(10, 11))
    project.drain()
    assert counts(project, range(9, 11)) == [1, 1]
    project.close()
    main_ends_with(["doctor", "--project", str(tmp_path)], 0)


def test_a_copied_or_moved_project_and_a_registry_of_before_are_gone_by(tmp_path: Path) -> None:
    filled(tmp_path / "shop")
    shutil.copytree(tmp_path / "shop", tmp_path / "copy")
    engine = sa.create_engine(f"sqlite:///{registry_of(tmp_path / 'copy')}")
    with engine.begin() as connection:
        connection.execute(sa.text("delete from registry_facts where name = 'identity'"))
    engine.dispose()
    copied = opened(tmp_path / "copy").parts.identity.stepped_back()
    assert copied != []  # it has been noted, and another one is another one
    project = opened(tmp_path / "shop")
    assert project.parts.identity.stepped_back() == []
    project.apply(later)
    assert project.parts.identity.stepped_back() == []
    project.close()


def test_readyz_says_that_the_registry_has_stepped_back(tmp_path: Path) -> None:
    import asyncio

    import httpx

    from millstream.serve.server import Service

    filled(tmp_path)
    lost(tmp_path)
    parts = opened(tmp_path).parts
    service = Service(
        "shop", parts.settings.data, log=parts.log, online=parts.online, registry=parts.registry,
        versions=parts.model_versions, clock=parts.clock,
    )  # fmt: skip

    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(service.application)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.get("/readyz")

    with service:
        answer = asyncio.run(asked())
    assert answer.status_code == 503
    assert answer.json()["stepped_back"][0].startswith("Registry: it is ")


def test_repair_of_states_that_were_being_written_counts_every_event_once(tmp_path: Path):
    filled(tmp_path)
    project = opened(tmp_path)
    store = project.parts.__dict__["online"] = AdversarialOnlineStore(project.parts.online, seed=2)
    project.parts.online.drop("pace@1")
    project.backfill("pace")
    send(project, range(20, 30))
    project.parts.layers.computer().step()
    store._stubborn = 100
    project.parts.layers.ingester().step()
    (meta,) = store.facts({project.parts.registry.groups()[0].states: 1}).popitem()[1]
    assert meta is not None and meta.pending is not None
    project.parts.layers.archiver().step()
    project.close()
    restored(tmp_path)
    project = opened(tmp_path)
    store = project.parts.__dict__["online"] = AdversarialOnlineStore(project.parts.online, seed=2)
    assert any("Group version 'pace@1'" in one for one in project.parts.identity.stepped_back())
    repair(project)
    assert counts(project, range(31)) == [1] * 30 + [0]
    project.close()


def test_repair_builds_the_versions_anew_that_a_model_pins_as_well(tmp_path: Path) -> None:
    """The champion goes on reading the version that it learnt from when the group's default is another one."""
    project = opened(tmp_path)
    send(project, range(10))
    project.drain()
    with project.parts.registry._database.writing() as connection:
        pinning.pin(connection, "slow@1", ["pace@1"])
    project.apply(later)
    project.backfill()
    send(project, range(10, 15))
    project.drain()
    project.close()
    shutil.copytree(tmp_path / ".millstream" / "log", tmp_path / "copy")
    project = opened(tmp_path)
    send(project, range(15, 20))
    project.drain()
    project.parts.layers.archiver().step()
    project.close()
    restored(tmp_path)
    project = opened(tmp_path)
    send(project, range(20, 30))
    done = repair(project)
    assert sorted(done.rebuilt) == ["pace@1", "pace@2"]
    assert counts(project, range(31)) == [1] * 30 + [0]
    reader = FeatureReader(project.parts.online, view, project.parts.served.versions(("pace@1",)), project.clock)
    read = reader.read({"user_id": list(range(31))}, np.full(31, project.clock.now()))
    assert read.columns["pace__count_1d"].tolist() == [1] * 30 + [0]
    project.close()
