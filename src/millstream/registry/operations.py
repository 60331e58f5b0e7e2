"""What commands have begun and not finished, in the registry, so that whoever looks next finishes or undoes it."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from millstream.registry import tables
from millstream.registry.database import Database

_columns = tables.operations.c
_ALL = sa.select(tables.operations).order_by(_columns.kind, _columns.subject)


@dataclass(frozen=True)
class Operation:
    """A command that changes more than one thing, from its intent to its last step.

    Attributes:
        kind: the command, "apply" or "backfill".
        subject: what it is about, such as a group version.
        step: what remains to be done, in words.
    """

    kind: str
    subject: str
    step: str

    def __str__(self) -> str:
        return f"{self.kind} {self.subject}: {self.step}"


class Operations:
    """The unfinished operations of a project; one of each kind and subject at a time.

    Args:
        database: the registry's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, kind: str, subject: str, step: str) -> None:
        """Note an intent, or the next step of one that is noted.

        Args:
            kind: what the command is called, such as "backfill".
            subject: what it changes, such as "habits@2".
            step: what it does now, for who finds it unfinished.
        """
        with self._database.writing(counted=False) as connection:
            note(connection, kind, subject, step)

    def end(self, kind: str, subject: str) -> None:
        """Note that all of it is done, or undone; nothing happens where nothing is noted."""
        if any((one.kind, one.subject) == (kind, subject) for one in self.unfinished()):
            with self._database.writing(counted=False) as connection:
                connection.execute(tables.operations.delete().where(_one(kind, subject)))

    def unfinished(self, kind: str | None = None) -> list[Operation]:
        """The operations that are not over: under way, or left by a process that died."""
        rows = self._database.rows(_ALL)
        return [Operation(row.kind, row.subject, row.step) for row in rows if kind in (None, row.kind)]


def note(connection: sa.Connection, kind: str, subject: str, step: str) -> None:
    """Write an intent, or its next step, within somebody's transaction.

    Args:
        connection: the transaction.
        kind: what the command is called.
        subject: what it changes.
        step: what it does now; it takes the place of the step before.
    """
    connection.execute(tables.operations.delete().where(_one(kind, subject)))
    connection.execute(tables.operations.insert().values(kind=kind, subject=subject, step=step))


def _one(kind: str, subject: str) -> sa.ColumnElement[bool]:
    return sa.and_(_columns.kind == kind, _columns.subject == subject)
