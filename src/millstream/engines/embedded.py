"""The engine within the process, named here alone beside the settings.

Definitions are checked in its SQL, and it transforms micro-batches, whatever engine runs the queries of batch groups.
"""

from __future__ import annotations

from millstream.engines.duckdb.engine import DuckDB
from millstream.engines.engine import BatchEngine, Dialect

EMBEDDED: BatchEngine = DuckDB()
"""The engine that is there without any setting."""

DIALECT: Dialect = EMBEDDED.dialect
"""The SQL that definitions are written in."""

LIBRARY = "duckdb"
"""The module that the engine loads when it is first asked, for what loads it ahead."""
