"""Tables divided by day: which files a look-up reads, what upkeep makes of them, and tables that are not divided."""

from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.unit.store.test_other_engines import other_engine

from millstream.clock import to_micros
from millstream.store.iceberg import store as module
from millstream.store.iceberg.store import IcebergOfflineStore
from millstream.store.offline import Where

FIRST = to_micros("2026-03-01T22:00:00Z")
HOUR = 3_600_000_000
DAY = 24 * HOUR
POSITIONS = "millstream.positions"
EVENTS, CAPTURES, VALUES = "events.payments", "captures.fraud", "features.velocity@1"
INSTANTS = {EVENTS: "_appended", CAPTURES: "_received_at", VALUES: "at"}
DAYS = ["2026-03-01", "2026-03-02", "2026-03-03"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "offline"


@pytest.fixture
def store(folder: Path) -> IcebergOfflineStore:
    return IcebergOfflineStore(folder, by_day=True)


def rows(table: str, *instants: int) -> pa.Table:
    kind = pa.timestamp("us", "UTC") if table == VALUES else pa.int64()
    found = pa.table(
        {"user_id": [n % 7 for n in range(len(instants))], INSTANTS[table]: pa.array(instants, pa.int64())}
    )
    return found.set_column(1, INSTANTS[table], found[INSTANTS[table]].cast(kind))


def three_days(store: IcebergOfflineStore, table: str) -> pa.Table:
    """One commit an hour from ten in the evening on, for 30 hours: parts of three days."""
    commits = [rows(table, *range(instant, instant + 5)) for instant in range(FIRST, FIRST + 30 * HOUR, HOUR)]
    for number, some in enumerate(commits):
        store.append(table, some, {POSITIONS: str(number)})
    return pa.concat_tables(commits).combine_chunks()


def files(folder: Path) -> dict[str, list[Path]]:
    """The files of rows by the day of their folder."""
    found: dict[str, list[Path]] = {}
    for path in sorted((folder / "warehouse").rglob("*.parquet")):
        found.setdefault(path.parent.name.partition("=")[2], []).append(path)
    return found


@pytest.mark.parametrize("table", INSTANTS)
def test_a_look_up_by_time_reads_the_files_of_its_days_alone(
    store: IcebergOfflineStore, folder: Path, table: str
) -> None:
    written = three_days(store, table)
    assert {day: len(some) for day, some in files(folder).items()} == dict(zip(DAYS, (2, 24, 4), strict=True))
    column = INSTANTS[table]
    last: Where = [(column, ">=", to_micros("2026-03-03T00:00:00Z"))]
    assert store.scan(table).column_names == written.column_names
    assert store.scan(table).sort_by(column)[column].equals(written[column])
    planned = other_engine(folder.parent, table).scan(row_filter=f"{column} >= {_written(table, last[0][2])}")
    assert len(list(planned.plan_files())) == 4
    for day in DAYS[:2]:
        for path in files(folder)[day]:
            path.unlink()
    fresh = IcebergOfflineStore(folder)
    assert fresh.scan(table, where=last).num_rows == 20
    assert sum(len(batch) for batch in fresh.batches(table, ["user_id"], last)) == 20


def _written(table: str, instant: int) -> str:
    return "'2026-03-03T00:00:00+00:00'" if table == VALUES else str(instant)


def test_another_engine_finds_the_day_and_adds_rows_without_it(store: IcebergOfflineStore, tmp_path: Path) -> None:
    three_days(store, EVENTS)
    found = other_engine(tmp_path, EVENTS)
    assert len(list(found.scan(row_filter="_day == '2026-03-01'").plan_files())) == 2
    found.append(pa.table({"user_id": [9], "_appended": [FIRST], "_day": pa.array([None], pa.date32())}))
    assert store.scan(EVENTS, where=[("_appended", "=", FIRST), ("user_id", "=", 9)]).to_pylist() == [
        {"user_id": 9, "_appended": FIRST}
    ]
    newest = store.snapshot(EVENTS)
    assert newest is not None and newest.properties == {POSITIONS: "29"}
    store.append(EVENTS, rows(EVENTS, FIRST + 3 * DAY), {POSITIONS: "30"}, newest.id)
    assert store.scan(EVENTS).num_rows == 152


def test_upkeep_makes_few_files_of_each_day_in_the_order_that_was_asked_for_and_spares_pins(
    store: IcebergOfflineStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millstream.store.iceberg.compaction.FILES", 30)
    written = three_days(store, EVENTS)
    before = store.snapshot(EVENTS)
    assert before is not None
    store.pin(EVENTS, before.id, "fraud@1")
    pinned = {path for some in files(folder).values() for path in some}
    assert store.tend(EVENTS, 0, order=["user_id", "_appended"]).compacted == 30
    found = other_engine(tmp_path, EVENTS)
    since_1970 = sorted(task.file.partition[0] for task in found.scan().plan_files())
    assert [str(date(1970, 1, 1) + timedelta(number)) for number in since_1970] == DAYS
    assert store.facts(EVENTS).data_files == 3
    assert store.scan(EVENTS).sort_by("_appended").equals(written.sort_by("_appended"))
    for path in {path for some in files(folder).values() for path in some} - pinned:
        one = pq.read_table(path, partitioning=None)
        assert one.equals(one.sort_by([("user_id", "ascending"), ("_appended", "ascending")]))
    assert store.tend(EVENTS, DAY, keep=HOUR).compacted == 0
    for hour in range(30, 70):
        store.append(EVENTS, rows(EVENTS, FIRST + hour * HOUR), {POSITIONS: str(hour)})
        store.tend(EVENTS, DAY + hour * HOUR, keep=HOUR)
    assert pinned <= {path for some in files(folder).values() for path in some}
    assert store.scan(EVENTS, snapshot=before.id).num_rows == 150
    newest = store.snapshot(EVENTS)
    assert newest is not None and newest.properties == {POSITIONS: "69"}


def test_a_table_of_before_is_gone_on_with_as_it_is(
    store: IcebergOfflineStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr("millstream.store.iceberg.days._INSTANTS", {})
        store.append(EVENTS, rows(EVENTS, FIRST), {POSITIONS: "1"})
    monkeypatch.setattr("millstream.store.iceberg.compaction.FILES", 3)
    for day in (1, 2):
        store.append(EVENTS, rows(EVENTS, FIRST + day * DAY), {POSITIONS: str(day + 1)})
    assert store.scan(EVENTS, where=[("_appended", ">", FIRST)]).num_rows == 2
    assert store.tend(EVENTS, 0).compacted == 3
    assert store.scan(EVENTS).column_names == ["user_id", "_appended"]
    assert store.scan(EVENTS).num_rows == 3


def test_a_day_of_the_rows_own_stays_theirs(store: IcebergOfflineStore) -> None:
    named = pa.table({"_day": ["monday"], "_appended": [FIRST]})
    store.append(EVENTS, named)
    store.append(EVENTS, named)
    assert store.scan(EVENTS).to_pylist() == named.to_pylist() * 2


def test_a_column_that_comes_later_is_null_before_in_a_table_of_days(store: IcebergOfflineStore) -> None:
    first = store.append(EVENTS, rows(EVENTS, FIRST))
    store.append(EVENTS, rows(EVENTS, FIRST + DAY).append_column("tier", pa.array(["gold"])))
    assert [row["tier"] for row in store.scan(EVENTS).sort_by("_appended").to_pylist()] == [None, "gold"]
    assert store.scan(EVENTS, snapshot=first.id).to_pylist() == [{"user_id": 0, "_appended": FIRST}]


@pytest.mark.parametrize("table", [EVENTS, VALUES])
def test_of_two_writers_that_make_a_table_at_once_both_are_heard(
    table: str, folder: Path, store: IcebergOfflineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    divide = module.divide

    def overtaken(*given: object) -> None:
        monkeypatch.setattr(module, "divide", divide)
        IcebergOfflineStore(folder, by_day=True).append(table, rows(table, FIRST))
        divide(*given)

    monkeypatch.setattr(module, "divide", overtaken)
    store.append(table, rows(table, FIRST + DAY))
    assert store.scan(table).num_rows == 2
