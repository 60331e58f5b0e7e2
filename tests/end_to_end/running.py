"""A real project, run as processes: what the end-to-end tests start, talk to and kill."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
from tests.commands import begin

PATIENCE = 60.0
Found = TypeVar("Found")


def until(condition: Callable[[], Found], what: str, seconds: float = PATIENCE) -> Found:
    """What a condition gives once it is true."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"after {seconds:.0f} s still not: {what}")
        time.sleep(0.1)


def post(port: int, path: str, body: Any, seconds: float = 10) -> tuple[int, Any]:
    """Send JSON; the status and the answer. Raises OSError or HTTPException when no whole answer comes back."""
    return ask(port, "POST", path, json.dumps(body).encode(), seconds)


def ask(port: int, method: str, path: str, body: bytes | None = None, seconds: float = 10) -> tuple[int, Any]:
    """Make a request; the status and the decoded answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request(method, path, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


class Up:
    """`millstream up` in a project's folder; it may be killed, and started again."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.starts = 0
        self.start()

    def start(self) -> None:
        """Start it, again when the layers of a killed one still hold the port."""
        end = time.monotonic() + PATIENCE
        while True:
            self.starts += 1
            command = ["up", "--port", str(self.port), "--json"]
            self.process = begin(*command, folder=self.folder, output=self.folder / "up.out")
            while self.process.poll() is None:
                if self.layers():
                    return
                time.sleep(0.05)
            if time.monotonic() > end:
                raise AssertionError(self.said())
            time.sleep(0.3)

    def said(self) -> str:
        """What it has said so far."""
        return (self.folder / "up.out").read_text()

    def layers(self) -> dict[str, psutil.Process]:
        """The process of each layer that runs now."""
        found = {}
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    line = child.cmdline()
                    if "run" in line:
                        found[line[line.index("run") + 1]] = child
        return found

    def kill(self, layer: str) -> bool:
        """SIGKILL the process of a layer, or (None of them) the supervisor; returns whether there was one to kill."""
        if layer == "up":
            self.process.kill()
            self.process.wait()
            return True
        process = self.layers().get(layer)
        if process is None:
            return False
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)
            return True
        return False

    def ready(self) -> bool:
        """Whether the service answers that it serves every model."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return ask(self.port, "GET", "/readyz")[0] == 200
        return False

    def stop(self) -> int:
        """SIGTERM it and wait."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(30)


class Layer:
    """One layer by itself, as `millstream run LAYER` runs it."""

    def __init__(self, folder: Path, name: str, port: int) -> None:
        self.process = begin("run", name, "--port", str(port), folder=folder, output=folder / f"{name}.out")

    def kill(self) -> None:
        """SIGKILL it."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM it and wait."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(30)


@contextlib.contextmanager
def together(*work: Callable[[threading.Event], None]) -> Iterator[threading.Event]:
    """Run some work in threads while the block runs; then tell it to stop and raise what went wrong in it."""
    stop, failures = threading.Event(), list[BaseException]()

    def guarded(one: Callable[[threading.Event], None]) -> None:
        try:
            one(stop)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=[one], daemon=True) for one in work]
    for thread in threads:
        thread.start()
    try:
        yield stop
    finally:
        stop.set()
        for thread in threads:
            thread.join(120)
    if failures:
        raise failures[0]
    assert not any(thread.is_alive() for thread in threads), "some of it does not stop"
