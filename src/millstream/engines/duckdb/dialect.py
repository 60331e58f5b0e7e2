"""DuckDB's SQL, as definitions are written in it: what a text of it gives, and why it is refused."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from millstream.engines.duckdb.connection import connect, ends_connection, is_engines, is_one_select, lock, name, text
from millstream.engines.engine import Column, Refused, Words
from millstream.forks import leave_alone

TYPES = {
    "int64": "BIGINT",
    "float64": "DOUBLE",
    "string": "VARCHAR",
    "bool": "BOOLEAN",
    "timestamp": "TIMESTAMP WITH TIME ZONE",
    "date": "DATE",
    "uuid": "UUID",
    "bytes": "BLOB",
}
_WHOLE = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"}
_WHOLE |= {f"U{kind}" for kind in _WHOLE}
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BARE = frozenset({
    "current_catalog", "current_date", "current_role", "current_schema", "current_time", "current_timestamp",
    "current_user", "localtime", "localtimestamp", "session_user", "user",
})  # fmt: skip
#: What tells of the engine, the machine or the session, not of a row.
_SYSTEM = frozenset({
    "alias", "col_description", "current_query", "current_setting", "format_pg_type", "get_block_size", "getenv",
    "getvariable", "in_search_path", "inet_client_addr", "inet_client_port", "inet_server_addr", "inet_server_port",
    "json_deserialize_sql", "json_serialize_plan", "json_serialize_sql", "obj_description", "pg_sleep",
    "shobj_description", "sleep_ms", "stats", "version", "write_log",
})  # fmt: skip
#: Functions that DuckDB does not list as volatile: the age of one instant is its distance from today.
_ALSO_VOLATILE = frozenset({"age"}) | _SYSTEM
_TABLES = frozenset({"generate_series", "json_each", "json_tree", "range", "repeat", "unnest"})
_UNKNOWN = re.compile(r'(?:Referenced column|does not have a column named) "([^"]+)"')
_REASONS = {
    "cannot contain aggregates": "aggregate",
    "window function": "window",
    "UNNEST": "rows",
    "syntax error": "syntax",
}
_lock = threading.Lock()
_connections: list[Any] = []


def _connect_anew() -> None:
    """In a child process: another thread of its parent may have held the lock, and it is not there to let go."""
    global _lock
    _lock = threading.Lock()
    leave_alone(list(_connections))
    _connections.clear()


os.register_at_fork(after_in_child=_connect_anew)


class DuckDBDialect:
    """DuckDB's SQL; one connection of the process answers, on which there are no rows."""

    name = "duckdb"

    def words(self) -> Words:
        """The functions that DuckDB lists as volatile, the macros that call them, and its keywords."""
        return _words()

    def check(self, query: str) -> None:
        """Refuse what is not one SELECT; `Refused` has DuckDB's reason, or no word."""
        with _lock:
            try:
                passed = is_one_select(_connection(), query)
            except Exception as error:
                if not is_engines(error):
                    raise
                raise _refused(str(error)) from None
        if not passed:
            raise Refused("")

    def describe(self, query: str, tables: Mapping[str, Mapping[str, str]]) -> list[Column]:
        """The columns of a query over empty tables; `Refused` has DuckDB's reason."""
        for instant in ("$start", "$end"):
            query = query.replace(instant, "timestamptz '2000-01-01 00:00:00+00'")
        sources = ", ".join(f"{name(table)} as ({_empty(columns)})" for table, columns in tables.items())
        rows = _run(f"describe with {sources} select * from ({query}) as q")
        if isinstance(rows, str):
            raise _refused(rows)
        return [Column(column, kind_of(sql_type), sql_type) for column, sql_type, *_ in rows]

    def takes(self, kind: str, given: str) -> bool:
        """Whether a text can be cast to a type."""
        return _run(f"select try_cast({text(given)} as {sql_type_of(kind)})") != [(None,)]


DIALECT = DuckDBDialect()
"""The SQL that definitions are written in."""


def sql_type_of(kind: str) -> str:
    """DuckDB's type for one of ours.

    >>> sql_type_of("int64"), sql_type_of("decimal(10, 2)"), sql_type_of("list<float32>")
    ('BIGINT', 'DECIMAL(10,2)', 'FLOAT[]')
    """
    if kind.startswith("list<"):
        return "FLOAT[]" if kind == "list<float32>" else f"{sql_type_of(kind[5:-1])}[]"
    return TYPES.get(kind) or kind.upper().replace(" ", "")


def kind_of(sql_type: str) -> str | None:
    """The type ("int64" ...) that DuckDB's stands for; None for what is none of ours.

    >>> kind_of("INTEGER"), kind_of("DATE"), kind_of("BIGINT[]")
    ('int64', 'date', None)
    """
    for kind, known in TYPES.items():
        if sql_type == known:
            return kind
    if sql_type in _WHOLE:
        return "int64"
    if sql_type == "FLOAT" or sql_type.startswith("DECIMAL"):
        return "float64"
    return "timestamp" if sql_type.startswith("TIMESTAMP") else None


def _refused(said: str) -> Refused:
    """DuckDB's error, and the rule that it tells of."""
    unknown = _UNKNOWN.search(said)
    if unknown:
        return Refused(said, "column", unknown[1])
    return Refused(said, next((because for words, because in _REASONS.items() if words in said), ""))


def _empty(columns: Mapping[str, str]) -> str:
    return (
        "select " + ", ".join(f"null::{sql_type_of(kind)} as {name(one)}" for one, kind in columns.items()) + " limit 0"
    )


def _connection() -> Any:
    """This process's connection for checks: no files, one thread, UTC. Never used across a fork."""
    if not _connections:
        _connections.append(lock(connect(threads=1)))
    return _connections[0]


@lru_cache(maxsize=4096)
def _run(sql: str) -> list[tuple[Any, ...]] | str:
    """The rows of a statement, or DuckDB's reason against it."""
    with _lock:
        try:
            rows: list[tuple[Any, ...]] = _connection().execute(sql).fetchall()
            return rows
        except Exception as error:
            if not is_engines(error):
                raise
            if ends_connection(error):
                _connections.clear()
            return str(error)


@lru_cache(maxsize=1)
def _words() -> Words:
    with _lock:
        engine = _connection()
        functions = engine.execute(
            "select lower(function_name), stability, lower(macro_definition) from duckdb_functions()"
        ).fetchall()
        reserved = engine.execute(
            "select keyword_name from duckdb_keywords() where keyword_category in ('reserved', 'type_function')"
        ).fetchall()
    volatile = set(_BARE)
    volatile |= {one for one, stability, _ in functions if stability in ("VOLATILE", "CONSISTENT_WITHIN_QUERY")}
    volatile |= {one for one, _, macro in functions if macro and volatile & set(_WORD.findall(macro))}
    return Words(
        frozenset(volatile - {"user"}) | _ALSO_VOLATILE, _BARE, _TABLES, frozenset(word for (word,) in reserved)
    )
