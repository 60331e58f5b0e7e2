"""`millstream up`: one process per layer, restarted when it dies, stopped together."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from msgspec.structs import replace

from millstream.buffer.embedded.environment import no_room
from millstream.clock import FileClock, project_clock
from millstream.errors import DiskFull, MillstreamError, ProjectError, ServeError
from millstream.running.leftovers import end_leftovers, note
from millstream.running.starter import Starter
from millstream.running.stopping import stopping_on_signals
from millstream.running.supervised import WATCH, Supervised, stop_all
from millstream.settings import Settings

if TYPE_CHECKING:
    from millstream.running.status_line import StatusLine

LAYERS = ("compute", "ingest", "batch", "sync", "serve", "monitor")
AGAIN = 2.0
"""Seconds between two attempts to begin on a full disk."""


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
        folder: the project's folder.
        host: where to serve, instead of what the settings say.
        port: the port to serve at, instead of what the settings say.
        as_json: say what happens as JSON objects, one a line.
        stop: set it to stop from another thread.

    Returns:
        0 when it was told to stop.

    Raises:
        ProjectError: when the folder is no project, or another `up` runs it.
        ServeError: when the port is taken.
    """
    from millstream.running.status_line import StatusLine

    settings = serving_at(Settings.load(folder), host, port)
    stop = stop or threading.Event()
    with lock(settings), stopping_on_signals(stop):
        line = StatusLine(settings, as_json)
        end_leftovers(settings, line.say)
        refuse_taken_port(settings)
        with Starter(settings.data / "run" / "starter.out") as starter:  # which loads while the project is prepared
            if _prepared(settings, line.say, stop):
                _run(settings, line, starter, stop)
        line.say("Stopped.")
    return 0


def _prepared(settings: Settings, say: Callable[[str], None], stop: threading.Event) -> bool:
    """Whether the project is ready to run; while the disk is full that is waited for, until told to stop."""
    from millstream.running.simulation import prepare

    told = ""
    while not stop.is_set():
        try:
            prepare(settings, say)
            return True
        except (MillstreamError, OSError) as error:
            if not (isinstance(error, DiskFull) or _lacks_room(error, settings.data)):
                raise
            if str(error) != told:
                say(f"The disk is full: {str(error).splitlines()[0]} Waiting for room.")
            told = str(error)
        stop.wait(AGAIN)
    return False


def _lacks_room(error: BaseException | None, place: Path) -> bool:
    """Whether an error, or what caused it, is that of a full disk."""
    while error is not None:
        if isinstance(error, Exception) and no_room(error, place):
            return True
        error = error.__cause__
    return False


def _run(settings: Settings, line: StatusLine, starter: Starter, stop: threading.Event) -> None:
    layers = (
        *(["intake"] if settings.streams else []),
        *LAYERS,
        *(["generator"] if settings.generator.enabled else []),
    )
    line.say(f"Starting {', '.join(layers)}. http://{settings.host}:{settings.port}/ shows them.")
    processes = [Supervised(settings, layer, line.say, starter.begin) for layer in layers]
    told: dict[str, int] = {}
    with _clock_running(settings):
        try:
            while not stop.wait(WATCH):
                for process in processes:
                    process.watch()
                running = {process.layer: process.pid for process in processes}
                if running != told:
                    told = running
                    note(settings, running)
                line.refresh({process.layer: process.restarts for process in processes})
        finally:
            stop_all(processes)
            note(settings, {})


def serving_at(settings: Settings, host: str | None, port: int | None) -> Settings:
    """The settings with another address to serve at, where one is given.

    Args:
        settings: the settings.
        host: an address or a name; None leaves it as it is set.
        port: None leaves it as it is set.

    Raises:
        ServeError: when the host is an empty text.
    """
    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    if host == "":  # to a socket that means every address there is
        raise ServeError(
            "The host was given as an empty text; expected an address or a name.", "use '0.0.0.0' for all."
        )
    return replace(settings, **given) if given else settings


@contextmanager
def lock(settings: Settings) -> Iterator[None]:
    """Hold the project, so that one `up` at a time runs it.

    Raises:
        ProjectError: when another process holds it.
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
        with suppress(OSError):  # on a full disk it is held all the same
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), str(os.getpid()).encode())
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
        ServeError: when the address cannot be listened at.
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

    rate = speed(settings.generator) if settings.generator.enabled else 1.0
    with suppress(OSError):  # on a full disk it stands where it stood
        clock.run(rate)
    try:
        yield
    finally:
        with suppress(OSError):
            clock.run(0.0)
