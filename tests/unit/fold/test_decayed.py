"""What decays, held to pandas, to its definition in one loop, and to its oracle where half-lives are odd."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import millstream as ms
from millstream.definitions.windows import default_hop
from millstream.errors import DefinitionError
from millstream.fold import RequestRows, States, as_of, exact, fold, layout_of, merge, prepare, request_lanes, value
from millstream.fold.oracle import OracleEvent, oracle
from millstream.fold.views import Vector

USER = ms.Entity("user", keys={"user_id": "int64"})
SCHEMA = {"user_id": "int64", "x": "float64", "ok": "bool", "at": "timestamp"}
EVENTS = ms.EventStream("events", time="at", schema=SCHEMA)
SECOND, MINUTE, HOUR, DAY = 1_000_000, 60_000_000, 3_600_000_000, 86_400_000_000
START = 1_767_225_600_000_000


def group(*features: Any, **given: Any) -> ms.StreamFeatureGroup:
    return ms.StreamFeatureGroup("g", entity=USER, source=EVENTS, features=list(features), **given)


def table_of(times: np.ndarray, numbers: np.ndarray, keys: np.ndarray | None = None) -> pa.Table:
    rows = len(times)
    keys = np.ones(rows, np.int64) if keys is None else keys
    return pa.table({
        "user_id": keys, "x": pa.array(numbers, pa.float64(), from_pandas=True), "ok": pa.nulls(rows, pa.bool_()),
        "at": pa.array(times, pa.timestamp("us", "UTC")), "_arrival": times, "_partition": np.zeros(rows, np.int64),
        "_position": np.arange(rows),
    })  # fmt: skip


def computed(group: ms.StreamFeatureGroup, times: np.ndarray, numbers: np.ndarray, at: int) -> dict[str, Any]:
    """The group's features of user 1 at an instant (µs)."""
    given = table_of(times, numbers).drop_columns(["_arrival", "_partition", "_position"])
    (found,) = ms.compute(group, {EVENTS: given}, [{"user_id": 1, "at": at}]).to_pylist()
    return {name.removeprefix("g__"): value for name, value in found.items()}


