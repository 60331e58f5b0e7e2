"""Where the tables of an offline store lie: which catalog lists them, and who sees to their files."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table, Transaction

SETTINGS = {
    "commit.retry.num-retries": "0",
    "commit.manifest-merge.enabled": "true",
    "commit.manifest.min-count-to-merge": "50",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "10",
    "write.parquet.row-group-limit": "65536",
}
"""The properties of a table that is made."""


class Warehouse(Protocol):
    """A folder of this machine, or storage and a catalog that several machines share."""

    def clear(self, table: str) -> AbstractContextManager[None]:
        """Let whatever goes wrong come out as one sentence about a table ("*" for all of them)."""
        ...

    def open(self) -> Catalog:
        """Open the catalog."""
        ...

    def found(self, catalog: Catalog, table: str) -> Table | None:
        """A table as it is now, None where there is none.

        Raises:
            CorruptState: the catalog does not list it, and its rows are there.
        """
        ...

    def remove(self, catalog: Catalog, table: str) -> None:
        """Remove a table and its files; no such table is no error."""
        ...

    def let_go(self, change: Transaction, found: Table) -> None:
        """Add to a commit of rows that old snapshots are let go of, where that is done with each commit."""
        ...

    def sweep(self, catalog: Catalog, table: str, now: int, keep: int, compacted: bool) -> int:
        """Let go of what nobody needs, and delete files that nothing has named for long enough; returns how many."""
        ...

    def files(self, found: Table) -> int:
        """How many files there are in the place of a table."""
        ...

    def examine(self, found: Table) -> int:
        """Compare every file that a table names with what is known of it; returns how many there are.

        Raises:
            CorruptState: a file is not what was written.
        """
        ...
