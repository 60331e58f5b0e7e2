"""Where a table is changes no value: it moves, by a definition or by the settings, and no version is made anew."""

import sqlite3
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import millstream as ms
from millstream.definitions.serialise import fingerprint, from_dict, revision_of, to_dict
from millstream.errors import MillstreamError
from millstream.registry.definitions import Registry

USER = ms.Entity("user", keys={"user_id": "int64"})
SCHEMA = {"user_id": "int64", "tier": "string", "changed": "timestamp"}
#: A registry as it was written while a fingerprint held the path of each table that a group reads.
EARLIER = Path(__file__).parent / "registry_with_paths.sql"
EARLIER_REVISION = "088066dd048c4fcb"


def accounts(path: str | None) -> ms.Table:
    return ms.Table("accounts", path=path, time="changed", delay="1h", schema=SCHEMA)


def people(table: ms.Table) -> ms.FeatureView:
    query = "select user_id, changed, tier from accounts"
    tier = ms.BatchFeatureGroup("tier", entity=USER, sources=[table], every="24h", time="changed", query=query)
    changes = ms.BatchFeatureGroup("changes", entity=USER, source=table, every="24h", features=[ms.Count(over="90d")])
    return ms.FeatureView("people", features=[tier, changes])


@pytest.fixture
def earlier(tmp_path: Path) -> Registry:
    with sqlite3.connect(tmp_path / "registry.db") as database:
        database.executescript(EARLIER.read_text(encoding="utf-8"))
    return Registry(f"sqlite:///{tmp_path}/registry.db")


def test_a_registry_whose_fingerprints_held_paths_sees_no_change(earlier: Registry) -> None:
    plan = earlier.plan([people(accounts("accounts.parquet"))], complete=True)
    assert plan.text() == ""
    earlier.apply(plan)
    assert [(one.id, one.state, one.default) for one in earlier.groups()] == [
        ("changes@1", "live", True),
        ("tier@1", "live", True),
    ]


@pytest.mark.parametrize("path", ["moved/accounts.parquet", None])
def test_in_such_a_registry_a_table_moves_without_new_versions(earlier: Registry, path: str | None) -> None:
    plan = earlier.plan([people(accounts(path))], complete=True)
    assert [(one.kind, one.thing, one.name) for one in plan.changes] == [("change", "table", "accounts")]
    earlier.apply(plan)
    assert [one.id for one in earlier.groups()] == ["changes@1", "tier@1"]
    assert earlier.group("tier").group.sources[0].path == path
    assert earlier.plan([people(accounts("accounts.parquet"))]).changes[0].thing == "table"


def test_a_view_of_such_a_registry_is_found_by_its_mark_of_then_and_of_now(earlier: Registry) -> None:
    now = revision_of(people(accounts("accounts.parquet")))
    assert now != EARLIER_REVISION
    for revision in (EARLIER_REVISION, now):
        assert earlier.view("people", revision).name == "people"
    earlier.apply(earlier.plan([people(accounts("moved.parquet"))]))
    for revision in (EARLIER_REVISION, now):
        assert earlier.view("people", revision).name == "people"
    with pytest.raises(MillstreamError, match="revision of view 'people'"):
        earlier.view("people", "0123456789abcdef")


def test_what_changes_values_still_makes_a_new_version(earlier: Registry) -> None:
    later = ms.Table("accounts", path="accounts.parquet", time="changed", delay="2h", schema=SCHEMA)
    plan = earlier.plan([people(later)])
    assert {(one.thing, one.version) for one in plan.changes if one.version} == {("group", 2)}


def test_a_path_is_no_part_of_a_fingerprint_and_may_be_left_out() -> None:
    marks = {fingerprint(people(accounts(path))) for path in ("a.parquet", "b.duckdb#accounts", None)}
    assert len(marks) == 1
    assert from_dict(to_dict(accounts(None))) == accounts(None)
    assert "path" not in to_dict(accounts(None))


def written(folder: Path, place: str, tiers: dict[int, str]) -> None:
    changed = pa.array([1_767_225_600_000_000] * len(tiers), pa.timestamp("us", "UTC"))
    rows = pa.table({"user_id": list(tiers), "tier": list(tiers.values()), "changed": changed})
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, folder / place)


def test_the_settings_say_where_a_table_is_and_it_moves_by_them_alone(tmp_path: Path) -> None:
    project = ms.Project(tmp_path / "site", create=True)
    settings = tmp_path / "site" / "millstream.toml"
    view = people(accounts(None))
    with pytest.raises(MillstreamError, match="Table 'accounts': nothing says where it is") as told:
        project.apply(view)
        project.drain()
    assert told.value.hint is not None and "[tables.accounts]" in told.value.hint
    project.close()
    before = settings.read_text(encoding="utf-8")
    for place, tier in (("one/accounts.parquet", "silver"), ("two/accounts.parquet", "gold")):
        written(tmp_path / "site", place, {1: tier})
        settings.write_text(f'{before}\n[tables.accounts]\npath = "{place}"\n', encoding="utf-8")
        project = ms.Project(tmp_path / "site")
        project.apply(view)
        assert project.plan(view).text() == ""
        project.drain()
        project.backfill()
        assert [one.id for one in project.parts.registry.groups()] == ["changes@1", "tier@1"]
        assert project.parts.histories.scheduled().events(accounts(None))["tier"].to_pylist() == [tier]
        project.close()


def test_a_place_for_a_table_that_is_not_declared_is_refused_when_the_folder_is_planned(tmp_path: Path) -> None:
    project = ms.Project(tmp_path, create=True)
    written(tmp_path, "accounts.parquet", {1: "silver"})
    (tmp_path / "features.py").write_text(
        "import millstream as ms\n"
        "user = ms.Entity('user', keys={'user_id': 'int64'})\n"
        f"accounts = ms.Table('accounts', path='accounts.parquet', time='changed', schema={SCHEMA!r})\n"
        "tier = ms.BatchFeatureGroup('tier', entity=user, sources=[accounts], every='24h', time='changed',\n"
        "    query='select user_id, changed, tier from accounts')\n"
    )
    assert project.plan().changes
    with (tmp_path / "millstream.toml").open("a") as settings:
        settings.write('[tables.acounts]\npath = "elsewhere.parquet"\n')
    with pytest.raises(MillstreamError, match=r"'tables\.acounts' says where a table is that is not declared") as told:
        ms.Project(tmp_path).plan()
    assert told.value.hint == "did you mean 'tables.accounts'?"
