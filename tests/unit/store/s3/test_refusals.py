"""What can be wrong with storage or a catalog is one error that says it and holds no secret; what is away may come back."""

from __future__ import annotations

import builtins
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.conftest import needs

from millstream.clock import SimulatedClock
from millstream.errors import MillstreamError, ProjectError, StoreError
from millstream.project.backends import Artefacts, backend
from millstream.settings import Settings
from millstream.store.iceberg.store import IcebergOfflineStore
from millstream.store.s3 import ObjectFolder
from millstream.testing.servers.postgresql import PASSWORD, PostgreSQL
from millstream.testing.servers.s3 import KEY, SECRET, TABLE_BUCKET, S3Server

EVENTS = "events.refused"
WRONG = "wrong/secret+3"
DATABASE = 'access_key = "x"\ncatalog = {{type = "sql", uri = "postgresql://{}"}}'
ROWS = pa.table({"n": [1, 2]})


def written(folder: Path, text: str) -> Settings:
    (folder / "millstream.toml").write_text(f'[offline]\nkind = "iceberg"\ntimeout = "1s"\n{text}')
    return Settings.load(folder)


def configured(folder: Path, text: str) -> IcebergOfflineStore:
    settings = written(folder, text)
    store = backend(settings, "offline").open(settings, SimulatedClock(0))
    assert isinstance(store, IcebergOfflineStore)
    return store


def said(call: Callable[[], Any], kind: type[MillstreamError] = StoreError) -> str:
    """The one sentence of an error, which holds no secret and has a hint."""
    with pytest.raises(kind) as raised:
        call()
    assert raised.value.hint and "\n" not in raised.value.message
    for secret in (SECRET, WRONG, PASSWORD):
        assert secret not in str(raised.value)
    return raised.value.message


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_S3_SECRET", SECRET)


def place(s3: S3Server, bucket: str, endpoint: str = "") -> str:
    return f'path = "s3://{bucket}/shop"\nendpoint = "{endpoint or s3.endpoint}"\naccess_key = "{KEY}"\n'


