"""One connection to a server: commands out, replies in, all of it before one moment.

What goes wrong between a command and its reply, a deadline or an interrupt included, ends the connection: a reply that is
still on its way would be taken for that of the next command.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import hiredis

from millstream.store.connections import Unreachable, left, resolved, said
from millstream.store.redis.access import Access, Address
from millstream.store.redis.scripts import SCRIPTS

Command = tuple[bytes, ...]
_PIECE = 1 << 16
_MORE = object()
_PACK: Callable[[Command], bytes] = hiredis.pack_command  # type: ignore[assignment]  # its hints know one word only


class Connection:
    """A connection, open and let in.

    Args:
        address: the server.
        access: what lets us in.
        end: the moment, by `time.monotonic`, until which that may take.

    Raises:
        Unreachable: when it cannot be reached.
        hiredis.ReplyError: when it does not let us in.
    """

    __slots__ = ("_buffer", "_poll", "_reader", "_socket", "facts", "waiting")

    def __init__(self, address: Address, access: Access, end: float) -> None:
        self._reader = hiredis.Reader(notEnoughData=_MORE)
        self._buffer = bytearray(_PIECE)
        self._socket = _connected(address, access, end)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self.waiting = 0
        try:
            self.facts = self._let_in(access, end)
        except BaseException:
            self.close()
            raise

    def _let_in(self, access: Access, end: float) -> dict[str, str]:
        """Say who we are and bring the scripts; what the server says of itself."""
        scripts = [(b"SCRIPT", b"LOAD", script.text) for script in SCRIPTS]
        commands = [*access.handshake(), (b"INFO", b"server"), (b"INFO", b"memory"), *scripts]
        replies = self.exchange(commands, end)[: -len(scripts)]
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return facts_of(replies[-2]) | facts_of(replies[-1])

    def exchange(self, commands: Sequence[Command], end: float) -> list[Any]:
        """Send commands at once and return their replies; an error of the server is a reply."""
        self.send(commands, end)
        return self.receive(end)

    def send(self, commands: Sequence[Command], end: float) -> None:
        """Send commands, whose replies are to be received. Raises `Unreachable`."""
        self.waiting += len(commands)
        packed = b"".join(map(_PACK, commands))
        try:
            self._socket.settimeout(left(end))
            self._socket.sendall(packed)
        except OSError as error:
            raise Unreachable(said(error)) from error

    def receive(self, end: float) -> list[Any]:
        """Return the replies to all that was sent. Raises `Unreachable`."""
        replies: list[Any] = []
        gets = self._reader.gets
        try:
            while len(replies) < self.waiting:
                reply = gets()
                if reply is _MORE:
                    self._feed(end)
                else:
                    replies.append(reply)
        except hiredis.ProtocolError as error:
            raise Unreachable(f"it does not speak Redis's protocol: {error}") from error
        self.waiting = 0
        return replies

    def _feed(self, end: float) -> None:
        try:
            self._socket.settimeout(left(end))
            count = self._socket.recv_into(self._buffer)
        except OSError as error:
            raise Unreachable(said(error)) from error
        if not count:
            raise Unreachable("it has closed the connection")
        self._reader.feed(self._buffer, 0, count)  # type: ignore[arg-type]  # nor any buffer

    @property
    def usable(self) -> bool:
        """Whether all that was asked has been answered, and the server has neither hung up nor said more than that."""
        return not self.waiting and not self._reader.has_data() and not self._poll.poll(0)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def facts_of(info: bytes) -> dict[str, str]:
    """Return what a server tells about itself by INFO.

    >>> facts_of(b"# Server\\r\\nredis_version:7.0.15\\r\\nredis_mode:standalone\\r\\n")
    {'redis_version': '7.0.15', 'redis_mode': 'standalone'}
    """
    lines = info.decode(errors="replace").splitlines()
    return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}


def _first_of(hosts: Sequence[str], port: int, end: float) -> socket.socket:
    """A connection to the first of some addresses that takes one."""
    for host in hosts[:-1]:
        with suppress(OSError):
            return socket.create_connection((host, port), left(end))
    return socket.create_connection((hosts[-1], port), left(end))


def _connected(address: Address, access: Access, end: float) -> socket.socket:
    host, port = address
    try:
        if not port:
            connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connected.settimeout(left(end))
            connected.connect(host)
            return connected
        connected = _first_of(resolved(host, end), port, end)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if access.tls is None:
            return connected
        connected.settimeout(left(end))
        return access.tls.wrap_socket(connected, server_hostname=host)
    except OSError as error:
        raise Unreachable(said(error)) from error
