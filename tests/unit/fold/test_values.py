"""What tells values apart, held to NumPy, pandas, SciPy and DataSketches, and to its oracle beyond what is exact."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import datasketches
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import millstream as ms
from millstream.errors import DefinitionError
from millstream.fold import States, fold, layout_of, merge, prepare, value
from millstream.fold.oracle import OracleEvent, oracle

SCHEMA = {"user_id": "int64", "x": "float64", "n": "int64", "s": "string", "ok": "bool", "at": "timestamp"}
USER = ms.Entity("user", keys={"user_id": "int64"})
EVENTS = ms.EventStream("events", time="at", schema=SCHEMA)
SECOND, HOUR = 1_000_000, 3_600_000_000
START = 1_767_225_600_000_000


def group(*features: Any, **given: Any) -> ms.StreamFeatureGroup:
    return ms.StreamFeatureGroup("g", entity=USER, source=EVENTS, features=list(features), **given)


def table_of(events: pd.DataFrame) -> pa.Table:
    """Events of user 1, a tenth of a second apart."""
    times = START + SECOND // 10 * np.arange(len(events))
    given = {name: pa.array(events[name], kind, from_pandas=True) for name, kind in ARROW.items() if name in events}
    absent = {name: pa.nulls(len(events), kind) for name, kind in ARROW.items() if name not in events}
    return pa.table(
        {"user_id": np.ones(len(events), np.int64), **given, **absent, "at": pa.array(times, pa.timestamp("us", "UTC")),
         "_arrival": times, "_partition": np.zeros(len(events), np.int64), "_position": np.arange(len(events))}
    )  # fmt: skip


ARROW = {"x": pa.float64(), "n": pa.int64(), "s": pa.string(), "ok": pa.bool_()}


def computed(group: ms.StreamFeatureGroup, events: pd.DataFrame, at: int = START + 24 * HOUR) -> dict[str, Any]:
    """The group's features of user 1 at an instant (µs)."""
    given = table_of(events).drop_columns(["_arrival", "_partition", "_position"])
    (found,) = ms.compute(group, {EVENTS: given}, [{"user_id": 1, "at": at}]).to_pylist()
    return {name.removeprefix("g__"): value for name, value in found.items()}


@pytest.fixture
def events() -> pd.DataFrame:
    random = np.random.default_rng(7)
    return pd.DataFrame(
        {"x": random.lognormal(3, 2, 60).round(2), "n": 2**60 + random.integers(0, 40, 60),
         "s": random.choice(["DE", "FR", "é", "", "a" * 39], 60), "ok": random.random(60) < 0.3}
    )  # fmt: skip


def test_few_values_give_what_numpy_pandas_and_scipy_say(events: pd.DataFrame) -> None:
    found = computed(
        group(
            ms.DistinctCount("s"), ms.DistinctCount("n"), ms.Median("x"), ms.Quantile("x", q=[0.05, 0.5, 0.999]),
            ms.Entropy("s"), ms.Entropy("ok"), ms.Mode("s"), ms.Mode("n"), ms.Lag("x"), ms.Lag("n", 7), ms.Lag("s", 60),
            ms.Lag("s", 61),
        ),
        events,
    )  # fmt: skip
    assert found["s_distinct_count"] == events.s.nunique()
    assert found["n_distinct_count"] == events.n.nunique()
    assert found["x_median"] == events.x.median()
    assert [found["x_p5"], found["x_p50"], found["x_p99_9"]] == np.quantile(events.x, [0.05, 0.5, 0.999]).tolist()
    assert found["s_entropy"] == pytest.approx(stats.entropy(events.s.value_counts(), base=2), rel=1e-12)
    assert found["ok_entropy"] == pytest.approx(stats.entropy(events.ok.value_counts(), base=2), rel=1e-12)
    counts = events.s.value_counts()
    assert found["s_mode"] == min(counts[counts == counts.max()].index, key=str.encode)
    assert found["n_mode"] == events.n.mode()[0]
    assert (found["x_lag_1"], found["n_lag_7"]) == (events.x.iloc[-1], events.n.iloc[-7])
    assert (found["s_lag_60"], found["s_lag_61"]) == (events.s.iloc[0], None)


