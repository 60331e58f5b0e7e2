"""`millstream up`: one process per layer, restarted when it dies, stopped together."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from millstream.clock import FileClock, project_clock
from millstream.errors import ProjectError, ServeError
from millstream.running.stopping import stopping_on_signals
from millstream.settings import Settings

LAYERS = ("compute", "ingest", "batch", "sync", "serve", "monitor")
WATCH = 0.05
"""Seconds between two looks at the processes."""
SETTLED = 5.0
"""Seconds after which a process counts as started well, so that its next start is not delayed."""
PATIENCE = 10.0
"""Seconds a process has to stop by itself."""


def supervise(
    folder: Path,
    *,
    host: str | None = None,
    port: int | None = None,
    as_json: bool = False,
    stop: threading.Event | None = None,
) -> int:
    """Run all layers of a project until the process is told to stop (SIGTERM, Ctrl-C).

    Args:
        folder: The project's folder.
        host: Where to serve, instead of what the settings say.
        port: The port to serve at, instead of what the settings say.
        as_json: Say what happens as JSON objects, one a line.
        stop: Set it to stop from another thread.

    Returns:
        0 when it was told to stop.

    Raises:
        ProjectError: When the folder is no project, or another `up` runs it.
        ServeError: When the port is taken.
    """
    from millstream.running.simulation import prepare
    from millstream.running.status_line import StatusLine

    settings = serving_at(Settings.load(folder), host, port)
    stop = stop or threading.Event()
    with lock(settings), stopping_on_signals(stop):
        refuse_taken_port(settings)
        line = StatusLine(settings, as_json)
        prepare(settings, line.say)
        layers = (*LAYERS, "generator") if settings.generator.enabled else LAYERS
        line.say(f"Starting {', '.join(layers)}. http://{settings.host}:{settings.port}/ shows them.")
        processes = [Supervised(settings, layer, line.say) for layer in layers]
        with _clock_running(settings):
            try:
                while not stop.wait(WATCH):
                    for process in processes:
                        process.watch()
                    line.refresh({process.layer: process.restarts for process in processes})
            finally:
                stop_all(processes)
        line.say("Stopped.")
    return 0


def serving_at(settings: Settings, host: str | None, port: int | None) -> Settings:
    """The settings with another address to serve at, where one is given."""
    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    if host == "":  # to a socket that means every address there is
        raise ServeError(
            "The host was given as an empty text; expected an address or a name.", "use '0.0.0.0' for all."
        )
    return dataclasses.replace(settings, **given) if given else settings  # type: ignore[arg-type]


class Supervised:
    """One layer's process: started at once, and again whenever it dies, later each time if it dies young.

    The process holds the other end of a pipe to this one and stops when it closes, so no layer outlives a supervisor
    that was killed.

    Args:
        settings: The project.
        layer: Which layer.
        say: Called with a sentence when the process has died.
    """

    def __init__(self, settings: Settings, layer: str, say: Callable[[str], None]) -> None:
        self.layer = layer
        self.restarts = 0
        self._settings = settings
        self._say = say
        self._delay = 0.1
        self._due: float | None = None
        self._output = settings.data / "run" / f"{layer}.out"
        self._start()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.process.pid

    def watch(self) -> None:
        """Start the process again when it has died and its time has come."""
        code = self.process.poll()
        if code is None:
            return
        now = time.monotonic()
        if self._due is None:
            young = now - self._started < SETTLED
            self._delay = min(2 * self._delay, PATIENCE) if young else 0.1
            self._due = now + self._delay
            if code != -signal.SIGKILL or young:
                self._say(f"{self.layer} ended ({self._reason(code)}); starting it again in {self._delay:.1f} s.")
        elif now >= self._due:
            self.restarts += 1
            self._start()

    def _start(self) -> None:
        settings = self._settings
        self._output.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "millstream", "run", self.layer, "--project", str(settings.folder)]
        command += ["--host", settings.host, "--port", str(settings.port), "--supervised"]
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
            )
        self._started = time.monotonic()
        self._due = None

    def _reason(self, code: int) -> str:
        if code < 0:
            return signal.Signals(-code).name
        said = self._output.read_text(encoding="utf-8", errors="replace")[-4_000:]
        sentences = [line for line in said.splitlines() if line.startswith("Error:")]
        return sentences[-1] if sentences else f"exit code {code}, see {self._output}"


def stop_all(processes: list[Supervised]) -> None:
    """Tell all processes to stop, and end those that do not within ten seconds."""
    for process in processes:
        if process.process.poll() is None:
            process.process.terminate()
    end = time.monotonic() + PATIENCE
    for process in processes:
        try:
            process.process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.process.kill()
            process.process.wait()


@contextmanager
def lock(settings: Settings) -> Iterator[None]:
    """Hold the project, so that one `up` at a time runs it.

    Raises:
        ProjectError: When another process holds it.
    """
    with _lock_file(settings) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            pid = file.read().strip() or "unknown"
            raise ProjectError(
                f"Project '{settings.name}' is already running: `millstream up` is process {pid}.",
                f"`millstream status` shows it; `kill {pid}` stops it.",
            ) from error
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield


def holder(settings: Settings) -> int | None:
    """The process that runs the project by `up`, if one does."""
    path = settings.data / "run" / "up.lock"
    if not path.exists():
        return None
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(file.read() or 0)
    return None


def _lock_file(settings: Settings) -> IO[str]:
    path = settings.data / "run" / "up.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+")
    except OSError as error:
        raise ProjectError(
            f"'{path.parent}' cannot be written: {error.strerror}.", "the project's data folder must be writable."
        ) from error


def refuse_taken_port(settings: Settings) -> None:
    """Say so before anything starts when another program listens where the service would.

    Raises:
        ServeError: When the address cannot be listened at.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((settings.host, settings.port))
        except OSError as error:
            raise ServeError(
                f"Port {settings.port} on {settings.host} cannot be served: {(error.strerror or str(error)).lower()}.",
                f"`--port {settings.port % 65_535 + 1}` serves at another one, and so does `port` in millstream.toml.",
            ) from error


@contextmanager
def _clock_running(settings: Settings) -> Iterator[None]:
    """A simulated clock goes on from where it stood while the project runs, and stands still otherwise."""
    clock = project_clock(settings.data)
    if not isinstance(clock, FileClock):
        yield
        return
    from millstream.running.simulation import speed

    clock.run(speed(settings.generator) if settings.generator.enabled else 1.0)
    try:
        yield
    finally:
        clock.run(0.0)
