"""SQL in definitions: parsed, checked against the source's columns and typed when a definition is built.

SQLGlot parses and DuckDB types, against an empty table of the source's types. Both are loaded by the first expression
that is more than a column's name.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise, permutations
from typing import TYPE_CHECKING, Any

from millstream.definitions.sandbox import SYSTEM_FUNCTIONS, TABLE_FUNCTIONS, connect, ends_connection, lock
from millstream.definitions.schema import Schema
from millstream.errors import DefinitionError
from millstream.forks import leave_alone

if TYPE_CHECKING:
    from sqlglot import exp

SQL_TYPES = {
    "int64": "BIGINT",
    "float64": "DOUBLE",
    "string": "VARCHAR",
    "bool": "BOOLEAN",
    "timestamp": "TIMESTAMP WITH TIME ZONE",
}
_WHOLE = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"}
_WHOLE |= {f"U{name}" for name in _WHOLE}
_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WITHOUT_PARENTHESES = frozenset({
    "current_catalog", "current_date", "current_role", "current_schema", "current_time", "current_timestamp",
    "current_user", "localtime", "localtimestamp", "session_user", "user",
})  # fmt: skip
#: Functions that DuckDB does not list as volatile: the age of one instant is its distance from today.
_ALSO_VOLATILE = frozenset({"age"}) | SYSTEM_FUNCTIONS
_UNKNOWN = re.compile(r'(?:Referenced column|does not have a column named) "([^"]+)"')
_lock = threading.Lock()
_connections: list[Any] = []


def _connect_anew() -> None:
    """In a child process: another thread of its parent may have held the lock, and it is not there to let go."""
    global _lock
    _lock = threading.Lock()
    leave_alone(list(_connections))
    _connections.clear()


os.register_at_fork(after_in_child=_connect_anew)


def is_column(sql: str) -> bool:
    """Whether an expression is no more than a column's name."""
    return _BARE.fullmatch(sql.strip()) is not None


def type_of(thing: str, argument: str, sql: str, columns: Mapping[str, str], hint: str | None = None) -> str:
    """Return the type ("int64" ...) an expression has over one row of `columns`.

    `thing` and `argument` name the place in the error. Raises `DefinitionError` for an unknown column (naming the
    nearest), for SQL that DuckDB refuses, and for what is no function of the row alone: aggregates, windows,
    subqueries and volatile functions.

    >>> type_of("StreamFeatureGroup 'x'", "where", "amount > 0", {"amount": "float64"})
    'bool'
    """
    text = sql.strip()
    if is_column(text) and text in columns:
        return columns[text]
    _check_expression(thing, argument, text, columns)
    described = _run(f"describe select ({text}) as x from ({_empty(columns)}) where ({text}) is not null")
    if isinstance(described, str):
        raise _refusal(thing, argument, text, described, columns)
    sql_type = described[0][1]
    found = _our_type(sql_type)
    if found is None:
        casts = "cast it to bigint, double, varchar, boolean or timestamptz."
        raise DefinitionError.wrong_type(thing, f"{argument} `{text}`", sql_type.lower(), "a column type", casts)
    return found


def references(sql: str) -> frozenset[str]:
    """Return the names of the columns an expression reads, in lower case.

    >>> sorted(references("amount > 0 and Status = 'ok'"))
    ['amount', 'status']
    """
    if is_column(sql):
        return frozenset({sql.strip().lower()})
    from sqlglot import exp

    return frozenset(column.name.lower() for column in _parse(sql).find_all(exp.Column))


def query_schema(thing: str, query: str, tables: Mapping[str, Schema | None]) -> tuple[Schema | None, tuple[str, ...]]:
    """Return what a query gives: its types, or None while a table's columns are unknown; and its column names.

    The names are empty when they cannot be known either (`select *` over an unknown table). Raises `DefinitionError`
    for a query that is not one SELECT over `tables`, that uses a volatile function, or that DuckDB refuses.

    >>> query_schema("BatchFeatureGroup 'kyc'", "select id, tier from accounts where seen < :end", {"accounts": None})
    (None, ('id', 'tier'))
    """
    parsed = _parse_query(thing, query, tables)
    _check_names(thing, () if parsed.is_star else parsed.named_selects)
    _check_volatile(thing, "query", query, {}, "use :start and :end, the scheduled interval.")
    if any(schema is None for schema in tables.values()):
        return None, () if parsed.is_star else tuple(parsed.named_selects)
    known = {name: schema for name, schema in tables.items() if schema is not None}
    rows = _describe_query(query, known)
    if isinstance(rows, str):
        columns = {column: kind for schema in known.values() for column, kind in schema.items()}
        raise _refusal(thing, "query", query, rows, columns)
    types = {}
    for name, sql_type, *_ in rows:
        found = _our_type(sql_type)
        if found is None:
            raise DefinitionError.wrong_type(thing, f"query column '{name}'", sql_type.lower(), "a column type")
        types[name] = found
    return Schema(types), tuple(types)


