"""DuckDB's connections: they reach no file, no network and no setting, and none is used across a fork.

A query sees the tables that are registered on its connection. What it may read is checked when it is declared; here it
is made so that what a check has missed comes to nothing. This is the one module that imports DuckDB.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from millstream.engines.engine import Fault
from millstream.forks import leave_alone

Kept = TypeVar("Kept")


def connect(threads: int | None = None) -> Any:
    """A connection in memory, in UTC, on which nothing else can be reached once it is locked by `lock`."""
    import duckdb

    engine = duckdb.connect(":memory:", config={} if threads is None else {"threads": threads})
    engine.execute("set TimeZone = 'UTC'")
    return engine


def lock(engine: Any, paths: Iterable[str] = (), folders: Iterable[str] = ()) -> Any:
    """The same connection, which from now on reads what is named here and what is registered on it, and nothing else.

    Args:
        engine: a connection of DuckDB's.
        paths: the files that it may read.
        folders: the folders of which it may read every file.
    """
    for setting, values in (("allowed_paths", paths), ("allowed_directories", folders)):
        listed = ", ".join(text(value) for value in values)
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


class PerThread(Generic[Kept]):
    """Something of its own for each thread, made when it is first asked for.

    A child process makes its own: the parent's connection has threads that are not here, and would wait for them for
    ever.
    """

    def __init__(self, make: Callable[[], Kept]) -> None:
        self._make, self._threads = make, threading.local()
        os.register_at_fork(after_in_child=self._anew)

    def __call__(self) -> Kept:
        try:
            kept: Kept = self._threads.kept
        except AttributeError:
            kept = self._threads.kept = self._make()
        return kept

    def holds(self, one: Kept) -> bool:
        """Whether this is what the thread has now."""
        return self._threads.__dict__.get("kept") is one

    def forget(self) -> None:
        """Let go of this thread's; the next call makes another."""
        self._threads.__dict__.pop("kept", None)

    def _anew(self) -> None:
        leave_alone(self._threads.__dict__.get("kept"))
        self._threads = threading.local()


def ends_connection(error: BaseException) -> bool:
    """Whether the connection on which an error came takes no more queries, so that another one has to be made."""
    import duckdb

    if isinstance(error, duckdb.FatalException | duckdb.InternalError | duckdb.ConnectionException):
        return True
    return "has been invalidated" in str(error)


def is_engines(error: BaseException) -> bool:
    """Whether an error is one of DuckDB's own classes."""
    import duckdb

    return isinstance(error, duckdb.Error)


def fault(error: BaseException) -> Fault:
    """Whose fault it is that a query failed.

    DuckDB raises errors of every class for what it finds in a row, internal ones and those of other libraries among
    them; so all count but those of the machine: memory, disks, interruptions.
    """
    import duckdb
    import pyarrow as pa

    if isinstance(error, duckdb.OutOfMemoryException | MemoryError):
        return "memory"
    if isinstance(error, duckdb.OperationalError | duckdb.InterruptException | duckdb.PermissionException | OSError):
        return "machine"
    if isinstance(
        error, duckdb.BinderException | duckdb.CatalogException | duckdb.ParserException | duckdb.SyntaxException
    ):
        return "query"
    kinds = (duckdb.Error, pa.ArrowException, UnicodeError, ArithmeticError, ValueError, TypeError, RuntimeError)
    return "row" if isinstance(error, kinds) else "machine"


def is_one_select(engine: Any, sql: str) -> bool:
    """Whether a text is one SELECT and nothing else; raises DuckDB's error where it does not parse."""
    import duckdb

    return [statement.type for statement in engine.extract_statements(sql)] == [duckdb.StatementType.SELECT]


def name(given: str) -> str:
    """A name as DuckDB reads it, whatever characters it has."""
    return '"' + given.replace('"', '""') + '"'


def text(given: object) -> str:
    """A text as DuckDB reads it."""
    return "'" + str(given).replace("'", "''") + "'"
