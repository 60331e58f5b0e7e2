"""Rows of queries that come some at a time give what all of them at once give, to the bit."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import millstream as ms
from millstream.definitions.group_version import GroupVersion
from millstream.fold import encode_keys
from millstream.fold.rows import rows_as_of, with_keys
from millstream.history.events import POSITIONS, History
from millstream.monitor.applied_rows import applied_as_of
from millstream.store.iceberg.store import IcebergOfflineStore
from millstream.train import stated
from millstream.train.stated import Newest, newest_of, of_keys
from millstream.train.stored_history import Stored

TYPES, SCHEMA = {"user_id": "int64"}, {"tier": "string", "limit": "float64"}
instants = st.integers(0, 6)
rows = st.lists(
    st.fixed_dictionaries(
        {
            "user_id": st.sampled_from([1, 2, None]),
            "event_time": instants,
            "available_time": instants,
            "tier": st.sampled_from(["gold", "none", None]),
            "limit": st.sampled_from([0.5, -0.0, None]),
            "_run": st.integers(0, 5),
            "_deleted": st.booleans(),
        }
    ),
    max_size=12,
)
asked = st.lists(st.tuples(st.sampled_from([1, 2, 3, None]), instants, st.integers(0, 6)), min_size=1, max_size=6)
COLUMNS = pa.schema(
    {
        "user_id": pa.int64(), "event_time": pa.int64(), "available_time": pa.int64(), "tier": pa.string(),
        "limit": pa.float64(), "_run": pa.int64(), "_deleted": pa.bool_(),
    }
)  # fmt: skip
accounts = ms.Table("accounts", path="a.parquet", schema={"user_id": "int64", "tier": "string", "limit": "float64"})


def kyc(ttl):
    group = ms.BatchFeatureGroup(
        "kyc",
        entity=ms.Entity("user", keys=TYPES),
        sources=[accounts],
        every="24h",
        query='select user_id, tier, "limit" from accounts',
        ttl=ttl and f"{ttl}us",
    )
    return GroupVersion(group.resolved(SCHEMA), 1)


def cut(given_rows, size):
    table = pa.Table.from_pylist(given_rows, COLUMNS)
    return [table.slice(0, 0), *(table.slice(at, size) for at in range(0, table.num_rows, size))]


def same(left, right):
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and str(left[name].tolist()) == str(right[name].tolist()) for name in left
    )


@settings(max_examples=100, deadline=None)
@given(rows, asked, st.integers(1, 4), st.integers(1, 5), st.sampled_from([None, 2]))
def test_pieces_give_what_all_rows_at_once_give(given_rows, asked, size, most, ttl):
    keys, at = encode_keys(TYPES, [pa.array([key for key, *_ in asked], pa.int64())]), [at for _, at, _ in asked]
    whole = with_keys(TYPES, pa.Table.from_pylist(given_rows, COLUMNS))
    newest = Newest(TYPES, keys, np.array(at), most)
    for piece in cut(given_rows, size):
        newest.add(piece)
    kept = newest.rows()
    assert kept.num_rows <= len(asked)
    assert same(rows_as_of(SCHEMA, kept, keys, np.array(at), ttl), rows_as_of(SCHEMA, whole, keys, np.array(at), ttl))


@settings(max_examples=100, deadline=None)
@given(rows, asked, st.integers(1, 4), st.sampled_from([None, 2]))
def test_runs_that_were_not_applied_count_for_nobody(given_rows, asked, size, ttl):
    for row in given_rows:
        row["_run"] = row["available_time"]  # a run becomes available at once
    keys = encode_keys(TYPES, [pa.array([key for key, *_ in asked], pa.int64())])
    at, applied = np.array([at for _, at, _ in asked]), np.array([applied for *_, applied in asked])
    found = applied_as_of(kyc(ttl), lambda: cut(given_rows, size), keys, at, applied)
    for place in range(len(asked)):
        known = [row for row in given_rows if row["_run"] < applied[place]]
        table = with_keys(TYPES, pa.Table.from_pylist(known, COLUMNS))
        alone = rows_as_of(SCHEMA, table, keys.slice(place, 1), at[place : place + 1], ttl)
        assert same({name: values[place : place + 1] for name, values in found.items()}, alone)


def test_a_store_is_asked_for_the_rows_of_few_keys_alone(monkeypatch):
    assert of_keys(TYPES, [pa.array([7, None, 7, 8])]) == [("user_id", "in", [7, 8])]
    assert of_keys(TYPES, [pa.array([None], pa.int64())]) == []
    monkeypatch.setattr(stated, "FEW", 1)
    assert of_keys(TYPES, [pa.array([7, 8])]) == []


class Piecewise:
    """An offline store of which no table may be read whole."""

    def __init__(self, store):
        self._store = store

    def __getattr__(self, name):
        return getattr(self._store, name)

    def scan(self, *asked, **options):
        found = self._store.scan(*asked, **options)
        assert not found.num_rows, f"{asked} is read whole"
        return found


class EndedLog:
    """A log that has trimmed what it had."""

    def ends(self, topic):
        return [(4, 4)]


@pytest.fixture
def offline(tmp_path):
    store = IcebergOfflineStore(tmp_path)
    for first in (2, 0):
        places = np.arange(first, first + 2)
        store.append("batch.kyc@1", pa.table({"user_id": places, "event_time": places, "available_time": places,
                                              "_run": places, "tier": ["a", "b"], "limit": [0.5, 1.5]}))  # fmt: skip
        store.append(
            "captures.risk", pa.table({"_request_id": ["x", "y"], "_received_at": places, "_groups": ["{}"] * 2})
        )
        events = pa.table({"user_id": places, "at": pa.array(places, pa.timestamp("us", "UTC")),
                           "_partition": pa.array([0, 0], pa.int32()), "_position": places, "_arrival": places,
                           "_appended": places})  # fmt: skip
        store.append("events.clicks", events, {POSITIONS: '{"0": 4}'})
    return Piecewise(store)


def test_no_table_is_read_whole_for_training(offline):
    clicks = ms.EventStream("clicks", time="at", schema={"user_id": "int64", "at": "timestamp"})
    history = History(EndedLog(), offline, [clicks])
    assert history.read("clicks")["_position"].to_pylist() == [0, 1, 2, 3]
    version = kyc(None)
    past = Stored(history, offline, {"kyc": version})
    past.group(version.group)
    keys = encode_keys(TYPES, [pa.array([1, 3, 9])])
    found = newest_of(TYPES, past.rows(version.group), keys, np.array([5, 5, 5]))
    assert sorted(found["user_id"].to_pylist()) == [1, 3]
    captured = past.captures("risk", ["_request_id", "_received_at", "is_absent"], 2)
    assert sorted(captured["_received_at"].to_pylist()) == [0, 1, 2]
    assert captured.column_names == ["_request_id", "_received_at"]
