"""A connection to a SQLite file that is kept between two reads: opening one costs five times what a read does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

import sqlalchemy as sa

from millstream.forks import forks, leave_alone

Place = tuple[int, int, int, int]


class Idle:
    """One connection that nobody uses, to a file that is still the one it was opened for.

    A file that was replaced, or written by anything but SQLite, is opened anew: what a connection remembers of it is not
    what is there. What a parent process opened is left alone. Safe for threads; those that give back at the same instant
    may leave several, until the next one gives back.

    Args:
        file: the path of the SQLite file.
    """

    def __init__(self, file: str) -> None:
        self._file = file
        self._kept: list[tuple[sa.Connection, Place | None, int]] = []

    def take(self, engine: sa.Engine) -> sa.Connection:
        """The connection that is kept, if it still holds, or a new one.

        Args:
            engine: what opens a new one.

        Returns:
            sa.Connection: without a transaction; give it back, or close it.

        Raises:
            sa.exc.DBAPIError: when the file cannot be opened.
        """
        for connection, place, made in self._taken():
            if made == forks() and place is not None and place == self._place():
                return connection
            _let_go(connection, made)
        return engine.connect()

    def give_back(self, connection: sa.Connection) -> None:
        """End its transaction, and keep it in place of one that is kept already.

        Args:
            connection: one that was taken.
        """
        connection.rollback()
        self.close()
        self._kept.append((connection, self._place(), forks()))

    def close(self) -> None:
        """Close the connection that is kept."""
        for connection, _, made in self._taken():
            _let_go(connection, made)

    def _taken(self) -> Iterator[tuple[sa.Connection, Place | None, int]]:
        """What is kept, and then is not; without a lock, which a fork might leave taken."""
        with suppress(IndexError):
            while True:
                yield self._kept.pop()

    def _place(self) -> Place | None:
        """Which file there is, as it was last written; SQLite writes to it only when it takes in its log of writes."""
        try:
            found = os.stat(self._file)
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _let_go(connection: sa.Connection, made: int) -> None:
    if made == forks():
        connection.close()
    else:
        leave_alone(connection)
