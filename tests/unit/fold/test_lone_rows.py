"""States of one row each, many at once: what becomes of them is what is said of each alone."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.errors import CorruptState
from millstream.fold.lone_rows import LoneRows, joined, lone_rows
from millstream.fold.rows import ACTIVE, ROW_SPAN, Row, join_rows, split_rows, union

TIMES = st.integers(0, 4).map(lambda step: step * (ROW_SPAN // 2))
ROWS = st.builds(Row, TIMES, TIMES, st.one_of(st.just(ACTIVE), TIMES), st.sampled_from([b"", b"a", b"bcd"]))


def columns(rows: list[Row]) -> LoneRows:
    times = [np.array([row[place] for row in rows], np.int64) for place in range(3)]
    return LoneRows(*times, pa.array([row.values for row in rows], pa.large_binary()))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(ROWS, ROWS, st.one_of(st.none(), TIMES)), max_size=12), TIMES)
def test_old_and_new_rows_become_what_their_union_is(pairs, now):
    olds, news = [old for old, _, _ in pairs], [new for _, new, _ in pairs]
    again = [old if at is None else old._replace(confirmed=at) for old, _, at in pairs]
    places, states = joined(columns(olds), columns(again).confirmed, columns(news), now)
    expected = [union([old], [new], now) for old, new in zip(again, news, strict=True)]
    changed = [place for place, after in enumerate(expected) if after != [olds[place]]]
    assert places.tolist() == changed
    assert [split_rows(state) for state in states] == [expected[place] for place in changed]


@given(st.lists(st.one_of(st.none(), st.just([]), st.lists(ROWS, min_size=1, max_size=3)), max_size=8))
def test_states_of_one_row_are_told_from_all_others(rows):
    states = [None if some is None else join_rows(some) if some else b"" for some in rows]
    places, found = lone_rows(states)
    assert places.tolist() == [place for place, some in enumerate(rows) if some is not None and len(some) == 1]
    assert found.rows() == [rows[place][0] for place in places]
    assert found.states() == [states[place] for place in places]


def test_a_state_of_another_format_is_no_row_and_is_refused_by_itself():
    state = bytearray(join_rows([Row(1, 2, ACTIVE, b"a")]))
    state[3] += 1
    assert lone_rows([bytes(state)])[0].tolist() == []
    with pytest.raises(CorruptState):
        split_rows(bytes(state))
