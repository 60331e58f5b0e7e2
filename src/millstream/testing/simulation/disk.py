"""Every durable write of this process: where one may die, be overtaken, or find that the disk is full.

The product knows nothing of it. While a `Disk` watches, what the libraries below write through is replaced: LMDB's
commits, those of every SQL database (the registry, and the catalog of the Iceberg tables), and the renames, writes and
syncs of files. Each is a place where a process may end right before or right after; what was written by then stays.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lmdb
from sqlalchemy.engine.default import DefaultDialect

from millstream.buffer.embedded import environment
from millstream.store.lmdb import shards

PLACES = ("log", "online", "repeats", "registry", "catalog", "warehouse", "journal", "models", "other")
"""What is written, as the trace names it."""


class Killed(BaseException):
    """The process that was writing, or waiting, is dead: its memory is gone; nobody catches this but its world."""


@dataclass
class Fate:
    """What happens at one write, or read, of a step.

    Args:
        number: which write, counted from 0; a step that writes less often meets no fate.
        kind: "before" (it dies and the write is not done), "after" (it dies right after it), "meanwhile" (the write is
            done, then somebody else has a turn, then it goes on) or "between" (the same, before a read of LMDB).
        turn: what somebody else does.
    """

    number: int
    kind: str
    turn: Callable[[], None] | None = None


@dataclass
class Disk:
    """The disk of a simulated project; what is outside its folder is let alone.

    Args:
        folder: the project's data.
        full: the places that have no room.
        writing: how many write transactions of LMDB are open, during which nobody else can have a turn.

    Example:
        >>> import tempfile
        >>> from millstream.testing.simulation.disk import Disk, Fate, Killed
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "new").write_text("whole")
        >>> with Disk(folder).watching() as disk:
        ...     disk.meet(Fate(0, "before"))
        ...     try:
        ...         os.replace(folder / "new", folder / "file")
        ...     except Killed:
        ...         print(disk.written(), (folder / "file").exists())
        [] False
    """

    folder: Path
    full: set[str] = field(default_factory=set)
    writing: int = 0
    _due: Callable[[], None] | None = None
    _fate: Fate | None = None
    _writes: list[str] = field(default_factory=list)
    _seen: int = 0
    _thread: int = field(default_factory=threading.get_ident)

    def meet(self, fate: Fate | None) -> None:
        """Count writes from now on, and let one of them meet a fate."""
        self._fate, self._seen, self._due = fate, 0, None
        self._writes.clear()

    def written(self) -> list[str]:
        """The places written since the last `meet`, in order."""
        return list(self._writes)

    def place(self, path: str | Path) -> str | None:
        """What a path of the project is called; None for one that is not the project's."""
        try:
            inside = Path(os.path.realpath(path)).relative_to(self.folder)
        except ValueError:
            return None
        head = next((name for name in inside.parts if not name.startswith(".") or name == "other"), "other")
        head = {"catalog.db": "catalog", "registry.db": "registry"}.get(inside.name, head)
        head = "warehouse" if head == "offline" else head
        return head if head in PLACES else "other"

    @contextmanager
    def write(self, place: str | None, refuse: Callable[[], BaseException]) -> Iterator[None]:
        """One durable write; `refuse` makes the error of a full disk."""
        if place is None:
            yield
            return
        if place in self.full:
            raise refuse()
        fate = self._met()
        if fate is not None and fate.kind == "before":
            raise Killed(f"writing {place}")
        yield
        self._writes.append(place)
        if fate is None:
            return
        if fate.kind == "after":
            raise Killed(f"writing {place}")
        self._due = fate.turn
        if not self.writing:
            self.between()

    def read(self) -> None:
        """A read of LMDB begins: before it, somebody else may have a turn."""
        fate = self._fate
        if fate is not None and fate.kind == "between" and not self.writing:
            self._seen += 1
            if self._seen > fate.number:
                self._fate, self._due = None, fate.turn
        self.between()

    def between(self) -> None:
        """Give somebody else the turn that is due, now that nothing is locked."""
        if self._due is None or self.writing or _opens() or threading.get_ident() != self._thread:
            return
        turn, self._due = self._due, None
        writes = list(self._writes)
        turn()
        self._writes[:] = [*writes, *(f"({one})" for one in self._writes)]

    def _met(self) -> Fate | None:
        """The fate of the write that is about to be done, if it is the one."""
        fate, number = self._fate, self._seen
        if fate is None or fate.kind == "between":
            return None
        self._seen += 1
        if number < fate.number:
            return None
        if fate.kind == "meanwhile" and threading.get_ident() != self._thread:
            return None  # a library's own thread; the next write of this one will do
        self._fate = None
        return fate

    @contextmanager
    def watching(self) -> Iterator[Disk]:
        """Watch what this process writes for as long as the block lasts."""
        opened = lmdb.open
        commit: Callable[[Any, Any], None] = DefaultDialect.do_commit

        def open_lmdb(path: str, *given: Any, **options: Any) -> Any:
            env, place = opened(path, *given, **options), self.place(path)
            return env if place is None else _Environment(env, self, place)

        def do_commit(dialect: Any, connection: Any) -> None:
            try:
                with self.write(self._database(connection), _no_room_in_sqlite):
                    commit(dialect, connection)
            except BaseException:
                connection.rollback()  # what a full disk, or the end of its process, does to a transaction
                raise

        with (
            patch.object(lmdb, "open", open_lmdb),
            patch.object(DefaultDialect, "do_commit", do_commit),
            patch.object(os, "replace", self._moving(os.replace)),
            patch.object(os, "rename", self._moving(os.rename)),
            patch.object(os, "write", self._writing(os.write)),
            patch.object(os, "fsync", self._writing(os.fsync)),
            patch.object(fcntl, "flock", self._locking(fcntl.flock)),
        ):
            yield self

    def _database(self, connection: Any) -> str | None:
        """Where a database that has something to commit is kept."""
        if not getattr(connection, "in_transaction", False):
            return None
        return self.place(connection.execute("PRAGMA database_list").fetchone()[2])

    def _moving(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def move(source: Any, target: Any, **options: Any) -> Any:
            with self.write(self.place(target), _no_room):
                return real(source, target, **options)

        return move

    def _writing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def write(descriptor: int, *given: Any) -> Any:
            with self.write(self._opened(descriptor), _no_room):
                return real(descriptor, *given)

        return write

    def _locking(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """Who has a turn in the middle of another's step would wait for what that one holds until it is ended."""

        def lock(descriptor: Any, how: int) -> None:
            if how & (fcntl.LOCK_UN | fcntl.LOCK_NB) or threading.get_ident() != self._thread:
                real(descriptor, how)
                return
            try:
                real(descriptor, how | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Killed("waiting for a lock") from None

        return lock

    def _opened(self, descriptor: int) -> str | None:
        with suppress(OSError):
            return self.place(os.readlink(f"/proc/self/fd/{descriptor}"))
        return None


def _opens() -> bool:
    """Whether a file of LMDB is being opened: the other has a process of its own, and would not wait for that here."""
    return environment._guard.locked() or shards._opening.locked()


def _no_room() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _no_room_in_sqlite() -> sqlite3.Error:
    return sqlite3.OperationalError("database or disk is full")


def _no_room_in_lmdb() -> lmdb.Error:
    error = lmdb.DiskError("mdb_txn_commit: No space left on device")
    setattr(error, "code", errno.ENOSPC)  # noqa: B010 - as the library does
    return error


class _Environment:
    """An LMDB environment whose commits are watched."""

    def __init__(self, env: lmdb.Environment, disk: Disk, place: str) -> None:
        self._env, self._disk, self._place = env, disk, place

    def begin(self, *given: Any, **options: Any) -> Any:
        """Begin a transaction; one that writes is watched."""
        if options.get("write"):
            return _Transaction(self._env.begin(*given, **options), self._disk, self._place)
        self._disk.read()
        return self._env.begin(*given, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)


class _Transaction:
    """A write transaction: in a block, it is committed at its end."""

    def __init__(self, txn: lmdb.Transaction, disk: Disk, place: str) -> None:
        self._txn, self._disk, self._place = txn, disk, place

    def __enter__(self) -> Any:
        self._txn.__enter__()
        self._disk.writing += 1
        return self._txn

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if kind is not None:
                self._txn.__exit__(kind, error, trace)
                return
            with self._disk.write(self._place, _no_room_in_lmdb):
                self._txn.__exit__(None, None, None)
        except BaseException:
            self._txn.abort()  # does nothing once it is committed
            raise
        finally:
            self._disk.writing -= 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._txn, name)
