"""What every log must do for workers that share its partitions: a part of `LogConformance`."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress

import pytest

from millstream.buffer.log import Batch, OwnLog
from millstream.buffer.worker import Owned, Worker
from millstream.errors import Fenced
from millstream.testing.log_processes import ProcessConformance, payloads

PARTITIONS = 4
SOON = 60.0
"""Seconds within which partitions have gone where they belong, on a machine that is busy with other things too."""
_SHARING = """
import os, signal, time
from millstream.buffer.log import Batch
from millstream.errors import Fenced

worker = log.worker("group", ["events"])
fenced = 0

def step():
    owned = worker.assigned().get("events", {})
    committed, ends = log.committed("worker", "events"), log.ends("events")
    for partition in owned:
        known = committed[partition]
        found = log.read("events", partition, known or 0, 2)
        if found.next == (known or 0):
            continue
        if pause:
            pause.pop()
            os.kill(os.getpid(), signal.SIGSTOP)
        with worker.transaction() as work:
            for payload in found.payloads:
                work.append("out", 0, Batch(payload + b"." * 20_000, "bytes", 1))
            work.commit("worker", "events", partition, known, found.next)
        print("did", partition, flush=True)
    return all((at or 0) >= end for at, (_, end) in zip(log.committed("worker", "events"), ends))

while True:
    try:
        if step():
            break
    except Fenced:
        fenced += 1
    time.sleep(0.01)
