"""`ms.compute` is the project: random definitions over random frames give the same values through both, to the bit."""

import itertools
import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import millstream as ms
from millstream.buffer.codec.values import fit
from millstream.definitions.data_types import arrow_type
from tests.properties.effort import examples

KEY = ms.Entity("key", keys={"k": "int64"})
PAIR = ms.Entity("pair", keys={"k": "int64", "s": "string"})
SCHEMA = {
    "id": "int64",
    "k": "int64",
    "x": "float64",
    "n": "int64",
    "s": "string",
    "b": "bool",
    "d": "date",
    "u": "uuid",
    "raw": "bytes",
    "at": "timestamp",
}
BIG = 2**53 + 1
NUMBERS = [0.0, -0.0, 1.5, -2.25, 3, 1e-9, 1e14, math.nan, math.inf, -math.inf, None, Decimal("2.5")]
WHOLES = [0, 7, -7, BIG, -BIG, 2**63 - 1, -(2**63), 7.0, Decimal(8), None, math.nan]
TEXTS = ["", "de", "é😀", "x" * 39, None, math.nan]
TRUTHS = [True, False, None]
DAYS = [date(1, 1, 1), date(1969, 12, 31), datetime(2024, 2, 29), date(9999, 12, 31), "2024-02-29", None, math.nan]
IDS = [UUID(int=0), UUID(int=2**128 - 1), str(UUID(int=2**127)).upper(), UUID(int=7).hex, None, math.nan]
BYTES = [b"", b"\0", b"\0\0", b"\xff" * 39, None]
KEYS = [1, 2, 2.0, Decimal(2), 2**63 - 1, None, math.nan]
PROBES = (ms.CountBy, ms.Seen, ms.SinceSeen, ms.SumBy)
DECAYED = (ms.DecayedCount, ms.DecayedSum, ms.DecayedMean)
SPANS = ["10m", "1h", "30d", None]
BEGINS = [
    datetime(1965, 3, 1, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 30, tzinfo=UTC),
    datetime(2024, 2, 28, tzinfo=UTC),
]


def _probing(kind: Any, *column: str) -> dict[str, str]:
    """The field of the request that a probe looks up, which is called as the column."""
    return {"request": {"upper(s)": "s"}.get(column[0], column[0])} if kind in PROBES else {}


def aggregations() -> st.SearchStrategy[list[ms.Count]]:
    def named(drawn: list[Any]) -> list[Any]:
        return [
            kind(*column, half_life="1h" if over == "30d" else "10m", where=where, name=f"f{i}")
            if kind in DECAYED
            else kind(*column, over=over, where=where, name=f"f{i}", **_probing(kind, *column))
            for i, (kind, column, over, where) in enumerate(drawn)
        ]

    kinds = st.one_of(
        st.tuples(
            st.sampled_from([ms.Sum, ms.Mean, ms.Min, ms.Max]), st.sampled_from([("x",), ("abs(x) / 3",), ("b",)])
        ),
        st.tuples(
            st.sampled_from([ms.First, ms.Last, ms.Min, ms.Max]),
            st.sampled_from(
                [("x",), ("s",), ("b",), ("n",), ("at",), ("upper(s)",), ("d",), ("u",), ("raw",), ("d - 1",)]
            ),
        ),
        st.tuples(
            st.sampled_from([ms.ArgMin, ms.ArgMax]),
            st.sampled_from(
                [
                    ("n", "x"),
                    ("s", "n"),
                    ("x", "s"),
                    ("at", "b"),
                    ("b", "at"),
                    ("abs(x)", "upper(s)"),
                    ("u", "d"),
                    ("raw", "u"),
                    ("d", "raw"),
                ]
            ),
        ),
        st.tuples(st.just(ms.Count), st.sampled_from([(), ("x",), ("n",), ("s",)])),
        st.tuples(st.sampled_from([ms.TimeSince, ms.Age]), st.just(())),
        st.tuples(
            st.sampled_from([ms.Skewness, ms.Kurtosis, ms.GeometricMean]), st.sampled_from([("x",), ("abs(x)",)])
        ),
        st.tuples(
            st.sampled_from([ms.DistinctCount, ms.Lag, ms.Mode]),
            st.sampled_from([("x",), ("n",), ("s",), ("b",), ("d",), ("u",)]),
        ),
        st.tuples(
            st.sampled_from([ms.Seen, ms.CountBy, ms.SinceSeen]),
            st.sampled_from([("n",), ("s",), ("b",), ("d",), ("u",), ("upper(s)",)]),
        ),
        st.tuples(st.just(ms.SumBy), st.sampled_from([("n", "x"), ("s", "abs(x) / 3"), ("b", "x")])),
        st.tuples(st.sampled_from(DECAYED), st.sampled_from([("x",), ("abs(x) / 3",)])),
        st.tuples(st.just(ms.Median), st.sampled_from([("x",), ("abs(x)",)])),
        st.tuples(st.just(ms.Entropy), st.sampled_from([("n",), ("s",), ("b",), ("upper(s)",), ("u",)])),
        st.tuples(
            st.sampled_from([ms.CountBy]), st.sampled_from([("n",), ("s",), ("b",), ("upper(s)",), ("u",), ("d",)])
        ),
        st.tuples(st.just(ms.SumBy), st.sampled_from([("n", "x"), ("s", "abs(x) / 3"), ("at", "b"), ("d", "x")])),
        st.tuples(
            st.just(ms.By),
            st.sampled_from(
                [
                    ("s", ms.Last("n")),
                    ("b", ms.Std("x")),
                    ("upper(s)", ms.First("raw")),
                    ("u", ms.Min("d")),
                    ("n", ms.Max("s")),
                ]
            ),
        ),
        st.tuples(
            st.sampled_from([ms.LastK, ms.FirstK]), st.sampled_from([(["x", "s"],), (["n", "at", "u"],), ("d",)])
        ),
        st.tuples(st.sampled_from([ms.Covariance, ms.Correlation]), st.sampled_from([("x", "abs(x) / 3"), ("b", "x")])),
    )
    wheres = st.sampled_from(
        [None, "x > 0", "x is null", "n is not null", "b", "s <> ''", "abs(n % 7) = 0", "d > date '1970-01-01'"]
    )
    one = st.tuples(kinds, st.sampled_from(SPANS), wheres).map(lambda drawn: (*drawn[0], *drawn[1:]))
    return st.lists(one, min_size=1, max_size=6).map(named)


