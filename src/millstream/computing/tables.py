"""Batch queries: SQL over tables and streams as they were known at the end of an interval, by DuckDB."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from millstream.clock import to_datetime
from millstream.definitions.expressions import bind_interval
from millstream.definitions.source import EventStream, Source, Table
from millstream.errors import MillstreamError
from millstream.forks import leave_alone

if TYPE_CHECKING:
    import pyarrow as pa

#: The column that carries when a row of a source could be known, where a query passes it on.
KNOWN = "_known"
#: The column that carries the instant by which a query takes rows into its interval.
DATED = "_dated"
#: Parquet files up to this many bytes are kept in memory between runs.
_IN_MEMORY = 32 << 20
_STORED = "$stored"  # stands for the rows in memory in the text of a view


class EventReader(Protocol):
    """What batch computing asks of the history of events."""

    def read(
        self,
        stream: str | EventStream,
        *,
        upto: Mapping[int, int] | None = None,
        since: Mapping[int, int] | None = None,
    ) -> pa.Table:
        """The events of a stream at positions from `since` to before `upto`, without repeats and dead letters."""
        ...


class Tables:
    """The sources of batch groups, opened for one query at a time.

    `folder` is what relative paths start from; `history` gives the events of streams.
    """

    def __init__(self, folder: Path, history: EventReader | None = None) -> None:
        self._folder, self._history = folder, history

    def query(self, query: str, sources: Sequence[Source], start: int, end: int, *, known: bool = False) -> pa.Table:
        """The rows of a query that sees its interval as `:start` and `:end` (µs), and no row not yet known at `end`.

        With `known`, tables also show the column `_known`: when (timestamp) each row could be known.

        Raises:
            MillstreamError: when a table cannot be read.
            duckdb.Error: when the query fails.
        """
        bound, _ = bind_interval(query.strip().rstrip(";"))
        used = [name for name in ("start", "end") if f"${name}" in bound]
        instants = {"start": to_datetime(start), "end": to_datetime(end)}
        with self._opened(sources, end, known) as engine:
            return engine.sql(bound, params={name: instants[name] for name in used}).to_arrow_table()

    def rows(self, source: Source, end: int) -> pa.Table:
        """All rows of a source that are known at `end` (µs).

        Raises:
            MillstreamError: when it cannot be read, or its time is no instant.
        """
        import duckdb

        try:
            return self.query(f'select * from "{source.name}"', [source], end, end)
        except duckdb.Error as error:
            raise _unreadable(source, error) from error

    @contextmanager
    def _opened(self, sources: Sequence[Source], end: int, known: bool) -> Iterator[Any]:
        """This thread's DuckDB connection, in which each source is a view under its own name."""
        import duckdb

        shown = _shown_here()
        shown.engine.execute(f"set variable until = make_timestamptz({end})")
        try:
            for source in sources:
                try:
                    self._view(shown, source, end, known)
                except (duckdb.Error, ValueError, OSError) as error:  # Arrow's errors are ValueErrors
                    raise _unreadable(source, error) from error
            yield shown.engine
        finally:
            for source in sources:
                shown.let_go(source.name)

    def _view(self, shown: _Shown, source: Source, end: int, known: bool) -> None:
        if isinstance(source, EventStream):
            shown.show(source.name, f"select * from {_STORED}", self._events(source, end))
            return
        more = f", {_known(source)} as {KNOWN}" if known and source.time else ""
        condition = f" where {_known(source)} <= getvariable('until')" if source.time or source.available else ""
        stored, table = _stored(shown.engine, source, self._folder)
        shown.show(source.name, f"select *{more} from {stored}{condition}", table, keep=table is not None)

    def _events(self, stream: EventStream, end: int) -> pa.Table:
        import pyarrow.compute as pc

        if self._history is None:
            raise MillstreamError(
                f"Stream '{stream.name}': a batch query reads it, but there is no history to read it from.",
                "give the batch computer the project's history.",
            )
        events = self._history.read(stream.name)
        return events.filter(pc.less_equal(events["_arrival"], end)).select([*stream.schema, "rest"])


def dated(source: Source) -> bool:
    """Whether a source shows other rows at other instants: streams do, and tables that say when rows are known."""
    return isinstance(source, EventStream) or bool(source.time or source.available)


def row_by_row(query: str, sources: Sequence[Source]) -> bool:
    """Whether each row of a query comes from one row of its only source: no join, aggregate, window, order or limit.

    >>> accounts = [Table("accounts", path="accounts.parquet")]
    >>> row_by_row("select id, upper(tier) as tier from accounts where id > 0", accounts)
    True
    >>> row_by_row("select id, count(*) as n from accounts group by id", accounts)
    False
    """
    if len(sources) != 1:
        return False
    import sqlglot
    from sqlglot import exp

    parsed = sqlglot.parse_one(query.strip().rstrip(";"), read="duckdb")
    if not isinstance(parsed, exp.Select) or len(list(parsed.find_all(exp.Table))) != 1:
        return False
    clauses = ("joins", "group", "having", "distinct", "windows", "qualify", "limit", "offset", "laterals", "sample")
    across = (exp.AggFunc, exp.Window, exp.Query, exp.Explode, exp.Unnest, exp.Anonymous, exp.TableSample)
    inner = [node for node in parsed.find_all(*across) if node is not parsed]
    return not inner and not any(parsed.args.get(clause) for clause in clauses)


