"""Which failures of a query are the fault of a row."""

from __future__ import annotations


def is_row_error(error: Exception) -> bool:
    """Whether DuckDB failed because of a value in some row, rather than of the query, the machine or itself.

    DuckDB counts what it refuses in a value (`1 // 0`, a text that `strptime` cannot read) among the errors of
    programming, beside those of a query that cannot run at all; a row that asks for more memory than there is stands
    beside disks that cannot be read.
    """
    import duckdb

    kinds = (
        duckdb.DataError,
        duckdb.IntegrityError,
        duckdb.InvalidInputException,
        duckdb.NotSupportedError,
        duckdb.OutOfMemoryException,
    )
    return isinstance(error, kinds)
