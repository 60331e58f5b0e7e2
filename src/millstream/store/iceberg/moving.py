"""An Iceberg table in another place: the same snapshots under the same ids and tags, of copied files.

Iceberg's metadata name every file by where it lies. So the files with rows are copied as they are, and those that list
them are written again with the places of the copies; then the table is registered in the other catalog.
"""

from __future__ import annotations

import copy
import posixpath
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from millstream.errors import CorruptState, StoreError
from millstream.store.iceberg.commit import identifier
from millstream.store.offline import Moved

if TYPE_CHECKING:
    from pyiceberg.avro.codecs import AvroCompressionCodec
    from pyiceberg.catalog import Catalog
    from pyiceberg.io import FileIO
    from pyiceberg.manifest import ManifestEntry, ManifestFile
    from pyiceberg.table import Table
    from pyiceberg.table.metadata import TableMetadata
    from pyiceberg.table.snapshots import Snapshot
    from pyiceberg.typedef import TableVersion

_AT_ONCE = 4
"""Files that are copied at once."""
_PIECE = 4 << 20
_CODEC: AvroCompressionCodec = "deflate"
_ELSEWHERE = ("write.data.path", "write.metadata.path", "write.object-storage.enabled")
"""Properties of a table that let its next files lie outside of it."""


def copy_table(table: str, found: Table, catalog: Catalog, moved: Callable[[int], None]) -> Moved:
    """Make a table of another catalog that is the same in all but where it lies.

    Files with rows that are there already, of the same size, are taken for the copies that they are: no file of Iceberg's
    is ever written twice. All that was copied is read back.

    Args:
        table: the table's name.
        found: the table as it is; nobody writes to it meanwhile.
        catalog: the catalog that is to list it; one of that name is taken off the list, and it says where the table lies.
        moved: called with how many more bytes are there.

    Returns:
        What was copied.

    Raises:
        StoreError: when another program has written to the table what is not copied.
        CorruptState: when a file is not what was written, or its copy is not.
    """
    from pyiceberg.exceptions import NamespaceAlreadyExistsError, NoSuchTableError

    place = identifier(table)
    with suppress(NamespaceAlreadyExistsError):
        catalog.create_namespace(place[0])
    with suppress(NoSuchTableError):
        catalog.drop_table(place)
    staged = catalog.create_table_transaction(place, found.schema())  # nothing of it is there before it is committed
    location = staged.table_metadata.location.rstrip("/")
    moving = _Moving(table, found, staged._table.io, location, moved)
    moving.copy_rows()
    named = posixpath.basename(found.metadata_location).replace(".gz.metadata", ".metadata")
    written = f"{location}/metadata/{named}"
    moving.write(written, _metadata(found, location, moving).model_dump_json().encode())
    made = catalog.register_table(place, written)
    return Moved(_rows(made), len(found.metadata.snapshots), len(moving.files), sum(moving.files.values()))


def _metadata(found: Table, location: str, moving: _Moving) -> TableMetadata:
    """The metadata of a table in its new place; what may be made again of its rows is left behind."""
    properties = {name: value for name, value in found.metadata.properties.items() if name not in _ELSEWHERE}
    listed = [one.model_copy(update={"manifest_list": moving.listed(one)}) for one in found.metadata.snapshots]
    return found.metadata.model_copy(
        update={
            "location": location,
            "snapshots": listed,
            "metadata_log": [],
            "statistics": [],
            "partition_statistics": [],
            "properties": properties,
        }
    )


def _rows(found: Table) -> int:
    """How many rows the newest snapshot has, by what its files say of themselves."""
    return sum(task.file.record_count for task in found.scan().plan_files())


