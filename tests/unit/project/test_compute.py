"""`compute`: definitions tried on data frames, with the semantics of the pipeline and none of its parts."""

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import millstream as ms
from millstream.errors import MillstreamError, RequestError, TrainingError
from millstream.fold.oracle import OracleEvent, oracle

HOUR = 3_600_000_000
SCHEMA = {"id": "string", "user_id": "int64", "payee_id": "int64", "amount": "float64", "at": "timestamp"}
user = ms.Entity("user", keys={"user_id": "int64"})
payments = ms.EventStream("payments", time="at", deduplicate="id", delay="2s", schema=SCHEMA)
spend = ms.StreamFeatureGroup(
    "spend",
    entity=user,
    source=payments,
    where="amount > 0",
    features=[
        ms.Count(over=["1m", "1h"]),
        ms.Sum("amount", over="1h"),
        ms.Last("amount"),
        ms.Max("amount", over="24h"),
    ],
)
accounts = ms.Table(
    "accounts",
    path="accounts.parquet",
    time="updated_at",
    delay="1h",
    schema={"user_id": "int64", "tier": "string", "updated_at": "timestamp"},
)


def moment(micros):
    return np.datetime64(micros, "us")  # a small number alone would be taken for seconds


def payment(user_id, minute, amount=5.0, **fields):
    return {
        "id": f"p{user_id}-{minute}-{amount}",
        "user_id": user_id,
        "amount": amount,
        "at": moment(minute * 60_000_000),
    } | fields


def asked(user_id, minute):
    return {"user_id": user_id, "at": moment(minute * 60_000_000)}


def test_an_event_counts_after_it_happened_and_once_it_was_known():
    events = [payment(1, 0), payment(1, 10)]
    rows = [asked(1, 10), {"user_id": 1, "at": moment(601_000_000)}, {"user_id": 1, "at": moment(602_000_000)}]
    found = ms.compute(spend, {payments: events}, rows)
    assert found["spend__count_1h"].to_pylist() == [1, 1, 2]  # at 10:00, a second and two seconds after it


def test_order_is_kept_and_nothing_is_lost():
    rows = [asked(2, 50), asked(None, 50), asked(1, 50), asked(99, 50), asked(2, 1)]
    found = ms.compute(spend, {"payments": [payment(1, 10), payment(2, 20, 7.0), payment(2, 30, -1.0)]}, rows)
    assert found["user_id"].to_pylist() == [2, None, 1, 99, 2]
    assert found["spend__count_1h"].to_pylist() == [1, 0, 1, 0, 0]
    assert found["spend__amount_last"].to_pylist() == [7.0, None, 5.0, None, None]


def test_a_repeat_counts_once():
    events = [payment(1, 10), payment(1, 10), payment(1, 11)]
    assert ms.compute(spend, {payments: events}, [asked(1, 30)])["spend__count_1h"].to_pylist() == [2]


@pytest.mark.parametrize("frame", [list, pa.Table.from_pylist, pd.DataFrame, pl.DataFrame])
def test_any_data_frame_goes_in(frame):
    events = [payment(1, 10) | {"at": datetime(1970, 1, 1, 0, 10, tzinfo=UTC)}, payment(2, 20)]
    events[1]["at"] = datetime(1970, 1, 1, 0, 20, tzinfo=UTC)
    rows = frame([{"user_id": 1, "at": datetime(1970, 1, 1, 0, 30, tzinfo=UTC)}])
    found = ms.compute(spend, {payments: frame(events)}, rows)
    assert found.select(["user_id", "at", "spend__count_1h", "spend__amount_sum_1h"]).to_pylist() == [
        {"user_id": 1, "at": datetime(1970, 1, 1, 0, 30, tzinfo=UTC), "spend__count_1h": 1, "spend__amount_sum_1h": 5.0}
    ]


