"""What the log forgets, and what it keeps."""

from pathlib import Path

import pytest

from millstream.buffer.embedded.log import EmbeddedLog
from millstream.buffer.log import Batch
from millstream.buffer.retention import reached, trim_consumed, trim_older
from millstream.clock import SimulatedClock
from millstream.definitions.source import EventStream

HOUR = 3_600_000_000
PLAIN = EventStream("events", time="at", schema={"at": "timestamp"}, retention="5h")
UNIQUE = EventStream(
    "events", time="at", schema={"id": "string", "at": "timestamp"}, deduplicate="id", within="3h", retention="5h"
)


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(0)


@pytest.fixture
def log(tmp_path: Path, clock: SimulatedClock):
    """Two partitions; one batch of two records an hour for ten hours in each; it is 10:00."""
    log = EmbeddedLog(tmp_path / "log", clock, map_gib=1)
    log.create("events", 2)
    for _ in range(10):
        for partition in (0, 1):
            log.append("events", partition, Batch(b"a\nb", "json", 2))
        clock.advance(HOUR)
    yield log
    log.close()


def commit(log: EmbeddedLog, consumer: str, *positions: int) -> None:
    with log.transaction() as work:
        for partition, position in enumerate(positions):
            work.commit(consumer, "events", partition, None, position)


def test_what_is_old_and_consumed_goes(log, clock):
    commit(log, "archive", 20, 20)
    commit(log, "compute/v@1", 20, 6)
    assert trim_consumed(log, PLAIN, ["archive", "compute/v@1"], clock) == 16
    assert log.ends("events") == [(10, 20), (6, 20)]
    assert trim_consumed(log, PLAIN, ["archive", "compute/v@1"], clock) == 0


def test_what_one_consumer_has_not_read_stays_however_old(log, clock):
    commit(log, "archive", 20, 20)
    clock.advance(1_000 * HOUR)
    assert trim_consumed(log, PLAIN, ["archive", "compute/v@1"], clock) == 0
    assert trim_consumed(log, PLAIN, [], clock) == 0
    commit(log, "compute/v@1", 3, 0)
    trim_consumed(log, PLAIN, ["archive", "compute/v@1"], clock)
    assert log.ends("events") == [(2, 20), (0, 20)]


def test_what_a_slow_consumer_needs_to_recognise_repeats_stays(log, clock):
    commit(log, "archive", 20, 20)
    commit(log, "compute/v@1", 8, 20)
    clock.advance(1_000 * HOUR)
    trim_consumed(log, UNIQUE, ["archive", "compute/v@1"], clock)
    assert log.ends("events") == [(2, 20), (20, 20)]


def test_any_topic_is_trimmed_by_age_and_by_who_needs_it(log, clock):
    commit(log, "archive", 20, 6)
    assert reached(log, "events", ["archive"]) == [20, 6]
    assert reached(log, "events", ["archive", "nobody"]) == [None, None]
    assert trim_older(log, "events", [None, None], 0, clock) == 0
    assert trim_older(log, "events", reached(log, "events", ["archive"]), 5 * HOUR, clock) == 16
    assert log.ends("events") == [(10, 20), (6, 20)]
