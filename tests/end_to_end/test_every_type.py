"""Every aggregation over every type of a column: its value, the same on every path, or one refusal that says what to write."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import pytest

import millstream as ms

#: Midnight of yesterday, so that all is of one hop of what decays.
START = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
AT = START + timedelta(hours=1)
USER = ms.Entity("user", keys={"user_id": "int64"})
BIG = 2**53 + 1
#: Three values of each type, in its order: the one that is asked for is the first.
VALUES: dict[str, tuple[Any, Any, Any]] = {
    "int64": (-BIG, BIG, 2**63 - 1),
    "float64": (0.5, 1.5, 40.0),
    "bool": (False, True, True),
    "string": ("", "a" * 39, "é"),
    "bytes": (b"", b"\x00" * 39, b"\xff"),
    "date": (date(1, 1, 1), date(2026, 1, 31), date(9999, 12, 31)),
    "timestamp": (datetime(1, 1, 1, tzinfo=UTC), START, datetime(9999, 12, 31, tzinfo=UTC)),
    "uuid": (UUID(int=0), UUID(int=2**64), UUID(int=2**127 + 1)),
    "decimal(38, 2)": (Decimal("-" + "9" * 36 + ".25"), Decimal("0.10"), Decimal("9" * 36 + ".99")),
}
LISTS = ("list<float64>", "list<float32>", "list<int64>", "list<string>")
BESIDE = {"user_id": "int64", "v": "float64", "c": "string", "at": "timestamp"}
SCHEMAS = {kind: {**BESIDE, "x": kind} for kind in (*VALUES, *LISTS)}
INNER = (ms.Count, ms.Min, ms.Max, ms.First, ms.Last)
Of = Callable[[str], Any]
MADE: dict[str, Of] = {
    "count": ms.Count, "min": ms.Min, "max": ms.Max, "first": ms.First, "last": ms.Last, "lag": lambda x: ms.Lag(x, n=2),
    "last_k": ms.LastK, "first_k": ms.FirstK, "max_k": ms.MaxK, "min_k": ms.MinK, "last_distinct_k": ms.LastDistinctK,
    "last_k_of_two": lambda x: ms.LastK([x, "c"], k=2), "distinct": ms.DistinctCount, "mode": ms.Mode, "top_k": ms.TopK,
    "entropy": ms.Entropy, "count_by": ms.CountBy, "sum_by": lambda x: ms.SumBy(x, "v"),
    "seen": lambda x: ms.Seen(x, request="r"), "since": lambda x: ms.SinceSeen(x, request="r"),
    "count_of": lambda x: ms.CountBy(x, request="r", name="count_of"),
    "sum_of": lambda x: ms.SumBy(x, "v", request="r", name="sum_of"),
    "arg_min": lambda x: ms.ArgMin(x, by="v"), "arg_max_by": lambda x: ms.ArgMax("v", by=x),
    **{f"by_{one.__name__.lower()}": lambda x, one=one: ms.By("c", one(x)) for one in INNER},
    "sum": ms.Sum, "mean": ms.Mean, "std": ms.Std, "var": ms.Var, "skewness": ms.Skewness, "kurtosis": ms.Kurtosis,
    "geometric_mean": ms.GeometricMean, "median": ms.Median, "covariance": lambda x: ms.Covariance(x, "v"),
    "correlation": lambda x: ms.Correlation("v", x), "histogram": lambda x: ms.Histogram(x, bins=[0, 1, 9]),
    "decayed_sum": lambda x: ms.DecayedSum(x, half_life="30d"), "decayed_count": lambda x: ms.DecayedCount(x, half_life="30d"),
    "decayed_mean": lambda x: ms.DecayedMean(x, half_life="30d"), "sum_by_c": lambda x: ms.SumBy("c", x, name="sum_by_c"),
    "zscore": lambda x: ms.ZScore(x, request="number"), "vector_sum": lambda x: ms.VectorSum(x, dim=2),
    "ratio": lambda x: ms.Ratio(ms.Sum(x), ms.Count(), name="ratio"),
}  # fmt: skip
NUMBERS = {
    "sum", "mean", "std", "var", "skewness", "kurtosis", "geometric_mean", "median", "covariance", "correlation", "histogram",
    "decayed_sum", "decayed_mean", "sum_by_c", "zscore", "ratio",
}  # fmt: skip
TOLD_APART = {"entropy", "count_by", "sum_by", "seen", "since", "count_of", "sum_of"}
RANKED = {"distinct", "mode", "top_k"}


def taken(kind: str) -> set[str]:
    """The aggregations that take a type."""
    if kind in LISTS:
        return {"count", "by_count"} | ({"vector_sum"} if kind[5:10] == "float" else set())
    numbers = NUMBERS - ({"median", "histogram"} if kind == "bool" else set())
    found = set(MADE) - NUMBERS - TOLD_APART - RANKED - {"vector_sum"}
    found |= numbers if kind in ("int64", "float64", "bool") else set()
    found |= set() if kind in ("float64", "bytes", "decimal(38, 2)") else TOLD_APART
    return found | (set() if kind in ("bytes", "decimal(38, 2)") else RANKED)


def group_of(kind: str, *made: Any, **given: Any) -> ms.StreamFeatureGroup:
    events = ms.EventStream("events", time="at", schema=SCHEMAS[kind])
    return ms.StreamFeatureGroup("g", entity=USER, source=events, features=made, **given)


@pytest.mark.parametrize("kind", SCHEMAS)
def test_what_an_aggregation_does_not_take_is_refused_with_what_to_write(kind: str) -> None:
    built = set()
    for name, made in MADE.items():
        try:
            group_of(kind, made("x"))
            built.add(name)
        except ms.MillstreamError as error:
            assert error.hint, error
            for instead in re.findall(r", as (\w+\(x(?: as \w+)?\))", error.hint):
                group_of(kind, made("y"), derive={"y": instead})
    assert built == taken(kind)


#: Events of these are beyond the range of sums.
WIDE = "int64"
SMALL = (-2, 3, 40)


def rows_of(low: Any, middle: Any, high: Any) -> list[dict[str, Any]]:
    """Events of user 1: values that repeat, one that is null, and two of one instant."""
    xs = [middle, low, None, high, middle, middle, low]
    seconds = [0, 10, 20, 30, 30, 50, 60]
    return [
        {"user_id": 1, "x": x, "v": float(n), "c": "ab"[n % 2], "at": START + timedelta(seconds=second)}
        for n, (x, second) in enumerate(zip(xs, seconds, strict=True))
    ]


def ordered(value: Any) -> Any:
    """What orders values of one type as they are."""
    return value.encode() if isinstance(value, str) else value.bytes if isinstance(value, UUID) else value


def wanted(rows: list[dict[str, Any]], asked: Any) -> dict[str, Any]:
    """The value of every aggregation that no arithmetic is part of, in plain Python."""
    known = sorted((row for row in rows if row["x"] is not None), key=lambda row: (row["at"], ordered(row["x"])))
    xs = [row["x"] for row in known]
    counts = Counter(xs)
    ranked = sorted(counts, key=lambda x: (-counts[x], ordered(x)))
    least_first = sorted(xs, key=ordered)
    both = sorted(
        rows, key=lambda row: (row["at"], row["x"] is not None, ordered(row["x"]) if row["x"] is not None else 0)
    )
    shares = [count / len(xs) for count in counts.values()]
    by: dict[str, list[Any]] = {}
    for row in known:
        by.setdefault(row["c"], []).append(row["x"])
    told = [row for row in known if row["x"] == asked]
    return {
        "count": len(xs), "min": least_first[0], "max": least_first[-1], "first": xs[0], "last": xs[-1], "lag": xs[-2],
        "last_k": xs[::-1][:5], "first_k": xs[:5], "max_k": least_first[::-1][:3], "min_k": least_first[:3],
        "last_distinct_k": list(dict.fromkeys(reversed(xs))),
        "last_k_of_two": [{"x": row["x"], "c": row["c"]} for row in both[:-3:-1]], "distinct": len(counts),
        "mode": ranked[0], "top_k": ranked[:3], "entropy": pytest.approx(-sum(p * math.log2(p) for p in shares)),
        "count_by": {x: counts[x] for x in ranked}, "seen": True, "count_of": len(told),
        "sum_of": sum(row["v"] for row in told),
        "sum_by": {x: sum(row["v"] for row in known if row["x"] == x) for x in ranked},
        "since": (AT - told[-1]["at"]).total_seconds(), "arg_min": min(known, key=lambda row: row["v"])["x"],
        "arg_max_by": max(known, key=lambda row: (ordered(row["x"]), row["at"], row["v"]))["v"], "decayed_count": len(xs),
        "by_count": {c: len(of) for c, of in by.items()}, "by_min": {c: min(of, key=ordered) for c, of in by.items()},
        "by_max": {c: max(of, key=ordered) for c, of in by.items()}, "by_first": {c: of[0] for c, of in by.items()},
        "by_last": {c: of[-1] for c, of in by.items()},
    }  # fmt: skip


def wanted_numbers(rows: list[dict[str, Any]], number: float) -> dict[str, Any]:
    """The value of every aggregation of numbers, by pandas and NumPy."""
    known = pd.DataFrame([{**row, "x": float(row["x"])} for row in rows if row["x"] is not None])
    x, total = known.x, float(sum(row["x"] for row in rows if row["x"] is not None))
    roots = np.exp(np.log(x[x > 0]).mean()) if (x > 0).all() else None
    near = {
        "sum": total, "mean": total / len(x), "std": x.std(), "var": x.var(), "skewness": x.skew(), "kurtosis": x.kurt(),
        "geometric_mean": roots, "median": x.median(), "covariance": x.cov(known.v), "correlation": x.corr(known.v),
        "decayed_sum": total, "decayed_mean": total / len(x), "ratio": total / len(rows),
        "zscore": (number - x.mean()) / x.std(),
    }  # fmt: skip
    found = {name: None if value is None else pytest.approx(value, rel=1e-9) for name, value in near.items()}
    sums = known.groupby("c").x.sum().to_dict()
    histogram = np.histogram(x, [0, 1, 9])[0].tolist()
    return {**found, "histogram": histogram, "sum_by_c": {c: pytest.approx(one) for c, one in sums.items()}}


def plain(value: Any) -> Any:
    """A map as a dict."""
    pairs = isinstance(value, list) and value and isinstance(value[0], tuple)
    return dict(value) if pairs else value


def test_every_aggregation_of_every_type_has_its_value_on_every_path(tmp_path: Path) -> None:
    cases = {
        kind: (kind, values, taken(kind) - (NUMBERS if kind == WIDE else set())) for kind, values in VALUES.items()
    }
    cases["small"] = (WIDE, SMALL, taken(WIDE) & NUMBERS)
    project = ms.Project(tmp_path / "p", create=True)
    found = {}
    for case, (kind, _, allowed) in cases.items():
        stream = ms.EventStream(f"of_{len(found)}", time="at", schema=SCHEMAS[kind])
        names = [name for name in MADE if name in allowed]
        group = ms.StreamFeatureGroup(
            f"group_{len(found)}", entity=USER, source=stream, features=[MADE[name]("x") for name in names]
        )
        probes = {"r": kind} if TOLD_APART & allowed else {}
        view = ms.FeatureView(f"view_{len(found)}", request={"number": "float64", **probes}, features=[group])
        found[case] = names, stream, view
    project.apply(*(view for _, _, view in found.values()))
    for case, (_, stream, _) in found.items():
        project.send(stream, rows_of(*cases[case][1]))
    project.drain()
    for case, (names, stream, view) in found.items():
        _, values, allowed = cases[case]
        rows, asked = rows_of(*values), {"user_id": 1, "number": 7.0, "r": values[0], "at": AT}
        pure, online = ms.compute(view, {stream: rows}, [asked]), project.features(view.name, [asked])
        features = [column for column in view.columns if "__" in column]
        assert online.select(features).equals(pure.select(features)), case
        should = wanted(rows, values[0]) | (wanted_numbers(rows, 7.0) if NUMBERS & allowed else {})
        for name, column in zip(names, features, strict=True):
            assert plain(pure[column][0].as_py()) == should[name], (case, name)
    project.close()
