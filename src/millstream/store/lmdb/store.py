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
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count, islice
from pathlib import Path

import lmdb
from xxhash import xxh3_64_digest, xxh3_64_intdigest

from millstream.buffer.embedded.environment import exclusive
from millstream.errors import CorruptState, Fenced, Forked, MillstreamError, StoreError
from millstream.forks import forks
from millstream.store.lmdb.check import CHECK, opened, refuse_damaged, refuse_hidden, sealed
from millstream.store.lmdb.shards import Shard, failure, full, open_shard
from millstream.store.online import Answer, Ask, Fact, Page, ShardMeta, pages

_META = b"meta"
_DROPPED = b"dropped"
_LONGEST = 500
_HEAD = 479
_LOOKS = 3  # how often a read looks again for a shard that was dropped under it


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
    ()
    >>> [answer] = store.read([Ask("velocity@1", 0, [b"user-1", b"user-2"])])
    >>> answer.values, answer.meta.position
    ([b'state', None], 1)
    """

    local = True

    def __init__(self, path: str | Path, map_gib: float = 16, *, fsync: bool = True) -> None:
        self.path = Path(path)
        self._map_gib, self._fsync = map_gib, fsync
        self._forks = forks()
        _stores.add(self)
        self._shards: dict[tuple[str, int], Shard] = {}
        self._sweep()

    def read(self, asks: Sequence[Ask]) -> list[Answer]:
        """What each shard answers, every ask from one snapshot; see `OnlineStore.read`."""
        return [self._answer(ask) for ask in asks]

    def _answer(self, ask: Ask) -> Answer:
        states, shard, keys = ask.states, ask.shard, ask.keys
        try:
            for _ in range(_LOOKS):
                handle = self._handle(states, shard)
                if handle is None:
                    break
                try:
                    with handle.env.begin(handle.states) as txn:
                        raw = txn.get(_META, None, handle.main)
                        if raw != _DROPPED:
                            meta = handle.decode(raw)
                            if meta is None:
                                handle.refuse_lost_meta(txn)
                            return Answer(_found(txn, handle, keys), meta)
                except lmdb.Error as error:
                    self._look_again(states, handle, error)
                except CorruptState:
                    self._note_damage(states)
                    raise
                self._forget(states, shard, handle)
        except StoreError as error:
            return Answer([None] * len(keys), failure=error)
        return Answer([None] * len(keys))

    def facts(self, shards: Mapping[str, int]) -> dict[str, list[Fact]]:
        """By states, what each of their shards has applied; see `OnlineStore.facts`."""
        return {states: [self._fact(states, shard) for shard in range(count)] for states, count in shards.items()}

    def _fact(self, states: str, shard: int) -> Fact:
        answer = self._answer(Ask(states, shard))
        return answer.failure or answer.meta

    def write(
        self, states: str, shard: int, changes: Sequence[tuple[bytes, bytes]], meta: ShardMeta, expected: int | None
    ) -> Sequence[bytes]:
        """Write values and meta together, or nothing: no key is refused; see `OnlineStore.write`.

        Sorted keys are written fastest.
        """
        what = f"shard {shard} of '{states}'"
        while True:
            handle = self._handle(states, shard) or self._create(states, shard)
            try:
                with handle.env.begin() as txn:
                    _refuse_moved(txn, handle, expected, what)
                puts = _stored_pairs(changes, handle.checked)
                with handle.env.begin(write=True) as txn:
                    if _refuse_moved(txn, handle, expected, what):
                        if puts:
                            txn.cursor(handle.states).putmulti(puts)
                        txn.put(_META, handle.encode(meta), db=handle.main)
                        return ()
            except lmdb.Error as error:
                raise self._failed(states, handle, error) from error
            self._forget(states, shard, handle)
            del handle
            self._finish_drop(states, shard)

    def forget(self, states: str, shard: int, keys: Sequence[bytes], expected: int) -> None:
        """Remove keys of a shard in one transaction; see `Forgets.forget`."""
        what = f"shard {shard} of '{states}'"
        handle = self._handle(states, shard)
        if handle is None:
            raise Fenced.moved(what, expected, None)
        try:
            with handle.env.begin(write=True) as txn:
                if not _refuse_moved(txn, handle, expected, what):
                    raise Fenced.moved(what, expected, None)
                for key in keys:
                    txn.delete(_stored(key), db=handle.states)
        except lmdb.Error as error:
            raise self._failed(states, handle, error) from error

    def scan(self, states: str, shard: int, cursor: bytes | None = None, limit: int = 10_000) -> Page:
        """Some of the keys of a shard with their values, from one snapshot; see `OnlineStore.scan`."""
        for _ in range(_LOOKS):
            handle = self._handle(states, shard)
            if handle is None:
                break
            try:
                with handle.env.begin(handle.states) as txn:
                    raw = txn.get(_META, None, handle.main)
                    if raw != _DROPPED:
                        handle.decode(raw)
                        return _page(txn.cursor(), cursor, limit, handle.checked)
            except lmdb.Error as error:
                self._look_again(states, handle, error)
            self._forget(states, shard, handle)
        return Page([])

    def drop(self, states: str) -> None:
        """Remove every shard of a group version; other processes see it gone at their next read."""
        with self._exclusive():
            self._remove(states)
        self._sweep()

    def close(self) -> None:
        """Let go of every shard; what is asked next opens its own again."""
        self._shards = {}

    def states(self) -> list[str]:
        """The names of all states that there are, whether anybody knows them or not."""
        return sorted(place.name for place in self.path.glob("[!.]*/") if place.is_dir())

    def damaged(self) -> list[str]:
        """The group versions of which somebody has read damage, until they are dropped: they have to be built anew."""
        marks = sorted(self.path.glob(".damaged.*"))
        return [mark.name.removeprefix(".damaged.") for mark in marks]

    def examine(self, states: str, shard: int) -> int:
        """Look at every page and every record of a shard, and return how many states it has; see `Examined.examine`.

        Reads look at what they take; this is for who has cause for doubt too.
        """
        folder = self.path / states / str(shard)
        if not (folder / "data.mdb").exists():
            return 0
        try:
            refuse_damaged(folder, most=None)
        except lmdb.Error as error:
            self._note_damage(states)
            raise failure(folder, error) from error
        self._answer(Ask(states, shard)).sound()
        return sum(len(page.items) for page in pages(self, states, shard))

    def _look_again(self, states: str, handle: Shard, error: lmdb.Error) -> None:
        """Return when a read may succeed now.

        The slots of readers were all taken, some by processes that have died; or the slot kept ready was freed by a
        forked child that has ended.
        """
        if isinstance(error, lmdb.BadRslotError):
            return
        if isinstance(error, lmdb.ReadersFullError) and handle.env.reader_check():
            return
        raise self._failed(states, handle, error) from error

    def _failed(self, states: str, handle: Shard, error: lmdb.Error) -> MillstreamError:
        said = failure(handle.folder, error)
        if isinstance(said, CorruptState):
            self._note_damage(states)
        return said

    def _note_damage(self, states: str) -> None:
        """Leave a mark by which ingestion, in whatever process, learns of it; without room there is no mark."""
        with suppress(OSError):
            (self.path / f".damaged.{states}").touch()

    def _handle(self, states: str, shard: int) -> Shard | None:
        """The open environment of a shard, or None when it does not exist."""
        if self._forks != forks():
            raise Forked.opened_before(self.path)
        handle = self._shards.get((states, shard))
        if handle is not None:
            handle.used = True
        elif (self.path / states / str(shard) / "data.mdb").exists():
            try:
                with self._exclusive():
                    handle = self._found(states, shard)
            except CorruptState:
                self._note_damage(states)
                raise
        return handle

    def _found(self, states: str, shard: int) -> Shard | None:
        folder = self.path / states / str(shard)
        if not (folder / "data.mdb").exists():
            return None
        _make_room()
        handle = self._shards[states, shard] = open_shard(folder, self._map_gib, self._fsync)
        return handle

    def _forget(self, states: str, shard: int, handle: Shard) -> None:
        """Look for the shard anew at the next read, unless another thread has done so."""
        if self._shards.get((states, shard)) is handle:
            self._shards.pop((states, shard), None)

    def _create(self, states: str, shard: int) -> Shard:
        with self._exclusive():
            folder = self.path / states / str(shard)
            folder.mkdir(parents=True, exist_ok=True)
            _make_room()
            handle = self._shards[states, shard] = open_shard(folder, self._map_gib, self._fsync)
            return handle

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Making, opening and removing shards is rare, and done by one process at a time.

        LMDB opens a shard's two files one after the other: removed and begun anew in between, they would not match.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / "lock").touch()
            with exclusive(self.path / "lock"):
                yield
        except OSError as error:
            raise failure(self.path, error) from error

    def _finish_drop(self, states: str, shard: int) -> None:
        """Remove what a process that died while dropping has left marked."""
        with self._exclusive():
            handle = self._found(states, shard)
            if handle is None:
                return
            with handle.env.begin() as txn:
                marked = txn.get(_META, None, handle.main) == _DROPPED
            if marked:
                self._remove(states)
        self._sweep()

    def _remove(self, states: str) -> None:
        """Mark each shard, so that whoever has it open lets go, then take the folder away in one rename."""
        folder = self.path / states
        for place in sorted(folder.glob("*/data.mdb")):
            try:
                _mark_dropped(open_shard(place.parent, self._map_gib, self._fsync, trusted=True))
            except CorruptState:
                continue  # nobody else can read it either
        self._shards = {key: handle for key, handle in list(self._shards.items()) if key[0] != states}
        if folder.exists():
            os.rename(
                folder, next(free for n in count() if not (free := self.path / f".dropped.{n}.{states}").exists())
            )
        (self.path / f".damaged.{states}").unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove what was taken away, by this process or by one that died before it could."""
        for leftover in self.path.glob(".dropped.*"):
            shutil.rmtree(leftover, ignore_errors=True)


