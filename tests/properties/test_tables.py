"""A table read by random queries gives the same values online, in a training set and through `ms.compute`."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import millstream as ms
from millstream.clock import FileClock, to_datetime, to_micros
from tests.properties.test_compute import NUMBERS, TEXTS, TRUTHS, WHOLES, as_arrow

NOON = to_micros("2026-03-01T12:00:00Z")
NOW = NOON + 600_000_000
MINUTE = 60_000_000
KEY = ms.Entity("key", keys={"k": "int64"})
SCHEMA = {
    "k": "int64",
    "x": "float64",
    "n": "int64",
    "s": "string",
    "b": "bool",
    "at": "timestamp",
    "known": "timestamp",
}
ASKS = ms.EventStream("asks", time="at", schema={"id": "int64", "k": "int64", "y": "bool", "at": "timestamp"})
QUERIES = [
    'select k, "at", x, n, s, b from t',
    'select k, "at", abs(x) as x, n, upper(s) as s, not b as b from t where "at" >= :start and "at" < :end',
    """select k, max("at") as "at", max(x) as x, count(*) as n, max(s) as s, bool_or(b) as b from t
        where "at" >= :start and "at" < :end group by k""",
]
SNAPSHOTS = ["select k, max(x) as x, count(n) as n, max(s) as s, bool_and(b) as b from t group by k"]
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "k": st.sampled_from([1, 2, 2**63 - 1, None]),
            "x": st.sampled_from(NUMBERS),
            "n": st.sampled_from(WHOLES),
            "s": st.sampled_from(TEXTS),
            "b": st.sampled_from(TRUTHS),
            "minutes": st.integers(60, 3 * 24 * 60),
            "lag": st.sampled_from([0, 30, 26 * 60]),
        }
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda row: (row["k"], row["minutes"]),
)


def declared(query: str, every: str, late: bool, ttl: str | None) -> tuple[ms.Table, ms.FeatureView, ms.Model]:
    moments = {"available": "known"} if late else {"delay": "30m"}
    table = ms.Table("t", path="t.parquet", time="at", schema=SCHEMA, **moments)
    dated = {} if query in SNAPSHOTS else {"time": "at"}
    group = ms.BatchFeatureGroup("g", entity=KEY, sources=[table], every=every, query=query, ttl=ttl, **dated)
    view = ms.FeatureView("v", features=[group])
    return table, view, ms.Model("m", view=view, examples=ASKS, label=ms.Label(ASKS, "y", on="id", after="1m"))


@settings(max_examples=6, deadline=None, phases=[Phase.reuse, Phase.generate])  # each takes seconds, so none is shrunk
@given(
    ROWS, st.sampled_from(QUERIES + SNAPSHOTS), st.sampled_from(["6h", "24h"]), st.booleans(),
    st.sampled_from([None, "30h"]), st.lists(st.integers(30, 4 * 24 * 60), min_size=3, max_size=6),
)  # fmt: skip
def test_a_table_reads_the_same_online_in_training_and_through_compute(
    drawn: list[dict[str, Any]], query: str, every: str, late: bool, ttl: str | None, back: list[int]
) -> None:
    table, view, model = declared(query, every, late, ttl)
    rows = []
    for row in drawn:
        at = to_datetime(NOON - row["minutes"] * MINUTE)
        rows.append({**row, "at": at, "known": min(at + timedelta(minutes=row["lag"]), to_datetime(NOON - MINUTE))})
    frame = as_arrow(rows, SCHEMA)
    asked = [{"k": k, "at": NOON - minutes * MINUTE} for minutes in back for k in (1, 2, 2**63 - 1)]
    now = [{"k": k, "at": NOW} for k in (1, 2, 2**63 - 1, 9)]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / ".millstream").mkdir()
        FileClock(Path(folder) / ".millstream" / "clock.json").set(NOW, rate=0.0)
        pq.write_table(frame, Path(folder) / "t.parquet")
        project = ms.Project(folder, create=True)
        project.apply(model)
        project.load(ASKS, [{"id": i, "y": True, **row} for i, row in enumerate(asked)])
        project.drain()
        project.backfill()
        names = [f"g__{name}" for name in ("x", "n", "s", "b")]
        wanted = ms.compute(view, {table: frame}, asked + now).select(names).to_pylist()
        assert project.features(view, now).select(names).to_pylist() == wanted[len(asked) :]
        assert project.features(view, asked).select(names).to_pylist() == wanted[: len(asked)]
        trained = project.training_set(model).table
        told = {(row["k"], row["_at"]): [row[name] for name in names] for row in trained.to_pylist()}
        assert told == {(ask["k"], ask["at"]): list(row.values()) for ask, row in zip(asked, wanted, strict=False)}
        project.close()
