"""Explain: the events behind a value are those that it aggregates, and no others."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.unit.monitor.shop import MINUTE, NOON, SECOND, Shop, orders, user

import millstream as ms

returns = ms.EventStream(
    "returns", time="came", schema={"user_id": "int64", "payee_id": "string", "amount": "float64", "came": "timestamp"}
)
accounts = ms.Table("accounts", path="accounts.parquet", time="day",
                    schema={"user_id": "int64", "tier": "string", "day": "timestamp"})  # fmt: skip


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def explained(shop: Shop, request: str, feature: str) -> pa.Table:
    found = shop.project.explain(request, feature).events
    assert found is not None
    return found


def test_what_a_feature_filters_out_or_finds_null_is_not_behind_it(shop: Shop) -> None:
    features = [
        ms.Count(over="1h"),
        ms.Count(name="dear", where="doubled > 4", over="1h"),
        ms.Sum("doubled", over="1h"),
    ]
    shop.begin(
        ms.StreamFeatureGroup("g", entity=user, source=orders, derive={"doubled": "amount * 2"}, features=features)
    )
    amounts: list[Any] = [1.0, 5.0, None, 3.0]
    shop.project.send("orders", [{"user_id": 1, "amount": x, "at": NOON - i - 1} for i, x in enumerate(amounts)])
    shop.project.drain()
    request = shop.score()["request_id"]
    behind = {name: explained(shop, request, f"g__{name}")["amount"].to_pylist() for name in
              ("count_1h", "dear_1h", "doubled_sum_1h")}  # fmt: skip
    assert behind == {"count_1h": [3.0, None, 5.0, 1.0], "dear_1h": [3.0, 5.0], "doubled_sum_1h": [3.0, 5.0, 1.0]}


def test_the_events_of_several_streams_are_in_order_of_time_whatever_their_columns(shop: Shop) -> None:
    shop.begin(ms.StreamFeatureGroup("g", entity=user, source=[orders, returns], features=[ms.Count(over="1h")]))
    shop.project.send("orders", [{"user_id": 1, "payee_id": 7, "at": NOON - i * SECOND} for i in (1, 3)])
    shop.project.send("returns", [{"user_id": 1, "payee_id": "x", "came": NOON - 2 * SECOND}])
    shop.project.drain()
    found = explained(shop, shop.score()["request_id"], "g__count_1h")
    assert found["payee_id"].to_pylist() == ["7", "x", "7"]


def test_behind_the_feature_of_a_query_is_the_row_in_force(shop: Shop) -> None:
    times = pa.array([NOON - i * MINUTE for i in (40, 30, 20)], pa.timestamp("us", "UTC"))
    rows = pa.table({"user_id": [1, 1, 2], "tier": ["silver", "gold", "none"], "day": times})
    pq.write_table(rows, shop.project.settings.folder / accounts.path)
    query = "select user_id, day, tier from accounts"
    kyc = ms.BatchFeatureGroup("kyc", entity=user, sources=[accounts], every="10m", query=query, time="day", ttl="15m")
    shop.begin(kyc)
    now, later = (shop.score(at)["request_id"] for at in (NOON, NOON + 60 * MINUTE))
    assert explained(shop, now, "kyc__tier")["tier"].to_pylist() == ["gold"]
    assert explained(shop, later, "kyc__tier").num_rows == 0


def test_behind_windows_of_events_and_sessions_are_their_rows(shop: Shop) -> None:
    features = [ms.Sum("amount", over=["2 events", "3 events within 2m", ms.Session(gap="1m")])]
    shop.begin(ms.StreamFeatureGroup("g", entity=user, source=orders, features=features))
    moments = {1.0: 20 * MINUTE, 2.0: 4 * MINUTE, 3.0: 100 * SECOND, 4.0: 50 * SECOND}
    shop.project.send("orders", [{"user_id": 1, "amount": x, "at": NOON - ago} for x, ago in moments.items()])
    shop.project.drain()
    request = shop.score()["request_id"]
    behind = {name: explained(shop, request, f"g__amount_sum_{name}")["amount"].to_pylist() for name in
              ("2_events", "3_events_within_2m", "session_1m")}  # fmt: skip
    assert behind == {"2_events": [3.0, 4.0], "3_events_within_2m": [3.0, 4.0], "session_1m": [3.0, 4.0]}
