"""The tables of an offline store that machines share: a PyIceberg catalog, and files in S3-compatible storage.

Several hosts write them at once: what a commit requires is compared in the catalog, and nothing is noted on one machine
alone. So snapshots and files go by the instants that are in the table and in the storage themselves.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING

from millstream.errors import CorruptState
from millstream.store.iceberg import tags
from millstream.store.iceberg.commit import identifier
from millstream.store.iceberg.files import OURS, files_of, named_files
from millstream.store.iceberg.shared_errors import clear
from millstream.store.s3 import S3

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table, Transaction

TIMEOUT = "millstream.timeout"
"""The property that says for how many seconds a catalog may be silent."""
ORPHANED = 3 * 86_400.0
"""Seconds after which a file that no snapshot names is taken for one of a writer that died, as Iceberg itself takes it."""
_REST = "millstream.store.iceberg.rest_catalog.PatientRestCatalog"
_IO = "millstream.store.iceberg.durable_files.DurableFileIO"


class SharedWarehouse:
    """Tables that a catalog lists, and whose files are where it says.

    Args:
        catalog: PyIceberg's properties of the catalog.
        s3: how storage is reached, for messages.
        upkeep: whether we compact, let go of old snapshots and delete files; somebody else does otherwise.
    """

    def __init__(self, catalog: Mapping[str, str], s3: S3 | None = None, *, upkeep: bool = True) -> None:
        self._properties, self._s3, self._upkeep = dict(catalog), s3 or S3(catalog.get("s3.endpoint", "")), upkeep

    def clear(self, table: str) -> AbstractContextManager[None]:
        """Whatever goes wrong comes out as one sentence about a table."""
        return clear(self._properties, self._s3, table)

    def open(self) -> Catalog:
        """Open the catalog; one in a database makes its tables there."""
        from pyiceberg.catalog import load_catalog
        from sqlalchemy.exc import DBAPIError

        given = {"py-io-impl": _IO, "pool_pre_ping": "true", **self._properties}
        kind = given.pop("type", None)
        if kind == "rest":
            return load_catalog("millstream", **{"py-catalog-impl": _REST}, **given)
        if kind == "hive":
            from millstream.store.iceberg.hive_catalog import CarefulHiveCatalog

            return CarefulHiveCatalog("millstream", **given)
        if kind != "sql":
            return load_catalog("millstream", **{"type": kind} if kind else {}, **given)

        from millstream.store.iceberg.sql_catalog import KeptSqlCatalog

        try:
            return KeptSqlCatalog("millstream", **given)
        except DBAPIError:  # another process made the catalog's tables at the same moment, or it is said again
            return KeptSqlCatalog("millstream", **given)

    def found(self, catalog: Catalog, table: str) -> Table | None:
        """A table as it is now, None where the catalog lists none."""
        from pyiceberg.exceptions import NoSuchTableError

        from millstream.store.iceberg.kept_table import KeptTable

        try:
            found = catalog.load_table(identifier(table))
        except NoSuchTableError:
            return None
        if isinstance(found, KeptTable):
            return found
        return KeptTable(found.name(), found.metadata, found.metadata_location, found.io, catalog, found.config)

    def remove(self, catalog: Catalog, table: str) -> None:
        """Remove a table from the catalog, and the files that were there before from the storage."""
        from pyiceberg.exceptions import NoSuchTableError

        found = self.found(catalog, table)
        if found is None:
            return
        before = list(_listed(found))
        with suppress(NoSuchTableError):
            catalog.drop_table(identifier(table))
        _delete(found, before)

    def let_go(self, change: Transaction, found: Table) -> None:
        """Nothing: snapshots are let go of when they are old enough, by `sweep`."""

    def sweep(self, catalog: Catalog, table: str, now: int, keep: int, compacted: bool) -> int:
        """Let go of old snapshots and delete the files that they alone named; after compaction, those of dead writers too.

        A snapshot that was succeeded `keep` before the newest one has no reader that began while it was the newest, and
        nobody pins it anew. The instants are those that are in the table: hosts need not agree on the time.
        """
        found = self.found(catalog, table)
        if found is None or not self._upkeep:
            return 0
        deleted = self._expire(found, keep)
        again = self.found(catalog, table) if compacted else None
        return deleted if again is None else deleted + _sweep_orphans(again)

    def _expire(self, found: Table, keep: int) -> int:
        from pyiceberg.exceptions import CommitFailedException

        old = tags.superseded(found, keep)
        if len(old) < tags.KEPT:  # few are not worth the look at all files
            return 0
        every = {item.snapshot_id: item for item in found.metadata.snapshots}
        theirs = files_of([every[one] for one in old], found.io)
        change = found.transaction()
        tags.expire(change, old, asserted=self._properties.get("type") != "rest")
        try:
            left = change.commit_transaction()
        except CommitFailedException:  # another writer was first; next time, then
            return 0
        loose = theirs - named_files(left)
        _delete(found, [_path(found, one) for one in loose])
        return len(loose)

    def files(self, found: Table) -> int:
        """How many files are in the place of a table."""
        return sum(1 for _ in _listed(found))

    def examine(self, found: Table) -> int:
        """Compare the size of every file that the newest snapshot names, and see that all others are there.

        The storage compares sums itself.
        """
        sizes = {one.path: one.size for one in _infos(found)}
        named = named_files(found) - {entry.metadata_file for entry in found.metadata.metadata_log}
        wanted = {task.file.file_path: task.file.file_size_in_bytes for task in found.scan().plan_files()}
        for location in sorted(named):
            size = sizes.get(_path(found, location))
            if size is None:  # it lies elsewhere, or nowhere
                size = len(found.io.new_input(location))
            if size != wanted.get(location, size):
                raise CorruptState(
                    f"Offline file '{location}' is not what was written: it has {size:,} bytes.",
                    "restore it from a copy, or from an earlier version of the object where the bucket keeps versions.",
                )
        return len(named)


def _sweep_orphans(found: Table) -> int:
    """Delete the files that no snapshot names and that are days older than the newest commit, by the storage's clock."""
    head = found.current_snapshot()
    every = {one.path: one for one in _infos(found)}
    newest = None if head is None else every.get(_path(found, head.manifest_list))
    if newest is None:
        return 0  # they are somewhere else, and who knows what these are
    named = {os.path.basename(location) for location in named_files(found)}
    old = [
        path
        for path, one in every.items()
        if os.path.basename(path) not in named
        and path.endswith(OURS)
        and one.mtime_ns < newest.mtime_ns - ORPHANED * 1e9
    ]
    _delete(found, old)
    return len(old)