def test_a_view_assembles_requests_other_keys_defaults_and_on_demand_features():
    @ms.on_demand(returns="float64")
    def ratio(amount, spend__amount_sum_1h):
        return amount / spend__amount_sum_1h

    view = ms.FeatureView(
        "fraud",
        request={"amount": "float64", "country": "string"},
        features=[
            spend,
            spend.on(user_id="payee_id", prefix="payee"),
            spend["amount_last"].on(user_id="other", prefix="o").default(-1.0),
            ratio,
        ],
    )
    row = {"user_id": 1, "payee_id": 2, "other": 3, "amount": 10.0, "country": None, "at": moment(30 * 60_000_000)}
    (found,) = ms.compute(view, {payments: [payment(1, 10), payment(2, 20, 8.0)]}, [row]).to_pylist()
    assert (found["spend__count_1h"], found["payee__spend__amount_last"]) == (1, 8.0)
    assert (found["o__spend__amount_last"], found["ratio"], found["country"]) == (-1.0, 2.0, None)


def test_a_union_of_streams_is_one_history():
    refunds = ms.EventStream("refunds", time="at", schema=SCHEMA)
    both = ms.StreamFeatureGroup(
        "both", entity=user, source=[payments, refunds], features=[ms.Count(), ms.Last("amount")]
    )
    found = ms.compute(
        both, {payments: [payment(2, 1), payment(1, 2)], refunds: [payment(1, 3, 9.0)]}, [asked(1, 9), asked(2, 9)]
    )
    assert found["both__count"].to_pylist() == [2, 1]
    assert found["both__amount_last"].to_pylist() == [9.0, 5.0]


def test_a_batch_group_shows_what_its_last_run_could_know():
    kyc = ms.BatchFeatureGroup(
        "kyc",
        entity=user,
        sources=[accounts],
        every="24h",
        time="updated_at",
        query="select user_id, updated_at, tier from accounts",
    )
    rows = [
        {"user_id": 1, "tier": "basic", "updated_at": "1970-01-01T10:00:00Z"},
        {"user_id": 1, "tier": "gold", "updated_at": "1970-01-02T10:00:00Z"},
        {"user_id": 1, "tier": "late", "updated_at": "1970-01-03T23:30:00Z"},  # known half an hour after the run
    ]
    at = [{"user_id": 1, "at": f"1970-01-0{day}T12:00:00Z"} for day in (1, 2, 3, 4, 5)]
    found = ms.compute(kyc, {accounts: rows}, at)
    assert found["kyc__tier"].to_pylist() == [None, "basic", "gold", "gold", "late"]


def test_a_key_that_vanished_from_a_snapshot_is_null():
    query = """
        select user_id, max_by(tier, updated_at) as tier from accounts
        group by user_id having max_by(tier, updated_at) <> 'closed'
    """
    kyc = ms.BatchFeatureGroup("kyc", entity=user, sources=[accounts], every="24h", query=query)
    rows = [
        {"user_id": 1, "tier": "gold", "updated_at": "1970-01-01T10:00:00Z"},
        {"user_id": 1, "tier": "closed", "updated_at": "1970-01-03T10:00:00Z"},
    ]
    at = [{"user_id": 1, "at": f"1970-01-0{day}T12:00:00Z"} for day in (2, 3, 4)]
    assert ms.compute(kyc, {accounts: rows}, at)["kyc__tier"].to_pylist() == ["gold", "gold", None]


def test_a_query_sees_its_interval():
    daily = ms.BatchFeatureGroup(
        "daily", entity=user, sources=[payments], every="24h",
        query="select user_id, count(*) as n from payments where \"at\" >= :start and \"at\" < :end group by user_id",
    )  # fmt: skip
    events = [payment(1, 60), payment(1, 120), payment(1, 24 * 60 + 1)]
    at = [{"user_id": 1, "at": f"1970-01-0{day}T12:00:00Z"} for day in (1, 2, 3, 4)]
    assert ms.compute(daily, {payments: events}, at)["daily__n"].to_pylist() == [None, 2, 1, None]


