"""A query that fails on some rows: halved until each guilty row stands alone, so that the others go on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from millstream.buffer.events import DeadLetter
from millstream.clock import to_datetime
from millstream.computing.tables import Tables, row_by_row
from millstream.definitions.expressions import bind_interval
from millstream.definitions.source import Source
from millstream.errors import MillstreamError
from millstream.fold.row_errors import is_row_error

if TYPE_CHECKING:
    import pyarrow as pa


def run_query(
    tables: Tables, thing: str, query: str, sources: Sequence[Source], start: int, end: int, now: int
) -> tuple[pa.Table, list[DeadLetter]]:
    """The result of a query over an interval, and the rows on which it fails, if it looks at them one by one.

    `thing` names whose query it is; see `query_apart` for the rest.

    Raises:
        MillstreamError: when the query fails otherwise, or a table cannot be read.
    """
    import duckdb

    try:
        return tables.query(query, sources, start, end), []
    except duckdb.Error as error:
        if not is_row_error(error) or not row_by_row(query, sources):
            raise query_failed(thing, query, start, end, error) from error
    rows = tables.rows(sources[0], end)
    try:
        return query_apart(thing, query, sources[0], rows, start, end, now)
    except duckdb.Error as error:
        raise query_failed(thing, query, start, end, error) from error


def query_failed(thing: str, query: str, start: int, end: int, error: Exception) -> MillstreamError:
    """One sentence about a query that failed; a Millstream error about its tables says enough already."""
    if isinstance(error, MillstreamError):
        return error
    begin, until = to_datetime(start).isoformat(), to_datetime(end).isoformat()
    said = str(error).strip().splitlines()[0].rstrip(".")
    return MillstreamError(
        f"{thing}: its query fails for the interval from {begin} to {until}: {said}.",
        f"mend the tables or the query ({json.dumps(query)}); the interval is run again.",
    )


def query_apart(
    thing: str, query: str, source: Source, rows: pa.Table, start: int, end: int, now: int
) -> tuple[pa.Table, list[DeadLetter]]:
    """The result of a row-by-row query over the rows it can be evaluated on, and a dead letter for each other one.

    `start` and `end` (µs) are the query's interval; `now` (µs) stamps the dead letters, whose position is the row's.
    """
    import duckdb
    import pyarrow as pa

    bound, used = bind_interval(query.strip().rstrip(";"))
    instants = {"start": to_datetime(start), "end": to_datetime(end)}
    params = {name: instants[name] for name in used}
    dead: list[DeadLetter] = []
    with duckdb.connect(":memory:", config={"threads": 1}) as engine:
        engine.execute("set TimeZone = 'UTC'")

        def run(first: int, size: int) -> list[pa.Table]:
            engine.register(source.name, rows.slice(first, size))
            try:
                return [engine.sql(bound, params=params).to_arrow_table()]
            except duckdb.Error as error:
                if not is_row_error(error):
                    raise
                if size == 1:
                    dead.append(_letter(thing, source, rows, first, error, now))
                    return []
            half = size // 2
            return run(first, half) + run(first + half, size - half)

        parts = run(0, 0) + (run(0, rows.num_rows) if rows.num_rows else [])
    return pa.concat_tables(parts), dead


def _letter(thing: str, source: Source, rows: pa.Table, row: int, error: Exception, now: int) -> DeadLetter:
    said = str(error).strip().splitlines()[0].rstrip(".")
    values: Any = rows.slice(row, 1).to_pylist()[0]
    payload = msgspec.json.encode(values, enc_hook=str).decode()
    return DeadLetter(source.name, 0, row, f"{thing}: its query fails on this row: {said}.", payload, now)
