"""The sources of a query as views on a connection of DuckDB, each under its own name, with the rows that are seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millstream.engines.duckdb.connection import connect, lock, name, text
from millstream.engines.duckdb.dialect import TYPES, sql_type_of
from millstream.engines.engine import FIRST, KNOWN, LAST, Asked, Known, QuerySource, Stored, missing

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = "$rows"  # stands for the rows in memory in the text of a view
_SIGNS = "*?["
_WHOLE = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"}


class Views:
    """A DuckDB connection and the views that it keeps between queries, because making one costs more than most queries.

    It is locked unless sources are still to be read from where they are stored.
    """

    def __init__(self, *, locked: bool = True) -> None:
        self.connection: Any = lock(connect()) if locked else connect()
        self._kept: dict[str, tuple[str, pa.Table]] = {}
        self._seen: dict[str, int] = {}

    def see(self, asked: Asked) -> None:
        """Show from now on the rows that could be known when a query asks."""
        since = FIRST if asked.since is None else asked.since
        until = asked.end if asked.until is None else asked.until
        for variable, instant in (("since", since), ("until", until)):
            if self._seen.get(variable) != instant:
                self.connection.execute(f"set variable {variable} = make_timestamptz({instant})")
                self._seen[variable] = instant

    def show(self, source: QuerySource, asked: Asked) -> None:
        """Show a source under its name, with the rows that could be known when a query asks."""
        selected = f"*{_shown_known(source.known, asked)}"
        where = _seen(source.known, asked)
        if source.rows is not None:
            keep = source.again and asked.since is None
            self._view(source.name, f"select {selected} from {ROWS}{where}", source.rows, keep=keep)
            return
        stored = _stored(source)
        place = self.place(source)
        converted = _converted(stored.columns, self.columns(place))
        if converted is None:
            rows = stored.convert(self.rows(place))
            self._view(source.name, f"select {selected} from {ROWS}{where}", rows)
        else:
            columns, fits = converted
            self._view(source.name, f"select {selected} from (select {columns} from {place} where {fits}){where}", None)

    def place(self, source: QuerySource) -> str:
        """SQL for where a source is stored: Parquet files, a folder of them, or a table of a DuckDB file.

        Raises:
            MillstreamError: when there is no such file.
        """
        stored = _stored(source)
        path = stored.path
        if stored.inner:
            if not path.exists():
                raise missing(source.name, path)
            database = name(f"at_{source.name}")
            self.connection.execute(f"attach {text(path)} as {database} (read_only)")
            return ".".join([database, *(name(part) for part in stored.inner.split("."))])
        if path.is_dir():
            path = path / "**" / "*.parquet"
        elif not path.exists() and not any(sign in str(path) for sign in _SIGNS):
            raise missing(source.name, path)
        return f"read_parquet({text(path)}, union_by_name = true)"

    def columns(self, place: str) -> dict[str, str]:
        """The columns that are stored at a place, and DuckDB's types of them."""
        described = self.connection.sql(f"describe select * from {place}").fetchall()
        return {column: sql_type for column, sql_type, *_ in described}

    def rows(self, place: str, where: str = "true") -> pa.Table:
        """The rows that are stored at a place, as they are."""
        rows: pa.Table = self.connection.sql(f"select * from {place} where {where}").to_arrow_table()
        return rows

    def let_go(self, source: str) -> None:
        """Let go of a view, and what it reads, unless it is kept."""
        if source not in self._kept:
            self._drop(source)

    def _view(self, source: str, query: str, rows: pa.Table | None, *, keep: bool = False) -> None:
        """Make a view of a query, over rows in memory if they are given; `keep` it as long as both are the same."""
        query = query.replace(ROWS, name(f"rows of {source}"))
        kept = self._kept.get(source)
        if kept is not None and keep and kept[0] == query and kept[1] is rows:
            return
        self._kept.pop(source, None)
        self._drop(source)
        if rows is not None:
            self.connection.register(f"rows of {source}", rows)
        self.connection.execute(f"create temp view {name(source)} as {query}")
        if keep and rows is not None:
            self._kept[source] = query, rows

    def _drop(self, source: str) -> None:
        self.connection.execute(f"drop view if exists {name(source)}")
        self.connection.unregister(f"rows of {source}")


