"""Derived columns written out, and null in place of what is not finite where something reads it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from millstream.definitions.inlining import inlined
from millstream.definitions.row_expression import compile_expression
from millstream.engines.duckdb.engine import DuckDB

COLUMNS = {"x": "float64", "y": "float64", "n": "int64", "s": "string", "l": "list<float64>", "ok": "bool"}
DERIVED = (("k", "x / y"), ("twice", "k * 2"), ("big", "k > 1"))
ROWS = pa.table({
    "x": pa.array([1.0, 0.0, -1.0, 6.0, 1e308], pa.float64()), "y": pa.array([0.0, 0.0, 0.0, 2.0, 1e-10], pa.float64()),
    "n": pa.array([0, 0, 1, 2, 3]), "s": pa.array(["inf", "nan", "1e308", "2", "4"]),
    "l": pa.array([[1.0]] * 5, pa.list_(pa.float64())), "ok": pa.array([True, None, False, True, True]),
})  # fmt: skip
READ: dict[str, list[Any]] = {
    "k > 1": [None, None, None, True, None],
    "big": [None, None, None, True, None],
    "twice > 1 and ok": [None, None, False, True, None],
    "k is null": [True, True, True, False, True],
    "k in (3, 4)": [None, None, None, True, None],
    "k between 0 and 5": [None, None, None, True, None],
    "least(k, 10)": [10.0, 10.0, 10.0, 3.0, 10.0],
    "coalesce(x / y, 5)": [5.0, 5.0, 5.0, 3.0, 5.0],
    "case when k > 1 then 1 else 0 end": [0, 0, 0, 1, 0],
    "1 / k > 0": [None, None, None, True, None],
    "x / y / (x / y) > 0": [None, None, None, True, None],
    "-k < 1": [None, None, None, True, None],
    "k || 'x'": [None, None, None, "3.0x", None],
    "ln(x) < 5": [True, None, None, True, False],
    "sqrt(x) > 0.5": [True, False, None, True, True],
    "x * x > 1": [False, False, False, True, None],
    "x % y > 1": [None, None, None, False, False],
    "cast(s as double) > 1": [None, None, True, True, True],
    "list_sum(list_transform(l, lambda v: v / n)) > 0": [None, None, True, True, True],
    "isfinite(k)": [False, False, False, True, False],
    "case when isnan(k) then -1 else 1 end": [1, -1, 1, 1, 1],
}


@pytest.mark.parametrize("sql", READ)
def test_what_is_read_and_not_finite_is_null(sql: str) -> None:
    found = DuckDB().evaluate([inlined(sql, DERIVED, COLUMNS)], ROWS).column(0)
    assert found.to_pylist() == READ[sql]


@pytest.mark.parametrize(
    "sql", ["k > 1", "big", "coalesce(k, 5)", "1 / k > 0", "-k < 1", "x * x > 1", "nullif(k, 3) > 1"]
)
def test_the_compiled_form_reads_the_same(sql: str) -> None:
    text = inlined(sql, DERIVED, COLUMNS)
    compiled = compile_expression("Group 'g'", "where", text, tuple(COLUMNS.items()))
    wanted = DuckDB().evaluate([text], ROWS).column(0).to_pylist()
    assert [compiled.value(row) for row in ROWS.to_pylist()] == wanted


def test_what_an_aggregate_takes_is_left_to_it_and_what_is_finite_is_left_alone() -> None:
    assert inlined("k", DERIVED, COLUMNS, aggregated=True) == "(x / y)"
    assert inlined("least(k, 1)", DERIVED, COLUMNS, aggregated=True).count("ISFINITE") == 1
    for sql in ("x > 0", "x / 1000 > 2", "n * 2 > 3", "length(s) > 2", "l[1:2] is null", "abs(x) > y"):
        assert "ISFINITE" not in inlined(sql, (), COLUMNS)
