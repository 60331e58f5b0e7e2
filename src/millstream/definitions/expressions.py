"""SQL in definitions: parsed, checked against the source's columns and typed when a definition is built.

SQLGlot parses and an engine types, against an empty table of the source's types. Both are loaded by the first expression
that is more than a column's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise, permutations
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from millstream.definitions.schema import Schema, digits_of
from millstream.engines.embedded import DIALECT
from millstream.engines.engine import Column, Refused
from millstream.errors import DefinitionError, first_line

if TYPE_CHECKING:
    from sqlglot import exp

_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: Tokens that are text or a name in quotes: no word of SQL, whatever they say.
_QUOTED = ("STRING", "IDENTIFIER")


def is_column(sql: str) -> bool:
    """Whether an expression is no more than a column's name."""
    return _BARE.fullmatch(sql.strip()) is not None


def type_of(thing: str, argument: str, sql: str, columns: Mapping[str, str]) -> str:
    """Return the type ("int64" ...) an expression has over one row.

    Args:
        thing: whose expression it is, for errors.
        argument: the argument that it was given as, for errors.
        sql: the expression.
        columns: the types of the columns that it may read.

    Raises:
        DefinitionError: for an unknown column (naming the nearest), for SQL that DuckDB refuses, and for what is no
            function of the row alone: aggregates, windows, subqueries and volatile functions.

    >>> type_of("StreamFeatureGroup 'x'", "where", "amount > 0", {"amount": "float64"})
    'bool'
    """
    text = sql.strip()
    if is_column(text) and text in columns:
        return columns[text]
    _check_expression(thing, argument, text, columns)
    row = f"select ({text}) as x from events where ({text}) is not null"
    try:
        [column] = DIALECT.describe(row, {"events": columns})
    except Refused as refused:
        raise _refusal(thing, argument, text, refused, columns) from None
    if column.kind is None:
        casts = "cast it to bigint, double, varchar, boolean, timestamptz, date, uuid or blob."
        raise DefinitionError.wrong_type(thing, f"{argument} `{text}`", column.said.lower(), "a column type", casts)
    read = references(text)
    return _kind(column, [kind for name, kind in columns.items() if name.lower() in read])


def references(sql: str) -> frozenset[str]:
    """Return the names of the columns an expression reads, in lower case.

    >>> sorted(references("amount > 0 and Status = 'ok'"))
    ['amount', 'status']
    """
    if is_column(sql):
        return frozenset({sql.strip().lower()})
    from sqlglot import exp

    return frozenset(column.name.lower() for column in parsed_expression(sql).find_all(exp.Column))


@lru_cache(maxsize=4096)
def parsed_expression(sql: str) -> exp.Expr:
    """Return an expression as SQLGlot has it, shared: copy it before it is changed.

    >>> sorted(column.name for column in parsed_expression("amount > 0 and ok").find_all(parsed_expression("x").__class__))
    ['amount', 'ok']
    """
    import sqlglot

    return sqlglot.parse_one(sql, read=DIALECT.name)


def query_schema(thing: str, query: str, tables: Mapping[str, Schema | None]) -> tuple[Schema | None, tuple[str, ...]]:
    """Return what a query gives: its types, or None while a table's columns are unknown; and its column names.

    The names are empty when they cannot be known either (`select *` over an unknown table).

    Args:
        thing: whose query it is, for errors.
        query: the SQL, in which `:start` and `:end` are the ends of the interval.
        tables: the schema of each source by name, None where it declares none.

    Raises:
        DefinitionError: for a query that is not one SELECT over `tables`, that uses a volatile function, or that DuckDB
            refuses.

    >>> query_schema("BatchFeatureGroup 'kyc'", "select id, tier from accounts where seen < :end", {"accounts": None})
    (None, ('id', 'tier'))
    """
    parsed = _parse_query(thing, query, tables)
    _check_names(thing, () if parsed.is_star else parsed.named_selects)
    _check_volatile(thing, "query", query, {}, "use :start and :end, the scheduled interval.")
    if any(schema is None for schema in tables.values()):
        return None, () if parsed.is_star else tuple(parsed.named_selects)
    known = {name: schema for name, schema in tables.items() if schema is not None}
    try:
        described = DIALECT.describe(bind_interval(query.strip().rstrip(";"))[0], known)
    except Refused as refused:
        columns = {column: kind for schema in known.values() for column, kind in schema.items()}
        raise _refusal(thing, "query", query, refused, columns) from None
    types = {}
    for column in described:
        if column.kind is None:
            what = f"query column '{column.name}'"
            raise DefinitionError.wrong_type(thing, what, column.said.lower(), "a column type")
        types[column.name] = _kind(column, [kind for schema in known.values() for kind in schema.values()])
    return Schema(types), tuple(types)


