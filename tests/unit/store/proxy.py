"""What may lie between us and a server: what a client has asked for is always carried out; what fails is its answer."""

from __future__ import annotations

import socket
import time

from tests.proxies import PIECE, Proxy, copy


class AnswersFail(Proxy):
    """Delays, cuts and drops answers, or lets the client wait for one until it gives up."""

    FAULTS = ("delay", "drop", "cut", "freeze")

    def pass_on(self, client: socket.socket, server: socket.socket) -> None:
        copy(client, server)

    def pass_back(self, server: socket.socket, client: socket.socket) -> None:
        while data := server.recv(PIECE):
            fault = self.fault()
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
