"""One flipped bit in any file of the offline store: the same values, or one error that names the file."""

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.manifest import clear_manifest_cache

from millstream.errors import CorruptState, MillstreamError
from millstream.store.iceberg.file_ledger import FileLedger
from millstream.store.iceberg.store import IcebergOfflineStore

EVENTS = "events.payments"
FLIPS = 40
KINDS = ["*.metadata.json", "snap-*.avro", "*-m0.avro", "*.parquet", "catalog.db", "files.db"]


def rows(first: int) -> pa.Table:
    at = pa.array(range(first, first + 50), pa.int64())
    return pa.table({"n": at, "at": at.cast(pa.timestamp("us", "UTC")), "name": [f"name {n.as_py() % 7}" for n in at]})


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "offline"
    store = IcebergOfflineStore(folder)
    for number in range(3):
        store.append(EVENTS, rows(50 * number), {"millstream.positions": str(number)})
    return folder


def read(folder: Path) -> tuple[list[object], object]:
    clear_manifest_cache()
    store = IcebergOfflineStore(folder)
    newest = store.snapshot(EVENTS)
    found = store.scan(EVENTS, where=[("n", ">=", 20)]).sort_by("n")
    return found.to_pylist(), newest


def flipped(place: Path, bit: int) -> bytes:
    content = bytearray(place.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    return bytes(content)


def used(folder: Path, kind: str) -> list[Path]:
    """The files of a kind that are opened when the newest snapshot is read."""
    newest = IcebergOfflineStore(folder).snapshot(EVENTS)
    assert newest is not None
    every = sorted(folder.rglob(kind.replace("snap-", f"snap-{newest.id}-")))
    return every[-1:] if kind == "*.metadata.json" else every


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_named_or_changes_nothing(written: Path, tmp_path: Path, kind: str) -> None:
    shutil.copytree(written, tmp_path / "offline")
    right = read(tmp_path / "offline")
    chance = np.random.default_rng(len(kind))
    places = used(tmp_path / "offline", kind)
    assert places
    refused = 0
    for number in range(FLIPS):
        place = places[number % len(places)]
        whole = place.read_bytes()
        bit = (
            int(chance.integers(8 * len(whole)))
            if number > 4
            else 8 * [0, 4, len(whole) - 1, len(whole) - 9, 40][number]
        )
        place.write_bytes(flipped(place, bit))
        try:
            assert read(tmp_path / "offline") == right
        except MillstreamError as error:
            refused += 1
            assert place.name in str(error) or kind == "files.db", str(error)
            assert "\n" not in error.message
        finally:
            place.write_bytes(whole)
    assert read(tmp_path / "offline") == right
    assert refused > FLIPS // 4 or kind.endswith(".db")


def test_a_file_is_verified_once_for_each_state_of_it(written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "offline"
    shutil.copytree(written, folder)
    store = IcebergOfflineStore(folder)
    store.scan(EVENTS)
    [place] = sorted(folder.rglob("*.parquet"))[:1]
    about, bad = place.stat(), flipped(place, 8 * 30)
    place.write_bytes(bad)
    with pytest.raises(CorruptState, match=place.name):
        store.scan(EVENTS)
    place.write_bytes(flipped(place, 8 * 30))
    os.utime(place, ns=(about.st_atime_ns, about.st_mtime_ns))
    store.scan(EVENTS)


def test_a_file_that_was_cut_short_or_is_gone_is_named(written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "offline"
    shutil.copytree(written, folder)
    [place] = sorted(folder.rglob("*.parquet"))[:1]
    place.write_bytes(place.read_bytes()[:-1])
    with pytest.raises(CorruptState, match=place.name):
        IcebergOfflineStore(folder).scan(EVENTS)
    place.unlink()
    with pytest.raises(CorruptState, match=place.name):
        IcebergOfflineStore(folder).scan(EVENTS)


def test_files_of_another_program_and_of_an_earlier_version_are_read_as_they_are(written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "offline"
    shutil.copytree(written, folder)
    right = read(folder)
    (folder / "files.db").unlink()
    assert read(folder) == right
    found = SqlCatalog("millstream", uri=f"sqlite:///{folder}/catalog.db", warehouse="").load_table(
        ("events", "payments")
    )
    assert len(found.scan().to_arrow()) == 150


def test_a_lost_entry_of_the_catalog_is_no_empty_table(written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "offline"
    shutil.copytree(written, folder)
    (folder / "catalog.db").unlink()
    with pytest.raises(CorruptState, match=r"catalog\.db"):
        IcebergOfflineStore(folder).snapshot(EVENTS)
    with pytest.raises(CorruptState, match=r"catalog\.db"):
        IcebergOfflineStore(folder).append(EVENTS, rows(0), expected=None)


def test_the_ledger_knows_its_own_damage(tmp_path: Path) -> None:
    ledger = FileLedger(tmp_path / "warehouse")
    one = str(tmp_path / "warehouse" / "events" / "a" / "1.parquet")
    ledger.note({one: (5, 77)})
    assert ledger.noted([one, one + "x"]) == {one: (5, 77)}
    assert ledger.unreferenced(str(tmp_path / "warehouse" / "events" / "a"), [one], 10) == {one: 10}
    assert ledger.unreferenced(str(tmp_path / "warehouse" / "events" / "a"), [one], 20) == {one: 10}
    assert ledger.unreferenced(str(tmp_path / "warehouse" / "events" / "a"), [], 30) == {}
    assert ledger.unreferenced(str(tmp_path / "warehouse" / "events" / "a"), [one], 40) == {one: 40}
    ledger.forget([one])
    assert ledger.noted([one]) == {}
    (tmp_path / "files.db").write_bytes(b"nothing" * 1000)
    with pytest.raises(CorruptState, match=r"files\.db"):
        ledger.noted([one])
