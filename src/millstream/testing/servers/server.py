"""What real servers have in common: a folder, a process, that it can be killed or stand still, and that it ends with us."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any, ClassVar, Self

import psutil

from millstream.errors import ServerError
from millstream.testing.servers.watcher import watcher_of

TRIES = 10
"""How often a server is begun that ends before it answers: somebody may have taken its port meanwhile."""
PATIENCE = 240.0
"""Seconds that it has to answer, and to end; a machine may be busy with much else."""


class Server(ABC):
    """A server on a free port of the loopback; its data outlive `kill`, and are gone at the end.

    Use it as a context manager. It ends when this process does, however that ends.
    """

    name: ClassVar[str]
    ended_by: ClassVar[signal.Signals] = signal.SIGKILL
    """The signal that ends it at once, and leaves nothing of it in the system."""

    def __init__(self) -> None:
        self.port = 0
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.name.lower()}-"))
        watcher_of(os.getpid()).made(str(self.folder))
        self.output = self.folder / "output"
        self.process: subprocess.Popen[bytes] | None = None
        self._given: dict[str, Any] = {}
        self._answered = False

    @classmethod
    @abstractmethod
    def lacking(cls) -> str | None:
        """What this machine lacks for the server, and how to get it, as a sentence; None if nothing."""

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """The version of the server's program, such as "7.0.15"."""

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """The program and its arguments, at ports that are chosen now unless it has answered at some before."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether it answers; asked time and again while it starts."""

    def __enter__(self) -> Self:
        try:
            self._make()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill(self.ended_by)
        shutil.rmtree(self.folder, ignore_errors=True)
        watcher_of(os.getpid()).removed(str(self.folder))

    def _make(self) -> None:
        """Do what is done once, before the first start."""
        lacks = self.lacking()
        if lacks is not None:
            raise ServerError.lacking(self.name, lacks)

    def start(self) -> None:
        """Start the server, on the port that it had, and wait until it answers.

        Raises:
            ServerError: when it does not come to answer; with the end of what it put out.
        """
        for _ in range(TRIES):
            self.process = self.run(self._command(), **self._given)
            end = time.monotonic() + PATIENCE
            while self.process.poll() is None and time.monotonic() < end:
                if self._answers():
                    self._answered = True
                    return
                Event().wait(0.02)
            if time.monotonic() >= end:
                break
            self._note_end()
            Event().wait(0.2)  # one that was killed may hold a port for a moment
        raise ServerError.silent(self.name, self.said())

    def run(self, command: Sequence[str], **given: Any) -> subprocess.Popen[bytes]:
        """Begin a program whose output is kept, in a session of its own, which no key of a terminal reaches.

        Args:
            command: the program and its arguments.
            given: what `subprocess.Popen` is told besides.
        """
        with self.output.open("ab") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, **given)
        watcher_of(os.getpid()).began(process.pid, self.ended_by)
        return process

    def said(self) -> str:
        """The end of what it has put out."""
        return self.output.read_text(errors="replace")[-4_000:] if self.output.exists() else ""

    def kill(self, by: signal.Signals = signal.SIGKILL) -> None:
        """Kill the server; what it had written to its files is kept."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, by)
                os.killpg(self.process.pid, signal.SIGCONT)  # one that stands still would not take another signal
            self.process.wait(PATIENCE)
            self._note_end()

    def freeze(self) -> None:
        """Stop the server where it is: it accepts connections, and answers nobody."""
        self._running().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._running().send_signal(signal.SIGCONT)

    def processor_seconds(self) -> float:
        """Seconds of processor time that its processes have used, those that have ended included."""
        used = 0.0
        for process in self.processes():
            with suppress(psutil.Error):
                used += sum(process.cpu_times()[:4])  # its own and its children's, of user and system
        return used

    def processes(self) -> list[psutil.Process]:
        """The server's processes, the one that began first."""
        first = psutil.Process(self._running().pid)
        return [first, *first.children(recursive=True)]

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            raise ServerError(f"{self.name} does not run.", "start it.")
        return self.process

    def _note_end(self) -> None:
        if self.process is not None:
            watcher_of(os.getpid()).ended(self.process.pid)
            self.process = None
