"""Groups of one source that are prepared together: what each of them folds is what it folds alone."""

from __future__ import annotations

import threading
from dataclasses import fields

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import millstream as ms
from millstream.fold import Prepared, fold, layout_of, prepare
from millstream.fold.shared import Once, SharedRows
from millstream.fold.shares import side_by_side

HOUR = 3_600_000_000
STREAM = ms.EventStream("pay", time="at", schema={
    "user_id": "int64", "device_id": "string", "amount": "float64", "country": "string", "at": "timestamp"})  # fmt: skip
USER = ms.Entity("user", keys={"user_id": "int64"})
DEVICE = ms.Entity("device", keys={"device_id": "string"})
PAIR = ms.Entity("pair", keys={"user_id": "int64", "device_id": "string"})
LANES = [ms.Count(over="1h"), ms.Sum("amount", over=["1h", "24h"]), ms.Last("country", max_bytes=3)]
VALUES = [ms.DistinctCount("country", over="24h"), ms.Median("amount", over="24h"), ms.LastK("amount", k=2, over="24h")]
ROWS = [ms.Mean("amount", over="3 events"), ms.Count(over=ms.Session(gap="10m", late="1h"))]
WHERE = [None, "amount > 0", "country <> 'DE'", "10 // amount::int > 0"]


def group(entity, features, where=None, **more):
    return ms.StreamFeatureGroup("g", entity=entity, source=STREAM, features=features, where=where, **more)


def groups():
    made = [group(e, f, w) for e in (USER, DEVICE, PAIR) for f in (LANES, VALUES, ROWS) for w in WHERE]
    derived = ({"x": "amount * 2"}, {"x": "amount * 3"})
    return [*made, *(group(USER, [ms.Sum("x", over="1h")], derive=derive) for derive in derived)]


GROUPS = groups()
EVENTS = st.tuples(
    st.sampled_from([1, 2, None]),
    st.sampled_from(["a", "b", None]),
    st.sampled_from([0.0, 1.0, -7.5, 2.0**51, float("inf"), None]),
    st.sampled_from(["DE", "FR", "long", None]),
    st.integers(0, 5 * HOUR),
    st.sampled_from([0, 1, HOUR, 30 * HOUR]),
)


def table(events):
    users, devices, amounts, countries, times, delays = zip(*events, strict=True)
    return pa.table({
        "user_id": pa.array(users, pa.int64()), "device_id": pa.array(devices, pa.string()),
        "amount": pa.array(amounts, pa.float64()), "country": pa.array(countries, pa.string()),
        "at": pa.array(times, pa.timestamp("us", "UTC")), "_arrival": np.array(times) + np.array(delays),
        "_partition": np.zeros(len(events), np.int64), "_position": np.arange(len(events)),
    })  # fmt: skip


def many(rows: int) -> pa.Table:
    rng = np.random.default_rng(5)
    return table([(int(u), "ab"[u % 2], float(u), "DE", int(t), 0)
                  for u, t in zip(rng.integers(0, 9, rows), rng.integers(0, HOUR, rows), strict=True)])  # fmt: skip


def same(one: Prepared, other: Prepared) -> None:
    for field in fields(Prepared):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if field.name == "sections":
            for mine, theirs in zip(left, right, strict=True):
                for name in ("counts", "lanes", "entries"):
                    np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
        else:
            np.testing.assert_array_equal(left, right)


@settings(max_examples=30, deadline=None)
@given(st.lists(EVENTS, min_size=1, max_size=12), st.lists(st.sampled_from(GROUPS), min_size=2, max_size=6))
def test_a_group_prepares_beside_others_what_it_prepares_alone(events, wanted):
    given_rows = table(events)
    for one, found in zip(wanted, prepare(wanted, STREAM, given_rows), strict=True):
        same(found, prepare([one], STREAM, given_rows)[0])


def test_what_equal_groups_of_several_entities_fold_is_lifted_once():
    users, devices, others = prepare(
        [group(USER, LANES), group(DEVICE, LANES), group(USER, LANES, "amount > 0")], STREAM,
        table([(1, "a", 1.0, "DE", 1, 0), (2, "b", -1.0, "FR", 2, 0)]),
    )  # fmt: skip
    assert users.lanes is devices.lanes
    assert len(others.lanes) == 1


def test_many_rows_of_several_groups_are_prepared_as_those_of_one():
    given_rows, wanted = many(30_000), [group(USER, LANES), group(PAIR, LANES), group(DEVICE, VALUES)]
    for one, found in zip(wanted, prepare(wanted, STREAM, given_rows), strict=True):
        same(found, prepare([one], STREAM, given_rows)[0])


@settings(max_examples=30, deadline=None)
@given(st.lists(EVENTS, min_size=1, max_size=30), st.sampled_from([LANES, VALUES, ROWS]))
def test_the_order_of_events_changes_no_state(events, features):
    definition = group(USER, features)
    layout = layout_of(definition)
    states = {}
    for name, rows in (("given", events), ("by time", sorted(events, key=lambda event: event[4]))):
        (found,) = prepare([definition], STREAM, table(rows))
        states[name] = dict(zip(found.keys, fold(layout, found).to_bytes(), strict=True))
    assert states["given"] == states["by time"]


def test_a_thing_is_made_once_whoever_asks_first():
    made, memo = [], Once()
    tasks = [lambda: memo.once("x", lambda: made.append(threading.get_ident()) or len(made))] * 8
    assert side_by_side(tasks, 1_000_000) == [1] * 8
    assert len(made) == 1


def test_what_is_shared_may_be_written_as_kernels_are_compiled_for():
    rows = SharedRows(table([(1, "a", 1.0, "DE", 1, 0)]), "at", {})
    assert all(column.flags.writeable for column in (rows.times, rows.arrivals, rows.partitions, rows.positions))


def test_an_error_of_a_task_is_raised():
    with pytest.raises(ZeroDivisionError):
        side_by_side([lambda: 1, lambda: 1 // 0], 1_000_000)
