"""What every log must do: subclass `LogConformance` and say how to open yours.

The tests use real processes, and kill some: what was acknowledged must be there afterwards, and a transaction must have
happened wholly or not at all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise

import pytest

from millstream.buffer.log import Batch, Behind, OwnLog, Tail, TimeIndex, Watched
from millstream.buffer.reading import through
from millstream.clock import SimulatedClock
from millstream.errors import Fenced, LogError
from millstream.testing.log_processes import everything, numbered, payloads, positions, text
from millstream.testing.topic_suite import TopicConformance
from millstream.testing.worker_suite import WorkerConformance

START = 1_700_000_000_000_000
NOT_ATOMIC = {
    name: ((AssertionError, pytest.fail.Exception), reason)
    for name, reason in {
        "test_commits_move_from_the_expected_position_only": "a committed position is a hint",
        "test_a_fenced_transaction_leaves_nothing": "nobody is fenced",
        "test_a_killed_transaction_happened_wholly_or_not_at_all": "what was appended stays without its position",
        "test_two_workers_fence_each_other_and_do_each_piece_once": "nobody is fenced; records say where they are from",
        "test_one_that_lost_a_partition_is_fenced": "nobody is fenced",
        "test_what_a_killed_worker_owned_goes_to_the_others": "a transaction may come apart",
        "test_one_that_was_stopped_and_goes_on_is_fenced": "nobody is fenced",
    }.items()
}
"""What a log does not do whose transactions can come apart."""


class LogConformance(TopicConformance, WorkerConformance):
    """The tests of the protocol `Log`, of `TopicAdmin`, by which the topics are made, and of `Worker`.

    A subclass gives two fixtures: `log`, a fresh log stamped by the fixture `clock`, and `opening`, Python source
    that binds `log` to the same log in another process. What a log does not do its subclass declares as `deviations`;
    one that is not atomic those of `NOT_ATOMIC`.
    """

    @pytest.fixture
    def clock(self) -> SimulatedClock:
        """The clock of the log under test."""
        return SimulatedClock(START)

    def test_reads_back_what_was_appended_in_order_of_positions(self, log: OwnLog) -> None:
        """Every record has a position, the first of a batch the one that the append returned."""
        log.create("events", 2)
        firsts = [
            log.append("events", 0, text("1", "2", "3")),
            log.append("events", 0, Batch(b"opaque\n\x00", "bytes", 1)),
        ]
        log.append("events", 1, Batch(b"arrow", "arrow", 2))
        found = everything(log, "events", 0)
        assert payloads(log, "events", 0) == [b"1\n2\n3", b"opaque\n\x00"]
        assert [kind for records in found for kind in records.encodings] == ["json", "bytes"]
        assert [count for records in found for count in records.counts.tolist()] == [3, 1]
        assert [place for records in found for place in records.firsts.tolist()] == firsts
        assert {(records.topic, records.partition, records.skip) for records in found} == {("events", 0, 0)}
        places = positions(log, "events", 0)
        assert len(places) == 4 and places == sorted(set(places))
        assert payloads(log, "events", 1) == [b"arrow"] and len(positions(log, "events", 1)) == 2
        assert all(first == 0 for first, _ in log.ends("events"))

    def test_a_batch_that_is_too_large_is_refused_and_leaves_nothing(self, log: OwnLog) -> None:
        """The largest is taken, by itself and in a transaction; one byte more is refused with the size and the limit."""
        log.create("events", 1)
        log.append("events", 0, Batch(b"x" * log.largest, "bytes", 1))
        for payload in (b"y" * (log.largest + 1), b"z" * (2 * log.largest)):
            with pytest.raises(LogError, match=f"events.*{len(payload):,} bytes.*{log.largest:,}"):
                log.append("events", 0, Batch(payload, "bytes", 1))
            with pytest.raises(LogError, match=f"{log.largest:,}"), log.transaction() as work:
                work.append("events", 0, text("a"))
                work.append("events", 0, Batch(payload, "bytes", 1))
        assert b"x" * log.largest in payloads(log, "events", 0)
        assert payloads(log, "events", 0) in ([b"x" * log.largest], [b"x" * log.largest, *[b"a"] * 2])

    def test_reading_goes_on_where_the_read_before_said(self, log: OwnLog) -> None:
        """Read by read, whatever the limit, everything is there once, and the last read ends at the end."""
        log.create("events", 1)
        for number in range(10):
            log.append("events", 0, text(f"{number}a", f"{number}b"))
        for limit in (1, 2, 3, 7, 100):
            reads = everything(log, "events", 0, limit)
            assert [payload for records in reads for payload in records.payloads] == [
                b"%da\n%db" % (number, number) for number in range(10)
            ]
            for records, following in pairwise(reads):
                assert records.positions[-1] < records.next <= following.positions[0]
            assert reads[-1].positions[-1] < log.ends("events")[0][1]

    def test_a_read_from_within_a_batch_says_how_much_to_skip(self, log: OwnLog) -> None:
        """The batch that holds the position comes whole, with the positions of what was asked for."""
        log.create("events", 1)
        log.append("events", 0, text("0", "1", "2"))
        log.append("events", 0, text("3", "4"))
        places = positions(log, "events", 0)
        end = log.ends("events")[0][1]
        for number, skip, payload in ((2, 2, b"0\n1\n2"), (3, 0, b"3\n4"), (4, 1, b"3\n4")):
            held = next(through(log, "events", 0, places[number], end, 1))
            assert (held.payloads[0], held.skip, held.firsts[0]) == (payload, skip, places[number])
            assert held.positions.tolist() == places[number : number + len(held)]

    def test_nothing_there_yet_is_an_empty_read(self, log: OwnLog) -> None:
        """Neither an empty partition nor the end of one is an error, and reading goes on there or further on."""
        log.create("events", 2)
        log.append("events", 0, text("a"))
        for partition, position in ((1, 0), (0, log.ends("events")[0][1])):
            found = log.read("events", partition, position, 5)
            assert (len(found), found.payloads) == (0, []) and found.next >= position

    def test_the_log_says_how_far_behind_a_reader_is(self, log: OwnLog, clock: SimulatedClock) -> None:
        """In records and since when; nothing exactly when there is nothing before it."""
        log.create("events", 2)
        assert log.behind("events", 0, 0) == Behind(0, None)
        for _ in range(3):
            clock.advance(5)
            log.append("events", 0, text("a", "b"))
        places, end = positions(log, "events", 0), log.ends("events")[0][1]
        for number, since in ((0, 5), (2, 10), (5, 15)):
            found = log.behind("events", 0, places[number])
            assert found.records > 0 and found.since == START + since
        assert log.behind("events", 0, end) == Behind(0, None)
        assert log.behind("events", 1, 0) == Behind(0, None)
        log.trim("events", 0, places[2])
        found = log.behind("events", 0, 0)
        assert found.records > 0 and found.since == START + 10

    def test_a_log_that_finds_instants_finds_all_that_came_since(self, log: OwnLog, clock: SimulatedClock) -> None:
        """Nothing that was appended at the instant or later lies before what it returns."""
        if not isinstance(log, TimeIndex):
            pytest.skip("it finds no instants")
        log.create("events", 1)
        for _ in range(9):
            clock.advance(5)
            log.append("events", 0, text("a", "b"))
        places = positions(log, "events", 0)
        for number in range(9):
            assert log.position_at("events", 0, START + 5 * number + 3) <= places[2 * number]
        assert log.position_at("events", 0, START + 46) <= log.ends("events")[0][1]
        clock.set(START + 7)
        log.append("events", 0, text("a", "b"))
        for _ in range(9):
            log.append("events", 0, text("a"))
        assert log.position_at("events", 0, START + 33) <= places[12]
        assert log.position_at("events", 0, START + 44) <= places[16]
        log.trim("events", 0, places[4])
        assert log.position_at("events", 0, START + 33) <= places[12]
        log.trim("events", 0, places[-1])
        assert log.position_at("events", 0, START + 7) <= places[-1] + 1

    def test_a_log_that_is_watched_tells_that_something_came(self, log: OwnLog) -> None:
        """Another number for every append and commit in any topic, and none that is waited for longer than asked."""
        if not isinstance(log, Watched):
            pytest.skip("it does not tell")
        log.create("events", 1)
        log.create("others", 2)
        for topic, partition in (("events", 0), ("others", 1)):
            seen = log.wait(None, 60.0)
            log.append(topic, partition, text("a"))
            assert log.wait(seen, 60.0) != seen
        seen = log.wait(None, 60.0)
        with log.transaction() as work:
            work.commit("reader", "events", 0, None, positions(log, "events", 0)[0])
        assert log.wait(seen, 60.0) != seen
        log.wait(log.wait(None, 0.0), 0.05)

    def test_a_log_that_is_watched_tells_what_comes_meanwhile(self, log: OwnLog) -> None:
        """Who waits is awake soon after something came, long before the time is over."""
        if not isinstance(log, Watched):
            pytest.skip("it does not tell")
        log.create("events", 1)
        seen = log.wait(None, 0.0)
        sent = threading.Timer(0.1, log.append, ("events", 0, text("a")))
        sent.start()
        while log.wait(seen, 60.0) == seen:
            pass
        sent.join()

    def test_a_log_that_finds_its_newest_records_finds_enough(self, log: OwnLog) -> None:
        """So many lie at or after the position that it returns."""
        if not isinstance(log, Tail):
            pytest.skip("it does not find its newest records")
        numbered(log, 10)
        places = positions(log, "events", 0)
        for count in (1, 4, 10, 99):
            assert log.position_of_last("events", 0, count) <= places[-min(count, 10)]

    def test_appends_are_stamped_by_the_clock_or_by_a_foreign_broker(self, log: OwnLog, clock: SimulatedClock) -> None:
        """A declared arrival takes the place of the clock."""
        log.create("events", 1)
        clock.advance(5)
        log.append("events", 0, text("a"))
        log.append("events", 0, text("b"), 77)
        with log.transaction() as work:
            work.append("events", 0, text("c"))
        stamps = [stamp for records in everything(log, "events", 0) for stamp in records.appended.tolist()]
        assert stamps == [START + 5, 77, START + 5]

    def test_a_large_batch_comes_back_whole(self, log: OwnLog) -> None:
        """As many bytes in one batch as the log takes."""
        log.create("events", 1)
        payload = (bytes(range(256)) * (log.largest // 256 + 1))[: log.largest]
        log.append("events", 0, Batch(payload, "bytes", 1))
        assert payloads(log, "events", 0) == [payload]

    def test_commits_move_from_the_expected_position_only(self, log: OwnLog) -> None:
        """Compare and set, per consumer and partition."""
        log.create("events", 2)
        with log.transaction() as work:
            work.commit("compute", "events", 1, None, 10)
        with log.transaction() as work:
            work.commit("compute", "events", 1, 10, 20)
        assert log.committed("compute", "events") == [None, 20]
        assert log.committed("other", "events") == [None, None]
        for expected in (None, 10, 30):
            with pytest.raises(Fenced), log.transaction() as work:
                work.commit("compute", "events", 1, expected, 99)
        assert log.committed("compute", "events") == [None, 20]

    def test_a_fenced_transaction_leaves_nothing(self, log: OwnLog) -> None:
        """Neither its appends, nor its other commits."""
        log.create("events", 2)
        log.create("out", 1)
        with log.transaction() as work:
            work.commit("compute", "events", 1, None, 5)
        with pytest.raises(Fenced), log.transaction() as work:
            work.append("out", 0, text("a"))
            work.commit("compute", "events", 0, None, 5)
            work.commit("compute", "events", 1, 4, 6)
        assert payloads(log, "out", 0) == []
        assert log.committed("compute", "events") == [None, 5]

    def test_a_transaction_that_raises_leaves_nothing(self, log: OwnLog) -> None:
        """Whatever is raised in the block undoes it, and the log goes on."""
        log.create("events", 1)
        with pytest.raises(ZeroDivisionError), log.transaction() as work:
            work.append("events", 0, text("a"))
            _ = 1 / 0
        assert payloads(log, "events", 0) == []
        log.append("events", 0, text("b"))
        assert payloads(log, "events", 0) == [b"b"]

    def test_a_transaction_appends_to_several_topics_at_once(self, log: OwnLog) -> None:
        """Its positions are those that readers see afterwards."""
        log.create("left", 1)
        log.create("right", 2)
        log.append("right", 1, text("before"))
        with log.transaction() as work:
            places = [work.append("left", 0, text("a", "b")), work.append("left", 0, text("c"))]
            place = work.append("right", 1, text("d"))
        assert payloads(log, "left", 0) == [b"a\nb", b"c"]
        assert payloads(log, "right", 1) == [b"before", b"d"]
        assert [positions(log, "left", 0)[number] for number in (0, 2)] == places
        assert positions(log, "right", 1)[1] == place

    def test_unknown_topics_and_partitions_are_refused_by_name(self, log: OwnLog) -> None:
        """Reading, appending and committing alike."""
        log.create("payments", 2)
        attempts: list[Callable[[], object]] = [
            lambda: log.append("paymets", 0, text("a")),
            lambda: log.read("paymets", 0, 0, 1),
            lambda: log.ends("paymets"),
            lambda: log.behind("paymets", 0, 0),
            lambda: log.committed("c", "paymets"),
        ]
        for attempt in attempts:
            with pytest.raises(LogError, match="paymets"):
                attempt()
        for partition in (-1, 2):
            with pytest.raises(LogError, match=f"no partition {partition}"):
                log.append("payments", partition, text("a"))
            with pytest.raises(LogError, match=f"no partition {partition}"):
                log.read("payments", partition, 0, 1)
            with pytest.raises(LogError, match=f"no partition {partition}"), log.transaction() as work:
                work.commit("c", "payments", partition, None, 1)

    def test_an_empty_batch_is_refused(self, log: OwnLog) -> None:
        """A batch without records has no place."""
        log.create("events", 1)
        with pytest.raises(LogError, match="0 records"):
            log.append("events", 0, Batch(b"", "json", 0))
