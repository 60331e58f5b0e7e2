"""Expressions in compiled form: what they cover is what DuckDB says, and the rest is refused."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

import millstream as ms
from millstream.definitions.row_expression import compile_expression
from millstream.engines.duckdb.engine import DuckDB
from millstream.errors import DefinitionError

COLUMNS = (("x", "float64"), ("y", "float64"), ("n", "int64"), ("s", "string"), ("ok", "bool"), ("t", "timestamp"))
ROWS: dict[str, list[Any]] = {
    "x": [0.0, -0.0, 1.5, None, 1e308, -2.5, 0.1], "y": [0.2, 0.0, None, 3.0, 10.0, 0.0, 7.0],
    "n": [7, -7, None, 2**53 + 1, 0, 12, -1], "s": ["DE", "", None, "é", "\U0001f600a", "de", "'"],
    "ok": [True, False, None, True, None, False, True], "t": [0, -1, 1_700_000_000_000_000, None, 5, -86_400_000_001, 9],
}  # fmt: skip
COMPILED = [
    "x", "x > 0", "x >= y or ok", "not ok and s = 'DE'", "x + y * 2", "x / y", "n / 2", "n % 5", "n + 1 > 7", "n * 2 - 3",
    "-x", "abs(n)", "abs(x)", "s in ('DE', 'FR')", "n in (7, null)", "n not in (1, 12)", "x between 0 and 1.5",
    "case when ok then 1 else 0 end", "case s when 'DE' then x when 'FR' then 0 end", "coalesce(x, 0)", "coalesce(s, 'x')",
    "s || '!'", "length(s)", "hour(t) < 6", "dayofweek(t)", "cast(n as double)", "cast(ok as bigint)", "s is null",
    "ok is not true", "n > x", "n = 9007199254740993", "if(ok, x, y)", "x = y", "s < 'a'", "ok = (x > 0)", "x > 0.1",
    "case when x > 1 then 0.5 else 2 end", "x / 0", "(x - x) / (y - y) > 1", "t > t", "isfinite(x / y)",
    "n % 2147483647", "n % -5", "x % 10 = 0", "x % y", "x % n", "n % x",
    "x % 0.1", "x % 0", "y % 2.5", "x % -3", "x % (y / 0)", "(x / 0) % y",
    "nullif(x, y)", "nullif(s, 'DE')", "case when isfinite(x / y) then x / y end > 1",
]  # fmt: skip


@pytest.mark.parametrize("sql", COMPILED)
def test_the_compiled_form_gives_what_the_engine_gives(sql: str) -> None:
    try:
        found = compile_expression("Group 'g'", "where", sql, COLUMNS)
    except DefinitionError:
        assert sql == "n = 9007199254740993"
        return
    kinds = {"x": pa.float64(), "y": pa.float64(), "n": pa.int64(), "s": pa.string(), "ok": pa.bool_()}
    table = pa.table({name: pa.array(v, kinds.get(name, pa.timestamp("us", "UTC"))) for name, v in ROWS.items()})
    wanted = DuckDB().evaluate([sql], table).column(0)
    if pa.types.is_decimal(wanted.type):
        wanted = wanted.cast(pa.float64())
    got = [found.value({name: values[i] for name, values in ROWS.items()}) for i in range(7)]
    assert [repr(one) for one in got] == [repr(one) for one in wanted.to_pylist()]


@pytest.mark.parametrize(
    "sql", ["upper(s)", "x ** 2", "n > 1.5", "regexp_matches(s, 'a')", "ln(x)", "round(x)", "s like 'a%'", "null", "1 + 1 > n",
            "x > 0.1234567890123456789", "cast(x as bigint)", "s > t", "list_value(x)[1]", "isfinite(n)"],
)  # fmt: skip
def test_what_has_no_compiled_form_is_refused_and_named(sql: str) -> None:
    with pytest.raises(DefinitionError, match=r"(?s)has no compiled form.*without with_request"):
        compile_expression("Group 'g'", "where", sql, COLUMNS)


def test_a_whole_number_that_overflows_fails_on_its_row() -> None:
    found = compile_expression("Group 'g'", "where", "n + 1", COLUMNS)
    with pytest.raises(ArithmeticError):
        found.value({"n": 2**63 - 1})


def test_a_view_is_refused_with_the_expression_as_it_was_written() -> None:
    user = ms.Entity("user", keys={"user_id": "int64"})
    paid = ms.EventStream("paid", time="at", schema={"user_id": "int64", "x": "float64", "at": "timestamp"})
    group = ms.StreamFeatureGroup(
        "g", entity=user, source=paid, derive={"k": "x / 2"}, features=[ms.Count(where="ln(k) > 1", name="many")]
    )
    with pytest.raises(DefinitionError) as raised:
        ms.FeatureView("v", request={"x": "float64"}, features=[group.with_request()])
    said = "where of count of group 'g' `ln(k) > 1` has no compiled form, which a row of the request needs: `LN("
    assert said in raised.value.message
    assert "ISFINITE" not in raised.value.message.partition("needs:")[0]
