"""A registry in another database: all its rows, in one transaction, and what tells that they are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import sqlalchemy as sa

from millstream.registry import tables
from millstream.registry.database import Database

_AT_ONCE = 500
"""Rows that are inserted at once."""


def rows_in(url: str) -> dict[str, int]:
    """By table of the registry at a URL, how many rows it has; none where nothing was made yet.

    Raises:
        StoreError: when the database cannot be reached.
    """
    database = Database(url)
    try:
        with database.reading() as connection:
            if connection is None:
                return {}
            counted = {one.name: sa.select(sa.func.count()).select_from(one) for one in tables.every()}
            return {name: connection.execute(query).scalar_one() for name, query in counted.items()}
    finally:
        database.close()


def copy_rows(source: str, target: str) -> dict[str, int]:
    """Let the registry at one URL hold what the one at another holds, and nothing else.

    Args:
        source: the URL of the registry that is copied, which is only read.
        target: the URL of the copy; its tables are made if they are not there.

    Returns:
        By table, how many rows were copied.

    Raises:
        StoreError: when a database cannot be reached; then the copy is as it was.
    """
    giving, taking = Database(source), Database(target)
    copied: dict[str, int] = {}
    try:
        with giving.reading() as rows, taking.writing(counted=False) as copy:
            for table in tables.every():
                found = [] if rows is None else [dict(row._mapping) for row in rows.execute(sa.select(table))]
                copy.execute(sa.delete(table))
                for begin in range(0, len(found), _AT_ONCE):
                    copy.execute(sa.insert(table), found[begin : begin + _AT_ONCE])
                copied[table.name] = len(found)
                _number_on(copy, table)
    finally:
        giving.close()
        taking.close()
    return copied


def begin_anew(url: str) -> None:
    """Let a registry that was copied be that of a project of its own: nothing of it is computed, begun or unfinished yet.

    Definitions, the numbers of group versions, model versions and what they pin stay.

    Args:
        url: the URL of the copy.

    Raises:
        StoreError: when the database cannot be reached.
    """
    database = Database(url)
    try:
        with database.writing() as connection:
            for table in (tables.marks, tables.operations, tables.builds):
                connection.execute(sa.delete(table))
            connection.execute(sa.delete(tables.facts).where(tables.facts.c.name == "identity"))
        database.identify()
    finally:
        database.close()


def sum_of(url: str, *, beside: str = "") -> str:
    """A checksum of all rows of a registry, whatever their order.

    Args:
        url: the URL of the registry.
        beside: the kind of operations that do not count.

    Raises:
        StoreError: when the database cannot be reached.
    """
    database, found = Database(url), list[str]()
    try:
        with database.reading() as connection:
            for table in tables.every() if connection is not None else ():
                assert connection is not None
                rows = (dict(row._mapping) for row in connection.execute(sa.select(table)))
                found += [f"{table.name} {_said(row)}" for row in rows if not (beside and row.get("kind") == beside)]
    finally:
        database.close()
    return hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()


def _said(row: Mapping[str, object]) -> str:
    """What a row says, the same from every database."""
    return repr(sorted((str(name), value) for name, value in row.items()))


def _number_on(connection: sa.Connection, table: sa.Table) -> None:
    """Let a server number the next row after those that were inserted with their numbers."""
    column = table.autoincrement_column
    if connection.dialect.name != "postgresql" or column is None or not isinstance(column.type, sa.Integer):
        return
    sequence = connection.execute(sa.select(sa.func.pg_get_serial_sequence(table.name, column.name))).scalar()
    if sequence is not None:
        newest = sa.select(sa.func.coalesce(sa.func.max(column), 0) + 1).scalar_subquery()
        connection.execute(sa.select(sa.func.setval(sequence, newest, False)))
