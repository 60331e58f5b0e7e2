"""An LMDB environment as this package opens it: once per process, never across a fork, errors in plain words."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import lmdb

from millstream.buffer.embedded.durability import Durability, give_up, recover
from millstream.buffer.embedded.gate import Gate, boot
from millstream.buffer.embedded.lmdb_pages import refuse_broken_pages, refuse_broken_roots
from millstream.disk import sync_folder
from millstream.errors import CorruptLog, DiskFull, LogError

_BROKEN = (
    lmdb.InvalidError,
    lmdb.CorruptedError,
    lmdb.VersionMismatchError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.CursorFullError,
    lmdb.IncompatibleError,
)
_ROOM = 1 << 20  # with less than this left on the disk, an I/O error is a full disk
_CHECK_READERS_EVERY = 256  # write transactions between two looks for readers whose process has died
_READERS = 512
_LOCK_HEAD, _LOCK_READER = 4096, 64  # bytes of a lock file, the first rounded up: LMDB takes a longer file as it is
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # a file system that cannot reserve blocks


class Environment:
    """A shared handle on one LMDB environment; get one with `open_environment`.

    Any number of processes may hold one on the same folder: writers wait for each other, readers wait for nobody.
    Within a process all holders share one handle, because LMDB's locks belong to the process.

    Args:
        path: its folder; made if it is missing.
        map_gib: the most it may grow to, in GiB.
        durable: whether what is committed is to outlive the machine, and not only the process.
    """

    def __init__(self, path: Path, map_gib: float, durable: bool) -> None:
        self.path = path
        self.holders = 0
        self._pid = os.getpid()
        self._writing = threading.local()
        self._writes = 0
        self._durability: Durability | None = None
        try:
            path.mkdir(parents=True, exist_ok=True)
            with exclusive(path), whole(path, _READERS):
                self._gate = Gate(path / "gate")
                self._open(map_gib, durable)
        except (lmdb.Error, OSError) as error:
            raise self._translated(error, "opened") from error

    def _open(self, map_gib: float, durable: bool) -> None:
        """Open the environment; where a boot cannot be told from another, LMDB itself waits for the disk."""
        now = boot()
        if now and durable:
            recover(self.path, now)
        refuse_broken_roots(self.path / "data.mdb")
        self._env = _opened(self.path, map_gib, durable, self_syncing=durable and not now)
        self._table = self._env.open_db(None)
        self.file = file_at(self.path)
        try:
            if now and durable:
                self._durability = Durability(self._env, self.path, self._gate, now)
            elif not durable:
                give_up(self.path, self._env.stat()["psize"])
        except OSError:
            self._env.close()
            raise

    @contextmanager
    def begin(self, write: bool = False, *, wait: bool = True) -> Iterator[lmdb.Transaction]:
        """Open a transaction, undone if the block raises; values are views into the map: copy what outlives it.

        What was written is durable after the block, or soon, where that need not be waited for. Others wait while a
        write is open: prepare it before.
        """
        self._refuse_misuse(write)
        try:
            if write:
                with self._written(wait) as transaction:
                    yield transaction
            else:
                with self._transaction(write) as transaction:
                    yield transaction
        except lmdb.Error as error:
            raise self._translated(error, "written" if write else "read") from error

    @property
    def page_size(self) -> int:
        """Bytes of a page."""
        return int(self._env.stat()["psize"])

    @property
    def map_size(self) -> int:
        """Bytes that it may grow to."""
        return int(self._env.info()["map_size"])

    def last_write(self) -> int:
        """The number of the newest transaction that any process has written; no transaction is begun for it.

        Raises:
            LogError: when this is not the process that opened it.
        """
        self._refuse_misuse(False)
        try:
            return int(self._env.info()["last_txnid"])
        except lmdb.Error as error:
            raise self._translated(error, "read") from error

    def last_page(self) -> int:
        """The number of the last page that was ever used."""
        return int(self._env.info()["last_pgno"])

    def pages(self, rows: lmdb.Transaction) -> int:
        """How many pages hold something, as a transaction sees it."""
        found = rows.stat(self._table)
        return int(found["branch_pages"] + found["leaf_pages"] + found["overflow_pages"])

    def settle(self, transaction: int) -> None:
        """Return when all that a transaction has seen is durable, so that what is done with it cannot un-happen."""
        if self._durability is not None:
            with self._waiting():
                self._durability.wait(transaction)

    @contextmanager
    def _written(self, wait: bool) -> Iterator[lmdb.Transaction]:
        """A write under the gate, and after it the wait for the disk."""
        durability = self._durability
        if durability is not None:
            with self._waiting():
                durability.begin()
        try:
            with self._gate.held():
                self._writing.now = True
                try:
                    with self._transaction(True) as transaction:
                        yield transaction
                    committed = self._env.info()["last_txnid"]
                finally:
                    self._writing.now = False
            if wait:
                self.settle(committed)
        finally:
            if durability is not None:
                durability.done()

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._translated(error, "written") from error

    def close(self) -> None:
        """Let go of the handle; the environment is closed with its last holder in this process."""
        with _guard:
            self.holders -= 1
            if self.holders == 0 and self._pid == os.getpid():
                if _open.get(self.path) is self:
                    del _open[self.path]
                if self._durability is not None:
                    self._durability.close()
                self._env.close()
                self._gate.close()

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
        if isinstance(error, lmdb.MapResizedError):
            return LogError(
                f"'{self.path}' has been made larger by another process than this one may read.",
                "start this process again: it takes the new 'log_gib' when it starts.",
            )
        if isinstance(error, _BROKEN):
            return CorruptLog(
                f"'{self.path}' does not hold a readable database ({error}).",
                "restore the folder from a copy, or move it away.",
            )
        if no_room(error, self.path):
            return DiskFull(f"The disk of '{self.path}' is full; nothing was written.", "make room, then try again.")
        return LogError(f"'{self.path}' could not be {done}: {error}.", "check the disk and the folder's permissions.")


def _opened(path: Path, map_gib: float, durable: bool, *, self_syncing: bool) -> lmdb.Environment:
    env = lmdb.open(
        str(path),
        map_size=int(map_gib * (1 << 30)),
        max_readers=_READERS,
        max_spare_txns=0,  # a reader kept for later would be freed by a forked child that closes its copy of the handle
        sync=self_syncing,
        metasync=self_syncing,
        meminit=False,
    )
    try:
        env.reader_check()
        refuse_cut_short(env, path)
        refuse_broken_pages(env, path / "data.mdb")
        if durable:
            for folder in (path, path.parent):
                sync_folder(folder)
    except (lmdb.Error, OSError):
        env.close()
        raise
    return env


@contextmanager
def exclusive(place: Path) -> Iterator[None]:
    """Keep the other processes that ask for the same folder or file waiting, for as long as the block lasts."""
    descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing would not do it while a child forked meanwhile is alive
    finally:
        os.close(descriptor)


@contextmanager
def whole(folder: Path, readers: int) -> Iterator[None]:
    """Open an environment in the block: wholly, or with nothing left of what was not there before.

    LMDB maps its lock file sparse, and a page of it that a full disk cannot hold would end the process by a signal;
    so the file gets its blocks first. Half a new `data.mdb`, too short to be opened ever again, is removed.

    Let nobody else open or remove the environment meanwhile, and do not enter while this process has it open: closing
    a file lets go of all the locks that the process has on it.

    Raises:
        OSError: when the disk has no room for the lock file.
    """
    data, lock = folder / "data.mdb", folder / "lock.mdb"
    begun = data.exists() and data.stat().st_size > 0
    try:
        _reserve(lock, _LOCK_HEAD + readers * _LOCK_READER)
        yield
    except (lmdb.Error, OSError):
        if not begun:
            data.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)
        raise


def _reserve(lock: Path, length: int) -> None:
    """Give a lock file its blocks; one that is there keeps its length, which other processes have mapped."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    found = os.fstat(descriptor)
    try:
        length = found.st_size or length
        if found.st_blocks * 512 >= length:
            return
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, length)
        elif not found.st_size:
            os.write(descriptor, bytes(length))
    except OSError as error:
        if not found.st_size:
            os.ftruncate(descriptor, 0)
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


