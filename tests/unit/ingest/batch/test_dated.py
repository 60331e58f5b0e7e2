"""Batch groups whose rows carry their own time."""

import pyarrow.compute as pc
import pytest
from tests.unit.ingest.batch.world import DAY, HOUR, START, USER, dated_group, snapshot_group

import millstream as ms
from millstream.buffer.topics import batch_table, schedule_mark, staging_topic
from millstream.errors import Fenced, MillstreamError
from millstream.fold import encode_key, shard_of
from millstream.fold.rows import split_rows
from millstream.testing.shards import held, meta_of


def test_a_run_reaches_both_stores(world):
    world.write((1, "gold", 5.0, START - DAY), (2, None, float("inf"), START - HOUR))
    world.run()
    assert world.both(1) == {"tier": "gold", "credit": 5.0}
    assert world.both(2) == {"tier": None, "credit": None}
    assert world.both(3) == {"tier": None, "credit": None}


def test_nothing_is_known_before_the_run_that_found_it(world):
    world.write((1, "gold", 5.0, START - DAY))
    world.run()
    ran = world.clock.now()
    assert world.both(1, ran - 1)["tier"] is None
    assert world.both(1, ran)["tier"] == "gold"


def test_a_row_that_arrives_after_the_end_waits_for_the_next_run(world):
    world.write((1, "gold", 5.0, START + 1))
    world.run()
    assert world.both(1)["tier"] is None
    world.next_day()
    world.run()
    assert world.both(1)["tier"] == "gold"


def test_an_interval_runs_once(world):
    world.write((1, "gold", 5.0, START - DAY))
    (interval,) = world.computer.due()
    world.computer.run(interval)
    assert world.computer.due() == []
    with pytest.raises(Fenced, match="schedule of 'kyc@1'"):
        world.computer.run(interval)
    assert world.log.ends(staging_topic("kyc@1")) == [(0, 1)]


def test_an_unchanged_row_is_written_nowhere(world):
    world.write((1, "gold", 5.0, START - DAY), (2, "none", 1.0, START - DAY))
    world.run()
    world.next_day()
    world.write((1, "gold", 5.0, START - DAY), (2, "gold", 1.0, START))
    world.computer.step()
    assert world.ingest() == 1
    assert world.stated() == 3
    assert world.both(2)["tier"] == "gold"


def test_a_correction_of_the_same_time_replaces_from_then_on(world):
    world.write((1, "gold", 5.0, START - DAY))
    world.run()
    before = world.clock.now()
    world.next_day()
    world.write((1, "none", 5.0, START - DAY))
    world.run()
    assert world.both(1)["tier"] == "none"
    assert world.trained(1, before)["tier"] == "gold"


def test_a_late_row_changes_nothing_online_but_is_kept_offline(world):
    world.write((1, "gold", 5.0, START - DAY))
    world.run()
    world.next_day()
    world.write((1, "gold", 5.0, START - DAY), (1, "old", 0.0, START - 3 * DAY))
    world.computer.step()
    assert world.ingest() == 0
    assert world.both(1)["tier"] == "gold"
    assert world.stated() == 2


def test_a_future_dated_row_waits_for_its_time(make_world):
    query = "select user_id, changed + interval 2 day as changed, tier, credit from accounts"
    world = make_world(dated_group(query=query))
    world.write((1, "gold", 5.0, START - 5 * DAY), (1, "platinum", 5.0, START))
    world.run()
    assert world.both(1)["tier"] == "gold"
    assert world.both(1, START + 2 * DAY - 1)["tier"] == "gold"
    assert world.both(1, START + 2 * DAY)["tier"] == "platinum"


def test_the_query_sees_its_interval(make_world):
    query = "select user_id, changed, tier, credit from accounts where changed > :start and changed <= :end"
    world = make_world(dated_group(query=query))
    world.write((1, "first", 1.0, START - DAY), (2, "second", 2.0, START - DAY + 1))
    world.run()
    assert (world.both(1)["tier"], world.both(2)["tier"]) == (None, "second")


def test_of_equal_rows_the_greatest_counts(world):
    world.write((1, "b", 1.0, START - DAY), (1, "a", 9.0, START - DAY))
    world.run()
    assert world.both(1) == {"tier": "b", "credit": 1.0}


def test_a_row_without_a_key_is_left_out_and_counted(world):
    world.write((None, "gold", 5.0, START - DAY), (1, "gold", 5.0, START - DAY))
    (ran,) = world.computer.step()
    assert (ran.rows, dict(ran.skipped)) == (1, {"null_key": 1})


