"""Group commit for LMDB: commits that take microseconds, and one wait for the disk that many of them share.

LMDB can wait for the disk within each commit, while it holds its lock: then one append at a time is acknowledged, and a
process stopped in that wait stops all others. Or it does not wait at all (`MDB_NOSYNC`): then a loss of power may leave
a root on disk whose pages are not, because disks and file systems write in any order, and pages that the last durable
root still needs may have been written over. Neither will do. This is what `overlappingSync` of lmdb-js and the steady
points of libmdbx do, with the means that LMDB has:

1. A commit writes its pages and its root to the system and lets go of the lock. The death of any process harms nothing.
2. Whoever has to be sure takes a snapshot, waits for the disk, and only then writes down the snapshot's root, in a
   part of the root pages that LMDB does not use, and waits for the disk again. That root is *steady*: all of it is on
   disk. The two places for it are used in turn, so that a torn write never hits the only good one. All that was
   committed before the snapshot is durable from then on, whoever committed it.
3. A process that writes holds a reader, its *pin*, on a snapshot no newer than the steady root, and LMDB uses no page
   again that a reader may see. So nothing of the steady root is written over, whatever reaches the disk.
4. When the machine has been started anew since (its boot has another id), whoever opens the file first puts the steady
   root in the place of both roots: what was committed after it had not been acknowledged.

A reader that acts on what it read waits until that is steady, too: nothing that anybody did can un-happen.
"""

from __future__ import annotations

import os
import struct
import threading
import time
import weakref
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import lmdb

from millstream.buffer.embedded.gate import Gate
from millstream.errors import LogError

_MAGIC = b"MSsteady"
_STEADY = struct.Struct("<8s36sQQ152s")  # magic, boot, number, transaction, root; then a checksum
_CHECK = struct.Struct("<I")
_ROOT = 152  # bytes of a root page that LMDB uses: its header and MDB_meta
_PAGE_SIZE = struct.Struct("=I")
_PAGE_SIZE_AT, _TRANSACTION_AT = 40, 144
_NUMBER = struct.Struct("=Q")
_REACHED = struct.Struct("<36sQ")
_REACHED_AT = 64
_TURN = 1.0  # seconds after which a wait for the disk does without the turn of another, who may be frozen in it
_FORK = 1.0  # seconds that a fork waits for the writes of other threads
_LOOK = 0.25  # seconds between two looks at a pin; one that nobody wrote under meanwhile is let go of


@dataclass(frozen=True)
class _Steady:
    """A root all of which is on disk."""

    boot: str
    number: int
    transaction: int
    root: bytes

    def packed(self) -> bytes:
        body = _STEADY.pack(_MAGIC, self.boot.encode(), self.number, self.transaction, self.root)
        return body + _CHECK.pack(zlib.crc32(body))


