"""Who shares a reading, and how those behind catch up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from millstream.computing.shared_reads import Front, Shared, Span


def test_consumers_at_the_same_positions_share_one_reading() -> None:
    front = Front({"a": [4, 9], "b": [4, 9]})
    assert front.next() == [Shared(("a", "b"), (Span(0, 4, None), Span(1, 9, None)))]


def test_a_consumer_without_a_position_does_not_read() -> None:
    assert Front({"a": [4], "b": [None]}).next() == [Shared(("a",), (Span(0, 4, None),))]


def test_one_behind_reads_up_to_the_others_and_joins_them() -> None:
    front = Front({"a": [10], "b": [3]})
    (behind,) = front.next()
    assert behind == Shared(("b",), (Span(0, 3, 10),))
    front.advance(behind, {0: 10})
    assert front.next() == [Shared(("a", "b"), (Span(0, 10, None),))]


def test_one_that_does_not_reach_the_others_does_not_hold_them_up() -> None:
    front = Front({"a": [10], "b": [3]})
    (behind,) = front.next()
    front.advance(behind, {0: 7})
    assert front.next() == [Shared(("a",), (Span(0, 10, None),))]


def test_a_worker_takes_only_its_partitions() -> None:
    (shared,) = Front({"a": [1, 2, 3]}, [0, 2, 7]).next()
    assert [span.partition for span in shared.spans] == [0, 2]


positions = st.lists(st.one_of(st.none(), st.integers(0, 5)), min_size=3, max_size=3)


@given(st.dictionaries(st.sampled_from("abcd"), positions, min_size=1), st.integers(0, 4))
def test_a_round_ends_and_lets_everyone_read(rows: dict[str, list[int | None]], reach: int) -> None:
    front, read = Front(rows), set()
    for _ in range(100):
        together = front.next()
        if not together:
            break
        for shared in together:
            read |= {(consumer, span.partition) for consumer in shared.consumers for span in shared.spans}
            ends = {s.partition: min(s.position + reach, 6 if s.until is None else s.until) for s in shared.spans}
            front.advance(shared, ends)
    else:
        raise AssertionError("the round does not end")
    assert read == {(c, p) for c, row in rows.items() for p, at in enumerate(row) if at is not None}
