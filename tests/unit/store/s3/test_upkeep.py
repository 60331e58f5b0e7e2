"""Upkeep of tables that several hosts share: few files, pins spared, nothing lost, and files of the dead gone in the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from millstream.errors import CorruptState, NotFound
from millstream.store.iceberg import shared
from millstream.store.iceberg.shared import SharedWarehouse
from millstream.store.iceberg.store import IcebergOfflineStore
from millstream.store.offline import Tended
from millstream.testing.servers.s3 import S3Server

EVENTS = "events.kept"
POSITIONS = "millstream.positions"


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compaction after four files, and three snapshots that stay listed."""
    monkeypatch.setattr("millstream.store.iceberg.compaction.FILES", 4)
    monkeypatch.setattr("millstream.store.iceberg.tags.KEPT", 3)


@pytest.fixture
def warehouse(s3: S3Server, tmp_path: Path) -> SharedWarehouse:
    return s3.sql(f"sqlite:///{tmp_path}/catalog.db?timeout=60", s3.bucket())


@pytest.fixture
def store(warehouse: SharedWarehouse) -> IcebergOfflineStore:
    return IcebergOfflineStore(warehouse)


@pytest.fixture(params=["sql", "rest"])
def either(request: pytest.FixtureRequest, s3: S3Server, warehouse: SharedWarehouse) -> Iterator[IcebergOfflineStore]:
    store = IcebergOfflineStore(s3.rest() if request.param == "rest" else warehouse)
    yield store
    store.drop(EVENTS)


def appended(store: IcebergOfflineStore, first: int, end: int) -> None:
    """Append numbers one by one, with upkeep after each."""
    for number in range(first, end):
        store.append(EVENTS, pa.table({"n": [number], "key": [number % 3]}), {POSITIONS: str(number + 1)})
        store.tend(EVENTS, 0, order=["key", "n"])


def read(store: IcebergOfflineStore, snapshot: int | None = None) -> list[int]:
    return sorted(store.scan(EVENTS, snapshot=snapshot)["n"].to_pylist())


def test_files_stay_few_what_is_pinned_is_spared_and_what_nothing_names_goes(either: IcebergOfflineStore) -> None:
    store = either
    appended(store, 0, 3)
    by_name, by_time = store.snapshot(EVENTS), store.append(EVENTS, pa.table({"n": [3], "key": [0]}))
    assert by_name is not None
    store.pin(EVENTS, by_name.id, "fraud@1")
    store.pin(EVENTS, by_time.id, 10)
    appended(store, 4, 11)
    assert (read(store, by_name.id), read(store, by_time.id)) == ([0, 1, 2], [0, 1, 2, 3])
    assert store.pinned(EVENTS) == {"fraud@1"}
    early = store.facts(EVENTS)
    store.tend(EVENTS, 10)  # the pin that had an end is over
    store.unpin("fraud@1")
    appended(store, 11, 17)
    for gone in (by_name.id, by_time.id):
        with pytest.raises(NotFound):
            read(store, gone)
    facts = store.facts(EVENTS)
    assert facts.compacted_at is not None and facts.data_files < 9 and facts.files < early.files + 12
    assert read(store) == list(range(17))
    newest = store.snapshot(EVENTS)
    assert newest is not None and newest.properties == {POSITIONS: "17"}
    assert store.examine(EVENTS) > 0


def test_a_snapshot_stays_as_long_as_somebody_may_have_begun_to_read_it(store: IcebergOfflineStore) -> None:
    appended(store, 0, 1)
    first = store.snapshot(EVENTS)
    assert first is not None
    for number in range(1, 7):
        store.append(EVENTS, pa.table({"n": [number], "key": [0]}))
        store.tend(EVENTS, 10**15, keep=60_000_000)
    assert read(store, first.id) == [0]


def test_upkeep_is_left_to_whoever_sees_to_it(
    store: IcebergOfflineStore, s3: S3Server, warehouse: SharedWarehouse
) -> None:
    other = IcebergOfflineStore(SharedWarehouse(warehouse._properties, s3.access(), upkeep=False))
    for number in range(9):
        other.append(EVENTS, pa.table({"n": [number]}))
    assert other.tend(EVENTS, 0).deleted == 0
    assert store.tend(EVENTS, 0) != Tended()


def test_files_of_writers_that_died_go_after_days_and_others_stay(
    store: IcebergOfflineStore, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    appended(store, 0, 2)
    found = store._load(EVENTS)
    place = found.location().removeprefix("s3://")
    for name in ("died.parquet", "notes.txt"):
        with s3.files.open_output_stream(f"{place}/data/{name}") as file:
            file.write(b"left behind")

    def there() -> set[str]:
        return {one.base_name for one in shared._infos(found)}

    appended(store, 2, 6)
    assert {"died.parquet", "notes.txt"} <= there()
    monkeypatch.setattr(shared, "ORPHANED", -60.0)  # as if days had passed since
    appended(store, 6, 10)
    assert "died.parquet" not in there() and "notes.txt" in there()
    assert read(store) == list(range(10))


def test_a_file_of_another_size_is_named(store: IcebergOfflineStore, s3: S3Server) -> None:
    appended(store, 0, 1)
    [task] = store._load(EVENTS).scan().plan_files()
    with s3.files.open_output_stream(task.file.file_path.removeprefix("s3://")) as file:
        file.write(b"short")
    with pytest.raises(CorruptState, match="has 5 bytes"):
        store.examine(EVENTS)
