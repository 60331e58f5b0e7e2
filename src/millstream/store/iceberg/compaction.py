"""Compaction: the small files of an Iceberg table made into few, in a commit that changes no row and no property."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import FileScanTask, Table, Transaction

FILES = 32
"""How many files may come together before the small ones among them are made into one."""
LARGE = 32 << 20
"""Bytes from which on a file is not written again."""
AFTER, AT = "millstream.upkeep.files", "millstream.upkeep.compacted_at"


def due(found: Table) -> bool:
    """Whether enough files have come since the last compaction. Reads nothing but the table's metadata."""
    now, before = data_files(found), int(found.properties.get(AFTER, 0))
    return now - (before if before <= now else 0) >= FILES


def data_files(found: Table) -> int:
    """The files with the rows of the newest snapshot, as its writer counted them."""
    head = found.current_snapshot()
    noted = {} if head is None or head.summary is None else head.summary.additional_properties
    return int(noted.get("total-data-files", 0))


def small_files(found: Table) -> list[list[FileScanTask]]:
    """The files to be made into one, for each day that has some."""
    days: dict[tuple[int, str], list[FileScanTask]] = {}
    for task in found.scan().plan_files():
        days.setdefault((task.file.spec_id, str(task.file.partition)), []).append(task)
    return list(filter(None, map(_smallest, days.values())))


def _smallest(tasks: list[FileScanTask]) -> list[FileScanTask]:
    """The smallest files, as long as the next is no larger than those before it together.

    So a row is written again only when the file that it is in doubles, and the files that stay are each more than twice
    as large as the one before: few, however many came.
    """
    chosen: list[FileScanTask] = []
    total = 0
    for task in sorted(tasks, key=lambda task: task.file.file_size_in_bytes):
        size = task.file.file_size_in_bytes
        if size >= LARGE or total >= LARGE or (len(chosen) > 1 and size > total):
            break
        chosen.append(task)
        total += size
    return chosen if len(chosen) > 1 else []


def written(found: Table, tasks: Sequence[FileScanTask], order: Sequence[str]) -> list[DataFile]:
    """Write the rows of some files into new ones, which no commit names yet.

    Args:
        found: the table, as it was loaded.
        tasks: the files, as a scan of it plans them.
        order: the columns to sort the rows by, those of them that there are; the rows stay as they come without any.
    """
    import uuid

    from pyiceberg.expressions import AlwaysTrue
    from pyiceberg.io.pyarrow import ArrowScan, _dataframe_to_data_files

    rows = ArrowScan(found.metadata, found.io, found.schema(), AlwaysTrue()).to_table(tasks)
    by = [(name, "ascending") for name in order if name in rows.column_names]
    if not rows.num_rows:
        return []
    rows = rows.sort_by(by) if by else rows
    return list(_dataframe_to_data_files(found.metadata, rows, found.io, uuid.uuid4()))


def replaced(
    found: Table, tasks: Sequence[FileScanTask], files: Sequence[DataFile], properties: Mapping[str, str]
) -> Transaction:
    """Return a commit that puts new files in the place of old ones, refused when the table has moved on meanwhile.

    Args:
        found: the table, as it was loaded.
        tasks: the old files, as a scan of it planned them.
        files: the new ones, as `written` returned them.
        properties: all that the new snapshot is to have, those of the old one among them.
    """
    change = found.transaction()
    with change.update_snapshot(snapshot_properties=dict(properties)).overwrite() as rewrite:
        for task in tasks:
            rewrite.delete_data_file(task.file)
        for file in files:
            rewrite.append_data_file(file)
    change.set_properties(dict(properties))
    return change
