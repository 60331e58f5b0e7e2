"""What every log must do: subclass `LogConformance` and say how to open yours.

The tests use real processes, and kill some: what was acknowledged must be there afterwards, and a transaction must have
happened wholly or not at all.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from millstream.buffer.log import Batch, OwnLog, Records
from millstream.clock import SimulatedClock
from millstream.errors import Fenced, LogError

START = 1_700_000_000_000_000

_APPENDING = """
from millstream.buffer.log import Batch
while True:
    number = log.ends("events")[0][1]
    log.append("events", 0, Batch(b"%d" % number + b"." * 20_000, "bytes", 1))
    print(number, flush=True)
"""
_TRANSACTING = """
from millstream.buffer.log import Batch
while True:
    position = log.committed("worker", "events")[0] or 0
    with log.transaction() as work:
        for topic in ("left", "right"):
            work.append(topic, 0, Batch(b"%d" % position + b"." * 20_000, "bytes", 1))
        work.commit("worker", "events", 0, position or None, position + 1)
    print(position, flush=True)
"""
_COMPETING = """
from millstream.buffer.log import Batch
from millstream.errors import Fenced
fenced = 0
while (position := log.committed("worker", "events")[0] or 0) < 150:
    try:
        with log.transaction() as work:
            work.append("out", 0, Batch(b"%d" % position, "bytes", 1))
            work.commit("worker", "events", 0, position or None, position + 1)
    except Fenced:
        fenced += 1
print(fenced)
"""
_PRODUCING = """
from millstream.buffer.log import Batch
for number in range(100):
    log.append("events", number % 2, Batch(b"x", "bytes", 1))
