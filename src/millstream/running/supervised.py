"""One layer's process, as `millstream up` holds it: started again when it dies, ended when it is frozen."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO

import psutil

from millstream.running.starter import Process, begin_afresh
from millstream.settings import Settings

WATCH = 0.05
"""Seconds between two looks at the processes."""
SETTLED = 5.0
"""Seconds after which a process counts as started well, so that its next start is not delayed."""
PATIENCE = 10.0
"""Seconds a process has to stop by itself."""
WOKEN = 3.0
"""Seconds a process that was told to go on has to show that it does."""
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT)


class Supervised:
    """One layer's process: started at once, and again whenever it dies, later each time if it dies young.

    The process holds one end of a pair of sockets as its standard input. It stops when the other closes, so no layer
    outlives a supervisor that was killed; and it writes to it every second. One that neither does so nor uses any CPU
    for as long as `frozen_after` in the settings says is told to go on (SIGCONT) and, if that does not help, ended.

    Args:
        settings: the project.
        layer: which layer.
        say: called with a sentence when the process has died or was ended.
        begin: begins a process with a command, an end of a pair of sockets as its input, and a file for its output.
    """

    def __init__(
        self,
        settings: Settings,
        layer: str,
        say: Callable[[str], None],
        begin: Callable[[Sequence[str], int, IO[bytes]], Process] = begin_afresh,
    ) -> None:
        self.layer = layer
        self.restarts = 0
        self._begin = begin
        self._settings = settings
        self._say = say
        self._delay = 0.1
        self._due: float | None = None
        self._output = settings.data / "run" / f"{layer}.out"
        self._frozen_after = settings.frozen_after / 1e6
        self._ended = False
        self._start()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.process.pid

    def watch(self) -> None:
        """Start the process again when it has died and its time has come; end it when it is frozen."""
        code = self.process.poll()
        if code is None:
            self._listen()
            return
        now = time.monotonic()
        if self._due is None:
            young = now - self._started < SETTLED
            self._delay = min(2 * self._delay, PATIENCE) if young else 0.1
            self._due = now + self._delay
            if not self._ended and (code != -signal.SIGKILL or young):
                self._say(f"{self.layer} ended ({self._reason(code)}); starting it again in {self._delay:.1f} s.")
        elif now >= self._due:
            self.restarts += 1
            self._start()

    def _start(self) -> None:
        settings = self._settings
        command = ["run", self.layer, "--project", str(settings.folder)]
        command += ["--host", settings.host, "--port", str(settings.port), "--supervised"]
        self._ear, mouth = socket.socketpair()
        self._ear.setblocking(False)
        try:
            self._output.parent.mkdir(parents=True, exist_ok=True)
            output = self._output.open("ab")
        except OSError:  # a disk too full for a file that is not there yet
            output = open("/dev/null", "ab")  # noqa: SIM115
        with output, mouth:
            self.process = self._begin(command, mouth.fileno(), output)
        self._started = self._looked = time.monotonic()
        self._due = None
        self._silent, self._cpu, self._woken, self._ended = 0.0, 0.0, False, False

    def _listen(self) -> None:
        """Take note of signs of life; only time in which this process itself was awake counts as silence."""
        now = time.monotonic()
        self._silent += min(now - self._looked, 4 * WATCH)
        self._looked = now
        if self._silent >= 1.0 and self._alive():
            if self._woken:
                self._say(f"{self.layer} was stopped (process {self.pid}) and goes on.")
            self._silent, self._woken = 0.0, False
        elif self._silent >= self._frozen_after + (WOKEN if self._woken else 0):
            self._wake()

    def _wake(self) -> None:
        with suppress(OSError):
            if not self._woken:
                self._woken = True
                self.process.send_signal(signal.SIGCONT)
                return
        self._ended = True
        self._say(
            f"{self.layer} (process {self.pid}) gave no sign of life for {self._frozen_after:g} s; "
            "ended it and starting it again."
        )
        self.process.kill()

    def _alive(self) -> bool:
        """Whether it has written since, or used the CPU: a long call into a library lets no thread of its own write."""
        with suppress(OSError):
            if self._ear.recv(4096):
                return True
        with suppress(psutil.Error):
            used = psutil.Process(self.pid).cpu_times()
            before, self._cpu = self._cpu, used.user + used.system
            return self._cpu > before
        return False

    def _reason(self, code: int) -> str:
        if code < 0:
            name = signal.Signals(-code).name
            return f"{name}; `millstream doctor` looks for damaged files" if -code in _CRASHES else name
        said = self._output.read_text(encoding="utf-8", errors="replace")[-4_000:] if self._output.exists() else ""
        sentences = [line for line in said.splitlines() if line.startswith("Error:")]
        return sentences[-1] if sentences else f"exit code {code}, see {self._output}"


def stop_all(processes: list[Supervised]) -> None:
    """Tell all processes to stop, and end those that do not within ten seconds."""
    for process in processes:
        if process.process.poll() is None:
            process.process.terminate()
            process.process.send_signal(signal.SIGCONT)
    end = time.monotonic() + PATIENCE
    for process in processes:
        try:
            process.process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.process.kill()
            process.process.wait()
