"""A project's folder is moved and copied: its history goes with it, and a copy never touches the original."""

import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.table import StaticTable

import millstream as ms
from millstream.store.iceberg.store import IcebergOfflineStore

EVENTS = "events.payments"


def rows(*numbers: int) -> pa.Table:
    return pa.table({"n": pa.array(numbers, pa.int64())})


def read(folder: Path, snapshot: int | None = None) -> list[int]:
    return sorted(IcebergOfflineStore(folder).scan(EVENTS, snapshot=snapshot)["n"].to_pylist())


def files(folder: Path) -> dict[str, bytes]:
    return {str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


def test_a_moved_store_keeps_its_tables_and_takes_more(tmp_path: Path) -> None:
    first = IcebergOfflineStore(tmp_path / "a").append(EVENTS, rows(1))
    for old, new, number in (("a", "b", 2), ("b", "deep/c", 3), ("deep/c", "a", 4)):
        (tmp_path / new).parent.mkdir(exist_ok=True)
        (tmp_path / old).rename(tmp_path / new)
        store = IcebergOfflineStore(tmp_path / new)
        store.append(EVENTS, rows(number))
        store.append(f"events.made_in_{number}", rows(number))  # its locations name another folder than the first's
        assert read(tmp_path / new) == list(range(1, number + 1))
        assert read(tmp_path / new, first.id) == [1]
        assert not (tmp_path / old).exists()
    assert [store.scan(f"events.made_in_{n}")["n"].to_pylist() for n in (2, 3, 4)] == [[2], [3], [4]]
    for n in (2, 3, 4):
        store.drop(f"events.made_in_{n}")
    assert store.tables() == [EVENTS]


def test_a_copy_never_reads_or_writes_the_original(tmp_path: Path) -> None:
    original = IcebergOfflineStore(tmp_path / "a")
    original.append(EVENTS, rows(1))
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    original.append(EVENTS, rows(2))
    before = files(tmp_path / "a")
    copy = IcebergOfflineStore(tmp_path / "copy")
    copy.append(EVENTS, rows(3))
    assert (read(tmp_path / "copy"), read(tmp_path / "a")) == ([1, 3], [1, 2])
    assert files(tmp_path / "a") == before
    copy.drop(EVENTS)
    assert files(tmp_path / "a") == before
    assert read(tmp_path / "a") == [1, 2]
    for one in (tmp_path / "copy").rglob("*.parquet"):
        pq.write_table(rows(99), one)
    assert read(tmp_path / "a") == [1, 2]


def test_snapshots_off_the_list_are_found_in_the_folder_of_today(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millstream.store.iceberg.tags.KEPT", 2)
    store = IcebergOfflineStore(tmp_path / "a")
    first = store.append(EVENTS, rows(0))
    for number in range(1, 6):
        store.append(EVENTS, rows(number))
    (tmp_path / "a").rename(tmp_path / "b")
    assert read(tmp_path / "b", first.id) == [0]


def test_other_engines_read_a_table_where_it_was_made(tmp_path: Path) -> None:
    IcebergOfflineStore(tmp_path / "a").append(EVENTS, rows(1, 2))
    (newest,) = (tmp_path / "a").rglob("00001-*.metadata.json")
    assert StaticTable.from_metadata(str(newest)).scan().to_arrow()["n"].to_pylist() == [1, 2]


user = ms.Entity("user", keys={"user_id": "int64"})
visits = ms.EventStream("visits", time="at", schema={"user_id": "int64", "at": "timestamp"})
pace = ms.FeatureView("pace", features=[
    ms.StreamFeatureGroup("pace", entity=user, source=visits, features=[ms.Count()])])  # fmt: skip


def visited(folder: Path, *users: int) -> list[int]:
    """Let a project take more visits and archive them; how many it has counted of the users 1 and 2."""
    project = ms.Project(folder, create=True)
    project.apply(pace)
    project.load(visits, [{"user_id": one, "at": "2026-01-01"} for one in users])
    project.drain()
    project.backfill()
    project.sync()
    counts = project.features(pace, [{"user_id": 1}, {"user_id": 2}])["pace__count"].to_pylist()
    assert len(project.parts.histories.events().read("visits")) == sum(counts)
    return list(counts)


def test_a_copied_project_counts_its_own_events_and_a_moved_one_keeps_its_history(tmp_path: Path) -> None:
    def more(name: str, *users: int) -> list[int]:
        with ProcessPoolExecutor(1, mp_context=get_context("forkserver")) as process:  # which lets go of what it opened
            return process.submit(visited, tmp_path / name, *users).result()

    assert more("a", 1) == [1, 0]
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    before = files(tmp_path / "a")
    assert more("c", 2, 2) == [1, 2]
    assert files(tmp_path / "a") == before
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert more("b", 1) == [2, 0]
    assert more("c", 2) == [1, 3]
