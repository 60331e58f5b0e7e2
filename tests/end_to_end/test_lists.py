"""Features that are lists come back as they are on every path: `ms.compute`, online, training, history, captures, `verify`."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

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
    ms.LastK("amount", k=3, over="30d"), ms.LastK("order", k=2), ms.LastK("ok"), ms.LastK("country", k=2),
    ms.LastK("at", k=1), ms.Count(), ms.FirstK("country", k=1), ms.MaxK("amount"), ms.MinK("order", k=1), ms.TopK("ok"),
    ms.LastDistinctK("country", k=3), ms.Histogram("amount", bins=[0, 2, 3]),
])  # fmt: skip
ROWS = [
    {"user_id": 1, "order": -BIG, "amount": 1.5, "ok": False, "country": "", "at": SEEN},
    {"user_id": 1, "order": 2**63 - 1, "amount": None, "ok": True, "country": None, "at": SEEN + timedelta(hours=1)},
    {"user_id": 1, "order": BIG, "amount": -0.0, "ok": None, "country": "é", "at": SEEN + timedelta(hours=2)},
    {"user_id": 1, "order": 7, "amount": 2.5, "ok": True, "country": "DE", "at": SEEN + timedelta(hours=2)},
]  # fmt: skip
LISTS = {
    "habits__amount_last_3_30d": [2.5, 0.0, 1.5],
    "habits__order_last_2": [BIG, 7],
    "habits__ok_last_5": [True, True, False],
    "habits__country_last_2": ["é", "DE"],
    "habits__at_last_1": [SEEN + timedelta(hours=2)],
    "habits__country_first_1": [""],
    "habits__amount_max_3": [2.5, 1.5, 0.0],
    "habits__order_min_1": [-BIG],
    "habits__ok_top_3": [True, False],
    "habits__country_last_distinct_3": ["é", "DE", ""],
    "habits__amount_histogram": [2, 1],
}
NOTHING = {name: [] for name in LISTS} | {"habits__amount_histogram": [0, 0]}
TYPES = [pa.float64(), pa.int64(), pa.bool_(), pa.string(), INSTANT]
TYPES += [pa.string(), pa.float64(), pa.int64(), pa.bool_(), pa.string(), pa.int64()]
asks = ms.EventStream("asks", time="at", schema={"id": "string", "user_id": "int64", "y": "bool", "at": "timestamp"})


@ms.on_demand(returns="float64")
def mean_of_last(habits__amount_last_3_30d):
    total = 0.0
    for amount in habits__amount_last_3_30d:
        total += amount
    return total / len(habits__amount_last_3_30d)


@ms.on_demand(returns="int64")
def order_before(habits__order_last_2):
    return habits__order_last_2[1] % 1_000


@ms.on_demand(returns="bool")
def alike(habits__ok_last_5, habits__at_last_1, at):
    return habits__ok_last_5[0] and at - habits__at_last_1[0] > 0


SPREAD = {
    "habits__country_last_2_1": "é", "habits__country_last_2_2": "DE", "habits__order_last_2_1": BIG,
    "habits__order_last_2_2": 7, "mean_of_last": 4.0 / 3, "order_before": 7, "alike": True,
}  # fmt: skip
view = ms.FeatureView("v", features=[habits])
sequences = ms.StreamFeatureGroup("sequences", entity=user, source=payments, features=[
    ms.LastK(["amount", "country", "at"], k=5), ms.LastK("ok", k=3), ms.TopK("country", k=3, categories=1),
])  # fmt: skip
PADS = {"amount": -1, "country": "", "at": SEEN}
ARRAYS = {
    "sequences__amount_country_at_last_5_amount": [2.5, 0.0, -1.0, 1.5, -1.0],
    "sequences__amount_country_at_last_5_country": ["DE", "é", "", "", ""],
    "sequences__amount_country_at_last_5_at": [SEEN + timedelta(hours=h) for h in (2, 2, 1, 0, 0)],
    "sequences__ok_last_3": [True, True, False],
    "sequences__country_top_3": None,
    "padded__habits__order_last_2": [BIG, 7],
}
UNKNOWN = {
    "sequences__amount_country_at_last_5_amount": [-1.0] * 5,
    "sequences__amount_country_at_last_5_country": [""] * 5,
    "sequences__amount_country_at_last_5_at": [SEEN] * 5,
    "sequences__ok_last_3": [False] * 3,
    "sequences__country_top_3": ["none"] * 3,
    "padded__habits__order_last_2": [-BIG] * 2,
}
model_view = ms.FeatureView("w", features=[
    habits["amount_last_3_30d"], habits["order_last_2"], habits["ok_last_5"], habits["at_last_1"],
    habits["country_last_2"].spread(), habits["order_last_2"].spread(), mean_of_last, order_before, alike,
    sequences["amount_country_at_last_5"].to_array(pad=PADS), sequences["ok_last_3"].to_array(pad=False),
    sequences["country_top_3"].to_array(pad="none"), habits["order_last_2"].on(prefix="padded").to_array(pad=-BIG),
])  # fmt: skip
model = ms.Model(
    "m", view=model_view, examples=asks, trainer=ms.LightGBM(rounds=5, min_rows=1),
    label=ms.Label(asks, "y", on="id", after="1m"),
)  # fmt: skip


def test_the_pure_function_gives_arrow_lists_and_the_empty_list_of_nothing() -> None:
    found = ms.compute(view, {payments: ROWS}, [{"user_id": one, "at": AT} for one in (1, 2, None)])
    assert found.select(list(LISTS)).to_pylist() == [LISTS, *[NOTHING] * 2]
    assert [found[name].type for name in LISTS] == [pa.list_(kind) for kind in TYPES]
    early = ms.compute(view, {payments: ROWS}, [{"user_id": 1, "at": SEEN + timedelta(minutes=1)}]).to_pylist()[0]
    assert (early["habits__amount_last_3_30d"], early["habits__order_last_2"]) == ([1.5], [-BIG])
    late = ms.compute(view, {payments: ROWS}, [{"user_id": 1, "at": NOW + timedelta(days=90)}]).to_pylist()[0]
    assert (late["habits__amount_last_3_30d"], late["habits__country_last_2"]) == ([], ["é", "DE"])


def test_a_model_reads_elements_as_columns_and_functions_read_lists_as_arrays() -> None:
    found = ms.compute(model_view, {payments: ROWS}, [{"user_id": one, "at": AT} for one in (1, 2)]).to_pylist()
    assert {name: found[0][name] for name in SPREAD} == SPREAD
    assert {name: found[1][name] for name in SPREAD} == dict.fromkeys(SPREAD)
    assert [name for name in model_view.inputs if "last_5" in name] == []
    assert list(SPREAD) == list(model_view.inputs)


def test_arrays_are_lists_of_one_length_in_which_nothing_is_null_but_what_is_not_known() -> None:
    found = ms.compute(model_view, {payments: ROWS}, [{"user_id": one, "at": AT} for one in (1, 2, None)])
    assert found.select(list(ARRAYS)).to_pylist() == [ARRAYS, UNKNOWN, UNKNOWN]
    assert [str(found[name].type)[11:] for name in ARRAYS] == [
        "double>", "string>", "timestamp[us, tz=UTC]>", "bool>", "string>", "int64>",
    ]  # fmt: skip
    assert not set(ARRAYS) & set(model_view.inputs)


def test_a_project_gives_the_same_lists_on_every_path(tmp_path: Path) -> None:
    project = ms.Project(tmp_path / "p", create=True)
    project.apply(view, model)
    project.load(payments, ROWS)
    project.load(asks, [
        {"id": str(i), "user_id": 1 + i % 2, "y": i % 2 == 0, "at": AT - timedelta(minutes=i)} for i in range(60)
    ])  # fmt: skip
    project.drain()
    project.backfill()
    keys = [{"user_id": 1}, {"user_id": 2}]
    online = project.features("v", keys)
    pure = ms.compute(view, {payments: ROWS}, [{**one, "at": AT} for one in keys]).select(online.column_names)
    assert online.equals(pure.cast(online.schema)) and online.schema == pure.schema
    assert online.select(list(LISTS)).to_pylist()[0] == LISTS
    trained = project.training_set("m").table
    wanted = ms.compute(model_view, {payments: ROWS}, [{"user_id": 1, "at": AT}]).to_pylist()[0]
    columns = list(model_view.columns)
    assert {name: wanted[name] for name in columns} in trained.select(columns).to_pylist()
    project.train("m")
    project.deploy("m")
    project.score("m", [{"id": "z", **one} for one in keys])
    project.score("m", [{"id": "z", **keys[0]}])
    project.sync()
    history = {row["user_id"]: row for row in project.history("habits").to_pylist()}
    assert {name.removeprefix("habits__"): value for name, value in LISTS.items()}.items() <= history[1].items()
    assert project.verify("w").mismatches == 0
    assert project.parity("m").unexplained == 0
    for row in project.parts.histories.captures("m").to_pylist():
        assert row["habits__order_last_2"] == (LISTS["habits__order_last_2"] if row["user_id"] == 1 else [])
    project.close()


def test_a_list_that_no_model_can_read_is_refused_with_how_to_spread_it() -> None:
    with pytest.raises(ms.MillstreamError, match=r'(?s)list<float64>.*list habits\["amount_last_3_30d"\]\.spread\(\)'):
        ms.Model("m", view=view, examples=asks, label=ms.Label(asks, "y", on="id"))
    with pytest.raises(ms.MillstreamError, match=r"habits\[\"amount_last_3_30d\"\]\.spread\(\)"):
        habits.on(user_id="user_id").spread()
    with pytest.raises(ms.MillstreamError, match=r"'count' .*int64.* a list"):
        habits["count"].spread()
    for pad, said in (
        (None, "pad.*float64"),
        (True, "pad.*float64"),
        ("", "(?s)pad.*write 0.0"),
        (float("nan"), "float64"),
    ):
        with pytest.raises(ms.MillstreamError, match=said):
            habits["amount_last_3_30d"].to_array(pad=pad)
    for name, pad, said in (
        ("count", 0, "a list"), ("at_last_1", 0, "timestamp"), ("at_last_1", "soon", "timestamp"),
        ("order_last_2", 1.5, "int64"),
    ):  # fmt: skip
        with pytest.raises(ms.MillstreamError, match=said):
            habits[name].to_array(pad=pad)
    with pytest.raises(ms.MillstreamError, match=r'pad={"amount": 0.0, "country": "", "at": datetime'):
        sequences["amount_country_at_last_5"].to_array(pad={"amount": 0.0})
    with pytest.raises(ms.MillstreamError, match=r"to_array\(pad=\.\.\.\)\.$"):
        sequences.on(user_id="user_id").to_array(pad=0.0)
    with pytest.raises(ms.MillstreamError, match="a list of numbers"):
        ms.FeatureView("x", features=[habits["country_last_2"], first_country])


@ms.on_demand(returns="string")
def first_country(habits__country_last_2):
    return habits__country_last_2[0]
