"""The offline store: append-only tables that any SQL engine reads, each commit carrying the positions it covers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import pyarrow as pa

ANY: Literal["any"] = "any"
PREFIX = "millstream."
Where = Sequence[tuple[str, str, Any]]
"""Which rows: those for which every (column, comparison, value) holds, such as `("user_id", "in", [1, 2])`.

Comparisons are `=`, `<`, `<=`, `>`, `>=` and `in`; a null never holds. An instant is given in microseconds.
"""

_AT_ONCE = 200_000

STATED: Where = (("event_time", ">=", -(2**63)), ("available_time", ">=", -(2**63)))
"""The rows of a batch group's table that say when: another program's without instants state nothing."""


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

        The table is made from the first rows, and takes on columns it does not have yet. Where this raises nothing was
        committed. Called by the archive, ingestion and sync.

        Args:
            table: the table's name, "kind.name".
            rows: the rows; a column of the table that they lack is null in them, and without any rows only properties
                are set.
            properties: what to set, by names that begin with "millstream."; a later commit replaces those it names and
                keeps the others.
            expected: the id of the snapshot the writer read its positions from (None: there was none), which makes a
                repeated append harmless; "any" appends to whatever is there.

        Raises:
            Fenced: when the table is not at `expected`.
            StoreError: when a column has another type than the table's.
            DiskFull: when there is no room.
        """
        ...

    def scan(
        self,
        table: str,
        columns: Sequence[str] | None = None,
        where: Where = (),
        snapshot: int | None = None,
    ) -> pa.Table:
        """The rows of one snapshot in no promised order, the columns in the order asked for.

        A snapshot stays readable until its table is dropped; a column that came after it may read as null. Called for
        history and training sets.

        Args:
            table: the table's name.
            columns: the columns wanted; None for all.
            where: which rows; all unless given.
            snapshot: the id of the snapshot; None for the newest.

        Raises:
            NotFound: when there is no such table, column or snapshot.
            StoreError: when `where` cannot be read.
        """
        ...

    def snapshot(self, table: str) -> Snapshot | None:
        """The newest snapshot, or None when nothing was ever appended. Called to find the positions to go on from.

        Args:
            table: the table's name; none of that name is no error.
        """
        ...

    def tables(self) -> list[str]:
        """The names of all tables, sorted."""
        ...

    def drop(self, table: str) -> None:
        """Remove a table and its files.

        Args:
            table: the table's name; none of that name is no error.
        """
        ...


