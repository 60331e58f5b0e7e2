"""Processes that begin at once: a process that has loaded what all layers need, and becomes another for each that starts.

Loading takes seconds of a processor, and `millstream up` starts a process a layer, and again whenever one dies. So one
process loads everything once, opens nothing and has no thread of its own; each layer is a fork of it. Its memory is shared
among them.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Protocol

import psutil

FORKS = sys.platform == "linux"
"""Whether processes may begin so: elsewhere a system's own libraries do not outlive a fork."""
LOADS = 60.0
"""Seconds that the starter has to load what layers need."""
BEGINS = 10.0
"""Seconds that a process has to begin, once everything is loaded."""
_LOOK = 0.02
_LOADED = (
    "millstream.cli.app", "millstream.running.work", "millstream.running.taking_in", "millstream.serve.server",
    "millstream.serve.reader", "millstream.fold.states", "millstream.fold.preparation", "millstream.fold.requests",
    "millstream.engines.embedded", "millstream.registry.definitions", "millstream.store.iceberg.durable_files",
    "millstream.store.lmdb.store", "millstream.buffer.embedded.log", "millstream.testing.generators", "sqlglot",
    "numba.np.arraymath", "pyiceberg.catalog.sql", "pyiceberg.io.pyarrow", "pyarrow.parquet", "sqlalchemy.dialects.sqlite",
)  # fmt: skip
_WIDE = 4096
"""Bytes of the command line, so that it can be that of any layer."""


class Process(Protocol):
    """A process that was begun, as `subprocess.Popen` has it."""

    pid: int

    def poll(self) -> int | None:
        """Return its exit code, minus the signal's number if one ended it; None while it runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit code once it has ended; raises `subprocess.TimeoutExpired`."""
        ...

    def send_signal(self, sig: int) -> None:
        """Send it a signal, unless it has ended."""
        ...

    def terminate(self) -> None:
        """Tell it to stop."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...


def begin_afresh(command: Sequence[str], mouth: int, output: IO[bytes]) -> Process:
    """Begin a process that loads everything by itself.

    Args:
        command: what `millstream` is told, such as `["run", "ingest"]`.
        mouth: the descriptor that becomes the process's standard input.
        output: the file that gets what it prints.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "millstream", *command],
        stdin=mouth,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


class Starter:
    """Begins processes as forks of one that has loaded everything; afresh where that one cannot be had.

    Use it as a context manager; one that has gone, or does not answer, is replaced at the next start.

    Args:
        output: the file that gets what the process says, which is nothing if all is well.
        program: the module that the process runs: this one, or another that calls `await_command` and then `become`.
    """

    def __init__(self, output: Path, program: str = __name__) -> None:
        self._output, self._program = output, program
        self._process: subprocess.Popen[bytes] | None = None
        self._ear: socket.socket | None = None
        self._running: dict[int, _Fork] = {}

    def __enter__(self) -> Starter:
        if FORKS:
            with suppress(OSError):
                self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self._lose()

    def begin(self, command: Sequence[str], mouth: int, output: IO[bytes]) -> Process:
        """Begin a `millstream` command.

        Args:
            command: its arguments.
            mouth: the descriptor that becomes its standard input.
            output: the file that becomes its standard output and error.

        Returns:
            The process, in a session of its own.

        Raises:
            OSError: when no process can begin at all.
        """
        if FORKS:
            try:
                return self._forked(command, mouth, output)
            except (OSError, ValueError):
                self._lose()
        return begin_afresh(command, mouth, output)

    def hear(self) -> None:
        """Take note of which processes have ended."""
        try:
            while self._ear is not None:
                self._ear.setblocking(False)  # not `select`, which knows no descriptor above 1,023
                self._hear_one(self._ear)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            self._lose()

    def _forked(self, command: Sequence[str], mouth: int, output: IO[bytes]) -> Process:
        fresh = self._ear is None
        ear = self._ear or self._open()
        ear.settimeout(LOADS if fresh or not self._running else BEGINS)
        socket.send_fds(ear, [json.dumps(list(command)).encode()], [mouth, output.fileno()])
        while True:
            begun = self._hear_one(ear)
            if begun is not None:
                self._running[begun] = _Fork(self, begun)
                return self._running[begun]

    def _open(self) -> socket.socket:
        ear, mouth = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", self._program, "".ljust(_WIDE, ".")]
        with mouth:
            try:
                self._output.parent.mkdir(parents=True, exist_ok=True)
                output: IO[bytes] = self._output.open("ab")
            except OSError:  # a disk too full for a file that is not there yet
                output = open("/dev/null", "ab")  # noqa: SIM115
            with output:
                self._process = subprocess.Popen(
                    command, stdin=mouth.fileno(), stdout=output, stderr=output, start_new_session=True
                )
        self._ear = ear
        return ear

    def _hear_one(self, ear: socket.socket) -> int | None:
        """The process that has begun, if that is what comes next; one that has ended is told so."""
        said = json.loads(ear.recv(4096))  # a ValueError of nothing at all: it has gone
        if "ended" in said:
            ended = self._running.pop(said["ended"], None)
            if ended is not None:
                ended.code = said["code"]
            return None
        return int(said["begun"])

    def _lose(self) -> None:
        """End the starter; the processes that it began go on, and are looked after one by one."""
        if self._ear is not None:
            self._ear.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        for fork in self._running.values():
            fork.lost = True
        self._ear, self._process, self._running = None, None, {}


