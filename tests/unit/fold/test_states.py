"""States and delta records as bytes, and the sums in them."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.fold.test_prepare import HOUR, STREAM, USER, group, table

import millstream as ms
from millstream.errors import CorruptState
from millstream.fold import States, decode_deltas, encode_deltas, fold, layout_of, merge, prepare, value


def folded(amounts, definition=None):
    definition = definition or group()
    (found,) = prepare([definition], STREAM, table(amounts))
    return fold(layout_of(definition), found)


def test_states_come_back_from_their_bytes():
    states = folded([1.0, 2.0])
    again = States.from_bytes([None, *states.to_bytes(), b""])
    assert len(again) == 3
    assert again.to_bytes() == [b"", *states.to_bytes(), b""]
    assert again.newest.tolist() == [np.iinfo(np.int64).min, 10 * HOUR, np.iinfo(np.int64).min]


@pytest.mark.parametrize("damage", [lambda b: b[:-3], lambda b: b[:16], lambda b: b"\x07" + b[1:]])
def test_damaged_states_are_refused_in_one_sentence(damage):
    (state,) = folded([1.0]).to_bytes()
    with pytest.raises(CorruptState, match="State:"):
        States.from_bytes([damage(state)])


@pytest.mark.parametrize("keys", [0, 1, 3])
def test_delta_records_come_back(keys):
    states = States.from_bytes(folded([1.0]).to_bytes() * keys)
    names = [b"key\0" * i for i in range(keys)]
    record = encode_deltas({"pay/0": (3, 9)}, 77, names, states, 55)
    found = decode_deltas(record)
    assert (found.ranges, found.computed_at, found.newest_arrival, found.keys) == ({"pay/0": (3, 9)}, 77, 55, names)
    assert found.states.to_bytes() == states.to_bytes()


def test_a_state_that_has_let_go_of_events_is_not_read_as_if_it_had_not():
    definition = ms.StreamFeatureGroup("w", entity=USER, source=STREAM, features=[ms.Count(over="1h")])
    (found,) = prepare([definition], STREAM, table([1.0, 2.0]))
    apart = np.array([0, 48 * HOUR])
    pruned = fold(layout_of(definition), replace(found, times=found.times + apart, arrivals=found.arrivals + apart))
    assert pruned.let_go == [0]
    assert pruned.held_back(20 * HOUR, 20 * HOUR).newest.tolist() == pruned.newest.tolist()
    whole = fold(layout_of(definition), found)
    assert whole.let_go == ()
    assert whole.held_back(HOUR, HOUR).newest.tolist() == [HOUR]
    sent = decode_deltas(encode_deltas({}, 0, found.keys, pruned, 0)).states
    assert (sent.let_go, sent.take(np.array([0, 0])).let_go) == ([0], [0, 1])


def test_a_record_of_another_format_is_refused():
    with pytest.raises(CorruptState, match="Delta record"):
        decode_deltas(b"not a delta record at all")


MOMENTS = [ms.Sum("amount"), ms.Mean("amount"), ms.Var("amount"), ms.Std("amount")]
MOMENT_GROUP = ms.StreamFeatureGroup("m", entity=USER, source=STREAM, features=MOMENTS)
within = st.floats(-(2.0**49), 2.0**49, allow_nan=False) | st.sampled_from(
    [0.1, 1e-20, 2.0**-65, 5e-20, 2.0**49, -(2.0**49)]
)


@settings(deadline=None)
@given(st.lists(within, min_size=1, max_size=20))
def test_sums_and_variances_are_exact_to_the_last_bit(amounts):
    states = folded(amounts, MOMENT_GROUP)
    got = {k: v[0] for k, v in value(layout_of(MOMENT_GROUP), states, np.array([11 * HOUR])).columns.items()}
    fixed = [round(Fraction(x) * 2**64) for x in amounts]
    n, total = len(fixed), sum(fixed)
    assert got["amount_sum"] == total / 2**64
    assert got["amount_mean"] == total / (n * 2**64)
    if n > 1:
        assert got["amount_var"] == (n * sum(x * x for x in fixed) - total**2) / 2**128 / (float(n) * float(n - 1))
    else:
        assert math.isnan(got["amount_var"]) and math.isnan(got["amount_std"])


def test_equal_values_are_their_mean_and_have_no_variance_at_all():
    states = folded([0.1] * 7, MOMENT_GROUP)
    found = value(layout_of(MOMENT_GROUP), states, np.array([11 * HOUR])).columns
    assert (found["amount_mean"].tolist(), found["amount_var"].tolist()) == ([0.1], [0.0])


def test_a_huge_payment_and_its_reversal_leave_the_small_one():
    states = folded([1e15, 0.01, -1e15])
    assert value(layout_of(group()), states, np.array([10 * HOUR + 1])).columns["amount_sum_1h"].tolist() == [0.01]


def test_merging_with_nothing_changes_nothing():
    states = folded([1.0, 2.0])
    nothing = States.from_bytes([b""])
    assert merge(layout_of(group()), states, nothing).to_bytes() == states.to_bytes()
    assert merge(layout_of(group()), nothing, nothing).to_bytes() == [b""]


def test_the_worst_case_of_a_state_is_not_exceeded():
    rng = np.random.default_rng(0)
    times = np.sort(rng.integers(0, 48 * HOUR, 50_000))
    (found,) = prepare([group()], STREAM, table([1.0] * 50_000, times=times))
    (state,) = fold(layout_of(group()), found).to_bytes()
    assert len(state) <= layout_of(group()).state_bytes_max