def misfits(views: Views, source: QuerySource) -> pa.Table | None:
    """Rows of a stored source, as they are stored, among which are all that do not fit its types."""
    place = views.place(source)
    converted = _converted(_stored(source).columns, views.columns(place))
    return views.rows(place) if converted is None else views.rows(place, f"not ({converted[1]})")


def reached(sources: Sequence[QuerySource]) -> tuple[list[str], list[str]]:
    """The files, and the folders, in which sources are stored."""
    files, folders = [], []
    for path in (source.stored.path for source in sources if source.stored is not None):
        if path.is_file():
            files.append(str(path))
        else:
            folders.append(str(path if path.is_dir() else _folder_of(path)))
    return files, folders


def _folder_of(pattern: Path) -> Path:
    """The innermost folder in which lie all files that a pattern names."""
    return next(up for up in pattern.parents if not any(sign in str(up) for sign in _SIGNS))


def _stored(source: QuerySource) -> Stored:
    if source.stored is None:
        raise ValueError(f"source '{source.name}' has neither rows nor a place")
    return source.stored


def _instant(known: Known) -> str:
    """SQL for the instant at which a row could be known."""
    value = f"{name(known.column)}::timestamptz"
    return f"({value} + to_microseconds({known.delay}))" if known.delay else value


def _shown_known(known: Known | None, asked: Asked) -> str:
    return "" if known is None or not asked.known else f", {_instant(known)} as {KNOWN}"


def _seen(known: Known | None, asked: Asked) -> str:
    """The condition that a row could be known by then, and could not be known before."""
    if known is None:
        return ""
    since = "" if asked.since is None else f" and {_instant(known)} > getvariable('since')"
    return f" where {_instant(known)} <= getvariable('until'){since}"


def _converted(declared: Mapping[str, str], stored: Mapping[str, str]) -> tuple[str, str] | None:
    """SQL for stored columns as they are declared, found by their names without case, and for whether a row fits.

    None where a type is one that only Arrow's conversion takes: such a table is read into memory.
    """
    wanted = {column.lower(): (column, kind) for column, kind in declared.items()}
    columns, fits = [], ["true"]
    for column, sql_type in stored.items():
        quoted = name(column)
        if column.lower() not in wanted:
            columns.append(quoted)
            continue
        called, kind = wanted[column.lower()]
        conversion = _conversion(kind, sql_type.upper(), quoted)
        if conversion is None:
            return None
        value, fit = conversion
        columns.append(f"{value} as {name(called)}")
        fits += [fit] if fit else []
    return ", ".join(columns), " and ".join(f"coalesce({one}, true)" for one in fits)


def _conversion(kind: str, sql_type: str, quoted: str) -> tuple[str, str] | None:
    """SQL for a value of a type as one of another, and for whether it can be one ("": always)."""
    if kind == "int64" and sql_type in _WHOLE:
        return f"{quoted}::bigint", ""
    if kind == "float64" and (sql_type in _WHOLE or sql_type in ("FLOAT", "DOUBLE")):
        value = f"{quoted}::double"
        return f"case when isfinite({value}) then {value} end", ""
    if kind == "date" and sql_type == "DATE":
        return quoted, f"{quoted} between date '0001-01-01' and date '9999-12-31'"
    if (kind in ("string", "bool", "uuid", "bytes") or kind.startswith("decimal")) and sql_type == sql_type_of(kind):
        return quoted, ""
    if kind == "timestamp" and sql_type in ("TIMESTAMP", TYPES["timestamp"]):
        value = f"{quoted}::timestamptz"
        return value, f"{value} between make_timestamptz({FIRST}) and make_timestamptz({LAST})"
    return None