class Durability:
    """Makes the commits of one environment durable, for all threads of this process, together with other processes.

    Args:
        env: the environment, opened without sync.
        folder: its folder.
        gate: the lock of those who write.
        boot: the id of this boot.
    """

    def __init__(self, env: lmdb.Environment, folder: Path, gate: Gate, boot: str) -> None:
        self._env, self._folder, self._gate, self._boot = env, folder, gate, boot
        self._data = os.open(folder / "data.mdb", os.O_RDWR | os.O_CLOEXEC)
        self._state = os.open(folder / "gate", os.O_RDWR | os.O_CLOEXEC)
        self._turns = Gate(folder / "turn")
        self._page = env.stat()["psize"]
        self._one = threading.Lock()
        self._pin: lmdb.Transaction | None = None
        self._pinned = -1
        self._keeper: threading.Thread | None = None
        self._writing = self._written = 0
        self._counts = threading.Lock()
        self._news = threading.Condition()
        self._leading = False
        self._failed: OSError | None = None
        self._patience = _TURN
        self._closed = threading.Event()
        _all.add(self)

    def begin(self) -> None:
        """Say that a write of this process begins; nothing of the steady root is written over until it is done."""
        if self._failed is not None:
            raise self._failed
        with self._counts:
            self._writing += 1
            self._written += 1
            if self._pin is not None:
                return
        with self._one:
            if self._pin is None:
                self._make_steady(keep=True)
            if self._keeper is None:
                self._keeper = threading.Thread(target=self._keep, name="log-pin", daemon=True)
                self._keeper.start()

    def done(self) -> None:
        """Say that a write is over."""
        with self._counts:
            self._writing -= 1

    def wait(self, transaction: int) -> None:
        """Return when a transaction is durable; many wait for one disk together."""
        while True:
            with self._news:
                while self._leading and self._reached() < transaction:
                    self._news.wait()
                if self._reached() >= transaction:
                    return
                if self._failed is not None:
                    raise self._failed
                self._leading = True
            try:
                with self._one, self._turn():
                    if self._reached() < transaction:
                        self._make_steady(keep=self._pin is not None)
            finally:
                with self._news:
                    self._leading = False
                    self._news.notify_all()

    def close(self) -> None:
        """Let go of the pin and the files."""
        self._closed.set()
        keeper = self._keeper
        if keeper is not None:
            keeper.join(5.0)
        with self._one:
            self._drop()
        self._turns.close()
        os.close(self._state)
        os.close(self._data)

    def before_fork(self) -> None:
        """Let go of the pin: a child that closes its copy of the environment would free this process's reader."""
        end = time.monotonic() + _FORK
        while time.monotonic() < end and self._one.acquire(timeout=_FORK):
            try:
                with self._counts:
                    if not self._writing:
                        self._drop()
                        return
            finally:
                self._one.release()
            self._closed.wait(0.001)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for the disk one after the other, so that one wait serves all who came during the one before."""
        turn = self._turns.held(self._patience)
        try:
            turn.__enter__()
        except LogError:  # frozen perhaps; two waits at once harm nobody
            self._patience = 0.0
            yield
            return
        self._patience = _TURN
        try:
            yield
        finally:
            turn.__exit__(None, None, None)

    def _make_steady(self, *, keep: bool) -> None:
        """Make the newest root steady; `keep` its snapshot as the pin, instead of the one before."""
        snapshot, root = self._snapshot()
        transaction = snapshot.id()
        try:
            if self._reached() < transaction:
                os.fdatasync(self._data)
                self._write_down(transaction, root)
                os.fdatasync(self._data)
                self._publish(transaction)
        except OSError as error:
            snapshot.abort()
            self._failed = error  # what the system could not write it has forgotten: asking again would say "done"
            raise
        except BaseException:
            snapshot.abort()
            raise
        if keep:
            self._drop()
            self._pin, self._pinned = snapshot, transaction
        else:
            snapshot.abort()

    def _snapshot(self) -> tuple[lmdb.Transaction, bytes]:
        """A snapshot and its root, which two commits more would write over: then a newer one is taken."""
        for attempt in range(50):
            if attempt < 40:
                found = self._look()
            else:
                with self._gate.held():
                    found = self._look()
            if found is not None:
                return found
        raise LogError(f"'{self._folder}': the root of a snapshot cannot be read.", "run `millstream doctor`.")

    def _look(self) -> tuple[lmdb.Transaction, bytes] | None:
        snapshot = self._env.begin()
        transaction = snapshot.id()
        place = (transaction & 1) * self._page
        root = os.pread(self._data, _ROOT, place)
        if _NUMBER.unpack_from(root, _TRANSACTION_AT)[0] == transaction and os.pread(self._data, _ROOT, place) == root:
            return snapshot, root
        if transaction == 0:  # nothing was ever written
            return snapshot, root
        snapshot.abort()
        return None

    def _write_down(self, transaction: int, root: bytes) -> None:
        with self._gate.held():  # whoever was frozen on the way here must not put an older root over a newer one
            newest = newest_steady(self._data, self._page)
            number = 0 if newest is None else newest.number + 1
            if newest is None or newest.boot != self._boot or newest.transaction < transaction:
                steady = _Steady(self._boot, number, transaction, root)
                os.pwrite(self._data, steady.packed(), _place(number, self._page))

    def _reached(self) -> int:
        """The newest transaction that is known to be durable; -1 when nobody has said so since the machine started."""
        stored = os.pread(self._state, _REACHED.size, _REACHED_AT)
        if len(stored) < _REACHED.size:
            return -1
        boot, transaction = _REACHED.unpack(stored)
        return int(transaction) if boot == self._boot.encode() else -1

    def _publish(self, transaction: int) -> None:
        if self._reached() < transaction:
            os.pwrite(self._state, _REACHED.pack(self._boot.encode(), transaction), _REACHED_AT)

    def _drop(self) -> None:
        if self._pin is not None:
            self._pin.abort()
            self._pin = None

    def _keep(self) -> None:
        """Renew the pin while this process writes, so that pages are used again; let go of it when it does not."""
        seen = -1
        while not self._closed.wait(_LOOK):
            with self._one:
                with self._counts:
                    idle = not self._writing and self._written == seen
                    if idle:
                        self._drop()
                        self._keeper = None
                        return
                    seen = self._written
                if self._pinned < self._reached():
                    with suppress(OSError, LogError, lmdb.Error):
                        self._make_steady(keep=True)


_all: weakref.WeakSet[Durability] = weakref.WeakSet()


def _before_fork() -> None:
    for one in list(_all):
        one.before_fork()


os.register_at_fork(before=_before_fork)


def newest_steady(data: int, page: int) -> _Steady | None:
    """The newest steady root that a file holds."""
    found = [one for slot in (0, 1) if (one := _read_steady(data, _place(slot, page))) is not None]
    return max(found, key=lambda one: one.number, default=None)


def recover(folder: Path, boot: str) -> None:
    """Put the steady root in its place when the machine has been started anew since it was written down.

    Nobody else may open the environment meanwhile.

    Raises:
        OSError: when the file cannot be written.
    """
    path = folder / "data.mdb"
    if not path.exists() or path.stat().st_size < _ROOT:
        return
    data = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        page = int(_PAGE_SIZE.unpack(os.pread(data, _PAGE_SIZE.size, _PAGE_SIZE_AT))[0])
        if not 512 <= page <= 1 << 16:
            return
        steady = newest_steady(data, page)
        if steady is None or steady.boot == boot or not steady.transaction:
            return
        newest = max(_NUMBER.unpack(os.pread(data, 8, slot * page + _TRANSACTION_AT))[0] for slot in (0, 1))
        if newest > steady.transaction:  # the file of an older day has no steady root of now
            for slot in (0, 1):
                os.pwrite(data, _NUMBER.pack(slot) + steady.root[_NUMBER.size :], slot * page)
            os.fdatasync(data)
    finally:
        os.close(data)


def give_up(folder: Path, page: int) -> None:
    """Say that no root is steady any more, before the environment is used without waiting for the disk."""
    data = os.open(folder / "data.mdb", os.O_RDWR | os.O_CLOEXEC)
    try:
        newest = newest_steady(data, page)
        if newest is not None and newest.transaction:
            number = newest.number + 1
            for slot in (number, number + 1):
                os.pwrite(data, _Steady("", slot, 0, b"").packed(), _place(slot, page))
            os.fdatasync(data)
    finally:
        os.close(data)


def _place(number: int, page: int) -> int:
    """Where in the file a steady root of that number goes: the later halves of the two root pages, in turn."""
    return (number & 1) * page + page // 2


def _read_steady(data: int, place: int) -> _Steady | None:
    stored = os.pread(data, _STEADY.size + _CHECK.size, place)
    if len(stored) < _STEADY.size + _CHECK.size or stored[: len(_MAGIC)] != _MAGIC:
        return None
    body = stored[: _STEADY.size]
    if _CHECK.unpack_from(stored, _STEADY.size)[0] != zlib.crc32(body):
        return None
    _, boot, number, transaction, root = _STEADY.unpack(body)
    return _Steady(boot.rstrip(b"\0").decode(errors="replace"), number, transaction, root)
