"""Connections to a server that is elsewhere: those that are idle, and whether it is worth asking for another one."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from typing import Generic, Protocol, TypeVar

IDLE = 64
"""Connections that are kept when nobody uses them."""
FAILURES = 3
"""How often in a row a server may fail before it is left alone."""
REST = 1.0
"""Seconds for which it is left alone then; after that one caller finds out whether it is back, and others fail at once."""
LATE = "it has not answered in time"


class Unreachable(Exception):
    """A server cannot be reached, has hung up, or has not answered in time; says why."""


class Connected(Protocol):
    """A connection."""

    @property
    def usable(self) -> bool:
        """Whether all that was asked has been answered, and the server has neither hung up nor said more than that."""
        ...

    def close(self) -> None:
        """Hang up."""
        ...


Made = TypeVar("Made", bound=Connected)


class Connections(ABC, Generic[Made]):
    """The connections to one server; safe for any number of threads.

    A server that has failed again and again is not asked for a while: who asks is told so at once, instead of waiting, so
    that what hangs does not make everything wait that would go on without it.
    """

    def __init__(self) -> None:
        self._idle: deque[Made] = deque(maxlen=IDLE)
        self._guard = threading.Lock()
        self._failures, self._until = 0, 0.0

    @abstractmethod
    def opened(self, end: float) -> Made:
        """Return a new connection, let in, until a moment by `time.monotonic`.

        Raises:
            Unreachable: when there is none until then.
            MillstreamError: when the server does not let us in, or is not fit to be a store.
        """

    def take(self, end: float) -> Made:
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
        try:
            return self.opened(end)
        except Unreachable:
            self.failed()
            raise

    def give(self, connection: Made) -> None:
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


def left(end: float) -> float:
    """Return the seconds until a moment. Raises `Unreachable` when there are none."""
    seconds = end - time.monotonic()
    if seconds <= 0:
        raise Unreachable(LATE)
    return seconds


def resolved(host: str, end: float) -> list[str]:
    """Return the addresses of a host, by a thread that may be given up: looking them up knows no deadline.

    Raises:
        Unreachable: when they are not found in time.
        OSError: when there are none.

    >>> resolved("127.0.0.1", time.monotonic() + 9)
    ['127.0.0.1']
    """
    found: list[list[str] | OSError] = []

    def look_up() -> None:
        try:
            told = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            found.append(list(dict.fromkeys(str(one[4][0]) for one in told)))
        except (OSError, UnicodeError) as error:
            found.append(error if isinstance(error, OSError) else OSError(str(error)))

    looking = threading.Thread(target=look_up, name="host-name", daemon=True)
    looking.start()
    looking.join(left(end))
    if not found:
        raise Unreachable(f"the address of '{host}' is not found in time")
    if isinstance(found[0], OSError):
        raise found[0]
    return found[0]


def said(error: OSError) -> str:
    """Return what an error of a socket says."""
    if isinstance(error, ssl.SSLEOFError):
        return "it has closed the encrypted connection; it may want a certificate of ours"
    return LATE if isinstance(error, TimeoutError) else (error.strerror or str(error)).lower()