def weights(times: np.ndarray, half_life: int, at: int) -> np.ndarray:
    """What events weigh, as the definition says it."""
    hop = default_hop(half_life)
    return 2.0 ** -((at // hop * hop - times // hop * hop) / half_life)


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(11)


@pytest.mark.parametrize("half_life", ["10s", "1h", "36h", "7d"])
def test_a_mean_is_that_of_pandas_whose_times_are_whole_hops(half_life: str, random: np.random.Generator) -> None:
    made = group(ms.DecayedMean("x", half_life=half_life))
    span = made.columns[0].hop
    hop = default_hop(span)
    times = START + np.sort(random.integers(0, 12 * span // hop, 200)) * hop
    numbers = random.lognormal(3, 2, 200)
    at = int(times[-1]) + 1
    known = pd.Series(numbers).ewm(halflife=pd.Timedelta(span, "us"), times=pd.to_datetime(times, unit="us"))
    assert computed(made, times, numbers, at)[f"x_decayed_mean_{half_life}"] == pytest.approx(
        known.mean().iloc[-1], rel=1e-12
    )


@pytest.mark.parametrize("half_life", ["1s", "61s", "1500ms", "7m", "45m", "100h", "9d", "3600000001us"])
def test_counts_and_sums_are_what_each_event_weighs(half_life: str, random: np.random.Generator) -> None:
    made = group(
        ms.DecayedCount(half_life=half_life, name="n"), ms.DecayedCount("x", half_life=half_life, name="nx"),
        ms.DecayedSum("x", half_life=half_life, name="total"), ms.DecayedMean("x", half_life=half_life, name="mean"),
    )  # fmt: skip
    span = made.columns[0].hop
    times = START + np.sort(random.integers(0, 10 * span, 150))
    numbers = np.where(random.random(150) < 0.2, np.nan, random.normal(0, 1e6, 150))
    for at in (int(times[70]), int(times[-1]) + 1, int(times[-1]) + 3 * span + 17):
        found = computed(made, times, numbers, at)
        before = times < at
        weigh, some = weights(times, span, at)[before], ~np.isnan(numbers[before])
        assert found[f"n_{half_life}"] == pytest.approx(weigh.sum(), rel=1e-12)
        assert found[f"nx_{half_life}"] == pytest.approx(weigh[some].sum(), rel=1e-12)
        total = (weigh * numbers[before])[some]
        assert found[f"total_{half_life}"] == pytest.approx(total.sum(), abs=1e-12 * np.abs(total).sum())
        assert found[f"mean_{half_life}"] == pytest.approx(
            total.sum() / weigh[some].sum(), abs=1e-12 * np.abs(total).sum()
        )


@pytest.mark.parametrize("half_life", ["1s", "61s", "1500ms", "1h", "61m", "7d", "3600000001us"])
def test_history_states_and_the_rule_give_the_bits_of_the_oracle(half_life: str, random: np.random.Generator) -> None:
    made = group(
        ms.DecayedCount(half_life=half_life, name="n"), ms.DecayedSum("x", half_life=half_life, name="total"),
        ms.DecayedMean("x", half_life=half_life, name="mean"),
    )  # fmt: skip
    layout, span = layout_of(made), made.columns[0].hop
    times = (
        START - 30 * span + random.integers(0, 60 * span, 120)
    )  # before a half-life of the epoch's multiples, and after
    numbers = random.choice([1e-9, 0.1, -0.1, 5e-20, 2.0**-75, 1e15, -1e15, 3.0, 0.0, np.nan], 120)
    events = [
        OracleEvent(int(t), int(t), int(t), {"x": None if np.isnan(x) else float(x)})
        for t, x in zip(times, numbers, strict=True)
    ]
    (batch,) = prepare([made], EVENTS, table_of(times, numbers))
    at = np.concatenate([random.choice(times, 30), times.max() + span * np.array([0, 1, 12, 39, 40, 41, 42, 90])])
    keys = batch.keys * len(at)
    slid = as_of(layout, batch, batch.arrivals, keys, at, at).columns
    ruled = exact(layout, batch, batch.arrivals, keys, at, at).columns
    for row, moment in enumerate(at.tolist()):
        wanted = oracle(made.columns, events, moment)
        for name, one in wanted.items():
            assert repr(None if math.isnan(slid[name][row]) else slid[name][row].item()) == repr(one), (name, row)
            assert repr(slid[name][row]) == repr(ruled[name][row])
    order = np.arange(120)
    random.shuffle(order)
    halves = [fold(layout, batch.take(order[part])) for part in (slice(0, 50), slice(50, 120))]
    merged = merge(layout, halves[1], halves[0])
    assert merged.to_bytes() == fold(layout, batch).to_bytes()
    for late in times.max() + np.array([1, span // 3, span, 17 * span, 39 * span]):
        read = value(layout, merged, np.array([late])).columns
        wanted = oracle(made.columns, events, int(late))
        assert {name: repr(read[name][0].item()) for name in wanted} == {
            name: repr(one) for name, one in wanted.items()
        }


def test_late_events_and_queries_out_of_order_change_no_bit(random: np.random.Generator) -> None:
    made = group(ms.DecayedSum("x", half_life="1m"), ms.DecayedMean("x", half_life="1h"))
    times = START + random.integers(0, 50 * MINUTE, 400)
    table = table_of(times, random.normal(0, 100, 400), random.integers(0, 3, 400))
    (batch,) = prepare([made], EVENTS, table)
    available = times + random.integers(0, 20 * MINUTE, 400)
    at = START + random.integers(0, 90 * MINUTE, 300)
    ordinal = at + random.choice([0, 0, -MINUTE, 5 * MINUTE], 300)
    keys = [batch.keys[i] for i in random.integers(0, 3, 300)]
    asked = (available, keys, ordinal, at)
    slid, ruled = (way(layout_of(made), batch, *asked).columns for way in (as_of, exact))
    ascending = as_of(layout_of(made), batch, available, keys, at, at).columns
    plain = exact(layout_of(made), batch, available, keys, at, at).columns
    for name in made.feature_names:
        assert slid[name].tobytes() == ruled[name].tobytes()
        assert ascending[name].tobytes() == plain[name].tobytes()


def test_what_is_more_than_forty_half_lives_back_weighs_nothing() -> None:
    made = group(ms.DecayedCount(half_life="1m"), ms.DecayedMean("x", half_life="1m"))
    times, numbers = np.array([START + 1]), np.array([8.0])
    last = computed(made, times, numbers, START + 41 * MINUTE - 1)
    assert last["decayed_count_1m"] == pytest.approx(2.0**-41, rel=0.02)
    assert last["x_decayed_mean_1m"] == 8.0
    gone = computed(made, times, numbers, START + 41 * MINUTE)
    assert gone == gone | {"decayed_count_1m": 0.0, "x_decayed_mean_1m": None}


def test_an_event_of_the_hop_of_the_read_weighs_one_and_one_at_the_read_nothing() -> None:
    made = group(ms.DecayedCount(half_life="1h"))
    times = START + np.array([10 * SECOND, 20 * SECOND, 30 * SECOND])
    assert computed(made, times, times * 1.0, START + 30 * SECOND)["decayed_count_1h"] == 2.0
    assert computed(made, times, times * 1.0, START + 59 * SECOND)["decayed_count_1h"] == 3.0
    assert computed(made, times, times * 1.0, START + HOUR)["decayed_count_1h"] == 1.5


def test_a_request_counts_as_one_more_event_and_what_is_asked_may_be_a_ratio() -> None:
    surge = ms.Ratio(ms.DecayedCount(half_life="1m"), ms.DecayedCount(half_life="1h"), name="surge")
    made = group(surge, ms.DecayedSum("x", half_life="1h"))
    view = ms.FeatureView("v", request={"x": "float64"}, features=[made, made.with_request(x="x", prefix="now")])
    given = table_of(START + np.array([MINUTE]), np.array([4.0])).drop_columns(["_arrival", "_partition", "_position"])
    asked = [{"user_id": 1, "at": START + HOUR + MINUTE, "x": 5.0}]
    (found,) = ms.compute(view, {EVENTS: given}, asked).to_pylist()
    assert found["g__x_decayed_sum_1h"] == 2.0
    assert found["now__g__x_decayed_sum_1h"] == 7.0
    assert found["g__surge"] == pytest.approx(0.0, abs=1e-12)
    assert found["now__g__surge"] == pytest.approx(1.0 / 1.5)


@pytest.mark.parametrize(
    ("made", "lanes"),
    [(ms.DecayedCount(half_life="1h"), 3), (ms.DecayedSum("x", half_life="1h"), 3), (ms.DecayedMean("x", half_life="1h"), 6)],
)  # fmt: skip
def test_a_tile_has_as_many_numbers_as_documented_and_a_key_few_tiles(made: Any, lanes: int) -> None:
    layout = layout_of(group(made))
    assert layout.n_lanes == lanes
    times = START + np.arange(400) * (HOUR // 4)
    (batch,) = prepare([group(made)], EVENTS, table_of(times, np.ones(400)))
    states = fold(layout, batch)
    assert 40 <= states.data[2] <= 43
    assert len(states.to_bytes()[0]) <= layout.state_bytes_max


def test_numbers_beyond_the_range_of_sums_are_refused_and_nulls_are_skipped() -> None:
    made = group(ms.DecayedSum("x", half_life="1h"))
    (batch,) = prepare([made], EVENTS, table_of(START + np.arange(3), np.array([2.0**50, np.nan, np.inf])))
    assert [row for row, _ in batch.dead] == [0]
    states = States(*fold(layout_of(made), batch).__dict__.values())
    assert value(layout_of(made), states, np.array([START + HOUR])).columns["x_decayed_sum_1h"].tolist() == [0.0]


def test_columns_are_named_after_the_half_life_as_it_is_written() -> None:
    made = group(
        ms.DecayedCount(half_life="60m"), ms.DecayedCount("x", half_life="1h"), ms.DecayedSum("x", half_life="1h"),
        ms.DecayedMean("x * 2", half_life="1d", name="double", where="ok"),
    )  # fmt: skip
    names = ("decayed_count_60m", "x_decayed_count_1h", "x_decayed_sum_1h", "double_1d")
    assert made.feature_names == names
    assert set(made.schema_of_features.values()) == {"float64"}


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: ms.DecayedSum("x", half_life="0s"), "a second or longer"),
        (lambda: ms.DecayedSum("x", half_life="999ms"), "a second or longer"),
        (lambda: ms.DecayedSum("x", half_life="-1h"), "half_life was given '-1h'"),
        (lambda: ms.DecayedSum("x", half_life=60), "half_life was given 60"),
        (lambda: ms.DecayedSum("x", half_life=None), "half_life was given None"),
        (lambda: ms.DecayedSum("x", half_life=["1h", "1d"]), "half_life was given"),
        (lambda: ms.DecayedSum("x"), "half_life"),
        (lambda: ms.DecayedSum(half_life="1h"), 'write ms.DecayedSum("amount", half_life="1h")'),
        (lambda: ms.DecayedCount(half_life="1h", over="24h"), 'write ms.DecayedCount(half_life="1h")'),
        (lambda: ms.DecayedMean("x", half_life="1h", over=["1h"]), 'write ms.DecayedMean("amount", half_life="1h")'),
        (lambda: ms.DecayedSum("x", half_life="1h", hop="1m"), "hop was given '1m'"),
        (lambda: ms.DecayedSum("x", half_life="1h", delay="1m"), "delay was given '1m'"),
        (lambda: group(ms.DecayedSum("x * 2", half_life="1h")), "a name, for an expression has none"),
        (lambda: group(ms.DecayedSum("at", half_life="1h")), "a number"),
        (lambda: group(ms.Count(over="24h"), ms.DecayedSum("x", half_life="10m")), "half_life was given '10m'"),
        (lambda: group(ms.DecayedSum("x", half_life="7m"), ms.DecayedSum("x", half_life="10m")), "half_life was given '10m'"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused_with_what_to_write(build: Any, said: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        build()
    assert said in str(refused.value)
    assert "Hint: " in str(refused.value)


def test_several_groups_read_at_once_with_requests_are_what_each_is_alone() -> None:
    groups = [
        group(ms.DecayedSum("x", half_life="1h"), where="x > 1"),
        group(ms.Count()),
        group(ms.DecayedMean("x", half_life="1m")),
    ]
    at = START + MINUTE + np.arange(3)
    fields = {"user_id": [1, 1, 1], "x": [0.5, 5.0, None]}
    reads = [(groups[0], {"user_id": "user_id", "x": "x"}), None, (groups[2], {"user_id": "user_id", "x": "x"})]
    states = []
    for one in groups:
        (batch,) = prepare([one], EVENTS, table_of(START + np.arange(4) * SECOND, np.array([1.0, 2.0, 3.0, np.nan])))
        states.append(fold(layout_of(one), batch))
    stored = [one.to_bytes() * 3 for one in states]
    found, _ = Vector([layout_of(one) for one in groups]).read(stored, at, None, RequestRows(reads).added(fields, at))
    given = {"user_id": pa.array(fields["user_id"], pa.int64()), "x": pa.array(fields["x"], pa.float64())}
    for i in (0, 2):
        added = request_lanes(groups[i], reads[i][1], given, at)
        alone = value(layout_of(groups[i]), States.from_bytes(stored[i]), at, None, added).columns
        assert {name: one.tolist() for name, one in alone.items()} == {
            name: one.tolist() for name, one in found[i].items()
        }
    assert len(set(found[0]["x_decayed_sum_1h"].tolist())) == 2


@pytest.mark.parametrize("half_life", ["1h", "7d", "86399s"])
def test_an_instant_alone_gives_the_bits_that_it_gives_among_many(half_life: str, random: np.random.Generator) -> None:
    some = group(
        ms.DecayedSum("x", half_life=half_life),
        ms.DecayedMean("x", half_life=half_life),
        ms.DecayedMean("x", half_life=half_life, where="ok", name="of_none"),
    )
    layout, times = layout_of(some), np.sort(START + random.integers(0, 40 * HOUR, 50))
    (prepared,) = prepare([some], EVENTS, table_of(times, random.normal(0, 100, 50)))
    states = fold(layout, prepared)
    at = times[-1] + random.integers(0, 3 * DAY, 30)
    many = value(layout, states.take(np.zeros(30, int)), at).columns
    for row, instant in enumerate(at.tolist()):
        alone = value(layout, states, np.array([instant])).columns
        assert {name: column.tobytes() for name, column in alone.items()} == {
            name: column[row : row + 1].tobytes() for name, column in many.items()
        }
    total, _, of_none = many.values()
    assert np.isfinite(total).all() and np.isnan(of_none).all()