def bind_interval(query: str) -> tuple[str, frozenset[str]]:
    """Return the query with `:start` and `:end` as DuckDB's `$start` and `$end`, and which of them it uses.

    >>> bind_interval("select * from t where at >= :start and at < :end")[0]
    'select * from t where at >= $start and at < $end'
    """
    tokens = _tokens(query)
    used, pieces, last = set(), [], 0
    for colon, name in pairwise(tokens):
        if colon.text == ":" and name.start == colon.end + 1 and name.text.lower() in ("start", "end"):
            used.add(name.text.lower())
            pieces += [query[last : colon.start], f"${name.text.lower()}"]
            last = name.end + 1
    return "".join([*pieces, query[last:]]), frozenset(used)


def _check_expression(thing: str, argument: str, sql: str, columns: Mapping[str, str]) -> None:
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    if not sql:
        raise DefinitionError.expected(thing, argument, sql, "an SQL expression")
    try:
        tokens, parsed = _tokens(sql), _parse(sql)
    except SqlglotError as error:
        raise DefinitionError.bad_sql(thing, argument, sql, f"does not parse: {_first_line(error)}") from None
    if any(token.text.lower() == "select" for token in tokens) or parsed.find(exp.Query):
        hint = "read another source in a feature group of its own."
        raise DefinitionError.bad_sql(thing, argument, sql, "is a subquery; an expression sees one row", hint)
    _check_volatile(thing, argument, sql, columns, "use the columns of the event, its time among them.")
    _check_columns(thing, argument, parsed, columns)
    _check_literals(thing, argument, parsed, columns)


def _check_columns(thing: str, argument: str, parsed: exp.Expr, columns: Mapping[str, str]) -> None:
    from sqlglot import exp

    known = {name.lower() for name in columns}
    for column in parsed.find_all(exp.Column):
        if column.table:
            raise DefinitionError.joins_streams(thing, f"{column.table}.{column.name}")
        if column.name.lower() in known:
            continue
        if column.this.args.get("quoted"):
            hint = f"text goes in single quotes: '{column.name}'."
            raise DefinitionError(f"{thing}: unknown column '{column.name}' in {argument}.", hint)
        raise DefinitionError.unknown_column(thing, column.name, columns, argument)


def _check_literals(thing: str, argument: str, parsed: exp.Expr, columns: Mapping[str, str]) -> None:
    """Refuse a column compared with text that cannot become its type, which would fail on every row."""
    from sqlglot import exp

    types = {name.lower(): kind for name, kind in columns.items()}
    for comparison in parsed.find_all(exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE):
        for column, literal in permutations((comparison.this, comparison.expression)):
            if not (isinstance(column, exp.Column) and isinstance(literal, exp.Literal) and literal.is_string):
                continue
            kind = types[column.name.lower()]
            value = literal.this.replace("'", "''")
            if _run(f"select try_cast('{value}' as {SQL_TYPES[kind]})") == [(None,)]:
                what = f"'{literal.this}', which {argument} compares with '{column.name}',"
                raise DefinitionError.wrong_type(thing, what, "string", kind)


def _check_volatile(thing: str, argument: str, sql: str, columns: Mapping[str, str], hint: str) -> None:
    tokens, volatile = _tokens(sql), _volatile_functions()
    known = {name.lower() for name in columns}
    for i, token in enumerate(tokens):
        name = token.text.lower()
        called = i + 1 < len(tokens) and tokens[i + 1].text == "("
        bare = (
            name in _WITHOUT_PARENTHESES and name not in known and token.token_type.name not in ("STRING", "IDENTIFIER")
        )
        if bare or (called and name in volatile):
            reason = f"uses {name}, which does not depend on the row alone, so a replay would give another value"
            raise DefinitionError.bad_sql(thing, argument, sql, reason, hint)