def test_ttl_counts_from_the_last_run_that_returned_the_row(make_world):
    world = make_world(dated_group(ttl="30h"))
    world.write((1, "gold", 5.0, START - DAY), (2, "none", 1.0, START - DAY))
    world.run()
    first = world.clock.now()
    world.next_day()
    world.write((2, "none", 1.0, START - DAY))
    world.run()
    assert world.both(1, first + 30 * HOUR)["tier"] == "gold"
    assert world.both(1, first + 30 * HOUR + 1)["tier"] is None
    assert world.both(2, first + 54 * HOUR)["tier"] == "none"
    world.next_day()
    world.write((1, "gold", 5.0, START - DAY))
    world.run()
    assert world.both(1)["tier"] == "gold"
    assert world.both(2)["tier"] == "none"
    assert world.both(2, first + 54 * HOUR + 1)["tier"] is None


def test_confirmation_writes_no_state(make_world):
    world = make_world(dated_group(ttl="30h"))
    world.write((1, "gold", 5.0, START - DAY))
    world.run()
    for _ in range(3):
        world.next_day()
        world.computer.step()
        assert world.ingest() == 0
    assert world.both(1)["tier"] == "gold"


def test_what_a_run_leaves_out_is_found_by_the_run_before_it_or_in_the_whole_shard(make_world):
    world = make_world(dated_group(ttl="30h"))
    scans = []
    scan = world.online.scan
    world.online.scan = lambda *given: scans.append(given) or scan(*given)
    known = [(user, "gold", 5.0, START - DAY) for user in range(1, 9)]
    for day, rows in enumerate((known, known[1:], known[2:], known[:2], known[1:3])):
        world.write(*rows)
        world.computer.step()
        if day == 4:
            world.log.trim(staging_topic("kyc@1"), 0, 4)
        world.ingest()
        assert bool(scans) == (day == 4)
        first = world.clock.now()
        for user in range(1, 9):
            for at in (first, first + 6 * HOUR, first + 6 * HOUR + 1, first + 30 * HOUR, first + 30 * HOUR + 1):
                world.both(user, at)
        world.next_day()


def test_a_guilty_row_becomes_a_dead_letter_and_the_rest_goes_on(make_world):
    world = make_world(dated_group(query="select user_id, changed, tier, tier::double as credit from accounts"))
    world.write((1, "1.5", 0.0, START - DAY), (2, "oops", 0.0, START - DAY), (3, "2.5", 0.0, START - DAY))
    (ran,) = world.computer.step()
    world.ingest()
    assert (ran.rows, ran.dead) == (2, 1)
    assert world.both(3)["credit"] == 2.5
    (letter,) = world.log.read("dead.accounts", 0, 0, 10).payloads
    assert b"oops" in letter and b"kyc@1" in letter


@pytest.mark.parametrize("expression", ["1 // tier::int", "epoch(strptime(tier, '%Y'))"])
def test_a_guilty_row_is_found_whatever_sql_calls_the_failure(make_world, expression):
    query = f"select user_id, changed, tier, ({expression})::double as credit from accounts"
    world = make_world(dated_group(query=query))
    wrong = "0" if "//" in expression else "oops"
    world.write((1, "1", 0.0, START - DAY), (2, wrong, 0.0, START - DAY), (3, "1970", 0.0, START - DAY))
    (ran,) = world.computer.step()
    assert (ran.rows, ran.dead) == (2, 1)


def test_a_result_with_two_columns_of_one_name_fails_in_one_sentence(make_world):
    unread = ms.Table("accounts", path="accounts.parquet", time="changed")
    query = "select a.*, b.* from accounts a join accounts b using (user_id)"
    world = make_world(dated_group(sources=[unread], query=query))
    world.write((1, "gold", 0.0, START - DAY))
    with pytest.raises(MillstreamError, match="2 columns named 'user_id'"):
        world.computer.step()


def test_a_failing_query_is_due_again(make_world):
    query = "select user_id, max(changed) as changed, max(tier) as tier, sum(credit)::tinyint::double as credit"
    world = make_world(dated_group(query=f"{query} from accounts group by user_id"))
    world.write((1, "silver", 100.0, START - DAY), (1, "gold", 100.0, START - DAY))
    with pytest.raises(MillstreamError, match="its query fails for the interval from 2024-01-09") as raised:
        world.computer.step()
    assert "Hint: mend the tables" in str(raised.value)
    world.write((1, "gold", 3.0, START - DAY))
    world.run()
    assert world.both(1)["credit"] == 3.0


