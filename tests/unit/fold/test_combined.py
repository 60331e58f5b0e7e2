"""Ratios, differences and z-scores: what they are worked out of, and what cannot be meant."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import millstream as ms
from millstream.definitions.serialise import fingerprint, from_dict, to_dict
from millstream.errors import DefinitionError
from millstream.fold import layout_of

USER = ms.Entity("user", keys={"user_id": "int64"})
EVENTS = ms.EventStream("events", time="at", schema={
    "user_id": "int64", "x": "float64", "y": "float64", "s": "string", "ok": "bool", "at": "timestamp"})  # fmt: skip
SECOND, HOUR = 1_000_000, 3_600_000_000
START = 1_767_225_600_000_000


def group(*features: Any, **given: Any) -> ms.StreamFeatureGroup:
    return ms.StreamFeatureGroup("g", entity=USER, source=EVENTS, features=list(features), **given)


def computed(wanted: Any, xs: list[float | None], request: dict[str, Any] | None = None) -> dict[str, Any]:
    rows = [{"user_id": 1, "x": x, "y": 2.0, "s": "a", "ok": True, "at": START + SECOND * i} for i, x in enumerate(xs)]
    asked = {"user_id": 1, "at": START + HOUR, **(request or {})}
    (found,) = ms.compute(wanted, {EVENTS: rows}, [asked]).to_pylist()
    return {name.removeprefix("g__"): value for name, value in found.items() if name not in ("user_id", "at")}


def test_a_ratio_and_a_difference_are_those_of_the_values_that_are_read() -> None:
    wanted = group(
        ms.Ratio(ms.Sum("x", over="24h"), ms.Count(over="1h"), name="each"), ms.Mean("x"),
        ms.Difference(ms.Last("x"), ms.Mean("x"), name="step"), ms.Ratio(ms.Std("x"), ms.Mean("x"), name="spread"),
        ms.Ratio(ms.Sum("x", where="x < 0"), ms.Sum("x"), name="below"),
    )  # fmt: skip
    xs = pd.Series([0.1, 0.2, 7.5])
    assert computed(wanted, list(xs)) == {
        "each": xs.sum() / 3, "x_mean": pytest.approx(xs.mean(), rel=1e-15), "step": 7.5 - xs.mean(),
        "spread": pytest.approx(xs.std() / xs.mean(), rel=1e-14), "below": 0.0,
    }  # fmt: skip
    assert [column.name for column in wanted.columns] == ["each", "x_mean", "step", "spread", "below"]


def test_by_nothing_and_by_zero_is_null() -> None:
    wanted = group(
        ms.Ratio(ms.Count(), ms.Sum("x"), name="by_zero"), ms.Ratio(ms.Max("x"), ms.Min("x"), name="by_null"),
        ms.Difference(ms.Sum("x"), ms.Last("x"), name="less_null"),
        ms.Ratio(ms.Max("y"), ms.Max("x"), name="beyond"),
    )  # fmt: skip
    assert set(computed(wanted, []).values()) == {None}
    assert computed(wanted, [0.0]) == {"by_zero": None, "by_null": None, "less_null": 0.0, "beyond": None}
    assert computed(wanted, [5e-324])["beyond"] is None  # the quotient is beyond float64


def test_a_part_that_is_a_column_too_is_kept_and_computed_once() -> None:
    alone, both = group(ms.Sum("x", over="1h")), ms.Ratio(ms.Sum("x", over="1h"), ms.Sum("x", over="1h"), name="one")
    assert layout_of(group(ms.Sum("x", over="1h"), both)).n_lanes == layout_of(alone).n_lanes == 3
    assert len(layout_of(group(both)).outputs) == 1
    assert layout_of(group(ms.ZScore("x", request="x"))).n_lanes == 8


def test_a_zscore_is_that_of_the_rounded_mean_and_deviation() -> None:
    wanted = group(ms.ZScore("x", request="amount", over=["1h", "24h"]))
    view = ms.FeatureView("v", request={"amount": "float64"}, features=[wanted])
    xs = pd.Series([0.1, 0.2, 7.5])
    found = computed(view, list(xs), {"amount": 9.0})
    assert found["x_zscore_24h"] == pytest.approx((9.0 - xs.mean()) / xs.std(), rel=1e-15)
    assert found["x_zscore_1h"] == found["x_zscore_24h"]
    for few in ([], [1.0], [3.0, 3.0]):
        assert computed(view, few, {"amount": 9.0})["x_zscore_1h"] is None
    assert computed(view, list(xs), {"amount": None})["x_zscore_1h"] is None
    whole = ms.FeatureView("v", request={"amount": "int64"}, features=[wanted])
    assert computed(whole, list(xs), {"amount": 9})["x_zscore_1h"] == found["x_zscore_1h"]


def test_a_request_is_asked_for_by_the_columns_that_read_it_alone() -> None:
    wanted = group(ms.ZScore("x", request="amount"), ms.Count())
    view = ms.FeatureView("v", request={"amount": "string"}, features=[wanted["count"]])
    assert computed(view, [1.0], {"amount": "9"})["count"] == 1
    with pytest.raises(DefinitionError, match=r"request=\"amount\" of group 'g' has type string; expected a number"):
        ms.FeatureView("v", request={"amount": "string"}, features=[wanted])
    for make in (lambda: computed(wanted, [1.0]), lambda: ms.FeatureView("v", features=[wanted])):
        with pytest.raises(DefinitionError, match=r"(?s)no field of its request, which has none.*through a view"):
            make()


def test_they_are_kept_in_the_registry_and_told_apart() -> None:
    every = [
        group(ms.Ratio(ms.Sum("x", over="1h"), ms.Sum("y", over="24h"), name="r")),
        group(ms.Ratio(ms.Sum("x", over="1h"), ms.Sum("y", over="30d"), name="r")),
        group(ms.Difference(ms.Sum("x", over="1h"), ms.Sum("y", over="24h"), name="r")),
        group(ms.ZScore("x", request="amount", name="r")), group(ms.ZScore("x", request="other", name="r")),
    ]  # fmt: skip
    assert len({fingerprint(one) for one in every}) == len(every)
    for one in every:
        again = from_dict(to_dict(one))
        assert (again, fingerprint(again), again.columns) == (one, fingerprint(one), one.columns)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ms.Ratio(ms.Sum("x"), ms.Sum("y")), "missing a required argument: 'name'"),
        (lambda: ms.Ratio(ms.Sum("x"), ms.Sum("y"), name=None), "a name, for it has none of its own"),
        (lambda: ms.Ratio(ms.Sum("x"), "y", name="r"), "expected an aggregation"),
        (lambda: ms.Ratio(ms.Quantile("x", q=[0.1, 0.9]), ms.Sum("y"), name="r"), "(?s)one share.*one Ratio for each"),
        (lambda: ms.Ratio(ms.Sum("x", over=["1h", "24h"]), ms.Sum("y"), name="r"), "(?s)one window.*one Ratio for each"),
        (lambda: ms.Ratio(ms.Sum("x", name="s"), ms.Sum("y"), name="r"), "none, for it is no column"),
        (lambda: ms.Difference(ms.Ratio(ms.Sum("x"), ms.Sum("y"), name="q"), ms.Sum("y"), name="r"), "on-demand feature"),
        (lambda: ms.Difference(ms.ZScore("x", request="x"), ms.Sum("y"), name="r"), "not one of aggregations"),
        (lambda: group(ms.Difference(ms.Last("s"), ms.Sum("y"), name="r")), "a of difference 'r' has type string"),
        (lambda: group(ms.Ratio(ms.Sum("z"), ms.Sum("y"), name="r")), "unknown column 'z'"),
        (lambda: group(ms.Ratio(ms.Sum("x", over="7h", hop="7m"), ms.Sum("y", over="1h", hop="2m"), name="r")), "nest"),
        (lambda: ms.ZScore("x", request=None), "the name of a field of the request"),
        (lambda: group(ms.ZScore("s", request="s")), "has type string"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_when_it_is_built(make: Any, said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        make()


def test_a_large_history_gives_what_numpy_gives() -> None:
    wanted = group(ms.Ratio(ms.Max("x"), ms.Min("x"), name="r"), ms.Difference(ms.Max("x"), ms.Min("x"), name="d"))
    xs = np.random.default_rng(3).lognormal(size=300)
    assert computed(wanted, xs.tolist()) == {"r": xs.max() / xs.min(), "d": xs.max() - xs.min()}
