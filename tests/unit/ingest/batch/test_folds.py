"""Batch groups that fold: the same windows over a table, on a schedule."""

import numpy as np
import pytest
from tests.unit.ingest.batch.world import DATED, DAY, HOUR, START, USER

import millstream as ms
from millstream.buffer.codec.events import encode
from millstream.buffer.log import Batch
from millstream.buffer.topics import feature_topic
from millstream.computing.batch import BatchComputer
from millstream.computing.table_fold import table_events
from millstream.computing.tables import Tables
from millstream.engines.engine import Asked
from millstream.fold import States, encode_key, fold, layout_of, prepare, pruned, shard_of, value
from millstream.history.events import History
from millstream.testing.adversarial_log import AdversarialLog
from millstream.testing.shards import held

PAYMENTS = ms.EventStream("payments", time="at", schema={"user_id": "int64", "credit": "float64", "at": "timestamp"})
FEATURES = [ms.Count(over="7d"), ms.Sum("credit", over="7d"), ms.Last("credit")]


def state(world, user):
    key = encode_key(USER.keys, [user])
    (found,), meta = held(world.online, "totals@1", shard_of(key, 2), [key])
    return found, meta


def counted(world):
    at = np.array([world.clock.now()])
    return value(layout_of(world.version.group), States.from_bytes([state(world, 1)[0]]), at).columns["count_7d"][0]


def group(source):
    return ms.BatchFeatureGroup("totals", entity=USER, every="24h", source=source, features=FEATURES)


def test_each_row_counts_in_the_run_that_first_saw_it(make_world):
    world = make_world(group(DATED))
    world.write((1, "a", 5.0, START - 2 * DAY), (1, "b", 7.0, START + HOUR))
    world.computer.step()
    world.folding.step()
    assert counted(world) == 1
    assert state(world, 1)[1].applied == {"accounts/0": START}
    world.next_day()
    world.computer.step()
    world.folding.step()
    found, meta = state(world, 1)
    assert meta.applied == {"accounts/0": START + DAY}
    rows = table_events(DATED, Tables(world.folder).rows(DATED, Asked(START, START + DAY)), 0, START + DAY)
    (prepared,) = prepare([world.version.group], DATED, rows)
    assert counted(world) == 2
    layout, whole = layout_of(world.version.group), fold(layout_of(world.version.group), prepared)
    # The store lets go of what is old once a second record confirms the time.
    assert pruned(layout, States.from_bytes([found]), whole.newest).to_bytes() == whole.to_bytes()


def test_a_fold_has_no_past_runs(make_world):
    world = make_world(group(DATED))
    with pytest.raises(ms.MillstreamError, match="there is nothing to backfill"):
        world.computer.backfill("totals@1", 0, START)


def test_a_stream_is_folded_by_positions(make_world):
    world = make_world(group(PAYMENTS))
    world.log.create("payments", 1)
    history = History(world.log, world.offline, [PAYMENTS])
    for day in range(3):
        for batch in encode(PAYMENTS, [{"user_id": 1, "credit": float(day), "at": START - HOUR}] if day != 1 else []):
            world.log.append("payments", 0, batch)
        BatchComputer(world.log, world.marks, [world.version], world.clock, history=history).step()
        world.folding.step()
        world.next_day()
    found, meta = state(world, 1)
    assert meta.applied == {"payments/0": 2}
    (prepared,) = prepare([world.version.group], PAYMENTS, history.read("payments"))
    assert fold(layout_of(world.version.group), prepared).to_bytes() == [found]


@pytest.mark.parametrize("days_before", [0, 1])
def test_a_run_that_was_written_to_one_shard_is_completed_before_later_ones_are_made(make_world, days_before):
    rows = [(user, "a", 5.0, START + day * DAY + user) for user in range(1, 9) for day in range(-2, 4)]
    died, world = make_world(group(DATED)), make_world(group(DATED))
    for one in (died, world):
        one.write(*rows)
        for _ in range(days_before):
            one.computer.step()
            one.next_day()
    died.computer.step()
    topic = feature_topic("totals@1")
    world.log.create(topic, 2)
    (written,) = died.log.read(topic, 1, days_before, 1).payloads
    world.log.append(topic, 1, Batch(written, "bytes", 1))
    world.clock.advance(2 * DAY)
    world.log = AdversarialLog(world.log, seed=1, atomic=False, torn=0.0)
    world.again()
    ran = world.computer.step()
    assert [one.interval.end for one in ran] == [START + days_before * DAY, START + (days_before + 2) * DAY]
    while world.folding.step().lag:
        pass
    at = np.array([world.clock.now()])
    for user in range(1, 9):
        held_now = States.from_bytes([state(world, user)[0]])
        assert value(layout_of(world.version.group), held_now, at).columns["count_7d"][0] == 4 + days_before
