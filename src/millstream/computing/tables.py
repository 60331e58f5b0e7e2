"""Batch queries: SQL over tables and streams as they were known at the end of an interval, by DuckDB."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from millstream.buffer.codec.events import DeadLetter
from millstream.clock import to_datetime
from millstream.computing.table_rows import IN_MEMORY, Rows, converted, in_file, missing, typed
from millstream.definitions.expressions import bind_interval
from millstream.definitions.sandbox import connect, ends_connection, lock
from millstream.definitions.source import EventStream, Source, Table
from millstream.errors import MillstreamError
from millstream.fold.row_errors import first_line
from millstream.forks import leave_alone

if TYPE_CHECKING:
    import pyarrow as pa

#: The column that carries when a row of a source could be known, where a query passes it on.
KNOWN = "_known"
STORED = "$stored"  # stands for the rows in memory in the text of a view
_SIGNS = "*?["
_ALWAYS, _NEVER = 253_402_300_799_000_000, -62_135_596_800_000_000  # the years 9999 and 1


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


@dataclass(frozen=True)
class Asked:
    """What a query is asked over: its interval, and which rows it sees.

    Args:
        start: `:start` (µs).
        end: `:end` (µs).
        until: rows that could be known by then (µs) are seen; `end` if it is not given.
        since: only rows that could be known after this instant (µs) are seen.
        known: whether sources also show the column `_known`: when (timestamp) each row could be known.
    """

    start: int
    end: int
    until: int | None = None
    since: int | None = None
    known: bool = False


class Tables:
    """The sources of batch groups, opened for one query at a time.

    `folder` is what relative paths start from; `history` gives the events of streams.
    """

    def __init__(self, folder: Path, history: EventReader | None = None) -> None:
        self._folder, self._history = folder, history

    def query(
        self, query: str, sources: Sequence[Source], asked: Asked, instead: Mapping[str, pa.Table] | None = None
    ) -> pa.Table:
        """The rows of a query; `instead` are rows to take for all of a source, by its name.

        Raises:
            MillstreamError: when a table cannot be read.
            Exception: when the query fails: what the engine raises.
        """
        bound, _ = bind_interval(query.strip().rstrip(";"))
        used = [name for name in ("start", "end") if f"${name}" in bound]
        instants = {"start": to_datetime(asked.start), "end": to_datetime(asked.end)}
        params = {name: instants[name] for name in used}

        def run() -> pa.Table:
            with self._opened(sources, asked, instead or {}) as engine:
                return engine.sql(bound, params=params).to_arrow_table()

        try:
            return run()
        except Exception as error:
            if not ends_connection(error):
                raise
        return run()  # on another connection

    def rows(self, source: Source, asked: Asked) -> pa.Table:
        """The rows of a source that are seen.

        Raises:
            MillstreamError: when it cannot be read, or its time is no instant.
        """
        try:
            return self.query(f"select * from {_name(source.name)}", [source], asked)
        except MillstreamError:
            raise
        except Exception as error:
            raise _unreadable(source, error) from error

    def misfits(self, source: Source, now: int) -> list[DeadLetter]:
        """A dead letter (stamped `now`, µs) for each row of a table that is not what the table declares."""
        if isinstance(source, EventStream):
            return []
        with self._opened([source], Asked(0, 0, until=_ALWAYS), {}, misfits=True) as found:
            return [letter for rows in found for letter in rows.letters(source.name, now)]

    def first_known(self, source: Table) -> int | None:
        """When the first of a table's rows could be known (µs); None for no rows, or for a table that does not say."""
        if not (source.time or source.available):
            return None
        asked = Asked(0, 0, until=_ALWAYS, known=True)
        query = f"select epoch_us(min({KNOWN})) from {_name(source.name)}"
        first: int | None = self.query(query, [source], asked).column(0)[0].as_py()
        return first

    @contextmanager
    def _opened(
        self, sources: Sequence[Source], asked: Asked, instead: Mapping[str, pa.Table], *, misfits: bool = False
    ) -> Iterator[Any]:
        """A connection in which each source is a view under its own name; or the rows of each that are none of it."""
        stored = [source for source in sources if source.name not in instead and self._stays(source)]
        shown = _Shown(locked=False) if stored else _shown_here()
        found = []
        try:
            shown.see(_NEVER if asked.since is None else asked.since, asked.end if asked.until is None else asked.until)
            for source in sources:
                try:
                    found.append(self._view(shown, source, asked, instead, misfits=misfits))
                except MillstreamError:
                    raise
                except Exception as error:
                    raise _unreadable(source, error) from error
            if stored:
                lock(shown.engine, *_reached([self._path(source) for source in stored]))
            yield found if misfits else shown.engine
        except Exception as error:
            if ends_connection(error):
                _threads.__dict__.pop("shown", None)
            raise
        finally:
            if stored:
                shown.engine.close()
            elif _threads.__dict__.get("shown") is shown:
                for source in sources:
                    shown.let_go(source.name)

    def _view(
        self, shown: _Shown, source: Source, asked: Asked, instead: Mapping[str, pa.Table], *, misfits: bool
    ) -> Rows | None:
        """Show what is seen of a source; with `misfits`, also return its rows that do not fit."""
        if source.name in instead:
            shown.show(source.name, f"select * from {STORED}", instead[source.name])
            return None
        if isinstance(source, EventStream):
            shown.show(source.name, f"select * from {STORED}", self._events(source, asked))
            return None
        conditions = []
        more = f", {_known(source)} as {KNOWN}" if asked.known and (source.time or source.available) else ""
        if source.time or source.available:
            conditions.append(f"{_known(source)} <= getvariable('until')")
        if (source.time or source.available) and asked.since is not None:
            conditions.append(f"{_known(source)} > getvariable('since')")
        where = f" where {' and '.join(conditions)}" if conditions else ""
        path = self._path(source)
        if not self._stays(source):
            rows = in_file(source, path)
            shown.show(source.name, f"select *{more} from {STORED}{where}", rows.table, keep=asked.since is None)
            return rows
        place = stored_place(shown.engine, source, path)
        described = shown.engine.sql(f"describe select * from {place}").fetchall()
        sql = converted(source, {name: kind for name, kind, *_ in described})
        if sql is None:
            rows = typed(source, shown.engine.sql(f"select * from {place}").to_arrow_table())
            shown.show(source.name, f"select *{more} from {STORED}{where}", rows.table)
            return rows
        columns, fits = sql
        shown.show(source.name, f"select *{more} from (select {columns} from {place} where {fits}){where}", None)
        if not misfits:
            return None
        return typed(source, shown.engine.sql(f"select * from {place} where not ({fits})").to_arrow_table())

    def _stays(self, source: Source) -> bool:
        """Whether a source is read where it is stored, because it is not a small file of Parquet."""
        if isinstance(source, EventStream):
            return False
        path = self._path(source)
        return "#" in source.path or not (path.is_file() and path.stat().st_size <= IN_MEMORY)

    def _path(self, source: Source) -> Path:
        return self._folder / source.path.partition("#")[0]  # type: ignore[union-attr]

    def _events(self, stream: EventStream, asked: Asked) -> pa.Table:
        import pyarrow as pa
        import pyarrow.compute as pc

        if self._history is None:
            raise MillstreamError(
                f"Stream '{stream.name}': a batch query reads it, but there is no history to read it from.",
                "give the batch computer the project's history.",
            )
        events = self._history.read(stream.name)
        seen = pc.less_equal(events["_arrival"], asked.end if asked.until is None else asked.until)
        if asked.since is not None:
            seen = pc.and_(seen, pc.greater(events["_arrival"], asked.since))
        events = events.filter(seen)
        shown = events.select([*stream.schema, "rest"])
        if not asked.known:
            return shown
        return shown.append_column(KNOWN, events["_arrival"].cast(pa.timestamp("us", "UTC")))


