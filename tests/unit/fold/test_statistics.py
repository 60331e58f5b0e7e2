"""Moments, shares and rates, held to what pandas and SciPy say of the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import millstream as ms
from millstream.errors import DefinitionError
from millstream.fold import layout_of

SCHEMA = {"user_id": "int64", "x": "float64", "y": "float64", "ok": "bool", "at": "timestamp"}
USER = ms.Entity("user", keys={"user_id": "int64"})
EVENTS = ms.EventStream("events", time="at", schema=SCHEMA)
SECOND, HOUR = 1_000_000, 3_600_000_000
START = 1_767_225_600_000_000


def group(*features: Any, **given: Any) -> ms.StreamFeatureGroup:
    return ms.StreamFeatureGroup("g", entity=USER, source=EVENTS, features=list(features), **given)


def computed(group: ms.StreamFeatureGroup, events: pd.DataFrame, at: int = START + HOUR) -> dict[str, Any]:
    """The group's features of user 1 at an instant (µs), from events a second apart."""
    rows = events.assign(user_id=1, at=START + SECOND * np.arange(len(events)))
    (found,) = ms.compute(group, {EVENTS: rows}, [{"user_id": 1, "at": at}]).to_pylist()
    return {name.removeprefix("g__"): value for name, value in found.items()}


@pytest.fixture
def events() -> pd.DataFrame:
    random = np.random.default_rng(7)
    x = random.lognormal(3, 2, 500).round(2)
    return pd.DataFrame({"x": x, "y": 0.4 * x + random.normal(0, 90, 500), "ok": random.random(500) < 0.3})


def test_moments_are_those_of_pandas_and_scipy(events: pd.DataFrame) -> None:
    found = computed(
        group(
            ms.Skewness("x"), ms.Kurtosis("x"), ms.GeometricMean("x"), ms.Covariance("x", "y"), ms.Correlation("x", "y")
        ),
        events,
    )
    assert found["x_skewness"] == pytest.approx(events.x.skew(), rel=1e-12)
    assert found["x_kurtosis"] == pytest.approx(events.x.kurt(), rel=1e-12)
    assert found["x_geometric_mean"] == pytest.approx(stats.gmean(events.x), rel=1e-12)
    assert found["x_y_covariance"] == pytest.approx(events.x.cov(events.y), rel=1e-12)
    assert found["x_y_correlation"] == pytest.approx(events.x.corr(events.y), rel=1e-12)


def test_moments_lose_nothing_far_from_zero() -> None:
    far = pd.DataFrame({"x": 1e9 + np.array([0.25, 0.5, 0.75, 1.75]), "y": 1e9, "ok": True})
    found = computed(group(ms.Skewness("x"), ms.Kurtosis("x"), ms.Covariance("x", "x"), ms.Correlation("x", "y")), far)
    near = far.x - 1e9
    assert found["x_skewness"] == pytest.approx(near.skew(), rel=1e-14)
    assert found["x_kurtosis"] == pytest.approx(near.kurt(), rel=1e-14)
    assert found["x_x_covariance"] == near.var()
    assert found["x_y_correlation"] is None  # one side is constant


def test_nulls_of_either_side_leave_the_pair_out() -> None:
    nan = np.nan
    events = pd.DataFrame({"x": [1.0, 2.0, nan, 4.0, 9.0], "y": [2.0, nan, 5.0, 1.0, -np.inf], "ok": True})
    found = computed(group(ms.Covariance("x", "y"), ms.Correlation("x", "y")), events)
    assert found["x_y_covariance"] == pytest.approx(np.cov([1, 4], [2, 1])[0, 1])
    assert found["x_y_correlation"] == -1.0


