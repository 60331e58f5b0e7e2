"""Other engines commit to our tables: nothing is lost or doubled, and what is pinned stays readable."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import Table, Transaction
from pyiceberg.types import StringType

import millstream as ms
from millstream.buffer.log import Batch
from millstream.buffer.topics import event_table
from millstream.cli.checks import checked
from millstream.clock import FileClock, to_micros
from millstream.errors import Fenced, NotFound, StoreError
from millstream.store.iceberg.store import IcebergOfflineStore

NOON = to_micros("2026-01-01T12:00:00Z")
DAY = 86_400_000_000
POSITIONS = "millstream.positions"
LONG_AGO = datetime(2100, 1, 1)

user = ms.Entity("user", keys={"user_id": "int64"})
clicks = ms.EventStream("clicks", time="at", schema={"user_id": "int64", "at": "timestamp"})
pace = ms.StreamFeatureGroup("pace", entity=user, source=clicks, features=[ms.Count(over=["1h", "24h"])])
tiers = ms.Table("tiers", path="tiers.parquet", schema={"user_id": "int64", "tier": "string"})
level = ms.BatchFeatureGroup("level", entity=user, sources=[tiers], every="1h", query="select user_id, tier from tiers")
view = ms.FeatureView("both", features=[pace, level])


def other_engine(folder: Path, table: str) -> Table:
    """A table as another program opens it, with PyIceberg's own file access."""
    offline = folder / "offline"
    catalog = SqlCatalog(
        "millstream", uri=f"sqlite:///{offline / 'catalog.db'}", warehouse=f"file://{offline}/warehouse"
    )
    space, name = table.split(".", 1)
    return catalog.load_table((space, name.replace("@", "_v")))


def nulls(found: Table, rows: int = 2) -> pa.Table:
    schema = found.schema().as_arrow()
    return pa.table([pa.nulls(rows, kind) for kind in schema.types], schema=schema)


def append(found: Table) -> None:
    found.append(nulls(found))


def rewrite(found: Table) -> None:
    found.overwrite(found.scan().to_arrow())


def delete_what_another_added(found: Table) -> None:
    found.append(nulls(found))
    found.delete(f"{found.schema().column_names[0]} is null")


def expire(found: Table) -> None:
    found.append(nulls(found, 0))
    found.maintenance.expire_snapshots().older_than(LONG_AGO).commit()


def rewrite_and_expire(found: Table) -> None:
    rewrite(found)
    expire(found)


def properties_alone(found: Table) -> None:
    with found.transaction() as change:
        change.set_properties({"owner": "somebody"})


COMMITS = [append, rewrite, delete_what_another_added, expire, rewrite_and_expire, properties_alone]


