import json
from datetime import datetime
from typing import Any

import pytest

import millstream as ms
from millstream.definitions.on_demand import OnDemandFeature
from millstream.definitions.serialise import data_of, fingerprint, from_dict, to_dict
from millstream.errors import DefinitionError

PADS = {"n": -1, "at": datetime(1970, 1, 1, 1)}


def definitions(fraud):
    visits = ms.Table(
        "visits",
        path="v.parquet",
        time="at",
        schema={"user_id": "int64", "n": "int64", "v": "list<float64>", "at": "timestamp"},
    )
    every_aggregate = [
        ms.Count("n", over="1h"), ms.Sum("n", over=["1h", None], delay="5m"),
        ms.Mean("n * 2", name="double", over="1h"),
        ms.Std("n"), ms.Var("n", where="n > 2"), ms.Min("n", over="1d", hop="1h"), ms.Max("n"), ms.First("n"),
        ms.Last("n", max_bytes=7), ms.TimeSince(name="quiet"), ms.Age(), ms.Share(where="n > 2"),
        ms.Rate(per="1h", over=["1h", "1d"]), ms.Covariance("n", "n * n", name="bend"), ms.Skewness("n", over="1d"),
        ms.DistinctCount("n"), ms.Quantile("n", q=[0.5, 0.95]), ms.Median("n"), ms.Mode("n", categories=9), ms.Lag("n", 3),
        ms.Entropy("n"), ms.LastK("n", k=3), ms.FirstK("n"), ms.MaxK("n", k=2), ms.MinK("n"), ms.TopK("n", k=4),
        ms.DecayedCount(half_life="60m"), ms.DecayedSum("n", half_life="1h", where="n > 2"),
        ms.DecayedMean("n * 2", half_life="1d", name="lately"),
        ms.CountBy("n", k=3), ms.SumBy("n", "n / 2", categories=9, name="y"), ms.By("n", ms.Last("n"), over="1h"),
        ms.FirstK(["n", "at"], k=2), ms.LastDistinctK("n"), ms.Histogram("n", bins=[0, 2, 9]),
        ms.VectorSum("v", dim=2), ms.VectorMean("v", dim=1, over="1h"),
        ms.Seen("n", request="n", over="1h"), ms.CountBy("n", request="m", categories=9, name="m_of_n"),
        ms.SinceSeen("n", request="n"), ms.SumBy("n", "n * 2", request="n", name="double_of"),
    ]  # fmt: skip
    folded = ms.BatchFeatureGroup("folded", entity=fraud.user, every="1h", source=visits, features=every_aggregate)
    union = ms.StreamFeatureGroup(
        "union", entity=fraud.user, source=[fraud.payments, fraud.logins], features=[ms.Count(over="1h")]
    )
    constant = OnDemandFeature("f", source_text="def f(n): return n + K", returns="int64", constants={"K": 2})
    return [
        fraud.user, fraud.payments, fraud.disputes, fraud.accounts, visits, *fraud.velocity, fraud.habits, fraud.access,
        fraud.kyc, fraud.amount_z, fraud.view, fraud.model, folded, union, constant, fraud.kyc["tier"].default("none"),
        fraud.kyc["tier"].default(""), folded["n_first_5"].to_array(pad=0), folded["n_at_first_2"].to_array(pad=PADS),
        fraud.view.resolved({"kyc": {"tier": "string"}}), ms.Retrain(gate=None), ms.Retrain(every="0 3 * * 1"),
        ms.EventStream("kinds", time="at", schema={"kind": "string", "at": "timestamp"}),
        ms.Entity("route", keys={"origin": "string", "dest": "string"}, owner="ops", description="a pair", tags=["x"]),
    ]  # fmt: skip


def test_every_definition_comes_back_equal(fraud):
    for definition in definitions(fraud):
        text = json.dumps(to_dict(definition))
        back = from_dict(json.loads(text))
        assert back == definition
        assert json.dumps(to_dict(back)) == text
        assert fingerprint(back) == fingerprint(definition)


