"""Stream = batch = point-in-time = the oracle, bit for bit, whatever the order, the cuts and the moment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millstream.fold import (
    RequestRows,
    States,
    as_of,
    encode_key,
    exact,
    fold,
    layout_of,
    merge,
    request_lanes,
    spent,
    value,
)  # fmt: skip
from millstream.fold.entries import INPUT, WIDTH
from millstream.fold.oracle import oracle
from millstream.fold.sections import parted
from tests.properties.effort import examples
from tests.properties.worlds import (
    DAY,
    ENTITY,
    HOUR,
    MINUTE,
    SECOND,
    Event,
    asked_of,
    event_lists,
    groups,
    numbers,
    oracle_events,
    passing,
    prepared,
    probes_for,
    same,
    texts,
)

KEYS = [encode_key(ENTITY.keys, [k]) for k in range(3)]
FAR = 2**62
many = settings(
    max_examples=examples(75), deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
passed = st.sampled_from(
    [0, 30 * SECOND, 9 * MINUTE, 50 * MINUTE, HOUR, 2 * HOUR, 23 * HOUR, DAY, 6 * DAY, 7 * DAY, 8 * DAY]
)
gaps = st.sampled_from([0, 1, SECOND, 5 * SECOND, MINUTE, 7 * MINUTE, HOUR, DAY, 8 * DAY, 31 * DAY])


def states_of(group: Any, events: list[Event]) -> list[bytes]:
    """The state of each of the three keys from one fold of the events."""
    batch = prepared(group, events)
    folded = dict(zip(batch.keys, fold(layout_of(group), batch).to_bytes(), strict=True))
    return [folded.get(key, b"") for key in KEYS]


def merged(group: Any, left: list[bytes], right: list[bytes]) -> list[bytes]:
    """Two lists of states merged pairwise."""
    return merge(layout_of(group), States.from_bytes(left), States.from_bytes(right)).to_bytes()


def request_of(events: list[Event], n: int, x: float | None) -> dict[str, Any]:
    """The fields of a request, most of which some event has."""
    if not events:
        return {"x": x, **asked_of(n % 4)}
    one = events[n % len(events)]
    return {"x": x, "s": one.s, "n": one.n, "ok": one.ok, "d": one.d, "u": one.u, "when": one.time}


def lanes_of(group: Any, rows: list[Event]) -> np.ndarray:
    """The lanes of requests, which are the same by a query and in compiled form."""
    fields = {name: name for name in ("k", "x", "y", "s", "ok")}
    values = {name: [getattr(row, name) for row in rows] for name in fields}
    at = np.array([row.time for row in rows], np.int64)
    kinds = {"k": pa.int64(), "s": pa.string(), "ok": pa.bool_()}
    given = {name: pa.array(column, kinds.get(name, pa.float64())) for name, column in values.items()}
    found = request_lanes(group, fields, given, at)
    added = RequestRows([None, (group, fields), (group, fields)]).added(values, at)
    layout = layout_of(group)
    end = layout.n_lanes + (layout.entries.width if layout.entries else 0)
    lanes, entries, _ = np.split(found, [layout.n_lanes, end], axis=1)
    for place in (1, 2):
        begin = added.begins[place]
        assert added.lanes[begin : begin + lanes.size].tolist() == lanes.reshape(-1).tolist()
        for one, other in zip(added.sections[place], parted(layout, found), strict=True):
            assert one.counts.tolist() == other.counts.tolist() and one.lanes.tolist() == other.lanes.tolist()
    assert added.begins[0] == -1
    for bag in layout_of(group).entries.rows.tolist() if layout_of(group).entries else ():
        for one in added.entries[1:]:
            begin, width = bag[INPUT], bag[WIDTH]
            assert one[:, begin].tolist() == entries[:, begin].tolist()
            given = one[:, begin] == 1
            mine, theirs = (some[given, begin : begin + 1 + width] for some in (one, entries))
            assert mine.tolist() == theirs.tolist()
    return found


@many
@given(
    groups,
    event_lists(),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 39), gaps, numbers), min_size=1, max_size=8),
    st.booleans(),
    st.one_of(st.none(), st.tuples(numbers, texts, st.sampled_from([True, False, None]))),
)
def test_point_in_time_is_the_oracle(
    group: Any, events: list[Event], asks: list[Any], sweep: bool, request_row: tuple[Any, ...] | None
) -> None:
    moments = [e.arrival for e in events] or [0]
    queries = [(k, moments[n % len(moments)] + gap) for k, n, gap, _ in asks]
    asked = [request_of(events, n + k, x) for k, n, _, x in asks]
    probes = probes_for(group, asked)
    batch = prepared(group, events)
    at = np.array([t for _, t in queries], np.int64)
    keys = [encode_key(ENTITY.keys, [k]) for k, _ in queries]
    rows = [
        None if request_row is None else Event(k, t, t, x, *request_row, is_request=True)
        for (k, t), (*_, x) in zip(queries, asks, strict=True)
    ]
    added = None if request_row is None else lanes_of(group, rows)
    got = as_of(layout_of(group), batch, batch.arrivals, keys, at, at, probes, added, sweep=sweep).columns
    plain = exact(layout_of(group), batch, batch.arrivals, keys, at, at, probes, added).columns
    assert all(repr(got[name].tolist()) == repr(plain[name].tolist()) for name in got)
    for row, (k, t) in enumerate(queries):
        one = None if request_row is None else oracle_events([rows[row]], k)[0]
        assert same(got, row, oracle(group.columns, oracle_events(events, k), t, None, asked[row], one)) == []


@many
@given(groups, event_lists(), st.data())
def test_any_cut_into_micro_batches_gives_the_same_state(group: Any, events: list[Event], data: Any) -> None:
    order = data.draw(st.permutations(events)) if data.draw(st.booleans()) else events
    cuts = sorted(data.draw(st.lists(st.integers(0, len(order)), max_size=6)))
    streamed = [b""] * 3
    for first, last in zip([0, *cuts], [*cuts, len(order)], strict=True):
        streamed = merged(group, streamed, states_of(group, order[first:last]))
    assert streamed == states_of(group, events)


@many
@given(groups, event_lists(), event_lists(), event_lists())
def test_merge_is_associative_and_commutative(group: Any, a: list[Event], b: list[Event], c: list[Event]) -> None:
    x, y, z = (states_of(group, events) for events in (a, b, c))
    assert merged(group, x, y) == merged(group, y, x)
    assert merged(group, merged(group, x, y), z) == merged(group, x, merged(group, y, z))


@many
@given(groups, event_lists(), st.lists(gaps, min_size=1, max_size=4), st.integers(0, 5 * SECOND))
def test_a_state_reads_as_the_oracle_from_five_seconds_before_its_newest_arrival(
    group: Any, events: list[Event], later: list[int], before: int
) -> None:
    states = States.from_bytes(states_of(group, events))
    newest = [int(m) for m in states.newest]
    for k in range(3):
        mine = oracle_events(events, k)
        row = Event(k, 0, 0, 2.5, None, "b", True)
        start = newest[k] if newest[k] > -FAR else 0
        for t in [start - before, *(start + gap for gap in later)]:
            at, asked = np.full(3, t, np.int64), request_of(events, k, 2.5)
            probes = probes_for(group, [asked] * 3)
            got = value(layout_of(group), states, at, probes).columns
            assert same(got, k, oracle(group.columns, mine, t, FAR, asked)) == []
            added = lanes_of(group, [replace(row, time=t)] * 3)
            got = value(layout_of(group), states, at, probes, added).columns
            (one,) = oracle_events([replace(row, time=t, arrival=t)], k)
            assert same(got, k, oracle(group.columns, mine, t, FAR, asked, one)) == []


@many
@given(passing, event_lists(), event_lists(max_size=8), passed, st.sampled_from([0, 1, SECOND, MINUTE]))
def test_a_key_that_is_forgotten_reads_as_if_it_were_not_whatever_comes_afterwards(
    group: Any, events: list[Event], late: list[Event], passed: int, gap: int
) -> None:
    layout, before = layout_of(group), states_of(group, events)
    by = max([event.arrival for event in events], default=0) + passed
    assert layout.runs_out
    over = spent(layout, States.from_bytes(before), by).tolist()
    late = [replace(event, arrival=by + number) for number, event in enumerate(late)]
    late += [replace(event, time=by + number, arrival=by + number) for number, event in enumerate(late)]
    kept = [b"" if one else state for one, state in zip(over, before, strict=True)]
    states = merge(layout, States.from_bytes(kept), States.from_bytes(states_of(group, late)), whole=True)
    at = max([by, *states.newest.tolist()]) + gap
    asked = request_of(events + late, 1, 2.5)
    got = value(layout, states, np.full(3, at, np.int64), probes_for(group, [asked] * 3)).columns
    for k in range(3):
        assert same(got, k, oracle(group.columns, oracle_events(events + late, k), at, FAR, asked)) == []


@many
@given(groups, event_lists(), st.integers(0, 39), gaps, st.booleans())
def test_no_value_uses_an_event_of_the_future(group: Any, events: list[Event], n: int, gap: int, sweep: bool) -> None:
    t = (events[n % len(events)].arrival if events else 0) + gap
    known = [e for e in events if e.arrival <= t and e.time < t]
    at = np.full(3, t, np.int64)

    def read(some: list[Event]) -> dict[str, np.ndarray]:
        batch = prepared(group, some)
        return as_of(layout_of(group), batch, batch.arrivals, KEYS, at, at, sweep=sweep).columns

    all_events, past = read(events), read(known)
    for name in all_events:
        assert all_events[name].tolist() == past[name].tolist() or all(
            a == b or (a != a and b != b) for a, b in zip(all_events[name], past[name], strict=True)
        )


@settings(max_examples=examples(30), deadline=None)
@given(groups, st.integers(60, 200), st.integers(1, 3 * SECOND), st.integers(0, 2**32), st.integers(0, 5 * SECOND))
def test_a_full_head_overflows_into_tiles_and_stays_a_function_of_the_set(
    group: Any, n: int, spread: int, seed: int, before: int
) -> None:
    rng = np.random.default_rng(seed)
    times = rng.integers(0, spread, n) + 10 * DAY
    events = [Event(0, int(t), int(t) + int(rng.integers(-SECOND, 3 * SECOND)), 1.5, 2.5, "a", True) for t in times]
    whole = states_of(group, events)
    half = n // 2
    assert merged(group, states_of(group, events[half:]), states_of(group, events[:half])) == whole
    states = States.from_bytes(whole)
    newest = int(states.newest[0])
    got = value(layout_of(group), states, np.full(3, newest, np.int64)).columns
    assert same(got, 0, oracle(group.columns, oracle_events(events, 0), newest, FAR)) == []
