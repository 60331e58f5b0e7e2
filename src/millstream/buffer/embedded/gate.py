"""A lock between processes whose holder is known, and which nobody waits for without end."""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from millstream.errors import LogError

PATIENCE = 60.0
"""Seconds that a writer waits for the others; a supervisor has ended a layer that is frozen well before."""
_FIRST_WAIT, _LONGEST_WAIT = 20e-6, 1e-3
_HOLDER = struct.Struct("<q")
_LENGTH = 128


class Gate:
    """Lets one writer of a folder in at a time, over all threads and processes.

    LMDB has such a lock of its own, but a process that is stopped (SIGSTOP, a paused container) while it holds it
    keeps all others waiting for ever, in C, without a word. This one is taken before, so that those who wait can say
    for whom. It is let go of by the system when its holder dies.

    Args:
        file: the file that is locked, and that says who holds it; made if it is missing.
    """

    def __init__(self, file: Path) -> None:
        self._path = file
        self._file = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._threads = threading.Lock()
        if (
            os.fstat(self._file).st_size < _LENGTH
        ):  # all that is ever written here has its place on the disk from now on
            os.pwrite(self._file, bytes(_LENGTH - _HOLDER.size), _HOLDER.size)

    @contextmanager
    def held(self, patience: float = PATIENCE) -> Iterator[None]:
        """Hold the gate for the length of the block.

        Raises:
            LogError: when somebody else has held it for as long as this one had patience.
        """
        end = time.monotonic() + patience
        if not self._threads.acquire(timeout=patience):
            raise self._taken(patience, os.getpid())
        try:
            self._wait(end, patience)
            os.pwrite(self._file, _HOLDER.pack(os.getpid()), 0)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)
        finally:
            self._threads.release()

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def _wait(self, end: float, patience: float) -> None:
        wait = _FIRST_WAIT
        pause = threading.Event().wait
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise self._taken(patience, self._holder()) from None
            pause(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    def _holder(self) -> int:
        stored = os.pread(self._file, _HOLDER.size, 0)
        return int(_HOLDER.unpack(stored)[0]) if len(stored) == _HOLDER.size else 0

    def _taken(self, patience: float, pid: int) -> LogError:
        doing = _state_of(pid)
        return LogError(
            f"'{self._path.parent}' has been held by process {pid}{doing} for {patience:.0f} s; nothing was written.",
            f"see what process {pid} does; if it is stopped, `kill -CONT {pid}` lets it go on, `kill -9 {pid}` ends it.",
        )


def _state_of(pid: int) -> str:
    """What the system says of a process: ", which is stopped," or nothing."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
    return ", which is stopped," if state in ("T", "t") else ""


def boot() -> str:
    """What tells one boot of this machine from another; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