def _storage(found: Table) -> tuple[FileSystem, str]:
    """The storage of a table, and the table's place in it."""
    from pyiceberg.io.pyarrow import PyArrowFileIO

    io = found.io
    assert isinstance(io, PyArrowFileIO)
    scheme, netloc, path = io.parse_location(found.location(), io.properties)
    return io.fs_by_scheme(scheme, netloc), path


def _path(found: Table, location: str) -> str:
    """A file's path in the storage."""
    from pyiceberg.io.pyarrow import PyArrowFileIO

    assert isinstance(found.io, PyArrowFileIO)
    return found.io.parse_location(location, found.io.properties)[2]


def _infos(found: Table) -> Iterator[FileInfo]:
    """All files in the place of a table."""
    from pyarrow.fs import FileSelector

    files, place = _storage(found)
    for one in files.get_file_info(FileSelector(place, recursive=True, allow_not_found=True)):
        if one.is_file:
            yield one


def _listed(found: Table) -> Iterator[str]:
    return (one.path for one in _infos(found))


def _delete(found: Table, paths: Sequence[str]) -> None:
    """Delete files, several at a time; what is gone already is no error."""
    from pyiceberg.utils.concurrent import ExecutorFactory

    files, _ = _storage(found)

    def delete(path: str) -> None:
        with suppress(FileNotFoundError):
            files.delete_file(path)

    list(ExecutorFactory.get_or_create().map(delete, paths))
