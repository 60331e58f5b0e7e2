"""Schedules: an interval runs once, wherever its worker dies and whoever runs beside it."""

import shutil

import numpy as np
import pyarrow as pa
import pytest
from tests.unit.ingest.batch.world import DATED, DAY, HOUR, START, USER, dated_group, snapshot_group

import millstream as ms
from millstream.buffer.codec.events import encode
from millstream.buffer.log import Batch
from millstream.buffer.staging import Run, encode_run
from millstream.buffer.topics import schedule_mark
from millstream.computing.batch import BatchComputer
from millstream.computing.schedules import topic_of
from millstream.errors import Fenced
from millstream.history.events import History
from millstream.testing.shards import meta_of, pairs

CLICKS = ms.EventStream("clicks", time="at", schema={"user_id": "int64", "credit": "float64", "at": "timestamp"})


class DeadMarks:
    """Marks whose process dies before it moves one of a schedule."""

    def __init__(self, marks):
        self._marks = marks

    def read(self, mark):
        return self._marks.read(mark)

    def move(self, mark, known, to):
        if to.get("end") != known.get("end"):
            raise KeyboardInterrupt
        self._marks.move(mark, known, to)


def folding(source):
    return ms.BatchFeatureGroup("totals", entity=USER, every="24h", source=source, features=[ms.Count(over="90d")])


def computer(world, marks=None):
    history = History(world.log, world.offline, [CLICKS])
    return BatchComputer(
        world.log, marks or world.marks, [world.version], world.clock, history=history, folder=world.folder
    )


def send(world, rows):
    for batch in encode(CLICKS, [{"user_id": 1, "credit": 1.0, "at": START - HOUR}] * rows):
        world.log.append("clicks", 0, batch)


def ran(world):
    return world.log.ends(topic_of(world.version))[0][1]


def positions(world):
    topic = topic_of(world.version)
    return {place: at for place, at in world.marks.read(schedule_mark(world.version.id)).items() if topic not in place}


@pytest.mark.parametrize("group", [dated_group(), snapshot_group(), folding(DATED)], ids=["dated", "snapshot", "fold"])
def test_a_worker_that_dies_before_its_mark_moves_has_run_its_interval(make_world, group):
    world = make_world(group)
    world.write((1, "a", 5.0, START - 2 * DAY))
    for day in range(3):
        if day != 1:
            with pytest.raises(KeyboardInterrupt):
                computer(world, DeadMarks(world.marks)).step()
        else:
            computer(world).step()
        assert ran(world) == day + 1
        assert computer(world).step() == []
        assert ran(world) == day + 1
        assert positions(world) == {"end": START + day * DAY}
        world.next_day()


def test_a_fold_of_a_stream_whose_worker_dies_counts_each_event_once(make_world):
    world = make_world(folding(CLICKS))
    world.log.create("clicks", 1)
    for day in range(3):
        send(world, day + 1)
        if day == 1:
            with pytest.raises(KeyboardInterrupt):
                computer(world, DeadMarks(world.marks)).step()
        computer(world).step()
        world.folding.step()
        world.next_day()
    assert sum(len(states) for states in taken(world)) == 1
    found = meta_of(world.online, "totals@1", 0) or meta_of(world.online, "totals@1", 1)
    assert found.applied == {"clicks/0": 6}
    assert positions(world) == {"end": START + 2 * DAY, "clicks/0": 6}
    assert counted(world) == 6


def taken(world):
    return [list(pairs(world.online, "totals@1", shard)) for shard in range(2)]


def counted(world):
    from millstream.fold import States, layout_of, value

    ((_, state),) = [item for states in taken(world) for item in states]
    at = np.array([world.clock.now()])
    return value(layout_of(world.version.group), States.from_bytes([state]), at).columns["count_90d"][0]


def test_a_worker_that_others_have_overtaken_appends_nothing(make_world):
    world = make_world(dated_group())
    world.write((1, "a", 5.0, START - 2 * DAY))
    (interval,) = world.computer.due()
    computer(world).step()
    with pytest.raises(Fenced, match="schedule of 'kyc@1'"):
        world.computer.run(interval)
    assert ran(world) == 1


def test_a_worker_that_was_overtaken_as_it_wrote_appends_nothing(make_world):
    world = make_world(dated_group())
    world.write((1, "a", 5.0, START - 2 * DAY))
    slow = computer(world)
    (interval,) = slow.due()
    transaction = world.log.transaction

    def overtaken():
        world.log.transaction = transaction
        computer(world).step()
        return transaction()

    world.log.transaction = overtaken
    with pytest.raises(Fenced, match=r"the end of topic 'staging\.kyc@1' is 1, expected 0"):
        slow.run(interval)
    assert ran(world) == 1


def test_runs_of_the_past_and_rows_by_hand_move_nothing(make_world):
    world = make_world(dated_group())
    world.write((1, "a", 5.0, START - 2 * DAY))
    world.computer.step()
    world.computer.backfill("kyc@1", START - 9 * DAY, world.clock.now())
    rows = pa.table({"user_id": [1], "event_time": [START], "available_time": [START], "tier": ["b"], "credit": [2.0]})
    by_hand = encode_run(Run(START + DAY, START + DAY, START + DAY, False, rows))
    world.log.append("staging.kyc@1", 0, Batch(by_hand, "bytes", 1))
    assert positions(world) == {"end": START}
    assert computer(world).step() == []
    world.next_day()
    (one,) = computer(world).step()
    assert (one.interval.start, one.interval.end) == (START, START + DAY)


def test_marks_that_are_older_than_the_log_repeat_nothing(make_world):
    world = make_world(dated_group())
    world.write((1, "a", 5.0, START - 2 * DAY))
    world.computer.step()
    older = world.marks.read(schedule_mark("kyc@1"))
    for _ in range(2):
        world.next_day()
        world.computer.step()
    newest = world.marks.read(schedule_mark("kyc@1"))
    world.marks.move(schedule_mark("kyc@1"), newest, older)
    assert computer(world).step() == []
    world.marks.move(schedule_mark("kyc@1"), newest, dict.fromkeys(newest))
    assert computer(world).step() == []
    assert world.marks.read(schedule_mark("kyc@1")) == newest


def test_a_schedule_that_is_marked_begins_anew_in_another_log(make_world):
    world = make_world(snapshot_group())
    world.write((1, "a", 5.0, START))
    world.computer.step()
    world.log.close()
    shutil.rmtree(world.folder / "log")
    again = type(world)(world.folder, world.version, world.offline, world.clock)
    again.log.create("staging.kyc@1", 1)
    (one,) = again.computer.step()
    assert one.interval.end == START
    assert computer(again).step() == []
    again.log.close()
