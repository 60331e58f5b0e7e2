"""The open environments of the embedded online store: each file once in a process, closed when nobody reads it any more."""

from __future__ import annotations

import errno
import os
import resource
import threading
import weakref
from collections import deque
from pathlib import Path

import lmdb
import msgspec

from millstream.buffer.embedded.environment import file_at, no_room, refuse_cut_short, whole
from millstream.buffer.embedded.lmdb_pages import refuse_broken_pages, refuse_broken_roots
from millstream.errors import CorruptState, DiskFull, Forked, MillstreamError, StoreError
from millstream.forks import leave_alone
from millstream.store.lmdb.check import opened, refuse_damaged, sealed
from millstream.store.online import ShardMeta

FORMAT = b"\xb2C"
UNCHECKED = b"M1"  # the format of before, whose records have no checksum
_READERS = 1024
DESCRIPTORS = 3  # file descriptors of an open environment
_MOST = 4096  # environments open at once, whatever the process may have: their maps are 64 TiB of addresses
_BROKEN = (
    lmdb.InvalidError, lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.PanicError, lmdb.VersionMismatchError,
    lmdb.IncompatibleError, lmdb.CursorFullError,
)  # fmt: skip
_META, _STATES = b"meta", b"states"
_DECODE, _ENCODE = msgspec.msgpack.Decoder(ShardMeta).decode, msgspec.msgpack.Encoder().encode


class _File:
    """An open environment, and how many shards of this process are read and written through it."""

    __slots__ = ("env", "main", "place", "states", "users")

    def __init__(self, folder: Path, map_gib: float, fsync: bool) -> None:
        self.users = 0
        with whole(folder, _READERS):
            refuse_broken_roots(folder / "data.mdb")
            self.env = lmdb.open(
                str(folder),
                map_size=int(map_gib * (1 << 30)),
                max_dbs=2,
                max_readers=_READERS,
                max_spare_txns=8,
                metasync=False,
                sync=fsync,
            )
            try:
                self.env.reader_check()
                refuse_cut_short(self.env, folder)
                self.place = file_at(folder)
                if self.place not in _looked_at:
                    refuse_broken_pages(self.env, folder / "data.mdb")
                    _looked_at.add(self.place)
                self.main = self.env.open_db(None)
                self.states = _states(self.env)
            except (lmdb.Error, OSError):
                self.env.close()
                raise


def _states(env: lmdb.Environment) -> lmdb._Database:
    """The database of the states; it is not made anew in a file that has had it."""
    with env.begin() as txn:
        new = not txn.stat()["entries"]
    try:
        return env.open_db(_STATES, create=new)
    except lmdb.NotFoundError as error:
        raise lmdb.CorruptedError("it has no states, which every shard has") from error


class Shard:
    """A handle on an open environment, which closes when the last reader lets go of its last handle, never under one."""

    __slots__ = ("__weakref__", "checked", "env", "folder", "known", "main", "states", "used")

    def __init__(self, folder: Path, file: _File) -> None:
        self.folder, self.env, self.main, self.states = folder, file.env, file.main, file.states
        self.known: tuple[bytes | None, ShardMeta | None] = (None, None)
        self.checked = self.used = True
        file.users += 1
        weakref.finalize(self, _let_go, file).atexit = False

    def encode(self, meta: ShardMeta) -> bytes:
        """The meta record, in the format that the shard was begun in."""
        raw = _ENCODE(meta)
        return FORMAT + sealed(_META, raw) if self.checked else UNCHECKED + raw

    def decode(self, raw: bytes | None) -> ShardMeta | None:
        """What a meta record says; the last one is kept, because most reads see the same one again.

        Notes whether the shard's records are `checked`. Raises `CorruptState`.
        """
        known, meta = self.known
        if raw == known:
            return meta
        if raw is None:  # seen by a reader that began before the first write, which another one has seen since
            return None
        if raw[:2] not in (FORMAT, UNCHECKED):
            raise CorruptState(
                f"Online store shard '{self.folder}': format {raw[:2]!r} is not the one read here, {FORMAT!r}.",
                "read it with the Millstream version that wrote it; if it is of this one, the shard is damaged, and "
                f"`millstream backfill {_group(self.folder)}` builds it again.",
            )
        checked = raw[:2] == FORMAT
        try:
            meta = _DECODE(opened(_META, raw[2:]) if checked else raw[2:])
        except (msgspec.DecodeError, lmdb.CorruptedError) as error:
            raise unreadable(self.folder, error) from error
        self.checked, self.known = checked, (raw, meta)
        return meta

    def refuse_lost_meta(self, txn: lmdb.Transaction[bytes]) -> None:
        """Raise `CorruptedError` when no meta was found although one was written."""
        if txn.stat(self.main)["entries"] > 1 or txn.stat(self.states)["entries"]:
            raise lmdb.CorruptedError("what it has applied is not to be found")


