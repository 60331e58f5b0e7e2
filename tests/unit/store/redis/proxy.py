"""What may lie between a client and its server: a proxy that delays, withholds, cuts and drops what comes back."""

from __future__ import annotations

import random
import socket
import threading
import time
from contextlib import suppress
from typing import Self

FAULTS = ("delay", "drop", "cut", "freeze")


class Proxy:
    """A server on the loopback that passes on to another one, and now and then does not.

    What a client has asked for is always carried out; what fails is its answer.

    Args:
        port: the port of the server.
        seed: what it draws from.
        share: of the pieces that come back, how many meet a fault.
    """

    def __init__(self, port: int, seed: int, share: float) -> None:
        self._to, self._share, self._chance = port, share, random.Random(seed)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.met: dict[str, int] = dict.fromkeys(FAULTS, 0)
        self._over = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._listening.close()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._to))
                threading.Thread(target=self._pass_on, args=(client, server), daemon=True).start()
                threading.Thread(target=self._pass_back, args=(server, client), daemon=True).start()

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError), client, server:
            while data := client.recv(1 << 16):
                server.sendall(data)

    def _pass_back(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError), server, client:
            while data := server.recv(1 << 16):
                fault = self._fault()
                if fault == "delay":
                    time.sleep(0.02)
                elif fault == "freeze":
                    self._over.wait(5)
                    return
                elif fault == "drop":
                    return
                elif fault == "cut":
                    client.sendall(data[: len(data) // 2])
                    return
                client.sendall(data)

    def _fault(self) -> str | None:
        if self._chance.random() >= self._share:
            return None
        fault = self._chance.choice(FAULTS)
        self.met[fault] += 1
        return fault