def interval_column(query: str) -> tuple[str, bool] | None:
    """The column by which a row-by-row query takes the rows of its interval, and whether `:end` itself is among them.

    None when the query uses `:start` and `:end` in another way than `column >= :start and column < :end` or
    `column > :start and column <= :end`.

    >>> interval_column("select id from t where at >= :start and at < :end and id > 0")
    ('at', False)
    >>> interval_column("select id, :end as asked from t where at > :start") is None
    True
    """
    import sqlglot
    from sqlglot import exp

    where = sqlglot.parse_one(query.strip().rstrip(";"), read="duckdb").args.get("where")
    found: dict[str, exp.Expression] = {}
    for part in where.this.flatten() if where and isinstance(where.this, exp.And) else []:
        if isinstance(part, exp.GT | exp.GTE | exp.LT | exp.LTE) and isinstance(part.expression, exp.Placeholder):
            found[part.expression.name] = part
    uses = len(list(sqlglot.parse_one(query.strip().rstrip(";"), read="duckdb").find_all(exp.Placeholder)))
    first, last = found.get("start"), found.get("end")
    if first is None or last is None or uses != 2 or not isinstance(first.this, exp.Column) or first.this != last.this:
        return None
    if isinstance(first, exp.GTE) and isinstance(last, exp.LT):
        return first.this.name, False
    return (first.this.name, True) if isinstance(first, exp.GT) and isinstance(last, exp.LTE) else None


def with_known(query: str, by: str | None = None) -> str:
    """A row-by-row query that also passes on `_known` and, as `_dated`, the column `by`.

    >>> with_known("select id from accounts")
    'SELECT id, _known FROM accounts'
    >>> with_known("select id from t where seen >= :start and seen < :end", "seen")
    'SELECT id, _known, seen AS _dated FROM t WHERE seen >= $start AND seen < $end'
    """
    import sqlglot

    parsed: Any = sqlglot.parse_one(bind_interval(query.strip().rstrip(";"))[0], read="duckdb")
    parsed = parsed if parsed.is_star else parsed.select(KNOWN)
    return str((parsed.select(f"{by} as {DATED}") if by else parsed).sql(dialect="duckdb"))


def _known(table: Table) -> str:
    """SQL for the instant at which a row could be known."""
    if table.available:
        return f'"{table.available}"::timestamptz'
    delay = f" + to_microseconds({table.delay})" if table.delay else ""
    return f'("{table.time}"::timestamptz{delay})'


def _stored(engine: Any, table: Table, folder: Path) -> tuple[str, pa.Table | None]:
    """SQL that reads a table: Parquet files, a folder of them, a table of a DuckDB file, or the rows beside it."""
    where, _, inner = table.path.partition("#")
    path = folder / where
    if inner:
        if not path.exists():
            raise _missing(table, path)
        engine.execute(f"attach {_text(path)} as {_name('at_' + table.name)} (read_only)")
        parts = ".".join(_name(part) for part in inner.split("."))
        return f"{_name('at_' + table.name)}.{parts}", None
    if path.is_dir():
        path = path / "**" / "*.parquet"
    elif not path.exists() and not any(sign in where for sign in "*?["):
        raise _missing(table, path)
    elif path.is_file() and path.stat().st_size <= _IN_MEMORY:
        facts = path.stat()
        return _STORED, _file(path, facts.st_mtime_ns, facts.st_size)
    return f"read_parquet({_text(path)}, union_by_name = true)", None


class _Shown:
    """A DuckDB connection and the views that it keeps between queries, because making one costs more than most queries."""

    def __init__(self) -> None:
        import duckdb

        self.engine: Any = duckdb.connect(":memory:")
        self.engine.execute("set TimeZone = 'UTC'")
        self._kept: dict[str, tuple[str, pa.Table]] = {}

    def show(self, name: str, query: str, table: pa.Table | None, *, keep: bool = False) -> None:
        """Show a query, over a table in memory if one is given, as a view; `keep` for as long as both are the same."""
        query = query.replace(_STORED, _name(f"stored {name}"))
        kept = self._kept.get(name)
        if kept is not None and keep and kept[0] == query and kept[1] is table:
            return
        self._kept.pop(name, None)
        self._drop(name)
        if table is not None:
            self.engine.register(f"stored {name}", table)
        self.engine.execute(f"create temp view {_name(name)} as {query}")
        if keep and table is not None:
            self._kept[name] = query, table

    def let_go(self, name: str) -> None:
        """Let go of a view, and what it reads, unless it is kept."""
        if name not in self._kept:
            self._drop(name)
            self.engine.execute(f"detach database if exists {_name('at_' + name)}")

    def _drop(self, name: str) -> None:
        self.engine.execute(f"drop view if exists {_name(name)}")
        self.engine.unregister(f"stored {name}")


_threads = threading.local()


def _connect_anew() -> None:
    """In a child process: the parent's connection has threads that are not here, and would wait for them for ever."""
    global _threads
    leave_alone(_threads.__dict__.get("shown"))
    _threads = threading.local()


os.register_at_fork(after_in_child=_connect_anew)


def _shown_here() -> _Shown:
    """This thread's connection."""
    if not hasattr(_threads, "shown"):
        _threads.shown = _Shown()
    found: _Shown = _threads.shown
    return found


@lru_cache(maxsize=16)
def _file(path: Path, changed: int, size: int) -> pa.Table:
    """A small Parquet file in memory, read again when it has changed: a scheduled query asks for it at every run."""
    import pyarrow.parquet as pq

    return pq.read_table(path)


def _text(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _missing(table: Table, path: Path) -> MillstreamError:
    return MillstreamError(
        f"Table '{table.name}': there is no '{path}'.",
        "paths of tables start from the project's folder; write the file there.",
    )


def _unreadable(source: Source, error: Exception) -> MillstreamError:
    said = str(error).strip().splitlines()[0].rstrip(".")
    return MillstreamError(
        f"Table '{source.name}' cannot be read: {said}.",
        "its path names Parquet files or a table of a DuckDB file, and its columns are those it declares.",
    )
