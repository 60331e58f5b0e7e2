"""A Hive Metastore as the catalog: the contract of offline stores, what is wrong with one, and writers that stood still."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import pyarrow as pa
import pytest

from millstream.clock import SimulatedClock
from millstream.errors import MillstreamError, ProjectError, StoreError
from millstream.project.backends import backend
from millstream.settings import Settings
from millstream.store.iceberg.store import IcebergOfflineStore
from millstream.testing.offline_suite import Factory, OfflineStoreConformance
from millstream.testing.servers.hive import LOCKED, HiveMetastore
from millstream.testing.servers.s3 import KEY, SECRET, S3Server

pytestmark = pytest.mark.engines


class TestIcebergOnS3ByHive(OfflineStoreConformance):
    of = ("offline store", "Iceberg, a Hive Metastore and S3")

    @pytest.fixture
    def factory(self, hive: HiveMetastore, s3: S3Server) -> Iterator[Factory]:
        opened = partial(IcebergOfflineStore, hive.hive(s3.bucket()))
        yield opened
        store = opened()  # the server has one catalog
        for table in store.tables():
            store.drop(table)


EVENTS = "events.clicks"


def numbers(*these: int) -> pa.Table:
    return pa.table({"n": pa.array(these, pa.int64())})


@pytest.fixture
def store(hive: HiveMetastore, s3: S3Server) -> Iterator[IcebergOfflineStore]:
    opened = IcebergOfflineStore(hive.hive(s3.bucket()))
    yield opened
    for table in opened.tables():
        opened.drop(table)


def test_threads_of_a_process_do_not_close_each_others_connection(store: IcebergOfflineStore) -> None:
    with ThreadPoolExecutor(4) as several:
        list(several.map(lambda n: store.append(EVENTS, numbers(n)), range(12)))
        read = list(several.map(lambda _: store.scan(EVENTS).num_rows, range(12)))
    assert read == [12] * 12


def test_a_commit_that_stood_still_until_its_lock_was_given_away_undoes_nothing(
    store: IcebergOfflineStore, hive: HiveMetastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append(EVENTS, numbers(1))
    other = IcebergOfflineStore(store._warehouse)
    catalog: Any = store._catalog()
    write = catalog._write_metadata

    def late(**given: Any) -> None:
        monkeypatch.setattr(catalog, "_write_metadata", write)
        Event().wait(LOCKED)
        other.append(EVENTS, numbers(2))  # it waits for the lock until that is given to it
        write(**given)

    monkeypatch.setattr(catalog, "_write_metadata", late)
    store.append(EVENTS, numbers(3))
    assert sorted(other.scan(EVENTS)["n"].to_pylist()) == [1, 2, 3]


def test_names_with_capital_letters_are_refused(store: IcebergOfflineStore) -> None:
    store.append(EVENTS, numbers(1))
    for use in (lambda: store.append("events.Clicks", numbers(1)), lambda: store.scan("events.Clicks")):
        with pytest.raises(StoreError, match=r"'events\.Clicks': a Hive Metastore tells no capital letters"):
            use()
    assert store.tables() == [EVENTS]


def test_tables_lie_where_the_settings_say(store: IcebergOfflineStore) -> None:
    store.append(EVENTS, numbers(1))
    assert re.fullmatch(r"s3://bucket-\d+/tables/events/clicks", store._load(EVENTS).location())


def said(
    folder: Path,
    s3: S3Server,
    uri: str,
    kind: type[MillstreamError] = StoreError,
    path: str = 'path = "s3://lake/shop"',
) -> str:
    """What is said, in a sentence with a hint, of an address of no Metastore."""
    settings = f'{path}\nendpoint = "{s3.endpoint}"\naccess_key = "{KEY}"\ntimeout = "1s"\n'
    catalog = f'catalog = {{type = "hive", uri = "{uri}"}}\n'
    (folder / "millstream.toml").write_text(f'[offline]\nkind = "iceberg"\n{settings}{catalog}')
    loaded = Settings.load(folder)
    with pytest.raises(kind) as raised:
        backend(loaded, "offline").open(loaded, SimulatedClock(0)).tables()
    assert raised.value.hint and "\n" not in raised.value.message
    return raised.value.message


def test_an_address_of_no_metastore_is_one_sentence(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLSTREAM_S3_SECRET", SECRET)
    ask: Callable[..., str] = partial(said, tmp_path, s3)
    assert "is 'metastore:9083', which is no address of a Hive" in ask("metastore:9083", ProjectError)
    assert "is '', which is no address of a Hive" in ask("", ProjectError)
    assert "the hive catalog at thrift://127.0.0.1:9: it cannot be reached" in ask("thrift://127.0.0.1:9")
    assert "the hive catalog at thrift://nowhere.invalid:9: it cannot be reached" in ask("thrift://nowhere.invalid:9")
    assert "does not say where the tables of its Hive catalog lie" in ask("thrift://127.0.0.1:9", ProjectError, "")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # which accepts, and answers nobody
        port = silent.getsockname()[1]
        assert "it has not answered in time" in ask(f"thrift://127.0.0.1:{port}")
