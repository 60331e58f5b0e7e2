"""What a query sees of a table is what the table declares, whatever holds it: a small file, a large one, a database."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import millstream as ms
from millstream.computing.tables import Tables
from millstream.engines.duckdb import engine
from millstream.engines.engine import Asked
from millstream.errors import MillstreamError

USER = ms.Entity("user", keys={"user_id": "int64"})
SCHEMA = {"user_id": "int64", "n": "int64", "x": "float64", "s": "string", "b": "bool", "at": "timestamp"}
TABLE = ms.Table("t", path="t.parquet", time="at", schema=SCHEMA)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
MICROS = int(NOON.timestamp()) * 1_000_000
END = MICROS + 86_400_000_000
RIGHT = {"user_id": 1, "n": 7, "x": 2.5, "s": "a", "b": True, "at": NOON}
#: A column as a file may hold it, and the value that a query sees; None is null.
FORMS = {
    "nanoseconds": ("at", pa.array([MICROS * 1000], pa.timestamp("ns")), NOON),
    "nanoseconds of a zone": ("at", pa.array([MICROS * 1000], pa.timestamp("ns", "Europe/Berlin")), NOON),
    "milliseconds": ("at", pa.array([MICROS // 1000], pa.timestamp("ms")), NOON),
    "no zone": ("at", pa.array([MICROS], pa.timestamp("us")), NOON),
    "a text": ("at", pa.array(["2026-01-01T12:00:00Z"]), NOON),
    "whole microseconds": ("at", pa.array([MICROS]), NOON),
    "a date": ("at", pa.array([NOON.date()]), NOON.replace(hour=0)),
    "int32": ("n", pa.array([7], pa.int32()), 7),
    "uint64": ("n", pa.array([7], pa.uint64()), 7),
    "whole floats": ("n", pa.array([7.0]), 7),
    "NaN in whole numbers": ("n", pa.array([float("nan")]), None),
    "int64 as a float": ("x", pa.array([7]), 7.0),
    "a great int64 as a float": ("x", pa.array([2**53 + 1]), float(2**53 + 1)),
    "float32": ("x", pa.array([0.1], pa.float32()), pa.scalar(0.1, pa.float32()).as_py()),
    "NaN": ("x", pa.array([float("nan")]), None),
    "no type": ("x", pa.nulls(1), None),
    "a category": ("s", pa.array(["a"]).dictionary_encode(), "a"),
    "a large text": ("s", pa.array(["a"], pa.large_string()), "a"),
}
WRONG = {
    "a fraction": ("n", pa.array([2.5])),
    "beyond int64": ("n", pa.array([2**64 - 1], pa.uint64())),
    "a text that is no number": ("n", pa.array(["many"])),
    "a text in a float": ("x", pa.array(["much"])),
    "a number in a text": ("s", pa.array([5])),
    "no instant": ("at", pa.array(["yesterday"])),
    "a year far away": ("at", pa.array([2**62], pa.timestamp("us"))),
}


def rows_with(name, array):
    columns = {other: pa.array([value]) for other, value in RIGHT.items()} | {name: array}
    return pa.table(columns)


def kept(rows: pa.Table, folder: Path, way: str) -> ms.Table:
    """The table, with its rows held in one of the ways there are."""
    if way == "database":
        with duckdb.connect(str(folder / "t.duckdb")) as writer:
            writer.register("given", rows)
            writer.execute("create table t as select * from given")
        return ms.Table("t", path="t.duckdb#t", time="at", schema=SCHEMA)
    (folder / "t").mkdir()
    pq.write_table(rows, folder / "t" / "part.parquet")
    path = "t/part.parquet" if way == "file" else "t"
    return ms.Table("t", path=path, time="at", schema=SCHEMA)


@pytest.mark.parametrize("way", ["file", "folder", "database"])
@pytest.mark.parametrize("form", FORMS)
def test_a_query_sees_declared_types(tmp_path, form, way):
    name, array, expected = FORMS[form]
    table = kept(rows_with(name, array), tmp_path, way)
    query = f'select "{name}" as v, typeof("{name}") as kind from t where "at" <= :end and "at" > :start'
    (row,) = Tables(tmp_path).query(query, [table], Asked(0, END)).to_pylist()
    kinds = {"int64": "BIGINT", "float64": "DOUBLE", "string": "VARCHAR", "timestamp": "TIMESTAMP WITH TIME ZONE"}
    assert (row["v"], row["kind"].replace("INT64", "BIGINT").replace("STRING", "VARCHAR")) == (
        expected,
        kinds[SCHEMA[name]],
    )
    assert Tables(tmp_path).misfits(table, 0) == []


@pytest.mark.parametrize("form", FORMS)
def test_compute_sees_the_same(form):
    name, array, expected = FORMS[form]
    group = ms.BatchFeatureGroup(
        "g", entity=USER, every="1h", sources=[TABLE], query=f'select user_id, "{name}" as v from t'
    )
    asked = [{"user_id": 1, "at": END}]
    try:
        found = ms.compute(group, {TABLE: rows_with(name, array)}, asked)["g__v"].to_pylist()
    except MillstreamError:
        assert form == "NaN in whole numbers"  # which a frame has not been allowed to hold
        return
    assert found == [expected]


@pytest.mark.parametrize("way", ["file", "folder", "database"])
@pytest.mark.parametrize("form", WRONG)
def test_a_row_that_does_not_fit_is_left_out_and_told(tmp_path, form, way):
    name, array = WRONG[form]
    table = kept(rows_with(name, array), tmp_path, way)
    tables = Tables(tmp_path)
    assert tables.query("select * from t", [table], Asked(0, END)).num_rows == 0
    (letter,) = tables.misfits(table, 5)
    assert letter.stream == "t" and f"'{name}'" in letter.reason and SCHEMA[name] in letter.reason


def test_the_other_rows_go_on(tmp_path):
    rows = pa.concat_tables([rows_with("n", pa.array([value])) for value in (1.0, 2.5, 3.0)])
    table = kept(rows, tmp_path, "file")
    tables = Tables(tmp_path)
    assert tables.query("select n from t", [table], Asked(0, END))["n"].to_pylist() == [1, 3]
    assert [letter.position for letter in tables.misfits(table, 5)] == [1]


def test_a_query_cannot_reach_beside_its_tables_wherever_they_are(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "secret.parquet")
    table = kept(rows_with("n", pa.array([1])), tmp_path, "folder")
    for query in ("select * from '{}'", "select * from read_parquet('{}')", "copy t to '{}x'", "attach '{}y'"):
        with pytest.raises(duckdb.Error):
            Tables(tmp_path).query(query.format(tmp_path / "secret.parquet"), [table], Asked(0, END))
    assert Tables(tmp_path).query("select n from t", [table], Asked(0, END))["n"].to_pylist() == [1]


def test_the_connection_of_a_thread_is_replaced_when_it_has_ended(tmp_path):
    table = kept(rows_with("n", pa.array([1])), tmp_path, "file")
    tables = Tables(tmp_path)
    assert tables.query("select n from t", [table], Asked(0, END)).num_rows == 1
    engine._views().connection.close()
    assert tables.query("select n from t", [table], Asked(0, END)).num_rows == 1