def _parse_query(thing: str, query: str, tables: Mapping[str, Schema | None]) -> exp.Query:
    import sqlglot
    from sqlglot import exp

    try:
        statements = [statement for statement in sqlglot.parse(query, read="duckdb") if statement is not None]
    except sqlglot.errors.SqlglotError as error:
        raise DefinitionError.bad_sql(thing, "query", query, f"does not parse: {_first_line(error)}") from None
    if len(statements) != 1 or not isinstance(statements[0], exp.Query):
        raise DefinitionError.bad_sql(thing, "query", query, "is not one SELECT", "write one SELECT over the sources.")
    parsed = statements[0]
    _check_tables(thing, parsed, tables)
    for parameter in parsed.find_all(exp.Placeholder):
        if parameter.name.lower() not in ("start", "end"):
            raise DefinitionError.unknown_choice(thing, "parameter", f":{parameter.name}", (":start", ":end"))
    columns = {name: kind for schema in tables.values() for name, kind in (schema or {}).items()}
    _check_statement(thing, query, parsed, columns)
    return parsed


def _check_statement(thing: str, query: str, parsed: exp.Query, columns: Mapping[str, str]) -> None:
    """Refuse what is more than one SELECT, or something else somewhere inside: one that a parser does not see in full."""
    import duckdb
    from sqlglot import exp

    named = (exp.Attach, exp.Command, exp.Copy, exp.Describe, exp.Detach, exp.Pragma, exp.Set, exp.Show, exp.Summarize)
    other = next((node for node in parsed.find_all(*named, exp.DML, exp.DDL) if not isinstance(node, exp.Query)), None)
    found = _statements(bind_interval(query)[0])
    if isinstance(found, str):
        raise _refusal(thing, "query", query, found, columns)
    if other is not None or found != [duckdb.StatementType.SELECT]:
        raise DefinitionError.bad_sql(thing, "query", query, "is not one SELECT", "write one SELECT over the sources.")


def _statements(sql: str) -> list[Any] | str:
    """The kinds of statements that DuckDB sees, or its reason against them."""
    import duckdb

    with _lock:
        try:
            return [statement.type for statement in _connection().extract_statements(sql)]
        except duckdb.Error as error:
            return str(error)


def _check_tables(thing: str, parsed: exp.Query, tables: Mapping[str, Schema | None]) -> None:
    """Refuse what a query reads beside its sources and its own named parts: files, functions, other catalogs."""
    from sqlglot import exp

    known = {name.lower() for name in tables}
    for cte in parsed.find_all(exp.CTE):
        if not is_column(cte.alias):
            rule = "the name of a part of the query is letters, digits and underscores and begins with a letter"
            raise DefinitionError.bad_name(thing, cte.alias, rule, re.sub(r"\W+", "_", cte.alias).strip("_") or None)
        known.add(cte.alias.lower())
    for table in parsed.find_all(exp.Table):
        called = isinstance(table.this, exp.Func)
        named = (
            table.this.sql_name().lower()
            if called and not isinstance(table.this, exp.Anonymous)
            else table.name.lower()
        )
        elsewhere = table.args.get("db") is not None or table.args.get("catalog") is not None
        if elsewhere or named not in (TABLE_FUNCTIONS if called else known):
            raise DefinitionError.unknown_choice(thing, "a table of the query", table.sql(dialect="duckdb"), tables)


def _check_names(thing: str, names: Sequence[str]) -> None:
    """Refuse two columns of one name: DuckDB gives both, and which one is meant cannot be known."""
    seen: set[str] = set()
    for name in filter(None, names):  # one without a name is named after its text
        if name.lower() in seen:
            hint = f"name one of them otherwise: `{name} as {name}_2`."
            raise DefinitionError.same_name(thing, "columns of the query", name, hint)
        seen.add(name.lower())


def _describe_query(query: str, tables: Mapping[str, Schema]) -> list[tuple[Any, ...]] | str:
    bound, used = bind_interval(query.strip().rstrip(";"))
    for name in used:
        bound = bound.replace(f"${name}", "timestamptz '2000-01-01 00:00:00+00'")
    sources = ", ".join(f'"{name}" as ({_empty(schema)})' for name, schema in tables.items())
    return _run(f"describe with {sources} select * from ({bound}) as q")


