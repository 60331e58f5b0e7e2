"""One commit to an Iceberg table: the rows as its schema has them, the properties it carries, and whether it landed."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from millstream.errors import StoreError
from millstream.store.iceberg.reserved import ours
from millstream.store.offline import PREFIX, Snapshot

if TYPE_CHECKING:
    from pyiceberg.table import Table, Transaction
    from pyiceberg.table.snapshots import Snapshot as Listed

COMMIT = "millstream.commit"
_OURS = "millstream.upkeep."
COLUMNS = "millstream.upkeep.columns"
_VERSIONED = ("batch", "features")


def identifier(table: str) -> tuple[str, str]:
    """Where a table is in the catalog: "features.velocity@1" is `velocity_v1` in `features`.

    >>> identifier("features.velocity@1")
    ('features', 'velocity_v1')
    """
    space, dot, name = table.partition(".")
    if not dot or not name:
        raise StoreError(f"Offline table '{table}': expected a name such as 'events.payments'.")
    return space, name.replace("@", "_v")


def name(identified: tuple[str, ...]) -> str:
    """The table's own name, from where it is in the catalog."""
    space, table = identified[0], identified[-1]
    return f"{space}." + (re.sub(r"_v(\d+)$", r"@\1", table) if space in _VERSIONED else table)


def marked(table: str, properties: Mapping[str, str]) -> dict[str, str]:
    """The properties of a commit, with the mark by which it is known again when its outcome was not."""
    for key in properties:
        if not key.startswith(PREFIX) or key == COMMIT:
            raise StoreError(f"Offline table '{table}': property '{key}' cannot be kept; expected '{PREFIX}...'.")
    return {**properties, COMMIT: uuid.uuid4().hex}


def storable(rows: pa.Table) -> pa.Table:
    """The rows without what Iceberg has no type for: dictionaries as their values, all-null columns left out."""
    for index, column in reversed(list(enumerate(rows.schema))):
        if pa.types.is_null(column.type):
            rows = rows.remove_column(index)
        elif pa.types.is_dictionary(column.type):
            rows = rows.set_column(index, column.name, rows.column(index).cast(column.type.value_type))
    return rows


def stage(found: Table, table: str, rows: pa.Table, mine: Mapping[str, str]) -> Transaction:
    """Return a commit that adds rows and properties to the snapshot the table was loaded at; its files are written.

    Args:
        found: the table, as it was loaded.
        table: its name, for messages.
        rows: the rows, of columns that are `storable`; those that the table lacks are added to it.
        mine: the properties to set; what the newest snapshot has beside them is carried on.

    Raises:
        StoreError: when a column has another type than the table's.
    """
    known = set(found.schema().column_names)
    added = pa.schema([column for column in rows.schema if column.name not in known])
    change = found.transaction()
    if len(added):
        with change.update_schema() as more:
            more.union_by_name(added)
    evolved = (
        change.table_metadata.schema()
    )  # asked once: PyIceberg makes all of the metadata anew whenever it is asked
    properties = carried(found) | dict(mine)
    written = {
        *_written(found),
        *(evolved.find_field(name).field_id for name in rows.column_names),
    }
    properties[COLUMNS] = ",".join(map(str, sorted(written)))
    change.append(_aligned(table, rows, evolved.as_arrow()), snapshot_properties=properties)
    change.set_properties(properties)  # last: PyIceberg copies the metadata again and again once it is changed
    return change


def whole(found: Table, table: str) -> Table:
    """The table, if it still has the columns that were written.

    Raises:
        StoreError: another program has dropped or renamed one; its values would read as null.
    """
    called: dict[int, str] = {}
    for schema in found.metadata.schemas:
        for column in schema.fields:
            called.setdefault(column.field_id, column.name)
    today = {column.field_id: column.name for column in found.schema().fields}
    for number in _written(found):
        if ours(today.get(number, "")) != ours(called.get(number, "")):
            how = "dropped" if number not in today else f"renamed to '{today[number]}'"
            raise StoreError(
                f"Offline table '{table}': another program has {how} its column '{called.get(number, number)}'.",
                "rename it back, or register the metadata file of before the change in the catalog again.",
            )
    return found


def _written(found: Table) -> list[int]:
    """The columns that our commits have written, by Iceberg's number, which a name never takes over from another."""
    return [int(number) for number in found.properties.get(COLUMNS, "").split(",") if number]


def carried(found: Table) -> dict[str, str]:
    """The properties that the rows of the newest snapshot stand for, whoever made that snapshot.

    They are the table's own, set in the commits of the rows. Those of a snapshot count only where the table has none
    (it was written before tables had them) or where it was rolled back, which takes rows away and leaves the table's
    properties as they are.
    """
    kept = {key: value for key, value in found.properties.items() if key.startswith(PREFIX)}
    if COMMIT in kept and not _rolled_back(found, kept[COMMIT]):
        return kept
    return next(filter(None, map(_summary, _ancestors(found))), {})


