"""A full log refuses producers and no others: what is kept for computing and ingestion empties it."""

from pathlib import Path

import pytest
from tests.disks import disk, fill

from millstream.buffer.embedded.log import EmbeddedLog
from millstream.buffer.log import Batch
from millstream.clock import SimulatedClock
from millstream.errors import DiskFull

EVENTS = Batch(b"x" * 20_000, "bytes", 1)


def open_log(path: Path, mebibytes: int) -> EmbeddedLog:
    log = EmbeddedLog(path, SimulatedClock(0), mebibytes / 1024)
    log.create("events", 1)
    log.create("features", 1)
    return log


def fill_up(log: EmbeddedLog) -> int:
    for _ in range(100_000):
        try:
            log.append("events", 0, EVENTS)
        except DiskFull as error:
            assert error.hint
            return log.ends("events")[0][1]
    raise AssertionError("never full")


def compute(log: EmbeddedLog, until: int) -> None:
    """Turn events into deltas of a fifth of their size, some at a time, as a worker does."""
    position = log.committed("compute", "events")[0]
    while (at := position or 0) < until:
        with log.transaction() as work:
            work.append("features", 0, Batch(b"d" * 40_000, "bytes", 1))
            work.commit("compute", "events", 0, position, position := min(at + 10, until))
        with log.transaction() as work:
            work.commit("ingest", "features", 0, log.committed("ingest", "features")[0], log.ends("features")[0][1])
        log.trim("features", 0, log.ends("features")[0][1])


@pytest.mark.parametrize("mebibytes", [2, 16])
def test_a_full_log_is_computed_trimmed_and_goes_on(tmp_path: Path, mebibytes: int):
    log = open_log(tmp_path, mebibytes)
    for _ in range(3):
        end = fill_up(log)
        assert log.filled() > 0.9
        with pytest.raises(DiskFull, match="reached the size it may grow to"), log.transaction() as work:
            work.append("events", 0, EVENTS)
        compute(log, end)
        log.trim("events", 0, end)
        assert log.filled() < 0.2
        assert log.append("events", 0, EVENTS) == end
    log.close()


def test_computing_leaves_room_for_those_who_only_commit_and_trim(tmp_path: Path):
    log = open_log(tmp_path, 4)
    end = fill_up(log)
    position = None
    with pytest.raises(DiskFull):
        while True:
            with log.transaction() as work:
                work.append("features", 0, EVENTS)
                work.commit("compute", "events", 0, position, (position or 0) + 1)
            position = (position or 0) + 1
    assert log.committed("compute", "events") == [position]
    with log.transaction() as work:
        work.commit("ingest", "features", 0, None, position)
    assert log.trim("features", 0, position) == position
    assert log.trim("events", 0, end) == end
    assert log.append("events", 0, EVENTS) == end
    log.close()


def test_on_a_full_disk_trimmed_room_is_used_again(tmp_path: Path):
    with disk(tmp_path / "disk", mebibytes=24) as place:
        log = open_log(place / "log", 1024)
        end = fill_up(log)
        assert log.filled() == 1.0
        compute(log, end)
        log.trim("events", 0, end)
        fill(place, left=100_000)
        assert log.append("events", 0, EVENTS) == end
        log.close()
