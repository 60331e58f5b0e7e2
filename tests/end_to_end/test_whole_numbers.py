"""Whole numbers keep all 64 bits wherever nothing sums them: in `ms.compute`, online, in training, answers and `verify`."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import millstream as ms

BIG = 2**53 + 1
NUMBERS = [BIG, -BIG, 2**63 - 1, -(2**63), 7, None]
user = ms.Entity("user", keys={"user_id": "int64"})
cards = ms.Table(
    "cards", path="cards.parquet", time="seen", schema={"user_id": "int64", "card": "int64", "seen": "timestamp"}
)
last_card = ms.BatchFeatureGroup(
    "g", entity=user, sources=[cards], every="24h", time="seen", query="select user_id, seen, card from cards"
)
asks = ms.EventStream(
    "asks",
    time="at",
    schema={"id": "string", "user_id": "int64", "asked": "int64", "y": "bool", "at": "timestamp"},
)


@ms.on_demand(returns="bool")
def same(asked, g__card):
    return asked == g__card


view = ms.FeatureView("v", request={"asked": "int64"}, features=[last_card["card"].default(BIG), same])
model = ms.Model(
    "m",
    view=view,
    examples=asks,
    trainer=ms.LightGBM(rounds=5, min_rows=1),
    label=ms.Label(asks, "y", on="id", after="1m"),
)
NOW = datetime.now(UTC)
SEEN = NOW - timedelta(days=3)


def rows() -> list[dict[str, object]]:
    return [{"user_id": i, "card": number, "seen": SEEN} for i, number in enumerate(NUMBERS)]


def expected(asked: int | None) -> list[tuple[int | None, bool | None]]:
    found = [BIG if number is None else number for number in NUMBERS]
    return [(number, None if asked is None else number == asked) for number in found]


@pytest.mark.parametrize("asked", [BIG, BIG - 1, 7, None])
def test_the_pure_function_keeps_them(asked: int | None) -> None:
    at = NOW - timedelta(hours=1)
    wanted = [{"user_id": i, "asked": asked, "at": at} for i in range(len(NUMBERS))]
    found = ms.compute(view, {cards: rows()}, wanted)
    assert found["asked"].to_pylist() == [asked] * len(NUMBERS)
    assert list(zip(found["g__card"].to_pylist(), found["same"].to_pylist(), strict=True)) == expected(asked)


def test_a_project_keeps_them_online_in_training_and_for_verify(tmp_path: Path) -> None:
    project = ms.Project(tmp_path / "p", create=True)
    pq.write_table(pa.Table.from_pylist(rows()), tmp_path / "p" / "cards.parquet")
    project.apply(model)
    project.load(asks, [
        {"id": str(i), "user_id": i % 6, "asked": BIG, "y": i % 2 == 0, "at": NOW - timedelta(hours=1 + i)}
        for i in range(60)
    ])  # fmt: skip
    project.drain()
    project.backfill()
    online = project.features("v", [{"user_id": i, "asked": BIG} for i in range(len(NUMBERS))])
    assert list(zip(online["g__card"].to_pylist(), online["same"].to_pylist(), strict=True)) == expected(BIG)
    assert [online["asked"].type, online["g__card"].type] == [pa.int64(), pa.int64()]
    trained = project.training_set("m").table
    seen = {(row["user_id"], row["g__card"], row["same"], row["asked"]) for row in trained.to_pylist()}
    before = {(i, BIG, True, BIG) for i in range(len(NUMBERS))}  # of no run yet, so by the default
    assert seen <= before | {(i, *pair, BIG) for i, pair in enumerate(expected(BIG))}
    project.train("m")
    project.deploy("m")
    project.score("m", [{"id": "z", "user_id": i, "asked": BIG} for i in range(len(NUMBERS))])
    project.score("m", [{"id": "z", "user_id": 0, "asked": BIG}])
    project.sync()
    assert project.verify("v").mismatches == 0
    assert project.parity("m").unexplained == 0
    project.close()


payments = ms.EventStream(
    "payments", time="at",
    schema={"user_id": "int64", "order": "int64", "amount": "float64", "ok": "bool", "country": "string", "at": "timestamp"},
)  # fmt: skip
kept = ms.StreamFeatureGroup("kept", entity=user, source=payments, features=[
    ms.Max("order", over="30d"), ms.Min("order"), ms.Last("order"), ms.First("ok"), ms.Max("at"), ms.Max("country"),
    ms.ArgMax("order", by="amount"), ms.ArgMin("country", by="order"), ms.ArgMin("at", by="country", over="30d"),
])  # fmt: skip
KEPT = {
    "kept__order_max_30d": 2**63 - 1, "kept__order_min": -BIG, "kept__order_last": BIG, "kept__ok_first": False,
    "kept__at_max": SEEN + timedelta(hours=2), "kept__country_max": "FR", "kept__order_amount_arg_max": 2**63 - 1,
    "kept__country_order_arg_min": "", "kept__at_country_arg_min_30d": SEEN,
}  # fmt: skip


@ms.on_demand(returns="bool")
def repeated(asked, kept__order_last):
    return asked == kept__order_last


kept_view = ms.FeatureView("w", request={"asked": "int64"}, features=[kept, repeated])
kept_model = ms.Model(
    "n", view=kept_view, examples=asks, trainer=ms.LightGBM(rounds=5, min_rows=1),
    label=ms.Label(asks, "y", on="id", after="1m"),
)  # fmt: skip


def payment_rows() -> list[dict[str, object]]:
    one = {"user_id": 1, "order": -BIG, "amount": 1.0, "ok": False, "country": "", "at": SEEN}
    two = {
        "user_id": 1,
        "order": 2**63 - 1,
        "amount": 3.0,
        "ok": True,
        "country": "DE",
        "at": SEEN + timedelta(hours=1),
    }
    return [one, two, {**two, "order": BIG, "amount": 2.0, "country": "FR", "at": SEEN + timedelta(hours=2)}]


def test_what_an_aggregate_keeps_comes_back_as_it_was_on_every_path(tmp_path: Path) -> None:
    wanted = {"asked": BIG, **KEPT, "repeated": True}
    nothing = {"asked": BIG, **dict.fromkeys(KEPT), "repeated": None}
    keys = [{"user_id": 1, "asked": BIG}, {"user_id": 2, "asked": BIG}]
    at = NOW - timedelta(hours=1)
    found = ms.compute(kept_view, {payments: payment_rows()}, [{**one, "at": at} for one in keys])
    assert found.select(list(wanted)).to_pylist() == [wanted, nothing]
    project = ms.Project(tmp_path / "p", create=True)
    project.apply(kept_model)
    project.load(payments, payment_rows())
    project.load(asks, [
        {"id": str(i), "user_id": 1 + i % 2, "asked": BIG, "y": i % 2 == 0, "at": at - timedelta(minutes=i)} for i in range(60)
    ])  # fmt: skip
    project.drain()
    project.backfill()
    online = project.features("w", keys)
    assert online.to_pylist() == [wanted, nothing]
    assert online.schema == found.select(online.column_names).schema
    trained = project.training_set("n").table.select(list(wanted)).to_pylist()
    assert wanted in trained and nothing in trained and all(row in (wanted, nothing) for row in trained)
    project.train("n")
    project.deploy("n")
    project.score("n", [{"id": "z", **one} for one in keys])
    project.score("n", [{"id": "z", **keys[0]}])
    project.sync()
    history = project.history("kept").to_pylist()
    assert {name.removeprefix("kept__"): value for name, value in KEPT.items()}.items() <= history[0].items()
    assert project.verify("w").mismatches == 0
    assert project.parity("n").unexplained == 0
    project.close()
