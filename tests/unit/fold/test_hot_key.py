"""One key that all the events are of, with more categories than its features tell apart: held to NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import millstream as ms

HOUR, MINUTE = 3_600_000_000, 60_000_000
START = 1_767_225_600_000_000
ROWS, CATEGORIES, BOUND = 12_000, 3_000, 1_024
WINDOWS = {"1h": (HOUR, MINUTE), "24h": (24 * HOUR, 15 * MINUTE)}
EVENTS = ms.EventStream(
    "events", time="at", schema={"user_id": "int64", "c": "int64", "s": "string", "v": "float64", "at": "timestamp"}
)


def features() -> list[Any]:
    given: dict[str, Any] = {"over": list(WINDOWS), "categories": BOUND}
    return [
        ms.CountBy("s", name="counts", **given), ms.SumBy("c", "v", name="sums", **given),
        ms.TopK("s", name="top", **given), ms.Seen("s", request="s", name="seen", **given),
        ms.SinceSeen("s", request="s", name="since", **given), ms.CountBy("s", request="s", name="times", **given),
        ms.SumBy("c", "v", request="c", name="sum", **given), ms.DistinctCount("s", name="differ", over=list(WINDOWS)),
    ]  # fmt: skip


def wanted(c: Any, v: Any, at: Any, when: int, asked: int) -> dict[str, Any]:
    """The features by their windows; those of more categories than the bound are null, and the count is near."""
    found: dict[str, Any] = {}
    for window, (length, hop) in WINDOWS.items():
        mine = (at >= (when - length) // hop * hop) & (at < when)
        cs, vs = c[mine], v[mine]
        kinds, counts = np.unique(cs, return_counts=True)
        found[f"differ_{window}"] = len(kinds)
        by_text = sorted(range(len(kinds)), key=lambda i: (-counts[i], f"cat-{kinds[i]}"))[:50]
        by_number = np.lexsort((kinds, -counts))[:50]
        told = cs == asked
        values = {
            "counts": [(f"cat-{kinds[i]}", int(counts[i])) for i in by_text],
            "sums": [(int(kinds[i]), float(vs[cs == kinds[i]].sum())) for i in by_number],
            "top": [f"cat-{kinds[i]}" for i in by_text[:3]],
            "seen": bool(told.any()), "times": int(told.sum()), "sum": float(vs[told].sum()),
            "since": (when - at[mine][told].max()) / 1e6 if told.any() else None,
        }  # fmt: skip
        found |= {f"{name}_{window}": None if len(kinds) > BOUND else value for name, value in values.items()}
    return found


def test_a_hot_key_has_its_values_and_null_beyond_its_bound() -> None:
    rng = np.random.default_rng(5)
    at = np.sort(rng.integers(START, START + 48 * HOUR, ROWS)) // 1000 * 1000
    c = np.where(rng.random(ROWS) < 0.5, rng.integers(0, 20, ROWS), rng.integers(0, CATEGORIES, ROWS))
    v = rng.integers(-100, 100, ROWS) / 4
    table = pa.table(
        {"user_id": np.ones(ROWS, np.int64), "c": c, "s": np.char.add("cat-", c.astype(str)), "v": v,
         "at": pa.array(at, pa.timestamp("us", "UTC"))}
    )  # fmt: skip
    group = ms.StreamFeatureGroup(
        "g", entity=ms.Entity("user", keys={"user_id": "int64"}), source=EVENTS, features=features()
    )
    view = ms.FeatureView("v", request={"s": "string", "c": "int64"}, features=[group])
    asked = [
        {"user_id": 1, "s": f"cat-{one}", "c": one, "at": START + hours * HOUR + 12_345}
        for hours in (1, 30, 48) for one in (3, CATEGORIES - 1)
    ]  # fmt: skip
    for row, question in zip(ms.compute(view, {EVENTS: table}, asked).to_pylist(), asked, strict=True):
        should = wanted(c, v, at, question["at"], question["c"])
        for window in WINDOWS:
            differ = should.pop(f"differ_{window}")
            assert abs(row[f"g__differ_{window}"] - differ) <= (0.07 * differ if differ > 256 else 0)
        assert {name: row[f"g__{name}"] for name in should} == should
    assert should["counts_24h"] is None
    assert should["counts_1h"] is not None


MOST, MORE = 65_536, 70_000
"""As many categories as a feature may tell apart, and more."""


def test_as_many_categories_as_may_be_are_told_apart_and_more_are_null(tmp_path: Path) -> None:
    """By one fold, and by the way through log and store."""
    given: dict[str, Any] = {"categories": MOST}
    group = ms.StreamFeatureGroup(
        "g",
        entity=ms.Entity("user", keys={"user_id": "int64"}),
        source=EVENTS,
        features=[
            ms.TopK("c", k=2, name="top", **given), ms.Mode("c", name="mode", **given), ms.Entropy("c", name="bits", **given),
            ms.SumBy("c", "v", k=1, name="sums", **given), ms.Seen("c", request="c", name="seen", **given),
            ms.CountBy("c", request="c", name="times", **given), ms.DistinctCount("c", name="differ"),
        ],
    )  # fmt: skip
    view = ms.FeatureView("v", request={"c": "int64"}, features=[group])
    users = np.concatenate([np.full(MOST + 1, 1), np.full(MORE, 2)])
    c = np.concatenate([np.arange(MOST + 1) % MOST, np.arange(MORE)])  # the first user's 0 comes twice
    at = START + 1_000 * np.arange(len(c))
    table = pa.table(
        {"user_id": users, "c": c, "s": pa.nulls(len(c), pa.string()), "v": np.ones(len(c)),
         "at": pa.array(at, pa.timestamp("us", "UTC"))}
    )  # fmt: skip
    asked = [{"user_id": user, "c": 0, "at": int(at[-1]) + 1} for user in (1, 2)]
    first, second = ms.compute(view, {EVENTS: table}, asked).to_pylist()
    assert [first[f"g__{name}"] for name in ("top", "mode", "sums", "seen", "times")] == [
        [0, 1],
        0,
        [(0, 2.0)],
        True,
        2,
    ]
    shares = np.append(np.ones(MOST - 1), 2) / (MOST + 1)
    assert first["g__bits"] == pytest.approx(-(shares * np.log2(shares)).sum(), rel=1e-11)
    assert {second[f"g__{name}"] for name in ("top", "mode", "bits", "seen", "times")} == {None}
    assert second["g__sums"] is None
    for row, count in ((first, MOST), (second, MORE)):
        assert row["g__differ"] == pytest.approx(count, rel=0.06)
    with ms.Project(tmp_path, create=True) as project:
        project.apply(view)
        project.send(EVENTS, table)
        project.drain()
        served = project.features(view, [{key: one[key] for key in ("user_id", "c")} for one in asked]).to_pylist()
    for row, wanted_row in zip(served, (first, second), strict=True):
        assert {name: row[name] for name in row if name.startswith("g__")} == {
            name: wanted_row[name] for name in wanted_row if name.startswith("g__")
        }
