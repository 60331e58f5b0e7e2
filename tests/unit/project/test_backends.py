"""A backend is a file and a line; its section is checked as the rest of the settings, and what is opened is closed."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.unit.project import counting_engine, memory_backend

import millstream as ms
from millstream.errors import LogError, ProjectError
from millstream.project.backends import BACKENDS, backend
from millstream.project.parts import Parts
from millstream.settings import Settings

USER = ms.Entity("user", keys={"user_id": "int64"})
VISITS = ms.EventStream("visits", time="at", schema={"user_id": "int64", "at": "timestamp"})
PACE = ms.StreamFeatureGroup("pace", entity=USER, source=VISITS, features=[ms.Count(over="1h")])
VIEW = ms.FeatureView("pace", features=[PACE])


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS["online"], "memory", "tests.unit.project.memory_backend:Memory")
    monkeypatch.setitem(BACKENDS["online"], "absent", "tests.unit.project.absent_backend:Absent")
    monkeypatch.setattr(memory_backend, "opened", [])


def settings(folder: Path, text: str) -> Settings:
    folder.mkdir(exist_ok=True)
    (folder / "millstream.toml").write_text(text, encoding="utf-8")
    return Settings.load(folder)


def test_a_project_runs_on_a_backend_that_its_settings_name(tmp_path: Path) -> None:
    settings(tmp_path, '[online]\nkind = "memory"\nmegabytes = 8')
    with ms.Project(tmp_path) as project:
        project.apply(VIEW)
        project.send(VISITS, [{"user_id": 1, "at": project.clock.now()}])
        project.drain()
        assert project.features(VIEW, [{"user_id": 1}]).num_rows == 1
        (store,) = memory_backend.opened
        assert store.megabytes == 8 and project.parts.online is store and not store.closed
    assert store.closed
    assert not (tmp_path / ".millstream" / "online").exists()


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        (
            '[online]\nkind = "memry"\nmegabytes = 1',
            r"'online\.kind' is 'memry'; it must be one of lmdb, redis, postgresql, memory",
            "memory",
        ),
        ("[online]\nkind = 5", r"'online\.kind' is 5; it must be one of lmdb", "lmdb"),
        ('[online]\nkind = "memory"\nmegabyte = 1', r"'online\.megabyte' is not a setting", "online.megabytes"),
        (
            '[online]\nkind = "memory"\nmegabytes = 0',
            r"'online\.megabytes' is 0; it must be a whole number from 1",
            "write",
        ),
        ('[online]\nkind = "memory"', r"'online\.megabytes' is missing", "[online]"),
        ("[online]\nmegabytes = 1", r"'online\.megabytes' is not a setting", "settings are"),
        ("[log]\nfsync = true", r"'log\.fsync' is not a setting", "settings are"),
        (
            "[offline]\ncatalog = 5",
            r"'offline\.catalog' is not shown; it must be properties of a catalog",
            "leave it out",
        ),
        ("[offline]\ncatalogue = {}", r"'offline\.catalogue' is not a setting", "offline.catalog"),
    ],
)
def test_what_is_wrong_in_a_section_is_said_when_the_project_is_opened(
    tmp_path: Path, text: str, said: str, hint: str
) -> None:
    settings(tmp_path, text)
    with pytest.raises(ProjectError, match=said) as told:
        ms.Project(tmp_path)
    assert told.value.hint is not None and hint in told.value.hint


def test_a_library_that_is_not_installed_is_named_with_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needing.py").write_text("import a_library_that_nobody_has\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(BACKENDS["log"], "needing", "needing:Needing")
    with pytest.raises(ProjectError, match="needs the package 'a_library_that_nobody_has'") as told:
        Parts(settings(tmp_path / "site", '[log]\nkind = "needing"'))
    assert told.value.hint == "pip install 'millstream[needing]'"


def test_every_line_of_the_table_names_a_class_that_opens_without_a_setting(tmp_path: Path) -> None:
    here = settings(tmp_path, "")
    for section, kinds in BACKENDS.items():
        assert callable(backend(here, section).open)
        assert getattr(settings(tmp_path, f'[{section}]\nkind = "{next(iter(kinds))}"'), section)
        assert ms.Project(tmp_path).settings.folder == tmp_path


def test_the_end_of_a_with_block_closes_all_that_was_opened_and_what_is_used_then_is_opened_anew(
    tmp_path: Path,
) -> None:
    with ms.Project(tmp_path / "site", create=True) as project:
        project.apply(VIEW)
        project.drain()
        parts = project.parts
        log, registry, _ = parts.log, parts.registry, parts.marks
        assert parts.offline.snapshot("events.visits") is None
        assert parts.model_versions.aliases("fraud") == {}
    assert not {"log", "online", "offline", "registry", "marks", "model_versions"} & parts.__dict__.keys()
    with pytest.raises(LogError):
        log.topics()
    assert [one.name for one in registry.streams()] == ["visits"]
    assert "visits" in parts.log.topics()
    assert [one.name for one in parts.registry.streams()] == ["visits"]
    project.close()
    project.close()


def test_another_projects_handle_on_the_same_log_stays_open(tmp_path: Path) -> None:
    first, second = ms.Project(tmp_path, create=True), ms.Project(tmp_path)
    first.apply(VIEW)
    assert "visits" in second.parts.log.topics()
    first.close()
    assert "visits" in second.parts.log.topics()
    second.close()


def test_the_offline_store_keeps_its_tables_in_the_catalog_that_the_settings_name(tmp_path: Path) -> None:
    catalog = f'{{type = "sql", uri = "sqlite:///{tmp_path}/other.db", warehouse = "file://{tmp_path}/other"}}'
    settings(tmp_path / "site", f"[offline]\ncatalog = {catalog}")
    with ms.Project(tmp_path / "site") as project:
        project.apply(VIEW)
        project.load(VISITS, [{"user_id": 1, "at": "2026-01-01"}])
        project.drain()
        project.backfill()
        project.sync()
        assert project.history(PACE).num_rows == 1
    assert (tmp_path / "other.db").exists() and any((tmp_path / "other").rglob("*.parquet"))
    assert not list((tmp_path / "site" / ".millstream" / "offline").rglob("*.parquet"))


def test_the_queries_of_batch_groups_go_to_the_engine_that_the_settings_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKENDS["batch"], "counting", "tests.unit.project.counting_engine:Counting")
    monkeypatch.setattr(counting_engine, "asked_of_it", [])
    settings(tmp_path, '[batch]\nkind = "counting"')
    pq.write_table(pa.table({"user_id": [1], "tier": ["gold"]}), tmp_path / "accounts.parquet")
    accounts = ms.Table("accounts", path="accounts.parquet")
    query = "select user_id, tier from accounts"
    tier = ms.BatchFeatureGroup("tier", entity=USER, sources=[accounts], every="24h", query=query)
    view = ms.FeatureView("tiers", features=[tier])
    with ms.Project(tmp_path) as project:
        project.apply(view)
        planned = list(counting_engine.asked_of_it)
        project.drain()
        project.backfill()
        assert project.features(view, [{"user_id": 1}])["tier__tier"].to_pylist() == ["gold"]
    assert planned and len(counting_engine.asked_of_it) > len(planned)
