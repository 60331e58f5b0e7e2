"""Windows that slide along a key's events hold what the rule itself says, however events arrive and queries are asked."""

import numpy as np
import pyarrow as pa
import pytest

from millstream import (
    By,
    DistinctCount,
    Entity,
    Entropy,
    EventStream,
    FirstK,
    Lag,
    LastDistinctK,
    LastK,
    MaxK,
    MinK,
    Quantile,
    Session,
    StreamFeatureGroup,
    Sum,
    TopK,
)
from millstream.fold import as_of, exact, layout_of, prepare

SECOND = 1_000_000
USER = Entity("user", keys={"user": "int64"})
EVENTS = EventStream("events", time="at", schema={"user": "int64", "x": "float64", "n": "int64", "at": "timestamp"})


def _group(over):
    features = [
        DistinctCount("n", over=over), Quantile("x", q=[0.1, 0.5, 1.0], over=over), LastK("x", 5, over=over),
        FirstK("n", 3, over=over), MaxK("x", 70, over=over), MinK("x", 2, over=over), Lag("x", 2, over=over),
        LastDistinctK("n", 4, over=over), TopK("n", 3, over=over), Entropy("n", over=over), By("n", Sum("x"), over=over),
    ]  # fmt: skip
    return StreamFeatureGroup("group", entity=USER, source=EVENTS, features=features)


GROUPS = [_group(over) for over in ("20m", "30 events", "400 events within 20m", Session(gap="5s", late="2h"))]


def _events(rng, rows, values, late):
    """Events of two users in an hour, some of whose values are null, in the order of their times."""
    times = np.sort(rng.integers(0, 3_600, rows)) * SECOND + 1_600_000_000 * SECOND
    delays = np.where(rng.random(rows) < late, rng.integers(0, 1_800, rows), 0) * SECOND
    numbers = rng.integers(0, values, rows)
    return pa.table({
        "user": rng.integers(0, 2, rows), "at": pa.array(times, pa.timestamp("us", "UTC")),
        "x": pa.array(numbers * 0.25, mask=rng.random(rows) < 0.1), "n": pa.array(numbers, mask=rng.random(rows) < 0.1),
        "_partition": np.zeros(rows, np.int32), "_position": np.arange(rows), "_arrival": times + delays,
    })  # fmt: skip


@pytest.mark.parametrize("late", [0, 0.3])
@pytest.mark.parametrize(("rows", "values"), [(50, 5), (2_500, 10), (2_500, 100_000)])
def test_what_a_window_holds_is_what_the_rule_says(rows, values, late):
    rng = np.random.default_rng(rows + values)
    events = _events(rng, rows, values, late)
    instants = events["at"].cast(pa.int64()).to_numpy()
    at = rng.choice(instants, 80) + rng.integers(0, 2, 80) * rng.integers(0, 2_000, 80) * SECOND
    for ordinal in (at, at + rng.integers(0, 900, 80) * SECOND):
        for group in GROUPS:
            (prepared,) = prepare([group], EVENTS, events)
            asked = [prepared.keys[i] if i < 2 else b"unknown" for i in rng.integers(0, 3, 80)]
            found, expected = (
                reading(layout_of(group), prepared, prepared.arrivals, asked, ordinal, at).columns
                for reading in (as_of, exact)
            )
            for name, column in found.items():
                assert repr(column.tolist()) == repr(expected[name].tolist()), name
