"""The embedded online store: one LMDB environment per group version and shard.

States and positions are written in one transaction, so a shard is always exactly the fold of what its meta says it has
applied. Data pages are synced before a commit is acknowledged. The commit's own root page is synced with the next one:
the death of the process loses nothing, and a power failure loses at most the last write, positions included, which
ingestion then reads from the log again.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from weakref import WeakValueDictionary

import lmdb
import msgspec

from millstream.errors import CorruptState, DiskFull, Fenced, MillstreamError, StoreError
from millstream.store.online import ShardMeta

_META = b"meta"
_FORMAT = b"M1"
_DROPPED = b"dropped"
_LONGEST = 500
_HEAD = 479
_BROKEN = (lmdb.InvalidError, lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.PanicError, lmdb.VersionMismatchError)
_ENCODE = msgspec.msgpack.Encoder().encode
_DECODE = msgspec.msgpack.Decoder(ShardMeta).decode


class _Shard:
    """One open environment. It closes when the last reader lets go of it, never under one."""

    __slots__ = ("__weakref__", "env", "folder", "inode", "known", "main", "states", "where")

    def __init__(self, folder: Path, map_gib: float, fsync: bool) -> None:
        self.folder = folder
        self.where = os.path.realpath(folder)
        there = _inode(folder)
        self.env = lmdb.open(
            str(folder),
            map_size=int(map_gib * (1 << 30)),
            max_dbs=2,
            max_readers=1024,
            max_spare_txns=8,
            metasync=False,
            sync=fsync,
        )
        try:
            self.env.reader_check()
            self._check_length()
            self.main = self.env.open_db(None)
            self.states = self.env.open_db(b"states")
            self.inode = self._current(there)
        except (lmdb.Error, OSError):
            self.env.close()
            raise
        self.known: tuple[bytes | None, ShardMeta | None] = (None, None)

    def _current(self, there: int | None) -> int:
        """The file that is open; raises when it was dropped, and maybe another begun, while it was being opened."""
        now = _inode(self.folder)
        if now is not None and there in (None, now):
            return now
        with self.env.begin() as txn:
            dropped = txn.get(_META, None, self.main) == _DROPPED
        if now is None or dropped:
            raise lmdb.Error("it was dropped while it was being opened")
        return now

    def _check_length(self) -> None:
        """Refuse a file cut short: reading past its end would kill the process instead of raising."""
        needed = (self.env.info()["last_pgno"] + 1) * self.env.stat()["psize"]
        if os.path.getsize(self.folder / "data.mdb") >= needed:
            return
        from lmdb.verify import VerifyError, verify

        with self.env.begin(write=True):  # keeps writers away while the file is walked
            try:
                problems = verify(str(self.folder))
            except VerifyError as error:
                problems = [str(error)]
        if problems:
            raise lmdb.CorruptedError(f"the file is cut short ({problems[0]})")

    def decode(self, raw: bytes | None) -> ShardMeta | None:
        """The meta record; the last one is kept, because most reads see the same one again."""
        known, meta = self.known
        if raw == known:
            return meta
        assert raw is not None
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


_open_shards: WeakValueDictionary[str, _Shard] = WeakValueDictionary()
_opening = threading.Lock()
_inherited: list[_Shard] = []  # kept, because closing what a parent process opened would free the parent's reader slots


def _let_go_after_fork() -> None:
    global _opening
    _opening = threading.Lock()
    _inherited.extend(_open_shards.values())
    _open_shards.clear()


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
        self._pid = os.getpid()
        self._shards: dict[tuple[str, int], _Shard] = {}

    def read(self, gv: str, shard: int, keys: Sequence[bytes]) -> tuple[list[bytes | None], ShardMeta | None]:
        """The states of the keys and the shard's meta, from one snapshot; see `OnlineStore.read`."""
        for _ in range(2):
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
                raise _failure(handle.folder, error) from error
            self._shards.pop((gv, shard), None)
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
            self._shards.pop((gv, shard), None)
            self._finish_drop(gv, shard)

    def scan(self, gv: str, shard: int, after: bytes | None = None, limit: int = 10_000) -> list[tuple[bytes, bytes]]:
        """Up to `limit` pairs after the key `after`, from one snapshot; see `OnlineStore.scan`."""
        for _ in range(2):
            handle = self._handle(gv, shard)
            if handle is None:
                break
            try:
                with handle.env.begin(handle.states) as txn:
                    if txn.get(_META, None, handle.main) != _DROPPED:
                        return _page(txn.cursor(), None if after is None else _stored(after), limit)
            except lmdb.Error as error:
                raise _failure(handle.folder, error) from error
            self._shards.pop((gv, shard), None)
        return []

    def drop(self, gv: str) -> None:
        """Remove every shard of a group version; other processes see it gone at their next read."""
        with self._exclusive():
            self._remove(gv)

    def _handle(self, gv: str, shard: int) -> _Shard | None:
        """The open environment of a shard, or None when it does not exist."""
        if self._pid != os.getpid():
            raise _forked(self._path)
        handle = self._shards.get((gv, shard))
        if handle is None:
            handle = self._opened(gv, shard, self._path / gv / str(shard))
        return handle

    def _opened(self, gv: str, shard: int, folder: Path) -> _Shard | None:
        """A shard may be dropped, and even begun anew, between the look and the opening: then look again."""
        for again in (True, True, False):
            if not (folder / "data.mdb").exists():
                return None
            try:
                self._shards[gv, shard] = found = _open(folder, self._map_gib, self._fsync)
                return found
            except StoreError:
                if not again and (folder / "data.mdb").exists():
                    raise
        return None

    def _create(self, gv: str, shard: int) -> _Shard:
        with self._exclusive():
            folder = self._path / gv / str(shard)
            folder.mkdir(parents=True, exist_ok=True)
            handle = self._shards[gv, shard] = _open(folder, self._map_gib, self._fsync)
            return handle

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Making and removing shards is rare, and done by one process at a time."""
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            with open(self._path / "lock", "a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise _failure(self._path, error) from error

    def _finish_drop(self, gv: str, shard: int) -> None:
        """Remove what a process that died while dropping has left marked."""
        with self._exclusive():
            handle = self._handle(gv, shard)
            if handle is None:
                return
            with handle.env.begin() as txn:
                marked = txn.get(_META, None, handle.main) == _DROPPED
            if marked:
                self._remove(gv)

    def _remove(self, gv: str) -> None:
        """Mark each shard, so that whoever has it open lets go, then take the folder away in one rename."""
        folder = self._path / gv
        for place in sorted(folder.glob("*/data.mdb")):
            try:
                handle = _open(place.parent, self._map_gib, self._fsync)
                with handle.env.begin(write=True) as txn:
                    txn.put(_META, _DROPPED, db=handle.main)
            except CorruptState:
                continue  # nobody else can read it either
            except lmdb.Error as error:
                raise _failure(place.parent, error) from error
        self._shards = {key: handle for key, handle in list(self._shards.items()) if key[0] != gv}
        if folder.exists():
            os.rename(folder, self._path / f".dropped.{os.getpid()}.{gv}")
        for leftover in self._path.glob(".dropped.*"):
            shutil.rmtree(leftover, ignore_errors=True)


def _open(folder: Path, map_gib: float, fsync: bool) -> _Shard:
    """The one handle this process has on the file now at that place."""
    with _opening:
        where = os.path.realpath(folder)
        if any(inherited.where == where for inherited in _inherited):
            raise _forked(folder)
        try:
            handle = _open_shards.get(where)
            if handle is None or handle.inode != _inode(folder):  # dropped and begun anew since
                handle = _open_shards[where] = _Shard(folder, map_gib, fsync)
        except (lmdb.Error, OSError) as error:
            raise _failure(folder, error) from error
        return handle


def _inode(folder: Path) -> int | None:
    try:
        return os.stat(folder / "data.mdb").st_ino
    except FileNotFoundError:
        return None


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
    if getattr(error, "errno", getattr(error, "code", 0)) in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull.writing(place)
    if isinstance(error, _BROKEN):
        return _unreadable(place, error)
    return StoreError(f"Online store '{place}' cannot be used: {error}.")


def _unreadable(place: Path, error: Exception) -> CorruptState:
    return CorruptState(
        f"Online store shard '{place}' does not read as what was written: {error}.",
        f"run `millstream backfill {place.parent.name.partition('@')[0]}` to build it again from history.",
    )
