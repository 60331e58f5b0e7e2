"""A worker killed at any moment: each run reaches both stores once."""

import time

import pytest
from tests.commands import Program
from tests.unit.ingest.batch.test_stated import said, staged
from tests.unit.ingest.batch.world import HOUR, START, World

from millstream.buffer.topics import staging_topic

WORKER = """
import sys
from pathlib import Path
from tests.unit.ingest.batch.world import World
world = World(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    world.ingester.step()
"""


@pytest.mark.slow
def test_killed_anywhere_both_stores_hold_every_run_once(tmp_path):
    world, runs = World(tmp_path), []
    world.log.create(staging_topic("kyc@1"), 1)
    for number in range(6):
        worker = Program(WORKER, str(tmp_path))
        worker.stdout.readline()
        for part in range(6):
            at = START + (10 * number + part) * HOUR
            rows = {(user, at): f"{number}-{part}" for user in range(part % 3, 40, 3)}
            runs.append(staged(world, False, at, at, rows))
            time.sleep(0.02 * (number + 1))
        worker.kill()
    world.ingest()
    world.clock.set(START + 100 * HOUR)
    assert world.stated() == sum(len(rows) for _, _, rows in runs)
    for user in range(40):
        assert world.both(user)["tier"] == said(runs, False, None, user, world.clock.now())
    assert world.log.committed("ingest/kyc@1", staging_topic("kyc@1")) == [len(runs)]
