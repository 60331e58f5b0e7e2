"""A query that fails on some rows: its sources are halved until each guilty row stands alone, so that the others go on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from millstream.buffer.codec.events import DeadLetter
from millstream.clock import to_datetime
from millstream.computing.table_rows import payload
from millstream.computing.tables import Tables
from millstream.definitions.source import Source
from millstream.engines.engine import Asked
from millstream.errors import MillstreamError, first_line
from millstream.fold.row_errors import halved

if TYPE_CHECKING:
    import pyarrow as pa


def run_query(
    tables: Tables, thing: str, query: str, sources: Sequence[Source], asked: Asked, now: int
) -> tuple[pa.Table, list[DeadLetter]]:
    """The result of a query, and a dead letter for each row of its sources on which it fails.

    A row is guilty when the query fails on it alone, beside all rows of the other sources.

    Args:
        tables: reads the sources and runs the query.
        thing: whose query it is, for messages and dead letters.
        query: the SQL, in which `:start` and `:end` are the ends of the interval.
        sources: what the query reads.
        asked: the interval, and which rows are seen.
        now: stamps the dead letters (µs).

    Raises:
        MillstreamError: when the query fails otherwise, or a table cannot be read.
    """
    try:
        return tables.query(query, sources, asked), []
    except MillstreamError:
        raise
    except Exception as error:
        if tables.engine.fault(error) == "machine":
            raise query_failed(thing, query, asked, error) from error
        failure = error
    instead: dict[str, pa.Table] = {}
    dead: list[DeadLetter] = []
    for source in sources:
        rows = tables.rows(source, asked)
        guilty = _guilty(tables, query, sources, asked, source, rows, instead)
        dead += [_letter(thing, source, rows, row, error, now) for row, error in guilty.items()]
        if guilty:
            instead[source.name] = _without(rows, guilty)
    if not dead:
        raise query_failed(thing, query, asked, failure) from failure
    try:
        return tables.query(query, sources, asked, instead), dead
    except MillstreamError:
        raise
    except Exception as error:
        raise query_failed(thing, query, asked, error) from error


def _guilty(
    tables: Tables,
    query: str,
    sources: Sequence[Source],
    asked: Asked,
    source: Source,
    rows: pa.Table,
    instead: dict[str, pa.Table],
) -> dict[int, Exception]:
    """The rows of a source on which a query fails; none where it fails without any of them, too."""

    def run(first: int, size: int) -> None:
        tables.query(query, sources, asked, {**instead, source.name: rows.slice(first, size)})

    try:
        run(0, 0)
    except Exception as error:
        if tables.engine.fault(error) == "machine":
            raise
        return {}
    try:
        run(0, rows.num_rows)
        return {}
    except Exception as error:
        if tables.engine.fault(error) == "machine":
            raise
    return halved(rows.num_rows, run, tables.engine.fault)[1]


def _without(rows: pa.Table, guilty: dict[int, Exception]) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    keep = np.ones(rows.num_rows, bool)
    keep[list(guilty)] = False
    return rows.filter(pa.array(keep))


def query_failed(thing: str, query: str, asked: Asked, error: Exception) -> MillstreamError:
    """One sentence about a query that failed.

    Args:
        thing: whose query it is.
        query: the SQL.
        asked: the interval that it was run for.
        error: what the engine raised.
    """
    begin, until = to_datetime(asked.start).isoformat(), to_datetime(asked.end).isoformat()
    return MillstreamError(
        f"{thing}: its query fails for the interval from {begin} to {until}: {first_line(error)}.",
        f"mend the tables or the query ({json.dumps(query)}); the interval is run again.",
    )


def _letter(thing: str, source: Source, rows: pa.Table, row: int, error: Exception, now: int) -> DeadLetter:
    said = f"{thing}: its query fails on this row: {first_line(error)}."
    return DeadLetter(source.name, 0, row, said, payload(rows, row), now)
