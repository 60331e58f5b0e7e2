"""Probes: what a key has had of the request's value, held to pandas; what is null, and what is refused."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import pytest

import millstream as ms
from millstream.definitions.serialise import fingerprint, from_dict, to_dict
from millstream.errors import DefinitionError
from millstream.fold import layout_of

USER = ms.Entity("user", keys={"user_id": "int64"})
PAID = ms.EventStream("paid", time="at", schema={
    "user_id": "int64", "payee": "string", "shop": "int64", "ok": "bool", "day": "date", "card": "uuid", "seen": "timestamp",
    "amount": "float64", "at": "timestamp"})  # fmt: skip
FIELDS = {"payee": "string", "shop": "int64", "ok": "bool", "day": "date", "card": "uuid", "seen": "timestamp"}
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
OF = {ms.Seen: "seen", ms.CountBy: "count_by"}


def group(*features: Any, **given: Any) -> ms.StreamFeatureGroup:
    return ms.StreamFeatureGroup("g", entity=USER, source=PAID, features=list(features), **given)


def read(
    features: Any, events: list[dict[str, Any]], asked: list[dict[str, Any]], request: dict[str, str] | None = None
) -> list[dict[str, Any]]:
    view = ms.FeatureView("v", request=request or FIELDS, features=[features])
    rows = [{"user_id": 1, "at": NOON, **dict.fromkeys(view.request), **one} for one in asked]
    found = ms.compute(view, {PAID: [{"user_id": 1, **event} for event in events]}, rows).to_pylist()
    return [{name.removeprefix("g__"): value for name, value in row.items() if name.startswith("g__")} for row in found]


def test_many_requests_get_what_pandas_says() -> None:
    random = np.random.default_rng(5)
    events = pd.DataFrame({
        "payee": random.choice(["a", "é", "", "b" * 300, None], 400), "shop": 2**60 + random.integers(0, 30, 400),
        "ok": random.random(400) < 0.2, "amount": random.choice([0.1, 1e9, 7.25, None], 400).astype(float),
        "at": [NOON - timedelta(seconds=int(s)) for s in random.integers(1, 7200, 400)],
    })  # fmt: skip
    wanted = group(
        *(kind(name, request=name, over=["1h", None]) for kind in OF for name in ("payee", "shop", "ok")),
        ms.CountBy("payee", request="payee", where="ok", name="good"), ms.SumBy("payee", "amount", request="payee"),
        ms.SinceSeen("payee", request="payee"), ms.SinceSeen("shop", request="shop", over="1h"),
    )  # fmt: skip
    asked = [
        {"payee": payee, "shop": 2**60 + shop, "ok": ok}
        for payee in ("a", "é", "", "b" * 300, "b" * 299, None) for shop in (0, 7, 29, 30) for ok in (True, False)
    ]  # fmt: skip
    found = read(wanted, events.to_dict("records"), asked)
    for row, one in zip(found, asked, strict=True):
        for column in ("payee", "shop", "ok"):
            alike = events if one[column] is None else events[events[column] == one[column]]
            for suffix, some in (("_1h", alike[alike["at"] >= NOON - timedelta(hours=1)]), ("", alike)):
                count = None if one[column] is None else len(some)
                assert row[f"{column}_count_by{suffix}"] == count
                assert row[f"{column}_seen{suffix}"] == (None if count is None else count > 0)
        good = events[(events["payee"] == one["payee"]) & events["ok"]]
        assert row["good"] == (None if one["payee"] is None else len(good))
        alike = events[events["payee"] == one["payee"]]
        since = None if alike.empty else (NOON - alike["at"].max()).total_seconds()
        assert row["payee_since_seen"] == since
        assert row["payee_amount_sum_by"] == (None if one["payee"] is None else pytest.approx(alike["amount"].sum()))
        lately = events[(events["shop"] == one["shop"]) & (events["at"] >= NOON - timedelta(hours=1))]
        assert row["shop_since_seen_1h"] == (None if lately.empty else (NOON - lately["at"].max()).total_seconds())


@pytest.mark.parametrize(
    ("column", "had", "other"),
    [("payee", "ä" * 500, "ä" * 499), ("shop", 2**53 + 1, 2**53), ("ok", False, True),
     ("day", date(1, 1, 1), date(9999, 12, 31)),
     ("card", UUID(int=2**127), UUID(int=0)), ("seen", NOON, NOON + timedelta(microseconds=1))],
)  # fmt: skip
@pytest.mark.parametrize("over", ["1h", None, "3 events", "3 events within 1h", ms.Session(gap="30m")])
def test_every_type_is_looked_up_in_every_window(column: str, had: Any, other: Any, over: Any) -> None:
    wanted = group(
        *(kind(column, request=column, over=over, name=name) for kind, name in OF.items()),
        ms.SinceSeen(column, request=column, over=over, name="since"),
        ms.SumBy(column, "amount", request=column, over=over, name="sum"),
    )
    event = {column: had, "amount": 1.5, "at": NOON - timedelta(minutes=10)}
    found = read(wanted, [event, event, {"at": event["at"]}], [{column: one} for one in (had, other, None)])
    assert [list(row.values()) for row in found] == [[True, 2, 600.0, 3.0], [False, 0, None, 0.0], [None] * 4]
    assert [list(row.values()) for row in read(wanted, [], [{column: had}])] == [[False, 0, None, 0.0]]


def test_more_categories_than_may_be_are_null_until_enough_have_left() -> None:
    wanted = group(*(kind("shop", request="shop", categories=3, over=["10m", "1h"]) for kind in OF))
    events = [{"shop": n, "at": NOON - timedelta(minutes=12 * n)} for n in range(4)]
    (found,) = read(wanted, events[1:], [{"shop": 1}])
    assert found["shop_seen_1h"] is True
    (found,) = read(wanted, [*events[1:], {"shop": 0, "at": NOON - timedelta(minutes=1)}], [{"shop": 1}])
    assert found == {"shop_seen_10m": False, "shop_seen_1h": None, "shop_count_by_10m": 0, "shop_count_by_1h": None}


def test_a_condition_that_is_null_and_a_null_value_do_not_count() -> None:
    wanted = group(ms.CountBy("payee", request="payee", where="amount > 5", name="large"), where="ok is not false")
    events = [
        {"payee": "a", "amount": amount, "ok": ok, "at": NOON - timedelta(minutes=n)}
        for n, (amount, ok) in enumerate([(9.0, True), (9.0, False), (None, True), (9.0, None), (1.0, True)], 1)
    ]
    assert read(wanted, events, [{"payee": "a"}]) == [{"large": 2}]


def test_the_request_itself_counts_where_it_is_one_more_event() -> None:
    wanted = group(*(kind("payee", request="payee", over=["1h", "2 events"]) for kind in OF))
    events = [{"payee": "a", "at": NOON - timedelta(minutes=5)}]
    view = ms.FeatureView("v", request=FIELDS, features=[wanted, wanted.with_request(prefix="now")])
    rows = [{"user_id": 1, "at": NOON, **dict.fromkeys(FIELDS), "payee": payee} for payee in ("a", "b", None)]
    found = ms.compute(view, {PAID: [{"user_id": 1, **one} for one in events]}, rows).to_pylist()
    names = (
        "g__payee_count_by_1h",
        "now__g__payee_count_by_1h",
        "now__g__payee_count_by_2_events",
        "now__g__payee_seen_1h",
    )
    assert [[row[name] for name in names] for row in found] == [[1, 2, 2, True], [0, 1, 1, True], [None] * 4]


def test_fields_and_groups_are_asked_side_by_side() -> None:
    by_shop = ms.StreamFeatureGroup("s", entity=ms.Entity("shop", keys={"shop": "int64"}), source=PAID, features=[
        ms.Seen("payee", request="other"), ms.CountBy("ok", request="ok")])  # fmt: skip
    wanted = group(ms.Seen("payee", request="payee"), ms.Seen("payee", request="other", name="two"), ms.ZScore(
        "amount", request="amount"))  # fmt: skip
    request = {"payee": "string", "other": "string", "ok": "bool", "amount": "float64"}
    view = ms.FeatureView("v", request=request, features=[wanted, by_shop])
    events = [
        {"user_id": 1, "shop": 7, "payee": "a", "ok": True, "amount": amount, "at": NOON - timedelta(minutes=1)}
        for amount in (1.0, 3.0)
    ]
    row = {"user_id": 1, "shop": 7, "at": NOON, "payee": "b", "other": "a", "ok": True, "amount": 2.0}
    (found,) = ms.compute(view, {PAID: events}, [row]).to_pylist()
    assert {name: value for name, value in found.items() if "__" in name} == {
        "g__payee_seen": False, "g__two": True, "g__amount_zscore": 0.0, "s__payee_seen": True, "s__ok_count_by": 2,
    }  # fmt: skip


@ms.on_demand(returns="float64")
def familiarity(g__payee_count_by: float, g__count: float) -> float:
    return g__payee_count_by / g__count


def test_they_are_arguments_of_functions_and_parts_of_ratios() -> None:
    wanted = group(
        ms.CountBy("payee", request="payee"), ms.Count(),
        ms.Ratio(ms.CountBy("payee", request="payee"), ms.Count(), name="share"),
    )  # fmt: skip
    view = ms.FeatureView("v", request={"payee": "string"}, features=[wanted, familiarity])
    events = [{"user_id": 1, "payee": payee, "at": NOON - timedelta(minutes=1)} for payee in "aab"]
    rows = [{"user_id": user, "at": NOON, "payee": payee} for user, payee in ((1, "a"), (1, "z"), (1, None), (2, "a"))]
    found = ms.compute(view, {PAID: events}, rows).to_pylist()
    assert [row["g__share"] for row in found] == [2 / 3, 0.0, None, None]
    assert [row["familiarity"] for row in found] == [2 / 3, 0.0, None, None]


def test_sums_and_times_of_the_request_itself_count_too() -> None:
    wanted = group(
        ms.SumBy("payee", "amount", request="payee", over=["1h", "2 events"]), ms.SinceSeen("payee", request="payee")
    )
    events = [{"payee": "a", "amount": 2.0, "at": NOON - timedelta(minutes=5)}]
    both = [wanted, wanted.with_request(prefix="now")]
    view = ms.FeatureView("v", request={**FIELDS, "amount": "float64"}, features=both)
    rows = [
        {"user_id": 1, "at": NOON, **dict.fromkeys(view.request), "payee": payee, "amount": amount}
        for payee, amount in (("a", 3.0), ("b", 3.0), ("b", None), (None, 3.0))
    ]
    found = ms.compute(view, {PAID: [{"user_id": 1, **one} for one in events]}, rows).to_pylist()
    assert [row["g__payee_amount_sum_by_1h"] for row in found] == [2.0, 0.0, 0.0, None]
    assert [row["now__g__payee_amount_sum_by_1h"] for row in found] == [5.0, 3.0, 0.0, None]
    assert [row["now__g__payee_amount_sum_by_2_events"] for row in found] == [5.0, 3.0, 0.0, None]
    assert [row["g__payee_since_seen"] for row in found] == [300.0, None, None, None]
    assert [row["now__g__payee_since_seen"] for row in found] == [0.0, 0.0, 0.0, None]


def test_two_of_one_column_keep_one_bag() -> None:
    one = layout_of(group(ms.Seen("payee", request="payee")))
    both = layout_of(group(ms.Seen("payee", request="payee"), ms.CountBy("payee", request="other")))
    assert one.entries is not None
    assert both.entries is not None
    assert one.entries.bags == both.entries.bags
    assert one.state_bytes_max == both.state_bytes_max
    dated = layout_of(group(ms.Seen("payee", request="payee"), ms.SinceSeen("payee", request="payee")))
    other = layout_of(group(ms.SinceSeen("payee", request="payee"), ms.CountBy("payee", request="payee")))
    assert dated.entries is not None
    assert other.entries is not None
    assert [bag.width for bag in dated.entries.bags] == [bag.width for bag in other.entries.bags] == [3]
    assert both.lookups == (("payee", "string"), ("other", "string"))


def test_they_are_kept_in_the_registry_and_told_apart() -> None:
    every = [group(kind("payee", request=request, name="p")) for kind in OF for request in ("payee", "other")]
    every.append(group(ms.Seen("payee", request="payee", name="p", categories=9)))
    assert len({fingerprint(one) for one in every}) == len(every)
    for one in every:
        again = from_dict(to_dict(one))
        assert (again, fingerprint(again), again.columns) == (one, fingerprint(one), one.columns)
    assert dict(every[0].schema_of_features) == {"p": "bool"}


def view_of(request: dict[str, str]) -> ms.FeatureView:
    return ms.FeatureView("v", request=request, features=[group(ms.Seen("payee", request="payee"))])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ms.Seen("payee"), "missing a required argument: 'request'"),
        (lambda: ms.Seen("payee", request=None), "(?s)the name of a field of the request.*ms.Seen"),
        (lambda: ms.CountBy("payee", 3, request="payee"), "(?s)k was given 3; expected none.*one number"),
        (lambda: ms.CountBy("payee", request="a b"), "the name of a field of the request"),
        (lambda: ms.Seen("payee", request="payee", categories=0), "categories"),
        (lambda: ms.SumBy("payee", "", request="payee"), "(?s)value.*a column or an SQL expression"),
        (lambda: group(ms.SumBy("payee", "payee", request="payee")), "has type string; expected a number"),
        (lambda: group(ms.SumBy("amount", "shop", request="amount")), "has type float64; expected int64 or string"),
        (lambda: group(ms.Seen("amount", request="amount")), "(?s)has type float64; expected int64 or string"),
        (lambda: ms.Ratio(ms.Seen("payee", request="p"), ms.Count(), name="r") and group(
            ms.Ratio(ms.Seen("payee", request="p"), ms.Count(), name="r")), "has type bool; expected a number"),
        (lambda: view_of({}), r"(?s)no field of its request, which has none.*request=\{\"payee\": \"string\"\}"),
        (lambda: view_of({"payee": "int64"}), r"(?s)request=\"payee\" of group 'g' has type int64; expected string.*looked up"),
        (lambda: ms.compute(group(ms.Seen("payee", request="payee")), {PAID: []}, [{"user_id": 1, "at": NOON}]),
         "is no field of its request"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(make: Any, said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        make()


def test_a_request_without_the_field_or_of_another_type_is_one_error() -> None:
    view = view_of({"payee": "string"})
    for row in ({"user_id": 1, "at": NOON}, {"user_id": 1, "at": NOON, "payee": 7}):
        with pytest.raises(ms.MillstreamError) as raised:
            ms.compute(view, {PAID: []}, [row])
        assert "payee" in str(raised.value)
