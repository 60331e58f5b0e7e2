"""A column may be named by a word of SQL's own: a bare name is that column, and a query quotes it."""

import pytest

import millstream as ms
from millstream.errors import DefinitionError

USER = ms.Entity("user", keys={"user_id": "int64"})
WORDS = ["from", "desc", "case", "map", "true", "null", "user", "key", "order", "end", "current_date", "session_user"]
ROW = {"user_id": 1, "seen": "2026-01-01T10:00:00Z"}
ASKED = [{"user_id": 1, "at": "2026-01-03T12:00:00Z"}]


@pytest.mark.parametrize("word", WORDS)
def test_a_column_is_read_whatever_its_name(word):
    schema = {"user_id": "int64", word: "float64", "seen": "timestamp"}
    table = ms.Table("t", path="t.parquet", time="seen", schema=schema)
    query = f'select user_id, seen, "{word}" from t where seen >= :start and seen < :end'
    batch = ms.BatchFeatureGroup("b", entity=USER, sources=[table], every="24h", time="seen", query=query)
    assert ms.compute(batch, {table: [{**ROW, word: 2.0}]}, ASKED)[f"b__{word}"].to_pylist() == [2.0]
    stream = ms.EventStream("s", time="seen", schema=schema)
    sums = ms.StreamFeatureGroup(
        "g", entity=USER, source=stream, derive={"d": word}, features=[ms.Sum(word), ms.Last("d")]
    )
    (row,) = ms.compute(sums, {stream: [{**ROW, word: 2.0}]}, ASKED).to_pylist()
    assert (row[f"g__{word}_sum"], row["g__d_last"]) == (2.0, 2.0)


@pytest.mark.parametrize("word", [*WORDS, "select", "with", "insert"])
def test_a_column_in_quotes_is_read_in_a_filter_whatever_its_name(word):
    stream = ms.EventStream("s", time="seen", schema={"user_id": "int64", word: "float64", "seen": "timestamp"})
    counts = ms.StreamFeatureGroup(
        "g", entity=USER, source=stream, where=f'"{word}" > 1', features=[ms.Count(where=f'"{word}" < 3', name="few")]
    )
    assert ms.compute(counts, {stream: [{**ROW, word: 2.0}]}, ASKED)["g__few"].to_pylist() == [1]


@pytest.mark.parametrize("name", ["event_time", "available_time"])
def test_a_feature_is_not_named_as_a_rows_own_times_are(name):
    table = ms.Table(
        "t", path="t.parquet", time="seen", schema={"user_id": "int64", name: "float64", "seen": "timestamp"}
    )
    with pytest.raises(DefinitionError, match="a row's own times"):
        ms.BatchFeatureGroup("b", entity=USER, sources=[table], every="24h", query=f"select user_id, {name} from t")
