"""Upkeep: few files however many commits, nothing lost or doubled, pins and late readers spared."""

import multiprocessing
import os
import signal
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.table import Transaction
from tests.unit.store.test_other_engines import other_engine, rewrite_and_expire

from millstream.errors import CorruptState, Fenced, NotFound
from millstream.store.iceberg.store import IcebergOfflineStore
from millstream.store.offline import Tended

EVENTS = "events.payments"
POSITIONS = "millstream.positions"
SECOND = 1_000_000
KEEP = 60 * SECOND
_server = multiprocessing.get_context("forkserver")


def numbers(*these: int) -> pa.Table:
    return pa.table({"n": pa.array(these, pa.int64()), "key": pa.array([n % 3 for n in these], pa.int64())})


def read(store: IcebergOfflineStore, snapshot: int | None = None) -> list[int]:
    return sorted(store.scan(EVENTS, snapshot=snapshot)["n"].to_pylist())


def files(folder: Path, pattern: str = "*") -> list[Path]:
    return [one for one in (folder / "offline" / "warehouse").rglob(pattern) if one.is_file()]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compaction after four files, and three snapshots that stay listed."""
    monkeypatch.setattr("millstream.store.iceberg.compaction.FILES", 4)
    monkeypatch.setattr("millstream.store.iceberg.tags.KEPT", 3)


@pytest.fixture
def store(tmp_path: Path, few: None) -> IcebergOfflineStore:
    return IcebergOfflineStore(tmp_path / "offline")


def appended(store: IcebergOfflineStore, first: int, end: int, now: int = 0) -> int:
    """Append numbers one by one, ten seconds apart, with upkeep after each; returns the time at the end."""
    for number in range(first, end):
        store.append(EVENTS, numbers(number), {POSITIONS: str(number + 1)})
        now += 10 * SECOND
        store.tend(EVENTS, now, order=["key", "n"], keep=KEEP)
    return now


def test_files_stay_few_and_rows_and_positions_the_same(store: IcebergOfflineStore, tmp_path: Path) -> None:
    now = appended(store, 0, 14)
    early = len(files(tmp_path))
    appended(store, 14, 32, now)
    assert len(files(tmp_path)) < early + 20
    assert store.facts(EVENTS).data_files < 10
    assert store.facts(EVENTS).compacted_at is not None
    assert read(store) == list(range(32))
    newest = store.snapshot(EVENTS)
    assert newest is not None and newest.properties == {POSITIONS: "32"}
    assert len(other_engine(tmp_path, EVENTS).snapshots()) <= 4
    assert sorted(other_engine(tmp_path, EVENTS).scan().to_arrow()["n"].to_pylist()) == list(range(32))


def test_nothing_is_done_where_nothing_is_to_be_done(store: IcebergOfflineStore, tmp_path: Path) -> None:
    assert store.tend(EVENTS, 0) == Tended()
    store.append(EVENTS, numbers(1))
    before = files(tmp_path)
    assert store.tend(EVENTS, 10**15) == Tended()
    assert files(tmp_path) == before


def test_rows_of_a_file_are_in_the_order_that_was_asked_for(store: IcebergOfflineStore, tmp_path: Path) -> None:
    for number in (5, 3, 4, 0, 2):
        store.append(EVENTS, numbers(number))
    assert store.tend(EVENTS, 0, order=["key", "absent", "n"]).compacted == 5
    largest = max(files(tmp_path, "*.parquet"), key=lambda place: pq.read_metadata(place).num_rows)
    assert pq.read_table(largest)["n"].to_pylist() == [0, 3, 4, 2, 5]
    assert [batch["n"].to_pylist() for batch in store.batches(EVENTS, where=[("key", "=", 0)])] == [[0, 3]]


def test_a_file_is_written_again_only_when_it_doubles(tmp_path: Path, few: None) -> None:
    store = IcebergOfflineStore(tmp_path / "offline")
    wide = pa.table({"n": pa.array(range(40_000), pa.int64()), "text": [os.urandom(8).hex() for _ in range(40_000)]})
    store.append(EVENTS, wide)
    for number in range(12):
        store.append(EVENTS, wide.slice(number, 1))
        store.tend(EVENTS, 0)
    [large] = [one for one in files(tmp_path, "*.parquet") if one.stat().st_size > 100_000]
    assert store.scan(EVENTS).num_rows == 40_012 and large.exists()


def test_a_reader_of_an_older_snapshot_has_its_time(store: IcebergOfflineStore, tmp_path: Path) -> None:
    now = appended(store, 0, 3)
    held = store.snapshot(EVENTS)
    assert held is not None
    open_reader = store.batches(EVENTS)
    first = next(open_reader)["n"].to_pylist()
    now = appended(store, 3, 8, now)
    assert held.id not in {one.snapshot_id for one in other_engine(tmp_path, EVENTS).snapshots()}
    assert sorted(first + [n for batch in open_reader for n in batch["n"].to_pylist()]) == [0, 1, 2]
    assert read(store, held.id) == [0, 1, 2]
    appended(store, 8, 24, now)
    with pytest.raises(NotFound, match=str(held.id)):
        read(store, held.id)


def test_what_is_pinned_is_spared_until_it_is_let_go(store: IcebergOfflineStore, tmp_path: Path) -> None:
    now = appended(store, 0, 3)
    by_name, by_time = store.snapshot(EVENTS), store.append(EVENTS, numbers(3))
    assert by_name is not None
    store.pin(EVENTS, by_name.id, "fraud@1")
    store.pin(EVENTS, by_time.id, now + 300 * SECOND)
    now = appended(store, 4, 16, now)
    rewrite_and_expire(other_engine(tmp_path, EVENTS))
    assert (read(store, by_name.id), read(store, by_time.id)) == ([0, 1, 2], [0, 1, 2, 3])
    now = appended(store, 16, 28, now + 300 * SECOND)
    with pytest.raises(NotFound):
        read(store, by_time.id)
    assert read(store, by_name.id) == [0, 1, 2]
    store.unpin("fraud@1")
    appended(store, 28, 38, now + 300 * SECOND)
    with pytest.raises(NotFound):
        read(store, by_name.id)
    assert read(store) == list(range(38))


def test_a_snapshot_that_was_let_go_is_pinned_while_its_files_are_there(
    store: IcebergOfflineStore, tmp_path: Path
) -> None:
    now = appended(store, 0, 3)
    held = store.snapshot(EVENTS)
    assert held is not None
    now = appended(store, 3, 8, now)
    assert held.id not in {one.snapshot_id for one in other_engine(tmp_path, EVENTS).snapshots()}
    store.pin(EVENTS, held.id, "fraud@1")
    assert store.pinned(EVENTS) == {"fraud@1"}
    appended(store, 8, 24, now)
    assert (read(store, held.id), read(store)) == ([0, 1, 2], list(range(24)))
    newest = store.snapshot(EVENTS)
    assert newest is not None and newest.properties == {POSITIONS: "24"}


def test_a_snapshot_that_is_pinned_while_it_is_let_go_is_spared(
    store: IcebergOfflineStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = store.append(EVENTS, numbers(0))
    for number in (1, 2):
        store.append(EVENTS, numbers(number))
    real, other = Transaction.commit_transaction, IcebergOfflineStore(tmp_path / "offline")

    def raced(self: Transaction) -> object:
        monkeypatch.setattr(Transaction, "commit_transaction", real)
        other.pin(EVENTS, first.id, "fraud@1")
        return real(self)

    monkeypatch.setattr(Transaction, "commit_transaction", raced)
    store.append(EVENTS, numbers(3))
    store.append(EVENTS, numbers(4))
    assert first.id in {one.snapshot_id for one in other_engine(tmp_path, EVENTS).snapshots()}
    assert read(store) == [0, 1, 2, 3, 4]


def test_an_append_in_the_midst_of_compaction_is_kept(
    store: IcebergOfflineStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        store.append(EVENTS, numbers(number), {POSITIONS: str(number + 1)})
    real, other = Transaction.commit_transaction, IcebergOfflineStore(tmp_path / "offline")

    def raced(self: Transaction) -> object:
        monkeypatch.setattr(Transaction, "commit_transaction", real)
        other.append(EVENTS, numbers(5), {POSITIONS: "6"})
        return real(self)

    monkeypatch.setattr(Transaction, "commit_transaction", raced)
    assert store.tend(EVENTS, 0).compacted == 6
    assert read(store) == list(range(6))
    newest = store.snapshot(EVENTS)
    assert newest is not None and newest.properties == {POSITIONS: "6"}


def test_files_of_writers_that_died_go_and_those_of_writers_under_way_stay(
    store: IcebergOfflineStore, tmp_path: Path
) -> None:
    store.append(EVENTS, numbers(0))
    [one] = files(tmp_path, "*.parquet")
    died, foreign = one.with_name("died.parquet"), one.with_name("notes.txt")
    died.write_bytes(one.read_bytes())
    foreign.write_text("of somebody else")
    now = appended(store, 1, 6)
    under_way = one.with_name("under-way.parquet")
    under_way.write_bytes(one.read_bytes())
    os.utime(under_way, (2**32, 2**32))
    appended(store, 6, 18, now)
    assert (died.exists(), foreign.exists(), under_way.exists()) == (False, True, True)


@pytest.mark.parametrize("written", ["file:{}", "{}", "file://{}"])
def test_files_are_known_however_another_engine_writes_the_way_to_them(
    store: IcebergOfflineStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    monkeypatch.chdir(tmp_path)
    store = IcebergOfflineStore("offline")
    now = appended(store, 0, 6)
    found = other_engine(tmp_path, EVENTS)
    place = tmp_path / "offline" / "warehouse" / "events" / "payments" / "data" / "theirs.parquet"
    pq.write_table(numbers(6), place)
    found.add_files([written.format(place)])
    os.utime(place, (1, 1))
    appended(store, 7, 16, now)
    assert place.exists() or read(store)[6] == 6


def test_a_damaged_table_is_not_swept(store: IcebergOfflineStore, tmp_path: Path) -> None:
    now = appended(store, 0, 10)
    for place in files(tmp_path, "*-m0.avro"):
        place.write_bytes(place.read_bytes()[:-9])
    before = files(tmp_path)
    with pytest.raises(CorruptState):
        IcebergOfflineStore(tmp_path / "offline").tend(EVENTS, now + 10**12, keep=0)
    assert files(tmp_path) == before


def test_what_was_dropped_is_gone_with_its_files(store: IcebergOfflineStore, tmp_path: Path) -> None:
    appended(store, 0, 9)
    store.drop(EVENTS)
    assert files(tmp_path) == []
    assert store.tend(EVENTS, 10**12) == Tended()
    appended(store, 0, 9)
    assert read(store) == list(range(9))


@pytest.mark.parametrize("delay", [0.1, 0.4, 0.8])
def test_killed_at_any_moment_rows_are_there_once_and_what_it_left_goes(
    tmp_path: Path, few: None, delay: float
) -> None:
    here, there = _server.Pipe(duplex=False)
    child = _server.Process(target=_append_and_tend, args=(tmp_path / "offline", there))
    child.start()
    there.close()
    assert here.poll(60)
    acknowledged = here.recv()
    threading.Event().wait(delay)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join(60)
    try:
        while True:
            acknowledged = here.recv()
    except EOFError:
        pass
    store = IcebergOfflineStore(tmp_path / "offline")
    newest = store.snapshot(EVENTS)
    assert newest is not None
    position = int(newest.properties[POSITIONS])
    assert acknowledged <= position <= acknowledged + 1
    assert read(store) == list(range(position))
    appended(store, position, position + 12, 10**12)
    assert read(store) == list(range(position + 12))
    assert len(files(tmp_path)) < 90


def _append_and_tend(folder: Path, pipe: Connection) -> None:
    from millstream.store.iceberg import compaction as iceberg_compact
    from millstream.store.iceberg import tags as iceberg_tags

    iceberg_compact.FILES, iceberg_tags.KEPT = 4, 3
    store = IcebergOfflineStore(folder)
    position = 0
    while True:
        store.append(EVENTS, numbers(position), {POSITIONS: str(position + 1)})
        position += 1
        pipe.send(position)
        store.tend(EVENTS, position * 10 * SECOND, order=["n"], keep=30 * SECOND)


def test_the_archive_goes_on_while_its_table_is_compacted(store: IcebergOfflineStore, tmp_path: Path) -> None:
    store.append(EVENTS, numbers(), {POSITIONS: "0"})
    enough = _server.Event()
    child = _server.Process(target=_archive, args=(tmp_path / "offline", enough), daemon=True)
    child.start()
    now = compacted = 0
    while child.is_alive() and not compacted:
        now += 10 * SECOND
        compacted += store.tend(EVENTS, now, order=["n"], keep=30 * SECOND).compacted
    enough.set()
    child.join(60)
    assert child.exitcode == 0 and compacted
    newest = store.snapshot(EVENTS)
    assert newest is not None
    assert read(store) == list(range(int(newest.properties[POSITIONS])))


def _archive(folder: Path, enough: Event) -> None:
    """Append each number where the table says that it comes next, as the archive does, until it is enough."""
    store = IcebergOfflineStore(folder)
    while not enough.wait(0.2):  # an archive commits every few seconds; one without a pause leaves compaction no moment
        found = store.snapshot(EVENTS)
        assert found is not None
        position = int(found.properties[POSITIONS])
        with suppress(Fenced):
            store.append(EVENTS, numbers(position), {POSITIONS: str(position + 1)}, expected=found.id)