_stores: weakref.WeakSet[LmdbOnlineStore] = weakref.WeakSet()


def _make_room() -> None:
    """Let go of shards that nobody has read since the last time, when as many are open as may be; else of any."""
    if not full():
        return
    for unused in (True, False):
        for store in list(_stores):
            for place, handle in list(store._shards.items()):
                if unused and handle.used:
                    handle.used = False
                else:
                    store._shards.pop(place, None)
        del handle
        if not full():
            return


def _mark_dropped(handle: Shard) -> None:
    try:
        with handle.env.begin(write=True) as txn:
            txn.put(_META, _DROPPED, db=handle.main)
    except lmdb.Error as error:
        raise failure(handle.folder, error) from error


def _found(txn: lmdb.Transaction[bytes], handle: Shard, keys: Sequence[bytes]) -> list[bytes | None]:
    """The states of some keys; most of the time of a read is spent here."""
    get, checked = txn.get, handle.checked
    states: list[bytes | None] = []
    cursor: lmdb.Cursor[bytes] | None = None
    for key in keys:
        place = key if 0 < len(key) <= _LONGEST else _stored(key)
        state = get(place)
        if state is None:
            if cursor is None:
                cursor = txn.cursor(handle.states)
            refuse_hidden(cursor, place, checked)
        elif checked:
            check, state = state[:CHECK], state[CHECK:]
            if check != xxh3_64_digest(state, xxh3_64_intdigest(place)):
                opened(place, check + state)
        states.append(state if place is key else _unwrap(state, key))
    return states


