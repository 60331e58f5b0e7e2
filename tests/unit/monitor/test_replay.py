"""Captures outlive definitions: each is recomputed by the view, the functions and the group versions that served it."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.unit.monitor.shop import MINUTE, NOON, SECOND, Shop, holds, orders, paid, user

import millstream as ms
from millstream.definitions.on_demand import OnDemandFeature
from millstream.errors import NotFound, TrainingError
from millstream.monitor.replay import cohorts
from millstream.store.online import EARLY


def declared(*features: Any, share: str = "amount / spend__amount_sum_1h") -> ms.Model:
    """A model whose view reads one group by two keys, without a prefix, and a function."""
    spend = ms.StreamFeatureGroup(
        "spend", entity=user, source=orders, features=[ms.Count(over="1h"), ms.Sum("amount", over="1h"), *features]
    )
    text = f"def share(amount, spend__amount_sum_1h):\n    return {share}"
    more = [spend[name] for name in spend.feature_names[2:]]
    read = [spend["amount_sum_1h"], spend["count_1h"].on(user_id="payee_id"), *more]
    view = ms.FeatureView(
        "risk",
        request={"amount": "float64"},
        features=[*read, OnDemandFeature("share", source_text=text, returns="float64")],
    )
    return ms.Model("risk", view=view, examples=orders, label=ms.Label(paid, "late", on="payee_id", after="1h"))


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_a_view_that_moved_on_still_recomputes_what_it_served(shop: Shop) -> None:
    first = declared()
    shop.project.apply(first)
    shop.deploy(first)
    ids = shop.round()
    holds(shop.project, 6)
    second = declared(ms.Max("amount", over="1h"), share="spend__amount_sum_1h - amount")
    shop.project.apply(second, allow_breaking=True)
    ids += shop.round()  # the champion still reads the version that has no maximum
    holds(shop.project, 12)
    shop.project.backfill()
    shop.deploy(second)
    ids += shop.round()
    shop.project.sync()
    holds(shop.project, 18)
    told = [shop.project.explain(one).vector for one in (ids[0], ids[6], ids[12])]
    assert [one["share"] * one["spend__amount_sum_1h"] == pytest.approx(3.0) for one in told] == [True, False, False]
    assert ["spend__amount_max_1h" in one for one in told] == [False, True, True]
    assert told[1]["spend__amount_max_1h"] is None
    assert told[2]["spend__amount_max_1h"] > 0


def test_training_waits_for_the_version_that_has_what_the_view_reads(shop: Shop) -> None:
    shop.project.apply(declared())
    shop.deploy(declared())
    shop.round()
    shop.project.apply(declared(ms.Max("amount", over="1h")))
    with pytest.raises(TrainingError, match="reads 'spend__amount_max_1h', which 'spend@1' does not have") as told:
        shop.project.training_set("risk")
    assert told.value.hint is not None
    assert "live" in told.value.hint
    shop.project.backfill()
    assert "spend__amount_max_1h" in shop.project.training_set("risk").table.column_names


def test_a_default_holds_where_the_version_lacks_a_string(shop: Shop) -> None:
    shop.project.apply(declared())
    shop.deploy(declared())
    shop.round()
    named = ms.Last("case when amount > 3 then 'much' else 'little' end", name="size")
    changed = declared(named)
    view = changed.view
    defaulted = ms.FeatureView(
        "risk",
        request=view.request,
        features=[one.default("none") if getattr(one, "feature", "") == "size" else one for one in view.features],
    )
    shop.project.apply(ms.Model("risk", view=defaulted, examples=orders, label=changed.label))
    (request_id, *_) = shop.round()
    holds(shop.project, 12)
    assert shop.project.explain(request_id).vector["spend__size"] == "none"


def test_a_revision_that_the_registry_does_not_have_is_named(shop: Shop) -> None:
    shop.project.apply(declared())
    with pytest.raises(NotFound, match="No revision of view 'risk' is named 'abc'"):
        shop.project.parts.registry.view("risk", "abc")


ACCOUNTS = ms.Table("accounts", path="accounts.parquet", time="day", delay="30m",
                    schema={"user_id": "int64", "amount": "float64", "day": "timestamp"})  # fmt: skip


def write_accounts(shop: Shop, rows: int) -> None:
    """A row every ten minutes, the first an hour before noon; its amount is its number."""
    times = pa.array([NOON - 60 * MINUTE + i * 10 * MINUTE for i in range(rows)], pa.timestamp("us", "UTC"))
    table = pa.table({"user_id": [1] * rows, "amount": [float(i) for i in range(rows)], "day": times})
    pq.write_table(table, shop.project.settings.folder / ACCOUNTS.path)


def test_a_fold_on_a_schedule_counts_the_rows_that_its_runs_had_seen(shop: Shop) -> None:
    write_accounts(shop, 12)
    fold = ms.BatchFeatureGroup("fold", entity=user, source=ACCOUNTS, every="10m", features=[ms.Count(over="24h")])
    shop.begin(fold)
    for _ in range(4):
        shop.clock.advance(5 * MINUTE)
        shop.project.drain()
        request = shop.score()["request_id"]
    assert shop.served("fold__count_24h") == [4.0, 5.0, 5.0, 6.0]  # known half an hour after their time
    holds(shop.project, 4)
    explained = shop.project.explain(request, "fold__count_24h")
    assert explained.events is not None
    assert explained.events["amount"].to_pylist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_function_of_another_one_differs_for_the_reason_that_one_does(shop: Shop) -> None:
    spend = ms.StreamFeatureGroup("spend", entity=user, source=orders, features=[ms.Count(over="1h")])
    shop.project.apply(orders)
    shop.project.send("orders", [{"user_id": 1, "at": NOON - 1}])
    last = OnDemandFeature("last", source_text="def last(first):\n    return first + 1", returns="float64")
    first = OnDemandFeature(
        "first", source_text="def first(spend__count_1h):\n    return spend__count_1h * 2", returns="float64"
    )
    shop.begin(last, first, spend)
    shop.project.send("orders", [{"user_id": 1, "at": NOON}])
    shop.clock.advance(SECOND)
    shop.score()  # before it is computed
    shop.project.drain()
    holds(shop.project, 1)
    assert shop.project.parity("risk").latency == 3


def test_a_number_that_a_float_rounds_is_compared_as_rounded(shop: Shop) -> None:
    spend = ms.StreamFeatureGroup("spend", entity=user, source=orders, features=[ms.Count(over="1h")])
    shop.begin(spend, request={"reference": "int64"})
    shop.project.send("orders", [{"user_id": 1, "at": NOON - 1}])
    shop.project.drain()
    shop.score(reference=2**60 + 1)
    holds(shop.project, 1)


def test_training_reads_what_a_function_returned_whatever_it_is_declared_to_return(shop: Shop) -> None:
    made = [
        OnDemandFeature(f"half_{kind}", source_text=f"def half_{kind}(amount):\n    return amount / 2", returns=kind)
        for kind in ("int64", "bool")
    ]
    shop.begin(*made, request={"amount": "float64"})
    for amount in (5.0, 4.0, 2.0, 1e30):
        shop.score(amount=amount)
    assert shop.served("half_bool") == [None, None, 1.0, None]
    assert shop.served("half_int64") == [None, 2.0, 1.0, None]
    holds(shop.project, 4)


def counting(deduplicate: str | None, *columns: str) -> ms.StreamFeatureGroup:
    """A group of a stream that may tell repeats, with these columns beside the keys and the time."""
    schema = {"user_id": "int64", "at": "timestamp", **dict.fromkeys(columns, "string")}
    stream = ms.EventStream("visits", time="at", deduplicate=deduplicate, partition_by="user_id", schema=schema)
    where = "status = 'good'" if "status" in columns else None
    return ms.StreamFeatureGroup("pace", entity=user, source=stream, where=where, features=[ms.Count(over="1h")])


@pytest.mark.parametrize(
    ("before", "after"),
    [(counting(None, "id"), counting("id", "id")), (counting("id", "id", "status"), counting("id", "id"))],
)
def test_a_version_goes_on_reading_a_stream_as_it_was_declared_for_it(shop: Shop, before: Any, after: Any) -> None:
    def visit(number: int) -> None:
        sent = {"id": f"v{number}", "user_id": 1, "status": "good", "at": shop.clock.now() - 1}
        shop.project.send("visits", [sent, sent, {**sent, "id": f"w{number}", "status": "bad"}])
        shop.clock.advance(SECOND)
        shop.project.drain()
        shop.score()

    shop.begin(before)
    visit(1)
    shop.declare(after, breaking=True)
    visit(2)  # the champion still reads the version of the first declaration
    shop.project.backfill()
    visit(3)
    shop.deploy(shop.model)
    visit(4)
    of_before = 1 if before.where else 3
    assert shop.served("pace__count_1h") == [of_before, 2 * of_before, 3 * of_before, 8]
    holds(shop.project, 4)
    assert [one.disagreeing for one in shop.project.parts.layers.syncer().step()] == [0, 0]


def dated(ttl: str | None) -> Any:
    query = "select user_id, day, amount from accounts"
    return ms.BatchFeatureGroup("kyc", entity=user, sources=[ACCOUNTS], every="10m", query=query, time="day", ttl=ttl)


@pytest.mark.parametrize("ttl", [None, "15m"])
def test_a_read_of_long_before_the_last_run_says_that_the_store_no_longer_knows(shop: Shop, ttl: str | None) -> None:
    write_accounts(shop, 12)
    shop.begin(dated(ttl))
    for _ in range(3):
        shop.clock.advance(5 * MINUTE)
        shop.project.drain()
        now = shop.clock.now()
        told = [shop.score(now - before)["degraded"] for before in (0, 4 * SECOND, 70 * MINUTE)]
        assert told == [False, False, True]
    holds(shop.project, 6)


def test_a_row_that_had_expired_has_expired_for_a_read_of_just_before_it_was_confirmed(shop: Shop) -> None:
    write_accounts(shop, 1)
    shop.begin(dated("15m"))
    shop.clock.advance(60 * MINUTE)
    assert shop.score()["degraded"] is False
    shop.project.drain()
    shop.score(shop.clock.now() - SECOND)
    shop.score()
    assert shop.served("kyc__amount") == [None, None, 0.0]
    holds(shop.project, 3)


def test_a_read_of_before_the_exact_head_says_so_and_parity_counts_it(shop: Shop) -> None:
    spend = ms.StreamFeatureGroup(
        "spend", entity=user, source=orders, features=[ms.Count(over="1h"), ms.Sum("amount", over="1h")]
    )
    shop.begin(spend)
    for second in (0, 20, 50):
        shop.clock.set(NOON + second * SECOND, rate=0.0)
        shop.project.send("orders", [{"user_id": 1, "amount": 2.0, "at": NOON + second * SECOND}])
    shop.project.drain()
    answers = [shop.score(NOON + second * SECOND) for second in (51, 46, 10)]
    assert [answer["degraded"] for answer in answers] == [False, False, True]
    assert [one if one == one else None for one in shop.served("spend__count_1h")] == [3.0, 2.0, None]
    verified, compared = shop.project.verify(), shop.project.parity("risk")
    assert (verified.requests, verified.mismatches, verified.degraded) == (2, 0, 1)
    assert (compared.overflow, compared.behind, compared.unexplained) == (0, 2, 0)
    assert compared.by_column["spend__amount_sum_1h", "behind"] == 1
    assert shop.project.explain(answers[2]["request_id"]).groups["spend"]["fallback"] == EARLY


def test_parity_tells_what_older_versions_served_from_merged_tiles(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millstream.serve.found.Found.give_up", lambda *_: None)  # as they did
    shop.begin(ms.StreamFeatureGroup("spend", entity=user, source=orders, features=[ms.Count(over="1h")]))
    for second in (0, 20, 50):
        shop.clock.set(NOON + second * SECOND, rate=0.0)
        shop.project.send("orders", [{"user_id": 1, "amount": 2.0, "at": NOON + second * SECOND}])
    crowd = [{"user_id": 2, "amount": 1.0, "at": NOON + 45 * SECOND + 40_000 * i} for i in range(100)]
    shop.project.send("orders", crowd)
    shop.project.drain()
    assert not shop.score(NOON + 10 * SECOND)["degraded"]
    assert not shop.score(NOON + 46 * SECOND, user_id=2)["degraded"]
    assert shop.served("spend__count_1h") == [2.0, 36.0]
    compared = shop.project.parity("risk")
    assert (compared.behind, compared.overflow, compared.unexplained) == (1, 1, 0)


HOURLY = ms.StreamFeatureGroup(
    "hourly",
    entity=user,
    source=orders,
    features=[ms.Count(over="1h"), ms.Sum("amount", over="1h"), ms.First("amount")],
)


def order(shop: Shop, *befores: int) -> None:
    """Orders of user 1, from so many µs ago; they are applied."""
    sent = [{"user_id": 1, "amount": 2.0, "at": shop.clock.now() - before} for before in befores]
    shop.project.send("orders", sent)
    shop.project.drain()


def test_a_score_from_before_a_quiet_hour_verifies(shop: Shop) -> None:
    shop.begin(HOURLY)
    order(shop, 0)
    shop.clock.advance(180 * MINUTE)
    order(shop, 0)
    assert not shop.score(NOON + MINUTE)["degraded"]  # nothing corroborates yet that it is three hours later
    assert shop.served("hourly__count_1h") == [1.0]
    holds(shop.project, 1)


def test_a_score_after_the_clock_was_a_day_ahead_and_set_back_verifies(shop: Shop) -> None:
    shop.begin(HOURLY)
    order(shop, 0)
    shop.clock.set(NOON + 24 * 60 * MINUTE, rate=0.0)
    order(shop, 0)
    shop.clock.set(NOON + SECOND, rate=0.0)
    assert not shop.score()["degraded"]
    assert (shop.served("hourly__count_1h"), shop.served("hourly__amount_first")) == ([1.0], [2.0])
    holds(shop.project, 1)


def test_a_score_amid_a_crowd_after_a_quiet_hour_is_degraded(shop: Shop) -> None:
    shop.begin(HOURLY)
    order(shop, 0)
    shop.clock.advance(180 * MINUTE)
    order(shop, *(30_000 * i for i in range(100)))  # more instants than an exact head keeps
    now = shop.clock.now()
    assert [shop.score(now - before)["degraded"] for before in (2_900_000, SECOND)] == [True, False]
    assert shop.served("hourly__count_1h")[1] == 66.0
    verified = shop.project.verify()
    assert (verified.requests, verified.mismatches, verified.degraded) == (1, 0, 1)


@pytest.mark.parametrize("archived", [False, True])
def test_what_is_recomputed_needs_the_events_of_its_keys_alone(shop: Shop, archived: bool) -> None:
    hourly = ms.StreamFeatureGroup("hourly", entity=user, source=orders, features=[ms.Count(over="1h")])
    payee = ms.StreamFeatureGroup(
        "payee", entity=user, source=orders, keys={"user_id": "payee_id"}, features=[ms.Count(over="5m")]
    )
    shop.begin(hourly, payee)
    old = [{"user_id": 1, "payee_id": 1, "at": NOON - hours * 60 * MINUTE} for hours in range(2, 40)]
    shop.project.load("orders", old)
    crowd = [{"user_id": i, "payee_id": 500, "at": NOON - i} for i in range(100, 400)]
    shop.project.send("orders", [*crowd, *({"user_id": 1, "payee_id": i, "at": NOON - i} for i in range(3))])
    shop.project.drain()
    if archived:
        shop.project.sync()
    shop.clock.advance(SECOND)
    request = shop.score()["request_id"]
    assert shop.served("hourly__count_1h") == [3.0]
    holds(shop.project, 1)
    assert shop.project.explain(request, "hourly__count_1h").events.num_rows == 3  # type: ignore[union-attr]
    (replay,) = cohorts(shop.project.parts.histories.captures("risk"), shop.project.parts.histories.verification())
    assert replay.table(orders).num_rows == 3
