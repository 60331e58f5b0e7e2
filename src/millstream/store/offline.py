"""The offline store: append-only tables that any SQL engine reads, each commit carrying the positions it covers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import pyarrow as pa

ANY: Literal["any"] = "any"
PREFIX = "millstream."


@dataclass(frozen=True)
class Snapshot:
    """A table as one commit left it.

    Args:
        id: names the snapshot in `OfflineStore.scan` and as `expected` in `OfflineStore.append`.
        properties: the newest value of every property that a commit up to this one has set.
    """

    id: int
    properties: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class OfflineStore(Protocol):
    """Append-only tables named "kind.name", such as "events.payments" or "features.velocity@1".

    Safe for any number of writers and readers.
    """

    def append(
        self,
        table: str,
        rows: pa.Table,
        properties: Mapping[str, str] | None = None,
        expected: int | Literal["any"] | None = ANY,
    ) -> Snapshot:
        """Append rows and set properties in one commit; what is returned is durable.

        The table is made from the first rows, and takes on columns it does not have yet. Properties begin with
        "millstream."; a later commit replaces those it names and keeps the others. `expected` is the id of the snapshot
        the writer read its positions from (None: there was none), which makes a repeated append harmless; "any" appends
        to whatever is there. Called by the archive, ingestion and sync.
        Raises `Fenced` when the table is not at `expected`, `StoreError` when a column has another type than the
        table's, `DiskFull` when there is no room; nothing was committed then.
        """
        ...

    def scan(
        self,
        table: str,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        snapshot: int | None = None,
    ) -> pa.Table:
        """The rows of one snapshot (default: the newest) in no promised order, the columns in the order asked for.

        `where` is a filter such as "at >= 5 and tier = 'gold'". A snapshot stays readable until its table is dropped; a
        column that came after it may read as null. Called for history and training sets.
        Raises `NotFound` when there is no such table, column or snapshot.
        """
        ...

    def snapshot(self, table: str) -> Snapshot | None:
        """The newest snapshot, or None when nothing was ever appended. Called to find the positions to go on from."""
        ...

    def tables(self) -> list[str]:
        """The names of all tables, sorted."""
        ...

    def drop(self, table: str) -> None:
        """Remove a table and its files; no such table is no error."""
        ...
