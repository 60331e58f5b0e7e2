"""Maps and lists of structs come back as they are on every path: `ms.compute`, online, training, history, `verify`."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pyarrow as pa
import pytest

import millstream as ms

BIG = 2**53 + 1
NOW = datetime.now(UTC).replace(microsecond=0)
SEEN = NOW - timedelta(days=3)
AT = NOW - timedelta(hours=1)
INSTANT = pa.timestamp("us", "UTC")
user = ms.Entity("user", keys={"user_id": "int64"})
payments = ms.EventStream(
    "payments", time="at",
    schema={"user_id": "int64", "order": "int64", "amount": "float64", "ok": "bool", "country": "string", "at": "timestamp"},
)  # fmt: skip
habits = ms.StreamFeatureGroup("habits", entity=user, source=payments, features=[
    ms.CountBy("country", k=2), ms.SumBy("country", "amount", over="30d"), ms.By("ok", ms.Std("amount")),
    ms.By("country", ms.Last("order")), ms.By("at", ms.First("country"), k=1), ms.By("order", ms.Max("at"), over="2 events"),
    ms.By("country", ms.Mean("amount"), over=ms.Session(gap="30d", late="30d")),
    ms.CountBy("country", categories=1, name="few"),
    ms.LastK(["amount", "country"], k=2, over="30d"), ms.FirstK(["at", "ok"], k=3), ms.Count(),
])  # fmt: skip
ROWS = [
    {"user_id": 1, "order": -BIG, "amount": 1.5, "ok": False, "country": "", "at": SEEN},
    {"user_id": 1, "order": 2**63 - 1, "amount": None, "ok": True, "country": None, "at": SEEN + timedelta(hours=1)},
    {"user_id": 1, "order": BIG, "amount": -0.0, "ok": None, "country": "é", "at": SEEN + timedelta(hours=2)},
    {"user_id": 1, "order": 7, "amount": 2.5, "ok": True, "country": "é", "at": SEEN + timedelta(hours=2)},
]  # fmt: skip
LATE = SEEN + timedelta(hours=2)
MAPS: dict[str, Any] = {
    "habits__country_count_by": {"é": 2, "": 1},
    "habits__country_amount_sum_by_30d": {"é": 2.5, "": 1.5},
    "habits__ok_amount_std_by": {False: None, True: None},
    "habits__country_order_last_by": {"é": BIG, "": -BIG},
    "habits__at_country_first_by": {LATE: "é"},
    "habits__order_at_max_by_2_events": {7: LATE, BIG: LATE},
    "habits__country_amount_mean_by_session_30d": {"é": 1.25, "": 1.5},
    "habits__few": None,
}
STRUCTS = {
    "habits__amount_country_last_2_30d": [{"amount": 2.5, "country": "é"}, {"amount": 0.0, "country": "é"}],
    "habits__at_ok_first_3": [
        {"at": SEEN, "ok": False}, {"at": SEEN + timedelta(hours=1), "ok": True}, {"at": LATE, "ok": None},
    ],
}  # fmt: skip
WANTED = {**MAPS, **STRUCTS}
NOTHING: dict[str, Any] = {name: {} for name in MAPS} | {name: [] for name in STRUCTS}
TYPES = [
    pa.map_(pa.string(), pa.int64()), pa.map_(pa.string(), pa.float64()), pa.map_(pa.bool_(), pa.float64()),
    pa.map_(pa.string(), pa.int64()), pa.map_(INSTANT, pa.string()), pa.map_(pa.int64(), INSTANT),
    pa.map_(pa.string(), pa.float64()), pa.map_(pa.string(), pa.int64()),
    pa.list_(pa.struct([("amount", pa.float64()), ("country", pa.string())])),
    pa.list_(pa.struct([("at", INSTANT), ("ok", pa.bool_())])),
]  # fmt: skip
asks = ms.EventStream("asks", time="at", schema={"id": "string", "user_id": "int64", "y": "bool", "at": "timestamp"})


@ms.on_demand(returns="float64")
def share_of_first(habits__country_amount_sum_by_30d_1_value, habits__count):
    return habits__country_amount_sum_by_30d_1_value / habits__count


SPREAD = {
    "habits__country_amount_sum_by_30d_1_key": "é", "habits__country_amount_sum_by_30d_1_value": 2.5,
    "habits__country_amount_sum_by_30d_2_key": "", "habits__country_amount_sum_by_30d_2_value": 1.5,
    "habits__country_amount_sum_by_30d_3_key": None, "habits__country_amount_sum_by_30d_3_value": None,
    "habits__amount_country_last_2_30d_1_amount": 2.5, "habits__amount_country_last_2_30d_1_country": "é",
    "habits__amount_country_last_2_30d_2_amount": 0.0, "habits__amount_country_last_2_30d_2_country": "é",
}  # fmt: skip
view = ms.FeatureView("v", features=[habits])
spread = ms.StreamFeatureGroup("habits", entity=user, source=payments, features=[
    ms.SumBy("country", "amount", k=3, over="30d"), ms.LastK(["amount", "country"], k=2, over="30d"), ms.Count(),
])  # fmt: skip
model_view = ms.FeatureView("w", features=[
    spread["country_amount_sum_by_30d"].spread(), spread["amount_country_last_2_30d"].spread(), spread["count"],
    share_of_first,
])  # fmt: skip
model = ms.Model(
    "m", view=model_view, examples=asks, trainer=ms.LightGBM(rounds=5, min_rows=1),
    label=ms.Label(asks, "y", on="id", after="1m"),
)  # fmt: skip


def maps_as_dicts(table: pa.Table) -> list[dict[str, Any]]:
    """Rows of Python's, in which a map is a dict in the map's order."""
    maps = {field.name for field in table.schema if pa.types.is_map(field.type)}
    return [
        {name: dict(value) if name in maps and value is not None else value for name, value in row.items()}
        for row in table.to_pylist()
    ]


def test_the_pure_function_gives_arrow_maps_and_structs_and_the_empty_one_of_nothing() -> None:
    found = ms.compute(view, {payments: ROWS}, [{"user_id": one, "at": AT} for one in (1, 2, None)])
    rows = maps_as_dicts(found.select(list(WANTED)))
    assert rows == [WANTED, *[NOTHING] * 2]
    assert [list(rows[0][name].items()) for name in MAPS if MAPS[name]] == [list(m.items()) for m in MAPS.values() if m]
    assert [found[name].type for name in WANTED] == TYPES


def test_a_model_reads_keys_values_and_fields_as_columns() -> None:
    found = ms.compute(model_view, {payments: ROWS}, [{"user_id": one, "at": AT} for one in (1, 2)]).to_pylist()
    assert {name: found[0][name] for name in SPREAD} == SPREAD
    assert {name: found[1][name] for name in SPREAD} == dict.fromkeys(SPREAD)
    assert found[0]["share_of_first"] == 2.5 / 4
    assert [*SPREAD, "habits__count", "share_of_first"] == list(model_view.inputs)


def test_a_project_gives_the_same_maps_on_every_path(tmp_path: Path) -> None:
    whole = ms.Model(
        "whole", view=ms.FeatureView("u", features=[habits[one.removeprefix("habits__")].spread() for one in STRUCTS]),
        examples=asks, trainer=ms.LightGBM(rounds=5, min_rows=1), label=ms.Label(asks, "y", on="id", after="1m"),
    )  # fmt: skip
    project = ms.Project(tmp_path / "p", create=True)
    project.apply(view, whole)
    project.load(payments, ROWS)
    project.load(asks, [
        {"id": str(i), "user_id": 1 + i % 2, "y": i % 2 == 0, "at": AT - timedelta(minutes=i)} for i in range(60)
    ])  # fmt: skip
    project.drain()
    project.backfill()
    keys = [{"user_id": 1}, {"user_id": 2}]
    online = project.features("v", keys)
    pure = ms.compute(view, {payments: ROWS}, [{**one, "at": AT} for one in keys]).select(online.column_names)
    assert online.schema == pure.schema
    assert maps_as_dicts(online) == maps_as_dicts(pure)
    assert project.training_set("whole").table.num_rows == 60
    project.train("whole")
    project.deploy("whole")
    project.score("whole", [{"id": "z", **one} for one in keys])
    project.sync()
    history = {row["user_id"]: row for row in maps_as_dicts(project.history("habits"))}
    assert {name.removeprefix("habits__"): value for name, value in WANTED.items()}.items() <= history[1].items()
    assert project.verify("u").mismatches == 0
    assert project.parity("whole").unexplained == 0
    project.close()


@ms.on_demand(returns="float64")
def first_of(habits__country_count_by):
    return habits__country_count_by[0]


def test_what_cannot_be_read_or_kept_is_refused_with_how_to_write_it() -> None:
    with pytest.raises(ms.MillstreamError, match=r'(?s)map<string, int64>.*habits\["country_count_by"\]\.spread\(\)'):
        ms.Model("m", view=view, examples=asks, label=ms.Label(asks, "y", on="id"))
    with pytest.raises(ms.MillstreamError, match=r"(?s)spread\(\).*habits__country_count_by_1_key"):
        ms.FeatureView("x", features=[habits["country_count_by"], first_of])
    for wrong, said in (
        (lambda: ms.By("country", ms.Sum("amount", over="1h")), "over of aggregate"),
        (lambda: ms.By("country", ms.Sum("amount", where="ok")), "where of aggregate"),
        (lambda: ms.By("country", ms.Sum("amount", name="x")), "name of aggregate"),
        (lambda: ms.By("country", ms.TopK("amount")), "TopK"),
        (lambda: ms.By("country", "amount"), "aggregate"),
        (lambda: ms.By("country", ms.Count(), k=0), "k"),
        (lambda: ms.LastK(["amount / 2", "country"]), "derive="),
        (lambda: ms.LastK([]), "columns, each once"),
        (lambda: ms.FirstK(["ok", "OK"]), "columns, each once"),
    ):
        with pytest.raises(ms.MillstreamError, match=said):
            wrong()
    for features, said in (
        ([ms.CountBy("amount")], "int64 or string"),
        ([ms.SumBy("ok", "country")], "sum of `country`"),
        ([ms.CountBy("country || 'x'")], "name"),
    ):
        with pytest.raises(ms.MillstreamError, match=said):
            ms.StreamFeatureGroup("g", entity=user, source=payments, features=features)


def test_maps_are_those_of_pandas() -> None:
    rows = [
        {
            "user_id": 1,
            "order": i,
            "amount": (i * 37 % 101) / 4 - 5,
            "ok": None,
            "country": f"c{i * i % 11}",
            "at": SEEN,
        }
        for i in range(300)
    ]
    group = ms.StreamFeatureGroup("g", entity=user, source=payments, features=[
        ms.CountBy("country"), ms.SumBy("country", "amount"),
        *(ms.By("country", one("amount")) for one in (ms.Mean, ms.Std, ms.Min, ms.Max)),
    ])  # fmt: skip
    found = ms.compute(group, {payments: rows}, [{"user_id": 1, "at": AT}])
    by = pd.DataFrame(rows).groupby("country")["amount"].agg(["count", "sum", "mean", "std", "min", "max"])
    by = by.sort_index().sort_values("count", ascending=False, kind="stable")
    for kind in by.columns:
        name = "g__country_count_by" if kind == "count" else f"g__country_amount_{kind}_by"
        [got] = maps_as_dicts(found.select([name]))
        assert list(got[name]) == list(by.index)
        assert got[name] == pytest.approx(by[kind].to_dict())


def test_keys_of_json_objects_are_text() -> None:
    from millstream.serve.answers import written

    maps = defaultdict(dict, {True: 1, False: None}), {SEEN: "a"}, {7: 1.5}
    assert [msgspec.json.decode(msgspec.json.encode(written(dict(one)))) for one in maps] == [
        {"true": 1, "false": None}, {SEEN.isoformat().replace("+00:00", "Z"): "a"}, {"7": 1.5},
    ]  # fmt: skip
