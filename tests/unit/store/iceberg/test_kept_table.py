"""A local table is read and changed with what is known of its files, and sees at once what is other than it was."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg import manifest
from pyiceberg.table.update import update_table_metadata

from millstream.errors import MillstreamError
from millstream.store.iceberg.store import IcebergOfflineStore

TABLE = "events.payments"


@pytest.fixture
def store(tmp_path: Path) -> IcebergOfflineStore:
    found = IcebergOfflineStore(tmp_path)
    for amount in range(3):
        found.append(TABLE, pa.table({"amount": [amount]}))
    return found


def amounts(store: IcebergOfflineStore) -> list[int]:
    return sorted(store.scan(TABLE)["amount"].to_pylist())


def test_the_lists_of_a_tables_files_are_parsed_once(
    store: IcebergOfflineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert amounts(store) == [0, 1, 2]

    def parsed(*_: object) -> object:
        raise AssertionError("nothing is parsed again")

    monkeypatch.setattr(manifest.AvroFile, "__enter__", parsed)
    assert amounts(store) == [0, 1, 2]
    assert [batch.num_rows for batch in store.batches(TABLE, where=[("amount", ">=", 1)])] == [1, 1]


def test_what_is_appended_by_another_is_seen(store: IcebergOfflineStore, tmp_path: Path) -> None:
    assert amounts(store) == [0, 1, 2]
    IcebergOfflineStore(tmp_path).append(TABLE, pa.table({"amount": [7]}))
    assert amounts(store) == [0, 1, 2, 7]


def test_a_list_of_files_that_was_parsed_is_read_again_once_it_is_damaged(
    store: IcebergOfflineStore, tmp_path: Path
) -> None:
    assert amounts(store) == [0, 1, 2]
    for path in tmp_path.rglob("metadata/snap-*.avro"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        os.utime(path, ns=(1, 1))
    with pytest.raises(MillstreamError, match="snap-"):
        amounts(store)


def test_what_a_scan_is_told_stays_its_own(store: IcebergOfflineStore) -> None:
    low = store.scan(TABLE, where=[("amount", "<", 1)])["amount"].to_pylist()
    high = store.scan(TABLE, where=[("amount", ">", 1)])["amount"].to_pylist()
    assert (low, high, amounts(store)) == ([0], [2], [0, 1, 2])


def test_a_commit_makes_the_metadata_once_for_each_of_its_steps(
    store: IcebergOfflineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = list[int]()

    def counted(base: object, updates: tuple[object, ...], *given: object, **options: object) -> object:
        made.append(len(updates))
        return update_table_metadata(base, updates, *given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("pyiceberg.table.update_table_metadata", counted)
    store.append(TABLE, pa.table({"amount": [9]}))
    assert made
    assert len(made) == len(set(made))
    assert amounts(store) == [0, 1, 2, 9]
