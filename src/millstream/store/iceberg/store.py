"""The offline store on Iceberg tables: a SQLite catalog and a local folder, or any PyIceberg catalog by setting."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from millstream.errors import Fenced, NotFound, StoreError
from millstream.store.iceberg.commit import (
    carried,
    identifier,
    landed,
    marked,
    name,
    newest,
    reach,
    snapshot_ids,
    stage,
    storable,
    unsettled,
    whole,
)
from millstream.store.iceberg.compaction import AFTER, AT, data_files, due, replaced, small_files, written
from millstream.store.iceberg.days import DAY, divide, divided_by, divided_by_day, shown, with_day
from millstream.store.iceberg.local import LocalWarehouse
from millstream.store.iceberg.read import apart, chosen, held, narrow
from millstream.store.iceberg.reserved import as_kept, as_ours, kept, ours, set_apart
from millstream.store.iceberg.tags import ended, names, tag_of, tagged
from millstream.store.iceberg.warehouse import SETTINGS, Warehouse
from millstream.store.offline import ANY, Moved, OfflineStore, Snapshot, TableFacts, Tended, Where

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import DataScan, Table, Transaction

_ATTEMPTS = 60
_FEW = 3


class IcebergOfflineStore:
    """The offline store of a project: Iceberg tables, which other engines can read and write beside it.

    Args:
        folder: where the catalog (`catalog.db`) and the tables (`warehouse/`) are kept, or a warehouse that is elsewhere.
        by_day: whether tables that are made from now on lie in files by day; worth it where a day has tens of megabytes.
        for_spark: whether they have no column whose name Iceberg keeps for its own, as Spark demands of what it reads whole.

    Raises:
        CorruptState: when the catalog or a table cannot be read as what was written.

    >>> import tempfile
    >>> store = IcebergOfflineStore(tempfile.mkdtemp())
    >>> first = store.append("events.payments", pa.table({"amount": [5.0]}), {"millstream.positions": "[1]"})
    >>> store.scan("events.payments").to_pydict(), store.snapshot("events.payments").properties
    ({'amount': [5.0]}, {'millstream.positions': '[1]'})
    """

    def __init__(self, folder: str | Path | Warehouse, *, by_day: bool = False, for_spark: bool = False) -> None:
        self._warehouse = LocalWarehouse(Path(folder)) if isinstance(folder, str | Path) else folder
        self._by_day, self._for_spark = by_day, for_spark
        self._opened: tuple[int, Catalog] | None = None
        self._lock = threading.Lock()

    def append(
        self,
        table: str,
        rows: pa.Table,
        properties: Mapping[str, str] | None = None,
        expected: int | Literal["any"] | None = ANY,
    ) -> Snapshot:
        """Append rows and set properties in one commit; see `OfflineStore.append`."""
        mine = marked(table, properties or {})
        rows = storable(rows)
        with self._warehouse.clear(table):
            for _ in range(_ATTEMPTS):
                found = self._found(table) or (self._made(table, rows.schema) if expected in (ANY, None) else None)
                before = None if found is None else newest(found)
                head = None if before is None else before.id
                if found is None or expected not in (ANY, head):
                    given = None if isinstance(expected, str) else expected
                    raise Fenced.moved(f"table '{table}' (its snapshot)", given, head)
                named = as_kept(rows, found.schema().column_names)
                dated = with_day(table, named) if divided_by(found.metadata) == [DAY] else named
                change = stage(whole(found, table), table, dated, mine)
                if (done := self._landed(table, found, change, mine)) is not None:
                    return done
        raise _busy(table)

    def scan(
        self,
        table: str,
        columns: Sequence[str] | None = None,
        where: Where = (),
        snapshot: int | None = None,
    ) -> pa.Table:
        """The rows of one snapshot; see `OfflineStore.scan`."""
        with self._warehouse.clear(table):
            planned, many = self._planned(table, columns, where, snapshot)
            rows = held(planned.to_arrow(), many)
        return as_ours(narrow(rows.select(_meant(planned, columns, rows.schema))))

    def batches(
        self,
        table: str,
        columns: Sequence[str] | None = None,
        where: Where = (),
        snapshot: int | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """The rows of one snapshot, those of one file at a time in memory; see `BatchReads.batches`.

        Files and parts of files whose statistics say that they have no such row are not read.

        >>> import tempfile
        >>> store = IcebergOfflineStore(tempfile.mkdtemp())
        >>> _ = store.append("events.payments", pa.table({"user_id": [1, 2, 3], "at": [10, 20, 30]}))
        >>> found = store.batches("events.payments", ["user_id"], [("user_id", "in", [1, 3]), ("at", "<", 30)])
        >>> [batch.to_pydict() for batch in found]
        [{'user_id': [1]}]
        """
        from pyiceberg.io.pyarrow import ArrowScan

        with self._warehouse.clear(table):
            planned, many = self._planned(table, columns, where, snapshot)
            reader = ArrowScan(planned.table_metadata, planned.io, planned.projection(), planned.row_filter)
            for task in planned.plan_files():
                for batch in reader.to_record_batches([task]):
                    names = _meant(planned, columns, batch.schema)
                    yield as_ours(narrow(held(batch, many).select(names)))

    def snapshot(self, table: str) -> Snapshot | None:
        """The newest snapshot, or None when nothing was ever appended."""
        with self._warehouse.clear(table):
            found = self._found(table)
            if found is not None and unsettled(found):
                with suppress(Fenced):  # another process settles it
                    self.append(table, pa.table({}), {}, found.metadata.current_snapshot_id)
                found = self._load(table)
            return None if found is None else newest(found)

    def pin(self, table: str, snapshot: int, by: str | int) -> None:
        """Tag a snapshot; see `Pinning.pin`."""
        with self._warehouse.clear(table):
            for _ in range(_ATTEMPTS):
                found = self._load(table)
                change = tagged(found, snapshot, by)
                if change is None:
                    raise NotFound.named(f"snapshot of '{table}'", str(snapshot), map(str, snapshot_ids(found)))
                if self._done(change.commit_transaction):
                    return
        raise _busy(table)

    def pinned(self, table: str) -> set[str]:
        """The names that pin a snapshot of a table; see `Pinning.pinned`."""
        with self._warehouse.clear(table):
            found = self._found(table)
            return set() if found is None else names(found)

    def unpin(self, by: str) -> None:
        """Remove the tags of that name; see `Pinning.unpin`."""
        tag = tag_of(by, 0)
        for table in self.tables():
            with self._warehouse.clear(table):
                for _ in range(_ATTEMPTS):
                    found = self._found(table)
                    if (
                        found is None
                        or tag not in found.refs()
                        or self._done(found.manage_snapshots().remove_tag(tag).commit)
                    ):
                        break
                else:
                    raise _busy(table)

    def tend(self, table: str, now: int, *, order: Sequence[str] = (), keep: int = 0) -> Tended:
        """Compact and sweep a table; see `Upkeep.tend`."""
        with self._warehouse.clear(table):
            found = self._found(table)
            if found is None:
                return Tended()
            for tag in ended(found, now):
                self._done(
                    found.manage_snapshots().remove_tag(tag).commit
                )  # or next time, when another writer was first
            compacted = self._compact(table, now, order)
            return Tended(compacted, self._warehouse.sweep(self._catalog(), table, now, keep, compacted > 0))

    def facts(self, table: str) -> TableFacts:
        """How many files a table has; see `Upkeep.facts`."""
        with self._warehouse.clear(table):
            found = self._load(table)
            at = found.properties.get(AT)
            return TableFacts(self._warehouse.files(found), data_files(found), None if at is None else int(at))

    def examine(self, table: str) -> int:
        """Read every file that a table names and compare it with what was written; returns how many there are.

        Raises:
            StoreError: another program has changed the table so that it cannot be gone on with.
            CorruptState: a file is not what was written.
        """
        with self._warehouse.clear(table):
            return self._warehouse.examine(whole(self._load(table), table))

    def tables(self) -> list[str]:
        """The names of all tables, sorted."""
        with self._warehouse.clear("*"):
            catalog = self._catalog()
            return sorted(name(place) for space in catalog.list_namespaces() for place in catalog.list_tables(space))

    def drop(self, table: str) -> None:
        """Remove a table and its files; no such table is no error."""
        with self._warehouse.clear(table):
            self._warehouse.remove(self._catalog(), table)

    def take_over(self, table: str, source: OfflineStore, moved: Callable[[int], None]) -> Moved:
        """Copy a table with all its snapshots; see `TakesOver.take_over`."""
        from millstream.store.iceberg.moving import copy_table

        if not isinstance(source, IcebergOfflineStore) or isinstance(self._warehouse, LocalWarehouse):
            raise StoreError(
                f"Offline table '{table}': it would have to move from Iceberg to S3 or a catalog, and does not.",
                "set `path` or `catalog` in [offline].",
            )
        with source._warehouse.clear(table):
            found = whole(source._load(table), table)
        with self._warehouse.clear(table):
            return copy_table(table, found, self._catalog(), moved)

    def _planned(
        self, table: str, columns: Sequence[str] | None, where: Where, snapshot: int | None
    ) -> tuple[DataScan, list[tuple[str, pa.Array]]]:
        """What is to be read, once it is known to be there, and what its rows are to be held to."""
        from pyiceberg.expressions import AlwaysTrue

        found = whole(self._load(table), table)
        names = found.schema().column_names
        for column in (*(columns or ()), *(column for column, *_ in where)):
            if kept(column, names) not in names:
                raise NotFound.named(f"column of '{table}'", column, map(ours, names))
        if snapshot is not None and not reach(found, snapshot):
            raise NotFound.named(f"snapshot of '{table}'", str(snapshot), map(str, snapshot_ids(found)))
        plan, many = apart(table, [(kept(column, names), sign, value) for column, sign, value in where], found)
        filtered = chosen(table, plan, found) if plan else AlwaysTrue()
        then = found.scan(snapshot_id=snapshot).projection().column_names  # a snapshot has the names of its day
        many = [(kept(ours(column), then), values) for column, values in many]
        fields = ["*"] if columns is None else [kept(one, then) for one in columns] + [column for column, _ in many]
        selected = tuple(dict.fromkeys(fields))
        return found.scan(row_filter=filtered, selected_fields=selected, snapshot_id=snapshot), many

    def close(self) -> None:
        """Let go of the catalog's connections; what is asked next opens its own."""
        with self._lock:
            if self._opened is not None and self._opened[0] == os.getpid():
                self._opened[1].close()
                self._opened = None

    def _catalog(self) -> Catalog:
        """The open catalog; a forked child opens its own."""
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                self._opened = (os.getpid(), self._warehouse.open())
            return self._opened[1]

    def _found(self, table: str) -> Table | None:
        return self._warehouse.found(self._catalog(), table)

    def _load(self, table: str) -> Table:
        found = self._found(table)
        if found is None:
            raise NotFound.named("table", table, self.tables())
        return found

    def _made(self, table: str, rows: pa.Schema) -> Table:
        """The table, made from the schema of its first rows unless another writer has made it since."""
        from pyiceberg.exceptions import CommitFailedException, NamespaceAlreadyExistsError, TableAlreadyExistsError
        from sqlalchemy.exc import IntegrityError

        place = identifier(table)
        catalog = self._catalog()
        with suppress(NamespaceAlreadyExistsError, IntegrityError):
            catalog.create_namespace(place[0])
        schema = with_day(table, rows.empty_table()).schema if self._by_day else rows
        try:
            made = catalog.create_table_transaction(place, schema=schema, properties=SETTINGS)
            if self._by_day:
                divide(made, table, rows)
            if self._for_spark:
                set_apart(made)
            return made.commit_transaction()
        except (TableAlreadyExistsError, CommitFailedException, IntegrityError):
            return self._load(table)

    def _landed(self, table: str, found: Table, change: Transaction, mine: Mapping[str, str]) -> Snapshot | None:
        """Commit rows; None when another writer was first."""
        self._warehouse.let_go(change, found)
        done, failure = _committed(change)
        landing = landed(done or self._load(table), mine)
        if landing is None and failure is not None:
            raise failure
        return landing

    def _compact(self, table: str, now: int, order: Sequence[str]) -> int:
        """Make small files into few; returns how many, or 0 when there is nothing to do or others commit all the time."""
        for _ in range(_FEW):
            found = self._found(table)
            if found is None or not due(found) or (found.spec().fields and not divided_by_day(table, found.metadata)):
                return 0
            small = small_files(found)
            tasks = [task for some in small for task in some]
            if not tasks:
                return 0
            by = [kept(one, found.schema().column_names) for one in order]
            files = [file for some in small for file in written(found, some, by)]
            after = {AFTER: str(data_files(found) - len(tasks) + len(files)), AT: str(now)}
            mine = carried(found) | marked(table, after)
            if self._landed(table, found, replaced(found, tasks, files, mine), mine) is not None:
                return len(tasks)
        return 0

    def _done(self, commit: Callable[[], object]) -> bool:
        """Commit tags; False when another writer was first."""
        from pyiceberg.exceptions import CommitFailedException
        from sqlalchemy.exc import OperationalError

        try:
            commit()
        except CommitFailedException:
            return False
        except OperationalError as error:
            if "locked" not in str(error.orig):
                raise
            return False
        return True


def _meant(planned: DataScan, columns: Sequence[str] | None, rows: pa.Schema) -> list[str]:
    """The columns of what was read that were asked for, as the table has them."""
    return shown(planned.table_metadata, rows) if columns is None else [kept(one, rows.names) for one in columns]


def _committed(change: Transaction) -> tuple[Table | None, Exception | None]:
    """Commit; the table with it, or what went wrong, other than that another writer was first, which is tried again."""
    from pyiceberg.exceptions import CommitFailedException
    from sqlalchemy.exc import OperationalError

    try:
        return change.commit_transaction(), None
    except CommitFailedException:
        return None, None
    except ValueError as error:  # a snapshot that was to be let go of is gone already
        return None, None if "does not exist" in str(error) else error
    except OperationalError as error:
        return None, None if "locked" in str(error.orig) else error
    except Exception as error:  # the commit may have landed all the same: the caller looks for its mark
        return None, error


def _busy(table: str) -> StoreError:
    return StoreError(f"Offline table '{table}': {_ATTEMPTS} commits in a row met another writer's.", "try again.")
