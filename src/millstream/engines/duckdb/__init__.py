"""DuckDB: the embedded batch engine, in whose SQL definitions are written."""