def test_lists_are_what_pandas_says(events: pd.DataFrame) -> None:
    found = computed(
        group(
            ms.LastK("x"), ms.LastK("n", k=7), ms.LastK("s", k=60), ms.LastK("ok", k=1_000), ms.LastK("at", k=2),
            ms.LastK("x", k=2, where="x < 20", name="small"),
        ),
        events,
    )  # fmt: skip
    newest = events[::-1]
    assert found["x_last_5"] == newest.x[:5].tolist()
    assert found["n_last_7"] == newest.n[:7].tolist()
    assert found["s_last_60"] == newest.s.tolist()
    assert found["ok_last_1000"] == newest.ok.tolist()
    assert [one.timestamp() for one in found["at_last_2"]] == [START / SECOND + 5.9, START / SECOND + 5.8]
    assert found["small"] == newest.x[newest.x < 20][:2].tolist()


def test_first_greatest_least_and_most_frequent_values_are_what_pandas_says(events: pd.DataFrame) -> None:
    found = computed(
        group(
            ms.FirstK("x"), ms.FirstK("s", k=60), ms.MaxK("x", k=4), ms.MinK("x"), ms.MaxK("s", k=60), ms.MinK("n", k=60),
            ms.MaxK("ok", k=2), ms.TopK("s"), ms.TopK("n", k=60), ms.TopK("s", categories=3, name="too_many"),
        ),
        events,
    )  # fmt: skip
    assert found["x_first_5"] == events.x[:5].tolist()
    assert found["s_first_60"] == events.s.tolist()
    assert found["x_max_4"] == events.x.nlargest(4).tolist()
    assert found["x_min_3"] == events.x.nsmallest(3).tolist()
    assert found["s_max_60"] == sorted(events.s, key=str.encode, reverse=True)
    assert found["n_min_60"] == events.n.sort_values().tolist()
    assert found["ok_max_2"] == events.ok.sort_values(ascending=False)[:2].tolist()
    counts = events.s.value_counts()
    assert found["s_top_3"] == sorted(counts.index, key=lambda one: (-counts[one], one.encode()))[:3]
    assert (
        found["n_top_60"]
        == events.n.value_counts().sort_index().sort_values(ascending=False, kind="stable").index.tolist()
    )
    assert found["too_many"] is None


def test_different_values_and_counts_in_bins_are_what_pandas_and_numpy_say(events: pd.DataFrame) -> None:
    edges = [0, 1.5, 20, events.x.max()]
    found = computed(
        group(
            ms.LastDistinctK("s"), ms.LastDistinctK("n", k=7), ms.LastDistinctK("ok", k=1), ms.Histogram("x", bins=edges),
            ms.Histogram("n", bins=[2**60, 2**61]), ms.Histogram("x", bins=edges, where="ok", name="of_some"),
        ),
        events,
    )  # fmt: skip
    newest = events[::-1]
    assert found["s_last_distinct_5"] == newest.s.drop_duplicates().tolist()
    assert found["n_last_distinct_7"] == newest.n.drop_duplicates()[:7].tolist()
    assert found["ok_last_distinct_1"] == [events.ok.iloc[-1]]
    assert found["x_histogram"] == np.histogram(events.x, edges)[0].tolist()
    assert found["n_histogram"] == [60]
    assert found["of_some"] == np.histogram(events.x[events.ok], edges)[0].tolist()


def test_of_a_key_without_events_the_request_alone_was_seen_last() -> None:
    seen = group(
        ms.LastDistinctK("s"), ms.LastDistinctK("s", where="ok", name="of_some"), ms.Histogram("x", bins=[0, 1, 2])
    )
    request = {"s": "string", "ok": "bool", "x": "float64"}
    view = ms.FeatureView("v", request=request, features=[seen.with_request()])
    asked = [
        {"user_id": 1, "s": "DE", "ok": True, "x": 1.0, "at": START},
        {"user_id": 2, "s": "DE", "ok": False, "x": 2.0, "at": START},
        {"user_id": 3, "s": None, "ok": None, "x": None, "at": START},
    ]
    found = ms.compute(view, {EVENTS: []}, asked)
    assert found["g__s_last_distinct_5"].to_pylist() == [["DE"], ["DE"], []]
    assert found["g__of_some"].to_pylist() == [["DE"], [], []]
    assert found["g__x_histogram"].to_pylist() == [[0, 1], [0, 1], [0, 0]]