class _Fork:
    """A process that a starter began. Once that one has gone, nobody learns how it ended: its code is 1."""

    def __init__(self, starter: Starter, pid: int) -> None:
        self.pid = pid
        self.code: int | None = None
        self.lost = False
        self._starter = starter
        self._self: psutil.Process | None = None  # of one that has ended by now
        with suppress(psutil.NoSuchProcess):
            self._self = psutil.Process(pid)

    def poll(self) -> int | None:
        """Return its exit code, if it has ended; see `Process`."""
        if self.code is None:
            self._starter.hear()
        if self.code is None and self.lost:
            with suppress(psutil.Error):
                if self._self and self._self.is_running() and self._self.status() != psutil.STATUS_ZOMBIE:
                    return None
            self.code = 1
        return self.code

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit code once it has ended; see `Process`."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            code = self.poll()
            if code is not None:
                return code
            if end is not None and time.monotonic() >= end:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            threading.Event().wait(_LOOK)

    def send_signal(self, sig: int) -> None:
        if self.poll() is None and self._self is not None:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                self._self.send_signal(sig)  # which looks whether it is still the same process

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _serve(ear: socket.socket) -> list[str]:
    """Begin what is asked for, until nobody can ask; a process that began returns its command from here."""
    ended, tell = os.pipe()
    for end in (ended, tell):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready = select.select([ear.fileno(), ended], [], [])[0]
        if ended in ready:
            os.read(ended, 4096)
            _tell_ended(ear)
        if ear.fileno() not in ready:
            continue
        asked, handed, _, _ = socket.recv_fds(ear, 1 << 16, 2)
        if not asked:
            raise SystemExit(0)
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _settle(ear, [ended, tell], handed)
            return [str(one) for one in json.loads(asked)]
        for descriptor in handed:
            os.close(descriptor)
        ear.send(json.dumps({"begun": pid}).encode())


def _tell_ended(ear: socket.socket) -> None:
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            ear.send(json.dumps({"ended": pid, "code": os.waitstatus_to_exitcode(status)}).encode())


def _settle(ear: socket.socket, others: list[int], handed: Sequence[int]) -> None:
    """Become a process of one's own: its session, its input and output, nothing of the starter's."""
    os.setsid()
    mouth, output = handed
    os.dup2(mouth, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    ear.close()
    for descriptor in (*others, mouth, output):
        os.close(descriptor)


def _be_called(command: Sequence[str]) -> None:
    """Let lists of processes show a command line: it is written where the system reads it, as far as it fits."""
    with suppress(OSError, ValueError, IndexError):
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        start, end = int(fields[45]), int(fields[46])
        line = b"\0".join(one.encode() for one in command)[: end - start - 1]
        if start:
            ctypes.memmove(start, line.ljust(end - start, b"\0"), end - start)


def await_command() -> list[str]:
    """Load what all layers need, begin what is asked for on the standard input, and return in each process that began.

    Returns:
        The command that this process is to be.
    """
    from millstream.engines.embedded import LIBRARY
    from millstream.train.trainers.extras import without_extras

    with socket.socket(fileno=os.dup(0)) as ear:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for module in (*_LOADED, LIBRARY):
            import_module(module)
        with without_extras():
            import_module("lightgbm")
        gc.collect()
        gc.freeze()
        return _serve(ear)


def become(command: Sequence[str]) -> None:
    """Be a command of `millstream`, in this process.

    Args:
        command: its arguments.
    """
    _be_called([sys.executable, "-m", "millstream", *command])
    atexit.register(gc.unfreeze)  # libraries say at the end what leaked, and what is frozen looks as if it had
    sys.argv[1:] = command
    import_module("millstream.cli.app").main(command)


if __name__ == "__main__":
    become(await_command())
