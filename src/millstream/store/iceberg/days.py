"""The days of a table: rows that came, or were valued, on one day lie in files of their own.

A day is that of an instant which moves with the clock, so one commit is of one day, two at most. The dates within events
and within the rows of a query are what somebody says, so many at once that each would be a file: their files say from when to
when they reach instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from pyiceberg.table import Transaction
    from pyiceberg.table.metadata import TableMetadata

DAY = "_day"
"""The column that says the day of an instant in microseconds, for which Iceberg has no day of its own."""
_INSTANTS = {"events": "_appended", "refused": "_appended", "captures": "_received_at", "features": "at"}


def instant_of(table: str, rows: pa.Schema) -> str | None:
    """The column by whose day a new table is divided, from its first rows; None for a table that is not.

    >>> instant_of("events.payments", pa.schema([("amount", pa.float64()), ("_appended", pa.int64())]))
    '_appended'
    """
    column = _INSTANTS.get(table.partition(".")[0])
    return column if column in rows.names and DAY not in rows.names else None


def with_day(table: str, rows: pa.Table) -> pa.Table:
    """Rows with their day, where the instant that decides it is a number.

    >>> with_day("events.payments", pa.table({"_appended": [-1, 86_400_000_001]})).column("_day").to_pylist()
    [datetime.date(1969, 12, 31), datetime.date(1970, 1, 2)]
    """
    column = instant_of(table, rows.schema)
    if column is None or not pa.types.is_integer(rows.schema.field(column).type):
        return rows
    return rows.append_column(DAY, rows[column].cast(pa.timestamp("us")).cast(pa.date32()))


def divide(change: Transaction, table: str, rows: pa.Schema) -> None:
    """Divide a table that is being made by the day of its first rows, if they have one.

    Args:
        change: the transaction that makes the table.
        table: its name, "kind.name"; the kind says which instant decides.
        rows: the schema of its first rows.
    """
    from pyiceberg.transforms import DayTransform

    column = instant_of(table, rows)
    if column is None:
        return
    with change.update_spec() as spec:
        if pa.types.is_integer(rows.field(column).type):
            spec.add_identity(DAY)
        else:
            spec.add_field(column, DayTransform(), f"{column}_day")


def divided_by(found: TableMetadata) -> list[str]:
    """The columns by which a table is divided today, whoever has said so."""
    columns = [found.schema().find_column_name(field.source_id) for field in found.spec().fields]
    return [column for column in columns if column is not None]


def divided_by_day(table: str, found: TableMetadata) -> bool:
    """Whether a table is divided as one of its kind is when it is made now."""
    return divided_by(found) in ([DAY], [_INSTANTS.get(table.partition(".")[0])])


def shown(found: TableMetadata, rows: pa.Schema) -> list[str]:
    """The columns of rows that were given to be kept: all but the day that was added to them."""
    added = divided_by(found) == [DAY]
    return [name for name in rows.names if name != DAY or not added]
