"""What is kept of an event as it is: extremes, first and last values and chosen ones, of every type, held to pandas."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import millstream as ms
from millstream.errors import DefinitionError, MillstreamError

SCHEMA = {
    "user_id": "int64", "x": "float64", "n": "int64", "s": "string", "ok": "bool", "paid": "timestamp", "at": "timestamp",
}  # fmt: skip
USER = ms.Entity("user", keys={"user_id": "int64"})
EVENTS = ms.EventStream("events", time="at", schema=SCHEMA)
START = datetime(2026, 1, 1, tzinfo=UTC)
BIG = 2**53 + 1


def group(*features: Any, **given: Any) -> ms.StreamFeatureGroup:
    return ms.StreamFeatureGroup("g", entity=USER, source=EVENTS, features=list(features), **given)


def computed(features: list[Any], rows: list[dict[str, Any]], user: int = 1) -> dict[str, Any]:
    """The features of a user an hour after the first of some rows, which are a second apart unless they say when."""
    events = [{"user_id": 1, "at": START + timedelta(seconds=i), **row} for i, row in enumerate(rows)]
    for event in events:
        event.update({name: event.get(name) for name in SCHEMA})
    at = START + timedelta(hours=1)
    (found,) = ms.compute(group(*features), {EVENTS: events}, [{"user_id": user, "at": at}]).to_pylist()
    return {name.removeprefix("g__"): value for name, value in found.items() if name.startswith("g__")}


def of(name: str, *values: Any) -> list[dict[str, Any]]:
    return [{name: value} for value in values]


def test_a_value_that_is_kept_has_the_type_of_its_column() -> None:
    kinds = [ms.Min, ms.Max, ms.First, ms.Last]
    for name in ("x", "n", "s", "ok", "paid"):
        found = group(*(kind(name) for kind in kinds), ms.ArgMin(name, by="s"), ms.ArgMax(name, by="x"))
        assert set(found.schema_of_features.values()) == {SCHEMA[name]}


@pytest.mark.parametrize(
    ("name", "values", "least", "most"),
    [
        ("n", [BIG, -BIG, 2**63 - 1, -(2**63), 0], -(2**63), 2**63 - 1),
        ("n", [2**63 - 1, None], 2**63 - 1, 2**63 - 1),
        ("n", [-(2**63)], -(2**63), -(2**63)),
        ("ok", [True, None], True, True),
        ("ok", [True, False], False, True),
        ("s", ["b", "", "a\0", "a", "é", "\U0001f600", "a" * 39], "", "\U0001f600"),
        ("s", ["\uffff", "\U00010000"], "\uffff", "\U00010000"),
        ("paid", [START, START - timedelta(days=40_000)], START - timedelta(days=40_000), START),
    ],
)
def test_the_least_and_the_greatest_of_every_type_are_exact(
    name: str, values: list[Any], least: Any, most: Any
) -> None:
    assert computed([ms.Min(name), ms.Max(name)], of(name, *values)) == {f"{name}_min": least, f"{name}_max": most}


def test_the_first_and_the_last_of_every_type_are_exact() -> None:
    rows = [{"n": BIG, "ok": False, "paid": START}, {"n": -BIG, "ok": True, "paid": START + timedelta(microseconds=1)}]
    found = computed([kind(name) for name in ("n", "ok", "paid") for kind in (ms.First, ms.Last)], [*rows, {}])
    assert list(found.values()) == [value for name in ("n", "ok", "paid") for value in (rows[0][name], rows[1][name])]


def test_nothing_is_null_whatever_the_type() -> None:
    kinds = [ms.Min, ms.Max, ms.First, ms.Last]
    features = [kind(name) for name in ("n", "s", "ok", "paid") for kind in kinds]
    features += [ms.ArgMin("n", by="s"), ms.ArgMax("s", by="x"), ms.ArgMax("x", by="ok")]
    assert set(computed(features, [{}]).values()) == {None}
    assert set(computed(features, of("n", 1), user=2).values()) == {None}


def test_what_is_chosen_is_that_of_pandas() -> None:
    random = np.random.default_rng(3)
    frame = pd.DataFrame({
        "n": random.permutation(400) + BIG, "x": random.permutation(400) / 7, "s": [f"{i:03}" for i in random.permutation(400)],
        "ok": random.random(400) < 0.5, "user_id": 1, "at": START + pd.to_timedelta(np.arange(400), "s"),
    })  # fmt: skip
    frame["paid"] = frame["at"]
    pairs = [("n", "x"), ("x", "n"), ("s", "n"), ("n", "s"), ("paid", "s"), ("ok", "x"), ("s", "paid")]
    features = [kind(value, by=by) for value, by in pairs for kind in (ms.ArgMin, ms.ArgMax)]
    asked = [{"user_id": 1, "at": START + timedelta(hours=1)}]
    (found,) = ms.compute(group(*features), {EVENTS: frame}, asked).to_pylist()
    for value, by in pairs:
        ordered = frame.sort_values(by)
        assert found[f"g__{value}_{by}_arg_min"] == ordered[value].iloc[0]
        assert found[f"g__{value}_{by}_arg_max"] == ordered[value].iloc[-1]


@pytest.mark.parametrize("kind", [ms.ArgMin, ms.ArgMax])
def test_of_equals_the_latest_counts_and_then_the_larger(kind: type) -> None:
    at = START + timedelta(seconds=9)
    rows = [{"s": "c", "x": 1.0}, {"s": "b", "x": 1.0, "at": at}, {"s": "a", "x": 1.0, "at": at}]
    assert list(computed([kind("s", by="x")], rows).values()) == ["b"]
    assert list(computed([kind("s", by="x")], rows[::-1]).values()) == ["b"]


def test_an_event_without_one_of_the_two_is_not_chosen() -> None:
    rows = [{"s": "a", "x": 1.0}, {"s": None, "x": 9.0}, {"s": "c", "x": None}, {"s": "d", "x": float("inf")}]
    assert computed([ms.ArgMax("s", by="x"), ms.ArgMin("s", by="x")], rows) == {"s_x_arg_max": "a", "s_x_arg_min": "a"}


def test_a_string_beyond_its_bytes_is_refused_and_never_cut() -> None:
    for feature in (ms.Max("s"), ms.ArgMax("s", by="x"), ms.ArgMin("x", by="s")):
        with pytest.raises(MillstreamError, match=r"`s` is longer than 39 bytes"):
            computed([feature], [{"s": "a" * 40, "x": 1.0}])
    assert computed([ms.ArgMax("s", by="x")], [{"s": "a" * 40}, {"s": "b", "x": 1.0}]) == {"s_x_arg_max": "b"}


@pytest.mark.parametrize("longest", [255, 256, 257, 263, 1023, 1024])
@pytest.mark.parametrize("kind", [ms.Last, ms.Max])
def test_long_strings_come_back_whole(kind: type, longest: int) -> None:
    texts = ["".join(chr(97 + i % 26) for i in range(size)) for size in (255, 256, 300, longest) if size <= longest]
    for text in texts:
        assert list(computed([kind("s", max_bytes=longest)], of("s", text)).values()) == [text]


def test_a_whole_number_beyond_64_bits_is_refused() -> None:
    with pytest.raises(MillstreamError, match="is no whole number of 64 bits"):
        computed([ms.Max("n::hugeint * 4", name="wide")], of("n", 2**62))


def test_what_cannot_be_chosen_by_is_refused_when_it_is_built() -> None:
    with pytest.raises(DefinitionError, match="ArgMax: by was given None"):
        ms.ArgMax("s", by=None)
    with pytest.raises(DefinitionError, match="unknown column 'z'"):
        group(ms.ArgMin("s", by="z"))
    with pytest.raises(DefinitionError, match="max_bytes"):
        ms.ArgMin("s", by="x", max_bytes=2000)
    with pytest.raises(DefinitionError, match="name"):
        group(ms.ArgMax("s", by="x + 1"))


def test_what_is_no_finite_number_is_null_before_a_filter_sees_it_in_whatever_form_rows_come() -> None:
    numbers = [float("nan"), float("inf"), float("-inf"), None, 7.0, 0.0]
    plain = [{**dict.fromkeys(SCHEMA), "user_id": 1, "x": x, "at": START} for x in numbers]
    arrow = pa.table({
        **{name: pa.nulls(len(plain), pa.string() if name == "s" else pa.int64()) for name in SCHEMA},
        "user_id": [1] * len(plain), "x": pa.array(numbers, pa.float64(), from_pandas=False),
        "ok": pa.nulls(len(plain), pa.bool_()), "at": [START] * len(plain),
    })  # fmt: skip
    narrow = arrow.set_column(arrow.column_names.index("x"), "x", arrow["x"].cast(pa.float32()))
    conditions = ("x > 5", "x is null", "x < -1", "x = x")
    features = [ms.Count(name=f"n{i}", where=where) for i, where in enumerate(conditions)]
    for rows in (plain, arrow, narrow, arrow.to_pandas(), pl.from_arrow(arrow)):
        asked = [{"user_id": 1, "at": START + timedelta(hours=1)}]
        (found,) = ms.compute(
            group(*features, ms.Max("x"), where="x is null or x < 100"), {EVENTS: rows}, asked
        ).to_pylist()
        assert [found[name] for name in ("g__n0", "g__n1", "g__n2", "g__n3", "g__x_max")] == [1, 4, 0, 2, 7.0]
