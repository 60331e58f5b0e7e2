"""Records that a log takes in parts only: whatever comes twice, late or never, what comes out is what was written."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.buffer.parts import Assembly, cut, head_of, part_of, whole_records
from millstream.errors import CorruptState

records = st.binary(max_size=400).map(lambda some: b"R" + some)  # a record begins in a way of its own, not as a part


@settings(max_examples=200, deadline=None)
@given(st.lists(records, min_size=1, max_size=4, unique=True), st.integers(60, 200), st.data())
def test_records_in_parts_come_whole_however_their_parts_lie_and_repeat(some: list[bytes], largest: int, data) -> None:
    queues = [cut(record, b"head", largest) for record in some]
    assert all(len(payload) <= largest for queue in queues for payload in queue)
    laid: list[bytes] = []
    while any(queues):
        queue = data.draw(st.sampled_from([queue for queue in queues if queue]))
        laid.append(queue.pop(0))
        if data.draw(st.booleans()):
            laid.append(laid[-1])
    found, unfinished = whole_records(laid)
    assert set(found) == set(some)
    assert all(head_of(payload) == b"head" for payload in laid if part_of(payload))
    assert all(record.head == b"head" for record in unfinished)  # of a last part that came twice


def test_a_record_without_one_of_its_parts_is_unfinished_and_says_where_it_began() -> None:
    payloads = cut(b"a" * 300, b"head", 120)
    assert len(payloads) > 2
    for absent in range(len(payloads)):
        assembly = Assembly()
        left = [(place, payload) for place, payload in enumerate(payloads) if place != absent]
        assert [assembly.add(payload, place) for place, payload in left] == [None] * len(left)
        (found,) = assembly.unfinished
        assert (found.head, found.place, found.begun) == (b"head", left[0][0], absent != 0)


def test_parts_of_two_versions_of_a_record_are_never_mixed() -> None:
    one, other = cut(b"a" * 200, b"head", 150), cut(b"b" * 200, b"head", 150)
    found, unfinished = whole_records([one[0], *other[1:]])
    assert (found, len(unfinished)) == ([], 2)


def test_bytes_that_are_no_part_are_said_to_be_none() -> None:
    payload = cut(b"a" * 200, b"head", 150)[0]
    for wrong in (payload[:20], payload[:4] + b"\xff" * 40):
        with pytest.raises(CorruptState):
            part_of(wrong)
    *_, last = cut(b"a" * 200, b"head", 150)
    with pytest.raises(CorruptState, match="not what was written"):
        whole_records([payload, last[:-1] + b"x"])
