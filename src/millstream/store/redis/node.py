"""A server: the connections to it that are idle, and whether it is worth asking."""

from __future__ import annotations

import threading
import time
from collections import deque

from hiredis import ReplyError

from millstream.store.redis.access import Access, Address
from millstream.store.redis.connection import Connection, Unreachable
from millstream.store.redis.errors import refusal, refuse_unfit

IDLE = 64
"""Connections that are kept when nobody uses them."""
FAILURES = 3
"""How often in a row a server may fail before it is left alone."""
REST = 1.0
"""Seconds for which it is left alone then; after that one caller finds out whether it is back, and others fail at once."""


class Node:
    """A server; safe for any number of threads.

    A server that has failed again and again is not asked for a while: who asks is told so at once, instead of waiting, so
    that what hangs does not make everything wait that would go on without it.

    Args:
        address: the server.
        access: what lets us in.
        copy: whether it is read from as a replica.
    """

    def __init__(self, address: Address, access: Access, copy: bool = False) -> None:
        self.address, self._access, self.copy = address, access, copy
        self._idle: deque[Connection] = deque(maxlen=IDLE)
        self._guard = threading.Lock()
        self._failures, self._until = 0, 0.0

    @property
    def where(self) -> str:
        """The server as messages name it."""
        host, port = self.address
        return f"redis://{host}:{port}" if port else f"unix://{host}"

    def take(self, end: float) -> Connection:
        """Return a connection that nobody else uses, to be given back or closed.

        Raises:
            Unreachable: when there is none until `end`, or the server is left alone for now.
            MillstreamError: when the server does not let us in, or is not fit to be a store.
        """
        self._refuse_failing()
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            if connection.usable:
                return connection
            connection.close()
        return self._opened(end)

    def _opened(self, end: float) -> Connection:
        try:
            connection = Connection(self.address, self._access, end)
            if self.copy:
                connection.exchange([(b"READONLY",)], end)
        except ReplyError as error:
            raise refusal(self.where, error) from error
        except Unreachable:
            self.failed()
            raise
        try:
            refuse_unfit(self.where, connection.facts)
        except BaseException:
            connection.close()
            raise
        return connection

    def give(self, connection: Connection) -> None:
        """Take a connection back, of which every reply was read."""
        self._failures = 0
        if len(self._idle) < IDLE:
            self._idle.append(connection)
        else:
            connection.close()

    def failed(self) -> None:
        """Note that the server has failed: what is idle has most likely failed with it."""
        with self._guard:
            self._failures += 1
            self._until = time.monotonic() + REST
        self.close()

    def close(self) -> None:
        """Hang up what is idle."""
        while self._idle:
            try:
                self._idle.pop().close()
            except IndexError:
                return

    def _refuse_failing(self) -> None:
        """Raise `Unreachable` while the server is left alone; whoever comes first after that asks it."""
        if self._failures < FAILURES:
            return
        with self._guard:
            if self._failures < FAILURES:
                return
            now = time.monotonic()
            if now < self._until:
                raise Unreachable(
                    f"it has failed {self._failures} times in a row, and is asked again within {REST:g} s"
                )
            self._until = now + REST
