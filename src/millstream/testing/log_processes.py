"""What every log must do for several processes, some of which are killed: a part of `LogConformance`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from millstream.buffer.log import Batch, OwnLog, Records
from millstream.buffer.reading import through
from millstream.testing.deviations import Declared

_APPENDING = """
from millstream.buffer.log import Batch
while True:
    number = log.behind("events", 0, 0).records
    log.append("events", 0, Batch(b"%d" % number + b"." * 20_000, "bytes", 1))
    print(number, flush=True)
"""
_WORKING = """
from millstream.buffer.log import Batch
from millstream.errors import Fenced

def step(*topics):
    known = log.committed("worker", "events")[0]
    found = log.read("events", 0, known or 0, 1)
    with log.transaction() as work:
        for payload in found.payloads:
            for topic in topics:
                work.append(topic, 0, Batch(payload + b"." * 20_000, "bytes", 1))
        work.commit("worker", "events", 0, known, found.next)
    return found
"""
_TRANSACTING = (
    _WORKING
    + """
while True:
    for payload in step("left", "right").payloads:
        print(payload.decode(), flush=True)
"""
)
_COMPETING = (
    _WORKING
    + """
fenced = 0
while (log.committed("worker", "events")[0] or 0) < log.ends("events")[0][1]:
    try:
        step("out")
    except Fenced:
        fenced += 1
print(fenced)
"""
)
_PRODUCING = """
from millstream.buffer.log import Batch
for number in range(100):
    log.append("events", number % 2, Batch(b"x", "bytes", 1))
"""


def text(*lines: str) -> Batch:
    """Make a batch of JSON lines."""
    return Batch("\n".join(lines).encode(), "json", len(lines))


def everything(log: OwnLog, topic: str, partition: int, limit: int = 1_000) -> list[Records]:
    """Return all reads of a partition that gave something, from its first record to its end.

    Args:
        log: the log.
        topic: the topic.
        partition: its partition.
        limit: about how many records one read may give.
    """
    first, end = log.ends(topic)[partition]
    return list(through(log, topic, partition, first, end, limit))


def payloads(log: OwnLog, topic: str, partition: int) -> list[bytes]:
    """Return the payloads of a partition.

    Args:
        log: the log.
        topic: the topic.
        partition: its partition, which is read whole.
    """
    return [payload for records in everything(log, topic, partition) for payload in records.payloads]


def positions(log: OwnLog, topic: str, partition: int) -> list[int]:
    """Return the position of every record of a partition.

    Args:
        log: the log.
        topic: the topic.
        partition: its partition, which is read whole.
    """
    return [position for records in everything(log, topic, partition) for position in records.positions.tolist()]


def numbered(log: OwnLog, count: int) -> None:
    """Make the topic "events", of one partition, with so many records that say which they are."""
    log.create("events", 1)
    with log.transaction() as work:
        for number in range(count):
            work.append("events", 0, Batch(b"%d" % number, "bytes", 1))


class ProcessConformance(Declared):
    """Those tests of the protocol `Log` that start processes on a log; `LogConformance` says what they are given."""

    @pytest.fixture
    def start(self, opening: str) -> Callable[[str], subprocess.Popen[str]]:
        """Start a process that runs a script on the log."""

        def started(script: str) -> subprocess.Popen[str]:
            return subprocess.Popen([sys.executable, "-c", opening + script], stdout=subprocess.PIPE, text=True)

        return started

    def test_producers_in_several_processes_get_positions_of_their_own(
        self, log: OwnLog, start: Callable[[str], subprocess.Popen[str]]
    ) -> None:
        """Nothing is overwritten."""
        log.create("events", 2)
        workers = [start(_PRODUCING) for _ in range(3)]
        assert [worker.wait(60) for worker in workers] == [0, 0, 0]
        for partition in (0, 1):
            assert len(payloads(log, "events", partition)) == len(set(positions(log, "events", partition))) == 150

    @pytest.mark.parametrize("acknowledged", [1, 7, 20])
    def test_what_was_acknowledged_survives_a_killed_producer(
        self, log: OwnLog, start: Callable[[str], subprocess.Popen[str]], acknowledged: int
    ) -> None:
        """Every position that the producer reported is there, with what it wrote."""
        log.create("events", 1)
        reported = _killed_after(start(_APPENDING), acknowledged)
        stored = payloads(log, "events", 0)
        assert len(stored) >= len(reported) >= acknowledged
        log.append("events", 0, text("after"))
        *before, last = payloads(log, "events", 0)
        assert last == b"after"
        # What the producer appended and did not live to report may show late, and is there then.
        assert len(before) >= len(stored)
        assert before == [b"%d" % number + b"." * 20_000 for number in range(len(before))]
        assert before[: len(stored)] == stored

    @pytest.mark.parametrize("acknowledged", [1, 5, 12])
    def test_a_killed_transaction_happened_wholly_or_not_at_all(
        self, log: OwnLog, start: Callable[[str], subprocess.Popen[str]], acknowledged: int
    ) -> None:
        """Both topics and the committed position agree, and hold all that was reported."""
        numbered(log, 1_000)
        for topic in ("left", "right"):
            log.create(topic, 1)
        reported: list[str] = []
        for _ in range(3):
            reported += _killed_after(start(_TRANSACTING), acknowledged)
            (committed,) = log.committed("worker", "events")
            assert committed is not None
            written = [payload.rstrip(b".") for payload in payloads(log, "left", 0)]
            assert written == [payload.rstrip(b".") for payload in payloads(log, "right", 0)]
            before = [place for place in positions(log, "events", 0) if place < committed]
            assert written == [b"%d" % number for number in range(len(before))]
            assert len(written) >= len(reported)

    def test_two_workers_fence_each_other_and_do_each_piece_once(
        self, log: OwnLog, start: Callable[[str], subprocess.Popen[str]]
    ) -> None:
        """However they race, each record is worked on exactly once."""
        numbered(log, 150)
        log.create("out", 1)
        workers = [start(_COMPETING) for _ in range(2)]
        assert [worker.wait(60) for worker in workers] == [0, 0]
        assert [int(payload.rstrip(b".")) for payload in payloads(log, "out", 0)] == list(range(150))


def _killed_after(process: subprocess.Popen[str], reports: int) -> list[str]:
    """Kill a process (SIGKILL) once it has reported so often; return all that it reported, but for a line that it began."""
    assert process.stdout is not None
    reported = [process.stdout.readline() for _ in range(reports)]
    process.kill()
    reported += process.stdout.readlines()
    process.wait(60)
    if len(reported) > reports and not reported[-1].endswith("\n"):
        del reported[-1]
    assert all(line.endswith("\n") for line in reported)
    return reported
