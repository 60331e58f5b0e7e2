import pytest

from millstream.definitions.expressions import bind_interval, references, type_of
from millstream.errors import DefinitionError

COLUMNS = {
    "amount": "float64",
    "n": "int64",
    "country": "string",
    "ok": "bool",
    "paid_at": "timestamp",
    "at": "timestamp",
}


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("amount", "float64"), ("n + 1", "int64"), ("n / 2", "float64"), ("upper(country)", "string"),
        ("not ok", "bool"),
        ("Amount > 0 and country in ('DE', 'FR')", "bool"), ("hour(paid_at)", "int64"), ("n::decimal(9, 2)", "float64"),
        ("date_trunc('day', paid_at)", "timestamp"), ("case when ok then 1.5 else null end", "float64"),
        ("coalesce(country, 'none')", "string"), ("paid_at > '2024-01-01'", "bool"), ('"at" > paid_at', "bool"),
        ("epoch(paid_at - \"at\")", "float64"), ("country = 'now()'", "bool"), ("country like '%select%'", "bool"),
        ("country = 'select'", "bool"), ("country in ('select', 'insert')", "bool"),
    ],
)  # fmt: skip
def test_expressions_are_typed(sql, kind):
    assert type_of("Group", "derive", sql, COLUMNS) == kind


@pytest.mark.parametrize(
    ("sql", "message", "hint"),
    [
        ("amunt > 0", "unknown column 'amunt' in where", "did you mean 'amount'?"),
        ("zzzz > 0", "unknown column 'zzzz' in where", "the columns are 'amount', 'n'"),
        ('country = "DE"', "unknown column 'DE' in where", "single quotes: 'DE'"),
        ("payments.amount > 0", "'payments.amount' is not a column of every source", "on-demand"),
        ("amount >", "does not parse: Required keyword: 'expression' missing. Line 1, Col: 8.", ""),
        ("amount > 0) or (ok", "", ""),
        ("sum(amount) > 1", "aggregates rows; an expression sees one row", "ms.Sum"),
        ("row_number() over () > 1", "is a window function", "over="),
        ("lag(amount) over (order by paid_at) > 1", "is a window function", "over="),
        ("amount > (select 1)", "is a subquery", "a feature group of its own"),
        ("exists (from other)", "is a subquery", "a feature group of its own"),
        ("random() > 0.5", "uses random", "columns of the event"),
        ("paid_at > now()", "uses now", "columns of the event"),
        ("paid_at > NOW ( )", "uses now", "columns of the event"),
        ("paid_at > current_timestamp", "uses current_timestamp", "columns of the event"),
        ("paid_at::date = today()", "uses today", "columns of the event"),
        ("paid_at::date = current_date", "uses current_date", "columns of the event"),
        ("uuid()::varchar = country", "uses uuid", "columns of the event"),
        ("gen_random_uuid()::varchar = country", "uses gen_random_uuid", "columns of the event"),
        ("ago(interval 1 day) > paid_at", "uses ago", "columns of the event"),
        ("nextval('s') > n", "uses nextval", "columns of the event"),
        ("getenv('HOME') = country", "uses getenv", "columns of the event"),
        ("age(paid_at) > interval 1 day", "uses age", "columns of the event"),
        ("nofunction(amount) > 1", "is refused by DuckDB", ""),
        ("amount > ?", "is refused by DuckDB", ""),
        ("country + 1", "", ""),
        ("amount = 'much'", "'much', which where compares with 'amount', has type string; expected float64", ""),
        ("'yesterday' < paid_at", "has type string; expected timestamp", ""),
        ("at > paid_at", "is refused by DuckDB", 'write "at" in double quotes'),
        ("[amount]", "has type double[]", "cast it"),
        ("paid_at - paid_at", "has type interval", "cast it"),
        ("", "expected an SQL expression", ""),
    ],
)  # fmt: skip
def test_what_is_no_function_of_one_row_is_refused(sql, message, hint):
    with pytest.raises(DefinitionError) as raised:
        type_of("Group", "where", sql, COLUMNS)
    assert message in raised.value.message
    assert hint in (raised.value.hint or "")


def test_a_column_may_be_named_like_a_function_without_parentheses():
    assert type_of("Group", "where", "user = 'ann'", {"user": "string"}) == "bool"


def test_references_are_the_columns_that_are_read():
    assert references("Amount > 0 and upper(country) = 'amount'") == {"amount", "country"}
    assert references("order") == {"order"}


def test_the_interval_is_bound_only_where_it_stands():
    query = "select ':start', \"x\"::date as d from t -- :end\n where at >= :START and x::date < :end"
    bound, used = bind_interval(query)
    assert bound == "select ':start', \"x\"::date as d from t -- :end\n where at >= $start and x::date < $end"
    assert used == {"start", "end"}
