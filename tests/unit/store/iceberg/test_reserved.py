"""Tables for Spark have no column whose name Iceberg keeps for its own, and are read and written as all others are."""

from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg.catalog.sql import SqlCatalog

from millstream.errors import NotFound
from millstream.store.iceberg.store import IcebergOfflineStore

EVENTS = "events.clicks"
KINDS = pa.schema([("_partition", pa.int64()), ("_position", pa.int64()), ("_deleted", pa.bool_())])


def rows(*positions: int) -> pa.Table:
    return pa.table(
        {"_partition": [one % 2 for one in positions], "_position": positions, "_deleted": [False] * len(positions)}
    )


def in_iceberg(folder: Path) -> list[str]:
    """The columns as another program finds them."""
    place = {"uri": f"sqlite:///{folder / 'catalog.db'}", "warehouse": f"file://{folder}/warehouse"}
    found: list[str] = SqlCatalog("millstream", **place).load_table(("events", "clicks")).schema().column_names
    return found


@pytest.mark.parametrize("by_day", [False, True])
def test_columns_are_called_otherwise_in_a_table_for_spark_alone(tmp_path: Path, by_day: bool) -> None:
    for for_spark, kept in ((True, ["_log_partition", "_position", "_is_deleted"]), (False, rows().column_names)):
        folder = tmp_path / str(for_spark)
        store = IcebergOfflineStore(folder, by_day=by_day, for_spark=for_spark)
        store.append(EVENTS, rows(0, 1, 2))
        assert in_iceberg(folder) == kept
        assert store.scan(EVENTS).column_names == rows().column_names
        assert store.scan(EVENTS, ["_partition"], [("_partition", "=", 1)]).to_pydict() == {"_partition": [1]}
        found = store.batches(EVENTS, ["_deleted", "_position"], [("_partition", "in", [0]), ("_position", ">", 0)])
        assert [one.to_pydict() for one in found] == [{"_deleted": [False], "_position": [2]}]
        with pytest.raises(NotFound, match="_partition"):
            store.scan(EVENTS, ["partition"])


def test_a_table_whose_columns_another_program_renames_is_gone_on_with(tmp_path: Path) -> None:
    store = IcebergOfflineStore(tmp_path)
    before = store.append(EVENTS, rows(0, 1))
    place = {"uri": f"sqlite:///{tmp_path / 'catalog.db'}", "warehouse": f"file://{tmp_path}/warehouse"}
    with SqlCatalog("millstream", **place).load_table(("events", "clicks")).update_schema() as change:
        change.rename_column("_partition", "_log_partition")
    store.append(EVENTS, rows(2))
    assert in_iceberg(tmp_path) == ["_log_partition", "_position", "_deleted"]
    for snapshot, positions in ((before.id, [0, 1]), (None, [0, 1, 2])):
        found = store.scan(EVENTS, snapshot=snapshot, where=[("_partition", "<", 5)]).sort_by("_position")
        assert found.equals(rows(*positions))
        only = store.scan(EVENTS, ["_partition"], [("_partition", "in", [0, *range(200, 400)])], snapshot)
        assert only["_partition"].to_pylist() == [0] * (len(positions) - 1)


def test_compaction_orders_rows_by_their_columns(tmp_path: Path) -> None:
    store = IcebergOfflineStore(tmp_path, for_spark=True)
    for number in range(33):
        store.append(EVENTS, rows(32 - number))
    assert store.tend(EVENTS, 0, order=["_partition", "_position"]).compacted == 33
    found = store.scan(EVENTS)
    assert found.equals(found.sort_by([("_partition", "ascending"), ("_position", "ascending")]))
