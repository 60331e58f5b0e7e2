"""Windows of events and sessions beside pandas, and what a state keeps of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from tests.properties.worlds import DAY, ENTITY, HOUR, MINUTE, SECOND, STREAM, Event, oracle_events, prepared, same

import millstream as ms
from millstream.fold import States, fold, layout_of, merge, value

T0 = 1_767_225_600_000_000


def group(*features: Any) -> Any:
    """A group of the features."""
    return ms.StreamFeatureGroup("g", entity=ENTITY, source=STREAM, features=features)


def event(time: int, x: float = 1.0, arrival: int | None = None) -> Event:
    """An event of the first key."""
    return Event(0, time, time if arrival is None else arrival, x, None, "a", True)


def history(n: int, seed: int = 5) -> pd.DataFrame:
    """Events of a few users at different instants."""
    rng = np.random.default_rng(seed)
    times = T0 + np.cumsum(rng.integers(1, 20 * MINUTE, n))
    return pd.DataFrame({"k": rng.integers(0, 5, n), "x": rng.normal(size=n).round(3), "at": times})


def computed(wanted: Any, frame: pd.DataFrame) -> pd.DataFrame:
    """The features just after each event."""
    stamps = pa.array(frame["at"].to_numpy(), pa.timestamp("us", "UTC"))
    n = len(frame)
    given = pa.table({"k": frame["k"], "x": frame["x"], "y": pa.nulls(n, pa.float64()), "s": pa.nulls(n, pa.string()),
                      "ok": pa.nulls(n, pa.bool_()), "n": pa.nulls(n, pa.int64()), "at": stamps})  # fmt: skip
    rows = pa.table({"k": frame["k"], "at": pa.array(frame["at"].to_numpy() + 1, pa.timestamp("us", "UTC"))})
    return ms.compute(wanted, {STREAM: given}, rows).to_pandas()


@pytest.mark.parametrize("rows", [1, 7, 20])
def test_windows_of_events_are_pandas_rolling(rows: int) -> None:
    frame, over = history(1_000), f"{rows} event{'s' if rows > 1 else ''}"
    found = computed(
        group(ms.Sum("x", over=over), ms.Std("x", over=over), ms.Max("x", over=over), ms.Median("x", over=over)), frame
    )
    rolling = frame.groupby("k")["x"].rolling(rows, min_periods=1)
    for name, wanted in {
        "sum": rolling.sum(),
        "std": rolling.std(),
        "max": rolling.max(),
        "median": rolling.median(),
    }.items():
        column = found[f"g__x_{name}_{over.replace(' ', '_')}"].to_numpy()
        np.testing.assert_allclose(column, wanted.droplevel(0).sort_index().to_numpy(), rtol=1e-9, atol=1e-12)


def test_sessions_are_pandas_groups_of_gaps() -> None:
    frame = history(1_000)
    found = computed(group(ms.Sum("x", over=ms.Session(gap="30m")), ms.Count(over=ms.Session(gap="30m"))), frame)
    session = frame.groupby("k")["at"].diff().gt(30 * MINUTE).groupby(frame["k"]).cumsum()
    wanted = frame.groupby([frame["k"], session])["x"]
    np.testing.assert_allclose(found["g__x_sum_session_30m"], wanted.cumsum(), rtol=1e-9, atol=1e-12)
    assert found["g__count_session_30m"].tolist() == (wanted.cumcount() + 1).tolist()


def test_rows_of_one_instant_are_never_split() -> None:
    wanted = group(ms.Count(over=["1 event", "2 events", "3 events", "4 events"]))
    events = [event(T0), event(T0 + SECOND), event(T0 + SECOND), event(T0 + SECOND)]
    states = fold(layout_of(wanted), prepared(wanted, events))
    found = value(layout_of(wanted), states, np.array([T0 + 2 * SECOND])).columns
    assert [int(found[name][0]) for name in wanted.feature_names] == [3, 3, 3, 4]


def test_exactly_the_gap_is_one_session_and_a_microsecond_more_is_none() -> None:
    wanted = group(ms.Count(over=ms.Session(gap="30m")))
    events = [event(T0), event(T0 + 30 * MINUTE)]
    states = fold(layout_of(wanted), prepared(wanted, events))
    at = np.array([T0 + 60 * MINUTE, T0 + 60 * MINUTE + 1])
    twice = States.from_bytes(states.to_bytes() * 2)
    assert value(layout_of(wanted), twice, at).columns["count_session_30m"].tolist() == [2, 0]


def test_a_row_that_comes_too_late_for_a_session_is_counted_as_skipped() -> None:
    wanted = group(ms.Count(over=[ms.Session(gap="30m", late="10s"), None]))
    found = prepared(wanted, [event(T0), event(T0, arrival=T0 + 10 * SECOND), event(T0, arrival=T0 + 11 * SECOND)])
    assert found.skipped == {"too_late_for_session": 1}
    columns = value(layout_of(wanted), fold(layout_of(wanted), found), np.array([T0 + MINUTE])).columns
    assert (columns["count_session_30m"][0], columns["count"][0]) == (2, 3)


def test_the_head_of_64_instants_does_not_touch_windows_of_events() -> None:
    wanted = group(ms.Count(over="500 events"), ms.Sum("x", over="1000 events"))
    events = [event(T0 + i, float(i)) for i in range(2_000)]
    whole = fold(layout_of(wanted), prepared(wanted, events))
    halves = [fold(layout_of(wanted), prepared(wanted, events[part::2])) for part in (0, 1)]
    assert merge(layout_of(wanted), *halves).to_bytes() == whole.to_bytes()
    found = value(layout_of(wanted), whole, np.array([T0 + 2_000])).columns
    assert found["count_500_events"][0] == 500 and found["x_sum_1000_events"][0] == sum(range(1_000, 2_000))


@pytest.mark.parametrize("seed", range(20))
def test_what_is_let_go_of_reaches_no_read_while_rows_come_in_order_of_arrival(seed: int) -> None:
    """A state that lets go of sessions after each batch reads as the oracle, and is as the fold of all, let go of at once."""
    rng = np.random.default_rng(seed)
    wanted = group(
        ms.Count(over=[ms.Session(gap="10m", late="1h"), "3 events"]),
        ms.Sum("x", over=ms.Session(gap="10m", late="1h")),
    )
    layout, now, events = layout_of(wanted), T0, []
    for _ in range(120):
        now += int(
            rng.choice(
                [0, SECOND, MINUTE, 9 * MINUTE, 11 * MINUTE, 2 * HOUR, 3 * DAY], p=[0.2, 0.2, 0.2, 0.2, 0.1, 0.05, 0.05]
            )
        )
        late = int(rng.choice([0, SECOND, 10 * MINUTE, HOUR, HOUR + 1, DAY]))
        events.append(event(now - late, float(rng.integers(1, 9)), now))
    state, done = [b""], 0
    while done < len(events):
        some = events[done : done + int(rng.integers(1, 9))]
        done += len(some)
        state = merge(layout, States.from_bytes(state), fold(layout, prepared(wanted, some)), whole=True).to_bytes()
        at = events[done - 1].arrival + 1
        found = value(layout, States.from_bytes(state), np.array([at])).columns
        assert same(found, 0, oracle(wanted, events[:done], at)) == []
    nothing = States.from_bytes([b""])
    assert merge(layout, nothing, fold(layout, prepared(wanted, events)), whole=True).to_bytes() == state
    assert len(state[0]) < 8 * 400


def oracle(wanted: Any, events: list[Event], at: int) -> dict[str, Any]:
    """What the definition says."""
    from millstream.fold.oracle import oracle as rule

    return rule(wanted.columns, oracle_events(events, 0), at)