print("fenced", fenced, flush=True)
"""
_GOING_ON, _STOPPING = "pause = []\n" + _SHARING, "pause = [True]\n" + _SHARING
"""The second stops itself in the midst of its first batch, not in a write: others wait for one that is stopped there."""


class WorkerConformance(ProcessConformance):
    """The tests of the protocol `Worker`; `LogConformance` says what they are given.

    A worker of which nothing is heard loses its partitions within `SOON`.
    """

    def test_the_partitions_of_a_group_are_shared_evenly(self, log: OwnLog) -> None:
        """Each partition has one owner, and those of one that leaves go to those who stay."""
        log.create("events", PARTITIONS)
        log.create("clicks", 1)
        with ExitStack() as joined:
            first = joined.enter_context(closing(log.worker("group", ["events", "clicks"])))
            alone = shared_among([first], {"events": PARTITIONS, "clicks": 1})
            second = log.worker("group", ["events"])
            with closing(second):
                both = shared_among([first, second], {"events": PARTITIONS, "clicks": 1})
                assert sorted(sum(map(len, one.values())) for one in both) == [2, 3]
            again = shared_among([first], {"events": PARTITIONS, "clicks": 1})
        for partition in both[1]["events"]:
            assert again[0]["events"][partition] > both[1]["events"][partition] > alone[0]["events"][partition]

    def test_groups_do_not_share(self, log: OwnLog) -> None:
        """Each group has every partition."""
        log.create("events", PARTITIONS)
        with closing(log.worker("left", ["events"])) as left, closing(log.worker("right", ["events"])) as right:
            for worker in (left, right):
                shared_among([worker], {"events": PARTITIONS})

    def test_a_topic_that_comes_later_is_shared_too(self, log: OwnLog) -> None:
        """A worker may ask for a topic before it is there."""
        with closing(log.worker("group", ["events"])) as worker:
            assert worker.assigned().get("events", {}) == {}
            log.create("events", PARTITIONS)
            shared_among([worker], {"events": PARTITIONS})

    def test_partitions_that_a_topic_gets_are_shared_evenly_too(self, log: OwnLog) -> None:
        """Nobody has to join again, or to ask for them."""
        log.create("events", 2)
        with ExitStack() as joined:
            workers = [joined.enter_context(closing(log.worker("group", ["events"]))) for _ in range(2)]
            shared_among(workers, {"events": 2})
            log.grow("events", 6)
            assert [len(one["events"]) for one in shared_among(workers, {"events": 6})] == [3, 3]

    def test_an_owner_appends_and_advances(self, log: OwnLog) -> None:
        """What it does in its transaction is what a transaction of the log does."""
        log.create("events", 1)
        log.create("out", 1)
        with closing(log.worker("group", ["events"])) as worker:
            end = time.monotonic() + SOON
            while log.committed("consumer", "events") != [5] or b"by 5" not in payloads(log, "out", 0):
                assert time.monotonic() < end
                if 0 in worker.assigned().get("events", {}):
                    with suppress(Fenced):
                        advance(worker, log, 5)

    def test_one_that_lost_a_partition_is_fenced(self, log: OwnLog) -> None:
        """Nothing that it does in its transaction happens."""
        log.create("events", 1)
        log.create("out", 1)
        left = log.worker("group", ["events"], owner="left")
        shared_among([left], {"events": 1})
        left.close()
        with closing(log.worker("group", ["events"], owner="right")) as right:
            shared_among([right], {"events": 1})
            with pytest.raises(Fenced):
                advance(left, log, 9)
        assert payloads(log, "out", 0) == [] and log.committed("consumer", "events") == [None]

    def test_what_a_killed_worker_owned_goes_to_the_others(
        self, log: OwnLog, start: Callable[[str], subprocess.Popen[str]]
    ) -> None:
        """And every record is worked on once."""
        sent = spread(log, 60)
        killed, other = start(_GOING_ON), start(_GOING_ON)
        assert killed.stdout is not None
        for _ in range(3):
            killed.stdout.readline()
        killed.kill()
        killed.wait(SOON)
        assert other.wait(SOON) == 0
        assert sorted(payload.rstrip(b".") for payload in payloads(log, "out", 0)) == sent

    def test_one_that_was_stopped_and_goes_on_is_fenced(
        self, log: OwnLog, start: Callable[[str], subprocess.Popen[str]]
    ) -> None:
        """Others have gone on meanwhile; nothing is done twice."""
        sent = spread(log, 60)
        stopped = start(_STOPPING)
        try:
            os.waitid(os.P_PID, stopped.pid, os.WSTOPPED | os.WNOWAIT)
            assert start(_GOING_ON).wait(SOON) == 0
        finally:
            os.kill(stopped.pid, signal.SIGCONT)
        assert stopped.wait(SOON) == 0
        assert sorted(payload.rstrip(b".") for payload in payloads(log, "out", 0)) == sent


def spread(log: OwnLog, count: int) -> list[bytes]:
    """Make the topics "events", with so many records in all partitions, and "out"; return the records, sorted."""
    log.create("events", PARTITIONS)
    log.create("out", 1)
    sent = [b"%03d" % number for number in range(count)]
    for number, payload in enumerate(sent):
        log.append("events", number % PARTITIONS, Batch(payload, "bytes", 1))
    return sent


def shared_among(workers: Sequence[Worker], topics: Mapping[str, int]) -> list[Owned]:
    """Ask all workers until they own every partition between them, each one of them; return what each was told.

    Raises:
        AssertionError: when that never comes true.
    """
    wanted = sorted((topic, partition) for topic, partitions in topics.items() for partition in range(partitions))
    end = time.monotonic() + SOON
    while time.monotonic() < end:
        told = [worker.assigned() for worker in workers]
        owned = [(topic, partition) for one in told for topic, row in one.items() for partition in row]
        loads = [sum(map(len, one.values())) for one in told]
        if sorted(owned) == wanted and max(loads) - min(loads) < 2:
            return told
    raise AssertionError(f"{wanted} are shared as {told}")


def advance(worker: Worker, log: OwnLog, to: int) -> None:
    """Append to "out" and move "consumer" in "events" in one transaction of a worker.

    Args:
        worker: the worker.
        log: its log, which says where "consumer" is.
        to: where it is moved; what is appended says it too.
    """
    (known,) = log.committed("consumer", "events")
    with worker.transaction() as work:
        work.append("out", 0, Batch(b"by %d" % to, "bytes", 1))
        work.commit("consumer", "events", 0, known, to)