def rows() -> st.SearchStrategy[list[dict[str, Any]]]:
    row = st.fixed_dictionaries(
        {
            "k": st.sampled_from(KEYS),
            "x": st.sampled_from(NUMBERS),
            "n": st.sampled_from(WHOLES),
            "s": st.sampled_from(TEXTS),
            "b": st.sampled_from(TRUTHS),
            "d": st.sampled_from(DAYS),
            "u": st.sampled_from(IDS),
            "raw": st.sampled_from(BYTES),
            "at": st.integers(0, 90 * 60_000_000),
        }
    )
    return st.lists(row, max_size=25)


def as_arrow(table: list[dict[str, Any]], schema: dict[str, str] = SCHEMA) -> pa.Table:
    """The rows as a frame of the types that databases hand out, where all values of a column have one."""
    kinds = {"k": pa.decimal128(38, 0), "n": pa.decimal128(38, 0), "x": pa.float64(), "s": pa.string_view()}
    columns = {}
    for name, kind in schema.items():
        values = [row.get(name) for row in table]
        plain = [
            None if isinstance(value, float) and not math.isfinite(value) and name != "x" else value for value in values
        ]
        if name in ("k", "n"):
            plain = [None if value is None else Decimal(int(value)) for value in plain]
        if name == "x":
            plain = [None if value is None else float(value) for value in plain]
        if kind in ("date", "uuid", "bytes"):
            columns[name] = pa.array([fit(value, kind) for value in values], arrow_type(kind))
            continue
        if kind == "timestamp":
            plain = [np.datetime64(value.replace(tzinfo=None), "us") for value in values]
        columns[name] = pa.array(plain, kinds.get(name), from_pandas=False)
    return pa.table(columns)


FORMS = [
    list,
    as_arrow,
    lambda table: pd.DataFrame(table, columns=list(SCHEMA), dtype=object),
    lambda t: pl.from_arrow(as_arrow(t)),
]


@settings(max_examples=examples(12), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    aggregations(), rows(), st.sampled_from(FORMS), st.sampled_from(FORMS), st.sampled_from(BEGINS), st.booleans(),
    st.sampled_from([None, "x > 0"]), st.sampled_from(["0s", "5m"]),
)  # fmt: skip
def test_a_project_gives_what_compute_gives(
    tmp_path_factory, features, drawn, form, other, begin, paired, where, delay
):
    entity = PAIR if paired else KEY
    stream = ms.EventStream("events", time="at", delay=delay, deduplicate="id", schema=SCHEMA)
    group = ms.StreamFeatureGroup("g", entity=entity, source=stream, features=features, where=where)
    view = ms.FeatureView("v", request={name: SCHEMA[name] for name in "nxsbdu"}, features=[group])
    # A repeat arrives after what it repeats: compute takes events as they arrive, a log as they are appended.
    repeats = [i % 5 == 0 and row["at"] >= drawn[i // 2]["at"] for i, row in enumerate(drawn)]
    table = [
        {"id": i // 2 if repeats[i] else i, **row, "at": begin + timedelta(microseconds=row["at"])}
        for i, row in enumerate(drawn)
    ]
    at = begin + timedelta(hours=2)
    asked = [
        {"k": k, "s": s, "n": n, "x": x, "b": b, "d": fit(d, "date"), "u": fit(u, "uuid")}
        for (k, s), n, x, b, d, u in zip(
            itertools.product([1, 2, 2**63 - 1, None], ["de", "", None]),
            itertools.cycle([BIG, None]),
            itertools.cycle(NUMBERS),
            itertools.cycle(TRUTHS),
            itertools.cycle(DAYS),
            itertools.cycle(IDS),
        )
    ]
    computed = ms.compute(view, {stream: form(table)}, [row | {"at": at} for row in asked])
    project = ms.Project(tmp_path_factory.mktemp("compute") / "p", create=True)
    project.apply(view)
    project.load("events", other(table))
    project.drain()
    project.backfill()
    served = project.features("v", asked, at=at)
    letters = project.dead_letters("events")["reason"].to_pylist()
    project.close()
    assert letters == []
    assert served.to_pylist() == computed.select(served.column_names).to_pylist()
    assert served.schema == computed.select(served.column_names).schema
