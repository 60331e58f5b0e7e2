"""Which workers of a group are alive, on one machine: each holds the lock of a file of its own."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import struct
import threading
import time
import weakref
from collections.abc import Iterable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from millstream.buffer.embedded.pulse import BEAT, Pulse
from millstream.errors import DiskFull, LogError

_PATIENCE = 1.0  # seconds that the lock of a name is waited for
_NAME = 64  # bytes of a name in a file's name; a longer one is kept as its hash


def member_of(owner: str) -> bytes:
    """What stands for a worker where its partitions are written: 16 bytes."""
    return blake2b(owner.encode(), digest_size=16).digest()


class Membership:
    """One worker's place in its group.

    The system lets go of the lock of a process that dies, so the others know at the next look. One that is stopped
    keeps its lock, but its beat, a number in its file, stands still. One that is busy beats on (see `Pulse`).

    Args:
        folder: where the group's files are; made if it is missing.
        topics: of which topics this worker wants partitions.
        owner: its name; a new one unless given.
        lease: seconds after which one whose beat stands still counts as gone.
        patience: seconds for which it beats on without a word of the worker itself.

    Raises:
        LogError: when a worker of that name is at work, or the folder cannot be written.
        DiskFull: when there is no room.
    """

    def __init__(self, folder: Path, topics: Iterable[str], owner: str | None, lease: float, patience: float) -> None:
        self.owner = secrets.token_hex(8) if owner is None else owner
        self._path, self._lease = folder / _file_of(self.owner), lease
        self._topics = sorted(set(topics))
        self._seen: dict[str, tuple[int, float]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._take(folder)
            facts = json.dumps({"owner": self.owner, "topics": self._topics}).encode()
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, BEAT.pack(0) + facts, 0)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull.writing(folder) from None
            raise LogError(
                f"Worker '{self.owner}' cannot join the others in '{folder}': {error.strerror}.",
                "let the user of this process write there.",
            ) from None
        self._pulse = Pulse(self._file, lease, patience)
        self._closing = weakref.finalize(self, self._pulse.close)

    def _take(self, folder: Path) -> int:
        """The descriptor of this worker's file, locked; others hold the lock for a moment when they look."""
        end, pause = time.monotonic() + _PATIENCE, threading.Event()
        while True:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            if _locked(file) and _is(file, self._path):  # nobody has removed it meanwhile, for one that had died
                return file
            os.close(file)
            if time.monotonic() >= end:
                raise LogError(
                    f"Worker '{self.owner}' of '{folder}' is at work already.",
                    "end it first, or give each worker an owner of its own.",
                )
            pause.wait(0.01)

    def beat(self) -> None:
        """Show that this worker is alive."""
        self._pulse.beat()

    def alive(self) -> dict[bytes, list[str]]:
        """Who is alive, this one too, and of which topics each wants partitions; what the dead have left is removed.

        Raises:
            LogError: when the files cannot be read.
        """
        found = {member_of(self.owner): self._topics}
        now, seen = time.monotonic(), dict[str, tuple[int, float]]()
        try:
            names = sorted(os.listdir(self._path.parent))
        except OSError as error:
            raise LogError(
                f"The workers in '{self._path.parent}' cannot be read: {error.strerror}.", "see what the system says."
            ) from None
        for name in names:
            if name == self._path.name:
                continue
            known = _read(self._path.parent / name)
            if known is None:
                continue
            beat, owner, topics = known
            before = self._seen.get(name, (beat, now))
            seen[name] = before if before[0] == beat else (beat, now)
            if now - seen[name][1] < self._lease:
                found[member_of(owner)] = topics
        self._seen = seen
        return found

    def close(self) -> None:
        """Leave the group."""
        if self._closing.alive:
            with suppress(OSError):
                if _is(self._file, self._path):
                    self._path.unlink()
            self._closing()


def at_work(folder: Path) -> list[str]:
    """The names of the workers of a group that are alive.

    Args:
        folder: where the group's files are.
    """
    found = (_read(path) for path in sorted(folder.glob("*.worker")))
    return [known[1] for known in found if known is not None]


def _read(path: Path) -> tuple[int, str, list[str]] | None:
    """The beat, the name and the topics of another worker; None when it is gone, or only about to come."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if _locked(file):  # its worker is gone
            with suppress(OSError):
                if _is(file, path):
                    path.unlink()
            return None
        content = os.pread(file, 1 << 20, 0)
        facts = json.loads(content[BEAT.size :])
        return BEAT.unpack(content[: BEAT.size])[0], facts["owner"], facts["topics"]
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None
    finally:
        os.close(file)


def _locked(file: int) -> bool:
    """Whether the lock of a file could be taken."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is(file: int, path: Path) -> bool:
    """Whether an open file is the one that has a name now."""
    try:
        there, held = path.stat(), os.fstat(file)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)


def _file_of(owner: str) -> str:
    """The name of a worker's file."""
    plain = owner.isascii() and owner.replace("-", "").replace("_", "").isalnum() and len(owner) <= _NAME
    return f"{owner}.worker" if plain else f"{member_of(owner).hex()}.worker"