class Site:
    """A project with a stream, dead letters, captures, a stream group and a batch group."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data, self.now = folder, folder / ".millstream", NOON
        self.data.mkdir()
        self.wait(0)
        pq.write_table(pa.table({"user_id": [0], "tier": ["none"]}), folder / "tiers.parquet")
        self.project = ms.Project(folder, create=True)
        self.project.apply(view)
        self.project.parts.log.create("captures.risk", 1)
        self.sent = self.runs = 0

    def wait(self, micros: int) -> None:
        self.now += micros
        FileClock(self.data / "clock.json").set(self.now, rate=0.0)

    def work(self) -> None:
        """Events, a dead letter, a capture and a run come, and go where they belong."""
        log, self.sent, self.runs = self.project.parts.log, self.sent + 1, self.runs + 1
        self.project.send(clicks, [{"user_id": one, "at": self.now - 1} for one in range(3)])
        log.append("clicks", 0, Batch(b"{", "json", 1))
        sink = pa.BufferOutputStream()
        rows = pa.table({"_request_id": [str(self.sent)]})
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows)
        log.append("captures.risk", 0, Batch(sink.getvalue().to_pybytes(), "arrow", 1))
        pq.write_table(pa.table({"user_id": [0], "tier": [str(self.runs)]}), self.folder / "tiers.parquet")
        self.wait(3_600_000_000)
        self.project.drain()
        self.project.backfill()
        self.project.sync()

    def tables(self) -> list[str]:
        return self.project.parts.offline.tables()

    def rows(self, table: str, column: str) -> list[Any]:
        found = self.project.parts.offline.scan(table)
        return sorted(one for one in found[column].to_pylist() if one is not None)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.mark.parametrize("commit", COMMITS, ids=lambda commit: commit.__name__)
def test_all_that_writes_goes_on_where_it_was(site: Site, commit: Callable[[Table], None]) -> None:
    for _ in range(2):
        site.work()
        for table in site.tables():
            before = site.project.parts.offline.snapshot(table)
            commit(other_engine(site.data, table))
            after = site.project.parts.offline.snapshot(table)
            assert before and after and after.properties == before.properties
    site.work()
    assert set(site.tables()) > {"batch.level@1", "captures.risk", "dead.clicks", "events.clicks", "features.pace@1"}
    assert len(site.rows("events.clicks", "_position")) == 9
    assert len(site.rows("dead.clicks", "reason")) == 3
    assert site.rows("captures.risk", "_request_id") == ["1", "2", "3"]
    stated = site.project.parts.offline.scan("batch.level@1").to_pylist()
    assert len({row["_run"] for row in stated if row["tier"]}) == len([row for row in stated if row["tier"]])
    assert {row["tier"] for row in stated if row["tier"]} == {"1", "2", "3"}
    assert site.rows("features.pace@1", "count_24h") == sorted([1, 2, 3] * 3)
    history = site.project.parts.histories.events().read("clicks")
    assert sorted(history["user_id"].to_pylist()) == sorted([0, 1, 2] * 3)
    (features,) = site.project.features(view, [{"user_id": 0}]).to_pylist()
    assert (features["pace__count_24h"], features["level__tier"]) == (3, "3")


def test_what_another_engine_adds_to_the_archive_is_no_event(site: Site) -> None:
    site.work()
    before = site.project.parts.histories.events().read("clicks")
    found = other_engine(site.data, "events.clicks")
    rows = found.scan().to_arrow()
    found.append(rows)  # all of it once more
    beyond = rows.set_column(rows.column_names.index("_position"), "_position", pa.array([50] * 3, pa.int64()))
    found.append(beyond.cast(found.schema().as_arrow()))
    assert site.project.parts.histories.events().read("clicks").equals(before)
    site.work()
    assert sorted(site.project.parts.histories.events().read("clicks")["user_id"].to_pylist()) == [0, 0, 1, 1, 2, 2]


def test_what_another_engine_deletes_is_gone_and_what_it_rewrites_reads_as_rewritten(site: Site) -> None:
    site.work()
    other_engine(site.data, "events.clicks").delete("user_id = 1")
    found = other_engine(site.data, "events.clicks")
    rows = found.scan().to_arrow()
    users = pa.array([one + 70 for one in rows["user_id"].to_pylist()], pa.int64())
    found.overwrite(rows.set_column(rows.column_names.index("user_id"), "user_id", users))
    site.work()
    assert sorted(site.project.parts.histories.events().read("clicks")["user_id"].to_pylist()) == [0, 1, 2, 70, 72]


@pytest.fixture
def store(tmp_path: Path) -> IcebergOfflineStore:
    return IcebergOfflineStore(tmp_path / "offline")


EVENTS = event_table("payments")


def numbers(*these: int) -> pa.Table:
    return pa.table({"n": pa.array(these, pa.int64())})


def test_a_table_that_was_rolled_back_goes_on_from_the_rows_that_are_there(
    store: IcebergOfflineStore, tmp_path: Path
) -> None:
    first = store.append(EVENTS, numbers(1), {POSITIONS: "[1]"})
    store.append(EVENTS, numbers(2), {POSITIONS: "[2]"})
    other_engine(tmp_path, EVENTS).manage_snapshots().rollback_to_snapshot(first.id).commit()
    back = store.snapshot(EVENTS)
    assert back is not None and back.properties == {POSITIONS: "[1]"}
    store.append(EVENTS, numbers(3), {POSITIONS: "[3]"}, back.id)
    append(other_engine(tmp_path, EVENTS))
    last = store.snapshot(EVENTS)
    assert last is not None and last.properties == {POSITIONS: "[3]"}


def test_a_commit_of_another_engine_in_between_refuses_ours(store: IcebergOfflineStore, tmp_path: Path) -> None:
    read = store.append(EVENTS, numbers(1), {POSITIONS: "[1]"})
    append(other_engine(tmp_path, EVENTS))
    with pytest.raises(Fenced):
        store.append(EVENTS, numbers(2), {POSITIONS: "[2]"}, read.id)
    found = store.snapshot(EVENTS)
    assert found is not None and found.properties == {POSITIONS: "[1]"}
    assert store.append(EVENTS, numbers(2), {POSITIONS: "[2]"}, found.id).properties == {POSITIONS: "[2]"}


def test_of_two_commits_at_once_the_properties_are_those_of_the_rows(
    store: IcebergOfflineStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = store.append(EVENTS, numbers(1), {POSITIONS: "[1]"})
    real, other = Transaction.commit_transaction, IcebergOfflineStore(tmp_path / "offline")

    def raced(self: Transaction) -> Table:
        monkeypatch.setattr(Transaction, "commit_transaction", real)
        other.append(EVENTS, numbers(5), {POSITIONS: "[5]"})
        return real(self)

    monkeypatch.setattr(Transaction, "commit_transaction", raced)
    with pytest.raises(Fenced):
        store.append(EVENTS, numbers(2), {POSITIONS: "[2]"}, read.id)
    found = store.snapshot(EVENTS)
    assert found is not None and found.properties == {POSITIONS: "[5]"}
    assert sorted(store.scan(EVENTS)["n"].to_pylist()) == [1, 5]


def as_before(folder: Path, table: str) -> None:
    """A table as an earlier version of Millstream left it: its positions are in its snapshots alone."""
    found = other_engine(folder, table)
    with found.transaction() as change:
        change.remove_properties(*[key for key in found.properties if key.startswith("millstream.")])


def test_a_table_of_an_earlier_version_is_read_and_from_then_on_safe(
    store: IcebergOfflineStore, tmp_path: Path
) -> None:
    store.append(EVENTS, numbers(1), {POSITIONS: "[1]"})
    as_before(tmp_path, EVENTS)
    append(other_engine(tmp_path, EVENTS))
    first = store.snapshot(EVENTS)
    assert first is not None and first.properties == {POSITIONS: "[1]"}
    assert json.loads(other_engine(tmp_path, EVENTS).properties[POSITIONS]) == [1]
    rewrite_and_expire(other_engine(tmp_path, EVENTS))
    later = store.snapshot(EVENTS)
    assert later is not None and later.properties == {POSITIONS: "[1]"}


def test_positions_that_are_lost_all_the_same_are_said_so(site: Site) -> None:
    site.work()
    rewrite_and_expire(other_engine(site.data, "events.clicks"))
    as_before(site.data, "events.clicks")
    site.project.send(clicks, [{"user_id": 1, "at": site.now}])
    with pytest.raises(StoreError, match=r"'events\.clicks': it has lost its property 'millstream\.positions'"):
        site.project.sync()


def test_a_pinned_snapshot_outlives_expiry_by_another_engine(store: IcebergOfflineStore, tmp_path: Path) -> None:
    pinned = store.append(EVENTS, numbers(1))
    store.pin(EVENTS, pinned.id, "fraud@1")
    store.pin(EVENTS, pinned.id, "fraud@1")
    read = store.append(EVENTS, numbers(2))
    store.pin(EVENTS, read.id, NOON + DAY)
    other = store.append(EVENTS, numbers(3))
    rewrite_and_expire(other_engine(tmp_path, EVENTS))
    assert sorted(store.scan(EVENTS, snapshot=pinned.id)["n"].to_pylist()) == [1]
    assert sorted(store.scan(EVENTS, snapshot=read.id)["n"].to_pylist()) == [1, 2]
    listed = {one.snapshot_id for one in other_engine(tmp_path, EVENTS).snapshots()}
    assert {pinned.id, read.id} < listed and other.id not in listed
    store.unpin("fraud@1")
    store.unpin("fraud@1")
    expire(other_engine(tmp_path, EVENTS))
    assert pinned.id not in {one.snapshot_id for one in other_engine(tmp_path, EVENTS).snapshots()}
    with pytest.raises(NotFound, match="12345"):
        store.pin(EVENTS, 12345, "fraud@2")


def drop_a_column(found: Table) -> None:
    with found.update_schema(allow_incompatible_changes=True) as change:
        change.delete_column("user_id")


def drop_and_add_again(found: Table) -> None:
    drop_a_column(found)
    with found.update_schema() as change:
        change.add_column("user_id", StringType())


def rename_a_column(found: Table) -> None:
    with found.update_schema() as change:
        change.rename_column("user_id", "user")


@pytest.mark.parametrize("change", [drop_a_column, drop_and_add_again, rename_a_column], ids=lambda one: one.__name__)
def test_a_column_that_another_engine_took_away_is_named(site: Site, change: Callable[[Table], None]) -> None:
    site.work()
    change(other_engine(site.data, "events.clicks"))
    site.project.send(clicks, [{"user_id": 1, "at": site.now}])
    for use in (site.project.sync, lambda: site.project.parts.histories.events().read("clicks")):
        with pytest.raises(StoreError, match=r"'events\.clicks': another program has .* its column 'user_id'"):
            use()
    (found,) = [one for one in checked(site.folder) if one.name == "offline store"]
    assert not found.fine and "'user_id'" in found.found


def test_columns_of_another_engine_come_and_go(site: Site) -> None:
    site.work()
    found = other_engine(site.data, "events.clicks")
    with found.update_schema() as change:
        change.add_column("note", StringType())
    site.work()
    with found.refresh().update_schema(allow_incompatible_changes=True) as change:
        change.delete_column("note")
    site.work()
    assert site.project.parts.histories.events().read("clicks").num_rows == 9
    (said,) = [one for one in checked(site.folder) if one.name == "offline store"]
    assert said.fine and "files, each as it was written; none was compacted yet" in said.found