def test_a_row_on_which_an_aggregate_fails_is_found_too(make_world):
    query = "select user_id, max(changed) as changed, max(tier) as tier, sum(tier::double) as credit from accounts"
    world = make_world(dated_group(query=f"{query} group by user_id"))
    world.write((1, "1", 0.0, START - DAY), (1, "oops", 0.0, START - DAY), (2, "2", 0.0, START - DAY))
    (ran,) = world.computer.step()
    world.ingest()
    assert (ran.rows, ran.dead) == (2, 1)
    assert (world.both(1)["credit"], world.both(2)["credit"]) == (1.0, 2.0)


def test_late_intervals_of_a_query_that_ignores_them_are_one_run(world):
    world.write((1, "gold", 5.0, START - DAY))
    world.run()
    world.clock.advance(5 * DAY)
    assert len(world.computer.due()) == 5
    assert len(world.computer.step()) == 1
    assert world.marks.read(schedule_mark("kyc@1"))["end"] == START + 5 * DAY


def test_backfill_says_what_runs_on_time_would_have(make_world):
    quick, slow = make_world(dated_group()), make_world(dated_group(query="select * from accounts limit 1000"))
    rows = [(user, f"t{day}", float(day), START - day * DAY + user) for user in range(3) for day in range(1, 6)]
    quick.write(*rows)
    slow.write(*rows)
    assert len(quick.computer.backfill("kyc@1", START - 4 * DAY, START)) == 1
    assert len(slow.computer.backfill("kyc@1", START - 4 * DAY, START)) == 4
    quick.ingest()
    slow.ingest()
    for user in range(3):
        for at in range(START - 5 * DAY, START + DAY, 6 * HOUR):
            assert quick.trained(user, at) == slow.trained(user, at)
    assert quick.trained(0, START - DAY - 1)["tier"] == "t2"
    assert quick.trained(0, START - DAY)["tier"] == "t1"


def test_backfill_twice_changes_nothing(world):
    world.write((1, "gold", 5.0, START - 3 * DAY))
    for _ in range(2):
        world.computer.backfill("kyc@1", START - 3 * DAY, START)
        world.ingest()
    assert world.stated() == 1


def test_backfill_repeats_of_a_late_run_only_what_was_to_be_known_sooner(world):
    world.clock.set(START + 6 * HOUR)  # the run of START comes late
    world.write((1, "gold", 5.0, START - HOUR))
    world.run()
    for _ in range(2):
        world.computer.backfill("kyc@1", START - DAY, world.clock.now())
        world.ingest()
    known = world.offline.scan(batch_table("kyc@1")).filter(pc.field("user_id").is_valid()).sort_by("_run")
    assert known["available_time"].to_pylist() == [START + 6 * HOUR, START]
    world.next_day()
    world.run()
    assert world.stated() == 2


def test_a_table_that_is_not_there(world):
    with pytest.raises(MillstreamError, match=r"Table 'accounts': there is no '.*accounts.parquet'"):
        world.computer.step()


@pytest.mark.parametrize("make", [dated_group, snapshot_group])
def test_a_clock_that_was_ahead_lets_go_of_nothing_and_no_time_of_a_write_steps_back(make_world, make):
    world = make_world(make(every="15m"))
    world.write((1, "old", 1.0, START), (2, "two", 2.0, START))
    world.run()
    truth = world.clock.now()
    for ahead, tier in ((DAY, "ahead"), (DAY + HOUR // 2, "further")):
        world.clock.set(truth + ahead)
        world.write((1, tier, 1.0, START + ahead), (2, "two", 2.0, START))
        world.run()
    world.clock.set(truth + HOUR // 4)
    shards = range(world.version.shards)
    written = [meta_of(world.online, "kyc@1", shard).applied_at for shard in shards]
    assert max(written) == truth + DAY + HOUR // 2
    assert [world.served(user, at)["tier"] for user in (1, 2) for at in (truth, world.clock.now())] == (
        ["old"] * 2 + ["two"] * 2
    )
    assert world.served(1, truth + DAY + HOUR)["tier"] == "further"
    world.clock.set(truth + HOUR)
    world.write((1, "old", 1.0, START), (2, "new", 2.0, START + HOUR))
    world.run()
    assert [meta_of(world.online, "kyc@1", shard).applied_at for shard in shards] >= written
    assert world.served(2, truth + HOUR - 1)["tier"] == "two"
    assert (world.served(1)["tier"], world.served(2)["tier"]) == ("old", "new")


def test_a_shard_that_is_written_once_a_day_keeps_no_more_than_one_that_is_written_always(world):
    for day in range(5):
        world.write((1, f"day {day}", 1.0, START + day * DAY))
        world.run()
        world.next_day()
    key = encode_key(USER.keys, [1])
    (state,), _ = held(world.online, "kyc@1", shard_of(key, world.version.shards), [key])
    assert len(split_rows(state)) == 2
