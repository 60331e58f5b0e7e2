"""What servers for tests have in common: a folder, a process, and that it can be killed or stand still."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self


class Server(ABC):
    """A server on a free port of the loopback; its data outlive `kill`, and are gone at the end.

    Args:
        name: what its folder's name begins with.
    """

    def __init__(self, name: str) -> None:
        self.port = 0
        self.folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
        self.output = self.folder / "output"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    @abstractmethod
    def start(self) -> None:
        """Start the server, on the port that it had, and wait until it answers."""

    def run(self, command: Sequence[str], **given: Any) -> subprocess.Popen[bytes]:
        """Begin a program whose output is kept."""
        with self.output.open("ab") as output:
            return subprocess.Popen(command, stdout=output, stderr=output, **given)

    def said(self) -> str:
        """The end of what it has put out."""
        return self.output.read_text()[-4_000:]

    def kill(self, by: signal.Signals = signal.SIGKILL) -> None:
        """Kill the server; what it had written to its files is kept."""
        if self.process is not None:
            self.process.send_signal(by)
            self.process.wait(240)
            self.process = None

    def freeze(self) -> None:
        """Stop the server where it is: it accepts connections, and answers nobody."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
