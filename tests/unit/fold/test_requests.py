"""The request as one more row: what it adds, what it does not, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import millstream as ms
from millstream.definitions.serialise import fingerprint, from_dict, to_dict
from millstream.errors import DefinitionError
from millstream.fold import RequestRows, request_lanes

USER = ms.Entity("user", keys={"user_id": "int64"})
PAID = ms.EventStream("paid", time="at", schema={
    "user_id": "int64", "payee_id": "int64", "amount": "float64", "country": "string", "ok": "bool",
    "at": "timestamp"})  # fmt: skip
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def group(*features: Any, **given: Any) -> ms.StreamFeatureGroup:
    return ms.StreamFeatureGroup("g", entity=USER, source=PAID, features=list(features), **given)


def event(minute: int, amount: float | None, country: str = "DE", second: int = 0, **given: Any) -> dict[str, Any]:
    at = NOON.replace(minute=minute, second=second)
    return {"user_id": 1, "payee_id": 2, "amount": amount, "country": country, "ok": True, "at": at, **given}


def read(features: Any, events: list[dict[str, Any]], request: dict[str, str], **asked: Any) -> dict[str, Any]:
    view = ms.FeatureView("v", request=request, features=features if isinstance(features, list) else [features])
    row = {"user_id": 1, "at": NOON.replace(minute=30), **asked}
    return ms.compute(view, {PAID: events}, [row]).to_pylist()[0]


EVERY = group(
    ms.Count(over="1h"), ms.Sum("amount", over="1h"), ms.Mean("amount"), ms.Last("country"), ms.Min("amount"),
    ms.TimeSince(), ms.Count(over="1h", delay="1m", name="before"), ms.Max("k", over="1h"),
    ms.Share(where="country = 'FR'", name="french", over="1h"), ms.ZScore("amount", request="amount"),
    ms.Ratio(ms.Last("amount"), ms.Mean("amount"), name="step"), where="amount > 0", derive={"k": "amount / 1000"},
)  # fmt: skip
FIELDS = {"amount": "float64", "country": "string"}


def test_the_request_is_one_more_event_of_every_aggregate() -> None:
    events = [event(10, 10.0), event(20, 30.0)]
    found = read([EVERY, EVERY.with_request(prefix="now")], events, FIELDS, amount=80.0, country="FR")
    with_it = {name.removeprefix("now__g__"): value for name, value in found.items() if name.startswith("now__")}
    assert with_it == {
        "count_1h": 3, "amount_sum_1h": 120.0, "amount_mean": 40.0, "country_last": "FR", "amount_min": 10.0,
        "time_since": 0.0, "before_1h": 2, "k_max_1h": 0.08, "french_1h": 1 / 3,
        "amount_zscore": (80 - 40) / 1300**0.5, "step": 2.0,
    }  # fmt: skip
    plain = {name.removeprefix("g__"): value for name, value in found.items() if name.startswith("g__")}
    assert (plain["count_1h"], plain["amount_sum_1h"], plain["time_since"]) == (2, 40.0, 600.0)


def test_it_is_what_the_event_would_be_once_it_is_there_a_moment_later() -> None:
    events = [event(10, 10.0), event(20, 30.0)]
    found = read(EVERY.with_request(), events, FIELDS, amount=80.0, country="FR")
    late = {"amount": 80.0, "country": "FR", "at": NOON.replace(minute=30, microsecond=1)}
    after = read(EVERY, [*events, event(30, 80.0, "FR")], FIELDS, **late)
    moved = ("at", "g__time_since")
    assert {n: v for n, v in found.items() if n not in moved} == {n: v for n, v in after.items() if n not in moved}


def test_a_payment_that_is_published_already_does_not_count_twice() -> None:
    events = [event(10, 10.0), event(30, 80.0, "FR"), event(30, 5.0)]
    found = read(EVERY.with_request(), events, FIELDS, amount=80.0, country="FR")
    assert (found["g__count_1h"], found["g__amount_sum_1h"]) == (2, 90.0)


@pytest.mark.parametrize(
    ("asked", "count"),
    [({"amount": -1.0}, 1), ({"amount": None}, 1), ({"amount": float("nan")}, 1), ({"amount": 2.0**51}, 1),
     ({"user_id": None}, 0), ({"user_id": 9}, 1), ({"country": "x" * 40}, 1), ({"country": None}, 2), ({}, 2)],
)  # fmt: skip
def test_what_the_group_drops_and_what_would_be_a_dead_letter_is_not_added(asked: dict[str, Any], count: int) -> None:
    found = read(EVERY.with_request(), [event(10, 10.0)], FIELDS, **({"amount": 80.0, "country": "FR"} | asked))
    assert found["g__count_1h"] == count


def test_columns_are_given_by_other_fields_and_by_none() -> None:
    wanted = group(ms.Sum("amount", over="1h"), ms.Count("country", over="1h", name="known"), ms.Count(over="1h"))
    found = read(wanted.with_request(amount="price"), [event(10, 10.0)], {"price": "float64"}, price=5.0)
    assert (found["g__amount_sum_1h"], found["g__known_1h"], found["g__count_1h"]) == (15.0, 1, 2)
    payee = group(ms.Count(over="1h"), keys={"user_id": "payee_id"})
    (read_by,) = ms.FeatureView("v", features=[payee.on(user_id="to").with_request(prefix="to")]).groups
    assert read_by.fields == {"payee_id": "to"}
    found = read(payee.on(user_id="to").with_request(prefix="to"), [event(10, 10.0)], {}, to=2)
    assert found["to__g__count_1h"] == 2


def test_a_group_is_read_by_several_fields_side_by_side() -> None:
    wanted = group(ms.Sum("amount", over="1h"), ms.Max("amount", over="1h"))
    refs = [wanted["amount_sum_1h"].with_request(amount="a"), wanted["amount_max_1h"].with_request(amount="b")]
    view = ms.FeatureView("v", request={"a": "float64", "b": "float64"}, features=refs)
    assert len({one.name for one in view.groups}) == 2
    found = read(refs, [event(10, 10.0)], dict(view.request), a=1.0, b=70.0)
    assert (found["g__amount_sum_1h"], found["g__amount_max_1h"]) == (11.0, 70.0)


def test_a_view_without_it_is_what_it_was_and_one_with_it_is_kept() -> None:
    plain = ms.FeatureView("v", request=FIELDS, features=[EVERY])
    assert "fields" not in str(to_dict(plain)["features"][0])
    views = [plain] + [
        ms.FeatureView("v", request={**FIELDS, "price": "float64"}, features=[one])
        for one in (EVERY, EVERY.with_request(), EVERY.with_request(amount="price"))
    ]
    assert len({fingerprint(view) for view in views}) == 4
    for view in views:
        again = from_dict(to_dict(view))
        assert (again, fingerprint(again), again.groups) == (view, fingerprint(view), view.groups)


def view_of(feature: Any, **request: str) -> ms.FeatureView:
    return ms.FeatureView("v", request=request, features=[feature])


COUNT = group(ms.Count(over="1h"))
TABLE = ms.Table("t", path="t.parquet", time="at", schema={"user_id": "int64", "at": "timestamp"})
BATCH = ms.BatchFeatureGroup("b", entity=USER, source=TABLE, every="24h", features=[ms.Count(over="90d")])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: COUNT.with_request(amout="x"), "(?s)unknown column 'amout'.*did you mean 'amount'"),
        (lambda: COUNT.with_request(at="when"), "(?s)no field for the time.*the moment of the read"),
        (lambda: COUNT.with_request(amount=""), "the name of a field of the request"),
        (lambda: COUNT.with_request(prefix="a b"), "a name is letters"),
        (lambda: BATCH.with_request(), "expected a StreamFeatureGroup"),
        (lambda: view_of(COUNT.with_request(amount="price"), prise="float64"), "did you mean 'prise'"),
        (lambda: view_of(COUNT.with_request(amount="country"), country="string"), "has type string; expected float64"),
        (lambda: view_of(COUNT.with_request(), amount="int64"), "has type int64; expected float64"),
        (lambda: view_of(COUNT.with_request(user_id="other"), other="int64"), "(?s)read it by another: .on"),
        (lambda: view_of(group(ms.Count(), where="upper(country) = 'DE'").with_request()), "no compiled form.*UPPER"),
        (lambda: view_of(group(ms.Sum("ln(amount)", name="l")).with_request()), "(?s)sum of group 'g'.*no compiled form"),
        (lambda: view_of(group(ms.Count(), keys={"user_id": "k"}, derive={"k": "payee_id + 1"}).with_request()),
         "its key 'k' is derived"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_when_it_is_built(make: Any, said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        make()


@pytest.mark.parametrize("many", [0, 1, 4])
def test_rows_of_no_query_are_those_of_one(many: int) -> None:
    kept = group(
        ms.Last("country"), ms.Min("country"), ms.ArgMin("country", by="amount"), ms.ArgMax("amount", by="country"),
        ms.Max("payee_id"), ms.Last("at", name="last_at"), ms.ArgMin("ok", by="payee_id"), ms.Kurtosis("amount"),
        ms.Count("k", where="ok", over="1h"), ms.Count(where="share > 1", name="large"), ms.Mean("share"),
        ms.Max("coalesce(share, 9)", name="most"), where="amount <> 4",
        derive={"k": "payee_id * payee_id", "share": "1 / amount"},
    )  # fmt: skip
    given = {
        "user_id": [1, 2, None, 4], "payee_id": [2**60 + 1, 1, 2, 3], "amount": [4.5, -0.0, 4.0, 0.5],
        "country": ["é", "x" * 39, "", "DE"], "ok": [True, None, False, True],
    }  # fmt: skip
    given = {name: values[:many] for name, values in given.items()}
    fields, at = {name: name for name in given}, np.array([5, 7, 9, 11][:many], np.int64)
    kinds = {name: kind for name, kind in (("country", pa.string()), ("ok", pa.bool_()), ("amount", pa.float64()))}
    columns = {name: pa.array(values, kinds.get(name, pa.int64())) for name, values in given.items()}
    added = RequestRows([(kept, fields)]).added(given, at)
    assert added.lanes.tolist() == request_lanes(kept, fields, columns, at).reshape(-1).tolist()


VALUES = group(
    ms.DistinctCount("country"), ms.DistinctCount("payee_id", over="1h"), ms.Median("amount", over="1h"),
    ms.Quantile("amount", q=1.0, over="1h", delay="1m", name="before"), ms.Mode("country", over="1h"),
    ms.Entropy("ok"), ms.Lag("amount"), ms.Lag("country", 2), ms.LastK("amount", k=3, over="1h"), ms.Count(),
    ms.Mode("country", categories=2, name="few"), ms.SumBy("country", "amount"), ms.By("country", ms.Last("country")),
    ms.LastK(["amount", "country"], k=2), where="amount > 0",
)  # fmt: skip


def test_the_request_is_one_more_entry_of_what_tells_values_apart() -> None:
    events = [event(10, 10.0), event(20, 30.0, "FR"), event(30, 99.0, "ES")]
    found = read([VALUES.with_request(prefix="now")], events, FIELDS, amount=80.0, country="FR")
    assert {name.removeprefix("now__g__"): value for name, value in found.items() if name.startswith("now__")} == {
        "country_distinct_count": 2, "payee_id_distinct_count_1h": 1, "amount_median_1h": 30.0, "before_p100_1h": 30.0,
        "country_mode_1h": "FR", "ok_entropy": 0.0, "amount_lag_1": 80.0, "country_lag_2": "FR",
        "amount_last_3_1h": [80.0, 30.0, 10.0], "count": 3, "few": "FR",
        "country_amount_sum_by": [("FR", 110.0), ("DE", 10.0)], "country_country_last_by": [("FR", "FR"), ("DE", "DE")],
        "amount_country_last_2": [{"amount": 80.0, "country": "FR"}, {"amount": 30.0, "country": "FR"}],
    }  # fmt: skip
    beyond = read(VALUES.with_request(), events, FIELDS, amount=80.0, country="IT")
    assert (beyond["g__few"], beyond["g__country_mode_1h"], beyond["g__country_distinct_count"]) == (None, "DE", 3)


@pytest.mark.parametrize("asked", [{"amount": -1.0}, {"amount": None}, {"amount": 2.0**51}, {"country": "x" * 40}])
def test_a_request_that_would_be_no_event_adds_no_entry(asked: dict[str, Any]) -> None:
    found = read(VALUES.with_request(), [event(10, 10.0)], FIELDS, **({"amount": 80.0, "country": "FR"} | asked))
    assert (found["g__count"], found["g__amount_median_1h"], found["g__country_distinct_count"]) == (1, 10.0, 1)


@pytest.mark.parametrize("known", [255, 256, 300])
def test_a_distinct_count_with_the_request_is_that_of_the_values_with_it(known: int) -> None:
    counted = group(ms.DistinctCount("payee_id"), ms.Median("amount"))
    events = [event(i % 30, float(i), payee_id=i) for i in range(known)]
    asked = [{"user_id": 1, "at": NOON.replace(minute=m), "payee_id": p, "amount": a} for m, p, a in
             [(31, 1000, 5.5), (32, 3, 7.0), (33, 2000, -1.0)]]  # fmt: skip
    request = {"payee_id": "int64", "amount": "float64"}
    view = ms.FeatureView("v", request=request, features=[counted.with_request()])
    found = ms.compute(view, {PAID: events}, asked).to_pylist()
    plain = ms.FeatureView("v", features=[counted])
    for row, one in zip(found, asked, strict=True):
        there = [*events, event(30, one["amount"], payee_id=one["payee_id"])]
        (wanted,) = ms.compute(plain, {PAID: there}, [{"user_id": 1, "at": one["at"]}]).to_pylist()
        for name in ("g__payee_id_distinct_count", "g__amount_median"):
            assert row[name] == wanted[name]
