"""One connection to a server: statements out, rows in, all of it before one moment.

Made on libpq as psycopg brings it, without waiting in it: a server that hangs keeps nobody longer than said. What goes wrong
between a statement and its rows, a deadline or an interrupt included, ends the connection.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Sequence
from typing import Any

from psycopg import OperationalError
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus, Format, PGconn, PollingStatus, TransactionStatus, abc

from millstream.store.connections import LATE, Unreachable, left
from millstream.store.postgresql.access import Access
from millstream.store.postgresql.errors import AWAY, Refused
from millstream.store.postgresql.statements import COPY, COPY_END, COPY_HEAD, GIVEN, SETTINGS, Statement

Rows = list[tuple[bytes | None, ...]]
_BOTH = select.POLLIN | select.POLLOUT


class Connection:
    """A connection, open and let in.

    Args:
        access: where the server is, and what lets us in.
        end: the moment, by `time.monotonic`, until which that may take.
        seconds: how long a statement may take, by the server's own clock.

    Raises:
        Unreachable: when no server can be reached, or none lets us in.
    """

    __slots__ = ("_known", "_poll", "_server")

    def __init__(self, access: Access, end: float, seconds: float) -> None:
        self._known: set[bytes] = set()
        self._server = _first_of(access, end)
        self._poll = select.poll()
        self._poll.register(self._server.socket, select.POLLIN)
        try:
            self._server.nonblocking = 1
            self.command(SETTINGS.replace("{0}", str(round(seconds * 1_000))).encode(), end)
        except BaseException:
            self.close()
            raise

    @property
    def version(self) -> int:
        """The server's version, such as 150004."""
        return self._server.server_version

    def command(self, text: bytes, end: float) -> None:
        """Carry out SQL that gives nothing. Raises `Refused`, `Unreachable`."""
        self._results(end, self._server.send_query, text)

    def ask(self, statement: Statement, schema: str, given: Sequence[bytes], end: float) -> Rows:
        """Return the rows of a statement, each a value or None by column, as PostgreSQL has it in binary.

        Args:
            statement: the statement; it is prepared the first time.
            schema: the schema that our tables are in.
            given: its parameters, in binary.
            end: the moment, by `time.monotonic`, until which that may take.

        Raises:
            Refused: when the server says no.
            Unreachable: when it cannot be reached, or has not answered in time.
        """
        if statement.name not in self._known:
            self._results(end, self._server.send_prepare, statement.name, statement.of(schema))
            self._known.add(statement.name)
        binary = [Format.BINARY] * len(given)
        (result,) = self._results(end, self._server.send_query_prepared, statement.name, given, binary, Format.BINARY)
        rows, columns = range(result.ntuples), range(result.nfields)
        return [tuple(result.get_value(row, column) for column in columns) for row in rows]

    def copy(self, pieces: Sequence[bytes], end: float) -> None:
        """Copy keys and records, which `LOAD` then writes. Raises `Refused`, `Unreachable`."""
        self.command(GIVEN, end)
        self._results(end, self._server.send_query, COPY)
        self._results(end, self._put, [COPY_HEAD, *pieces, COPY_END], end)

    def _put(self, pieces: Sequence[bytes], end: float) -> None:
        for piece in pieces:
            while not self._server.put_copy_data(piece):
                self._flush(end)
        while not self._server.put_copy_end():
            self._flush(end)

    def _results(self, end: float, send: Callable[..., None], *given: Any) -> list[abc.PGresult]:
        """Send something, and return what the server answers; before `COPY`, that it is to come."""
        results = list[abc.PGresult]()
        try:
            send(*given)
            self._flush(end)
            while True:
                while self._server.is_busy():
                    self._wait(select.POLLIN, end)
                    self._server.consume_input()
                result = self._server.get_result()
                if result is None:
                    break
                results.append(result)
                if result.status == ExecStatus.COPY_IN:
                    break
        except OperationalError as error:
            raise Unreachable(brief(str(error))) from error
        for result in results:
            if result.status == ExecStatus.FATAL_ERROR:
                raise self._failure(result)
        return results

    def _failure(self, result: abc.PGresult) -> Exception:
        code = (result.error_field(DiagnosticField.SQLSTATE) or b"").decode()
        said = (result.error_field(DiagnosticField.MESSAGE_PRIMARY) or b"").decode(errors="replace")
        if self._server.status == ConnStatus.BAD or not code or code.startswith(AWAY):
            return Unreachable(brief(said or result.get_error_message()))
        return Refused(code, said)

    def _flush(self, end: float) -> None:
        """Send what is to be sent, taking in meanwhile what the server says."""
        while self._server.flush():
            if self._wait(_BOTH, end) & select.POLLIN:
                self._server.consume_input()

    def _wait(self, what: int, end: float) -> int:
        """Wait until the server can be read from or written to."""
        if what != select.POLLIN:
            self._poll.modify(self._server.socket, what)
        try:
            ready = self._poll.poll(left(end) * 1_000)
        finally:
            if what != select.POLLIN:
                self._poll.modify(self._server.socket, select.POLLIN)
        if not ready:
            raise Unreachable(LATE)
        return ready[0][1]

    @property
    def usable(self) -> bool:
        """Whether all that was asked has been answered, and the server has neither hung up nor said more than that."""
        idle = self._server.transaction_status == TransactionStatus.IDLE
        return idle and not self._poll.poll(0)

    def close(self) -> None:
        """Hang up."""
        self._server.finish()


def _first_of(access: Access, end: float) -> abc.PGconn:
    """A connection to the first of some servers that takes one, each of which has its share of the time."""
    candidates = list(access.candidates(end))
    failure = Unreachable(LATE)
    for number, candidate in enumerate(candidates):
        now = time.monotonic()
        try:
            return _connected(candidate, now + (end - now) / (len(candidates) - number))
        except Unreachable as error:
            failure = error
    raise failure


def _connected(candidate: bytes, end: float) -> abc.PGconn:
    server: abc.PGconn = PGconn.connect_start(candidate)
    waits = {PollingStatus.READING: select.POLLIN, PollingStatus.WRITING: select.POLLOUT}
    try:
        if server.status == ConnStatus.BAD:
            raise Unreachable(brief(server.get_error_message()))
        what = select.POLLOUT
        while True:
            poll = select.poll()  # of a socket that may be another one each time
            poll.register(server.socket, what)
            if not poll.poll(left(end) * 1_000):
                raise Unreachable(LATE)
            status = server.connect_poll()
            if status == PollingStatus.OK:
                return server
            if status not in waits:
                raise Unreachable(brief(server.get_error_message()))
            what = waits[PollingStatus(status)]
    except BaseException:
        server.finish()
        raise


def brief(said: str) -> str:
    """Return the part of what libpq says that says why.

    >>> brief('connection to server at "127.0.0.1", port 1 failed: Connection refused')
    'Connection refused'
    """
    line = next(iter(said.strip().splitlines()), "") or "no reason given"
    return line.rpartition(" failed: ")[2].removeprefix("FATAL: ").strip().rstrip(".")
