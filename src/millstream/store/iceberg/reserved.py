"""Columns whose names Iceberg keeps for its own: a table may call them otherwise, so that Spark reads it whole.

They are renamed in a table that has had them under their names, be it by settings when it is made or by somebody later. So
a release that does not know of this refuses the table, rather than to add the columns once more.
"""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

if TYPE_CHECKING:
    from pyiceberg.table import Transaction

Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)

_APART = {"_partition": "_log_partition", "_deleted": "_is_deleted"}
_OURS = {kept: ours for ours, kept in _APART.items()}


def set_apart(change: Transaction) -> None:
    """Rename the columns of a table that is being made."""
    there = [one for one in _APART if one in change.table_metadata.schema().column_names]
    if there:
        with change.update_schema() as schema:
            for column in there:
                schema.rename_column(column, _APART[column])


def kept(column: str, columns: Container[str]) -> str:
    """What a column is called in a table that has some columns.

    >>> kept("_partition", ["_partition"]), kept("_partition", ["_log_partition"]), kept("_position", [])
    ('_partition', '_log_partition', '_position')
    """
    apart = _APART.get(column, column)
    return apart if apart in columns else column


def ours(column: str) -> str:
    """What a column of a table is called elsewhere.

    >>> ours("_log_partition"), ours("_partition")
    ('_partition', '_partition')
    """
    return _OURS.get(column, column)


def as_kept(rows: pa.Table, columns: Container[str]) -> pa.Table:
    """Rows with their columns as a table has them."""
    return rows.rename_columns([kept(one, columns) for one in rows.column_names])


def as_ours(rows: Rows) -> Rows:
    """Rows of a table with their columns as they were given."""
    return rows.rename_columns([ours(one) for one in rows.schema.names])