@lru_cache(maxsize=4096)
def _run(sql: str) -> list[tuple[Any, ...]] | str:
    """The rows of a statement, or DuckDB's reason against it."""
    import duckdb

    with _lock:
        try:
            rows: list[tuple[Any, ...]] = _connection().execute(sql).fetchall()
            return rows
        except duckdb.Error as error:
            if ends_connection(error):
                _connections.clear()
            return str(error)


def _connection() -> Any:
    """This process's connection for checks: no files, one thread, UTC. Never used across a fork."""
    if not _connections:
        _connections.append(lock(connect(threads=1)))
    return _connections[0]


def _empty(columns: Mapping[str, str]) -> str:
    return "select " + ", ".join(f'null::{SQL_TYPES[kind]} as "{name}"' for name, kind in columns.items()) + " limit 0"


@lru_cache(maxsize=1)
def _volatile_functions() -> frozenset[str]:
    """Functions of DuckDB whose value is not fixed by their arguments, and the macros that call them."""
    with _lock:
        listed = _connection().execute(
            "select lower(function_name), stability, lower(macro_definition) from duckdb_functions()"
        )
        rows = listed.fetchall()
    volatile = set(_WITHOUT_PARENTHESES)
    volatile |= {name for name, stability, _ in rows if stability in ("VOLATILE", "CONSISTENT_WITHIN_QUERY")}
    volatile |= {name for name, _, macro in rows if macro and volatile & set(_BARE.findall(macro))}
    return frozenset(volatile - {"user"}) | _ALSO_VOLATILE


@lru_cache(maxsize=1)
def _keywords() -> frozenset[str]:
    """The words that cannot be a column's name without double quotes."""
    rows = _run("select keyword_name from duckdb_keywords() where keyword_category in ('reserved', 'type_function')")
    return frozenset(row[0] for row in rows)


def _refusal(thing: str, argument: str, sql: str, error: str, columns: Mapping[str, str]) -> DefinitionError:
    """DuckDB's error as ours, naming the rule that was broken."""
    unknown = _UNKNOWN.search(error)
    if unknown:
        return DefinitionError.unknown_column(thing, unknown[1], columns, argument)
    for word, reason, hint in (
        ("cannot contain aggregates", "aggregates rows; an expression sees one row", "use ms.Sum, ms.Count and so on."),
        ("window function", "is a window function; an expression sees one row", "use an aggregation with over=."),
        ("UNNEST", "makes several rows of one; an expression sees one row", None),
    ):
        if word in error:
            return DefinitionError.bad_sql(thing, argument, sql, reason, hint)
    hint = None
    if "syntax error" in error:
        keyword = next((token.text for token in _tokens(sql) if _needs_quotes(token, columns)), None)
        hint = keyword and f"'{keyword}' is a word of SQL's own; as a column, write \"{keyword}\" in double quotes."
    return DefinitionError.bad_sql(thing, argument, sql, f"is refused by DuckDB: {_first_line(error)}", hint)


def _needs_quotes(token: Any, columns: Mapping[str, str]) -> bool:
    quoted = token.token_type.name in ("IDENTIFIER", "STRING")
    return not quoted and token.text.lower() in _keywords() & {name.lower() for name in columns}


def _first_line(error: object) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().split("\n")[0].rstrip(". ")


def _our_type(sql_type: str) -> str | None:
    for name, known in SQL_TYPES.items():
        if sql_type == known:
            return name
    if sql_type in _WHOLE:
        return "int64"
    if sql_type == "FLOAT" or sql_type.startswith("DECIMAL"):
        return "float64"
    return "timestamp" if sql_type == "DATE" or sql_type.startswith("TIMESTAMP") else None


@lru_cache(maxsize=4096)
def _parse(sql: str) -> exp.Expr:
    import sqlglot

    return sqlglot.parse_one(sql, read="duckdb")


@lru_cache(maxsize=1024)
def _tokens(sql: str) -> tuple[Any, ...]:
    import sqlglot

    return tuple(sqlglot.tokenize(sql, read="duckdb"))
