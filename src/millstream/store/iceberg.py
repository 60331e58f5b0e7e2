"""The offline store on Iceberg tables: a SQLite catalog and a local folder, or any PyIceberg catalog by setting."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from millstream.errors import CorruptState, DiskFull, Fenced, MillstreamError, NotFound, StoreError
from millstream.settings import sqlite_url
from millstream.store.iceberg_commit import (
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
)
from millstream.store.iceberg_files import clear_out
from millstream.store.iceberg_read import chosen, narrow
from millstream.store.iceberg_tags import spared, tag_of
from millstream.store.offline import ANY, Snapshot, Where

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import DataScan, Table, Transaction
    from pyiceberg.table.update.snapshot import ManageSnapshots

_ATTEMPTS = 60
_KEPT = 50  # PyIceberg copies the list of snapshots several times in each commit
_SETTINGS = {
    "commit.retry.num-retries": "0",
    "commit.manifest-merge.enabled": "true",
    "commit.manifest.min-count-to-merge": "50",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
}


class IcebergOfflineStore:
    """The offline store of a project: Iceberg tables, which other engines can read and write beside it.

    Args:
        folder: where the catalog (`catalog.db`) and the tables (`warehouse/`) are kept.
        catalog: PyIceberg catalog properties, in place of the local ones; `folder` is then not used.

    Raises:
        CorruptState: when the catalog or a table cannot be read as what was written.

    >>> import tempfile
    >>> store = IcebergOfflineStore(tempfile.mkdtemp())
    >>> first = store.append("events.payments", pa.table({"amount": [5.0]}), {"millstream.positions": "[1]"})
    >>> store.scan("events.payments").to_pydict(), store.snapshot("events.payments").properties
    ({'amount': [5.0]}, {'millstream.positions': '[1]'})
    """

    def __init__(self, folder: str | Path, catalog: Mapping[str, str] | None = None) -> None:
        self._folder = Path(folder)
        self._properties = catalog
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
        with self._clear(table):
            for _ in range(_ATTEMPTS):
                found = self._found(table) or (self._made(table, rows) if expected in (ANY, None) else None)
                before = None if found is None else newest(found)
                head = None if before is None else before.id
                if found is None or expected not in (ANY, head):
                    given = None if isinstance(expected, str) else expected
                    raise Fenced.moved(f"table '{table}' (its snapshot)", given, head)
                failure = _committed(stage(found, table, rows, mine))
                found = self._load(table)
                done = landed(found, mine)
                if done is not None:
                    self._let_go(found)
                    return done
                if failure is not None:
                    raise failure
        raise _busy(table)

    def scan(
        self,
        table: str,
        columns: Sequence[str] | None = None,
        where: Where = (),
        snapshot: int | None = None,
    ) -> pa.Table:
        """The rows of one snapshot; see `OfflineStore.scan`."""
        with self._clear(table):
            rows = self._planned(table, columns, where, snapshot).to_arrow()
        return narrow(rows if columns is None else rows.select(list(columns)))

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

        with self._clear(table):
            planned = self._planned(table, columns, where, snapshot)
            reader = ArrowScan(planned.table_metadata, planned.io, planned.projection(), planned.row_filter)
            for task in planned.plan_files():
                for batch in reader.to_record_batches([task]):
                    yield narrow(batch if columns is None else batch.select(list(columns)))

    def snapshot(self, table: str) -> Snapshot | None:
        """The newest snapshot, or None when nothing was ever appended."""
        with self._clear(table):
            found = self._found(table)
            if found is not None and unsettled(found):
                with suppress(Fenced):  # another process settles it
                    self.append(table, pa.table({}), {}, found.metadata.current_snapshot_id)
                found = self._load(table)
            return None if found is None else newest(found)

    def pin(self, table: str, snapshot: int, by: str | int) -> None:
        """Tag a snapshot; see `Pinning.pin`."""
        with self._clear(table):
            for _ in range(_ATTEMPTS):
                found = self._load(table)
                if found.snapshot_by_id(snapshot) is None:
                    raise NotFound.named(f"snapshot of '{table}'", str(snapshot), map(str, snapshot_ids(found)))
                if self._done(found.manage_snapshots().create_tag(snapshot, tag_of(by, snapshot))):
                    return
        raise _busy(table)

    def unpin(self, by: str) -> None:
        """Remove the tags of that name; see `Pinning.unpin`."""
        tag = tag_of(by, 0)
        for table in self.tables():
            with self._clear(table):
                for _ in range(_ATTEMPTS):
                    found = self._found(table)
                    if found is None or tag not in found.refs() or self._done(found.manage_snapshots().remove_tag(tag)):
                        break
                else:
                    raise _busy(table)

    def tables(self) -> list[str]:
        """The names of all tables, sorted."""
        with self._clear("*"):
            catalog = self._catalog()
            return sorted(name(place) for space in catalog.list_namespaces() for place in catalog.list_tables(space))

    def drop(self, table: str) -> None:
        """Remove a table and its files; no such table is no error."""
        from pyiceberg.exceptions import NoSuchTableError

        with self._clear(table):
            catalog, place = self._catalog(), identifier(table)
            with suppress(NoSuchTableError):
                if self._properties is not None:
                    catalog.purge_table(place)
                else:
                    clear_out(self._folder_of(table), lambda: catalog.drop_table(place))

    def _planned(self, table: str, columns: Sequence[str] | None, where: Where, snapshot: int | None) -> DataScan:
        """What is to be read, once it is known to be there."""
        from pyiceberg.expressions import AlwaysTrue

        found = self._load(table)
        names = found.schema().column_names
        for column in (*(columns or ()), *(column for column, *_ in where)):
            if column not in names:
                raise NotFound.named(f"column of '{table}'", column, names)
        if snapshot is not None and not reach(found, snapshot):
            raise NotFound.named(f"snapshot of '{table}'", str(snapshot), map(str, snapshot_ids(found)))
        return found.scan(
            row_filter=chosen(table, where, found) if where else AlwaysTrue(),
            selected_fields=tuple(columns) if columns is not None else ("*",),
            snapshot_id=snapshot,
        )

    def _catalog(self) -> Catalog:
        """The open catalog; a forked child opens its own."""
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                self._opened = (os.getpid(), self._open())
            return self._opened[1]

    def _open(self) -> Catalog:
        from pyiceberg.catalog import load_catalog
        from sqlalchemy.exc import OperationalError

        from millstream.store.durable_files import places

        if self._properties is not None:
            return load_catalog("millstream", **self._properties)
        warehouse = self._folder.absolute() / "warehouse"
        warehouse.mkdir(parents=True, exist_ok=True)
        local = {
            "type": "sql",
            "uri": f"{sqlite_url(self._folder.absolute() / 'catalog.db')}?timeout=60",
            "warehouse": f"file://{warehouse}",
            "py-io-impl": "millstream.store.durable_files.DurableFileIO",
            **places(warehouse, self._folder.absolute() / "catalog.db"),
        }
        try:
            return load_catalog("millstream", **local)
        except OperationalError:  # another process made the catalog's tables at the same moment
            return load_catalog("millstream", **local)

    def _found(self, table: str) -> Table | None:
        from pyiceberg.exceptions import NoSuchTableError

        try:
            return self._catalog().load_table(identifier(table))
        except NoSuchTableError as error:
            if self._properties is None and any(self._folder_of(table).glob("metadata/snap-*.avro")):
                raise self._unreadable(table, "its rows are there, but 'catalog.db' does not name it") from error
            return None

    def _folder_of(self, table: str) -> Path:
        """Where the files of a local table are."""
        return self._folder.joinpath("warehouse", *identifier(table))

    def _load(self, table: str) -> Table:
        found = self._found(table)
        if found is None:
            raise NotFound.named("table", table, self.tables())
        return found

    def _made(self, table: str, rows: pa.Table) -> Table:
        """The table, made from the schema of its first rows unless another writer has made it since."""
        from pyiceberg.exceptions import NamespaceAlreadyExistsError, TableAlreadyExistsError
        from sqlalchemy.exc import IntegrityError

        place = identifier(table)
        catalog = self._catalog()
        with suppress(NamespaceAlreadyExistsError, IntegrityError):
            catalog.create_namespace(place[0])
        try:
            return catalog.create_table(place, schema=rows.schema, properties=_SETTINGS)
        except (TableAlreadyExistsError, IntegrityError):
            return self._load(table)

    def _let_go(self, found: Table) -> None:
        """Take the oldest snapshots off the list that each commit copies; their files stay, and `reach` finds them."""
        if self._properties is not None or len(found.metadata.snapshots) < 2 * _KEPT:
            return  # in a shared catalog, upkeep is its owner's
        with suppress(Exception):  # the append is done; another one will see to this
            old = [item for item in snapshot_ids(found)[:-_KEPT] if item not in spared(found)]
            found.maintenance.expire_snapshots().by_ids(old).commit()

    def _done(self, change: ManageSnapshots) -> bool:
        """Commit tags; False when another writer was first."""
        from pyiceberg.exceptions import CommitFailedException
        from sqlalchemy.exc import OperationalError

        try:
            change.commit()
        except CommitFailedException:
            return False
        except OperationalError as error:
            if "locked" not in str(error.orig):
                raise
            return False
        return True

    @contextmanager
    def _clear(self, table: str) -> Iterator[None]:
        """Whatever goes wrong below comes out as one sentence about the table."""
        from pyiceberg.exceptions import RESTError
        from sqlalchemy.exc import OperationalError

        try:
            yield
        except MillstreamError:
            raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull.writing(self._folder) from error
            if isinstance(error, FileNotFoundError):
                raise self._unreadable(table, error) from error
            raise StoreError(f"Offline table '{table}' cannot be used: {_brief(error)}.") from error
        except OperationalError as error:
            if "full" in str(error.orig):
                raise DiskFull.writing(self._folder) from error
            raise StoreError(f"Offline table '{table}': its catalog cannot be used: {_brief(error.orig)}.") from error
        except RESTError as error:
            raise StoreError(f"Offline table '{table}': its catalog cannot be used: {_brief(error)}.") from error
        except Exception as error:  # whatever a reader makes of what no writer wrote
            raise self._unreadable(table, getattr(error, "orig", error)) from error

    def _unreadable(self, table: str, error: object) -> CorruptState:
        what = "catalog 'catalog.db'" if table == "*" or isinstance(error, sqlite3.Error) else f"table '{table}'"
        return CorruptState(
            f"Offline store '{self._folder}': its {what} does not read as what was written: {_brief(error)}.",
            f"restore '{self._folder}' from a copy; the log still holds what its retention keeps.",
        )


def _committed(change: Transaction) -> Exception | None:
    """Commit; what went wrong, other than that another writer was first, which is worth another attempt."""
    from pyiceberg.exceptions import CommitFailedException
    from sqlalchemy.exc import OperationalError

    try:
        change.commit_transaction()
    except CommitFailedException:
        return None
    except OperationalError as error:
        return None if "locked" in str(error.orig) else error
    except Exception as error:  # the commit may have landed all the same: the caller looks for its mark
        return error
    return None


def _busy(table: str) -> StoreError:
    return StoreError(f"Offline table '{table}': {_ATTEMPTS} commits in a row met another writer's.", "try again.")


def _brief(error: object) -> str:
    """The first line of what a library said, without its full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
