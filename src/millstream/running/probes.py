"""What a supervisor such as Kubernetes asks a layer's process over HTTP: whether it lives, whether it works, its numbers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from millstream.errors import ServeError

if TYPE_CHECKING:
    from millstream.running.meter import Meter

PATIENCE = 5.0
"""Seconds that a caller may take for its request."""


@contextmanager
def probed(meter: Meter, address: str | None) -> Iterator[None]:
    """Answer probes of a layer's process, from beside its work.

    `GET /livez` is 200 as long as the process answers. `GET /readyz` is 200 once the layer has begun and its newest step has
    not failed, else 503 with the reason. `GET /metrics` is Prometheus' text, of this process alone.

    Args:
        meter: what the process says of itself.
        address: where to listen, "host:port"; None: nowhere.

    Raises:
        ServeError: when that is no address, or is taken.
    """
    if address is None:
        yield
        return
    with _listening(meter, *_parted(address)) as server:
        threading.Thread(target=server.serve_forever, name="probes", daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()


def _parted(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdecimal() or int(port) > 65_535:
        raise ServeError(
            f"--probes '{address}' is not an address.",
            'write "host:port", such as "127.0.0.1:9100"; port 0 is a free one.',
        )
    return host, int(port)


def _listening(meter: Meter, host: str, port: int) -> ThreadingHTTPServer:
    class Answering(_Answering):
        of = meter

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = _family(host)

    try:
        return Server((host, port), Answering)
    except OSError as error:
        raise ServeError(
            f"Probes cannot be answered at {host}:{port}: {(error.strerror or str(error)).lower()}.",
            "choose another port, or stop the program that listens there.",
        ) from error


def _family(host: str) -> Any:
    import socket

    return socket.AF_INET6 if ":" in host else socket.AF_INET


class _Answering(BaseHTTPRequestHandler):
    of: Meter
    timeout = PATIENCE
    server_version, sys_version = "millstream", ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/livez":
            self._answer(200, {"layer": self.of.layer})
        elif path == "/readyz":
            problem = self.of.problem if self.of.said else "it has not begun yet."
            self._answer(503 if problem else 200, {"layer": self.of.layer, "ready": not problem, "problem": problem})
        elif path == "/metrics":
            self._say(200, "text/plain; version=0.0.4; charset=utf-8", self._metrics().encode())
        else:
            self._answer(404, {"error": f"Path '{path}' is none of /livez, /readyz and /metrics."})

    def _metrics(self) -> str:
        from millstream.usage.prometheus import exposition

        said, layers = self.of.said, {}
        if said:
            usage = {name: said["usage"][name] for name in ("cpu", "rss")}
            layers[self.of.layer] = {"state": "up", "facts": said["facts"], **usage}
        return exposition(self.of.totals, layers, since="the process began")

    def _answer(self, status: int, facts: dict[str, Any]) -> None:
        self._say(status, "application/json", json.dumps(facts).encode())

    def _say(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: probes come every few seconds."""
