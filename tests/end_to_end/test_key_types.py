"""A key of any type finds the same history on every path: in `ms.compute`, online, in training, history and `verify`."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest

import millstream as ms
from millstream.definitions.data_types import arrow_type

NOW = datetime.now(UTC).replace(microsecond=0)
#: By type: keys that have events, and one that has none.
KEYS: dict[str, list[Any]] = {
    "bool": [False, True, None],
    "date": [date(1, 1, 1), date(1969, 12, 31), date(1970, 1, 1), date(9999, 12, 31), date(2024, 2, 29)],
    "uuid": [UUID(int=0), UUID(int=2**128 - 1), UUID(int=2**127), UUID(int=2**64), UUID(int=7)],
    "decimal(38, 2)": [
        Decimal(f"{'9' * 36}.99"),
        Decimal(f"-{'9' * 36}.99"),
        Decimal("0.00"),
        Decimal("-0.01"),
        Decimal("1.10"),
    ],
    "bytes": [b"", b"\0", b"\0" * 16, b"\xff" * 17, b"ab"],
}


def view_of(kind: str) -> tuple[ms.EventStream, ms.FeatureView, ms.Model]:
    """A stream keyed by a column of a type, alone and beside a text, and a model of both."""
    visits = ms.EventStream(
        "visits", time="at", partition_by="k", partitions=2,
        schema={"id": "string", "k": kind, "name": "string", "x": "float64", "y": "bool", "at": "timestamp"},
    )  # fmt: skip
    alone, pair = ms.Entity("alone", keys={"k": kind}), ms.Entity("pair", keys={"k": kind, "name": "string"})
    features = [ms.Count(), ms.Sum("x"), ms.Last("name")]
    groups = [ms.StreamFeatureGroup(one.name, entity=one, source=visits, features=features) for one in (alone, pair)]
    view = ms.FeatureView("view", request={"x": "float64"}, features=groups)
    label = ms.Label(visits, "y", on="id", after="1m")
    model = ms.Model("model", view=view, examples=visits, trainer=ms.LightGBM(rounds=3, min_rows=1), label=label)
    return visits, view, model


def rows(kind: str) -> list[dict[str, Any]]:
    """Sixty events, of every key but the last."""
    keys = [key for key in KEYS[kind][:-1]]
    return [
        {"id": str(i), "k": keys[i % len(keys)], "name": "ab"[i // 7 % 2], "x": float(i), "y": i % 3 == 0,
         "at": NOW - timedelta(hours=2, minutes=60 - i)}
        for i in range(60)
    ]  # fmt: skip


def as_arrow(kind: str, table: list[dict[str, Any]]) -> pa.Table:
    """Rows as a frame, whose keys are of the type's own kind of column."""
    found = pa.Table.from_pylist(table)
    keys = pa.array([row["k"] for row in table], arrow_type(kind))
    return found.set_column(found.column_names.index("k"), "k", keys)


def expected(kind: str, key: Any, name: str) -> dict[str, Any]:
    mine = [row for row in rows(kind) if row["k"] == key]
    found: dict[str, Any] = {}
    for group, of in (("alone", mine), ("pair", [row for row in mine if row["name"] == name])):
        found |= {f"{group}__count": len(of), f"{group}__x_sum": sum(row["x"] for row in of)}
        found[f"{group}__name_last"] = of[-1]["name"] if of else None
    return found


@pytest.mark.parametrize("kind", KEYS)
def test_dicts_and_arrow_give_the_same_in_the_pure_function(kind: str) -> None:
    visits, view, _ = view_of(kind)
    asked = [{"k": key, "name": name, "x": 1.0, "at": NOW} for key in KEYS[kind] for name in "ab"]
    wanted = [expected(kind, one["k"], one["name"]) for one in asked]
    for given in (rows(kind), as_arrow(kind, rows(kind))):
        for reads in (asked, as_arrow(kind, asked)):
            found = ms.compute(view, {visits: given}, reads)
            assert found.select(list(wanted[0])).to_pylist() == wanted
            assert found["k"].to_pylist() == [one["k"] for one in asked]


@pytest.mark.parametrize("kind", KEYS)
def test_a_project_finds_the_same_history_by_it_on_every_path(kind: str, tmp_path: Path) -> None:
    visits, _, model = view_of(kind)
    project = ms.Project(tmp_path / "p", create=True)
    project.apply(model)
    project.load(visits, rows(kind)[:20])
    project.load(visits, as_arrow(kind, rows(kind)[20:]))
    project.drain()
    project.backfill()
    asked = [{"k": key, "name": name, "x": 1.0} for key in KEYS[kind] for name in "ab"]
    wanted = [expected(kind, one["k"], one["name"]) for one in asked]
    online = project.features("view", asked)
    assert online.select(list(wanted[0])).to_pylist() == wanted
    assert project.dead_letters("visits").num_rows == 0
    trained = project.training_set("model").table
    assert sorted(map(repr, trained["k"].to_pylist())) == sorted(repr(row["k"]) for row in rows(kind))
    assert trained["alone__count"].to_pylist().count(0) == len(KEYS[kind]) - 1
    project.train("model")
    project.deploy("model")
    project.score("model", [{"id": "z", **one} for one in asked])
    project.sync()
    states = {(row["k"], row["name"]): row["count"] for row in project.history("pair").to_pylist()}
    counts = [((one["k"], one["name"]), row["pair__count"]) for one, row in zip(asked, wanted, strict=True)]
    assert states == {key: count for key, count in counts if count}
    assert project.verify("view").mismatches == 0
    assert project.parity("model").unexplained == 0
    project.close()
