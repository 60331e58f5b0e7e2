"""The files of an Iceberg table: which of them anything names, and how local ones that nothing names go."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from millstream.store.iceberg.file_ledger import FileLedger, sum_of

if TYPE_CHECKING:
    from pyiceberg.io import FileIO
    from pyiceberg.manifest import ManifestFile
    from pyiceberg.table import Table
    from pyiceberg.table.snapshots import Snapshot

OURS = (".parquet", ".avro", ".metadata.json")
_DROPPED = ".dropped-"


def clear_out(folder: Path, dropped: Callable[[], object]) -> None:
    """Remove a table's folder, taking it away before its entry in the catalog is dropped and deleting it after.

    Whoever dies in between leaves a table that cannot be read and can be dropped again, never rows without an entry.
    """
    if folder.exists():
        folder.rename(folder.with_name(f"{_DROPPED}{uuid.uuid4().hex}"))
    try:
        dropped()
    finally:
        for one in folder.parent.glob(f"{_DROPPED}*"):
            shutil.rmtree(one, ignore_errors=True)


def named_files(found: Table) -> set[str]:
    """The locations of all files that a table's metadata names: of every listed snapshot, and of the metadata itself.

    Raises:
        CorruptState: one of them is not what was written; then nobody can say what the others are for.
    """
    metadata = found.metadata
    named = {found.metadata_location, *(entry.metadata_file for entry in metadata.metadata_log)}
    named |= {one.statistics_path for one in (*metadata.statistics, *metadata.partition_statistics)}
    return named | files_of(metadata.snapshots, found.io)


def files_of(snapshots: Iterable[Snapshot], io: FileIO) -> set[str]:
    """The locations of all files that snapshots name: those with rows, and those that list them.

    Args:
        snapshots: the snapshots.
        io: how the table's files are read.
    """
    named: set[str] = set()
    manifests: dict[str, ManifestFile] = {}
    for snapshot in snapshots:
        named.add(snapshot.manifest_list)
        manifests |= {one.manifest_path: one for one in snapshot.manifests(io)}
    for place, manifest in manifests.items():
        named.add(place)
        named |= {entry.data_file.file_path for entry in manifest.fetch_manifest_entry(io, discard_deleted=False)}
    return named


def sweep(found: Table, folder: Path, now: int, keep: int) -> int:
    """Delete the files of a table that nothing has named for long enough; return how many.

    A file that a commit under way is about to name is younger than the newest snapshot: had that writer begun before
    it, its commit would be refused. So what is younger stays, however the clock was set. Files are told by their names
    alone, which are as good as unique, for each engine writes the way to them as it likes.

    Args:
        found: the table, as it was loaded.
        folder: the table's folder.
        now: the clock's time (µs).
        keep: for how long (µs) nothing must have named a file, as sweeps have found it.

    Raises:
        CorruptState: when one of the files that say which others are named is not what was written.
    """
    ledger, head = FileLedger(folder.parent.parent), found.current_snapshot()
    named = {os.path.basename(location) for location in named_files(found)}
    every = {name: os.path.join(place, name) for place, _, names in os.walk(folder) for name in names}
    newest = None if head is None else every.get(os.path.basename(head.manifest_list))
    if newest is None:
        return 0  # they are somewhere else, and who knows what these are
    limit = os.stat(newest).st_mtime_ns
    loose = [path for name, path in every.items() if name not in named and name.endswith(OURS)]
    since = ledger.unreferenced(str(folder), loose, now)
    old = [path for path in loose if since[path] + keep <= now and _changed(path) < limit]
    for path in old:
        Path(path).unlink(missing_ok=True)
    ledger.forget(old)
    there = [path for name, path in every.items() if name in named]
    known = ledger.noted(there)
    ledger.note({path: (os.path.getsize(path), sum_of(path)) for path in there if path not in known})
    return len(old)


def _changed(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except FileNotFoundError:  # another process deletes them too
        return 0
