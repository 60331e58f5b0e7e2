"""The past of queries in a project, and what their tables may hold."""

from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import millstream as ms
from millstream.clock import SystemClock, to_datetime
from millstream.errors import PlanError

USER = ms.Entity("user", keys={"user_id": "int64"})
TYPED = ms.Table("t", path="t.parquet", time="seen", schema={"user_id": "int64", "x": "float64", "seen": "timestamp"})
OF_INTERVAL = "select user_id, seen, x from t where seen >= :start and seen < :end"


def a_project(folder: Path, rows: pa.Table) -> ms.Project:
    project = ms.Project(folder / "p", create=True)
    pq.write_table(rows, folder / "p" / "t.parquet")
    return project


def some_rows(values, kind=None):
    then = to_datetime(SystemClock().now()) - timedelta(days=5)
    seen = pa.array([then] * len(values), pa.timestamp("us", "UTC"))
    return pa.table({"user_id": list(range(len(values))), "x": pa.array(values, kind), "seen": seen})


def test_backfill_begins_with_the_tables_of_a_query_where_there_are_no_events(tmp_path):
    project = a_project(tmp_path, some_rows([1.5]))
    group = ms.BatchFeatureGroup("g", entity=USER, sources=[TYPED], every="24h", time="seen", query=OF_INTERVAL)
    view = ms.FeatureView("v", features=[group])
    project.apply(view)
    project.backfill()
    assert project.features(view, [{"user_id": 0}])["g__x"].to_pylist() == [1.5]


def test_a_value_that_does_not_fit_stops_neither_its_group_nor_its_neighbours(tmp_path):
    project = a_project(tmp_path, some_rows(["5", "much"]))
    group = ms.BatchFeatureGroup("g", entity=USER, sources=[TYPED], every="1h", time="seen", query="select * from t")
    view = ms.FeatureView("v", features=[group])
    project.apply(view)
    project.drain()
    pq.write_table(some_rows([2**53 + 1, 7]), tmp_path / "p" / "t.parquet")
    project.backfill()
    asked = [{"user_id": 0}, {"user_id": 1}]
    assert project.features(view, asked)["g__x"].to_pylist() == [float(2**53 + 1), 7.0]


def test_a_column_without_a_value_yet_has_no_type_and_plan_says_so(tmp_path):
    project = a_project(tmp_path, some_rows([None], pa.null()))
    unread = ms.Table("t", path="t.parquet", time="seen")
    query = "select user_id, seen, x from t"
    group = ms.BatchFeatureGroup("g", entity=USER, sources=[unread], every="1h", time="seen", query=query)
    with pytest.raises(PlanError, match="column 'x' of its query has no value yet"):
        project.plan(ms.FeatureView("v", features=[group]))