def test_nothing_and_nulls() -> None:
    features = [ms.DistinctCount("x"), ms.Median("x"), ms.Entropy("s"), ms.Mode("s"), ms.Lag("n"), ms.LastK("s")]
    features += [ms.LastDistinctK("x"), ms.Histogram("x", bins=[0, 1, 2]), ms.FirstK("x")]
    features += [ms.MaxK("n"), ms.MinK("s"), ms.TopK("s")]
    empty = {
        "x_distinct_count": 0, "x_median": None, "s_entropy": None, "s_mode": None, "n_lag_1": None, "s_last_5": [],
        "x_last_distinct_5": [], "x_histogram": [0, 0], "x_first_5": [], "n_max_3": [], "s_min_3": [], "s_top_3": [],
    }  # fmt: skip
    for events in (pd.DataFrame({"x": [], "n": [], "s": []}), pd.DataFrame({"x": [np.nan, -np.inf], "s": [None] * 2})):
        found = computed(group(*features), events)
        assert {name: found[name] for name in empty} == empty
    zeros = computed(group(ms.DistinctCount("x"), ms.Mode("x")), pd.DataFrame({"x": [0.0, -0.0, np.nan]}))
    assert (zeros["x_distinct_count"], str(zeros["x_mode"])) == (1, "0.0")


@pytest.mark.parametrize("different", [256, 257, 5_000])
def test_many_different_values_are_counted_as_the_oracle_counts_them(different: int) -> None:
    random = np.random.default_rng(different)
    numbers = random.permutation(np.repeat(np.arange(different), 2))
    events = pd.DataFrame({"n": numbers, "s": [f"device-{n}" for n in numbers], "x": numbers * 0.37})
    wanted = group(ms.DistinctCount("n"), ms.DistinctCount("s"), ms.DistinctCount("x"))
    found = computed(wanted, events)
    plain = oracle(wanted.columns, [
        OracleEvent(START, START, START, {"n": int(row.n), "s": row.s, "x": float(row.x)}) for row in events.itertuples()
    ], START + HOUR)  # fmt: skip
    assert {name: found[name] for name in plain} == plain
    for name in plain:
        assert found[name] == pytest.approx(different, rel=0 if different <= 256 else 0.05)


def test_the_error_of_a_distinct_count_is_no_more_than_that_of_datasketches() -> None:
    ours, theirs = [], []
    for trial in range(30):
        numbers = np.arange(10_000) + 1_000_000 * trial
        found = computed(group(ms.DistinctCount("n")), pd.DataFrame({"n": numbers}))
        merged = datasketches.hll_union(12)
        for half in np.array_split(numbers, 2):  # one that saw every value itself knows more than one that was merged
            sketch = datasketches.hll_sketch(12, datasketches.tgt_hll_type.HLL_8)
            for number in half.tolist():
                sketch.update(number)
            merged.update(sketch)
        ours.append(found["n_distinct_count"] / 10_000 - 1)
        theirs.append(merged.get_result().get_estimate() / 10_000 - 1)
    assert np.sqrt(np.mean(np.square(ours))) < 0.02
    assert np.sqrt(np.mean(np.square(ours))) < 1.5 * np.sqrt(np.mean(np.square(theirs)))


