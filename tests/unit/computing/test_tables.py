"""Batch queries read each source as it is now, and as it was known at the end of their interval."""

import os
from collections.abc import Mapping
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import millstream as ms
from millstream.computing.tables import Tables
from millstream.engines.engine import Asked
from millstream.errors import MillstreamError

HOUR = 3_600_000_000
SCHEMA = {"user_id": "int64", "tier": "string", "changed": "timestamp"}
QUERY = "select user_id, tier from accounts order by user_id"


def accounts(tiers: Mapping[int, str], *, changed: int = 0) -> pa.Table:
    """One row per user; the n-th changed n hours after `changed`."""
    times = [changed + place * HOUR for place in range(len(tiers))]
    return pa.table(
        {"user_id": list(tiers), "tier": list(tiers.values()), "changed": pa.array(times, pa.timestamp("us", "UTC"))}
    )


def write(path: Path, rows: pa.Table, *, changed_at: int) -> None:
    pq.write_table(rows, path)
    os.utime(path, ns=(changed_at, changed_at))


def users(tables: Tables, source: ms.Table, end: int) -> list[tuple[int, str]]:
    found = tables.query(QUERY, [source], Asked(0, end))
    return list(zip(found["user_id"].to_pylist(), found["tier"].to_pylist(), strict=True))


