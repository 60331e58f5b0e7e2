"""Local files of the offline store: durable when written, checked when read, found wherever their folder lies now.

A commit never names lost files: they are on the disk before they count as closed. The sum of each is noted before the
table's metadata names it, and compared when it is opened, so a damaged file is refused by name. Iceberg's metadata holds
absolute locations; those of a folder that was moved or copied name the place where the table was made, and stand for
the same file in the folder of today.
"""

from __future__ import annotations

import io
import json
import os
import sqlite3
import zlib
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from pyiceberg.io.pyarrow import PyArrowFile, PyArrowFileIO

from millstream.disk import sync_folder
from millstream.settings import quoted
from millstream.store.iceberg.file_ledger import FileLedger

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem
    from pyiceberg.io import InputStream
    from typing_extensions import Buffer

_LOCAL = "file://"
_LAST = ".metadata.json"
_sums: dict[str, tuple[int, int]] = {}
_HERE, _ELSEWHERE = "millstream.warehouse", "millstream.made-elsewhere"


def places(warehouse: Path, catalog: Path) -> dict[str, str]:
    """Properties that tell `DurableFileIO` where the tables lie, and where else those of a SQLite catalog were made.

    Args:
        warehouse: the folder of the tables, absolute; a table's files are in its `namespace/table/`.
        catalog: the catalog's file; there need be none yet.
    """
    try:
        with closing(sqlite3.connect(f"file:{quoted(catalog)}?mode=ro", uri=True, timeout=60)) as connection:
            rows = connection.execute("select metadata_location from iceberg_tables").fetchall()
    except sqlite3.Error:  # there is none yet, or whoever reads it next says what is wrong with it
        rows = []
    made = {place.rsplit("/", 4)[0].removeprefix(_LOCAL) for (place,) in rows if place and place.startswith(_LOCAL)}
    return {_HERE: str(warehouse), _ELSEWHERE: json.dumps(sorted(made - {str(warehouse)}))}


def local_path(location: str, properties: Mapping[str, str]) -> str | None:
    """The path of a local file of the offline store as its folder lies now; None for a location that is not local.

    >>> moved = {"millstream.warehouse": "/b/warehouse", "millstream.made-elsewhere": '["/a/warehouse"]'}
    >>> local_path("file:///a/warehouse/events/clicks/data/1.parquet", moved)
    '/b/warehouse/events/clicks/data/1.parquet'
    """
    if not location.startswith(_LOCAL):
        return None
    path = location.removeprefix(_LOCAL)
    for place in json.loads(properties.get(_ELSEWHERE, "[]")):
        if path.startswith(f"{place}/"):
            return properties[_HERE] + path.removeprefix(place)
    return path


class DurableFileIO(PyArrowFileIO):
    """PyIceberg's own file access, except that local files are synced, checked, and found where their folder lies.

    A table that was made in another folder keeps its locations, and nothing is read from or written to that folder.
    """

    def parse_location(  # type: ignore[override]  # it asks the instance, which knows where the folder lies
        self, location: str, properties: Mapping[str, str] | None = None
    ) -> tuple[str, str, str]:
        """The scheme, server and path of a location."""
        path = local_path(location, self.properties)
        if path is None:
            return PyArrowFileIO.parse_location(location, self.properties)
        return "file", "", path

    def new_output(self, location: str) -> PyArrowFile:
        """A file to write at a location, as PyIceberg asks for it."""
        scheme, netloc, path = self.parse_location(location, self.properties)
        if scheme != "file":
            return super().new_output(location)
        return _DurableFile(location, path, self.fs_by_scheme(scheme, netloc), self._ledger())

    def new_input(self, location: str) -> PyArrowFile:
        """A file to read at a location, as PyIceberg asks for it."""
        scheme, netloc, path = self.parse_location(location, self.properties)
        if scheme != "file":
            return super().new_input(location)
        return _DurableFile(location, path, self.fs_by_scheme(scheme, netloc), self._ledger())

    def _ledger(self) -> FileLedger | None:
        return FileLedger(self.properties[_HERE]) if _HERE in self.properties else None


class _DurableFile(PyArrowFile):
    def __init__(self, location: str, path: str, files: FileSystem, ledger: FileLedger | None) -> None:
        super().__init__(location, path, files)
        self._ledger = ledger

    def open(self, seekable: bool = True) -> InputStream:
        """The file to read, once it is known to be what was written."""
        if self._ledger is not None:
            self._ledger.verify(self._path)
        return super().open(seekable)

    def create(self, overwrite: bool = False) -> io.BufferedWriter:
        """The file to write."""
        _make_folder(os.path.dirname(self._path))
        return _Synced(_Summed(self._path, "w" if overwrite else "x"), self._ledger)


class _Summed(io.FileIO):
    """A file that is written from its beginning to its end, and its sum."""

    def __init__(self, path: str, mode: str) -> None:
        super().__init__(path, mode)
        self.size = self.sum = 0

    def write(self, data: Buffer, /) -> int:
        count = super().write(data)
        self.sum = zlib.crc32(memoryview(data)[:count], self.sum)
        self.size += count
        return count


class _Synced(io.BufferedWriter):
    """A buffered file which is synced, and its name with it, before it counts as closed.

    The sums of the files of a commit are noted together, when its last one is written: the table's metadata.
    """

    def __init__(self, file: _Summed, ledger: FileLedger | None) -> None:
        super().__init__(file, 1 << 20)
        self._file, self._ledger = file, ledger

    def close(self) -> None:
        """Close the file once it is on the disk, and note its sum; a second call does nothing."""
        if not self.closed:
            self.flush()
            os.fsync(self.fileno())
            self._note(str(self.name))
            sync_folder(os.path.dirname(self.name))
        super().close()

    def _note(self, path: str) -> None:
        if self._ledger is None:
            return
        _sums[path] = (self._file.size, self._file.sum)
        if path.endswith(_LAST):
            noted = {one: what for one, what in dict(_sums).items() if self._ledger.covers(one)}
            self._ledger.note(noted)
            for one in noted:
                _sums.pop(one, None)


def _make_folder(folder: str) -> None:
    """Make a folder, and see to it that its name is on the disk before that of anything in it."""
    if os.path.isdir(folder):
        return
    above = os.path.dirname(folder)
    _make_folder(above)
    os.makedirs(folder, exist_ok=True)
    sync_folder(above)
