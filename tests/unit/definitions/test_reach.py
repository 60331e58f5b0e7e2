"""A definition reads its sources and nothing else: by what is refused when it is declared, and by the engine itself."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

import millstream as ms
from millstream.engines.duckdb.connection import connect, lock
from millstream.errors import DefinitionError

USER = ms.Entity("user", keys={"user_id": "int64"})
TABLE = ms.Table("t", path="t.parquet", time="at", schema={"user_id": "int64", "x": "string", "at": "timestamp"})
UNKNOWN = ms.Table("t", path="t.parquet")
ATTEMPTS = [
    "select user_id, x from 'secret.parquet'",
    'select user_id, x from "secret.parquet"',
    "select user_id, x from '/etc/passwd.csv'",
    "select user_id, x from read_parquet('secret.parquet')",
    "select user_id, x from read_csv('secret.csv')",
    "select user_id, x from read_csv_auto('secret.csv')",
    "select user_id, x from read_json('secret.json')",
    "select user_id, x from read_ndjson('secret.json')",
    "select user_id, content as x from t, read_text('/etc/passwd')",
    "select user_id, content as x from t, read_blob('/etc/passwd')",
    "select user_id, file as x from t, glob('/*')",
    "select user_id, name as x from t, parquet_schema('secret.parquet')",
    "select user_id, prompt as x from t, sniff_csv('secret.csv')",
    "select user_id, x from parquet_scan('secret.parquet')",
    "select user_id, x from t union all select user_id, x from 'secret.parquet'",
    "select user_id, x from t where x in (select x from 'secret.parquet')",
    "select user_id, (select max(x) from 'secret.parquet') as x from t",
    "select user_id, x from t join 'secret.parquet' as s using (user_id)",
    'with "secret.parquet" as (select user_id, x from t) select user_id, x from "secret.parquet"',
    """select q.user_id, s.x from (with "secret.parquet" as (select user_id from t) select * from "secret.parquet") q,
    "secret.parquet" s""",
    'select user_id, x from (with "secret.csv" as (select 1) select * from t), (from "secret.csv")',
    'with s as (select user_id, x from "secret.parquet") select user_id, x from s',
    "select user_id, x from t, lateral (select * from 'secret.parquet')",
    "from 'secret.parquet' select user_id, x",
    "select user_id, x from query('select * from ''secret.parquet''')",
    "select user_id, x from query_table('secret.parquet')",
    "select user_id, getenv('HOME') as x from t",
    "select user_id, 'HOME'.getenv() as x from t",
    """select user_id, "getenv"('HOME') as x from t""",
    "select user_id, current_setting('home_directory') as x from t",
    "select user_id, getvariable('until') as x from t",
    "select user_id, version() as x from t",
    "select user_id, table_name as x from t, duckdb_tables()",
    "select user_id, table_name as x from t, information_schema.tables",
    "select user_id, x from main.t",
    "select user_id, name as x from t, pragma_database_list()",
    "select user_id, value as x from t, duckdb_settings()",
    "select user_id, name as x from t, duckdb_secrets()",
    "select user_id, x from 'https://example.com/x.parquet'",
    "select user_id, x from read_parquet('s3://bucket/x.parquet')",
    "attach 'other.db'",
    "copy t to 'out.csv'",
    "copy (select user_id, x from t) to 'out.parquet'",
    "install httpfs",
    "load httpfs",
    "pragma database_list",
    "set threads = 1",
    "create macro m() as table select * from 'secret.parquet'",
    "create view v as select * from 'secret.parquet'",
    "export database 'out'",
    "select user_id, x from t; copy t to 'out.csv'",
    "select user_id, name as x from t, (show tables)",
    "select user_id, column_name as x from t, (describe t)",
    "select user_id, column_name as x from t, (summarize t)",
    "call duckdb_settings()",
    "explain select user_id, x from t",
    "select user_id, json_serialize_sql('select 1')::varchar as x from t",
    "select user_id, x from json_execute_serialized_sql(json_serialize_sql('select 1'))",
    "select user_id, x from read_duckdb('other.db')",
    "select user_id, x from pandas_scan(1)",
]


@pytest.mark.parametrize("table", [TABLE, UNKNOWN], ids=["typed", "unknown"])
@pytest.mark.parametrize("query", ATTEMPTS)
def test_a_query_that_reaches_elsewhere_is_refused_when_it_is_declared(query, table):
    with pytest.raises(DefinitionError):
        ms.BatchFeatureGroup("g", entity=USER, sources=[table], every="24h", query=query)


@pytest.mark.parametrize("expression", [
    "getenv('HOME')", "'HOME'.getenv()", "(select 1)", "(from t)", "current_setting('threads')", "version()",
    "getvariable('x')",
    "exists (from 'secret.parquet')", "x in (from 'secret.parquet')", "[x for x in (from t)]", "json_serialize_sql('select 1')",
])  # fmt: skip
def test_an_expression_sees_its_row_alone(expression):
    stream = ms.EventStream("s", time="at", schema={"user_id": "int64", "x": "string", "at": "timestamp"})
    for options in ({"where": f"({expression}) is not null"}, {"derive": {"d": f"({expression})::varchar"}}):
        with pytest.raises(DefinitionError):
            ms.StreamFeatureGroup("g", entity=USER, source=stream, features=[ms.Count()], **options)


@pytest.mark.parametrize("query", [
    "with known as (select * from t) select user_id, x from known where x <> 'secret.parquet'",
    "from t select user_id, x",
    "select user_id, unnest(string_split(x, ',')) as x from t",
    "select user_id, v::varchar as x from t, unnest([1, 2]) as u(v)",
    "select user_id, r.range::varchar as x from t, range(3) as r",
    "select user_id, x from t qualify row_number() over (partition by user_id order by x desc) = 1",
    "select user_id, x from (values (1, 'a')) as v(user_id, x) union all select user_id, x from t",
    "select a.user_id, b.x from t as a join t as b using (user_id)",
])  # fmt: skip
def test_what_reads_the_sources_alone_is_taken(query):
    ms.BatchFeatureGroup("g", entity=USER, sources=[TABLE], every="24h", query=query)


def test_what_a_check_has_missed_the_engine_does_not_do(tmp_path: Path):
    for name, rows in (("secret.csv", "user_id,x\n1,a\n"), ("secret.json", '{"user_id": 1, "x": "a"}\n')):
        (tmp_path / name).write_text(rows)
    writer = duckdb.connect()
    writer.execute(f"copy (select 1 as user_id, 'a' as x) to '{tmp_path}/secret.parquet'")
    engine = lock(connect())
    t = pa.table({"user_id": [1], "x": ["a"]})
    engine.register("t", t)
    hidden = pa.table({"user_id": [1], "x": ["a"]})
    assert hidden.num_rows == engine.sql("select * from t").to_arrow_table().num_rows
    files = ("secret.", "/etc", "glob", "httpfs", "copy", "export", "attach", "set ", "hidden", "https:", "s3:")
    tried = [query for query in (*ATTEMPTS, *MORE) if any(word in query for word in files)]
    done = [query for query in tried if succeeds(engine, query.replace("secret.", f"{tmp_path}/secret."))]
    assert done == [query for query in tried if query.startswith('with "secret.parquet" as (select user_id, x')]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret.csv", "secret.json", "secret.parquet"]


MORE = ["select * from hidden", "set enable_external_access = true", "set lock_configuration = false"]


def succeeds(engine, query):
    try:
        engine.execute(query).fetchall()
    except duckdb.Error:
        return False
    return True