def test_types_that_plan_found_come_back_too(fraud):
    known = fraud.view.resolved({"kyc": {"tier": "string"}})
    assert from_dict(to_dict(known)).dtypes["kyc__tier"] == "string"
    assert fingerprint(known) == fingerprint(fraud.view)


def test_a_function_comes_back_able_to_run(fraud):
    import numpy as np

    back = from_dict(to_dict(fraud.view))
    (feature,) = [entry.on_demand for entry in back.entries if entry.kind == "on_demand"]
    given = dict(zip(feature.arguments, (np.array([5.0]), np.array([3.0]), np.array([4.0])), strict=True))
    assert feature.bound(dict.fromkeys(feature.arguments, "float64")).call(given).tolist() == [0.5]


def velocity(fraud, **given):
    wanted = {"entity": fraud.user, "source": fraud.payments, "features": [ms.Sum("amount", over="1h")], **given}
    return fingerprint(ms.StreamFeatureGroup("velocity", **wanted))


def stream(fraud, **given):
    source = fraud.payments
    wanted = {"schema": source.schema, "time": source.time, "deduplicate": source.deduplicate, **given}
    return ms.EventStream("payments", **wanted)


def test_a_group_keeps_its_fingerprint_when_only_words_and_unread_columns_change(fraud):
    before = velocity(fraud)
    wider = {**fraud.payments.schema, "channel": "string"}
    for given in (
        {"owner": "risk"}, {"description": "x"}, {"tags": ["a"]}, {"source": stream(fraud, schema=wider)},
        {"source": stream(fraud, retention="30d", partitions=8)},
        {"source": stream(fraud, schema=dict(reversed(wider.items())))},
    ):  # fmt: skip
        assert velocity(fraud, **given) == before


def test_a_group_changes_its_fingerprint_when_its_values_can_change(fraud):
    numbers = {**fraud.payments.schema, "amount": "int64"}
    prints = [
        velocity(fraud, **given)
        for given in (
            {}, {"where": "amount > 0"}, {"keys": {"user_id": "payee_id"}}, {"derive": {"k": "amount"}},
            {"features": [ms.Sum("amount", over="2h")]}, {"features": [ms.Sum("amount", over="1h", hop="10s")]},
            {"features": [ms.Sum("amount", over="1h", delay="1m")]}, {"source": stream(fraud, deduplicate=None)},
            {"source": stream(fraud, schema=numbers)}, {"source": [fraud.payments]},
            {"source": stream(fraud, future="1h")},
        )
    ]  # fmt: skip
    same = prints.pop(9)
    assert same == prints[0]
    assert len(set(prints)) == len(prints)


def test_a_view_changes_with_its_groups_functions_and_defaults(fraud):
    def view(*features):
        return fingerprint(ms.FeatureView("v", request={"amount": "float64"}, features=features))

    other = OnDemandFeature("amount_z", source_text="def amount_z(amount): return amount", returns="float64")
    prints = [
        view(fraud.habits), view(fraud.kyc), view(fraud.kyc["tier"].default("a")), view(fraud.kyc["tier"].default("b")),
        view(fraud.habits, fraud.amount_z), view(fraud.habits, other), view(fraud.kyc.on(user_id="payee_id")),
    ]  # fmt: skip
    assert len(set(prints)) == len(prints)


def test_an_unknown_kind_is_refused():
    with pytest.raises(DefinitionError, match="kind was given 'Entty'") as raised:
        from_dict({"$kind": "Entty"})
    assert raised.value.hint == "did you mean 'Entity'?"


def test_what_is_known_of_a_definition_is_not_that_of_a_copy_with_other_types() -> None:
    accounts = ms.Table("accounts", path="accounts.parquet")
    user = ms.Entity("user", keys={"user_id": "int64"})
    group = ms.BatchFeatureGroup(
        "kyc", entity=user, sources=[accounts], every="24h", query="select user_id, tier from accounts"
    )
    before = data_of(group), fingerprint(group)
    resolved = group.resolved({"tier": "int64"})
    assert data_of(resolved)["$resolved"] == {"tier": "int64"}
    assert (data_of(group), fingerprint(group)) == before
    assert to_dict(resolved) == data_of(resolved) and to_dict(resolved) is not to_dict(resolved)


