"""The promise: whatever the runs and their order, serving and training read what the runs said, by definition."""

import shutil
import tempfile
from pathlib import Path

import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.unit.ingest.batch.world import DAY, START, Tables, World, dated_group, snapshot_group, version_of

from millstream.buffer.log import Batch
from millstream.buffer.staging import Run, encode_run
from millstream.buffer.topics import staging_topic
from millstream.fold.rows import ROW_SPAN

HOUR = DAY // 24
TIERS = st.sampled_from(["a", "b", None])
ROWS = st.dictionaries(st.tuples(st.integers(0, 3), st.integers(0, 5)), TIERS, max_size=6)
# How many hours after the one before a run happens, which interval it is of, and what it returns.
RUNS = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 5), st.booleans(), ROWS), min_size=1, max_size=8)


# A past run that comes after another one had said again what was in force, and was left out.
LATE = [(1, 0, False, {}), (1, 0, False, {}), (1, 0, True, {(1, 1): "b"}), (1, 1, True, {(1, 1): "a"}),
        (1, 0, False, {(1, 1): "a"}), (1, 0, True, {(1, 1): "a"})]  # fmt: skip


def staged(world, snapshot, end, available, rows):
    """Append a run: rows by (user, hour)."""
    if snapshot:
        rows = {(user, end): tier for (user, _), tier in sorted(rows.items())}
    table = pa.table(
        {
            "user_id": pa.array([user for user, _ in rows], pa.int64()),
            "event_time": pa.array([at for _, at in rows], pa.int64()),
            "available_time": pa.array([available] * len(rows), pa.int64()),
            "tier": pa.array(list(rows.values()), pa.string()),
            "credit": pa.array([1.0] * len(rows), pa.float64()),
        }
    )
    payload = encode_run(Run(end - DAY, end, available, snapshot, table))
    world.log.append(staging_topic("kyc@1"), 0, Batch(payload, "bytes", 1))
    return end, available, rows


def said(runs, snapshot, ttl, user, at):
    """What the runs said of a user at an instant, by definition."""
    best = None
    for number, (end, available, rows) in enumerate(runs):
        if snapshot and max(end, available) <= at:
            best = max(best or (-1, -1, -1), (end, available, number))
        for (who, time), _ in rows.items() if not snapshot else ():
            if who == user and max(time, available) <= at:
                best = max(best or (-1, -1, -1), (time, available, number))
    if best is None or (ttl is not None and at - best[1] > ttl):
        return None
    return runs[best[2]][2].get((user, best[0]))


def telling(runs):
    """The runs without the rows that say again what was in force: a past run that comes later finds only the others."""
    kept, found = {}, []
    for number, (end, available, rows) in enumerate(runs):
        told = {}
        for key, tier in rows.items():
            before = [one for one in kept.get(key, []) if one[:2] < (available, number)]
            if not before or max(before, key=lambda one: one[:2])[2] != tier:
                told[key] = tier
                kept.setdefault(key, []).append((available, number, tier))
        found.append((end, available, told))
    return found


def agreeing(rows, runs):
    """Rows with the values last stated for them: a past run finds the tables as they are now."""
    known = {key: tier for _, _, stated in runs for key, tier in stated.items()}
    return {key: known.get(key, tier) for key, tier in rows.items()}


# A run that says again what one before the last said, all of them of one interval.
AGAIN = [(1, 1, False, {(0, 0): None}), (1, 1, True, {(0, 0): "a"}), (1, 1, True, {(0, 0): None})]


@settings(max_examples=200, deadline=None)
@given(st.booleans(), st.booleans(), RUNS, st.lists(st.booleans(), min_size=8, max_size=8))
@example(True, True, [(2, 0, False, {(0, 0): "a"}), (1, 1, True, {(0, 0): "a"})], [False] * 8)
@example(False, False, LATE, [False] * 8)
@example(True, False, AGAIN, [False] * 8)
@example(True, True, AGAIN, [True] * 8)
@example(False, False, LATE, [False] * 4 + [True] + [False] * 3)
@example(False, False, LATE, [True] * 8)
def test_both_stores_say_what_the_runs_said(snapshot, expires, drawn, restarts):
    ttl = 5 * HOUR if expires else None
    options = {"ttl": "5h"} if ttl else {}
    group = snapshot_group(**options) if snapshot else dated_group(**options)
    folder = Path(tempfile.mkdtemp())
    try:
        world, runs, now = World(folder, version_of(group), offline=Tables()), [], START
        world.log.create(staging_topic("kyc@1"), 1)
        for (wait, hour, past, rows), restart in zip(drawn, restarts, strict=False):
            now += wait * HOUR
            world.clock.set(now)
            dated = {(user, START + at * HOUR): tier for (user, at), tier in rows.items()}
            end = min(START + hour * HOUR, now)
            if past and not snapshot:
                dated = agreeing(dated, runs)
            runs.append(staged(world, snapshot, end, end if past else max(now, end), dated))
            if restart:
                world.again()
                world.ingest()
        world.ingest()
        if not snapshot and ttl is None:
            runs = telling(runs)
        asked = [(user, at) for user in range(4) for at in range(START - HOUR, now + 8 * HOUR, HOUR // 2)]
        for (user, at), trained in zip(asked, world.trained_at(asked), strict=True):
            assert trained["tier"] == said(runs, snapshot, ttl, user, at)
            if at >= now - ROW_SPAN:
                assert world.served(user, at)["tier"] == said(runs, snapshot, ttl, user, at)
        world.log.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
