"""What may lie between a client and its server: proxies that delay, withhold, cut and drop what passes."""

from __future__ import annotations

import random
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import ClassVar, Self

PIECE = 1 << 16


class Proxy(ABC):
    """A server on the loopback that passes on to another one, and now and then does not.

    Args:
        to: the port of the server.
        seed: what it draws from.
        share: of what passes, how much meets a fault.
        port: where it listens; a free port unless given.
    """

    FAULTS: ClassVar[tuple[str, ...]]

    def __init__(self, to: int, seed: int, share: float, port: int = 0) -> None:
        self._to, self._share, self._chance = to, share, random.Random(seed)
        self._listening = socket.create_server(("127.0.0.1", port))
        self.port = self._listening.getsockname()[1]
        self.met: dict[str, int] = dict.fromkeys(self.FAULTS, 0)
        self._over = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    @abstractmethod
    def pass_on(self, client: socket.socket, server: socket.socket) -> None:
        """Pass on what a client sends, until one of the two has closed."""

    @abstractmethod
    def pass_back(self, server: socket.socket, client: socket.socket) -> None:
        """Pass back what a server answers, until one of the two has closed."""

    def fault(self) -> str | None:
        """What befalls the next piece; None for nothing."""
        if self._chance.random() >= self._share:
            return None
        fault = self._chance.choice(self.FAULTS)
        self.met[fault] += 1
        return fault

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._to))
                threading.Thread(target=self._until_closed, args=(self.pass_on, client, server), daemon=True).start()
                threading.Thread(target=self._until_closed, args=(self.pass_back, server, client), daemon=True).start()

    @staticmethod
    def _until_closed(
        work: Callable[[socket.socket, socket.socket], None], begin: socket.socket, end: socket.socket
    ) -> None:
        with suppress(OSError), begin, end:
            work(begin, end)


def copy(begin: socket.socket, end: socket.socket) -> None:
    """Pass all that comes."""
    while data := begin.recv(PIECE):
        end.sendall(data)
