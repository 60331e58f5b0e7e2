"""A connection to a SQLite file that is kept between two uses: opening one costs five times what a read does.

With it is kept what was found on it, which holds for as long as nobody has written: asking SQLite whether anybody has costs
a hundredth of a read.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import sqlalchemy as sa

from millstream.forks import forks, leave_alone

Found = TypeVar("Found")
Place = tuple[int, int, int, int]
_REMEMBERED = 1024
"""Most answers that are kept with a connection; all are let go of when there are more."""


@dataclass
class Kept:
    """A connection, and what was found on it.

    Attributes:
        connection: without a transaction, while nobody uses it.
        place: which file it was opened for.
        made: in which process of a row of forks it was opened.
        found: what was found on it since anybody has written, by what was asked.
        at: SQLite's number of the state that it was found in.
    """

    connection: sa.Connection
    place: Place | None
    made: int = field(default_factory=forks)
    found: dict[Hashable, Any] = field(default_factory=dict)
    at: int | None = None

    def remembered(self, asked: Hashable, ask: Callable[[sa.Connection], Found], *, single: bool) -> Found:
        """What is found in one state of the file; what was found before, where nobody has written since.

        Args:
            asked: what is asked, the same for the same question.
            ask: asks it.
            single: whether that is one query, which sees one state without a transaction.

        Returns:
            Found: what was found; to be changed by nobody, for it is the same the next time.
        """
        at = self._state()
        if at is None or at != self.at or len(self.found) > _REMEMBERED:
            self.found.clear()
        # Known before it is asked: who writes in between makes what is found then be asked for once more.
        self.at = at
        if asked not in self.found:
            if not single:
                self.begin()
            self.found[asked] = ask(self.connection)
        found: Found = self.found[asked]
        return found

    def begin(self) -> None:
        """Begin a transaction, of which all reads see one state: the driver begins with the first write only."""
        self.connection.exec_driver_sql("begin")

    def _state(self) -> int | None:
        """A number that is another one when another connection has written since; None where the file cannot be read."""
        driver: Any = self.connection.connection.driver_connection
        try:
            return int(driver.execute("pragma data_version").fetchone()[0])
        except sqlite3.Error:
            return None  # what is wrong is said by who asks next


class Idle:
    """One connection that nobody uses, to a file that is still the one it was opened for.

    A file that was replaced, or written by anything but this connection, is opened anew: what a connection remembers of it
    need not be what is there. What a parent process opened is left alone. Safe for threads; those that give back at the
    same instant may leave several, until the next one gives back.

    Args:
        file: the path of the SQLite file.
    """

    def __init__(self, file: str) -> None:
        self._file = file
        self._kept: list[Kept] = []

    def take(self, engine: sa.Engine) -> Kept:
        """The connection that is kept, if it still holds, or a new one.

        Args:
            engine: what opens a new one.

        Returns:
            Kept: without a transaction; give it back, or close its connection.

        Raises:
            sa.exc.DBAPIError: when the file cannot be opened.
        """
        place = self._place()
        for kept in self._taken():
            if kept.made == forks() and place is not None and place == kept.place:
                return kept
            _let_go(kept)
        return Kept(engine.connect(), place)

    def give_back(self, kept: Kept, *, written: bool = False) -> None:
        """End its transaction, and keep it in place of one that is kept already.

        Args:
            kept: one that was taken.
            written: whether it was written on: what was found on it before holds no longer, and the file is another.
        """
        kept.connection.rollback()
        self.close()
        if written:
            kept.found.clear()
            kept.place = self._place()
        self._kept.append(kept)

    def close(self) -> None:
        """Close the connection that is kept."""
        for kept in self._taken():
            _let_go(kept)

    def _taken(self) -> Iterator[Kept]:
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


def _let_go(kept: Kept) -> None:
    if kept.made == forks():
        kept.connection.close()
    else:
        leave_alone(kept.connection)
