from datetime import timedelta

import pytest

import millstream as ms
from millstream.definitions.durations import micros, text
from millstream.definitions.windows import default_hop
from millstream.errors import DefinitionError


@pytest.fixture
def group(fraud):
    def build(**given):
        wanted = {"entity": fraud.user, "source": fraud.payments, "features": [ms.Count(over="1h")], **given}
        return ms.StreamFeatureGroup("velocity", **wanted)

    return build


@pytest.fixture
def refused(group):
    def check(message, hint, **given):
        with pytest.raises(DefinitionError) as raised:
            group(**given)
        assert message in raised.value.message
        assert hint in (raised.value.hint or "")
        assert raised.value.message.startswith("StreamFeatureGroup 'velocity': ")

    return check


def test_columns_are_named_by_expression_aggregate_and_window_as_written(group):
    built = group(
        features=[
            ms.Count(over=["5m", "24h"]), ms.Count("country", over="1d"), ms.Sum("amount", over=timedelta(hours=2)),
            ms.Count(name="declined", where="status = 'declined'", over="1h"), ms.Last("country"), ms.TimeSince(),
            ms.Mean("amount * 2", name="double", over=["1h", None]),
        ]
    )  # fmt: skip
    assert built.feature_names == (
        "count_5m", "count_24h", "country_count_1d", "amount_sum_2h", "declined_1h", "country_last", "time_since",
        "double_1h", "double",
    )  # fmt: skip
    assert dict(built.schema_of_features) == {
        name: "string" if name == "country_last" else "int64" if "count_" in name or "declined" in name else "float64"
        for name in built.feature_names
    }


def test_a_windowed_feature_has_its_window_hop_delay_and_filter(group):
    (feature,) = group(features=[ms.Sum("amount", over="1h", delay="10m", where="amount > 5")]).columns
    assert (feature.kind, feature.expression, feature.where) == ("sum", "amount", "amount > 5")
    assert (feature.window, feature.delay, feature.hop) == (micros("1h"), micros("10m"), micros("5m"))


def test_all_time_has_no_hop_unless_it_is_delayed(group):
    plain, delayed = group(features=[ms.Sum("amount"), ms.Sum("amount", delay="1h", name="older")]).columns
    assert (plain.window, plain.hop) == (None, None)
    assert (delayed.window, delayed.hop) == (None, micros("1m"))


def test_only_strings_keep_bytes(group):
    columns = group(features=[ms.Last("country", max_bytes=2), ms.First("amount"), ms.Last("paid_at")]).columns
    assert [(column.dtype, column.max_bytes) for column in columns] == [
        ("string", 2),
        ("float64", 39),
        ("timestamp", 39),
    ]


@pytest.mark.parametrize(
    ("span", "hop"),
    [
        ("1s", "1s"), ("1m", "1s"), ("61s", "5s"), ("10m", "10s"), ("1h", "1m"), ("2h", "5m"), ("24h", "15m"),
        ("25h", "1h"), ("7d", "1h"), ("30d", "6h"), ("90d", "1d"), ("365d", "1d"),
    ],
)  # fmt: skip
def test_default_hops(span, hop):
    assert text(default_hop(micros(span))) == hop


def test_all_default_hops_nest(group):
    spans = ["30s", "1m", "5m", "10m", "1h", "6h", "24h", "7d", "30d", "90d"]
    assert len(group(features=[ms.Count(over=spans)]).columns) == len(spans)


@pytest.mark.parametrize(
    ("features", "message", "hint"),
    [
        ([ms.Count(over="5m", hop="90s"), ms.Count(over="1h")], "hop '1m' does not divide hop '90s'", "1m or 2m"),
        ([ms.Count(over="5m"), ms.Count(over="10m", hop="7s")], "hop '5s' does not divide hop '7s'", "5s or 10s"),
        ([ms.Count(over="1h", hop="7s")], "", ""),
        ([ms.Count(over="1h", hop="2h")], "no more than window plus delay", 'at most "1h"'),
    ],
)
def test_hops_of_a_group_nest(group, refused, features, message, hint):
    if not message:
        assert text(group(features=features).columns[0].hop) == "7s"
    else:
        refused(message, hint, features=features)


