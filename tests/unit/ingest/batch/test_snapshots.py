"""Batch groups whose runs are snapshots: a key that vanished becomes null."""

from random import Random

import pytest
from tests.unit.ingest.batch.world import DAY, HOUR, START, dated_group, snapshot_group

from millstream.computing.batch import Interval
from millstream.fold.rows import ROW_SPAN

SECOND = 1_000_000


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


def of_each_hour(end, *rows):
    """A past run of the hour before `end`, once these rows are written."""
    return rows, Interval("kyc@1", end - HOUR, end, past=True)


PAST = {
    "the same interval": [of_each_hour(START, (1, "past", 1.0, START), (3, "past", 3.0, START))],
    "what is said again": [of_each_hour(START, (1, "live", 1.0, START), (3, "past", 3.0, START))],
    "several": [
        of_each_hour(START - 2 * HOUR, (1, "older", 1.0, START), (4, "older", 4.0, START)),
        of_each_hour(START - HOUR, (1, "old", 1.0, START), (2, "old", 2.0, START)),
        of_each_hour(START, (1, "old", 1.0, START), (3, "past", 3.0, START)),
    ],
    "several, the newest first": [
        of_each_hour(START, (1, "old", 1.0, START)),
        of_each_hour(START - HOUR, (1, "older", 1.0, START), (2, "older", 2.0, START)),
    ],
}


@pytest.mark.parametrize("past", PAST)
@pytest.mark.parametrize("ttl", [None, "24h"])
@pytest.mark.parametrize("before", [True, False])
def test_reads_just_before_a_live_run_see_past_runs_that_came_after_it(make_world, past, ttl, before):
    shots = make_world(snapshot_group(every="1h", ttl=ttl))
    shots.clock.set(START - 3 * HOUR + SECOND)
    if before:
        shots.write((1, "first", 1.0, START), (2, "live", 2.0, START))
        shots.run()
    shots.clock.set(START + 30 * SECOND)
    shots.write((1, "live", 1.0, START), (2, "live", 2.0, START))
    shots.run()
    for rows, interval in PAST[past]:
        shots.write(*rows)
        shots.computer.run(interval)
    shots.ingest()
    now = shots.clock.now()
    for at in (now - 4 * SECOND, now - 1, now, now + SECOND):
        for user in (1, 2, 3, 4):
            shots.both(user, at)
    assert shots.both(1)["tier"] == "live"
    assert shots.both(1, now - 1)["tier"] == PAST[past][-1 if past != "several, the newest first" else 0][0][0][1]
    shots.clock.advance(HOUR)
    shots.run()
    for user in (1, 2, 3, 4):
        shots.both(user)


def test_a_past_run_that_no_read_can_see_writes_nothing_online(shots):
    shots.write((1, "live", 1.0, START))
    shots.run()
    shots.clock.advance(6 * SECOND)
    shots.write((1, "past", 1.0, START), (2, "past", 2.0, START))
    shots.computer.run(Interval("kyc@1", START - DAY, START, past=True))
    assert shots.ingest() == 0
    assert shots.both(1)["tier"] == "live"


@pytest.mark.parametrize("back", [2 * SECOND, 10 * SECOND, HOUR])
@pytest.mark.parametrize("after", ["first", "second", None])
def test_runs_that_became_known_together_confirm_nothing_before_they_did(make_world, back, after):
    shots = make_world(snapshot_group(every="1h", ttl="30m"))
    shots.write((1, "first", 1.0, START))
    shots.run()
    assert shots.both(1)["tier"] == "first"
    shots.clock.advance(3 * HOUR)
    shots.write(*[(1, after, 1.0, START)] * (after is not None))
    for end in (START + 2 * HOUR, START + 3 * HOUR, START + 4 * HOUR):
        shots.computer.run(Interval("kyc@1", end - HOUR, end))
    shots.ingest()
    assert shots.both(1)["tier"] == after
    assert shots.both(1, shots.clock.now() - back)["tier"] is None


@pytest.mark.parametrize("seed", range(3))
def test_snapshots_in_any_order_are_served_as_they_are_trained_on(make_world, seed):
    random = Random(seed)
    shots = make_world(snapshot_group(every="1h"))
    for _ in range(8):
        shots.clock.advance(random.choice([SECOND // 2, 2 * SECOND, 2 * SECOND, 7 * SECOND, HOUR]))
        shots.write(*((user, random.choice("ab"), 1.0, START) for user in range(4) if random.random() < 0.6))
        end = shots.clock.now() // HOUR * HOUR - HOUR * random.randrange(3)
        shots.computer.step()
        if random.random() < 0.7:
            shots.computer.run(Interval("kyc@1", end - HOUR, end, past=True))
        shots.ingest()
        moments = [shots.clock.now() - ago for ago in (0, 1, SECOND, 3 * SECOND, ROW_SPAN - 1)]
        asked = [(user, at) for at in moments for user in range(4)]
        assert [shots.served(user, at) for user, at in asked] == shots.trained_at(asked)


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
