"""Commands and programs that begin at once: real processes, forks of one that has loaded what they need.

Loading takes seconds of a processor, and the tests start hundreds of processes.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import chdir
from functools import lru_cache
from pathlib import Path
from typing import IO

from millstream.running.starter import FORKS, Process, Starter, await_command, become

ROOT = Path(__file__).parents[1]
ERRORS = Path(f"/proc/{os.getpid()}/fd/2" if FORKS else "/dev/stderr")


def begin(*command: str, folder: Path, output: Path = Path(os.devnull), errors: Path | None = None) -> Process:
    """Begin a command of `millstream` in a folder, in a session of its own.

    Args:
        command: its arguments.
        folder: its working directory.
        output: the file to which what it prints is added.
        errors: the file to which what it says of errors is added; without it they go where its output goes.
    """
    with output.open("ab") as printed:
        return _begun(["-m", "millstream", *command], folder, printed, errors or output)


def millstream(*command: str, folder: Path, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """Run a command of `millstream` in a folder to its end."""
    with tempfile.TemporaryDirectory() as place:
        output, errors = Path(place) / "output", Path(place) / "errors"
        process = begin(*command, folder=folder, output=output, errors=errors)
        try:
            code = process.wait(seconds)
        finally:
            process.kill()
        return subprocess.CompletedProcess(command, code, output.read_text(), errors.read_text())


class Program:
    """A program written in Python that runs as a process, as of `python -c`.

    Args:
        code: what it does.
        arguments: its arguments.
    """

    def __init__(self, code: str, *arguments: str) -> None:
        ear, mouth = os.pipe()
        self.stdout = os.fdopen(ear)
        with open(mouth, "wb") as printed:
            self.process = _begun(["-c", code, *arguments], Path.cwd(), printed, ERRORS)

    def kill(self) -> None:
        """SIGKILL it, stopped or not, and wait until it is gone."""
        self.process.kill()
        self.process.wait()
        self.stdout.close()


def _begun(python: Sequence[str], folder: Path, printed: IO[bytes], errors: Path) -> Process:
    """What Python does with some arguments, begun."""
    if not FORKS:
        with errors.open("ab") as said:
            afresh = [sys.executable, *python]
            return subprocess.Popen(afresh, cwd=folder, stdout=printed, stderr=said, start_new_session=True)
    told = {"folder": str(folder), "errors": str(errors.absolute()), "environment": dict(os.environ)}
    with open(os.devnull, "rb") as nothing:
        return _starter().begin([json.dumps(told), *python], nothing.fileno(), printed)


class _Preloaded(Starter):
    """A starter that is this module, and that begins a process in no other way."""

    def begin(self, command: Sequence[str], mouth: int, output: IO[bytes]) -> Process:
        return self._forked(command, mouth, output)


@lru_cache(maxsize=1)
def _starter() -> Starter:
    place = Path(tempfile.mkdtemp())
    with chdir(ROOT):
        starter = _Preloaded(place / "starter.out", __name__).__enter__()
    atexit.register(starter.__exit__)
    return starter


def _be(told: str, kind: str, what: str, *arguments: str) -> None:
    """Be what Python does with some arguments when a shell begins it."""
    given = json.loads(told)
    os.environ.clear()
    os.environ.update(given["environment"])
    os.chdir(given["folder"])
    sys.path[0] = given["folder"]
    said = os.open(given["errors"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(said, 2)
    os.close(said)
    if kind == "-m":
        become(arguments)
    sys.argv = [kind, *arguments]
    exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    _be(*await_command())