@pytest.mark.parametrize(("coarse", "fine"), [("1m", "7s"), ("1h", "25m"), ("6h", "7m"), ("1h", "59m")])
def test_the_hops_that_a_hint_names_do_nest(group, coarse, fine):
    def build(hop):
        return group(features=[ms.Count(over="30d", hop=hop), ms.Sum("amount", over="30d", hop=coarse)])

    with pytest.raises(DefinitionError) as raised:
        build(fine)
    choices = raised.value.hint.removeprefix("use a hop of ").rstrip(".").split(" or ")
    assert choices
    for choice in choices:
        assert build(choice)


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ({"where": "amunt > 0"}, "unknown column 'amunt' in where", "did you mean 'amount'?"),
        ({"where": "amount"}, "where `amount` has type float64; expected bool", "`amount > 0`"),
        ({"features": [ms.Sum("amuont", over="1h")]}, "unknown column 'amuont'", "'amount'"),
        ({"features": [ms.Sum("country", over="1h")]}, "sum of `country` has type string", "ms.Last('country')"),
        ({"features": [ms.Mean("paid_at", over="1h")]}, "mean of `paid_at` has type timestamp", ""),
        ({"features": [ms.Sum("amount / 2", over="1h")]}, "an expression has none", 'ms.Sum("amount / 2", name="...")'),
        ({"features": [ms.Count(over="1h", where="status")]}, "where of count `status` has type string", ""),
        ({"features": [ms.Count(over="1h"), ms.Count(over="1h", where="amount > 3")]}, "two features are", "name="),
        ({"features": []}, "expected a list of aggregations", "ms.Count"),
        ({"features": [ms.Count]}, "expected a list of aggregations", "ms.Count"),
        ({"derive": {"amount": "1"}}, "two columns are named 'amount'", "another name"),
        ({"derive": {"Amount": "1"}}, "two columns are named 'Amount'", "another name"),
        ({"derive": {"l": "[amount]"}}, "derive 'l' `[amount]` has type double[]", "cast it"),
        ({"keys": {"usr_id": "payee_id"}}, "keys was given 'usr_id'", "'user_id'"),
        ({"keys": {"user_id": "country"}}, "join key 'user_id' 'country' has type string; expected int64", ""),
        ({"keys": {"user_id": "payee"}}, "unknown column 'payee' in join key 'user_id'", "'payee_id'"),
        ({"entity": "user"}, "entity was given 'user'; expected an Entity", "ms.Entity"),
        ({"source": "payments"}, "expected an EventStream", "BatchFeatureGroup"),
    ],
)  # fmt: skip
def test_a_wrong_group_is_refused_with_a_hint(refused, given, message, hint):
    refused(message, hint, **given)


def test_aggregations_refuse_what_they_cannot_be():
    for build in (
        lambda: ms.Sum("amount", over="soon"), lambda: ms.Sum("amount", over=[]), lambda: ms.Sum("amount", over="0s"),
        lambda: ms.Sum(""), lambda: ms.Sum(None), lambda: ms.Last("country", max_bytes=0), lambda: ms.Count(hop="0s"),
        lambda: ms.Count(name="a__b"), lambda: ms.Count(3),
    ):  # fmt: skip
        with pytest.raises(DefinitionError):
            build()


def test_a_union_has_the_columns_that_all_its_streams_share(fraud, group, refused):
    both = [fraud.payments, fraud.logins]
    assert group(source=both, where="country <> 'XX'").sources == tuple(both)
    hint = "one feature group per stream and combine them in an on-demand feature"
    refused("'amount' is not a column of every source", hint, source=both, where="amount > 0")
    refused("never joins its sources", hint, where="logins.country = country")
    refused("two sources are named 'payments'", "once", source=[fraud.payments, fraud.payments])


def test_derived_columns_can_be_aggregated_filtered_and_derived_from(group):
    built = group(
        derive={"k": "amount / 1000", "big": "k > 1", "payer": "user_id + 0"}, where="big",
        keys={"user_id": "payer"}, features=[ms.Max("k", over="1h")],
    )  # fmt: skip
    assert built.feature_names == ("k_max_1h",)
    assert dict(built.keys) == {"user_id": "payer"}


def test_names_of_features_are_completed_and_checked(fraud):
    assert fraud.habits._ipython_key_completions_() == ["amount_mean_30d", "amount_std_30d", "k_max_30d"]
    with pytest.raises(DefinitionError) as raised:
        fraud.habits["amount_men_30d"]
    assert raised.value.hint == "did you mean 'amount_mean_30d'?"