def test_what_several_definitions_refer_to_is_made_into_data_once(fraud) -> None:
    assert all(json.dumps(data_of(one)) == json.dumps(to_dict(one)) for one in definitions(fraud))
    assert data_of(fraud.habits)["entity"] is data_of(fraud.access)["entity"] is data_of(fraud.user)
    assert to_dict(fraud.habits)["entity"] is not data_of(fraud.user)


@pytest.mark.parametrize(
    ("feature", "before", "now"),
    [
        (ms.Max("n"), "float64", "int64"),
        (ms.Last("at"), "float64", "timestamp"),
        (ms.First("ok"), "float64", "bool"),
        (ms.Last("s", max_bytes=1023), "string", "string"),
    ],
)
def test_a_group_of_a_release_that_rounded_whole_numbers_stays_as_it_was(feature: Any, before: str, now: str) -> None:
    schema = {"user_id": "int64", "n": "int64", "s": "string", "ok": "bool", "at": "timestamp"}
    events = ms.EventStream("events", time="at", schema=schema)
    user = ms.Entity("user", keys={"user_id": "int64"})
    group = ms.StreamFeatureGroup("g", entity=user, source=events, features=[feature])
    written = to_dict(group)
    assert written.pop("$format") == 2
    older = from_dict(written)
    assert list(older.schema_of_features.values()) == [before]
    assert list(from_dict(to_dict(group)).schema_of_features.values()) == [now]
    assert to_dict(older) == written
    assert fingerprint(older) != fingerprint(group)


def test_a_group_of_floats_and_short_strings_is_written_as_before() -> None:
    events = ms.EventStream(
        "events", time="at", schema={"k": "int64", "x": "float64", "s": "string", "at": "timestamp"}
    )
    key = ms.Entity("key", keys={"k": "int64"})
    features = [ms.Max("x"), ms.Last("s"), ms.First("x"), ms.Count("s"), ms.Sum("x")]
    written = to_dict(ms.StreamFeatureGroup("g", entity=key, source=events, features=features))
    assert "$format" not in written
    assert written["features"][0] == {"$kind": "Max", "expression": "x", "over": [None], "delay": 0}


def test_a_group_of_a_release_to_which_a_date_was_an_instant_stays_as_it_was() -> None:
    events = ms.EventStream("events", time="seen", schema={"k": "int64", "seen": "timestamp"})
    key = ms.Entity("key", keys={"k": "int64"})
    day = ms.Last("cast(seen as date)", name="day")
    group = ms.StreamFeatureGroup("g", entity=key, source=events, features=[day])
    written = to_dict(group)
    assert (written["$format"], dict(group.schema_of_features)) == (3, {"day": "date"})
    older = from_dict({**written, "$format": 2})
    assert dict(older.schema_of_features) == {"day": "timestamp"}
    assert to_dict(older) == {**written, "$format": 2}
    assert len({fingerprint(one) for one in (group, older, from_dict(written))}) == 2


def test_a_query_whose_dates_were_declared_as_instants_stays_as_it_was() -> None:
    table = ms.Table("rows", path="rows.parquet", schema={"k": "int64", "seen": "timestamp"})
    query = "select k, cast(seen as date) as day, cast(seen as date) as on_day from rows"
    asked = {"entity": ms.Entity("key", keys={"k": "int64"}), "sources": [table], "every": "24h", "query": query}
    group = ms.BatchFeatureGroup("g", **asked, schema={"on_day": "timestamp"}, time="day")
    assert from_dict(to_dict(group)) == group
    assert dict(from_dict(to_dict(group)).schema_of_features) == {"on_day": "timestamp"}
    assert dict(ms.BatchFeatureGroup("g", **asked, time="day").schema_of_features) == {"on_day": "date"}