def test_a_path_and_a_key_are_all_it_takes(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3.bucket()
    store = configured(tmp_path, place(s3, bucket))
    store.append(EVENTS, ROWS)
    monkeypatch.delenv("MILLSTREAM_S3_SECRET")
    (tmp_path / "key").write_text(f"{SECRET}\n")
    settings = written(tmp_path, place(s3, f"{bucket}") + 'secret_file = "key"')
    again = backend(settings, "offline")
    assert again.open(settings, SimulatedClock(0)).scan(EVENTS).num_rows == 2
    assert isinstance(again, Artefacts)
    models = again.artefacts(settings)
    assert str(models) == f"s3://{bucket}/shop/models"
    assert (tmp_path / ".millstream" / "offline" / "catalog.db").exists()
    assert not (tmp_path / ".millstream" / "offline" / "warehouse").exists()
    assert s3.files.get_file_info(f"{bucket}/shop/tables").type.name == "NotFound"
    assert s3.files.get_file_info(f"{bucket}/shop/warehouse/events").type.name == "Directory"


def test_what_is_wrong_with_storage_is_one_sentence(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = s3.bucket()
    cases = [(place(s3, "nowhere"), "has no bucket 'nowhere'"), (place(s3, bucket, s3.catalog), "which S3 does not"),
             (place(s3, bucket, "http://127.0.0.1:9"), "'http://127.0.0.1:9' cannot be reached")]  # fmt: skip
    for text, expected in cases:
        assert expected in said(lambda text=text: configured(tmp_path, text).append(EVENTS, ROWS))
    monkeypatch.setenv("MILLSTREAM_S3_SECRET", WRONG)
    text = place(s3, bucket)
    assert "refuses access to bucket" in said(lambda: configured(tmp_path, text).append(EVENTS, ROWS))
    models = ObjectFolder(s3.access(WRONG), f"{bucket}/models")
    assert "refuses access" in said(lambda: models.read("model.txt"))
    assert "refuses access" in said(lambda: models.write("model.txt", b"x"))
    assert "no bucket" in said(lambda: ObjectFolder(s3.access(), "nowhere/models").write("model.txt", b"x"))


def test_what_is_wrong_with_a_catalog_is_one_sentence(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rest(uri: str = s3.catalog, warehouse: str = TABLE_BUCKET) -> IcebergOfflineStore:
        catalog = f'catalog = {{type = "rest", uri = "{uri}", warehouse = "{warehouse}"}}\n'
        return configured(tmp_path, f'endpoint = "{s3.endpoint}"\naccess_key = "{KEY}"\n{catalog}')

    assert "refuses us" in said(lambda: rest().tables())
    monkeypatch.setenv("MILLSTREAM_CATALOG_SECRET", f"{KEY}:{WRONG}")
    assert "refuses us" in said(lambda: rest().tables())
    monkeypatch.setenv("MILLSTREAM_CATALOG_SECRET", f"{KEY}:{SECRET}")
    assert rest().tables() == []
    assert "nowhere" in said(lambda: rest(warehouse="nowhere").append(EVENTS, ROWS))
    assert "cannot be reached" in said(lambda: rest("http://127.0.0.1:9").tables())
    assert "cannot be used" in said(lambda: rest(s3.endpoint).tables())


def test_what_is_wrong_with_a_catalog_in_a_database_is_one_sentence(
    s3: S3Server, postgresql: PostgreSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sql(uri: str) -> IcebergOfflineStore:
        return configured(tmp_path, place(s3, bucket) + f'catalog = {{type = "sql", uri = "{uri}"}}')

    bucket, uri = s3.bucket(), postgresql.database("miller")
    assert "no password supplied" in said(lambda: sql(uri).tables())
    monkeypatch.setenv("MILLSTREAM_CATALOG_SECRET", WRONG)
    assert "authentication failed" in said(lambda: sql(uri).tables())
    monkeypatch.setenv("MILLSTREAM_CATALOG_SECRET", PASSWORD)
    sql(uri).append(EVENTS, ROWS)
    assert sql(uri).scan(EVENTS).num_rows == 2
    assert "cannot be used" in said(lambda: sql("postgresql://miller@127.0.0.1:9/lake").tables())
    imported = builtins.__import__

    def without(name: str, *given: Any, **options: Any) -> Any:
        if name == "psycopg":
            raise ModuleNotFoundError("No module named 'psycopg'", name="psycopg")
        return imported(name, *given, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ProjectError, match="psycopg") as raised:
        sql(uri).tables()
    assert raised.value.hint == "pip install 'millstream[postgresql]'"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('catalog = {type = "rest", credential = "wrong/secret+3"}', "'credential' of `catalog` .* holds a secret"),
        ('catalog = {type = "rest", uri = "https://ada:wrong+3@lake.example.com"}', "'uri' .* holds a secret"),
        (DATABASE.format("ada:wrong%2Fsecret@db/x"), "'uri' .* holds a secret"),
        (DATABASE.format("ada:wrong/secret+3@db:/x"), "is no URL of a database"),
        (DATABASE.format("db/x?password=wrong/secret+3"), "'uri' .* holds a secret"),
        ('catalog = {type = "rest", "s3.secret-access-key" = "wrong/secret+3"}', "holds a secret"),
        ('catalog = {type = "rest", token = "wrong/secret+3", retries = 3}', "'offline.catalog' is not shown"),
        ('path = "lake/shop"', "'offline.path' is 'lake/shop'; it must be such as"),
        ('endpoint = "s3.example.com"', "it must be such as \"https://s3.example.com\""),
        ('path = "s3://lake/shop"', "has no access_key, and has the other half"),
        ('path = "s3://lake/shop"\nsecret_file = "absent"', "'offline.secret_file' is '.*absent', which cannot be read"),
        ('access_key = "x"\ncatalog = {type = "magic"}', "names no catalog that can be opened"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(tmp_path: Path, text: str, expected: str) -> None:
    def opened() -> None:
        configured(tmp_path, text).tables()

    assert re.search(expected, said(opened, ProjectError))


def test_a_catalog_of_a_library_that_is_not_there_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [one for one in sys.modules if re.match(r"thrift|hive_metastore|.*iceberg\.(catalog\.)?hive", one)]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "thrift", None)
    catalog = 'access_key = "x"\ncatalog = {type = "hive", uri = "thrift://127.0.0.1:9"}'
    with pytest.raises(ProjectError, match="needs a package that is not installed") as raised:
        configured(tmp_path, catalog).tables()
    assert raised.value.hint == "pip install 'millstream[hive]'"


def test_nothing_of_it_is_loaded_unless_settings_name_it(tmp_path: Path) -> None:
    import subprocess

    code = """
import sys, millstream as ms
with ms.Project(sys.argv[1], create=True) as project:
    project.parts.offline, project.parts.model_versions
print([one for one in sys.modules if one in ("millstream.store.s3", "millstream.store.iceberg.shared")])
"""
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_a_server_that_hangs_is_given_up_and_one_that_was_away_is_used_again(tmp_path: Path) -> None:
    needs(S3Server)
    with S3Server() as server:
        stores = [
            IcebergOfflineStore(server.sql(f"sqlite:///{tmp_path}/catalog.db?timeout=60", server.bucket())),
            IcebergOfflineStore(server.rest()),
        ]
        for store in stores:
            store.append(EVENTS, ROWS)
        server.freeze()
        for store, why in zip(stores, ["cannot be reached", "has not answered in time"], strict=True):
            assert why in said(lambda store=store: store.append(EVENTS, ROWS))
        server.kill()
        for store in stores:
            assert "cannot be reached" in said(lambda store=store: store.append(EVENTS, ROWS))
        server.start()
        for store in stores:
            store.append(EVENTS, ROWS)
            assert store.scan(EVENTS).num_rows == 4
