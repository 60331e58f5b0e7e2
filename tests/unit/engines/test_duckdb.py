"""DuckDB behind the protocol of a batch engine: what it is given is all that it knows of definitions."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import millstream as ms
from millstream.computing.row_failures import run_query
from millstream.computing.tables import Tables
from millstream.engines.duckdb.dialect import DIALECT
from millstream.engines.duckdb.engine import DuckDB
from millstream.engines.engine import Asked, Column, Fault, Known, QuerySource, Refused, Stored
from millstream.errors import MillstreamError

HOUR = 3_600_000_000


def instants(*hours: int) -> pa.Array:
    return pa.array([hour * HOUR for hour in hours], pa.timestamp("us", "UTC"))


def test_a_query_sees_what_could_be_known_of_rows_in_memory_and_of_rows_in_files_alike(tmp_path: Path) -> None:
    rows = pa.table({"n": [1, 2, 3], "at": instants(0, 1, 2)})
    pq.write_table(rows, tmp_path / "t.parquet")
    stored = Stored(tmp_path / "t.parquet", "", {"n": "int64", "at": "timestamp"}, lambda rows: rows)
    for source in (
        QuerySource("t", rows=rows, known=Known("at", HOUR)),
        QuerySource("t", stored=stored, known=Known("at", HOUR)),
    ):
        for asked, seen in (
            (Asked(0, 2 * HOUR), [1, 2]),
            (Asked(0, 2 * HOUR, until=9 * HOUR), [1, 2, 3]),
            (Asked(0, 9 * HOUR, since=HOUR), [2, 3]),
            (Asked(0, 0), []),
        ):
            assert DuckDB().run("select n from t order by n", [source], asked)["n"].to_pylist() == seen
        known = DuckDB().run("select max(_known) as k from t", [source], Asked(0, 9 * HOUR, known=True))
        assert known["k"].cast(pa.int64()).to_pylist() == [3 * HOUR]


def test_the_ends_of_the_interval_are_parameters_and_no_text() -> None:
    rows = pa.table({"seen": instants(0, 1, 2), "s": ["$start", "$end", "$start"]})
    query = "select count(*) as n from t where s = '$start' and seen < $end"
    found = DuckDB().run(query, [QuerySource("t", rows=rows)], Asked(0, 2 * HOUR))
    assert found["n"].to_pylist() == [1]


def test_a_file_of_types_that_only_arrow_brings_to_the_declared_ones_is_converted_by_the_caller(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": ["1", "many"]}), tmp_path / "t.parquet")
    converted: list[int] = []

    def convert(rows: pa.Table) -> pa.Table:
        converted.append(rows.num_rows)
        return pa.table({"n": [1]})

    source = QuerySource("t", stored=Stored(tmp_path / "t.parquet", "", {"n": "int64"}, convert))
    assert DuckDB().run("select n from t", [source], Asked(0, 0))["n"].to_pylist() == [1]
    assert converted == [2]
    misfits = DuckDB().misfits(source)
    assert misfits is not None and misfits["n"].to_pylist() == ["1", "many"]


def test_a_source_that_is_not_there_is_named_by_every_call(tmp_path: Path) -> None:
    source = QuerySource("t", stored=Stored(tmp_path / "absent.parquet", "", {}, lambda rows: rows))
    with pytest.raises(MillstreamError, match=r"Table 't': there is no '.*absent.parquet'"):
        DuckDB().run("select 1 as x from t", [source], Asked(0, 0))
    with pytest.raises(MillstreamError, match=r"Table 't': there is no '.*absent.parquet'"):
        DuckDB().misfits(source)


def test_threads_do_not_meet_on_a_connection() -> None:
    found: dict[int, list[int]] = {}

    def ask(thread: int) -> None:
        rows = pa.table({"n": [thread] * 100})
        sums = [DuckDB().evaluate(["n + 1"], rows).column(0)[0].as_py() for _ in range(20)]
        seen = DuckDB().run("select n from t", [QuerySource("t", rows=rows, again=True)], Asked(0, 0))
        found[thread] = [*set(sums), *set(seen["n"].to_pylist())]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [number + 1, number] for number in range(4)}


def test_the_dialect_types_a_query_and_gives_its_reason_against_another() -> None:
    tables = {"t": {"n": "int64", "seen": "timestamp"}}
    assert DIALECT.describe("select n, [n] as l from t where seen < $end", tables) == [
        Column("n", "int64", "BIGINT"),
        Column("l", None, "BIGINT[]"),
    ]
    for query, because, column in (
        ("select m from t", "column", "m"),
        ("select n from t where sum(n) > 0", "aggregate", ""),
        ("select n from t where row_number() over () > 0", "window", ""),
        ("select n from t where n where n", "syntax", ""),
        ("select date_trunc(n, n) from t", "", ""),
    ):
        with pytest.raises(Refused) as refused:
            DIALECT.describe(query, tables)
        assert (refused.value.because, refused.value.column) == (because, column)
        assert str(refused.value)
    with pytest.raises(Refused) as refused:
        DIALECT.check("select 1; select 2")
    assert not str(refused.value)


class Another:
    """An engine that fails as no other does, on rows with a 13."""

    dialect = DIALECT

    def run(self, query: str, sources: Sequence[QuerySource], asked: Asked) -> pa.Table:
        rows = DuckDB().run(query, sources, asked)
        if "*" not in query and 13 in rows["n"].to_pylist():
            raise LookupError("thirteen")
        return rows

    def misfits(self, source: QuerySource) -> pa.Table | None:
        return DuckDB().misfits(source)

    def evaluate(self, expressions: Sequence[str], rows: pa.Table) -> pa.Table:
        return DuckDB().evaluate(expressions, rows)

    def fault(self, error: BaseException) -> Fault:
        return "row" if isinstance(error, LookupError) else "machine"


def test_batch_computing_asks_the_engine_it_is_given_and_believes_it_about_errors(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": [1, 13, 2]}), tmp_path / "t.parquet")
    table = ms.Table("t", path="t.parquet", schema={"n": "int64"})
    tables = Tables(tmp_path, engine=Another())
    rows, dead = run_query(tables, "Group", "select n from t", [table], Asked(0, 0), 5)
    assert rows["n"].to_pylist() == [1, 2]
    assert [(letter.position, letter.payload) for letter in dead] == [(1, '{"n":13}')]
    assert "thirteen" in dead[0].reason
