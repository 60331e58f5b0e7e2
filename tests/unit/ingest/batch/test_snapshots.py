"""Batch groups whose runs are snapshots: a key that vanished becomes null."""

import pytest
from tests.unit.ingest.batch.world import DAY, HOUR, START, dated_group, snapshot_group

from millstream.computing.batch import Interval


@pytest.fixture
def shots(make_world):
    return make_world(snapshot_group())


def test_a_vanished_key_becomes_null_and_may_come_back(shots):
    ran = []
    gold, none = (1, "gold", 5.0, START), (2, "none", 1.0, START)
    for rows in ([gold, none], [none], [gold]):
        shots.write(*rows)
        shots.run()
        ran.append(shots.clock.now())
        shots.next_day()
    assert [shots.trained(1, at)["tier"] for at in ran] == ["gold", None, "gold"]
    assert [shots.trained(2, at)["tier"] for at in ran] == ["none", "none", None]
    assert (shots.both(1)["tier"], shots.both(2)["tier"]) == ("gold", None)


def test_only_changes_are_written(shots):
    shots.write((1, "gold", 5.0, START), (2, "none", 1.0, START), (3, "none", 1.0, START))
    shots.run()
    shots.next_day()
    shots.write((1, "gold", 5.0, START + 7), (2, "gold", 1.0, START))
    shots.computer.step()
    assert shots.ingest() == 2
    assert shots.stated() == 5


def test_an_empty_snapshot_empties_the_group(shots):
    shots.write((1, "gold", 5.0, START))
    shots.run()
    shots.next_day()
    shots.write()
    shots.run()
    assert shots.both(1) == {"tier": None, "credit": None}


def test_a_past_run_fits_in_between_what_is_there(shots):
    shots.write((1, "live", 1.0, START), (3, "live", 3.0, START))
    shots.run()
    shots.write((1, "past", 1.0, START), (2, "past", 2.0, START))
    shots.computer.run(Interval("kyc@1", START - 3 * DAY, START - 2 * DAY, past=True))
    shots.ingest()
    assert [shots.both(user)["tier"] for user in (1, 2, 3)] == ["live", None, "live"]
    assert [shots.trained(user, START)["tier"] for user in (1, 2, 3)] == ["past", "past", None]


def test_backfill_of_a_table_without_times_is_one_run(shots):
    shots.write((1, "gold", 5.0, START))
    (ran,) = shots.computer.backfill("kyc@1", START - 9 * DAY, START)
    shots.ingest()
    assert ran.interval.end == START - 8 * DAY
    assert shots.both(1)["tier"] == "gold"
    assert shots.trained(1, START - 8 * DAY - 1)["tier"] is None


def test_ttl_of_a_snapshot_counts_from_the_last_run(make_world):
    shots = make_world(snapshot_group(ttl="30h"))
    shots.write((1, "gold", 5.0, START))
    shots.run()
    shots.next_day()
    shots.computer.step()
    assert shots.ingest() == 0
    last = shots.clock.now()
    assert shots.both(1, last + 30 * 3_600_000_000)["tier"] == "gold"
    assert shots.both(1, last + 30 * 3_600_000_000 + 1)["tier"] is None


@pytest.mark.parametrize("make", [snapshot_group, dated_group])
def test_a_schedule_follows_the_clock_back(make_world, make):
    world = make_world(make(every="1h"))
    world.write((1, "gold", 5.0, START - DAY))
    world.run()
    world.clock.set(START + 5 * DAY)
    world.run()
    world.clock.set(START + 2 * HOUR)
    world.write((1, "silver", 6.0, START - HOUR))
    for _ in range(3):
        world.run()
        assert world.both(1) == {"tier": "silver", "credit": 6.0}
        world.clock.advance(HOUR)
    world.write((1, "silver", 7.0, START - HOUR), (2, "new", 1.0, START - HOUR))
    world.run()
    assert world.both(2) == {"tier": "new", "credit": 1.0}
    assert world.both(1)["credit"] == 7.0
    assert world.computer.due() == []
