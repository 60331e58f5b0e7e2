"""A batch engine that counts what it is asked: DuckDB behind it."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
from msgspec import Struct

from millstream.engines.duckdb.engine import DuckDB
from millstream.engines.engine import Asked, QuerySource

#: The queries that were asked.
asked_of_it: list[str] = []


class CountingEngine(DuckDB):
    """DuckDB, counted."""

    def run(self, query: str, sources: Sequence[QuerySource], asked: Asked) -> pa.Table:
        """Note the query, and run it."""
        asked_of_it.append(query)
        return super().run(query, sources, asked)


class Counting(Struct, frozen=True):
    """`[batch] kind = "counting"`."""

    def open(self, settings: object, clock: object) -> CountingEngine:
        """Return the engine."""
        return CountingEngine()