"""


def text(*lines: str) -> Batch:
    """Make a batch of JSON lines."""
    return Batch("\n".join(lines).encode(), "json", len(lines))


def payloads(records: list[Records]) -> list[bytes]:
    """Return the payloads of some records."""
    return [record.payload for record in records]


class LogConformance:
    """The tests of the protocol `Log` (and `TopicAdmin`, by which the topics are made).

    A subclass gives two fixtures: `log`, a fresh log stamped by the fixture `clock`, and `opening`, Python source
    that binds `log` to the same log in another process.
    """

    @pytest.fixture
    def clock(self) -> SimulatedClock:
        """The clock of the log under test."""
        return SimulatedClock(START)

    @pytest.fixture
    def start(self, opening: str) -> Callable[[str], subprocess.Popen[str]]:
        """Start a process that runs a script on the log."""

        def started(script: str) -> subprocess.Popen[str]:
            return subprocess.Popen([sys.executable, "-c", opening + script], stdout=subprocess.PIPE, text=True)

        return started

    def test_reads_back_what_was_appended_in_order_of_positions(self, log: OwnLog) -> None:
        """Positions count records, and a read gives whole batches with their places and stamps."""
        log.create("events", 2)
        assert log.append("events", 0, text("1", "2", "3")) == 0
        assert log.append("events", 0, Batch(b"opaque\n\x00", "bytes", 1)) == 3
        assert log.append("events", 1, Batch(b"arrow", "arrow", 2)) == 0
        assert log.read("events", 0, 0, 10) == [
            Records("events", 0, 0, 3, START, "json", b"1\n2\n3"),
            Records("events", 0, 3, 1, START, "bytes", b"opaque\n\x00"),
        ]
        assert log.read("events", 1, 0, 10) == [Records("events", 1, 0, 2, START, "arrow", b"arrow")]
        assert log.ends("events") == [(0, 4), (0, 2)]

    def test_a_read_from_within_a_batch_says_how_much_to_skip(self, log: OwnLog) -> None:
        """The batch that holds the position comes whole."""
        log.create("events", 1)
        log.append("events", 0, text("0", "1", "2"))
        log.append("events", 0, text("3", "4"))
        (held,) = log.read("events", 0, 2, 1)
        assert (held.position, held.skip, held.end) == (0, 2, 3)
        assert [(r.position, r.skip) for r in log.read("events", 0, 2, 2)] == [(0, 2), (3, 0)]
        assert [(r.position, r.skip) for r in log.read("events", 0, 4, 9)] == [(3, 1)]

    def test_a_read_stops_at_the_limit_yet_gives_at_least_one_batch(self, log: OwnLog) -> None:
        """The limit counts records from the position on."""
        log.create("events", 1)
        for _ in range(4):
            log.append("events", 0, text("a", "b"))
        assert len(log.read("events", 0, 0, 1)) == 1
        assert len(log.read("events", 0, 0, 3)) == 2
        assert len(log.read("events", 0, 0, 4)) == 2
        assert len(log.read("events", 0, 1, 4)) == 3

    def test_nothing_there_yet_is_an_empty_read(self, log: OwnLog) -> None:
        """Neither an empty partition nor the end of one is an error."""
        log.create("events", 2)
        log.append("events", 0, text("a"))
        assert log.read("events", 1, 0, 5) == []
        assert log.read("events", 0, 1, 5) == []
        assert log.read("events", 0, 99, 5) == []

    def test_neighbouring_topics_do_not_mix(self, log: OwnLog) -> None:
        """Neither topics whose names share a beginning, nor partitions."""
        for topic in ("a", "ab", "a.b"):
            log.create(topic, 12)
            for partition in range(12):
                log.append(topic, partition, Batch(f"{topic}/{partition}".encode(), "bytes", 1))
        for topic in ("a", "ab", "a.b"):
            for partition in range(12):
                assert payloads(log.read(topic, partition, 0, 9)) == [f"{topic}/{partition}".encode()]

    def test_appends_are_stamped_by_the_clock_or_by_a_foreign_broker(self, log: OwnLog, clock: SimulatedClock) -> None:
        """A declared arrival takes the place of the clock."""
        log.create("events", 1)
        clock.advance(5)
        log.append("events", 0, text("a"))
        log.append("events", 0, text("b"), 77)
        with log.transaction() as work:
            work.append("events", 0, text("c"))
        assert [record.appended for record in log.read("events", 0, 0, 9)] == [START + 5, 77, START + 5]

    def test_a_large_batch_comes_back_whole(self, log: OwnLog) -> None:
        """Ten megabytes in one batch."""
        log.create("events", 1)
        payload = bytes(range(256)) * 40_000
        log.append("events", 0, Batch(payload, "bytes", 1))
        assert payloads(log.read("events", 0, 0, 1)) == [payload]

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
        assert log.ends("out") == [(0, 0)]
        assert log.committed("compute", "events") == [None, 5]

    def test_a_transaction_that_raises_leaves_nothing(self, log: OwnLog) -> None:
        """Whatever is raised in the block undoes it, and the log goes on."""
        log.create("events", 1)
        with pytest.raises(ZeroDivisionError), log.transaction() as work:
            work.append("events", 0, text("a"))
            _ = 1 / 0
        assert log.ends("events") == [(0, 0)]
        assert log.append("events", 0, text("b")) == 0

    def test_a_transaction_appends_to_several_topics_at_once(self, log: OwnLog) -> None:
        """Its positions are those that readers see afterwards."""
        log.create("left", 1)
        log.create("right", 2)
        log.append("right", 1, text("before"))
        with log.transaction() as work:
            assert work.append("left", 0, text("a", "b")) == 0
            assert work.append("left", 0, text("c")) == 2
            assert work.append("right", 1, text("d")) == 1
        assert payloads(log.read("left", 0, 0, 9)) == [b"a\nb", b"c"]
        assert payloads(log.read("right", 1, 0, 9)) == [b"before", b"d"]

    def test_unknown_topics_and_partitions_are_refused_by_name(self, log: OwnLog) -> None:
        """Reading, appending and committing alike."""
        log.create("payments", 2)
        attempts: list[Callable[[], object]] = [
            lambda: log.append("paymets", 0, text("a")),
            lambda: log.read("paymets", 0, 0, 1),
            lambda: log.ends("paymets"),
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
        """Positions count records, so a batch without any has no place."""
        log.create("events", 1)
        with pytest.raises(LogError, match="0 records"):
            log.append("events", 0, Batch(b"", "json", 0))

    def test_creating_a_topic_twice_is_harmless_unless_partitions_differ(self, log: OwnLog) -> None:
        """The number of partitions is fixed for life."""
        log.create("events", 3)
        log.append("events", 2, text("a"))
        log.create("events", 3)
        assert log.ends("events")[2] == (0, 1)
        assert log.topics() == {"events": 3}
        with pytest.raises(LogError, match="3 partitions"):
            log.create("events", 4)

    def test_trimming_drops_whole_batches_and_keeps_positions(self, log: OwnLog) -> None:
        """What is trimmed cannot be read; what is kept has the places it had."""
        log.create("events", 2)
        for partition in (0, 1):
            for _ in range(4):
                log.append("events", partition, text("a", "b", "c"))
        assert log.trim("events", 0, 8) == 6
        assert log.ends("events") == [(6, 12), (0, 12)]
        assert [record.position for record in log.read("events", 0, 7, 99)] == [6, 9]
        with pytest.raises(LogError, match="trimmed"):
            log.read("events", 0, 5, 1)
        assert log.trim("events", 0, 2) == 6
        assert log.trim("events", 0, 12) == 12
        assert log.append("events", 0, text("d")) == 12

    def test_a_dropped_topic_takes_its_positions_with_it(self, log: OwnLog) -> None:
        """A new topic of its name begins anew."""
        log.create("events", 1)
        log.create("kept", 1)
        log.append("kept", 0, text("k"))
        log.append("events", 0, text("a"))
        with log.transaction() as work:
            work.commit("c", "events", 0, None, 1)
        log.drop("events")
        log.drop("events")
        assert log.topics() == {"kept": 1}
        log.create("events", 2)
        assert log.committed("c", "events") == [None, None]
        assert log.read("events", 0, 0, 9) == []
        assert payloads(log.read("kept", 0, 0, 9)) == [b"k"]

    def test_producers_in_several_processes_get_positions_of_their_own(
        self, log: OwnLog, start: Callable[[str], subprocess.Popen[str]]
    ) -> None:
        """Nothing is overwritten and no position is skipped by this log's own producers."""
        log.create("events", 2)
        workers = [start(_PRODUCING) for _ in range(3)]
        assert [worker.wait(60) for worker in workers] == [0, 0, 0]
        for partition in (0, 1):
            assert len(log.read("events", partition, 0, 1_000)) == 150

    @pytest.mark.parametrize("acknowledged", [1, 7, 20])
    def test_what_was_acknowledged_survives_a_killed_producer(
        self, log: OwnLog, start: Callable[[str], subprocess.Popen[str]], acknowledged: int
    ) -> None:
        """Every position that the producer reported is there, with what it wrote."""
        log.create("events", 1)
        reported = _killed_after(start(_APPENDING), acknowledged)
        stored = log.read("events", 0, 0, 1_000_000)
        assert len(stored) >= len(reported) >= acknowledged
        for number, record in enumerate(stored):
            assert record.payload == b"%d" % number + b"." * 20_000
        assert log.append("events", 0, text("after")) == len(stored)

    @pytest.mark.parametrize("acknowledged", [1, 5, 12])
    def test_a_killed_transaction_happened_wholly_or_not_at_all(
        self, log: OwnLog, start: Callable[[str], subprocess.Popen[str]], acknowledged: int
    ) -> None:
        """Both topics and the committed position agree, and hold all that was reported."""
        for topic in ("events", "left", "right"):
            log.create(topic, 1)
        reported: list[str] = []
        for _ in range(3):
            reported += _killed_after(start(_TRANSACTING), acknowledged)
            (committed,) = log.committed("worker", "events")
            assert log.ends("left") == log.ends("right") == [(0, committed)]
            assert committed is not None and committed >= len(reported)
        for topic in ("left", "right"):
            numbers = [int(record.payload.rstrip(b".")) for record in log.read(topic, 0, 0, 1_000_000)]
            assert numbers == list(range(len(numbers)))

    def test_two_workers_fence_each_other_and_do_each_piece_once(
        self, log: OwnLog, start: Callable[[str], subprocess.Popen[str]]
    ) -> None:
        """However they race, each position is worked on exactly once."""
        log.create("events", 1)
        log.create("out", 1)
        workers = [start(_COMPETING) for _ in range(2)]
        assert [worker.wait(60) for worker in workers] == [0, 0]
        assert [int(record.payload) for record in log.read("out", 0, 0, 1_000)] == list(range(150))


def _killed_after(process: subprocess.Popen[str], reports: int) -> list[str]:
    """Kill a process (SIGKILL) once it has reported so often; return all that it reported."""
    assert process.stdout is not None
    reported = [process.stdout.readline() for _ in range(reports)]
    process.kill()
    reported += process.stdout.readlines()
    process.wait(60)
    assert all(line.endswith("\n") for line in reported)
    return reported
