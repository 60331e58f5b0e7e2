"""Runs of queries into a store that takes a write in pieces: the states are those that a whole write would have made."""

import random

import pytest
from tests.unit.ingest.batch.test_rebuilt import read, stage_some
from tests.unit.ingest.batch.world import Tables, World, dated_group, snapshot_group

from millstream.buffer.topics import staging_topic
from millstream.fold.rows import ROW_SPAN
from millstream.testing.adversarial_online import AdversarialOnlineStore

HOUR = 3_600_000_000


@pytest.mark.parametrize("ttl", [None, "6h"])
@pytest.mark.parametrize("make", [dated_group, snapshot_group])
def test_runs_are_taken_in_once_however_a_write_is_cut(make_world, make, ttl):
    for seed in range(4):
        chance, apart = random.Random(seed), random.Random(-seed)
        group = make(ttl=ttl, every="1h")
        whole, pieces = (begun(make_world(group, offline=Tables())) for _ in range(2))
        pieces.online = AdversarialOnlineStore(pieces.online, seed)
        pieces.again()
        for _ in range(12):
            state = chance.getstate()
            stage_some(whole, chance)
            chance.setstate(state)
            stage_some(pieces, chance)
            for _ in range(apart.randint(0, 2)):
                pieces.ingester.step()
            if apart.random() < 0.5:
                pieces.again()
            whole.ingest()
            pieces.ingest()
            now = whole.clock.now()
            for at in (now, now - 1, now - ROW_SPAN + 1, now + HOUR, now + 7 * HOUR):
                assert read(pieces, pieces.version, at) == read(whole, whole.version, at), (seed, at - now)
            step = chance.choice([1_000_000, HOUR])
            whole.clock.advance(step)
            pieces.clock.advance(step)


def begun(world: World) -> World:
    world.log.create(staging_topic("kyc@1"), 1)
    return world
