"""The tables of an offline store on this machine: a SQLite catalog and a folder, of whose files we keep the sums."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from millstream.settings import sqlite_url
from millstream.store.iceberg import tags
from millstream.store.iceberg.commit import identifier
from millstream.store.iceberg.errors import clear, unreadable
from millstream.store.iceberg.file_ledger import FileLedger
from millstream.store.iceberg.files import clear_out, named_files, sweep

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table, Transaction


class LocalWarehouse:
    """A folder with a catalog (`catalog.db`), the tables (`warehouse/`) and the sums of their files (`files.db`).

    Args:
        folder: the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def clear(self, table: str) -> AbstractContextManager[None]:
        """Whatever goes wrong comes out as one sentence about a table."""
        return clear(self._folder, table)

    def open(self) -> Catalog:
        """Open the catalog, which is made if there is none."""
        from pyiceberg.catalog import load_catalog
        from sqlalchemy.exc import OperationalError

        from millstream.store.iceberg.durable_files import places

        warehouse = self._folder.absolute() / "warehouse"
        warehouse.mkdir(parents=True, exist_ok=True)
        local = {
            "py-catalog-impl": "millstream.store.iceberg.sql_catalog.KeptSqlCatalog",
            "uri": f"{sqlite_url(self._folder.absolute() / 'catalog.db')}?timeout=60",
            "warehouse": f"file://{warehouse}",
            "py-io-impl": "millstream.store.iceberg.durable_files.DurableFileIO",
            **places(warehouse, self._folder.absolute() / "catalog.db"),
        }
        try:
            return load_catalog("millstream", **local)
        except OperationalError:  # another process made the catalog's tables at the same moment
            return load_catalog("millstream", **local)

    def found(self, catalog: Catalog, table: str) -> Table | None:
        """A table as it is now, None where there is none and nothing of it."""
        from pyiceberg.exceptions import NoSuchTableError

        try:
            return catalog.load_table(identifier(table))
        except NoSuchTableError as error:
            if any(self._folder_of(table).glob("metadata/snap-*.avro")):
                raise unreadable(
                    self._folder, table, "its rows are there, but 'catalog.db' does not name it"
                ) from error
            return None

    def remove(self, catalog: Catalog, table: str) -> None:
        """Remove a table and its folder."""
        from pyiceberg.exceptions import NoSuchTableError

        with suppress(NoSuchTableError):
            clear_out(self._folder_of(table), lambda: catalog.drop_table(identifier(table)))

    def let_go(self, change: Transaction, found: Table) -> None:
        """Let old snapshots be let go of in each commit; their files stay until they are swept."""
        tags.let_go(change, found)

    def sweep(self, catalog: Catalog, table: str, now: int, keep: int, compacted: bool) -> int:
        """Delete files that nothing has named for long enough, after compaction or when it does not come in time."""
        folder = self._folder_of(table)
        oldest = FileLedger(self._folder / "warehouse").oldest(str(folder))
        if not compacted and (oldest is None or oldest + 2 * keep > now):
            return 0
        return sweep(catalog.load_table(identifier(table)), folder, now, keep)

    def files(self, found: Table) -> int:
        """How many files are in a table's folder."""
        folder = self._folder.absolute().joinpath("warehouse", *found.name())
        return sum(len(names) for _, _, names in os.walk(folder))

    def examine(self, found: Table) -> int:
        """Read every file that a table names, and compare its sum."""
        named = named_files(found) - {entry.metadata_file for entry in found.metadata.metadata_log}
        for location in sorted(named):
            found.io.new_input(location).open().close()
        return len(named)

    def _folder_of(self, table: str) -> Path:
        return self._folder.absolute().joinpath("warehouse", *identifier(table))
