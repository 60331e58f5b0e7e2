"""Workers of the embedded log: who shares what, and who is gone."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.buffer.embedded.log import EmbeddedLog
from millstream.buffer.embedded.sharing import share
from millstream.buffer.worker import changed
from millstream.clock import SimulatedClock
from millstream.errors import Fenced, LogError
from millstream.testing.worker_suite import shared_among

TOPICS = ("a", "b", "c")
MEMBERS = (b"1", b"2", b"3", b"4")


@pytest.fixture
def log(tmp_path: Path):
    log = EmbeddedLog(tmp_path / "log", SimulatedClock(0), map_gib=1, lease=0.5, patience=0.5)
    yield log
    log.close()


@given(
    st.dictionaries(
        st.tuples(st.sampled_from(TOPICS), st.integers(0, 5)), st.none() | st.sampled_from((*MEMBERS, b"gone"))
    ),
    st.dictionaries(st.sampled_from(MEMBERS), st.sets(st.sampled_from(TOPICS)), max_size=4),
)
def test_shares_are_even_and_move_no_more_than_they_must(holders, members):
    shared = share(holders, members)
    wanted = {place for place in holders if any(place[0] in topics for topics in members.values())}
    assert shared.keys() == wanted
    assert all(place[0] in members[member] for place, member in shared.items())
    loads = Counter(shared.values())
    for place, member in shared.items():
        assert all(loads[member] - loads[other] < 2 for other, topics in members.items() if place[0] in topics)
    assert share(shared, members) == shared


def test_one_more_worker_takes_its_share_and_nothing_else_moves():
    before = {("a", partition): MEMBERS[partition % 2] for partition in range(6)}
    after = share(before, {member: ["a"] for member in MEMBERS[:3]})
    assert Counter(after.values()) == {member: 2 for member in MEMBERS[:3]}
    assert sum(before[place] != after[place] for place in before) == 2


def test_a_worker_that_comes_back_gets_what_it_had_under_new_epochs(log: EmbeddedLog):
    log.create("events", 4)
    first, second = log.worker("g", ["events"], owner="one"), log.worker("g", ["events"], owner="two")
    with closing(second):
        had = shared_among([first, second], {"events": 4})[0]["events"]
        del first  # as if its process had died
        with closing(log.worker("g", ["events"], owner="one")) as first:
            back = shared_among([first, second], {"events": 4})[0]["events"]
    assert back.keys() == had.keys()
    assert all(back[partition] > had[partition] for partition in had)


def test_two_workers_of_one_name_are_refused(log: EmbeddedLog):
    with (
        closing(log.worker("g", ["events"], owner="one")),
        pytest.raises(LogError, match=r"Worker 'one' of .* is at work"),
    ):
        log.worker("g", ["events"], owner="one")
    log.worker("g", ["events"], owner="one").close()


def test_a_worker_that_says_nothing_loses_its_partitions_and_is_fenced(log: EmbeddedLog):
    log.create("events", 2)
    with closing(log.worker("g", ["events"])) as silent, closing(log.worker("g", ["events"])) as other:
        before = shared_among([silent], {"events": 2})
        after = shared_among([other], {"events": 2})
        assert changed(before[0], after[0]) == {("events", 0), ("events", 1)}
        with pytest.raises(Fenced, match="does not own topic 'events', partition 1"), silent.transaction() as work:
            work.commit("c", "events", 1, None, 7)
        assert log.committed("c", "events") == [None, None]
        shared_among([silent, other], {"events": 2})


def test_a_worker_that_is_busy_for_longer_than_the_lease_keeps_its_partitions(tmp_path: Path):
    log = EmbeddedLog(tmp_path / "log", SimulatedClock(0), map_gib=1, lease=0.4, patience=60)
    log.create("events", 2)
    with closing(log.worker("g", ["events"])) as busy, closing(log.worker("g", ["events"])) as other:
        mine, _ = shared_among([busy, other], {"events": 2})
        (partition,) = mine["events"]
        end = time.monotonic() + 1.5
        while time.monotonic() < end:  # the first folds meanwhile
            assert partition not in other.assigned()["events"]
            time.sleep(0.1)
        with busy.transaction() as work:
            work.commit("c", "events", partition, None, 7)
    log.close()


def test_a_worker_whose_process_is_stopped_loses_its_partitions_for_all_its_patience(tmp_path: Path):
    log = EmbeddedLog(tmp_path / "log", SimulatedClock(0), map_gib=1, lease=0.5)
    log.create("events", 2)
    script = f"""
