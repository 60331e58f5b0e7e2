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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path

import lmdb
import msgspec

from millstream.buffer.environment import exclusive
from millstream.errors import CorruptState, Fenced, Forked
from millstream.forks import forks
from millstream.store.lmdb_shard import FORMAT, Shard, failure, open_shard
from millstream.store.online import ShardMeta

_META = b"meta"
_DROPPED = b"dropped"
_LONGEST = 500
_HEAD = 479
_LOOKS = 3  # how often a read looks again for a shard that was dropped under it
_ENCODE = msgspec.msgpack.Encoder().encode


class LmdbOnlineStore:
    """The online store of a project on one machine: no server, any number of processes and threads.

    Args:
        path: the folder of the store; a shard is the folder `{group version}/{shard}` in it.
        map_gib: the most a shard may grow to, in GiB of sparse address space (default 16).
        fsync: whether a write waits for the disk; without, it outlives any process but not the machine.

    Raises:
        CorruptState: when a shard's file cannot be read as what was written.
        Forked: when it is used in a process forked from the one that opened it.
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
        self._forks = forks()
        self._shards: dict[tuple[str, int], Shard] = {}

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
        raw = FORMAT + _ENCODE(meta)
        while True:
            handle = self._handle(gv, shard) or self._create(gv, shard)
            try:
                with handle.env.begin(write=True) as txn:
                    found = txn.get(_META, None, handle.main)
                    if found != _DROPPED:
                        _write(txn, handle, (puts, deletes, raw), expected, f"shard {shard} of '{gv}'")
                        return
            except lmdb.Error as error:
                raise failure(handle.folder, error) from error
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

    def _handle(self, gv: str, shard: int) -> Shard | None:
        """The open environment of a shard, or None when it does not exist."""
        if self._forks != forks():
            raise Forked.opened_before(self._path)
        handle = self._shards.get((gv, shard))
        if handle is None and (self._path / gv / str(shard) / "data.mdb").exists():
            with self._exclusive():
                handle = self._found(gv, shard)
        return handle

    def _found(self, gv: str, shard: int) -> Shard | None:
        folder = self._path / gv / str(shard)
        if not (folder / "data.mdb").exists():
            return None
        handle = self._shards[gv, shard] = open_shard(folder, self._map_gib, self._fsync)
        return handle

    def _forget(self, gv: str, shard: int, handle: Shard) -> None:
        """Look for the shard anew at the next read, unless another thread has done so."""
        if self._shards.get((gv, shard)) is handle:
            self._shards.pop((gv, shard), None)

    def _create(self, gv: str, shard: int) -> Shard:
        with self._exclusive():
            folder = self._path / gv / str(shard)
            folder.mkdir(parents=True, exist_ok=True)
            handle = self._shards[gv, shard] = open_shard(folder, self._map_gib, self._fsync)
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
            raise failure(self._path, error) from error

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
                _mark_dropped(open_shard(place.parent, self._map_gib, self._fsync))
            except CorruptState:
                continue  # nobody else can read it either
        self._shards = {key: handle for key, handle in list(self._shards.items()) if key[0] != gv}
        if folder.exists():
            os.rename(folder, next(free for n in count() if not (free := self._path / f".dropped.{n}.{gv}").exists()))

    def _sweep(self) -> None:
        """Remove what was taken away, by this process or by one that died before it could."""
        for leftover in self._path.glob(".dropped.*"):
            shutil.rmtree(leftover, ignore_errors=True)


def _mark_dropped(handle: Shard) -> None:
    try:
        with handle.env.begin(write=True) as txn:
            txn.put(_META, _DROPPED, db=handle.main)
    except lmdb.Error as error:
        raise failure(handle.folder, error) from error


def _look_again(handle: Shard, error: lmdb.Error) -> None:
    """Return when a read may succeed now.

    The slots of readers were all taken, some by processes that have died; or the slot kept ready was freed by a forked
    child that has ended.
    """
    if isinstance(error, lmdb.BadRslotError):
        return
    if isinstance(error, lmdb.ReadersFullError) and handle.env.reader_check():
        return
    raise failure(handle.folder, error) from error


def _write(
    txn: lmdb.Transaction[bytes],
    handle: Shard,
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


def _position(handle: Shard, raw: bytes) -> int | None:
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
