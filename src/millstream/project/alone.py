"""What one process of a project does at a time, on whatever host it is."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Protocol

from millstream.project.parts import Parts

LOOK = 1.0
"""Seconds between two looks whether a turn has come, or is over."""


class Held(Protocol):
    """A lock that this process has taken."""

    @property
    def held(self) -> bool:
        """Whether it still has it."""
        ...


@contextmanager
def alone(parts: Parts, what: str, *, wait: bool) -> Iterator[bool]:
    """Do something that no other process or thread of the project does meanwhile; the death of a process lets go.

    Where the registry is in a server, that holds for the processes of all hosts; else for those that share a data folder.

    Args:
        parts: the project.
        what: what is done, such as "backfill habits@1".
        wait: whether to wait for another one that does it.

    Yields:
        Whether nobody else does it.

    Raises:
        StoreError: when the registry cannot be asked.
    """
    with _lock(parts, what, wait=wait) as lock:
        yield lock is not None


class Turn:
    """Something that one process does for as long as it lives, while others stand by and take over when it dies.

    A server that starts anew forgets whose turn it is, so for a second two may believe that it is theirs: what they do must be
    right then, too.

    Args:
        parts: the project.
        what: what is done, such as "sync".
    """

    def __init__(self, parts: Parts, what: str) -> None:
        self._parts, self._what = parts, what
        self._open = ExitStack()
        self._lock: Held | None = None
        self._looked = -LOOK

    def mine(self) -> bool:
        """Whether it is this process's turn; whoever keeps the locks is asked once a second.

        Raises:
            StoreError: when the registry cannot be asked.
        """
        if time.monotonic() - self._looked >= LOOK:
            if self._lock is None or not self._lock.held:
                self.close()
                self._lock = self._open.enter_context(_lock(self._parts, self._what, wait=False))
            self._looked = time.monotonic()
        return self._lock is not None

    def close(self) -> None:
        """Leave it to another process."""
        self._lock = None
        self._open.close()


def _lock(parts: Parts, what: str, *, wait: bool) -> AbstractContextManager[Held | None]:
    locks = parts.registry.locks
    return locks.alone(what, wait=wait) if locks.shared else _locked_file(parts, what, wait=wait)


class _LockedFile:
    held = True


@contextmanager
def _locked_file(parts: Parts, what: str, *, wait: bool) -> Iterator[_LockedFile | None]:
    folder = parts.settings.data / "operations"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / what.replace(" ", ".")).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield None
            return
        try:
            yield _LockedFile()
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
