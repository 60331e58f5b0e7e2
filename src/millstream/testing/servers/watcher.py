"""A process that outlives its parent for a moment: it ends the servers and removes the folders that the parent has left.

Whoever starts servers tells it of each, through a pipe, and of each that has ended. When the pipe ends, its parent has, by
SIGKILL too, and what the parent has not ended and removed itself is ended and removed here.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import lru_cache
from threading import Event
from typing import Any

PATIENCE = 5.0
"""Seconds that a server has to end by the signal it is given, before it is killed."""


class Watcher:
    """The parent's end of the pipe; the process begins with the first thing that it is told."""

    def __init__(self) -> None:
        command = [sys.executable, "-I", "-S", __file__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def began(self, pid: int, by: signal.Signals) -> None:
        """A process that leads a group of its own has begun; `by` is the signal that ends it."""
        self._tell(began=pid, by=int(by))

    def ended(self, pid: int) -> None:
        """A process has ended, and its number may be another's from now on."""
        self._tell(ended=pid)

    def made(self, folder: str) -> None:
        """A folder was made that goes with this process."""
        self._tell(made=folder)

    def removed(self, folder: str) -> None:
        """A folder was removed."""
        self._tell(removed=folder)

    def _tell(self, **what: Any) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # somebody has killed it: what is started goes on, unwatched
            self._process.stdin.write(json.dumps(what).encode() + b"\n")
            self._process.stdin.flush()


@lru_cache(maxsize=1)
def watcher_of(pid: int) -> Watcher:
    """The watcher of this process, which a fork does not share with its parent."""
    assert pid == os.getpid()
    return Watcher()


def _watch() -> None:
    """Note what the parent says; when it says no more, end and remove what is left."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    running: dict[int, int] = {}
    folders: set[str] = set()
    for line in sys.stdin.buffer:
        match json.loads(line):
            case {"began": pid, "by": by}:
                running[pid] = by
            case {"ended": pid}:
                running.pop(pid, None)
            case {"made": folder}:
                folders.add(folder)
            case {"removed": folder}:
                folders.discard(folder)
    _end(running)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _end(running: dict[int, int]) -> None:
    for pid, by in running.items():
        _send(pid, by)
        _send(pid, signal.SIGCONT)
    end = time.monotonic() + PATIENCE
    while any(_send(pid, 0) for pid in running) and time.monotonic() < end:
        Event().wait(0.02)
    for pid in running:
        _send(pid, signal.SIGKILL)


def _send(group: int, what: int) -> bool:
    """Send a signal to a group of processes; returns whether there is one left of them."""
    try:
        os.killpg(group, what)
    except (ProcessLookupError, PermissionError):
        return False
    return True


if __name__ == "__main__":
    _watch()
