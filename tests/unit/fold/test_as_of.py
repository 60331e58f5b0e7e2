"""History that becomes available late and in any order: windows slide to what the rule and the states give."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.properties.effort import examples
from tests.properties.worlds import (
    BASE,
    DAY,
    ENTITY,
    HOUR,
    MINUTE,
    SECOND,
    Event,
    event_lists,
    group_of,
    groups,
    prepared,
)

from millstream.fold import as_of, encode_key, exact, layout_of

WIDE = group_of((("1m", "0s", "_0"), ("1h", "1m", "_1"), ("24h", "0s", "_2"), (None, "1h", "_3")), True)
HOURLY = group_of((("1h", "0s", ""),), False)
many = settings(
    max_examples=examples(80), deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
delays = st.lists(st.sampled_from([0, 0, 1, SECOND, MINUTE, HOUR, DAY, 9 * DAY, 45 * DAY]), min_size=40, max_size=40)
gaps = st.sampled_from([0, 1, SECOND, MINUTE, HOUR, DAY, 31 * DAY])
asks = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 39), gaps), min_size=1, max_size=12)


def read(group, events, available, keys, ordinal, at, **options):
    """The columns, to the last bit, by `as_of` and by the rule, for events available as listed."""
    batch = prepared(group, events)
    arguments = (
        layout_of(group), batch, np.array(available, np.int64)[batch.positions],
        [encode_key(ENTITY.keys, [k]) for k in keys], np.array(ordinal, np.int64), np.array(at, np.int64),
    )  # fmt: skip
    found, wanted = as_of(*arguments, **options).columns, exact(*arguments).columns
    return {k: repr(v.tolist()) for k, v in found.items()}, {k: repr(v.tolist()) for k, v in wanted.items()}


@many
@given(groups, event_lists(), delays, asks, st.booleans())
def test_late_history_slides_and_sweeps_to_the_rule(group, events, late, asked, sweep):
    available = [e.arrival + delay for e, delay in zip(events, late, strict=False)]
    at = [(available[n % len(available)] if available else 0) + gap for _, n, gap in asked]
    found, wanted = read(group, events, available, [k for k, _, _ in asked], at, at, sweep=sweep)
    assert found == wanted


@many
@given(groups, st.permutations(range(40)), event_lists(), asks, st.data())
def test_windows_slide_over_events_numbered_in_any_order(group, ranks, events, asked, data):
    """As a recomputation by log position asks: availability and ordinals are ranks, of which several may be equal."""
    ordinal = sorted(data.draw(st.lists(st.integers(-1, 20), min_size=len(asked), max_size=len(asked))))
    at = sorted((events[n % len(events)].time if events else 0) + gap for _, n, gap in asked)
    available = [rank // 2 for rank in ranks[: len(events)]]
    found, wanted = read(group, events, available, [k for k, _, _ in asked], ordinal, at)
    assert found == wanted


@pytest.mark.parametrize("values", ["random", "falling", "rising", "equal"])
@pytest.mark.parametrize("order", ["shuffled", "newest first", "a little late", "day by day, backwards"])
def test_long_histories_slide_to_the_rule(values, order):
    rng = np.random.default_rng(5)
    times = np.sort(rng.integers(0, 3 * DAY // MINUTE, 1_500)) * MINUTE + BASE
    numbers = {
        "random": rng.integers(0, 200, 1_500) / 4, "falling": -np.arange(1_500.0), "rising": np.arange(1_500.0),
        "equal": np.ones(1_500),
    }[values]  # fmt: skip
    available = {
        "shuffled": rng.permutation(times), "newest first": 2 * BASE + 3 * DAY - times,
        "a little late": times + rng.integers(0, HOUR, 1_500), "day by day, backwards": times - 2 * (times // DAY * DAY),
    }[order]  # fmt: skip
    events = [
        Event(0, int(t), int(t), float(x), float(i % 5), "ab"[i % 2], i % 7 > 0)
        for i, (t, x) in enumerate(zip(times, numbers, strict=True))
    ]
    at = np.sort(rng.integers(0, 4 * DAY, 400)) + BASE
    ordinal = np.sort(rng.choice(available, 400)) + rng.integers(0, 2)
    found, wanted = read(WIDE, events, available, [0] * 400, ordinal, at)
    assert found == wanted


def test_an_event_known_after_it_left_the_window_never_counts():
    events = [
        Event(0, BASE, BASE, 5.0, 1.0, "old", True),
        Event(0, BASE + 3 * HOUR, BASE + 3 * HOUR, 1.0, 2.0, "new", True),
    ]
    for sweep in (False, True):
        at = [BASE + MINUTE, BASE + 2 * HOUR, BASE + 2 * HOUR + 1, BASE + 3 * HOUR + 1, BASE + 5 * HOUR]
        found, wanted = read(HOURLY, events, [BASE + 2 * HOUR, BASE + 3 * HOUR], [0] * 5, at, at, sweep=sweep)
        assert found == wanted
        assert (found["n_1h"], found["max_1h"]) == (
            repr([0.0, 0.0, 0.0, 1.0, 0.0]),
            repr([math.nan] * 3 + [1.0, math.nan]),
        )


def test_late_history_is_read_at_moments_that_a_state_no_longer_tells_apart():
    """Only a sliding window can answer this, so it shows that late keys slide."""
    events = [Event(0, BASE + i * SECOND, BASE + HOUR - i, 1.0, None, "a", True) for i in range(60)]
    at = [BASE + 40 * SECOND, BASE + 30 * SECOND]
    available = [e.arrival for e in events]
    found, wanted = read(HOURLY, events, available, [0, 0], [BASE + HOUR] * 2, at)
    swept, _ = read(HOURLY, events, available, [0, 0], [BASE + HOUR] * 2, at, sweep=True)
    assert found == wanted != swept
    assert found["n_1h"] == repr([40.0, 30.0])


def test_a_later_ordinal_may_ask_for_an_earlier_moment():
    events = [Event(0, BASE + i * MINUTE, BASE + 10 * MINUTE - i, float(i), 1.0, "a", True) for i in range(4)]
    at = [BASE + 20 * MINUTE, BASE + 10 * MINUTE]
    found, wanted = read(HOURLY, events, [e.arrival for e in events], [0, 0], [BASE + HOUR, BASE + 2 * HOUR], at)
    assert found == wanted
