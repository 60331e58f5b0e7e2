import numpy as np
import pytest

import millstream as ms
from millstream.definitions.on_demand import OnDemandFeature
from millstream.errors import DefinitionError


def on_demand(name, *arguments, expression=None):
    body = expression or " + ".join(arguments)
    return OnDemandFeature(name, source_text=f"def {name}({', '.join(arguments)}): return {body}", returns="float64")


def refused(message, hint, *features, request=None):
    with pytest.raises(DefinitionError) as raised:
        ms.FeatureView("v", request=request or {}, features=features)
    assert message in raised.value.message
    assert hint in (raised.value.hint or "")


def test_columns_are_request_fields_then_features_as_listed(fraud):
    assert fraud.view.columns[:3] == ("amount", "country", "user_velocity__count_5m")
    assert fraud.view.columns[-6:] == (
        "habits__k_max_30d", "access__country_last", "access__time_since", "kyc__tier", "payee__kyc__tier", "amount_z",
    )  # fmt: skip
    assert fraud.view.dtypes["user_velocity__count_5m"] == "int64"
    assert fraud.view.dtypes["kyc__tier"] == ""
    assert fraud.view.resolved({"kyc": {"tier": "string"}}).dtypes["payee__kyc__tier"] == "string"


def test_groups_are_read_once_per_request_key(fraud):
    reads = [(read.group.name, read.keys, read.prefix, len(read.columns)) for read in fraud.view.groups]
    assert reads == [
        ("user_velocity", (("user_id", "user_id"),), "", 6), ("device_velocity", (("device_id", "device_id"),), "", 6),
        ("habits", (("user_id", "user_id"),), "", 3), ("access", (("user_id", "user_id"),), "", 2),
        ("kyc", (("user_id", "user_id"),), "", 1), ("kyc", (("user_id", "payee_id"),), "payee", 1),
    ]  # fmt: skip
    assert dict(fraud.view.entity_keys) == {"user_id": "int64", "device_id": "string", "payee_id": "int64"}


def test_a_whole_group_can_be_read_under_another_key(fraud):
    view = ms.FeatureView("v", features=[fraud.access, fraud.access.on(user_id="payee_id", prefix="payee")])
    assert view.columns[2:] == ("payee__access__country_last", "payee__access__time_since")
    single = ms.FeatureView("v", features=[fraud.access["time_since"], fraud.access["country_last"]])
    assert len(single.groups) == 1


def test_features_that_need_features_are_computed_in_order(fraud):
    twice = on_demand("twice", "once", expression="once * 2")
    once = on_demand("once", "n", expression="n + 1")
    view = ms.FeatureView("v", request={"n": "int64"}, features=[twice, once])
    result = view.assemble({"n": np.array([1, 2])}, np.zeros(2, np.int64))
    assert {name: column.tolist() for name, column in result.items()} == {"n": [1, 2], "twice": [4, 6], "once": [2, 3]}


def test_assemble_applies_defaults_before_on_demand_features(fraud):
    tier = fraud.kyc["tier"].default("none")
    mean = fraud.habits["amount_mean_30d"].default(0.5)
    ratio = on_demand(
        "ratio", "habits__amount_mean_30d", "amount", "at", expression="amount * habits__amount_mean_30d + at"
    )
    view = ms.FeatureView("v", request={"amount": "float64"}, features=[tier, mean, ratio])
    raw = {
        "amount": np.array([4.0, np.nan]), "kyc__tier": np.array([None, "gold"], object),
        "habits__amount_mean_30d": np.array([np.nan, 2.0]),
    }  # fmt: skip
    result = view.assemble(raw, np.array([10, 20]))
    assert list(result) == ["amount", "kyc__tier", "habits__amount_mean_30d", "ratio"]
    assert result["kyc__tier"].tolist() == ["none", "gold"]
    assert result["habits__amount_mean_30d"].tolist() == [0.5, 2.0]
    np.testing.assert_array_equal(result["ratio"], [12.0, np.nan])
    assert raw["kyc__tier"][0] is None


def test_one_row_at_a_time_gives_what_all_rows_give(fraud):
    rng = np.random.default_rng(7)
    raw = {
        name: np.array([None, "x", "y"] * 10, object) if kind in ("string", "") else rng.normal(size=30)
        for name, kind in fraud.view.dtypes.items()
    }
    whole = fraud.view.assemble(raw, np.arange(30))
    rows = [
        fraud.view.assemble({name: column[i : i + 1] for name, column in raw.items()}, np.array([i])) for i in range(30)
    ]
    for name, column in whole.items():
        assert column.tolist() == [value for row in rows for value in row[name].tolist()]


def test_wrong_views_are_refused_with_a_hint(fraud):
    refused("unknown column 'habits__amount_men_30d'", "'habits__amount_mean_30d'", fraud.habits,
            on_demand("f", "habits__amount_men_30d"))  # fmt: skip
    refused("two columns are named 'kyc__tier'", "prefix=", fraud.kyc, fraud.kyc["tier"])
    refused("two columns are named 'f'", "", on_demand("f", "n"), request={"n": "int64", "f": "int64"})
    refused("expected a feature", "@ms.on_demand", lambda n: n, request={"n": "int64"})
    refused("'at' is the moment of a read", "requested_at", request={"at": "timestamp"})
    refused("type of column 'n' was given 'integer'", "'int64'", request={"n": "integer"})
    refused("default of 'habits__amount_mean_30d' was given 'x'", "", fraud.habits["amount_mean_30d"].default("x"))
    refused("request key 'user_id' of 'kyc' has type int64; expected string", "prefix", fraud.kyc,
            request={"user_id": "string"})  # fmt: skip
    other = ms.StreamFeatureGroup("kyc", entity=fraud.user, source=fraud.logins, features=[ms.Count(over="1h")])
    refused("two feature groups are named 'kyc'", "rename", fraud.kyc, other)


def test_a_cycle_is_refused_with_its_path():
    features = [on_demand("a", "c"), on_demand("b", "a"), on_demand("c", "b", "n")]
    refused("need each other: a -> c -> b -> a", "neither", *features, request={"n": "int64"})
    refused("need each other: a -> a", "neither", on_demand("a", "a"))


def test_references_are_checked(fraud):
    with pytest.raises(DefinitionError, match="join key was given 'usr_id'"):
        fraud.kyc.on(usr_id="payee_id")
    with pytest.raises(DefinitionError, match="cannot be used"):
        fraud.kyc.on(user_id="payee_id", prefix="a__b")
    with pytest.raises(DefinitionError, match="one feature, not a whole group"):
        fraud.kyc.on(user_id="payee_id").default(3)
    with pytest.raises(DefinitionError, match="expected a string, a number or a boolean"):
        fraud.kyc["tier"].default(None)
