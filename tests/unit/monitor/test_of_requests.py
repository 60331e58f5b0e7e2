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


KNOWN = ms.StreamFeatureGroup("known", entity=user, source=orders, features=[
    ms.Seen("payee_id", request="payee_id", over=["1h", "3 events"]), ms.CountBy("payee_id", request="payee_id", over="1h"),
    ms.Seen("payee_id", request="payee_id", categories=2, name="few"), ms.ZScore("amount", request="amount"),
    ms.SinceSeen("payee_id", request="payee_id"), ms.SumBy("payee_id", "amount", request="payee_id", over="1h"),
    ms.Ratio(ms.SumBy("payee_id", "amount", request="payee_id", over="1h"),
             ms.CountBy("payee_id", request="payee_id", over="1h"), name="usual")])  # fmt: skip


def test_probes_are_served_captured_and_recomputed(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.begin(KNOWN, KNOWN.with_request(prefix="now"), request={"payee_id": "int64", "amount": "float64"})
    shop.round()
    for payee in (0, 7, None):
        shop.score(amount=1.0, payee_id=payee)
    assert shop.served("known__payee_id_seen_1h") == [True, False, None]
    assert shop.served("known__payee_id_count_by_1h") == [4, 0, None]
    assert shop.served("now__known__payee_id_count_by_1h") == [5, 1, None]
    spent = shop.served("known__payee_id_amount_sum_by_1h")
    assert (spent[0] > 0, spent[1:]) == (True, [0.0, None])
    assert shop.served("now__known__payee_id_amount_sum_by_1h") == [spent[0] + 1.0, 1.0, None]
    assert shop.served("now__known__payee_id_since_seen") == [0.0, 0.0, None]
    assert shop.served("known__payee_id_since_seen")[1:] == [None, None]
    assert shop.served("known__few") == [None, None, None]
    assert shop.served("known__usual") == [spent[0] / 4, None, None]
    told = [(0, "payee_id_seen_1h", 4), (0, "usual", 4), (1, "usual", 0), (1, "payee_id_amount_sum_by_1h", 0)]
    for number, name, count in [*told, (2, "payee_id_since_seen", 0)]:
        events = shop.project.explain(shop.asked[number], f"known__{name}").events
        assert events is not None
        assert events["payee_id"].to_pylist() == [0] * count
    now = shop.project.explain(shop.asked[1], "now__known__payee_id_count_by_1h").events
    assert now is not None
    assert now["payee_id"].to_pylist() == [7]
    with pytest.raises(ms.MillstreamError, match="what the caller sent"):
        shop.project.explain(shop.asked[0], "payee_id")
    holds(shop.project, 9)
    shop.project.sync()
    learnt = shop.project.training_set("risk").table
    assert learnt["known__payee_id_seen_1h"].type == "bool"
    assert learnt["known__payee_id_seen_1h"].null_count == 1
    assert {row["payee_id_seen_1h"] for row in shop.project.history("known").to_pylist()} == {None}


def test_a_probe_reads_a_key_of_the_view_which_is_no_input_of_a_model(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.begin(KNOWN["payee_id_seen_1h"], SPENT["count_1h"].on(user_id="payee_id", prefix="payee"))
    assert shop.model.view.columns == ("known__payee_id_seen_1h", "payee__spent__count_1h")
    shop.round()
    for payee in (0, 7, None):
        shop.score(payee_id=payee)
    assert shop.served("known__payee_id_seen_1h") == [True, False, None]
    holds(shop.project, 9)
    shop.project.sync()
    assert shop.project.training_set("risk").table["known__payee_id_seen_1h"].null_count == 1


SPENT = ms.StreamFeatureGroup("spent", entity=user, source=orders, where="amount > 0", features=[
    ms.Count(over="1h"), ms.Sum("amount", over="1h"), ms.Max("amount"), ms.TimeSince(),
    ms.Count(over="1h", delay="1m", name="before"), ms.ZScore("amount", request="amount"),
    ms.Median("amount", over="1h"), ms.DistinctCount("amount"), ms.Lag("amount"),
    ms.Count(over=["1 event", "3 events within 1h", ms.Session(gap="10m")]),
    ms.Median("amount", over="3 events")])  # fmt: skip


def test_a_request_that_counts_itself_is_served_captured_and_recomputed(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    of_payee = SPENT.on(user_id="payee_id").with_request(prefix="payee")
    shop.begin(SPENT, SPENT.with_request(prefix="now"), of_payee, request={"amount": "float64"})
    shop.round()
    now = shop.clock.now()
    shop.project.send("orders", [{"user_id": 1, "payee_id": 1, "amount": 7.5, "at": now}])
    shop.project.drain()
    shop.asked.clear()
    for amount in (7.5, None, -1.0, 2.0**51):
        shop.score(amount=amount, payee_id=2, at=now)
    plain, counted = shop.served("spent__count_1h"), shop.served("now__spent__count_1h")
    assert [after - before for before, after in zip(plain, counted, strict=True)] == [1, 0, 0, 0]
    total = [shop.served(f"{prefix}spent__amount_sum_1h")[0] for prefix in ("", "now__")]
    assert total[1] == pytest.approx(total[0] + 7.5)
    assert shop.served("now__spent__time_since")[0] == 0.0
    assert shop.served("now__spent__amount_lag_1")[0] == 7.5
    assert shop.served("now__spent__count_1_event")[0] == 1.0
    sessions = [shop.served(f"{prefix}spent__count_session_10m") for prefix in ("", "now__")]
    assert [after - before for before, after in zip(*sessions, strict=True)] == [1, 0, 0, 0]
    assert shop.served("now__spent__before_1h") == shop.served("spent__before_1h")
    assert shop.served("payee__spent__amount_max")[0] == 7.5  # its key's column is the payee, so the row is the payee's
    holds(shop.project, 10)
    shop.project.sync()
    assert shop.project.training_set("risk").table.num_rows == 10
    told = shop.project.explain(shop.asked[0], "now__spent__count_1h")
    assert told.events is not None
    assert told.events.num_rows == plain[0] + 1
    assert told.events["_position"].null_count == 1
    assert told.events.to_pylist()[-1]["amount"] == 7.5
    for name in ("before_1h", "count_1_event", "count_3_events_within_1h", "count_session_10m"):
        events = shop.project.explain(shop.asked[0], f"now__spent__{name}").events
        assert events is not None
        assert events.num_rows == shop.served(f"now__spent__{name}")[0], name
        assert events["_position"].null_count == (name != "before_1h"), name
    dropped = shop.project.explain(shop.asked[2], "now__spent__count_1h").events  # its amount is beyond the filter
    assert dropped is not None
    assert dropped["_position"].null_count == 0


def test_a_request_reads_alike_from_a_project_and_from_frames(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    view = ms.FeatureView("v", request={"amount": "float64"}, features=[SPENT.with_request()])
    shop.project.apply(view)
    now = shop.clock.now()
    rows = [{"user_id": i % 3, "payee_id": 1, "amount": 0.1 * i, "at": now - i * 1_000_000} for i in range(40)]
    shop.project.send("orders", rows)
    shop.project.drain()
    shop.project.backfill()
    asked = [{"user_id": i, "amount": amount} for i in (0, 1, 2, 7, None) for amount in (0.3, None, -2.0, 1e14)]
    served = shop.project.features("v", asked, at=now)
    computed = ms.compute(view, {orders: rows}, [row | {"at": now} for row in asked])
    assert served.to_pylist() == computed.select(served.column_names).to_pylist()


def test_a_change_of_what_counts_is_told_and_breaks_a_model_that_learnt_otherwise(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.begin(SPENT["count_1h"], request={"amount": "float64"})
    view = ms.FeatureView("risk", request={"amount": "float64"}, features=[SPENT["count_1h"].with_request()])
    shown = str(shop.project.plan(view))
    assert "column spent__count_1h: without the request -> with the request, at by at" in shown
    assert "spent__count_1h counts the request otherwise" in shown
