"""Dated rows of a key: the bitemporal rule, tombstones, ttl, and the same value from a state as from all rows."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.engines.instants import micros
from millstream.errors import CorruptState
from millstream.fold.rows import (
    ROW_SPAN,
    encode_row,
    merge_rows,
    pack_columns,
    row_at,
    rows_as_of,
    rows_at,
    split_rows,
    with_keys,
)

SCHEMA = {"x": "int64", "tier": "string"}
FULL = {"i": "int64", "f": "float64", "s": "string", "b": "bool", "t": "timestamp"}


def test_values_of_every_type_read_alike_from_a_state_and_from_rows():
    values = {"i": 7, "f": -0.0, "s": "é", "b": True, "t": 1_700_000_000_000_000}
    state = encode_row(FULL, 5, 5, values)
    rows = pa.table({
        "_key": pa.array([b"a"], pa.binary()), "event_time": [5], "available_time": [5],
        "i": [7], "f": [-0.0], "s": ["é"], "b": [True],
        "t": pa.array([1_700_000_000_000_000], pa.timestamp("us", "UTC")),
    })  # fmt: skip
    served, trained = rows_at(FULL, [state], np.array([5])), rows_as_of(FULL, rows, [b"a"], np.array([5]))
    for name in FULL:
        assert served[name].dtype == trained[name].dtype
        assert served[name].tolist() == trained[name].tolist()
    assert not np.signbit(served["f"][0]) and not np.signbit(trained["f"][0])
    assert pack_columns(FULL, rows.select(list(FULL))) == [split_rows(state)[0].values]


def test_what_is_not_finite_is_null():
    state = encode_row({"f": "float64"}, 1, 1, {"f": float("inf")})
    assert row_at({"f": "float64"}, state, 1) == {"f": None}
    assert np.isnan(rows_at({"f": "float64"}, [state], np.array([1]))["f"][0])


def test_a_tombstone_is_null_from_its_time_on():
    state = merge_rows(encode_row(SCHEMA, 1, 1, {"x": 1, "tier": "a"}), encode_row(SCHEMA, 5, 6, None))
    assert [row_at(SCHEMA, state, at)["x"] for at in (1, 5, 6)] == [1, 1, None]


def test_ttl_counts_from_the_last_confirmation():
    state = encode_row(SCHEMA, 1, 10, {"x": 1, "tier": "a"})
    assert [row_at(SCHEMA, state, at, ttl=5)["x"] for at in (15, 16)] == [1, None]
    assert [row_at(SCHEMA, state, at, ttl=5, confirmed_at=20)["x"] for at in (25, 26)] == [1, None]


def test_a_state_of_another_format_is_refused():
    with pytest.raises(CorruptState, match=r"it begins with b'MSR.x02'"):
        row_at(SCHEMA, b"MSR\x02" + bytes(40), 1)


def test_rows_without_keys_mark_runs_and_are_left_out():
    rows = pa.table({"user_id": [1, None], "event_time": [1, 2], "available_time": [1, 2], "x": [3, None]})
    assert with_keys({"user_id": "int64"}, rows).num_rows == 1


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_instants_of_any_unit(unit):
    column = pa.array(np.array(["2024-01-01T00:00:01"], f"datetime64[{unit}]"))
    assert micros(column).to_pylist() == [1_704_067_201_000_000]


def test_no_rows_and_no_keys():
    empty = pa.table({"_key": pa.array([], pa.binary()), "event_time": pa.array([], pa.int64()),
                      "available_time": pa.array([], pa.int64()), "x": pa.array([], pa.int64()),
                      "tier": pa.array([], pa.string())})  # fmt: skip
    found = rows_as_of(SCHEMA, empty, [b"a"], np.array([1]))
    assert np.isnan(found["x"][0]) and found["tier"].tolist() == [None]
    assert rows_as_of(SCHEMA, empty, [], np.array([], np.int64))["x"].tolist() == []


TIMES = st.integers(0, 6)
ROWS = st.lists(st.tuples(st.sampled_from([b"a", b"b"]), TIMES, TIMES, st.integers(0, 2) | st.none()), max_size=12)


def by_definition(rows, key, at, ttl):
    """The newest row by (event time, available time) with both not after `at`; the later of equal ones."""
    seen = [(event, available, i, x) for i, (k, event, available, x) in enumerate(rows)
            if k == key and event <= at and available <= at]  # fmt: skip
    if not seen or (ttl is not None and at - max(seen)[1] > ttl):
        return None
    return max(seen, key=lambda row: row[:3])[3]


@settings(max_examples=400, deadline=None)
@given(rows=ROWS, ttl=st.none() | st.integers(0, 3))
def test_rows_are_read_by_the_rule(rows, ttl):
    columns = list(zip(*rows, strict=True)) or [[], [], [], []]
    table = pa.table({
        "_key": pa.array(columns[0], pa.binary()), "event_time": pa.array(columns[1], pa.int64()),
        "available_time": pa.array(columns[2], pa.int64()), "x": pa.array(columns[3], pa.int64()),
    })  # fmt: skip
    asked = [(key, at) for key in (b"a", b"b", b"c") for at in range(9)]
    found = rows_as_of({"x": "int64"}, table, [k for k, _ in asked], np.array([at for _, at in asked]), ttl)["x"]
    for (key, at), value in zip(asked, found.tolist(), strict=True):
        expected = by_definition(rows, key, at, ttl)
        assert (None if np.isnan(value) else value) == expected


@settings(max_examples=400, deadline=None)
@given(rows=ROWS, now=st.integers(0, 8))
def test_a_state_says_what_all_rows_say_from_now_on(rows, now):
    rows = [(key, event, available, i) for i, (key, event, available, _) in enumerate(rows)]
    scale = ROW_SPAN + 1  # a step of time is longer than the span in which reads further back are exact
    state = None
    for _, event, available, x in rows:
        new = encode_row({"x": "int64"}, event * scale, available * scale, {"x": x})
        state = merge_rows(state, new, now * scale) or state
    for at in range(now, 9):
        single = [(b"a", *row[1:]) for row in rows]
        assert row_at({"x": "int64"}, state, at * scale)["x"] == by_definition(single, b"a", at, None)


@settings(max_examples=200, deadline=None)
@given(rows=ROWS.filter(lambda rows: len({row[1:3] for row in rows}) == len(rows)), order=st.randoms())
def test_the_order_of_rows_does_not_matter(rows, order):
    rows = [(key, event, available, i) for i, (key, event, available, _) in enumerate(rows)]

    def merged(some):
        state = None
        for _, event, available, x in some:
            state = merge_rows(state, encode_row({"x": "int64"}, event, available, {"x": x})) or state
        return [row_at({"x": "int64"}, state, at)["x"] for at in range(9)]

    shuffled = list(rows)
    order.shuffle(shuffled)
    assert merged(shuffled) == merged(rows)