@runtime_checkable
class BatchReads(Protocol):
    """An offline store whose tables may be larger than memory."""

    def batches(
        self,
        table: str,
        columns: Sequence[str] | None = None,
        where: Where = (),
        snapshot: int | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """The rows of `OfflineStore.scan`, some at a time; none at all when no row is meant.

        Called where history is read by key and time. Raises what `scan` raises, at the first batch.

        Args:
            table: the table's name.
            columns: the columns wanted, in this order; None for all.
            where: which rows; all unless given.
            snapshot: the id of the snapshot; None for the one that is newest at the first batch, of which all others
                are too.
        """
        ...


def batches_of(
    offline: OfflineStore,
    table: str,
    columns: Sequence[str] | None = None,
    where: Where = (),
    snapshot: int | None = None,
) -> Iterator[pa.RecordBatch]:
    """Return the rows of `OfflineStore.scan` some at a time, in as little memory as the store needs for that.

    Raises what `scan` raises, at the first batch.

    Args:
        offline: the offline store.
        table: the table's name.
        columns: the columns wanted, in this order; None for all.
        where: which rows; all unless given.
        snapshot: the id of the snapshot; None for the newest.
    """
    if isinstance(offline, BatchReads):
        return offline.batches(table, columns, where, snapshot)
    return iter(offline.scan(table, columns, where, snapshot).to_batches(_AT_ONCE))


@runtime_checkable
class Pinning(Protocol):
    """An offline store that lets go of old snapshots, and is told which are still needed."""

    def pin(self, table: str, snapshot: int, by: str | int) -> None:
        """Keep a snapshot readable, by a name until `unpin` of it, or until an instant.

        Called when a training set is read (for a week) and when a model version that learnt from it is registered (by
        the version's name).

        Args:
            table: the table's name.
            snapshot: the id of the snapshot.
            by: the name that pins it, which may pin snapshots of other tables too; or the instant (µs) until which it
                is kept.

        Raises:
            NotFound: when the table has no such snapshot any more.
        """
        ...

    def pinned(self, table: str) -> set[str]:
        """The names that pin a snapshot of a table; none is no error. Called to find the pins that are missing.

        Args:
            table: the table's name; none of that name is no error either.
        """
        ...

    def unpin(self, by: str) -> None:
        """Let go of every snapshot that a name pins, in all tables. Called when what the name stands for is gone.

        Args:
            by: the name, as it was given to `pin`; one that pins nothing is no error.
        """
        ...


@dataclass(frozen=True)
class Tended:
    """What upkeep of a table did: files that were made into fewer, and files deleted that nothing named any more."""

    compacted: int = 0
    deleted: int = 0

    def __add__(self, other: Tended) -> Tended:
        return Tended(self.compacted + other.compacted, self.deleted + other.deleted)


@dataclass(frozen=True)
class TableFacts:
    """How many files a table has.

    Args:
        files: all files in its folder.
        data_files: those with the rows of its newest snapshot.
        compacted_at: when (µs) small ones were last made into few; None if never.
    """

    files: int
    data_files: int
    compacted_at: int | None = None


@runtime_checkable
class Upkeep(Protocol):
    """An offline store whose tables are made of files that somebody must see to."""

    def tend(self, table: str, now: int, *, order: Sequence[str] = (), keep: int = 0) -> Tended:
        """Make many small files into few, and delete what nothing has named for a while.

        Does nothing where nothing is to be done, which costs little. Rows and properties stay the same, pinned
        snapshots stay readable, and any other writer may append meanwhile. Called after each sync. A store whose tables
        have an owner elsewhere, as those of a shared catalog, leaves it to that one.

        Args:
            table: the table's name.
            now: the clock's time (µs).
            order: the columns by which the rows of one file are sorted then, those of them that the table has.
            keep: for how long (µs, by the clock of `now`) nothing must have named a file before it is deleted; it may
                stay for twice as long, until a look at all files is worth it.
        """
        ...

    def facts(self, table: str) -> TableFacts:
        """How many files a table has. Called by status and doctor.

        Args:
            table: the table's name.

        Raises:
            NotFound: when there is no such table.
        """
        ...


@runtime_checkable
class Examined(Protocol):
    """An offline store that can tell whether its files are what was written."""

    def examine(self, table: str) -> int:
        """Read every file that a table names and compare it with what was written; return how many. Called by doctor.

        Args:
            table: the table's name.

        Raises:
            CorruptState: for a file that is not what was written.
            StoreError: for a table that cannot be gone on with.
        """
        ...


@dataclass(frozen=True)
class Moved:
    """What was copied of a table: its rows in the newest snapshot, its snapshots, its files with rows, and their bytes."""

    rows: int = 0
    snapshots: int = 0
    files: int = 0
    size: int = 0

    def __add__(self, other: Moved) -> Moved:
        return Moved(
            self.rows + other.rows,
            self.snapshots + other.snapshots,
            self.files + other.files,
            self.size + other.size,
        )


@runtime_checkable
class TakesOver(Protocol):
    """An offline store that can take tables of another one of its kind, with every snapshot, its id and its pins."""

    def take_over(self, table: str, source: OfflineStore, moved: Callable[[int], None]) -> Moved:
        """Hold a table as another store holds it, in place of one of that name; called by a migration.

        Done again, after an attempt that died, it comes to the same.

        Args:
            table: the name of the table.
            source: the store that has it, which is only read, and to which nobody writes meanwhile.
            moved: called with how many more bytes are there.

        Returns:
            What was copied, and compared with what it was copied from.

        Raises:
            StoreError: when the other store is of another kind, or a table is not as we write them.
            CorruptState: when a file is not what was written.
        """
        ...