def _kind(column: Column, read: Iterable[str]) -> str:
    """The type of a column: what SQL makes of decimals is one, and of numbers with a point, as 1.5, a float."""
    digits = re.fullmatch(r"DECIMAL\((\d+), ?(\d+)\)", column.said)
    if digits and any(map(digits_of, read)):
        return f"decimal({digits[1]}, {digits[2]})"
    return column.kind or ""


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
        hint = "write a column, or an expression over columns."
        raise DefinitionError.expected(thing, argument, sql, "an SQL expression", hint)
    try:
        tokens, parsed = _tokens(sql), parsed_expression(sql)
    except SqlglotError as error:
        raise DefinitionError.bad_sql(thing, argument, sql, f"does not parse: {_parser_said(error)}") from None
    words = [token.text.lower() for token in tokens if token.token_type.name not in _QUOTED]
    if "select" in words or parsed.find(exp.Query):
        hint = "read another source in a feature group of its own."
        raise DefinitionError.bad_sql(thing, argument, sql, "is a subquery; an expression sees one row", hint)
    _check_volatile(thing, argument, sql, columns, "use the columns of the event, its time among them.")
    _check_columns(thing, argument, parsed, columns)
    _check_literals(thing, argument, parsed, columns)


def _parser_said(error: object) -> str:
    """What the parser says, without the names of its own classes."""
    return re.sub(r" for <class '[^']*'>", "", first_line(error))


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
            if not DIALECT.takes(kind, literal.this):
                what = f"'{literal.this}', which {argument} compares with '{column.name}',"
                raise DefinitionError.wrong_type(thing, what, "string", kind)


def _check_volatile(thing: str, argument: str, sql: str, columns: Mapping[str, str], hint: str) -> None:
    tokens, words = _tokens(sql), DIALECT.words()
    known = {name.lower() for name in columns}
    for i, token in enumerate(tokens):
        name = token.text.lower()
        called = i + 1 < len(tokens) and tokens[i + 1].text == "("
        bare = name in words.bare and name not in known and token.token_type.name not in _QUOTED
        if bare or (called and name in words.volatile):
            reason = f"uses {name}, which does not depend on the row alone, so a replay would give another value"
            raise DefinitionError.bad_sql(thing, argument, sql, reason, hint)


def _parse_query(thing: str, query: str, tables: Mapping[str, Schema | None]) -> exp.Query:
    import sqlglot
    from sqlglot import exp

    try:
        statements = [statement for statement in sqlglot.parse(query, read=DIALECT.name) if statement is not None]
    except sqlglot.errors.SqlglotError as error:
        raise DefinitionError.bad_sql(thing, "query", query, f"does not parse: {_parser_said(error)}") from None
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
    from sqlglot import exp

    named = (exp.Attach, exp.Command, exp.Copy, exp.Describe, exp.Detach, exp.Pragma, exp.Set, exp.Show, exp.Summarize)
    other = next((node for node in parsed.find_all(*named, exp.DML, exp.DDL) if not isinstance(node, exp.Query)), None)
    refused = Refused("") if other is not None else None
    try:
        DIALECT.check(bind_interval(query)[0])
    except Refused as error:
        refused = error
    if refused is not None and str(refused):
        raise _refusal(thing, "query", query, refused, columns)
    if refused is not None:
        raise DefinitionError.bad_sql(thing, "query", query, "is not one SELECT", "write one SELECT over the sources.")


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
        if elsewhere or named not in (DIALECT.words().tables if called else known):
            raise DefinitionError.unknown_choice(thing, "a table of the query", table.sql(dialect=DIALECT.name), tables)


def _check_names(thing: str, names: Sequence[str]) -> None:
    """Refuse two columns of one name: DuckDB gives both, and which one is meant cannot be known."""
    seen: set[str] = set()
    for name in filter(None, names):  # one without a name is named after its text
        if name.lower() in seen:
            hint = f"name one of them otherwise: `{name} as {name}_2`."
            raise DefinitionError.same_name(thing, "columns of the query", name, hint)
        seen.add(name.lower())


_ONE_ROW: Mapping[str, tuple[str, str | None]] = MappingProxyType({
    "aggregate": ("aggregates rows; an expression sees one row", "use ms.Sum, ms.Count and so on."),
    "window": ("is a window function; an expression sees one row", "use an aggregation with over=."),
    "rows": ("makes several rows of one; an expression sees one row", None),
})  # fmt: skip


def _refusal(thing: str, argument: str, sql: str, refused: Refused, columns: Mapping[str, str]) -> DefinitionError:
    """The engine's reason as ours, naming the rule that was broken."""
    if refused.because == "column":
        return DefinitionError.unknown_column(thing, refused.column, columns, argument)
    if refused.because in _ONE_ROW:
        return DefinitionError.bad_sql(thing, argument, sql, *_ONE_ROW[refused.because])
    hint = None
    if refused.because == "syntax":
        keyword = next((token.text for token in _tokens(sql) if _needs_quotes(token, columns)), None)
        hint = keyword and f"'{keyword}' is a word of SQL's own; as a column, write \"{keyword}\" in double quotes."
    return DefinitionError.bad_sql(thing, argument, sql, f"is refused by DuckDB: {first_line(refused)}", hint)


def _needs_quotes(token: Any, columns: Mapping[str, str]) -> bool:
    quoted = token.token_type.name in ("IDENTIFIER", "STRING")
    return not quoted and token.text.lower() in DIALECT.words().reserved & {name.lower() for name in columns}


@lru_cache(maxsize=1024)
def _tokens(sql: str) -> tuple[Any, ...]:
    import sqlglot

    return tuple(sqlglot.tokenize(sql, read=DIALECT.name))
