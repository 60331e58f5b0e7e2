"""A table of which what PyIceberg makes or reads again at every look is kept for as long as it stays the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pyiceberg.manifest import ManifestEntry, ManifestFile
from pyiceberg.table import DataScan, Table, Transaction
from pyiceberg.table.snapshots import Snapshot

from millstream.store.iceberg.durable_files import local_path

if TYPE_CHECKING:
    from pyiceberg.io import FileIO
    from pyiceberg.table.metadata import TableMetadata

_KEPT = 256  # files
_SMALL = 1 << 16
"""Bytes of a file up to which what it holds is kept; in memory it is several times as large."""


class KeptTable(Table):
    """PyIceberg's table, whose scans and changes do not do twice what gives the same."""

    def scan(self, *given: Any, **options: Any) -> DataScan:
        """What is to be read of the table."""
        return _Scan(**vars(super().scan(*given, **options)))

    def transaction(self) -> Transaction:
        """A change of the table."""
        return _Change(self)


class _Change(Transaction):
    """A change that makes the metadata it leads to once for each step; PyIceberg does so whenever it asks for them."""

    _made: tuple[tuple[TableMetadata, int], TableMetadata] | None = None

    @property
    def table_metadata(self) -> TableMetadata:
        """The table's metadata after all steps so far."""
        before, steps = self._table.metadata, len(self._updates)
        if self._made is None or self._made[0][0] is not before or self._made[0][1] != steps:
            self._made = (before, steps), super().table_metadata
        return self._made[1]


class _Scan(DataScan):
    def snapshot(self) -> Snapshot | None:
        """The snapshot that is read."""
        found = super().snapshot()
        return None if found is None else _Snapshot.model_construct(found.model_fields_set, **dict(found))


class _Snapshot(Snapshot):
    def manifests(self, io: FileIO) -> list[ManifestFile]:
        """The files that list the snapshot's files."""
        listed = _read(self.manifest_list, 0, io, lambda: super(_Snapshot, self).manifests(io))
        return [_Manifest(*one._data) for one in listed]


class _Manifest(ManifestFile):
    def fetch_manifest_entry(self, io: FileIO, discard_deleted: bool = True) -> list[ManifestEntry]:
        """The files that this one lists."""

        def entries() -> list[ManifestEntry]:
            return super(_Manifest, self).fetch_manifest_entry(io, discard_deleted)

        return _read(self.manifest_path, self.manifest_length, io, entries) if discard_deleted else entries()


@dataclass(frozen=True)
class _File:
    """A file as it is now, by what tells it from any other, and how it is read."""

    path: str
    facts: tuple[int, ...]
    read: Callable[[], list[Any]] = field(compare=False)


def state_of(path: str) -> tuple[int, ...]:
    """What tells a local file from any other, and from itself before it was changed."""
    facts = os.stat(path)
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def _read(location: str, size: int, io: FileIO, read: Callable[[], list[Any]]) -> list[Any]:
    """What a file holds, which nobody may change; `read` says what is wrong where it cannot be read.

    Of a file that is not local the name says all: nobody writes one twice.
    """
    path = local_path(location, io.properties)
    if path is None:
        return read() if size > _SMALL else _held(_File(location, (), read))
    if not os.path.exists(path) or os.path.getsize(path) > _SMALL:
        return read()
    return _held(_File(path, state_of(path), read))


@lru_cache(_KEPT)
def _held(file: _File) -> list[Any]:
    """What a small file holds: parsing one takes milliseconds, asking whether it is another takes microseconds."""
    return file.read()
