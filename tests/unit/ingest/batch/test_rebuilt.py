"""States of queries that are built anew from what their runs stated read as those that ingestion wrote."""

import random
from dataclasses import replace

import numpy as np
import pytest
from tests.unit.ingest.batch.world import DAY, HOUR, START, USER, World, dated_group, snapshot_group

from millstream.buffer.log import Batch
from millstream.buffer.staging import Run, encode_run
from millstream.buffer.topics import staging_topic
from millstream.definitions.group_version import GroupVersion
from millstream.errors import StoreError
from millstream.fold import encode_key, shard_of
from millstream.fold.rows import ROW_SPAN
from millstream.ingest.batch import BatchIngester
from millstream.ingest.rebuilt import rebuild_states, states_caught_up
from millstream.testing.shards import held, meta_of

SECOND = 1_000_000
USERS = range(9)


def built(world: World) -> GroupVersion:
    """A build beside the one that is read, filled from the offline table."""
    beside = replace(world.version, build=world.version.build + 1)
    rebuild_states(beside, world.online, world.offline, world.log, world.clock)
    ingester = BatchIngester(world.log, world.online, world.offline, [world.version], world.clock, beside=[beside])
    ingester.step()
    return beside


def read(world: World, version: GroupVersion, at: int) -> list[object]:
    """What serving reads of all users from the states of a version."""
    from millstream.fold.rows import row_at
    from millstream.serve.found import confirmed_at

    found = []
    for user in USERS:
        key = encode_key(USER.keys, [user])
        (state,), meta = held(world.online, version.states, shard_of(key, version.shards), [key])
        found.append(row_at(version.schema, state, at, version.group.ttl, confirmed_at(meta, at)))
    return found


@pytest.mark.parametrize("ttl", [None, "6h"])
@pytest.mark.parametrize("make", [dated_group, snapshot_group])
def test_states_built_anew_read_as_those_that_runs_wrote(make_world, make, ttl):
    for seed in range(4):
        chance = random.Random(seed)
        world = make_world(make(ttl=ttl, every="1h"))
        world.log.create(staging_topic("kyc@1"), 1)
        for _ in range(12):
            stage_some(world, chance)
            world.ingest()
            world.clock.advance(chance.choice([SECOND, 3 * SECOND, HOUR]))
        beside = built(world)
        for _ in range(4):
            now = world.clock.now()
            for at in (now, now - 1, now - ROW_SPAN + 1, now + HOUR, now + 5 * HOUR, now + 7 * HOUR):
                assert read(world, beside, at) == read(world, world.version, at), (seed, at - now)
            assert states_caught_up(beside, world.version, world.online, world.log)
            stage_some(world, chance)
            world.again()
            world.ingest()
            assert not states_caught_up(beside, world.version, world.online, world.log)
            world.ingester = BatchIngester(
                world.log, world.online, world.offline, [world.version], world.clock, beside=[beside]
            )
            world.ingest()
            world.clock.advance(chance.choice([SECOND, HOUR]))


def stage_some(world: World, chance: random.Random) -> None:
    """A run with rows of some users, now and then a late one."""
    import pyarrow as pa

    now, users = world.clock.now(), sorted(chance.sample(USERS, chance.randrange(1, 9)))
    snapshot = world.version.group.time is None
    late = chance.random() < 0.2
    end = now - (2 * HOUR if late else 0)
    times = [end if snapshot else end - chance.choice([0, HOUR, -2 * HOUR]) for _ in users]
    rows = {
        "user_id": pa.array(users),
        "event_time": pa.array(times),
        "available_time": pa.array(np.full(len(users), end)),
        "tier": pa.array([chance.choice("abc") for _ in users]),
        "credit": pa.array([1.0] * len(users)),
    }
    record = encode_run(Run(end - HOUR, end, end, snapshot, pa.table(rows)))
    world.log.append(staging_topic("kyc@1"), 0, Batch(record, "bytes", 1))


def test_what_is_whole_is_not_built_again_and_what_a_dead_process_left_is_begun_anew(world):
    world.write((1, "gold", 5.0, START - DAY), (2, "new", 1.0, START - HOUR))
    world.run()
    beside = built(world)
    assert rebuild_states(beside, world.online, world.offline, world.log, world.clock) == 0
    world.online.drop(beside.states)
    meta = meta_of(world.online, world.version.states, 0)
    world.online.write(beside.states, 0, [(b"left", b"MSR\x01")], meta, None)
    assert rebuild_states(beside, world.online, world.offline, world.log, world.clock) == 2
    assert read(world, beside, world.clock.now()) == read(world, world.version, world.clock.now())


def test_runs_that_neither_the_offline_table_nor_the_log_has_are_an_error(world):
    world.write((1, "gold", 5.0, START - DAY))
    world.computer.step()
    world.log.trim(staging_topic("kyc@1"), 0, 1)
    with pytest.raises(StoreError, match="its offline table is at run 0, but the buffer begins at 1"):
        built(world)
