"""From validated events to lanes: what counts, what is skipped, and what is refused with its reason."""

from __future__ import annotations

from datetime import date

import numpy as np
import pyarrow as pa
import pytest

import millstream as ms
from millstream.fold import encode_key, fold, layout_of, prepare, value

STREAM = ms.EventStream("pay", time="at", schema={
    "user_id": "int64", "amount": "float64", "country": "string", "note": "string", "at": "timestamp"})  # fmt: skip
DATED = ms.EventStream("dated", time="at", schema={**STREAM.schema, "born": "timestamp"})
USER = ms.Entity("user", keys={"user_id": "int64"})
HOUR = 3_600_000_000


def group(**more):
    defaults = {"entity": USER, "features": [ms.Count(over="1h"), ms.Sum("amount", over="1h")]}
    return ms.StreamFeatureGroup("g", source=STREAM, **(defaults | more))


def table(amounts, users=None, notes=None, times=None, arrivals=None, countries=None):
    n = len(amounts)
    times = np.array(times if times is not None else [10 * HOUR] * n, np.int64)
    return pa.table({
        "user_id": pa.array(users or [1] * n, pa.int64()), "amount": pa.array(amounts, pa.float64()),
        "country": pa.array(countries or ["DE"] * n, pa.string()), "note": pa.array(notes or ["1"] * n, pa.string()),
        "at": pa.array(times, pa.timestamp("us", "UTC")),
        "_arrival": np.array(arrivals if arrivals is not None else times, np.int64),
        "_partition": np.zeros(n, np.int64), "_position": np.arange(n),
    })  # fmt: skip


def read(definition, prepared, at=10 * HOUR + 1):
    states = fold(layout_of(definition), prepared)
    return {k: v.tolist() for k, v in value(layout_of(definition), states, np.full(len(states), at)).columns.items()}


def test_filters_derived_columns_and_conditions_are_sql():
    definition = group(
        where="amount > 0", derive={"euros": "amount / 100", "big": "euros > 5"},
        features=[ms.Sum("euros", over="1h"), ms.Count(name="large", where="big", over="1h"),
                  ms.Last("upper(country)", name="land", over="1h")],
    )  # fmt: skip
    (found,) = prepare([definition], STREAM, table([1000.0, -5.0, 250.0, None], countries=["de", "fr", "at", "ch"]))
    assert found.skipped == {"filtered": 2}
    assert read(definition, found) == {"euros_sum_1h": [12.5], "large_1h": [1.0], "land_1h": ["DE"]}


def test_a_null_key_skips_the_group_and_is_counted():
    (found,) = prepare([group()], STREAM, table([1.0, 2.0], users=[None, 7]))
    assert found.keys == [encode_key(USER.keys, [7])]
    assert found.skipped == {"null_key": 1}


@pytest.mark.parametrize(
    ("expression", "guilty"),
    [("10 // amount::int", [0]), ("10 % amount::int", [0]), ("amount + epoch(strptime(note, '%Y'))", [2]),
     ("chr(amount::int - 2)", [0, 1])],
)  # fmt: skip
def test_a_row_on_which_an_expression_fails_is_dead_alone_whatever_sql_calls_the_failure(expression, guilty):
    definition = group(where=f"({expression}) is not null")
    found, other = prepare([definition, group()], STREAM, table([0.0, 1.0, 2.0, 3.0], notes=["1", "2", "x", "4"]))
    assert [row for row, _ in found.dead] == guilty
    assert all("fails on this row" in reason for _, reason in found.dead)
    assert len(found.times) == 4 - len(guilty)
    assert (len(other.times), other.dead) == (4, [])


@pytest.mark.parametrize("wide", ["user_id::hugeint * 4", "user_id::ubigint * 4", "user_id::uhugeint * 4"])
def test_a_computed_key_beyond_int64_is_dead_alone(wide):
    definition = group(derive={"wide": wide}, keys={"user_id": "wide"})
    (found,) = prepare([definition], STREAM, table([1.0] * 4, users=[1, 2**61, None, 2**61 - 1]))
    assert [(row, "64 bits" in reason) for row, reason in found.dead] == [(1, True)]
    assert sorted(found.keys) == [encode_key(USER.keys, [n]) for n in (4, 2**63 - 4)]
    assert found.skipped == {"null_key": 1}


def test_of_a_pair_of_keys_one_may_be_beyond_int64_or_null():
    pair = ms.Entity("pair", keys={"user_id": "int64", "country": "string"})
    definition = group(entity=pair, derive={"wide": "user_id::hugeint * 4"}, keys={"user_id": "wide"})
    (found,) = prepare([definition], STREAM, table([1.0] * 4, users=[1, 2**61, None, 2], countries=[*"abc", None]))
    assert [(row, "64 bits" in reason) for row, reason in found.dead] == [(1, True)]
    assert (found.keys, found.skipped) == ([encode_key(pair.keys, [4, "a"])], {"null_key": 2})


def test_a_date_that_sql_makes_is_a_date():
    definition = ms.StreamFeatureGroup("g", entity=USER, source=DATED, features=[ms.Max("born::date", name="day")])
    rows = table([1.0] * 2).append_column("born", pa.array([25 * HOUR, None], pa.timestamp("us", "UTC")))
    (found,) = prepare([definition], DATED, rows)
    assert read(definition, found) == {"day": [date(1970, 1, 2)]}


def test_too_late_is_decided_by_the_event_and_its_arrival_alone():
    times, arrivals = [10 * HOUR, 10 * HOUR, 10 * HOUR], [11 * HOUR + 59_999_999, 11 * HOUR + 60_000_000, 40 * HOUR]
    (found,) = prepare([group()], STREAM, table([1.0] * 3, times=times, arrivals=arrivals))
    assert (len(found.times), found.skipped) == (1, {"too_late": 2})
    (kept,) = prepare([group(features=[ms.Count()])], STREAM, table([1.0] * 3, times=times, arrivals=arrivals))
    assert len(kept.times) == 3


