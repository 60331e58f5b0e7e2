"""What is known of the offline store's files: the sum of each as it was written, and since when none names it.

A file without a sum was written by another program, or by an earlier version. It is read as it is, and upkeep notes its
sum when it first meets it.
"""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from millstream.errors import CorruptState, DiskFull, StoreError

_NAME = "files.db"
_MADE = """
create table if not exists sums (path text primary key, size integer, sum integer, own integer) without rowid;
create table if not exists unreferenced (path text primary key, since integer) without rowid;
"""
_CHUNK = 1 << 20
_AT_ONCE, _REMEMBERED = 500, 20_000
_verified: dict[str, tuple[int, int]] = {}


class FileLedger:
    """The ledger of one offline store, a SQLite file beside its tables; used by any number of processes.

    Args:
        warehouse: the folder of the tables; files are known by their path below it, so the folder may be moved.
    """

    def __init__(self, warehouse: str | Path) -> None:
        self._warehouse = os.path.abspath(warehouse)
        self._place = os.path.join(os.path.dirname(self._warehouse), _NAME)

    def covers(self, path: str) -> bool:
        """Whether a file is one of this store's."""
        return path.startswith(self._warehouse + os.sep)

    def note(self, sums: Mapping[str, tuple[int, int]]) -> None:
        """Keep size and sum of files, by path, as they were written."""
        rows = [(self._short(path), size, total, _own(self._short(path), size, total))
                for path, (size, total) in sums.items()]  # fmt: skip
        with self._open() as database:
            database.executemany("insert or replace into sums values (?, ?, ?, ?)", rows)

    def verify(self, path: str) -> None:
        """Compare a file with its sum, once in this process for each state of the file.

        Raises:
            CorruptState: it is not what was written.
            FileNotFoundError: there is no such file.
        """
        found = os.stat(path)
        state = (found.st_mtime_ns, found.st_size)
        if _verified.get(path) == state:
            return
        noted = self.noted([path]).get(path)
        if noted is not None and noted != (found.st_size, sum_of(path)):
            raise CorruptState(
                f"Offline file '{path}' is not what was written: it has {found.st_size:,} bytes, and they or their "
                "order are others.",
                "restore it from a copy; what the log still holds can be archived anew.",
            )
        if len(_verified) >= _REMEMBERED:
            _verified.clear()
        _verified[path] = state

    def noted(self, paths: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Size and sum of those files that have one.

        Raises:
            CorruptState: the ledger is not what was written.
        """
        known: dict[str, tuple[int, int]] = {}
        if not os.path.exists(self._place):  # a store that is only read is not written to
            return known
        with self._open() as database:
            for some in _parts(paths):
                marks = ",".join("?" * len(some))
                rows = database.execute(
                    f"select * from sums where path in ({marks})", [self._short(one) for one in some]
                )
                for short, size, total, own in rows:
                    if own != _own(short, size, total):
                        raise self._damaged("a sum in it is another than was noted")
                    known[os.path.join(self._warehouse, short)] = (size, total)
        return known

    def unreferenced(self, table: str, paths: Iterable[str], now: int) -> dict[str, int]:
        """Note which files in a table's folder nothing names now; return since when (µs) each of them is not named.

        What was noted of other files of the folder is forgotten: they are named again, or gone.

        Args:
            table: the table's folder, within the warehouse.
            paths: the files in it that nothing names, all of them.
            now: the clock's time (µs); what was noted later than that, by a clock that was set back, counts from now
                on.
        """
        short = {self._short(path): path for path in paths}
        begin = self._short(table) + os.sep
        with self._open() as database:
            rows = database.execute(
                "select path, since from unreferenced where path between ? and ?", [begin, f"{begin}~"]
            )
            known = dict(rows.fetchall())
            known = {one: since for one, since in known.items() if since <= now}  # the clock may have been set back
            fresh = [(one, now) for one in short if one not in known]
            database.executemany("insert or replace into unreferenced values (?, ?)", fresh)
            database.executemany(
                "delete from unreferenced where path = ?", [(one,) for one in known if one not in short]
            )
        return {path: known.get(one, now) for one, path in short.items()}

    def oldest(self, table: str) -> int | None:
        """Since when (µs) the file in a table's folder that has been named by nothing for longest is."""
        begin = self._short(table) + os.sep
        with self._open() as database:
            query = "select min(since) from unreferenced where path between ? and ?"
            (since,) = database.execute(query, [begin, f"{begin}~"]).fetchone()
        return None if since is None else int(since)

    def forget(self, paths: Iterable[str]) -> None:
        """Drop what is known of files that are gone."""
        with self._open() as database:
            for some in _parts(paths):
                rows = [(self._short(path),) for path in some]
                database.executemany("delete from sums where path = ?", rows)
                database.executemany("delete from unreferenced where path = ?", rows)

    def _short(self, path: str) -> str:
        return os.path.relpath(path, self._warehouse)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection whose changes are kept when all went well."""
        try:
            with closing(sqlite3.connect(self._place, timeout=60)) as database:
                database.execute("pragma synchronous = normal")
                if not _has_tables(database):
                    database.executescript(_MADE)
                with database:
                    yield database
        except sqlite3.OperationalError as error:
            if "full" in str(error):
                raise DiskFull.writing(self._place) from error
            raise StoreError(f"Offline store: '{self._place}' cannot be used: {error}.") from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, how: str) -> CorruptState:
        return CorruptState(
            f"Offline store: '{self._place}' does not read as what was written: {how}.",
            "delete that file: the sums of all files are then taken anew.",
        )


def sum_of(path: str) -> int:
    """The CRC-32 of a file's bytes."""
    total = 0
    with open(path, "rb") as file:
        while piece := file.read(_CHUNK):
            total = zlib.crc32(piece, total)
    return total


def _own(path: str, size: int, total: int) -> int:
    """The sum of a row of the ledger itself."""
    return zlib.crc32(f"{path}|{size}|{total}".encode())


def _has_tables(database: sqlite3.Connection) -> bool:
    (count,) = database.execute("select count(*) from sqlite_master").fetchone()
    return bool(count >= 2)


def _parts(paths: Iterable[str]) -> Iterator[list[str]]:
    """Paths some at a time, for a statement takes only so many."""
    every = list(paths)
    return (every[first : first + _AT_ONCE] for first in range(0, len(every), _AT_ONCE))
