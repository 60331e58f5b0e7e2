"""The embedded online store: one LMDB environment per group version and shard.

States and positions are written in one transaction, so a shard is always exactly the fold of what its meta says it has
applied. Data pages are synced before a commit is acknowledged. The commit's own root page is synced with the next one:
the death of the process loses nothing, and a power failure loses at most the last write, positions included, which
ingestion then reads from the log again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path

import lmdb
import msgspec

from millstream.buffer.environment import exclusive, file_at, no_room, refuse_cut_short, whole
from millstream.errors import CorruptState, DiskFull, Fenced, MillstreamError, StoreError
from millstream.store.online import ShardMeta

_META = b"meta"
_FORMAT = b"M1"
_DROPPED = b"dropped"
_LONGEST = 500
_HEAD = 479
_READERS = 1024
_LOOKS = 3  # how often a read looks again for a shard that was dropped under it
_BROKEN = (lmdb.InvalidError, lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.PanicError, lmdb.VersionMismatchError)
_ENCODE = msgspec.msgpack.Encoder().encode
_DECODE = msgspec.msgpack.Decoder(ShardMeta).decode


class _File:
    """An open environment, and how many shards of this process are read and written through it."""

    __slots__ = ("env", "main", "place", "states", "users")

    def __init__(self, folder: Path, map_gib: float, fsync: bool) -> None:
        self.users = 0
        with whole(folder, _READERS):
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
                self.main = self.env.open_db(None)
                self.states = self.env.open_db(b"states")
                self.place = file_at(folder)
            except (lmdb.Error, OSError):
                self.env.close()
                raise


class _Shard:
    """A handle on an open environment, which closes when the last reader lets go of its last handle, never under one."""

    __slots__ = ("__weakref__", "env", "folder", "known", "main", "states")

    def __init__(self, folder: Path, file: _File) -> None:
        self.folder, self.env, self.main, self.states = folder, file.env, file.main, file.states
        self.known: tuple[bytes | None, ShardMeta | None] = (None, None)
        file.users += 1
        weakref.finalize(self, _let_go, file).atexit = False

    def decode(self, raw: bytes | None) -> ShardMeta | None:
        """The meta record; the last one is kept, because most reads see the same one again."""
        known, meta = self.known
        if raw == known:
            return meta
        if raw is None:  # seen by a reader that began before the first write, which another one has seen since
            return None
        if raw[:2] != _FORMAT:
            raise CorruptState(
                f"Online store shard '{self.folder}': format {raw[:2]!r} is not the one read here, {_FORMAT!r}.",
                "read it with the Millstream version that wrote it.",
            )
        try:
            meta = _DECODE(raw[2:])
        except msgspec.DecodeError as error:
            raise _unreadable(self.folder, error) from error
        self.known = (raw, meta)
        return meta


_files: dict[object, _File] = {}
_opening = threading.Lock()  # nothing is opened or closed but under it: LMDB's locks on a file belong to the process
_forks = 0  # between this process and the first: counted, because asking for the process id costs each read a system call
_ended: deque[_File] = deque()
_inherited: dict[object, _File] = {}  # kept: closing what a parent process opened would free the parent's reader slots


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
    global _forks, _opening
    _forks += 1
    _opening = threading.Lock()
    _ended.clear()
    _inherited.update(_files)
    _files.clear()


os.register_at_fork(after_in_child=_let_go_after_fork)


class LmdbOnlineStore:
    """The online store of a project on one machine: no server, any number of processes and threads.

    Args:
        path: the folder of the store; a shard is the folder `{group version}/{shard}` in it.
        map_gib: the most a shard may grow to, in GiB of sparse address space (default 16).
        fsync: whether a write waits for the disk; without, it outlives any process but not the machine.

    Raises:
        CorruptState: when a shard's file cannot be read as what was written.
        DiskFull: when a write finds no room; the shard keeps what it had.

    >>> import tempfile
    >>> store = LmdbOnlineStore(tempfile.mkdtemp())
    >>> store.write("velocity@1", 0, [(b"user-1", b"state")], ShardMeta(position=1), expected=None)
    >>> states, meta = store.read("velocity@1", 0, [b"user-1", b"user-2"])
    >>> states, meta.position
    ([b'state', None], 1)
    """

    def __init__(self, path: str | Path, map_gib: float = 16, *, fsync: bool = True) -> None:
        self._path = Path(path)
        self._map_gib, self._fsync = map_gib, fsync
        self._forks = _forks
        self._shards: dict[tuple[str, int], _Shard] = {}

    def read(self, gv: str, shard: int, keys: Sequence[bytes]) -> tuple[list[bytes | None], ShardMeta | None]:
        """The states of the keys and the shard's meta, from one snapshot; see `OnlineStore.read`."""
        for _ in range(_LOOKS):
            handle = self._handle(gv, shard)
            if handle is None:
                break
            try:
                with handle.env.begin(handle.states) as txn:
                    raw = txn.get(_META, None, handle.main)
                    if raw != _DROPPED:
                        get = txn.get
                        return [get(k) if 0 < len(k) <= _LONGEST else _unwrap(get(_stored(k)), k) for k in keys], (
                            handle.decode(raw)
                        )
            except lmdb.Error as error:
                _look_again(handle, error)
            self._forget(gv, shard, handle)
        return [None] * len(keys), None

    def meta(self, gv: str, shard: int) -> ShardMeta | None:
        """What the shard has applied, or None when it does not exist."""
        return self.read(gv, shard, ())[1]

    def write(
        self,
        gv: str,
        shard: int,
        items: Sequence[tuple[bytes, bytes | None]],
        meta: ShardMeta,
        expected: int | None,
    ) -> None:
        """Write states and meta together, or nothing; see `OnlineStore.write`. Sorted keys are written fastest."""
        puts, deletes = _separate(items)
        raw = _FORMAT + _ENCODE(meta)
        while True:
            handle = self._handle(gv, shard) or self._create(gv, shard)
            try:
                with handle.env.begin(write=True) as txn:
                    found = txn.get(_META, None, handle.main)
                    if found != _DROPPED:
                        _write(txn, handle, (puts, deletes, raw), expected, f"shard {shard} of '{gv}'")
                        return
            except lmdb.Error as error:
                raise _failure(handle.folder, error) from error
            self._forget(gv, shard, handle)
            del handle
            self._finish_drop(gv, shard)

    def scan(self, gv: str, shard: int, after: bytes | None = None, limit: int = 10_000) -> list[tuple[bytes, bytes]]:
        """Up to `limit` pairs after the key `after`, from one snapshot; see `OnlineStore.scan`."""
        for _ in range(_LOOKS):
            handle = self._handle(gv, shard)
            if handle is None:
                break
            try:
                with handle.env.begin(handle.states) as txn:
                    if txn.get(_META, None, handle.main) != _DROPPED:
                        return _page(txn.cursor(), None if after is None else _stored(after), limit)
            except lmdb.Error as error:
                _look_again(handle, error)
            self._forget(gv, shard, handle)
        return []

    def drop(self, gv: str) -> None:
        """Remove every shard of a group version; other processes see it gone at their next read."""
        with self._exclusive():
            self._remove(gv)
        self._sweep()

    def _handle(self, gv: str, shard: int) -> _Shard | None:
        """The open environment of a shard, or None when it does not exist."""
        if self._forks != _forks:
            raise _forked(self._path)
        handle = self._shards.get((gv, shard))
        if handle is None and (self._path / gv / str(shard) / "data.mdb").exists():
            with self._exclusive():
                handle = self._found(gv, shard)
        return handle

    def _found(self, gv: str, shard: int) -> _Shard | None:
        folder = self._path / gv / str(shard)
        if not (folder / "data.mdb").exists():
            return None
        handle = self._shards[gv, shard] = _open(folder, self._map_gib, self._fsync)
        return handle

    def _forget(self, gv: str, shard: int, handle: _Shard) -> None:
        """Look for the shard anew at the next read, unless another thread has done so."""
        if self._shards.get((gv, shard)) is handle:
            self._shards.pop((gv, shard), None)

    def _create(self, gv: str, shard: int) -> _Shard:
        with self._exclusive():
            folder = self._path / gv / str(shard)
            folder.mkdir(parents=True, exist_ok=True)
            handle = self._shards[gv, shard] = _open(folder, self._map_gib, self._fsync)
            return handle

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Making, opening and removing shards is rare, and done by one process at a time.

        LMDB opens a shard's two files one after the other: removed and begun anew in between, they would not match.
        """
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            (self._path / "lock").touch()
            with exclusive(self._path / "lock"):
                yield
        except OSError as error:
            raise _failure(self._path, error) from error

    def _finish_drop(self, gv: str, shard: int) -> None:
        """Remove what a process that died while dropping has left marked."""
        with self._exclusive():
            handle = self._found(gv, shard)
            if handle is None:
                return
            with handle.env.begin() as txn:
                marked = txn.get(_META, None, handle.main) == _DROPPED
            if marked:
                self._remove(gv)
        self._sweep()

    def _remove(self, gv: str) -> None:
        """Mark each shard, so that whoever has it open lets go, then take the folder away in one rename."""
        folder = self._path / gv
        for place in sorted(folder.glob("*/data.mdb")):
            try:
                _mark_dropped(_open(place.parent, self._map_gib, self._fsync))
            except CorruptState:
                continue  # nobody else can read it either
        self._shards = {key: handle for key, handle in list(self._shards.items()) if key[0] != gv}
        if folder.exists():
            os.rename(folder, next(free for n in count() if not (free := self._path / f".dropped.{n}.{gv}").exists()))

    def _sweep(self) -> None:
        """Remove what was taken away, by this process or by one that died before it could."""
        for leftover in self._path.glob(".dropped.*"):
            shutil.rmtree(leftover, ignore_errors=True)


def _open(folder: Path, map_gib: float, fsync: bool) -> _Shard:
    """A handle on the file now at that place, which this process opens once; no other process may remove it meanwhile."""
    try:
        with _opening:
            _count_ended()
            place = file_at(folder)
            if place in _inherited:
                raise _forked(folder)
            file = None if place is None else _files.get(place)
            if file is None:
                file = _File(folder, map_gib, fsync)
                _files[file.place] = file
            return _Shard(folder, file)
    except (lmdb.Error, OSError) as error:
        raise _failure(folder, error) from error
    finally:
        _close_unused()


def _mark_dropped(handle: _Shard) -> None:
    try:
        with handle.env.begin(write=True) as txn:
            txn.put(_META, _DROPPED, db=handle.main)
    except lmdb.Error as error:
        raise _failure(handle.folder, error) from error


def _look_again(handle: _Shard, error: lmdb.Error) -> None:
    """Return when a read may succeed now: the slots of readers were all taken, some by processes that have died."""
    if isinstance(error, lmdb.ReadersFullError) and handle.env.reader_check():
        return
    raise _failure(handle.folder, error) from error


def _write(
    txn: lmdb.Transaction[bytes],
    handle: _Shard,
    work: tuple[list[tuple[bytes, bytes]], list[bytes], bytes],
    expected: int | None,
    what: str,
) -> None:
    puts, deletes, raw = work
    before = txn.get(_META, None, handle.main)
    found = None if before is None else _position(handle, before)
    if found != expected:
        raise Fenced.moved(what, expected, found)
    if puts:
        txn.cursor(handle.states).putmulti(puts)
    for key in deletes:
        txn.delete(key, db=handle.states)
    txn.put(_META, raw, db=handle.main)


def _position(handle: _Shard, raw: bytes) -> int | None:
    meta = handle.decode(raw)
    return None if meta is None else meta.position


def _separate(items: Sequence[tuple[bytes, bytes | None]]) -> tuple[list[tuple[bytes, bytes]], list[bytes]]:
    """Stored pairs to put and stored keys to delete."""
    puts = [(key, value) for key, value in items if value is not None]
    deletes = [_stored(key) for key, value in items if value is None] if len(puts) < len(items) else []
    lengths = {len(key) for key, _ in puts}
    if lengths and (max(lengths) > _LONGEST or not min(lengths)):
        puts = [(_stored(key), value if 0 < len(key) <= _LONGEST else _wrap(key, value)) for key, value in puts]
    return puts, deletes


def _stored(key: bytes) -> bytes:
    """The key as LMDB takes it: itself, or (empty or long) 511 bytes of its head and hash, a length no other has."""
    if 0 < len(key) <= _LONGEST:
        return key
    return key[:_HEAD].ljust(_HEAD, b"\0") + hashlib.blake2b(key, digest_size=32).digest()


def _wrap(key: bytes, value: bytes) -> bytes:
    return len(key).to_bytes(4, "big") + key + value


def _unwrap(stored: bytes | None, key: bytes) -> bytes | None:
    if stored is None or stored[4 : 4 + len(key)] != key:
        return None
    return stored[4 + len(key) :]


def _page(cursor: lmdb.Cursor[bytes], after: bytes | None, limit: int) -> list[tuple[bytes, bytes]]:
    if not (cursor.first() if after is None else cursor.set_range(after)):
        return []
    if cursor.key() == after and not cursor.next():
        return []
    pairs = list(islice(cursor.iternext(), limit))
    return [_whole(*pair) if len(pair[0]) > _LONGEST else pair for pair in pairs]


def _whole(_: bytes, stored: bytes) -> tuple[bytes, bytes]:
    end = 4 + int.from_bytes(stored[:4], "big")
    return stored[4:end], stored[end:]


def _forked(place: Path) -> StoreError:
    return StoreError(
        f"Online store '{place}' was opened before this process was forked; LMDB does not reach across a fork.",
        "open the store in the child process, and start children by 'spawn'.",
    )


def _failure(place: Path, error: Exception) -> MillstreamError:
    """The sentence for what LMDB or the file system said."""
    if isinstance(error, lmdb.MapFullError):
        return DiskFull(
            f"Online store shard '{place}' has filled its map.",
            "open the store with a larger `map_gib`; nothing acknowledged is lost.",
        )
    if isinstance(error, _BROKEN):
        return _unreadable(place, error)
    if no_room(error, place):
        return DiskFull.writing(place)
    if isinstance(error, lmdb.MapResizedError):
        return StoreError(
            f"Online store shard '{place}' has been made larger by another process than this one may read.",
            "open the store with the same `map_gib` everywhere.",
        )
    return StoreError(f"Online store '{place}' cannot be used: {error}.")


def _unreadable(place: Path, error: Exception) -> CorruptState:
    return CorruptState(
        f"Online store shard '{place}' does not read as what was written: {error}.",
        f"run `millstream backfill {place.parent.name.partition('@')[0]}` to build it again from history.",
    )
