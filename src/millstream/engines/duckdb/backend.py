"""DuckDB within the process as settings choose it."""

from __future__ import annotations

from msgspec import Struct

from millstream.engines.duckdb.engine import DuckDB


class Embedded(Struct, frozen=True):
    """`[batch] kind = "duckdb"`: in the process of each layer, with the memory and the cores of its machine."""

    def open(self, settings: object, clock: object) -> DuckDB:
        """Return the engine; it opens a connection with the first query of each thread."""
        return DuckDB()
