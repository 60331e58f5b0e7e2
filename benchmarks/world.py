"""The payments that the benchmarks share: a stream, feature groups of 55 features, and seeded events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

import millstream as ms
from millstream.definitions import StreamFeatureGroup

SECOND = 1_000_000
DAY = 86_400 * SECOND
NOW = 1_700_000_000 * SECOND

USER = ms.Entity("user", keys={"user_id": "int64"})
SCHEMA = {
    "payment_id": "string", "user_id": "int64", "amount": "float64", "fee": "float64", "status": "string",
    "paid_at": "timestamp",
}  # fmt: skip
PAYMENTS = ms.EventStream("payments", time="paid_at", schema=SCHEMA)
WIDE = {**SCHEMA, "device_id": "string", "card_id": "int64", "payee_id": "int64"}
DECLINED = "status = 'declined'"


def serving_groups() -> list[StreamFeatureGroup]:
    """Eight groups of one user that together have 55 features, from five minutes to a lifetime."""
    short, long = ["5m", "1h", "24h"], ["7d", "30d"]
    features = {
        "velocity": [ms.Count(over=short), ms.Sum("amount", over=short), ms.Max("amount", over="24h")],
        "declines": [ms.Count(name="declined", where=DECLINED, over=[*short, "7d"]),
                     ms.Sum("amount", name="declined_amount", where=DECLINED, over=short)],
        "habits": [ms.Mean("amount", over=long), ms.Std("amount", over=long), ms.Max("amount", over=long),
                   ms.Min("amount", over="30d")],
        "fees": [ms.Sum("fee", over=[*short, *long]), ms.Mean("fee", over=long)],
        "spread": [ms.Var("amount", over=["24h", *long]), ms.Var("fee", over=["24h", *long]), ms.Max("fee", over="24h")],
        "pace": [ms.Count(over=long), ms.TimeSince(), ms.Count("fee", over=["1h", "24h", *long])],
        "edges": [ms.First("amount", over=long), ms.Last("amount", over=long), ms.Last("fee", over=long),
                  ms.First("fee", over="30d")],
        "lifetime": [ms.Count(), ms.Sum("amount"), ms.Mean("amount"), ms.Max("amount"), ms.Std("amount"), ms.Last("amount")],
    }  # fmt: skip
    return [ms.StreamFeatureGroup(name, entity=USER, source=PAYMENTS, features=some) for name, some in features.items()]


def groups_with_values() -> list[StreamFeatureGroup]:
    """Eight groups of 55 features again, of which fifteen tell values apart, decay, or are of windows of events."""
    values = [
        ms.DistinctCount("status", over="24h"), ms.DistinctCount("amount", over="30d"), ms.Median("amount", over="7d"),
        ms.Quantile("amount", q=0.95, over="30d"), ms.Mode("status", over="7d"), ms.Entropy("status", over="7d"),
        ms.Lag("amount", 2), ms.TopK("status", k=2, over="30d"),
    ]  # fmt: skip
    shapes = [
        ms.LastK("amount", k=5), ms.CountBy("status", over="30d"), ms.Share(where=DECLINED, name="declined", over="24h"),
        ms.Skewness("amount", over="30d"), ms.DecayedSum("amount", half_life="24h"), ms.Sum("amount", over="20 events"),
        ms.Count(over=ms.Session(gap="30m")),
    ]  # fmt: skip
    known = {group.name: group for group in serving_groups() if group.name not in ("spread", "edges")}
    known["habits"] = _with(known["habits"], known["habits"].features[:-1])
    made = {"values": values, "shapes": shapes}
    new = [ms.StreamFeatureGroup(name, entity=USER, source=PAYMENTS, features=some) for name, some in made.items()]
    return [*known.values(), *new]


def _with(group: StreamFeatureGroup, features: Sequence[Any]) -> StreamFeatureGroup:
    """A group of payments with other features."""
    return ms.StreamFeatureGroup(group.name, entity=USER, source=PAYMENTS, features=features)


def payments(rows: int, users: int, days: float, seed: int = 0, skew: float = 0.0) -> pa.Table:
    """Payments of whole cents in the days before `NOW`, in the order of their times, as producers send them.

    With `skew`, the popularity of users falls by that power of their rank.
    """
    rng = np.random.default_rng(seed)
    weights = np.arange(1, users + 1, dtype=float) ** -skew
    times = np.sort(NOW - rng.integers(SECOND, int(days * DAY), rows))
    return pa.table({
        "payment_id": pa.array(np.char.add("p", np.arange(rows).astype(str))),
        "user_id": rng.choice(users, rows, p=weights / weights.sum()),
        "amount": np.round(rng.lognormal(3, 1, rows), 2),
        "fee": np.round(rng.exponential(1, rows), 2),
        "status": pa.array(np.where(rng.random(rows) < 0.05, "declined", "approved")),
        "paid_at": pa.array(times, pa.timestamp("us", "UTC")),
    })  # fmt: skip


def wide_payments(rows: int, users: int, seed: int = 1) -> pa.Table:
    """Payments of six hours, from one of a user's two devices and with one of two cards, to one of ten payees of the user's."""
    events, rng = payments(rows, users, days=0.25), np.random.default_rng(seed)
    user = events["user_id"].to_numpy()
    devices = np.char.add("device", (user * 2 + rng.integers(0, 2, rows)).astype(str))
    events = events.append_column("device_id", pa.array(devices))
    events = events.append_column("card_id", pa.array(user * 2 + rng.integers(0, 2, rows)))
    return events.append_column("payee_id", pa.array((user * 7 + rng.integers(0, 10, rows)) % (users * 3)))


def arrived(events: pa.Table) -> pa.Table:
    """The events as history gives them: with their places, and arriving when they happened."""
    rows = len(events)
    times = events["paid_at"].cast(pa.int64())
    place = {"_partition": np.zeros(rows, np.int32), "_position": np.arange(rows), "_arrival": times}
    for name, column in place.items():
        events = events.append_column(name, column if name == "_arrival" else pa.array(column))
    return events
