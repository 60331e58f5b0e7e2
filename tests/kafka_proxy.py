"""What may lie between us and Kafka: requests that are late, lost, or carried out though their client has long gone."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress

from tests.proxies import PIECE, Proxy

#: Produce, Fetch, and what members of a group ask: JoinGroup, Heartbeat, LeaveGroup, SyncGroup.
FAULTY = frozenset({0, 1, 11, 12, 13, 14})
_SIZE, _KEY = struct.Struct(">i"), struct.Struct(">h")


class KafkaProxy(Proxy):
    """Lets requests meet faults, in the order that their connection has, as a network can.

    One may be delayed; be dropped, so that its client waits in vain; have its answer cut in the middle; or be late: its
    client's connection is closed, and the server gets it when the client has connected anew.
    """

    FAULTS = ("delay", "drop", "cut", "late")

    def __init__(self, to: int, seed: int, share: float, port: int) -> None:
        super().__init__(to, seed, share, port)
        self._cut: set[socket.socket] = set()

    def pass_on(self, client: socket.socket, server: socket.socket) -> None:
        while (request := _framed(client)) is not None:
            faulty = _KEY.unpack_from(request, _SIZE.size)[0] in FAULTY
            fault = self.fault() if faulty else None
            if fault == "drop":
                continue
            if fault == "cut":
                self._cut.add(server)
            elif fault is not None:
                if fault == "late":
                    client.shutdown(socket.SHUT_RDWR)
                self._over.wait(self._chance.uniform(0.02, 0.6))
            server.sendall(request)
            if fault == "late":
                self._over.wait(0.5)  # it carries out what it has got, and answers nobody
                return

    def pass_back(self, server: socket.socket, client: socket.socket) -> None:
        while data := server.recv(PIECE):
            if server in self._cut:
                client.sendall(data[: len(data) // 2])
                client.shutdown(socket.SHUT_RDWR)
                return
            with suppress(OSError):  # who asks late has no client any more
                client.sendall(data)


def _framed(begin: socket.socket) -> bytes | None:
    """The next request with the size that stands before it; None where there are no more."""
    head = _exactly(begin, _SIZE.size)
    if head is None:
        return None
    body = _exactly(begin, _SIZE.unpack(head)[0])
    return None if body is None else head + body


def _exactly(begin: socket.socket, size: int) -> bytes | None:
    found = bytearray()
    while len(found) < size:
        data = begin.recv(size - len(found))
        if not data:
            return None
        found += data
    return bytes(found)
