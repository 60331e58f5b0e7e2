"""The DuckDB connections on which the SQL of definitions runs: they reach no file, no network and no setting.

A query sees the tables that are registered on its connection. What it may read is checked when it is declared; here it
is made so that what a check has missed comes to nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

#: What tells of the engine, the machine or the session, not of a row.
SYSTEM_FUNCTIONS = frozenset({
    "alias", "col_description", "current_query", "current_setting", "format_pg_type", "get_block_size", "getenv",
    "getvariable", "in_search_path", "inet_client_addr", "inet_client_port", "inet_server_addr", "inet_server_port",
    "json_deserialize_sql", "json_serialize_plan", "json_serialize_sql", "obj_description", "pg_sleep",
    "shobj_description", "sleep_ms", "stats", "version", "write_log",
})  # fmt: skip
#: The functions that may stand where a table does: they make rows of their arguments alone.
TABLE_FUNCTIONS = frozenset({"generate_series", "json_each", "json_tree", "range", "repeat", "unnest"})


def connect(threads: int | None = None) -> Any:
    """A connection in memory, in UTC, on which nothing else can be reached once it is locked by `lock`."""
    import duckdb

    engine = duckdb.connect(":memory:", config={} if threads is None else {"threads": threads})
    engine.execute("set TimeZone = 'UTC'")
    return engine


def lock(engine: Any, paths: Iterable[str] = (), folders: Iterable[str] = ()) -> Any:
    """The same connection, which from now on reads the files and folders named here and what is registered on it."""
    for setting, values in (("allowed_paths", paths), ("allowed_directories", folders)):
        listed = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
        if listed:
            engine.execute(f"set {setting} = [{listed}]")
    for setting in (
        "python_enable_replacements = false",
        "autoload_known_extensions = false",
        "autoinstall_known_extensions = false",
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        engine.execute(f"set {setting}")
    return engine


def ends_connection(error: BaseException) -> bool:
    """Whether the connection on which an error came takes no more queries, so that another one has to be made."""
    import duckdb

    if isinstance(error, duckdb.FatalException | duckdb.InternalError | duckdb.ConnectionException):
        return True
    return "has been invalidated" in str(error)