@pytest.mark.parametrize("position", [0, 3, 6])
def test_a_row_on_which_sql_fails_is_refused_alone(position):
    notes = [str(i) for i in range(7)]
    notes[position] = "seven"
    definition = group(features=[ms.Sum("cast(note as integer)", name="total", over="1h")])
    (found,) = prepare([definition], STREAM, table([1.0] * 7, notes=notes))
    ((row, reason),) = found.dead
    assert row == position and "CAST(note AS INT)" in reason and "'seven'" in reason
    assert read(definition, found)["total_1h"] == [21.0 - position]


def test_what_exact_sums_cannot_hold_is_refused_with_its_reason():
    (found,) = prepare([group()], STREAM, table([1.0, 2.0**50, -(2.0**51), 3.0]))
    assert [row for row, _ in found.dead] == [1, 2]
    assert "2**50" in found.dead[0][1]
    assert read(group(), found)["amount_sum_1h"] == [4.0]


def test_a_string_longer_than_max_bytes_is_refused_with_its_reason():
    definition = group(features=[ms.Last("country", over="1h", max_bytes=4)])
    (found,) = prepare([definition], STREAM, table([1.0] * 3, countries=["DE", "éé", "ééa"]))
    assert found.dead == [(2, "`country` is longer than 4 bytes (max_bytes of this aggregate)")]


@pytest.mark.parametrize("longest", [(7, 4), (4, 7)])
@pytest.mark.parametrize("aggregate", [ms.Last, ms.Max, ms.ArgMax, ms.Mode])
def test_features_that_keep_strings_of_as_many_lanes_each_refuse_what_is_too_long_for_them(aggregate, longest):
    by = {"by": "amount"} if aggregate is ms.ArgMax else {}
    features = [aggregate("country", over=f"{i + 1}h", max_bytes=most, **by) for i, most in enumerate(longest)]
    (found,) = prepare([group(features=features)], STREAM, table([1.0] * 3, countries=["four", "fifth", "eighteen"]))
    reason = "`country` is longer than 4 bytes (max_bytes of this aggregate)"
    assert found.dead[0] == (1, reason) and [row for row, _ in found.dead] == [1, 2]


def test_a_derived_value_that_is_not_finite_is_null_and_counted():
    definition = group(
        derive={"ratio": "1 / amount"}, features=[ms.Max("ratio", over="1h"), ms.Count("ratio", over="1h")]
    )
    (found,) = prepare([definition], STREAM, table([0.0, 4.0]))
    assert found.skipped == {"not_finite": 1}
    assert read(definition, found) == {"ratio_max_1h": [0.25], "ratio_count_1h": [1.0]}


@pytest.mark.parametrize("given", ["ratio > 10", "ln(amount) < 10", "1 / amount > 10"])
def test_a_condition_reads_null_where_a_result_is_not_finite(given):
    definition = group(derive={"ratio": "1 / amount"}, where=given, features=[ms.Count()])
    (found,) = prepare([definition], STREAM, table([0.0, 0.05]))
    assert (len(found.times), found.skipped) == (1, {"filtered": 1})


def test_groups_of_one_source_share_a_query_and_differ_in_what_they_keep():
    first, second = group(where="amount > 1"), group(where="country = 'DE'")
    one, two = prepare([first, second], STREAM, table([1.0, 2.0, 3.0], countries=["DE", "FR", "DE"]))
    assert (len(one.times), len(two.times)) == (2, 2)
    assert (read(first, one)["amount_sum_1h"], read(second, two)["amount_sum_1h"]) == ([5.0], [4.0])


def test_no_rows_prepare_to_nothing():
    (found,) = prepare([group(derive={"x": "amount * 2"}, where="x > 0")], STREAM, table([]))
    assert found.keys == [] and found.lanes.shape == (0, layout_of(group()).n_lanes)


@pytest.mark.parametrize(
    "word", ["order", "desc", "from", "case", "map", "true", "null", "false", "select", "end", "cast"]
)
def test_a_column_may_be_named_like_a_word_of_sql(word):
    stream = ms.EventStream(
        "s", time="seen", deduplicate=word, schema={word: "int64", "y": "float64", "seen": "timestamp"}
    )
    group = ms.StreamFeatureGroup(
        "g",
        entity=ms.Entity("user", keys={word: "int64"}),
        source=stream,
        derive={"twice": word},
        features=[ms.Sum(word), ms.Last(word), ms.Count(word), ms.Sum("twice"), ms.Max("twice + 1", name="more")],
    )
    found = ms.compute(
        group, {stream: [{word: 2, "seen": "2026-01-01"}] * 2}, [{word: 2, "at": "2026-01-02"}]
    ).to_pylist()
    assert list(found[0].values())[2:] == [2.0, 2.0, 1, 2.0, 3.0]


def test_a_derived_column_may_be_named_like_a_word_of_sql():
    stream = ms.EventStream("s", time="seen", schema={"k": "int64", "x": "float64", "seen": "timestamp"})
    group = ms.StreamFeatureGroup(
        "g",
        entity=ms.Entity("user", keys={"k": "int64"}),
        source=stream,
        derive={"from": "x * 2"},
        features=[ms.Sum("from")],
    )
    found = ms.compute(group, {stream: [{"k": 1, "x": 2, "seen": "2026-01-01"}]}, [{"k": 1, "at": "2026-01-02"}])
    assert found["g__from_sum"].to_pylist() == [4.0]
