"""Spark and DuckDB read what Millstream writes, to the value and the type, and Millstream goes on beside what Spark writes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from tests.engines.conftest import Beside
from tests.engines.lake import VALUES, visits

from millstream.store.iceberg.commit import identifier
from millstream.store.iceberg.reserved import ours

pytestmark = pytest.mark.engines
TABLES = {"batch.level@1", "captures.m", "dead.asks", "events.asks", "events.visits", "features.kept@1", "refused.asks"}
EVENTS = "events.visits"


def place(table: str) -> str:
    """What Spark calls a table."""
    return ".".join(("millstream", *identifier(table)))


def kind_of(kind: pa.DataType) -> str:
    """A type as Spark has it, which has none of UUIDs; what the parts of a list or a map are called says nothing."""
    if pa.types.is_list(kind):
        return f"list<{kind_of(kind.value_type)}>"
    if pa.types.is_map(kind):
        return f"map<{kind_of(kind.key_type)}, {kind_of(kind.item_type)}>"
    if pa.types.is_struct(kind):
        return f"struct<{', '.join(f'{one.name}: {kind_of(one.type)}' for one in kind)}>"
    return "string" if kind == pa.uuid() else str(kind)


def told(value: Any) -> Any:
    """A value as text that tells it from every other of its type: zeros have a sign, instants are of one zone."""
    if isinstance(value, list | tuple):
        return [told(one) for one in value]
    if isinstance(value, dict):
        return {name: told(one) for name, one in sorted(value.items())}
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return str(value) if isinstance(value, UUID | str) else repr(value)


def ordered(rows: pa.Table) -> list[str]:
    """Rows in an order of their own, their columns called as we call them."""
    rows = rows.rename_columns([ours(one) for one in rows.column_names])
    return sorted(str(told(row)) for row in rows.to_pylist())


def assert_same(found: pa.Table, wanted: pa.Table) -> None:
    """What Spark has read is what Millstream reads: columns in their order, types and values."""
    assert [ours(one) for one in found.column_names] == wanted.column_names
    assert list(map(kind_of, found.schema.types)) == list(map(kind_of, wanted.schema.types))
    assert ordered(found) == ordered(wanted)


def test_spark_reads_every_table_as_millstream_does(beside: Beside) -> None:
    offline = beside.lake.offline
    assert set(offline.tables()) == TABLES
    for table in sorted(TABLES):
        wanted = offline.scan(table)
        assert wanted.num_rows
        assert_same(beside.spark.table(place(table)).toArrow(), wanted)
    written = [row["whole"] for row in offline.scan(EVENTS).sort_by("id").to_pylist()]
    assert written == [*VALUES["whole"], None]


def test_duckdb_reads_the_files_that_the_newest_snapshot_names(beside: Beside) -> None:
    offline = beside.lake.offline
    for table in sorted(TABLES):
        found = offline._load(table)
        io = found.io
        places = [io.parse_location(task.file.file_path, io.properties) for task in found.scan().plan_files()]
        scheme, netloc, _ = places[0]
        paths = [path for _, _, path in places]
        with duckdb.connect() as connection:
            if scheme == "file":
                rows = connection.read_parquet(paths).to_arrow_table()
            else:
                files = ds.dataset(paths, format="parquet", filesystem=io.fs_by_scheme(scheme, netloc))
                rows = connection.from_arrow(files).to_arrow_table()
        assert ordered(rows) == ordered(offline.scan(table))


def test_spark_travels_to_what_is_pinned(beside: Beside) -> None:
    offline = beside.lake.offline
    before = offline.snapshot(EVENTS)
    rows = offline.scan(EVENTS)
    offline.pin(EVENTS, before.id, "fraud@7")
    beside.lake.visit()
    beside.lake.project.sync()
    assert offline.scan(EVENTS).num_rows == rows.num_rows + 4
    for version in (str(before.id), "'millstream.pin.fraud@7'"):
        assert_same(beside.spark.sql(f"select * from {place(EVENTS)} version as of {version}").toArrow(), rows)
    offline.unpin("fraud@7")


def test_millstream_goes_on_beside_what_spark_appends_deletes_and_compacts(beside: Beside) -> None:
    lake, sql = beside.lake, beside.spark.sql
    history = lake.project.parts.histories.events()
    lake.visit()
    lake.project.sync()
    sql(f"alter table {place(EVENTS)} set tblproperties ('write.delete.mode' = 'merge-on-read')")
    before = history.read("visits")
    sql(f"insert into {place(EVENTS)} select * from {place(EVENTS)} where id = '0'")  # which is no event
    assert history.read("visits").equals(before)
    sql(f"delete from {place(EVENTS)} where id = '1'")
    lake.visit()
    lake.project.sync()
    sql("call millstream.system.rewrite_data_files(table => 'events.visits', options => map('rewrite-all', 'true'))")
    sql("call millstream.system.expire_snapshots(table => 'events.visits', retain_last => 1, older_than => now())")
    lake.visit()
    lake.project.sync()
    wanted = [str(number) for number in range(lake.sent) if number != 1]
    assert sorted(history.read("visits")["id"].to_pylist(), key=int) == wanted
    assert_same(beside.spark.table(place(EVENTS)).toArrow(), lake.offline.scan(EVENTS))
    lake.project.load(visits, [{"id": "last", "user_id": 9, "at": "2026-01-01T00:00:00Z"}])
    lake.project.sync()
    assert "last" in beside.spark.table(place(EVENTS)).toArrow()["id"].to_pylist()


def test_spark_reads_what_millstream_has_compacted(beside: Beside) -> None:
    offline = beside.lake.offline
    rows = offline.scan(EVENTS)
    for number in range(33):
        offline.append("events.many", rows.slice(number % rows.num_rows, 1), {"millstream.positions": str(number)})
    wanted = offline.scan("events.many")
    assert offline.tend("events.many", 0, order=["_partition", "_position"]).compacted > 30
    assert offline.facts("events.many").data_files < 5
    assert ordered(offline.scan("events.many")) == ordered(wanted)
    assert_same(beside.spark.table(place("events.many")).toArrow(), wanted)
    offline.drop("events.many")
