"""What is particular to the Iceberg store: commits of unknown outcome, damage, names, old snapshots."""

import json
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from pyiceberg.table import Transaction

from millstream.errors import CorruptState, StoreError
from millstream.store.iceberg.store import IcebergOfflineStore

EVENTS = "events.payments"


@pytest.fixture
def store(tmp_path: Path) -> IcebergOfflineStore:
    return IcebergOfflineStore(tmp_path)


def rows(*numbers: int) -> pa.Table:
    return pa.table({"n": pa.array(numbers, pa.int64())})


def read(store: IcebergOfflineStore, snapshot: int | None = None) -> list[int]:
    return sorted(store.scan(EVENTS, snapshot=snapshot)["n"].to_pylist())


@pytest.mark.parametrize("landed", [True, False])
def test_a_commit_whose_answer_is_lost_is_looked_for(
    store: IcebergOfflineStore, monkeypatch: pytest.MonkeyPatch, landed: bool
) -> None:
    before = store.append(EVENTS, rows(1), {"millstream.positions": "1"})
    real = Transaction.commit_transaction

    def cut_off(self: Transaction) -> object:
        if landed:
            real(self)
        raise ConnectionError("the connection was lost")

    monkeypatch.setattr(Transaction, "commit_transaction", cut_off)
    if landed:
        after = store.append(EVENTS, rows(2), {"millstream.positions": "2"}, expected=before.id)
        assert store.snapshot(EVENTS) == after
        assert after.properties == {"millstream.positions": "2"}
        assert read(store) == [1, 2]
    else:
        with pytest.raises(Exception, match="connection was lost"):
            store.append(EVENTS, rows(2), {"millstream.positions": "2"}, expected=before.id)
        assert store.snapshot(EVENTS) == before
        monkeypatch.setattr(Transaction, "commit_transaction", real)
        store.append(EVENTS, rows(2), {"millstream.positions": "2"}, expected=before.id)
        assert read(store) == [1, 2]


@pytest.mark.parametrize("lost", ["catalog.db", "warehouse/**/*.metadata.json", "warehouse/**/*.parquet"])
@pytest.mark.parametrize("how", ["garbage", "gone"])
def test_damage_is_one_sentence(store: IcebergOfflineStore, tmp_path: Path, lost: str, how: str) -> None:
    store.append(EVENTS, rows(1))
    for place in tmp_path.glob(lost):
        if how == "garbage":
            place.write_bytes(b"garbage " * 500)
        elif lost == "catalog.db":
            return
        else:
            place.unlink()
    with pytest.raises(CorruptState) as raised:
        IcebergOfflineStore(tmp_path).scan(EVENTS)
    assert "\n" not in raised.value.message
    assert str(tmp_path) in raised.value.message
    assert raised.value.hint


def test_snapshots_off_the_list_are_read_as_those_on_it(
    store: IcebergOfflineStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millstream.store.iceberg.tags.KEPT", 3)
    ids = [store.append(EVENTS, rows(number)).id for number in range(8)]
    ids += [store.append(EVENTS, pa.table({"n": [8], "later": [True]})).id]
    [newest] = sorted(tmp_path.glob("warehouse/events/payments/metadata/*.metadata.json"))[-1:]
    assert len(json.loads(newest.read_text())["snapshots"]) < len(ids)
    assert [read(store, item) for item in ids] == [list(range(number + 1)) for number in range(9)]
    assert sorted(store.scan(EVENTS, ["n"], [("n", ">", 1)], ids[3])["n"].to_pylist()) == [2, 3]


def test_its_files_are_parquet_any_engine_reads(store: IcebergOfflineStore, tmp_path: Path) -> None:
    store.append(EVENTS, rows(1, 2, 3))
    [found] = duckdb.sql(f"select sum(n) from '{tmp_path}/warehouse/**/*.parquet'").fetchall()
    assert found == (6,)


@pytest.mark.parametrize("column", ["user_id", "name"])
def test_rows_are_chosen_by_more_values_than_a_plan_is_made_of(tmp_path: Path, column: str) -> None:
    store = IcebergOfflineStore(tmp_path / "offline")
    rows = pa.table({"user_id": range(600), "name": [None, *(f"u{n}" for n in range(1, 600))], "x": range(600)})
    for first in (0, 300):
        store.append("events.payments", rows.slice(first, 300))
    wanted = [*rows[column].drop_null().to_pylist()[::3], "u9x" if column == "name" else 10**12]
    where = [(column, "in", wanted), ("x", "<", 500)]
    expected = [x for x, one in enumerate(rows[column].to_pylist()) if one in wanted and x < 500]
    assert sorted(store.scan("events.payments", ["x"], where)["x"].to_pylist()) == expected
    assert (
        sorted(x for batch in store.batches("events.payments", ["x"], where) for x in batch["x"].to_pylist())
        == expected
    )
    with pytest.raises(StoreError, match="cannot be compared"):
        store.scan("events.payments", where=[(column, "in", [*wanted, 1.5j])])
