"""A connection that must get on: who sends half a request, byte by byte or not at all, is let go within seconds."""

from __future__ import annotations

import asyncio
import resource
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 5.0
"""How long a request's head may take, from the connection or from its first byte."""
IDLE_SECONDS = 5.0
"""How long nothing may come of a body that has begun."""
BODY_SECONDS = 60.0
"""How long a whole request may take to come."""
_LOOK = 1.0
_LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_RESERVE = 256  # descriptors that the log and the stores need


def most_connections() -> int:
    """Return how many connections leave the process the descriptors that its stores need."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 10_000
    return max(min(soft - _RESERVE, 10_000), soft // 4)


class Connection(HttpToolsProtocol):
    """One connection of a caller; beyond `most_connections`, one that waits on its caller makes room for a new one."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._begun = self._heard = self.loop.time()
        self._headed = False
        self._whole = False  # whether the newest request is here with its body
        self._watch: asyncio.TimerHandle | None = None
        self._most = most_connections()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a new connection, and let go of the one that has waited longest where there are too many."""
        if len(self.connections) >= self._most:
            waiting = [one for one in self.connections if isinstance(one, Connection) and one.waits]
            if not waiting:
                transport.abort()  # type: ignore[attr-defined]
                return
            min(waiting, key=lambda one: one._begun)._let_go()
        super().connection_made(transport)  # type: ignore[arg-type]
        self._watch = self.loop.call_later(_LOOK, self._look)

    @property
    def waits(self) -> bool:
        """Whether nothing of the service's is going on: the next step is the caller's."""
        return not self._whole or self.cycle is None or self.cycle.response_complete

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._rest()
        if self.transport is not None:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what has come, and watch the connection while a request is not whole."""
        if self.transport is None:
            return
        self._heard = self.loop.time()
        super().data_received(data)
        if self._whole:
            self._rest()
        elif self._watch is None:
            self._watch = self.loop.call_later(_LOOK, self._look)

    def on_message_begin(self) -> None:
        """A request has begun."""
        super().on_message_begin()
        self._headed = self._whole = False
        self._begun = self._heard

    def on_headers_complete(self) -> None:
        """Its head is here."""
        self._headed = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """It is whole."""
        self._whole = True
        super().on_message_complete()

    def _rest(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _look(self) -> None:
        self._watch = None
        now = self.loop.time()
        taken, silent = now - self._begun, now - self._heard
        if self.flow is not None and self.flow.read_paused:  # the service is the slow one
            self._heard = now
        elif taken > (BODY_SECONDS if self._headed else HEAD_SECONDS) or (self._headed and silent > IDLE_SECONDS):
            self._let_go()
            return
        self._watch = self.loop.call_later(_LOOK, self._look)

    def _let_go(self) -> None:
        self._rest()
        if self.transport is not None and not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
                self.transport.write(_LATE)
            self.transport.close()
