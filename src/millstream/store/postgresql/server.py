"""A server, the connections to it, and asking it: once, or again where its tables were missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from millstream.errors import Forked
from millstream.forks import forks
from millstream.store.connections import Connections, Unreachable
from millstream.store.postgresql.access import Access
from millstream.store.postgresql.connection import Connection, Rows
from millstream.store.postgresql.errors import MISSING, OLDEST, Refused, refusal, too_old, unreachable
from millstream.store.postgresql.statements import LOAD, TABLES, Statement, placed

Found = TypeVar("Found")


class Server(Connections[Connection]):
    """A server; safe for any number of threads.

    Args:
        access: where it is, and what lets us in.
        schema: the schema with the store's tables; of one project alone.
        seconds: how long a statement may take, by the server's own clock.
    """

    def __init__(self, access: Access, schema: str, seconds: float) -> None:
        super().__init__()
        self._access, self.schema, self._seconds = access, schema, seconds
        self._forks = forks()

    @property
    def where(self) -> str:
        """The server as messages name it."""
        return self._access.shown

    def opened(self, end: float) -> Connection:
        """Return a new connection, let in."""
        try:
            connection = Connection(self._access, end, self._seconds)
        except Refused as error:
            raise refusal(self.where, error) from error
        version = connection.version
        if version < OLDEST * 10_000:
            connection.close()
            raise too_old(self.where, version)
        return connection

    def ask(self, statement: Statement, given: Sequence[bytes], end: float) -> Rows:
        """Return the rows of a statement; none where the tables are not made yet.

        Args:
            statement: the statement.
            given: its parameters, in binary.
            end: the moment, by `time.monotonic`, until which that may take.

        Raises:
            MillstreamError: when the server cannot be reached, refuses, or has not answered until `end`.
        """
        try:
            return self._carried_out(lambda connection: connection.ask(statement, self.schema, given, end), end)
        except Refused as error:
            if error.code in MISSING:
                return []
            raise refusal(self.where, error) from error

    def change(self, statement: Statement, given: Sequence[bytes], end: float) -> Rows:
        """Return the rows of a statement, before which the tables are made where they are missing.

        Args:
            statement: the statement, which writes.
            given: its parameters, in binary.
            end: the moment, by `time.monotonic`, until which that may take.

        Raises:
            MillstreamError: when the server cannot be reached, refuses, or has not answered until `end`.
        """
        return self._made(lambda connection: connection.ask(statement, self.schema, given, end), end)

    def load(self, pieces: Sequence[bytes], given: Sequence[bytes], end: float) -> Rows:
        """Copy keys and records, and return the rows of the statement that writes what was copied.

        Args:
            pieces: what is copied, in the binary form of `COPY`, in messages of a moderate size.
            given: the parameters of `LOAD`, in binary.
            end: the moment, by `time.monotonic`, until which that may take.

        Raises:
            MillstreamError: when the server cannot be reached, refuses, or has not answered until `end`.
        """

        def load(connection: Connection) -> Rows:
            connection.copy(pieces, end)
            return connection.ask(LOAD, self.schema, given, end)

        return self._made(load, end)

    def _made(self, what: Callable[[Connection], Found], end: float) -> Found:
        try:
            try:
                return self._carried_out(what, end)
            except Refused as error:
                if error.code not in MISSING:
                    raise
            self._carried_out(lambda connection: connection.command(placed(TABLES, self.schema), end), end)
            return self._carried_out(what, end)
        except Refused as error:
            raise refusal(self.where, error) from error

    def _carried_out(self, what: Callable[[Connection], Found], end: float) -> Found:
        """What is done on a connection; one that is not read to its end is never used again."""
        if self._forks != forks():
            raise Forked.opened_before(self.where)
        try:
            connection = self.take(end)
        except Unreachable as error:
            raise unreachable(self.where, str(error)) from error
        try:
            found = what(connection)
        except Refused:
            self.give(connection)
            raise
        except Unreachable as error:
            connection.close()
            self.failed()
            raise unreachable(self.where, str(error)) from error
        except BaseException:
            connection.close()
            raise
        self.give(connection)
        return found