def test_a_fold_over_a_table_counts_from_the_run_that_took_it_in():
    visits = ms.Table("visits", path="v.parquet", time="at", schema={"user_id": "int64", "at": "timestamp"})
    group = ms.BatchFeatureGroup("visits", entity=user, source=visits, every="1h", features=[ms.Count(over="24h")])
    rows = [asked(1, 30), asked(1, 70)]
    found = ms.compute(group, {visits: rows}, [asked(1, 59), asked(1, 60), asked(1, 119), asked(1, 120)])
    assert found["visits__count_24h"].to_pylist() == [0, 1, 1, 2]


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (payment(1, 1) | {"amount": "much"}, "(?s)Stream 'payments': the event .*much.* cannot be taken.*amount"),
        (payment(1, 1) | {"at": None}, "No event time"),
    ],
)
def test_an_event_that_does_not_fit_is_an_error_here(event, message):
    with pytest.raises(MillstreamError, match=message):
        ms.compute(spend, {payments: [payment(1, 0), event]}, [asked(1, 5)])


def test_an_expression_that_fails_is_an_error_here():
    notes = ms.EventStream("notes", time="at", schema={"user_id": "int64", "text": "string", "at": "timestamp"})
    group = ms.StreamFeatureGroup(
        "notes", entity=user, source=notes, derive={"n": "cast(text as double)"}, features=[ms.Sum("n", over="1h")]
    )
    events = [{"user_id": 1, "text": text, "at": 0} for text in ("1", "x")]
    with pytest.raises(MillstreamError, match="Feature group 'notes': row 1 cannot be computed"):
        ms.compute(group, {notes: events}, [asked(1, 5)])


def test_what_is_missing_is_named():
    with pytest.raises(MillstreamError, match=r"reads 'payments', which was not given.\n\nHint: 'paymets' was given"):
        ms.compute(spend, {"paymets": []}, [asked(1, 5)])
    with pytest.raises(RequestError, match="'user_id' is absent"):
        ms.compute(spend, {payments: []}, [{"at": 0}])
    with pytest.raises(TrainingError, match="'user_id' is 'x' in row 1; expected int64"):
        ms.compute(spend, {payments: []}, [{"user_id": None, "at": 0}, {"user_id": "x", "at": 0}])


def test_no_events_and_no_rows():
    assert ms.compute(spend, {payments: []}, [asked(1, 5)])["spend__count_1h"].to_pylist() == [0]
    assert ms.compute(spend, {payments: [payment(1, 1)]}, []).num_rows == 0


event_lists = st.lists(
    st.tuples(st.integers(1, 2), st.integers(0, 3 * HOUR), st.floats(-10, 1e6, width=32)), min_size=0, max_size=30
)


@settings(max_examples=150, deadline=None)
@given(event_lists, st.lists(st.tuples(st.integers(1, 3), st.integers(0, 4 * HOUR)), min_size=1, max_size=10))
def test_every_value_is_the_oracles(events, queries):
    rows = [{"id": str(i), "user_id": u, "amount": a, "at": moment(t)} for i, (u, t, a) in enumerate(events)]
    found = ms.compute(spend, {payments: rows}, [{"user_id": u, "at": moment(t)} for u, t in queries])
    for i, (who, at) in enumerate(queries):
        history = [
            OracleEvent(t, t + 2_000_000, t + 2_000_000, {"amount": a}) for u, t, a in events if u == who and a > 0
        ]
        expected = oracle(spend.columns, history, at)
        assert {name: found[f"spend__{name}"][i].as_py() for name in expected} == expected


@settings(max_examples=50, deadline=None)
@given(event_lists, st.integers(0, 3 * HOUR))
def test_no_value_uses_what_was_not_known(events, at):
    rows = [{"id": str(i), "user_id": u, "amount": a, "at": moment(t)} for i, (u, t, a) in enumerate(events)]
    known = [row for row in rows if row["at"] + np.timedelta64(2, "s") <= moment(at)]
    wanted = [{"user_id": u, "at": moment(at)} for u in (1, 2)]
    assert ms.compute(spend, {payments: rows}, wanted).equals(ms.compute(spend, {payments: known}, wanted))
    assert len(known) <= len(rows) and np.all([row["at"] < moment(at) for row in known])


