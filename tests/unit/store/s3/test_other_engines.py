"""Other engines read what lies in S3: PyIceberg with nothing of ours, and DuckDB the rows of its files."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
from pyiceberg.catalog import load_catalog

from millstream.store.iceberg.store import IcebergOfflineStore
from millstream.testing.servers.s3 import KEY, SECRET, TABLE_BUCKET, S3Server

EVENTS = "events.read"


def test_another_program_reads_what_we_wrote_and_we_what_it_adds(s3: S3Server) -> None:
    store = IcebergOfflineStore(s3.rest())
    store.append(EVENTS, pa.table({"n": [1, 2], "name": ["a", None]}), {"millstream.positions": "[2]"})
    catalog = load_catalog(
        "theirs", type="rest", uri=s3.catalog, warehouse=TABLE_BUCKET, credential=f"{KEY}:{SECRET}",
        **{"s3.endpoint": s3.endpoint, "s3.access-key-id": KEY, "s3.secret-access-key": SECRET, "s3.region": "us-east-1"},
    )  # fmt: skip
    theirs = catalog.load_table("events.read")
    theirs.append(pa.table({"n": [3], "name": ["c"]}))
    [found] = duckdb.from_arrow(theirs.scan().to_arrow()).aggregate("sum(n), count(name)").fetchall()
    assert found == (6, 2)
    assert sorted(store.scan(EVENTS)["n"].to_pylist()) == [1, 2, 3]
    newest = store.snapshot(EVENTS)
    assert newest is not None and newest.properties == {"millstream.positions": "[2]"}
    store.drop(EVENTS)


def test_duckdb_reads_the_data_files_of_a_table(s3: S3Server, tmp_path: Path) -> None:
    store = IcebergOfflineStore(s3.sql(f"sqlite:///{tmp_path}/catalog.db?timeout=60", bucket := s3.bucket()))
    for number in range(3):
        store.append(EVENTS, pa.table({"n": [number], "text": [f"row {number}"]}))
    rows = ds.dataset(f"{bucket}/tables/events/read/data", format="parquet", filesystem=s3.files)
    with duckdb.connect() as connection:
        connection.register("rows", rows)
        found = connection.execute("select max(text), sum(n) from rows where n > 0").fetchall()
    assert found == [("row 2", 3)]