class _Moving:
    """One table on its way."""

    def __init__(self, table: str, found: Table, io: FileIO, location: str, moved: Callable[[int], None]) -> None:
        self._table, self._found, self._io, self._location, self._moved = table, found, io, location, moved
        self._manifests: dict[str, ManifestFile] = {}
        #: By where it is, the size of each file with rows.
        self.files: dict[str, int] = {}

    def copy_rows(self) -> None:
        """Copy every file with rows that a snapshot names, and see that the copies are what they were made of."""
        for manifest in self._every():
            for entry in self._entries(manifest):
                if not _gone(entry):
                    self.files[entry.data_file.file_path] = entry.data_file.file_size_in_bytes
        with ThreadPoolExecutor(_AT_ONCE) as several:
            list(several.map(self._copy, self.files, self.files.values()))

    def listed(self, snapshot: Snapshot) -> str:
        """Write the list of a snapshot's manifests again, and return where it is."""
        from pyiceberg.manifest import write_manifest_list

        place = self._place(snapshot.manifest_list)
        manifests = [self._manifest(one) for one in snapshot.manifests(self._found.io)]
        with write_manifest_list(
            self._version(),
            self._io.new_output(place),
            snapshot.snapshot_id,
            snapshot.parent_snapshot_id,
            snapshot.sequence_number,
            _CODEC,
        ) as writer:
            writer.add_manifests(manifests)
        return place

    def write(self, place: str, content: bytes) -> None:
        """Write a file whole."""
        with self._io.new_output(place).create(overwrite=True) as file:
            file.write(content)

    def _every(self) -> Iterator[ManifestFile]:
        """Every manifest of every snapshot, once."""
        known: set[str] = set()
        for snapshot in self._found.metadata.snapshots:
            for manifest in snapshot.manifests(self._found.io):
                if manifest.manifest_path not in known:
                    known.add(manifest.manifest_path)
                    yield manifest

    def _entries(self, manifest: ManifestFile) -> list[ManifestEntry]:
        from pyiceberg.manifest import DataFileContent, ManifestContent, ManifestFile

        entries = ManifestFile.fetch_manifest_entry(manifest, self._found.io, discard_deleted=False)
        rows = all(entry.data_file.content == DataFileContent.DATA for entry in entries)
        if manifest.content != ManifestContent.DATA or not rows:
            raise StoreError(
                f"Offline table '{self._table}': another program has deleted rows of it by files that name them, which are "
                "not moved.",
                "let that program rewrite the table's files, so that the rows are gone from them, and do it again.",
            )
        return entries

    def _manifest(self, manifest: ManifestFile) -> ManifestFile:
        """A manifest that was written again, with the places of the copies; each once."""
        if manifest.manifest_path not in self._manifests:
            self._manifests[manifest.manifest_path] = self._manifest_again(manifest)
        return self._manifests[manifest.manifest_path]

    def _manifest_again(self, manifest: ManifestFile) -> ManifestFile:
        from pyiceberg.manifest import write_manifest

        place, metadata = self._place(manifest.manifest_path), self._found.metadata
        with write_manifest(
            self._version(),
            metadata.specs()[manifest.partition_spec_id],
            metadata.schema(),
            self._io.new_output(place),
            manifest.added_snapshot_id or 0,
            _CODEC,
        ) as writer:
            for entry in self._entries(manifest):
                entry.data_file[_PATH] = self._place(entry.data_file.file_path)
                writer.add_entry(entry)
        again = copy.copy(manifest)
        again._data = list(manifest._data)
        again[_MANIFEST_PATH], again[_MANIFEST_LENGTH] = place, len(self._io.new_input(place))
        return again

    def _copy(self, location: str, size: int) -> None:
        """Copy one file unless it is there, and compare what is there then."""
        place = self._place(location)
        there = self._io.new_input(place)
        with self._found.io.new_input(location).open() as file:
            if not (there.exists() and len(there) == size):
                with self._io.new_output(place).create(overwrite=True) as copied:
                    while piece := file.read(_PIECE):
                        copied.write(piece)
                file.seek(0)
            with self._io.new_input(place).open() as again:
                while True:
                    piece, other = file.read(_PIECE), again.read(_PIECE)
                    if zlib.crc32(piece) != zlib.crc32(other):
                        raise CorruptState(
                            f"Offline file '{place}' is not what '{location}' is, of which it is the copy.",
                            "look at the storage, delete the copy, and do it again.",
                        )
                    if not piece:
                        break
        self._moved(size)

    def _place(self, location: str) -> str:
        """Where the copy of a file lies: in the table's folder as the file in its own, or by its name among the rows."""
        _, within, inside = location.rpartition(f"/{'/'.join(identifier(self._table))}/")
        return f"{self._location}/{inside if within else f'data/{posixpath.basename(location)}'}"

    def _version(self) -> TableVersion:
        return self._found.metadata.format_version


_PATH, _MANIFEST_PATH, _MANIFEST_LENGTH = 1, 0, 1
"""Where records of Iceberg's manifests keep a path and a length."""


def _gone(entry: ManifestEntry) -> bool:
    """Whether a file was taken out of the table, so that it may not be there any more."""
    from pyiceberg.manifest import ManifestEntryStatus

    return entry.status == ManifestEntryStatus.DELETED
