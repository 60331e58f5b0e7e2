"""What a plan says of the size of a state is what states have."""

from pathlib import Path

import numpy as np
import pyarrow as pa

import millstream as ms
from millstream.clock import FileClock, to_micros
from millstream.fold import layout_of
from millstream.testing.shards import pairs

DAY = 86_400_000_000
user = ms.Entity("user", keys={"user_id": "int64"})
s = ms.EventStream("s", time="at", schema={"user_id": "int64", "x": "float64", "at": "timestamp"})
g = ms.StreamFeatureGroup(
    "g", entity=user, source=s,
    features=[ms.Count(over=["1h", "24h", "7d"]), ms.Mean("x", over="30d"), ms.Max("x")],
)  # fmt: skip


def test_the_expected_size_of_a_state_is_that_of_live_states_at_its_rate(tmp_path: Path) -> None:
    rate, days, keys = 10, 40, 60
    now = to_micros("2026-03-01T00:00:00Z")
    (tmp_path / ".millstream").mkdir()
    FileClock(tmp_path / ".millstream" / "clock.json").set(now, rate=0.0)
    project = ms.Project(tmp_path, create=True)
    project.apply(ms.FeatureView("v", features=[g]))
    generator = np.random.default_rng(1)
    at = np.sort(generator.integers(now - days * DAY, now, rate * days * keys))
    rows = {
        "user_id": generator.integers(0, keys, len(at)),
        "x": generator.normal(size=len(at)),
        "at": pa.array(at, pa.timestamp("us", "UTC")),
    }
    project.load(s, pa.table(rows))
    project.drain()
    version = project.parts.registry.group("g")
    sizes = [
        len(state) for shard in range(version.shards) for _, state in pairs(project.parts.online, version.states, shard)
    ]
    layout = layout_of(g)
    assert 0.7 < layout.state_bytes_at(rate) / np.mean(sizes) < 1.4
    assert max(sizes) <= layout.state_bytes_max


def test_the_expected_size_grows_with_the_rate_up_to_the_worst_case() -> None:
    layout = layout_of(g)
    sizes = [layout.state_bytes_at(rate) for rate in (0, 0.1, 1, 10, 1_000, 1e9)]
    assert sizes == sorted(sizes)
    assert sizes[0] < 500
    assert sizes[-1] <= layout.state_bytes_max


def test_a_plan_says_what_is_expected_beside_the_worst_case(tmp_path: Path) -> None:
    ninety = ms.StreamFeatureGroup("n", entity=user, source=s, features=[ms.Count(over=["1m", "90d"])])
    text = ms.Project(tmp_path, create=True).plan(ms.FeatureView("n", features=[ninety])).text()
    layout = layout_of(ninety)
    expected = (
        f"about {layout.state_bytes_at(10):,} bytes per key at 10 events a day, at most {layout.state_bytes_max:,}"
    )
    assert expected in text
