"""Features that read a request: served, captured, learnt from and recomputed alike."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.monitor.shop import Shop, holds, orders, user

import millstream as ms

UNUSUAL = ms.StreamFeatureGroup("unusual", entity=user, source=orders, features=[
    ms.ZScore("amount", request="amount", over="1h"), ms.Ratio(ms.Sum("amount", over="1h"), ms.Count(), name="each"),
    ms.Mean("amount", over="1h"), ms.Std("amount", over="1h")])  # fmt: skip


def test_a_zscore_is_served_captured_and_recomputed(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.begin(UNUSUAL, request={"amount": "float64"})
    shop.round()
    served = [shop.score(amount=amount, payee_id=1) for amount in (3.0, None, 9.5)]
    assert len(served) == 3
    values = shop.served("unusual__amount_zscore_1h")
    mean, std = (shop.served(f"unusual__amount_{kind}_1h")[0] for kind in ("mean", "std"))
    assert values == [(3.0 - mean) / std, None, (9.5 - mean) / std]
    holds(shop.project, 9)
    shop.project.sync()
    learnt = shop.project.training_set("risk").table
    assert learnt["unusual__amount_zscore_1h"].null_count == 2  # the null request, and the user without history
    told = shop.project.explain(shop.asked[0], "unusual__amount_zscore_1h")
    assert told.events is not None
    assert told.events.num_rows == 12
    kept = shop.project.history("unusual").to_pylist()
    assert {row["amount_zscore_1h"] for row in kept} == {None}
    assert all(row["each"] == pytest.approx(row["each"]) for row in kept)