@pytest.mark.parametrize(
    ("values", "skewness", "kurtosis", "mean"),
    [([], None, None, None), ([5.0, 5.0], None, None, 5.0), ([1.0, 2.0, 4.0], 0.935219529582825, None, 2.0),
     ([3.0] * 9, None, None, 3.0), ([2.0, 0.0, 8.0], 1.293342780733395, None, None), ([-1.0], None, None, None)],
)  # fmt: skip
def test_too_few_values_and_values_that_are_not_positive(
    values: list[float], skewness: float | None, kurtosis: float | None, mean: float | None
) -> None:
    events = pd.DataFrame({"x": values, "y": values, "ok": True}, dtype=object)
    found = computed(group(ms.Skewness("x"), ms.Kurtosis("x"), ms.GeometricMean("x"), ms.Covariance("x", "y")), events)
    wanted = [None if value is None else pytest.approx(value, rel=1e-12) for value in (skewness, kurtosis, mean)]
    assert [found["x_skewness"], found["x_kurtosis"], found["x_geometric_mean"]] == wanted
    assert (found["x_y_covariance"] is None) == (len(values) < 2)


@pytest.mark.parametrize(
    ("feature", "numbers"),
    [(ms.Count(), 1), (ms.Sum("x"), 3), (ms.Mean("x"), 4), (ms.Std("x"), 8), (ms.Skewness("x"), 14),
     (ms.Kurtosis("x"), 22), (ms.GeometricMean("x"), 5), (ms.Covariance("x", "y"), 11), (ms.Correlation("x", "y"), 19),
     (ms.Share(where="ok"), 2), (ms.Rate(per="1m", over="1h"), 1), (ms.Age(), 1)],
)  # fmt: skip
def test_a_tile_has_as_many_numbers_as_the_docs_say(feature: ms.Count, numbers: int) -> None:
    assert layout_of(group(feature)).n_lanes == numbers


def test_shares_rates_and_ages(events: pd.DataFrame) -> None:
    events["ok"] = events.ok.astype("boolean").mask(events.index == 3)
    wanted = group(
        ms.Share(where="ok", over="1h"), ms.Rate(per="1m", over=["1h", "24h"]), ms.Age(), ms.Age(over="1m", name="late"),
        where="x > 1",
    )  # fmt: skip
    rows = events[events.x > 1]
    found = computed(wanted, events)
    assert found["share_1h"] == int(rows.ok.fillna(False).sum()) / len(rows)
    assert (found["rate_1h"], found["rate_24h"]) == (len(rows) / 60, len(rows) / 1440)
    assert found["age"] == 3600 - rows.index[0]
    assert found["late_1m"] is None
    empty = computed(wanted, events[:0])
    assert empty.pop("user_id") == 1
    assert {name: value for name, value in empty.items() if name != "at"} == {
        "share_1h": None, "rate_1h": 0.0, "rate_24h": 0.0, "age": None, "late_1m": None,
    }  # fmt: skip


def test_a_number_out_of_range_of_either_side_is_refused() -> None:
    for x, y in ((2.0**50, 1.0), (1.0, -(2.0**50))):
        with pytest.raises(ms.MillstreamError, match=r"lies outside \+-2\*\*50"):
            computed(group(ms.Correlation("x", "y")), pd.DataFrame({"x": [x], "y": [y], "ok": True}))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ms.Rate(per="1h", over=None), "windows of a length"),
        (lambda: ms.Rate(per="0s", over="1h"), "a positive duration"),
        (lambda: ms.Share(where=None), "a condition in SQL"),
        (lambda: ms.Correlation("x", ""), "a column or an SQL expression"),
        (lambda: group(ms.Covariance("x", "ok || 'a'", name="c")), "has type string"),
        (lambda: group(ms.Covariance("x", "y + 1")), "a name, for an expression has none"),
        (lambda: group(ms.Skewness("at")), "has type timestamp"),
        (lambda: group(ms.Share(where="ok"), ms.Share(where="x > 1")), "give one of them a name"),
    ],
)
def test_what_cannot_be_meant_is_refused_when_it_is_built(make: Any, said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        make()
