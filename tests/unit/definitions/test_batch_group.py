import pytest

import millstream as ms
from millstream.definitions.durations import micros
from millstream.errors import DefinitionError

ACCOUNTS = {"user_id": "int64", "tier": "string", "limit_eur": "int64", "updated_at": "timestamp"}


@pytest.fixture
def batch(fraud):
    table = ms.Table("accounts", path="accounts.parquet", time="updated_at", schema=ACCOUNTS)

    def build(query="select user_id, tier from accounts", **given):
        wanted = {"entity": fraud.user, "every": "24h", "sources": [table], "query": query, **given}
        return ms.BatchFeatureGroup("kyc", **wanted)

    return build


def test_a_query_over_known_tables_has_typed_features(batch):
    built = batch(
        "select user_id, max(updated_at) as updated_at, avg(limit_eur) as mean, count(*) as n, min(tier) as tier "
        "from accounts where updated_at >= :start and updated_at < :end group by user_id",
        time="updated_at",
    )
    assert dict(built.schema_of_features) == {"mean": "float64", "n": "int64", "tier": "string"}


def test_a_query_over_unknown_tables_has_names_and_gets_types_later(fraud):
    assert fraud.kyc.feature_names == ("tier",)
    assert dict(fraud.kyc.schema_of_features) == {}
    assert dict(fraud.kyc.resolved({"tier": "string"}).schema_of_features) == {"tier": "string"}
    assert fraud.kyc.resolved({"tier": "string"}) == fraud.kyc


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("columns", ["user_id, tier, tier", "user_id, user_id, tier"])
def test_two_columns_of_one_name_are_refused(fraud, batch, columns, known):
    sources = {} if known else {"sources": [fraud.accounts]}
    with pytest.raises(DefinitionError, match="two columns of the query are named"):
        batch(f"select {columns} from accounts", **sources)


def test_star_over_unknown_tables_lets_any_feature_be_named(fraud, batch):
    built = batch("select * from accounts", sources=[fraud.accounts])
    assert built["anything"].feature == "anything"
    with pytest.raises(DefinitionError, match="not known before plan"):
        ms.FeatureView("v", features=[built])
    declared = batch("select * from accounts", sources=[fraud.accounts], schema={"tier": "string"})
    assert dict(declared.schema_of_features) == {"tier": "string"}


def test_a_schedule_is_a_duration_or_a_cron_line_in_a_zone(batch):
    assert (batch(every="6h").every, batch(every="6h").cron) == (micros("6h"), None)
    nightly = batch(every="0 2 * * *", zone="Europe/Berlin")
    assert (nightly.every, nightly.cron, nightly.zone) == (None, "0 2 * * *", "Europe/Berlin")


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ({"query": "select user_id, teir from accounts"}, "unknown column 'teir' in query", "'tier'"),
        ({"query": "select user_id, tier from acounts"}, "a table of the query was given 'acounts'", "'accounts'"),
        ({"query": "select tier from accounts"}, "unknown column 'user_id' in the columns of the query", "'tier'"),
        ({"query": "select user_id from accounts"}, "expected columns beside the keys and the time", ""),
        ({"query": "delete from accounts"}, "is not one SELECT", "one SELECT"),
        ({"query": "select 1; select 2"}, "is not one SELECT", ""),
        ({"query": "select user_id, tier frm accounts where"}, "does not parse", ""),
        ({"query": "select user_id, now() as t from accounts"}, "uses now", ":start and :end"),
        ({"query": "select user_id, tier from 'accounts.parquet'"}, "a table of the query", "'accounts'"),
        ({"query": "select user_id, tier from accounts where updated_at > :begin"}, "parameter was given ':begin'", ""),
        ({"query": "select user_id, [tier] as l from accounts"}, "query column 'l' has type varchar[]", ""),
        ({"query": "select tier as user_id, limit_eur from accounts"}, "has type string; expected int64", ""),
        ({"time": "updated_at"}, "unknown column 'updated_at' in the columns of the query", "'tier'"),
        ({"schema": {"tier": "int64"}}, "expected what the query gives", ""),
        ({"sources": []}, "expected the tables of the query", "sources=[accounts]"),
        ({"features": [ms.Count()]}, "expected nothing beside query=", "not both"),
        ({"query": None}, "expected nothing beside source=", "not both"),
        ({"every": "0 25 * * *"}, "expected a cron line of five fields", "0 2 * * *"),
        ({"every": "sometimes"}, "every was given 'sometimes'", "24h"),
        ({"every": "0s"}, "expected a duration above 0 or a cron line", "24h"),
        ({"zone": "Europe/Nowhere"}, "expected a time zone", "Europe/Berlin"),
    ],
)  # fmt: skip
def test_a_wrong_batch_group_is_refused_with_a_hint(batch, given, message, hint):
    with pytest.raises(DefinitionError) as raised:
        batch(**given)
    assert message in raised.value.message
    assert hint in (raised.value.hint or "")


def test_the_rows_of_a_table_can_be_folded_like_events(fraud, batch):
    table = ms.Table("accounts", path="accounts.parquet", time="updated_at", schema=ACCOUNTS)
    built = batch(
        query=None, sources=(), source=table, where="limit_eur > 0", features=[ms.Max("limit_eur", over="30d")]
    )
    assert built.sources == (table,)
    assert [column.name for column in built.columns] == ["limit_eur_max_30d"]
    with pytest.raises(DefinitionError) as raised:
        batch(query=None, sources=(), source=fraud.accounts, features=[ms.Count()])
    assert "time= and schema=" in raised.value.message


def test_a_word_of_sql_as_a_column_must_be_quoted(batch):
    visits = ms.Table("visits", path="v.parquet", schema={"user_id": "int64", "at": "timestamp"})
    with pytest.raises(DefinitionError) as raised:
        batch("select user_id, max(at) as newest from visits group by 1", sources=[visits])
    assert 'write "at" in double quotes' in raised.value.hint
    quoted = batch('select user_id, max("at") as newest from visits group by 1', sources=[visits])
    assert dict(quoted.schema_of_features) == {"newest": "timestamp"}
