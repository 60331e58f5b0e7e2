"""A buffer of few values is the sorted list of them, and windows that come to hold more go on by other means."""

import numpy as np
import pyarrow as pa
import pytest

from millstream import DistinctCount, Entity, EventStream, LastK, Median, Quantile, Std, StreamFeatureGroup, Sum
from millstream.fold import as_of, exact, layout_of, prepare
from millstream.fold.few_values import FEW, holds, put_in, take_out

SECOND = 1_000_000
USER = Entity("user", keys={"user": "int64"})
EVENTS = EventStream("events", time="at", schema={"user": "int64", "x": "float64", "at": "timestamp"})


def test_a_buffer_is_a_sorted_list():
    rng = np.random.default_rng(1)
    values, held = np.empty(FEW, np.int64), list[int]()
    for value in rng.integers(-9, 9, 600).tolist():
        if len(held) < FEW and (len(held) < 3 or rng.random() < 0.55):
            assert put_in(values, len(held), value) == sum(other <= value for other in held)
            held = sorted([*held, value])
        else:
            out = held[int(rng.integers(0, len(held)))]
            assert take_out(values, len(held), out) == held.index(out)
            held.remove(out)
        assert values[: len(held)].tolist() == held
        assert [holds(values, len(held), one) for one in range(-10, 10)] == [one in held for one in range(-10, 10)]


@pytest.mark.parametrize("most", [FEW - 1, FEW, FEW + 1, 3 * FEW])
@pytest.mark.parametrize("different", [5, 100_000])
def test_a_window_that_comes_to_hold_more_than_few_gives_what_the_rule_says(most, different):
    """Every event is asked about: many in the middle of an hour, few before and after."""
    rng = np.random.default_rng(most)
    seconds = np.sort(np.concatenate([rng.integers(0, 3_600, 40), rng.choice(1_000, most, replace=False) + 1_200]))
    rows, at = len(seconds), (seconds + 1_600_000_000) * SECOND
    numbers = rng.integers(0, different, rows) * 0.25
    table = pa.table({
        "user": np.zeros(rows, np.int64), "at": pa.array(at, pa.timestamp("us", "UTC")),
        "x": pa.array(numbers, mask=rng.random(rows) < 0.05),
        "_partition": np.zeros(rows, np.int32), "_position": np.arange(rows), "_arrival": at,
    })  # fmt: skip
    features = [
        DistinctCount("x", over="1000s", hop="1s"), Median("x", over="1000s", hop="1s"), LastK("x", 5, over="1000s", hop="1s"),
        Quantile("x", q=[0.1], over="1000s", hop="1s"), Std("x", over="20 events"), Sum("x", over="20 events"),
    ]  # fmt: skip
    group = StreamFeatureGroup("group", entity=USER, source=EVENTS, features=features)
    (prepared,) = prepare([group], EVENTS, table)
    keys = [prepared.keys[code] for code in prepared.codes]
    found, expected = (
        reading(layout_of(group), prepared, prepared.arrivals, keys, at, at).columns for reading in (as_of, exact)
    )
    for name, column in found.items():
        assert repr(column.tolist()) == repr(expected[name].tolist()), name