def _refuse_moved(txn: lmdb.Transaction[bytes], handle: Shard, expected: int | None, what: str) -> bool:
    """Raise `Fenced` unless a shard is where its writer read it; returns whether it is there at all."""
    raw = txn.get(_META, None, handle.main)
    if raw == _DROPPED:
        return False
    meta = handle.decode(raw)
    if meta is None:
        handle.refuse_lost_meta(txn)
    found = None if meta is None else meta.position
    if found != expected:
        raise Fenced.moved(what, expected, found)
    return True


def _stored_pairs(changes: Sequence[tuple[bytes, bytes]], checked: bool) -> Sequence[tuple[bytes, bytes]]:
    """Keys and values as LMDB takes them."""
    lengths = {len(key) for key, _ in changes}
    if lengths and (max(lengths) > _LONGEST or not min(lengths)):
        changes = [(_stored(key), value if 0 < len(key) <= _LONGEST else _wrap(key, value)) for key, value in changes]
    return [(key, sealed(key, value)) for key, value in changes] if checked else changes


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


def _page(cursor: lmdb.Cursor[bytes], after: bytes | None, limit: int, checked: bool) -> Page:
    """The pairs after a stored key, which is the cursor of the page before."""
    if not (cursor.first() if after is None else cursor.set_range(after)):
        return Page([])
    if cursor.key() == after and not cursor.next():
        return Page([])
    pairs = list(islice(cursor.iternext(), limit))
    last = pairs[-1][0] if len(pairs) == limit else None
    if checked:
        pairs = [(key, opened(key, record)) for key, record in pairs]
    return Page([_whole(*pair) if len(pair[0]) > _LONGEST else pair for pair in pairs], last)


def _whole(_: bytes, stored: bytes) -> tuple[bytes, bytes]:
    end = 4 + int.from_bytes(stored[:4], "big")
    return stored[4:end], stored[end:]