def unsettled(found: Table) -> bool:
    """Whether the properties are not yet where commits of other engines leave them alone."""
    return found.properties.get(COMMIT) != carried(found).get(COMMIT)


def newest(found: Table) -> Snapshot | None:
    """The newest snapshot, with the properties its writers set."""
    current = found.current_snapshot()
    if current is None:
        return None
    return Snapshot(current.snapshot_id, _shown(carried(found)))


def landed(found: Table, mine: Mapping[str, str]) -> Snapshot | None:
    """The snapshot of the commit that bears this mark, if the table has one."""
    for item in reversed(found.metadata.snapshots):
        kept = _summary(item)
        if kept.get(COMMIT) == mine[COMMIT]:
            return Snapshot(item.snapshot_id, _shown(kept))
    return None


def _rolled_back(found: Table, mark: str) -> bool:
    """Whether the snapshot that bears a mark is still listed, but is no longer part of the table's history."""
    marked_ones = {item.snapshot_id for item in found.metadata.snapshots if _summary(item).get(COMMIT) == mark}
    return bool(marked_ones) and marked_ones.isdisjoint(item.snapshot_id for item in _ancestors(found))


def _ancestors(found: Table) -> Iterator[Listed]:
    """The newest snapshot and those before it, as far back as they are listed."""
    from pyiceberg.table.snapshots import ancestors_of

    return iter(ancestors_of(found.current_snapshot(), found.metadata))


def _summary(item: Listed) -> dict[str, str]:
    """The properties that the writer of a snapshot noted in it."""
    noted = {} if item.summary is None else item.summary.additional_properties
    return {key: value for key, value in noted.items() if key.startswith(PREFIX)}


def snapshot_ids(found: Table) -> list[int]:
    """The snapshots that can be read, oldest first."""
    return [item.snapshot_id for item in found.metadata.snapshots]


def reach(found: Table, snapshot: int) -> bool:
    """Whether a snapshot can be read, putting one back on the loaded table's list that was taken off it."""
    if found.snapshot_by_id(snapshot) is not None:
        return True
    if (again := off_the_list(found, snapshot)) is None:
        return False
    found.metadata = found.metadata.model_copy(update={"snapshots": [again, *found.metadata.snapshots]})
    return True


def off_the_list(found: Table, snapshot: int) -> Listed | None:
    """A snapshot that is not listed any more while its files are still there; None for others."""
    from pyiceberg.table.snapshots import Snapshot as Listed

    from millstream.store.iceberg.durable_files import local_path

    folder = local_path(found.location(), found.io.properties)
    for place in Path(folder).glob(f"metadata/snap-{snapshot}-*.avro") if folder is not None else ():
        facts = {
            "snapshot-id": snapshot,
            "manifest-list": f"file://{place}",
            "timestamp-ms": found.metadata.last_updated_ms,
            "sequence-number": getattr(found.metadata, "last_sequence_number", 0),
            "summary": {"operation": "append"},
        }
        return Listed.model_validate(facts)
    return None


def _shown(kept: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in kept.items() if key != COMMIT and not key.startswith(_OURS)}


def _aligned(table: str, rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The rows with the table's columns, in its order and types; a column they lack is null."""
    columns = []
    for column in schema:
        if column.name not in rows.schema.names:
            columns.append(pa.nulls(rows.num_rows, column.type))
            continue
        given = rows.column(column.name)
        if not _fits(given.type, column.type):
            raise StoreError(
                f"Offline table '{table}': column '{column.name}' was given {given.type}; expected {column.type}.",
                "write it under another name, or convert it first.",
            )
        columns.append(given.cast(column.type))
    return pa.table(columns, names=schema.names)


def _fits(given: pa.DataType, kept: pa.DataType) -> bool:
    """Whether values of a type can be kept in a column of another; lists, structs and maps, where what is in them can."""
    lists = [pa.types.is_list(kind) or pa.types.is_large_list(kind) for kind in (given, kept)]
    if all(lists):
        return _fits(given.value_type, kept.value_type)
    if pa.types.is_map(given) and pa.types.is_map(kept):
        return _fits(given.key_type, kept.key_type) and _fits(given.item_type, kept.item_type)
    if pa.types.is_struct(given) and pa.types.is_struct(kept):
        fields = [{one.name: one.type for one in kind} for kind in (given, kept)]
        return list(fields[0]) == list(fields[1]) and all(
            _fits(one, fields[1][name]) for name, one in fields[0].items()
        )
    return given == kept or _kind(given) in _FITS.get(_kind(kept), ())


def _kind(kind: pa.DataType) -> str:
    for word in ("timestamp", "floating", "integer", "binary", "string", "boolean"):
        if getattr(pa.types, f"is_{word}")(kind) or str(kind) == f"large_{word}":
            return word
    return str(kind)


_FITS = {
    "timestamp": ("timestamp",),
    "floating": ("floating", "integer"),
    "integer": ("integer",),
    "binary": ("binary",),
    "string": ("string",),
}