def test_a_row_shows_once_it_could_be_known(tmp_path: Path) -> None:
    write(tmp_path / "accounts.parquet", accounts({1: "a", 2: "b", 3: "c"}), changed_at=1)
    source = ms.Table("accounts", path="accounts.parquet", schema=SCHEMA, time="changed", delay="30m")
    tables = Tables(tmp_path)
    assert users(tables, source, 3 * HOUR) == [(1, "a"), (2, "b"), (3, "c")]
    assert users(tables, source, HOUR // 2) == [(1, "a")]
    assert users(tables, source, HOUR // 2 - 1) == []
    known = tables.query("select user_id, _known from accounts", [source], Asked(0, 3 * HOUR, known=True))
    assert known["_known"].cast(pa.int64()).to_pylist() == [HOUR // 2, 3 * HOUR // 2, 5 * HOUR // 2]
    assert users(tables, source, HOUR // 2) == [(1, "a")]


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    source = ms.Table("accounts", path="accounts.parquet", schema=SCHEMA)
    tables = Tables(tmp_path)
    for turn, tier in enumerate("abab"):
        write(tmp_path / "accounts.parquet", accounts({1: tier}), changed_at=1 + turn)
        assert users(tables, source, HOUR) == [(1, tier)]
        assert users(tables, source, HOUR) == [(1, tier)]


def test_two_projects_may_name_their_tables_alike(tmp_path: Path) -> None:
    source = ms.Table("accounts", path="accounts.parquet", schema=SCHEMA, time="changed")
    for name in ("left", "right"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "accounts.parquet", accounts({1: name}), changed_at=1)
    left, right = Tables(tmp_path / "left"), Tables(tmp_path / "right")
    for _ in range(2):
        assert users(left, source, HOUR) == [(1, "left")]
        assert users(right, source, HOUR) == [(1, "right")]


def test_a_folder_of_files_is_one_table_and_grows(tmp_path: Path) -> None:
    source = ms.Table("accounts", path="accounts", schema=SCHEMA, time="changed")
    (tmp_path / "accounts" / "inner").mkdir(parents=True)
    write(tmp_path / "accounts" / "one.parquet", accounts({1: "a"}), changed_at=1)
    tables = Tables(tmp_path)
    assert users(tables, source, HOUR) == [(1, "a")]
    write(tmp_path / "accounts" / "inner" / "two.parquet", accounts({2: "b"}), changed_at=1)
    assert users(tables, source, HOUR) == [(1, "a"), (2, "b")]


def test_a_table_of_a_duckdb_file_is_let_go_after_each_query(tmp_path: Path) -> None:
    path = tmp_path / "shop.duckdb"
    with duckdb.connect(path) as writer:
        writer.register("rows", accounts({1: "a", 2: "b"}))
        writer.execute("create table accounts as select * from rows")
    source = ms.Table("accounts", path="shop.duckdb#accounts", schema=SCHEMA, time="changed")
    tables = Tables(tmp_path)
    assert users(tables, source, HOUR) == [(1, "a"), (2, "b")]
    assert users(tables, source, 0) == [(1, "a")]
    with duckdb.connect(path) as writer:
        writer.execute("update accounts set tier = 'c' where user_id = 2")
    assert users(tables, source, HOUR) == [(1, "a"), (2, "c")]


class Events:
    """A history of one stream."""

    def __init__(self, events: pa.Table) -> None:
        self.events = events

    def read(
        self, stream: str, *, upto: Mapping[int, int] | None = None, since: Mapping[int, int] | None = None
    ) -> pa.Table:
        return self.events


def test_a_query_joins_a_stream_as_it_had_arrived(tmp_path: Path) -> None:
    write(tmp_path / "accounts.parquet", accounts({1: "a", 2: "b"}), changed_at=1)
    source = ms.Table("accounts", path="accounts.parquet", schema=SCHEMA)
    orders = ms.EventStream("orders", time="at", schema={"user_id": "int64", "at": "timestamp"})
    events = pa.table(
        {
            "user_id": [1, 1, 2],
            "at": pa.array([0, 0, 0], pa.timestamp("us", "UTC")),
            "rest": pa.nulls(3, pa.string()),
            "_arrival": [10, 20, 30],
        }
    )
    history = Events(events)
    tables = Tables(tmp_path, history)
    query = "select tier, count(*) as n from orders join accounts using (user_id) group by tier order by tier"
    assert tables.query(query, [source, orders], Asked(0, 20)).to_pylist() == [{"tier": "a", "n": 2}]
    history.events = events.slice(2)
    assert tables.query(query, [source, orders], Asked(0, 30)).to_pylist() == [{"tier": "b", "n": 1}]


def test_the_interval_is_in_the_query(tmp_path: Path) -> None:
    write(tmp_path / "accounts.parquet", accounts({1: "a", 2: "b", 3: "c"}), changed_at=1)
    source = ms.Table("accounts", path="accounts.parquet", schema=SCHEMA)
    query = "select user_id from accounts where changed >= :start and changed < :end"
    assert Tables(tmp_path).query(query, [source], Asked(HOUR, 2 * HOUR))["user_id"].to_pylist() == [2]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("absent.parquet", "Table 'accounts': there is no '.*absent.parquet'"),
        ("broken.parquet", "Table 'accounts' cannot be read: .*broken.parquet"),
        ("broken.parquet#accounts", "Table 'accounts' cannot be read: "),
        ("absent.duckdb#accounts", "Table 'accounts': there is no '.*absent.duckdb'"),
    ],
)
def test_what_cannot_be_read_is_named_and_does_no_harm(tmp_path: Path, path: str, said: str) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"no such thing")
    tables = Tables(tmp_path)
    with pytest.raises(MillstreamError, match=said) as told:
        tables.query(QUERY, [ms.Table("accounts", path=path, schema=SCHEMA)], Asked(0, 1))
    assert told.value.hint
    write(tmp_path / "accounts.parquet", accounts({1: "a"}), changed_at=1)
    assert users(tables, ms.Table("accounts", path="accounts.parquet", schema=SCHEMA), 1) == [(1, "a")]


def test_a_column_that_the_file_lacks_is_named(tmp_path: Path) -> None:
    write(tmp_path / "accounts.parquet", accounts({1: "a"}), changed_at=1)
    source = ms.Table("accounts", path="accounts.parquet", schema={**SCHEMA, "seen": "timestamp"}, time="seen")
    with pytest.raises(MillstreamError, match=r"Table 'accounts' cannot be read: .*seen"):
        Tables(tmp_path).query(QUERY, [source], Asked(0, 1))