_files: dict[object, _File] = {}
_looked_at: set[object] = set()  # the places of files whose pages were looked at: once by each process
_opening = threading.Lock()  # nothing is opened or closed but under it: LMDB's locks on a file belong to the process
_ended: deque[_File] = deque()
_inherited: set[object] = set()  # the places of what a parent process has open


def _let_go(file: _File) -> None:
    """A handle has ended, in whichever thread and at whatever moment, so this waits for no lock."""
    _ended.append(file)
    _close_unused()


def _close_unused() -> None:
    """Close what has no handle left; if a lock holder is at it, it will look again when it has let go."""
    while _ended and _opening.acquire(blocking=False):
        try:
            _count_ended()
        finally:
            _opening.release()


def _count_ended() -> None:
    while _ended:
        file = _ended.popleft()
        file.users -= 1
        if file.users == 0 and _files.get(file.place) is file:
            del _files[file.place]
            file.env.close()


def _let_go_after_fork() -> None:
    """In a child process: closing what its parent has open would free the parent's slots among the readers."""
    global _opening
    _opening = threading.Lock()
    _ended.clear()
    leave_alone(list(_files.values()))
    _inherited.update(_files)
    _files.clear()


os.register_at_fork(after_in_child=_let_go_after_fork)


def open_shard(folder: Path, map_gib: float, fsync: bool, *, trusted: bool = False) -> Shard:
    """Return a handle on the file now at that place, which this process opens once.

    No other process may remove it meanwhile.

    Args:
        folder: the shard's folder, which is there; the file in it is made if it is missing.
        map_gib: the most it may grow to, in GiB.
        fsync: whether a write waits for the disk.
        trusted: whether a small file is not walked through first.

    Raises:
        CorruptState: when it is damaged.
        DiskFull: when there is no room.
        StoreError: when it cannot be opened.
        Forked: when a parent of this process has it open.
    """
    try:
        with _opening:
            _count_ended()
            place = file_at(folder)
            if place in _inherited:
                raise Forked.opened_before(folder)
            if place is not None and not trusted:
                refuse_damaged(folder)
            file = None if place is None else _files.get(place)
            if file is None:
                file = _File(folder, map_gib, fsync)
                _files[file.place] = file
            return Shard(folder, file)
    except (lmdb.Error, OSError) as error:
        raise failure(folder, error) from error
    finally:
        _close_unused()


def most_open() -> int:
    """Return how many environments this process may have open: half of its file descriptors, which it needs for more.

    >>> most_open() > 0
    True
    """
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MOST if allowed == resource.RLIM_INFINITY else min(_MOST, max(1, allowed // 2 // DESCRIPTORS))


def full() -> bool:
    """Return whether this process has as many environments open as it may."""
    _close_unused()
    return len(_files) >= most_open()


def failure(place: Path, error: Exception) -> MillstreamError:
    """The sentence for what LMDB or the file system said."""
    if isinstance(error, lmdb.MapFullError):
        return DiskFull(
            f"Online store shard '{place}' has filled its map.",
            "open the store with a larger `map_gib`; nothing acknowledged is lost.",
        )
    if isinstance(error, _BROKEN):
        return unreadable(place, error)
    if no_room(error, place):
        return DiskFull.writing(place)
    if getattr(error, "errno", getattr(error, "code", None)) in (errno.EMFILE, errno.ENFILE):
        return StoreError(
            f"Online store '{place}' cannot be opened: this process has too many files open.",
            "raise the limit (`ulimit -n`, LimitNOFILE of systemd); `millstream doctor` says how many are needed.",
        )
    if getattr(error, "errno", getattr(error, "code", None)) == errno.ENOMEM:
        return StoreError(
            f"Online store '{place}' cannot be opened: there is no address space left for its map.",
            "raise the limit (`ulimit -v`), or open the store with a smaller `map_gib`.",
        )
    if isinstance(error, lmdb.MapResizedError):
        return StoreError(
            f"Online store shard '{place}' has been made larger by another process than this one may read.",
            "open the store with the same `map_gib` everywhere.",
        )
    return StoreError(f"Online store '{place}' cannot be used: {error}.")


def unreadable(place: Path, error: Exception) -> CorruptState:
    """The sentence for a shard that is damaged."""
    return CorruptState(
        f"Online store shard '{place}' does not read as what was written: {error}.",
        f"run `millstream backfill {_group(place)}` to build it again from history.",
    )


def _group(shard: Path) -> str:
    return shard.parent.name.partition("@")[0]