import os, signal
from millstream.buffer.embedded.log import EmbeddedLog
from millstream.clock import SystemClock
worker = EmbeddedLog({str(tmp_path / "log")!r}, SystemClock(), map_gib=1, lease=0.5).worker("g", ["events"])
worker.assigned()
os.kill(os.getpid(), signal.SIGSTOP)
"""
    stopped = subprocess.Popen([sys.executable, "-c", script])
    try:
        os.waitid(os.P_PID, stopped.pid, os.WSTOPPED | os.WNOWAIT)
        with closing(log.worker("g", ["events"])) as worker:
            shared_among([worker], {"events": 2})
    finally:
        stopped.kill()
        stopped.wait()
    log.close()


def test_a_child_process_keeps_no_partitions_of_a_parent_that_has_ended(tmp_path: Path):
    patient = EmbeddedLog(tmp_path / "log", SimulatedClock(0), map_gib=1, lease=3_600)
    patient.create("events", 2)
    script = f"""
import os, time
from millstream.buffer.embedded.log import EmbeddedLog
from millstream.clock import SystemClock
worker = EmbeddedLog({str(tmp_path / "log")!r}, SystemClock(), map_gib=1, lease=3_600).worker("g", ["events"])
worker.assigned()
child = os.fork()
if not child:
    os.write(1, str(os.getpid()).encode())
    os.close(1)
    time.sleep(60)
os._exit(9)
"""
    ended = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        with closing(patient.worker("g", ["events"])) as worker:
            assert set(worker.assigned()["events"]) == {0, 1}
    finally:
        os.kill(int(ended.stdout), signal.SIGKILL)
    patient.close()


def test_nothing_is_written_while_nothing_changes(log: EmbeddedLog):
    log.create("events", 3)
    with closing(log.worker("g", ["events"])) as worker:
        worker.assigned()
        seen = log.wait(None, 0.0)
        for _ in range(5):
            assert log.wait(seen, 0.1) == seen
            assert set(worker.assigned()["events"]) == {0, 1, 2}


def test_a_dropped_topic_takes_its_owners_with_it(log: EmbeddedLog):
    log.create("events", 2)
    with closing(log.worker("g", ["events"])) as worker:
        shared_among([worker], {"events": 2})
        log.drop("events")
        log.create("events", 1)
        with pytest.raises(Fenced), worker.transaction() as work:
            work.commit("c", "events", 0, None, 7)
        shared_among([worker], {"events": 1})


def test_a_file_that_says_nothing_of_its_worker_is_no_worker(log: EmbeddedLog, tmp_path: Path):
    log.create("events", 2)
    with closing(log.worker("g", ["events"])) as worker:
        (folder,) = (tmp_path / "log" / "workers").iterdir()
        (folder / "torn.worker").write_bytes(os.urandom(20))
        shared_among([worker], {"events": 2})
        assert not (folder / "torn.worker").exists()


def test_a_process_that_ends_without_a_word_is_replaced_at_once(tmp_path: Path):
    patient = EmbeddedLog(tmp_path / "log", SimulatedClock(0), map_gib=1, lease=3_600)
    patient.create("events", 2)
    script = f"""
import os
from millstream.buffer.embedded.log import EmbeddedLog
from millstream.clock import SystemClock
worker = EmbeddedLog({str(tmp_path / "log")!r}, SystemClock(), map_gib=1).worker("g", ["events"])
print(worker.assigned(), flush=True)
os._exit(9)
"""
    ended = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert ended.stdout.strip() == "{'events': {0: 1, 1: 1}}"
    with closing(patient.worker("g", ["events"])) as worker:
        assert worker.assigned() == {"events": {0: 2, 1: 2}}
    patient.close()