def _known(table: Table) -> str:
    """SQL for the instant at which a row could be known."""
    if table.available:
        return f'"{table.available}"::timestamptz'
    delay = f" + to_microseconds({table.delay})" if table.delay else ""
    return f'("{table.time}"::timestamptz{delay})'


def stored_place(engine: Any, table: Table, path: Path) -> str:
    """SQL that reads a table where it is stored: Parquet files, a folder of them, or a table of a DuckDB file."""
    inner = table.path.partition("#")[2]
    if inner:
        if not path.exists():
            raise missing(table, path)
        engine.execute(f"attach {_text(path)} as {_name('at_' + table.name)} (read_only)")
        parts = ".".join(_name(part) for part in inner.split("."))
        return f"{_name('at_' + table.name)}.{parts}"
    if path.is_dir():
        path = path / "**" / "*.parquet"
    elif not path.exists() and not any(sign in str(path) for sign in _SIGNS):
        raise missing(table, path)
    return f"read_parquet({_text(path)}, union_by_name = true)"


def _reached(paths: Sequence[Path]) -> tuple[list[str], list[str]]:
    """The files, and the folders, in which the files of tables lie."""
    files = [str(path) for path in paths if path.is_file()]
    folders = []
    for path in paths:
        if path.is_dir():
            folders.append(str(path))
        elif not path.is_file():
            folders.append(str(next(up for up in path.parents if not any(sign in str(up) for sign in _SIGNS))))
    return files, folders


class _Shown:
    """A DuckDB connection and the views that it keeps between queries, because making one costs more than most queries."""

    def __init__(self, *, locked: bool = True) -> None:
        self.engine: Any = lock(connect()) if locked else connect()
        self._kept: dict[str, tuple[str, pa.Table]] = {}

    def show(self, name: str, query: str, table: pa.Table | None, *, keep: bool = False) -> None:
        """Show a query, over a table in memory if one is given, as a view; `keep` for as long as both are the same."""
        query = query.replace(STORED, _name(f"stored {name}"))
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

    def see(self, since: int, until: int) -> None:
        """Show the rows that could be known in `(since, until]` (µs)."""
        for name, instant in (("since", since), ("until", until)):
            self.engine.execute(f"set variable {name} = make_timestamptz({instant})")

    def let_go(self, name: str) -> None:
        """Let go of a view, and what it reads, unless it is kept."""
        if name not in self._kept:
            self._drop(name)

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


def _text(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _unreadable(source: Source, error: Exception) -> MillstreamError:
    said = first_line(error)
    return MillstreamError(
        f"Table '{source.name}' cannot be read: {said}.",
        "its path names Parquet files or a table of a DuckDB file, and its columns are those it declares.",
    )
