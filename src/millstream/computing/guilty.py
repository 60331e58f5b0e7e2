"""A query that fails on some rows: halved until each guilty row stands alone, so that the others go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from millstream.buffer.events import DeadLetter
from millstream.clock import to_datetime
from millstream.definitions.expressions import bind_interval
from millstream.definitions.source import Source

if TYPE_CHECKING:
    import pyarrow as pa


def query_apart(
    gv: str, query: str, source: Source, rows: pa.Table, start: int, end: int, now: int
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
            except duckdb.DataError as error:
                if size == 1:
                    dead.append(_letter(gv, source, rows, first, error, now))
                    return []
            half = size // 2
            return run(first, half) + run(first + half, size - half)

        parts = run(0, 0) + (run(0, rows.num_rows) if rows.num_rows else [])
    return pa.concat_tables(parts), dead


def _letter(gv: str, source: Source, rows: pa.Table, row: int, error: Exception, now: int) -> DeadLetter:
    said = str(error).strip().splitlines()[0].rstrip(".")
    values: Any = rows.slice(row, 1).to_pylist()[0]
    payload = msgspec.json.encode(values, enc_hook=str).decode()
    return DeadLetter(source.name, 0, row, f"{gv}: its query fails on this row: {said}.", payload, now)
