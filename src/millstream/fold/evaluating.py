"""SQL expressions over the rows of a micro-batch, those that fail on some rows too."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import pyarrow as pa

from millstream.engines.embedded import DIALECT, EMBEDDED
from millstream.errors import MillstreamError, first_line
from millstream.fold.row_errors import halved

#: Whatever engine runs queries, micro-batches are transformed by the one that expressions were checked by.
_engine = EMBEDDED


def evaluate(table: pa.Table, wanted: Iterable[str]) -> tuple[dict[str, pa.ChunkedArray], dict[str, dict[int, str]]]:
    """Return each expression over the rows, and by expression the rows on which it fails, with the reason.

    A column alone is itself. Raises `MillstreamError` where no row is to blame, as when memory runs out.
    """
    columns = {sql: table[sql.strip('"')] for sql in wanted if sql.strip('"') in table.column_names}
    computed = [sql for sql in wanted if sql not in columns]
    failed: dict[str, dict[int, str]] = {}
    if not computed:
        return columns, failed
    try:
        columns.update(zip(computed, _query(table, computed).columns, strict=True))
    except Exception as error:  # of any type; each expression is then tried alone to find the guilty one
        if _engine.fault(error) == "machine":
            raise _not_evaluated(computed[0], error) from error
        for sql in computed:
            columns[sql], failed[sql] = _split(table, sql)
    return columns, failed


def _not_evaluated(sql: str, error: Exception) -> MillstreamError:
    return MillstreamError(
        f"Expression `{sql}` cannot be evaluated: {first_line(error)}.",
        "see to memory, disk and versions; no row is to blame, and nothing was lost.",
    )


def _query(table: pa.Table, expressions: list[str]) -> pa.Table:
    """The values of expressions."""
    return _engine.evaluate(expressions, _read_by(table, tuple(expressions)))


@lru_cache(maxsize=1_024)
def _names(expressions: tuple[str, ...]) -> frozenset[str]:
    """The lower-cased names of the columns that the expressions read."""
    import sqlglot
    from sqlglot import exp

    parsed = [sqlglot.parse_one(sql, read=DIALECT.name) for sql in expressions]
    return frozenset(column.name.lower() for tree in parsed for column in tree.find_all(exp.Column))


def _read_by(table: pa.Table, expressions: tuple[str, ...]) -> pa.Table:
    """The columns that the expressions read; binding the others would cost more than a small batch is worth."""
    wanted = _names(expressions)
    names = [name for name in table.column_names if name.lower() in wanted]
    return table.select(names or table.column_names[:1])


def _split(table: pa.Table, sql: str) -> tuple[pa.ChunkedArray, dict[int, str]]:
    """One expression over rows some of which fail, null for those, and the reason of each."""
    try:
        kind = _query(table.slice(0, 0), [sql]).schema.field(0).type
        found, guilty = halved(table.num_rows, lambda first, size: _query(table.slice(first, size), [sql]).column(0))
    except Exception as error:
        if _engine.fault(error) in ("query", "machine"):
            raise _not_evaluated(sql, error) from error
        kind, found, guilty = pa.null(), [], dict.fromkeys(range(table.num_rows), error)  # it needs no row to fail
    pieces = {first: column.chunks for first, _, column in found} | {row: [pa.nulls(1, kind)] for row in guilty}
    failed = {row: f"`{sql}` fails on this row: {first_line(error)}" for row, error in guilty.items()}
    return pa.chunked_array([chunk for first in sorted(pieces) for chunk in pieces[first]], kind), failed
