"""An LMDB environment as this package opens it: once per process, never across a fork, errors in plain words."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import lmdb

from millstream.errors import DiskFull, LogError

_ROOM = 1 << 20  # with less than this left on the disk, a failed write is a full disk
_CHECK_READERS_EVERY = 256  # write transactions between two looks for readers whose process has died


class Environment:
    """A shared handle on one LMDB environment; get one with `open_environment`.

    Any number of processes may hold one on the same folder: writers wait for each other, readers wait for nobody.
    Within a process all holders share one handle, because LMDB's locks belong to the process.
    """

    def __init__(self, path: Path, map_gib: float, durable: bool) -> None:
        self.path = path
        self.holders = 0
        self._pid = os.getpid()
        self._writing = threading.local()
        self._writes = 0
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._env = lmdb.open(
                str(path),
                map_size=int(map_gib * (1 << 30)),
                max_readers=512,
                sync=durable,
                metasync=durable,
                meminit=False,
            )
            self._env.reader_check()
            if durable:
                _sync_folders(path)
        except (lmdb.Error, OSError) as error:
            raise self._translated(error, "opened") from error

    @contextmanager
    def begin(self, write: bool = False) -> Iterator[lmdb.Transaction]:
        """Open a transaction, undone if the block raises; values are views into the map: copy what outlives it."""
        self._refuse_misuse(write)
        try:
            with self._transaction(write) as transaction:
                if not write:
                    yield transaction
                    return
                self._writing.now = True
                try:
                    yield transaction
                finally:
                    self._writing.now = False
        except lmdb.Error as error:
            raise self._translated(error, "written" if write else "read") from error

    def close(self) -> None:
        """Let go of the handle; the environment is closed with its last holder in this process."""
        with _guard:
            self.holders -= 1
            if self.holders == 0 and self._pid == os.getpid():
                _open.pop(self.path, None)
                self._env.close()

    def abandoned(self) -> bool:
        """Whether this is a parent process's handle; then it is let go of here, without a trace in the parent."""
        if self._pid == os.getpid():
            return False
        self._env.close()
        return True

    def _transaction(self, write: bool) -> lmdb.Transaction:
        """Begin, after clearing the slots of dead readers, which would keep old pages from being used again."""
        if write:
            self._writes += 1
            if self._writes % _CHECK_READERS_EVERY == 0:
                self._env.reader_check()
        try:
            return self._env.begin(write=write, buffers=True)
        except lmdb.ReadersFullError:
            self._env.reader_check()
            return self._env.begin(write=write, buffers=True)

    def _refuse_misuse(self, write: bool) -> None:
        if self._pid != os.getpid():
            raise LogError(
                f"'{self.path}' was opened before this process was forked; its handle is not valid here.",
                "open it in the child, or start processes with 'spawn'.",
            )
        if write and getattr(self._writing, "now", False):
            raise LogError(
                f"'{self.path}' is being written by this thread already; a second write would wait for ever.",
                "append and commit through the open transaction.",
            )

    def _translated(self, error: Exception, done: str) -> DiskFull | LogError:
        """LMDB's error in our words; a write cut short by a full disk reaches us as an I/O error."""
        if isinstance(error, lmdb.MapFullError):
            return DiskFull(
                f"'{self.path}' has reached the size it may grow to; nothing was written.",
                "raise 'log_gib' in millstream.toml, or shorten the retention of the largest streams.",
            )
        with suppress(OSError):
            if isinstance(error, lmdb.Error | OSError) and shutil.disk_usage(self.path).free < _ROOM:
                return DiskFull(
                    f"The disk of '{self.path}' is full; nothing was written.", "make room, then try again."
                )
        if isinstance(error, lmdb.InvalidError | lmdb.CorruptedError | lmdb.VersionMismatchError):
            return LogError(
                f"'{self.path}' does not hold a readable database ({error}).",
                "restore the folder from a copy, or move it away.",
            )
        return LogError(f"'{self.path}' could not be {done}: {error}.", "check the disk and the folder's permissions.")


def _sync_folders(path: Path) -> None:
    """Put the names of new files on disk as well: without them, what is in the files is lost with the power."""
    for folder in (path, path.parent):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


_open: dict[Path, Environment] = {}
_guard = threading.Lock()


def open_environment(path: Path, map_gib: float, *, durable: bool = True) -> Environment:
    """Open the LMDB environment in a folder, or share this process's handle on it.

    Args:
        path: the folder; made if it is missing.
        map_gib: most it may grow to, in GiB.
        durable: whether a finished transaction survives a loss of power; a killed process never harms it.

    Raises:
        LogError: when it cannot be opened.
        DiskFull: when the disk is full.
    """
    path = Path(path).resolve()
    with _guard:
        held = _open.get(path)
        if held is not None and held.abandoned():
            held = None
        if held is None:
            held = _open[path] = Environment(path, map_gib, durable)
        held.holders += 1
        return held