@pytest.mark.parametrize("many", [64, 65, 3_000])
def test_quantiles_are_within_one_percent_of_the_order_statistics(many: int) -> None:
    random = np.random.default_rng(many)
    x = np.where(random.random(many) < 0.3, -1, 1) * np.exp(random.normal(0, 8, many))
    x[:3] = [0.0, 2.0**-70, -(2.0**-65)]
    shares = [0.0, 0.01, 0.5, 0.95, 1.0]
    wanted = group(ms.Quantile("x", q=shares))
    found = computed(wanted, pd.DataFrame({"x": x}))
    plain = oracle(wanted.columns, [OracleEvent(START, START, START, {"x": float(v)}) for v in x], START + HOUR)
    assert {name: found[name] for name in plain} == plain
    for share, got in zip(shares, plain.values(), strict=True):
        low, high = (np.quantile(x, share, method=method) for method in ("lower", "higher"))
        near = 0 if many <= 64 else 0.01
        assert low - near * abs(low) - 2.0**-64 <= got <= high + near * abs(high) + 2.0**-64


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 700), st.lists(st.integers(0, 700), max_size=5))
def test_large_states_merge_to_the_same_bytes_however_they_are_cut(seed: int, many: int, cuts: list[int]) -> None:
    random = np.random.default_rng(seed)
    events = pd.DataFrame(
        {"x": random.lognormal(0, 3, many), "n": random.integers(0, 600, many),
         "s": random.choice([f"m{i}" for i in range(300)], many)}
    )  # fmt: skip
    wanted = group(
        ms.DistinctCount("n", over=["1m", "1h"]), ms.Median("x", over=["1m", None]), ms.Entropy("s", over="1h"),
        ms.Mode("s", categories=40, over="1m"), ms.Lag("n", 50, over="1h"), ms.Count(over="1h"),
    )  # fmt: skip
    layout, table = layout_of(wanted), table_of(events)

    def state(part: pa.Table) -> States:
        (prepared,) = prepare([wanted], EVENTS, part)
        return fold(layout, prepared) if prepared.keys else States.from_bytes([None])

    whole, merged = state(table), States.from_bytes([None])
    edges = sorted({0, many, *(min(cut, many) for cut in cuts)})
    for begin, end in reversed(list(pairwise(edges))):
        merged = merge(layout, state(table.slice(begin, end - begin)), merged)
    assert merged.to_bytes() == whole.to_bytes()
    assert len(whole.to_bytes()[0]) <= layout.state_bytes_max
    at = START + SECOND // 10 * many
    plain = oracle(
        wanted.columns,
        [OracleEvent(t, t, t, {"x": float(x), "n": int(n), "s": s})
         for t, x, n, s in zip(table["_arrival"].to_pylist(), events.x, events.n, events.s, strict=True)],
        at,
    )  # fmt: skip
    got = value(layout, whole, np.array([at])).columns
    assert {name: None if got[name][0] != got[name][0] else got[name][0] for name in plain} == plain


def test_more_categories_than_may_be_give_null_and_come_back_when_they_have_left() -> None:
    events = pd.DataFrame({"s": [f"m{i}" for i in range(5)] + ["a"] * 1_000})
    wanted = group(ms.Mode("s", over=["1m", "1h"], categories=4), ms.Entropy("s", over="1m", categories=4))
    found = computed(wanted, events, START + 101 * SECOND)
    assert (found["s_mode_1m"], found["s_mode_1h"], found["s_entropy_1m"]) == ("a", None, 0.0)


@pytest.mark.parametrize("size", [255, 256, 300, 1_024])
def test_long_strings_come_back_whole(size: int) -> None:
    events = pd.DataFrame({"s": ["a" * size]})
    for feature in (ms.Lag("s", name="found", max_bytes=size), ms.Mode("s", name="found", max_bytes=size)):
        (found,) = [value for name, value in computed(group(feature), events).items() if name.startswith("found")]
        assert found == "a" * size


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ms.Quantile("x", q=95), "shares from 0 to 1"),
        (lambda: ms.Quantile("x", q=[]), "at least one share"),
        (lambda: ms.Lag("x", 0), "a whole number from 1 to 1000"),
        (lambda: ms.LastK("x", k=1_001), "a whole number from 1 to 1000"),
        (lambda: ms.MaxK("x", k=0), "a whole number from 1 to 1000"),
        (lambda: ms.Histogram("x", bins=[1, 1]), "ascending numbers"),
        (lambda: ms.Histogram("x", bins=[1]), "ascending numbers"),
        (lambda: ms.Histogram("x", bins=[0, float("nan")]), "ascending numbers"),
        (lambda: ms.Histogram("x", bins="ab"), "ascending numbers"),
        (lambda: group(ms.Histogram("s", bins=[0, 1])), "a number"),
        (lambda: ms.TopK("x", k=3, categories=0), "a whole number from 1 to 65536"),
        (lambda: ms.Mode("x", categories=0), "a whole number from 1 to 65536"),
        (lambda: group(ms.Median("s")), "has type string"),
        (lambda: group(ms.Quantile("ok", q=0.5)), "has type bool"),
        (lambda: group(ms.Entropy("x")), "(?s)has type float64; expected int64 or string.*make a category of it"),
        (lambda: group(ms.DistinctCount("x + 1")), "a name, for an expression has none"),
        (lambda: group(ms.Quantile("x", q=[0.5, 0.5])), "give one of them a name"),
    ],
)
def test_what_cannot_be_meant_is_refused_when_it_is_built(make: Any, said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        make()