def refuse_cut_short(env: lmdb.Environment, folder: Path) -> None:
    """Raise `CorruptedError` for a file that lacks its end: reading past it would end the process by a signal."""
    needed = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    if os.path.getsize(folder / "data.mdb") >= needed:
        return
    from lmdb.verify import VerifyError, verify

    with env.begin(write=True):  # keeps writers away while the file is walked
        try:
            problems = verify(str(folder))
        except VerifyError as error:
            problems = [str(error)]
    if problems:
        raise lmdb.CorruptedError(f"the file is cut short ({problems[0]})")


def no_room(error: Exception, place: Path) -> bool:
    """Whether a failure of LMDB or the file system is that of a full disk; a write cut short is called an I/O error."""
    code = getattr(error, "errno", getattr(error, "code", None))
    if code != errno.EIO:
        return code in (errno.ENOSPC, errno.EDQUOT)
    with suppress(OSError):
        return shutil.disk_usage(place).free < _ROOM
    return False


def file_at(folder: Path) -> tuple[int, int] | None:
    """What tells the `data.mdb` now in a folder from one that was there before; None when there is none."""
    try:
        found = os.stat(folder / "data.mdb")
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


_open: dict[Path, Environment] = {}
_guard = threading.Lock()


def _guard_anew() -> None:
    """Whichever thread of the parent process held the guard at a fork, it is not there to let go of it in the child."""
    global _guard
    _guard = threading.Lock()


os.register_at_fork(after_in_child=_guard_anew)


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
        if held is not None and (held.abandoned() or held.file != file_at(path)):
            held = None  # whoever holds a file that was removed keeps it
        if held is None:
            held = _open[path] = Environment(path, map_gib, durable)
        held.holders += 1
        return held
