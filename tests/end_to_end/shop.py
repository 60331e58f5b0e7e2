"""The project that the end-to-end tests run: orders folded by user and by shop, a tier by a query, a small model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

USERS, SHOPS = 400, 25
SECOND = 1_000_000

SETTINGS = """
name = "shop"
partitions = 3
shards = 2
sync_every = "{sync}"
log_gib = 4
micro_batch = 2000
"""

DEFINITIONS = """
import millstream as ms

user = ms.Entity("user", keys={{"user_id": "int64"}})
shop = ms.Entity("shop", keys={{"shop": "string"}})
orders = ms.EventStream("orders", time="at", deduplicate="id", schema={{
    "id": "string", "user_id": "int64", "shop": "string", "amount": "float64", "at": "timestamp"}})
paid = ms.EventStream("paid", time="at", schema={{"id": "string", "late": "bool", "at": "timestamp"}})
accounts = ms.Table("accounts", path="accounts.parquet", time="changed", schema={{
    "user_id": "int64", "tier": "int64", "changed": "timestamp"}})

windows = [None, "1m", "10m", "1h"]
features = [ms.Count(over=windows), ms.Sum("amount", over=windows), ms.Last("amount", over=windows),
            ms.Max("amount", over=windows)]
spending = ms.StreamFeatureGroup("spending", entity=user, source=orders, features=features)
turnover = ms.StreamFeatureGroup("turnover", entity=shop, source=orders, where="amount > 0", features=features{more})
standing = ms.BatchFeatureGroup("standing", entity=user, sources=[accounts], every="3s", time="changed",
    query="select user_id, changed, tier from accounts")

@ms.on_demand(returns="float64")
def share(amount, spending__amount_sum_1h):
    return amount / spending__amount_sum_1h

risk_view = ms.FeatureView("risk", request={{"amount": "float64"}}, features=[spending, turnover, standing, share])
risk = ms.Model("risk", view=risk_view, examples="captures", label=ms.Label(paid, "late", on="id", after="1h"))
"""
CHANGED = ' + [ms.Min("amount", over="1h")]'
"""What makes `turnover` another version."""


def write_project(folder: Path, *, sync: str = "4s") -> None:
    """Make the project's folder."""
    (folder / "millstream.toml").write_text(SETTINGS.format(sync=sync))
    define(folder)
    write_accounts(folder, 0, 1_700_000_000 * SECOND)


def define(folder: Path, more: str = "") -> None:
    """Write what the project declares."""
    (folder / "features.py").write_text(DEFINITIONS.format(more=more))


def write_accounts(folder: Path, tier: int, changed: int) -> None:
    """Replace the table of tiers, whole or not at all: every user has the tier, since an instant (µs)."""
    table = pa.table(
        {
            "user_id": np.arange(USERS),
            "tier": np.full(USERS, tier),
            "changed": pa.array(np.full(USERS, changed), pa.timestamp("us", "UTC")),
        }
    )
    pq.write_table(table, folder / "accounts.new")
    os.replace(folder / "accounts.new", folder / "accounts.parquet")


def deploy_model(project: Any) -> None:
    """Register and deploy a small model, fitted to noise."""
    import lightgbm

    rng = np.random.default_rng(5)
    columns = list(project.parts.registry.model("risk").view.columns)
    drawn = lightgbm.Dataset(rng.random((400, len(columns))), rng.integers(0, 2, 400), feature_name=columns)
    options = {"objective": "binary", "num_leaves": 4, "verbose": -1, "num_threads": 1}
    project.register("risk", lightgbm.train(options, drawn, num_boost_round=5))
    project.deploy("risk")


def orders(numbers: Sequence[int], now: int, seed: int) -> list[dict[str, Any]]:
    """Orders around an instant (µs): a few late by minutes, a few ahead; every amount a multiple of 1/64."""
    rng = np.random.default_rng([seed, len(numbers), numbers[0]])
    rows = []
    for number in numbers:
        lateness = int(
            rng.choice([0, SECOND, 20 * SECOND, 300 * SECOND, 4000 * SECOND], p=[0.7, 0.15, 0.1, 0.04, 0.01])
        )
        early = int(rng.random() < 0.02) * 2 * SECOND
        amount = float(rng.integers(-(2**20), 2**36 if rng.random() < 0.05 else 2**22)) / 64
        rows.append(
            {
                "id": f"o{number}",
                "user_id": int(USERS * rng.random() ** 2),
                "shop": f"shop-{int(SHOPS * rng.random())}",
                "amount": None if rng.random() < 0.02 else amount,
                "at": now - int(rng.integers(0, SECOND)) - lateness + early,
            }
        )
    return rows