@pytest.mark.parametrize("year", [1, 1900, 1965, 1969, 1970, 1975, 9998])
def test_history_of_any_year_counts_when_it_arrived(year):
    visits = ms.EventStream("visits", time="at", schema={"user_id": "int64", "at": "timestamp"}, delay="5m")
    pace = ms.StreamFeatureGroup(
        "pace", entity=user, source=visits, features=[ms.Count(over="1h"), ms.Count(name="ever")]
    )
    at = {minute: f"{year:04}-12-31T22:{minute:02}:00Z" for minute in (0, 4, 30)}
    rows = [{"user_id": 1, "at": at[minute]} for minute in (4, 30)]
    found = ms.compute(pace, {visits: [{"user_id": 1, "at": at[0]}]}, rows).to_pylist()
    assert [(row["pace__count_1h"], row["pace__ever"]) for row in found] == [(0, 0), (1, 1)]


counted = ms.StreamFeatureGroup("counted", entity=user, source=payments, features=[ms.Count(over="1h"), ms.Count()])


def test_asking_for_no_rows_gives_the_columns_of_the_view():
    names = ms.StreamFeatureGroup("names", entity=user, source=payments, features=[ms.Last("id"), ms.First("amount")])
    view = ms.FeatureView("v", request={"country": "string"}, features=[names])
    for rows in ([], pa.table({"user_id": pa.array([], pa.int64()), "country": [], "at": []})):
        found = ms.compute(view, {payments: []}, rows)
        assert (found.num_rows, found.column_names) == (
            0,
            ["user_id", "at", "country", "names__id_last", "names__amount_first"],
        )


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (1_767_261_600_000_000_000, "looks like nanoseconds"),
        (1_767_261_600, "looks like seconds"),
        (1_767_261_600_000, "looks like milliseconds"),
        (2**63, "years 1 to 9999"),
        (-(2**62), "years 1 to 9999"),
        ("yesterday", "ISO-8601"),
        (True, "ISO-8601"),
        (float("nan"), "expected an instant in row 0"),
        (None, "expected an instant in row 0"),
        (pa.scalar(2**62, pa.timestamp("us")), "years 1 to 9999"),
    ],
)
def test_an_instant_that_cannot_be_is_one_clear_error(at, said):
    rows = pa.table({"user_id": [1], "at": pa.array([at])}) if isinstance(at, pa.Scalar) else [{"user_id": 1, "at": at}]
    with pytest.raises(MillstreamError, match=said):
        ms.compute(counted, {payments: []}, rows)


def test_a_row_of_a_table_beyond_all_years_is_one_clear_error():
    tiers = ms.BatchFeatureGroup(
        "tiers",
        entity=user,
        sources=[accounts],
        every="24h",
        time="updated_at",
        query="select user_id, updated_at, tier from accounts",
    )
    far = pa.table({"user_id": [1], "tier": ["a"], "updated_at": pa.array([2**62], pa.timestamp("us", "UTC"))})
    with pytest.raises(MillstreamError, match=r"'updated_at' is '4611686018427387904' in row 0"):
        ms.compute(tiers, {accounts: far}, [asked(1, 5)])


@pytest.mark.parametrize("frame", [list, pd.DataFrame, pl.DataFrame, pa.Table.from_pylist])
def test_a_misspelt_key_is_an_error(frame):
    rows = frame([{"id": "a", "userid": 1, "amount": 1.0, "at": "2026-01-01"}])
    with pytest.raises(MillstreamError, match=r"(?s)no row has the column 'user_id'.*did you mean 'userid'"):
        ms.compute(spend, {payments: rows}, [asked(1, 5)])
