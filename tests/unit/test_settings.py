"""Reading millstream.toml."""

from pathlib import Path

import pytest

import millstream as ms
from millstream.errors import ProjectError
from millstream.settings import Generator, Settings


def load(folder: Path, text: str) -> Settings:
    (folder / "millstream.toml").write_text(text, encoding="utf-8")
    return Settings.load(folder)


def test_an_empty_file_gives_the_defaults(tmp_path: Path):
    settings = load(tmp_path, "")
    assert settings.name == tmp_path.name
    assert settings.folder == tmp_path.resolve()
    assert settings.data == tmp_path.resolve() / ".millstream"
    assert settings.registry_url == f"sqlite:///{settings.data / 'registry.db'}"
    assert (settings.host, settings.port, settings.partitions, settings.shards) == ("127.0.0.1", 8787, 4, 4)
    assert settings.generator == Generator(enabled=False)


def test_what_the_file_says_holds(tmp_path: Path):
    settings = load(
        tmp_path,
        """
        name = "fraud"
        data = "state"
        definitions = "features/all.py"
        partitions = 8
        sync_every = "15m"
        log_gib = 0.5
        registry_url = "postgresql://miller:hunter2@db/registry"
        [tables.accounts]
        path = "bank.duckdb#accounts"
        [generator]
        enabled = true
        rate = 200
        """,
    )
    assert settings.table_paths == {"accounts": "bank.duckdb#accounts"}
    assert settings.name == "fraud"
    assert settings.data == tmp_path.resolve() / "state"
    assert settings.partitions == 8
    assert settings.sync_every == 900_000_000
    assert settings.log_gib == 0.5
    assert settings.registry_url == "postgresql://miller:hunter2@db/registry"
    assert "hunter2" not in repr(settings)
    assert settings.generator == Generator(enabled=True, rate=200)


def test_an_absolute_data_folder_stays_where_it_is(tmp_path: Path):
    assert load(tmp_path, f'data = "{tmp_path / "elsewhere"}"').data == tmp_path / "elsewhere"


def test_a_folder_that_is_no_project_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(ProjectError, match=r"no millstream\.toml") as caught:
        Settings.load(tmp_path)
    assert "millstream init" in caught.value.hint


def test_a_misspelt_setting_names_the_nearest(tmp_path: Path):
    with pytest.raises(ProjectError, match="'partition' is not a setting") as caught:
        load(tmp_path, "partition = 8")
    assert "'partitions'" in caught.value.hint
    with pytest.raises(ProjectError, match=r"generator\.rates") as caught:
        load(tmp_path, "[generator]\nrates = 8")
    assert "'generator.rate'" in caught.value.hint


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("partitions = 0", "from 1 to 4096"),
        ("partitions = true", "whole number"),
        ('port = "80"', "whole number"),
        ("port = 70000", "to 65535"),
        ("capture_sample = 1.5", "from 0 to 1"),
        ('sync_every = "soon"', "duration"),
        ("sync_every = 10", "duration"),
        ("name = 5", "text"),
        ('name = ""', "not empty"),
        ('data = "\\u0000"', "without NUL"),
        ("generator = 5", "table"),
        ("[generator]\nenabled = 1", "true or false"),
        ("[generator]\nrate = 0", "a number from 0.001 to 1e\\+06"),
        ("[generator]\nseed = 9223372036854775808", "a whole number from 0 to 9223372036854775807"),
        ("log_gib = nan", "a number from 0.001 to 65536"),
        ("fsync = 'yes'", "true or false"),
        ("frozen_after = '1s'", "a duration of 2 s or more"),
        ("hosts = ['']", "a list of text"),
        ("log = 'embedded'", "'log' is 'embedded'; it must be a table"),
        ("registry_url = 5", "'registry_url' is not shown; it must be text"),
        ("tables = 5", r"tables such as \[tables.accounts\]"),
        ("tables.accounts = 'a.parquet'", r"tables such as \[tables.accounts\]"),
        ("[tables.accounts]", "'tables.accounts.path' is missing; it must be text"),
        ("[tables.accounts]\npath = 1", "'tables.accounts.path' is 1; it must be text"),
        ("[tables.accounts]\npaths = 'a'", "'tables.accounts.paths' is not a setting"),
    ],
)
def test_a_wrong_value_says_what_is_expected(tmp_path: Path, line: str, expected: str):
    with pytest.raises(ProjectError, match=expected):
        load(tmp_path, line)


def test_a_file_that_is_not_toml_is_one_clear_error(tmp_path: Path):
    with pytest.raises(ProjectError, match="cannot be read"):
        load(tmp_path, "= 5")


def test_the_file_of_a_registry_lies_in_the_project_whatever_the_working_directory_is(tmp_path: Path):
    assert (
        load(tmp_path, 'registry_url = "sqlite:///state/registry.db"').registry_url
        == f"sqlite:///{tmp_path}/state/registry.db"
    )
    assert load(tmp_path, 'registry_url = "sqlite:////var/registry.db"').registry_url == "sqlite:////var/registry.db"


@pytest.mark.parametrize("data", ["{outside}", "../outside"])
def test_data_outside_the_folder_belong_to_one_project_wherever_it_moves(tmp_path: Path, data: str):
    for name in ("first", "copy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "millstream.toml").write_text(f'data = "{data.format(outside=tmp_path / "outside")}"')
    ms.Project(tmp_path / "first")
    with pytest.raises(ProjectError, match=r"data folder '.*outside' belongs to the project '.*first'"):
        ms.Project(tmp_path / "copy")
    (tmp_path / "first").rename(tmp_path / "moved")
    ms.Project(tmp_path / "moved")
    with pytest.raises(ProjectError, match=r"belongs to the project '.*moved'"):
        ms.Project(tmp_path / "copy")


@pytest.mark.parametrize("name", ["what?", "100%25", "a#b", "a b", "ü"])
def test_a_folder_may_have_any_name(tmp_path: Path, name: str):
    user = ms.Entity("user", keys={"user_id": "int64"})
    visits = ms.EventStream("visits", time="at", schema={"user_id": "int64", "at": "timestamp"})
    group = ms.StreamFeatureGroup("pace", entity=user, source=visits, features=[ms.Count()])
    project = ms.Project(tmp_path / name, create=True)
    project.apply(group)
    project.load(visits, [{"user_id": 1, "at": "2026-01-01"}])
    project.drain()
    project.backfill()
    project.sync()
    assert project.history(group).num_rows == 1
    assert [one.name for one in tmp_path.iterdir()] == [name]
    assert (tmp_path / name / ".millstream" / "registry.db").exists()
