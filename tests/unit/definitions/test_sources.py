import pytest

import millstream as ms
from millstream.definitions.durations import micros
from millstream.errors import DefinitionError

SCHEMA = {"id": "string", "user_id": "int64", "amount": "float64", "at": "timestamp", "known": "timestamp"}


def refused(message, hint, build):
    with pytest.raises(DefinitionError) as raised:
        build()
    assert message in raised.value.message
    assert hint in (raised.value.hint or "")


def test_a_stream_has_durations_in_microseconds_and_is_frozen():
    stream = ms.EventStream("clicks", schema=SCHEMA, time="at", within="1h", delay="2s", future="1m", retention="3d")
    assert (stream.within, stream.delay, stream.future, stream.retention) == tuple(
        map(micros, ("1h", "2s", "1m", "3d"))
    )
    with pytest.raises(AttributeError):
        stream.time = "known"
    with pytest.raises(TypeError):
        stream.schema["x"] = "int64"


def test_equal_streams_are_equal_and_hash_alike():
    one, other = (ms.EventStream("clicks", schema=dict(SCHEMA), time="at") for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert one != ms.EventStream("clicks", schema=SCHEMA, time="known")


def test_events_are_partitioned_by_their_id_unless_told_otherwise():
    by = [
        ms.EventStream("a", schema=SCHEMA, time="at", **given).partition_by
        for given in ({}, {"deduplicate": "id"}, {"deduplicate": "id", "partition_by": "user_id"})
    ]
    assert by == [None, "id", "user_id"]


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ({"time": "att"}, "unknown column 'att' in time", "did you mean 'at'?"),
        ({"time": "amount"}, "time 'amount' has type float64; expected timestamp", ""),
        ({"available": "knwon"}, "unknown column 'knwon' in available", "'known'"),
        ({"deduplicate": "amount"}, "deduplicate 'amount' has type float64; expected int64 or string", ""),
        ({"partition_by": "nothing_like_it"}, "unknown column", "the columns are 'id', 'user_id'"),
        ({"partitions": 0}, "partitions was given 0; expected a whole number from 1 to 1024", "leave it out"),
        ({"deduplicate": "id", "within": "8d"}, "no longer than retention, 7d", 'raise retention to "8d"'),
        ({"schema": {}}, "expected a mapping of column names to types", "schema="),
        ({"schema": {"at": "datetime"}}, "type of column 'at' was given 'datetime'", "'timestamp'"),
        ({"schema": {"_at": "timestamp"}}, "name '_at' cannot be used", "'at'"),
        ({"schema": {"rest": "string"}}, "keeps the unknown fields", "'remainder'"),
        ({"schema": {"at": "timestamp", "At": "timestamp"}}, "two columns are named 'At'", "without case"),
        ({"future": "soon"}, "future was given 'soon'; expected a duration", '"5m"'),
        ({"tags": "risk"}, "tags was given 'risk'; expected a list of strings", 'tags=["risk"]'),
    ],
)
def test_a_wrong_stream_is_refused_with_a_hint(given, message, hint):
    refused(message, hint, lambda: ms.EventStream("clicks", **{"schema": SCHEMA, "time": "at", **given}))


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("my clicks", "my_clicks"),
        ("a__b", "a_b"),
        ("1st", "st"),
        ("clicks_", "clicks"),
        ("", "payments"),
        (3, "payments"),
    ],
)
def test_a_name_that_cannot_become_a_column_is_refused_with_one_that_can(name, suggestion):
    refused("cannot be used", f"'{suggestion}'", lambda: ms.EventStream(name, schema=SCHEMA, time="at"))


def test_an_entity_keeps_the_order_of_its_keys():
    route = ms.Entity("route", keys={"origin": "string", "dest": "string"})
    assert list(route.keys) == ["origin", "dest"]
    assert route != ms.Entity("stop", keys={"origin": "string", "dest": "string"})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"x": "float64"}, "type of column 'x' was given 'float64'; expected one of 'int64', 'string'"),
        ({"at": "int64"}, "'at' is the moment of a read"),
        ({}, "expected a mapping of column names to types"),
    ],
)
def test_a_wrong_key_is_refused(keys, message):
    refused(message, "", lambda: ms.Entity("user", keys=keys))


def test_a_table_may_leave_its_schema_to_plan_but_not_contradict_one():
    assert ms.Table("accounts", path="accounts.parquet", time="updated_at").schema is None
    refused(
        "unknown column 'updated' in time", "'updated_at'",
        lambda: ms.Table("accounts", path="a.parquet", time="updated", schema={"updated_at": "timestamp"}),
    )  # fmt: skip
    refused("path was given ''", 'path="accounts.parquet"', lambda: ms.Table("accounts", path=""))
