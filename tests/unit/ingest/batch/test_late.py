"""Rows that are known after the run of their interval are served from the next one on, by every way there is."""

from __future__ import annotations

from itertools import product

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.unit.ingest.batch.world import DAY, HOUR, START, USER, World, version_of

import millstream as ms
from millstream.computing.interval_runs import check_late
from millstream.errors import PlanError

TYPES = {"user_id": "int64", "tier": "string", "credit": "float64", "changed": "timestamp", "known": "timestamp"}
QUERIES = {
    "from start on": "select user_id, changed, tier, credit from accounts where changed >= :start and changed < :end",
    "after start": "select user_id, changed, tier, credit from accounts where changed > :start and changed <= :end",
    "sums": """select user_id, max(changed) as changed, max(tier) as tier, sum(credit) as credit from accounts
        where changed >= :start and changed < :end group by user_id""",
    "looks back": """select user_id, max(changed) as changed, max(tier) as tier, max(credit) as credit from accounts
        where changed >= :start - interval 1 day and changed < :end group by user_id""",
}


def table(**options):
    return ms.Table("accounts", path="accounts.parquet", time="changed", schema=TYPES, **options)


def group(query, source):
    return ms.BatchFeatureGroup("kyc", entity=USER, every="24h", sources=[source], query=QUERIES[query], time="changed")


def write(world, rows):
    """(user_id, tier, credit, changed and known in µs)."""
    arrays = [pa.array(column) for column in zip(*rows, strict=True)]
    arrays[3:] = [array.cast(pa.timestamp("us", "UTC")) for array in arrays[3:]]
    pq.write_table(pa.table(arrays, list(TYPES)), world.folder / "accounts.parquet")


def pure(definition, rows, asked):
    frame = [dict(zip(TYPES, row, strict=True)) for row in rows]
    (source,) = definition.sources
    found = ms.compute(definition, {source: frame}, [{"user_id": user, "at": at} for user, at in asked])
    return [{"tier": row["kyc__tier"], "credit": row["kyc__credit"]} for row in found.to_pylist()]


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize(("options", "lag"), [({"delay": "2h"}, 2 * HOUR), ({"available": "known"}, None)])
def test_what_was_ever_known_is_served_from_then_on(make_world, query, options, lag):
    definition = group(query, table(**options))
    moments = [
        START - 10 * DAY,
        START - 9 * DAY - HOUR,
        START - 8 * DAY - 1,
        START - 8 * DAY,
        START - 5 * DAY - 5 * HOUR,
    ]
    lags = [lag] if lag else [0, HOUR, 30 * HOUR, 3 * DAY]
    rows = []
    for user, (moment, late) in enumerate(product(moments, lags)):
        rows.append((user, f"tier {user}", float(user), moment, moment + late))
    for way in ("as it goes", "backfill"):
        world = make_world(definition)
        write(world, rows)
        if way == "backfill":
            world.computer.backfill(world.version.id, START - 12 * DAY, world.clock.now())
            world.ingest()
        else:
            world.clock = type(world.clock)(START - 12 * DAY)
            world.again()
            for _ in range(26):
                world.clock.advance(12 * HOUR)
                world.run()
        end = world.clock.now()
        found = world.trained_at([(user, end) for user, *_ in rows])
        assert found == [{"tier": tier, "credit": credit} for _, tier, credit, *_ in rows], way
    asked = [(user, at) for user, *_, moment, _ in rows for at in range(moment, moment + 6 * DAY, 31 * HOUR)]
    assert world.trained_at(asked) == pure(definition, rows, asked)


def test_of_rows_with_one_key_and_time_the_one_that_was_known_last_is_served(make_world):
    rows = [(1, "a", 9.0, START - 5 * DAY, START - 5 * DAY), (1, "b", 1.0, START - 5 * DAY, START - 3 * DAY - HOUR)]
    definition = ms.BatchFeatureGroup(
        "kyc", entity=USER, every="24h", sources=[table(available="known")], time="changed",
        query="select user_id, changed, tier, credit from accounts",
    )  # fmt: skip
    asked = [(1, START - 4 * DAY), (1, START - 3 * DAY), (1, START)]
    for backfilled in (False, True):
        world = make_world(definition)
        write(world, rows)
        if backfilled:
            world.computer.backfill(world.version.id, START - 12 * DAY, world.clock.now())
        world.run()
        assert world.both(1)["tier"] == "b"
        found = [world.trained(user, at)["tier"] for user, at in asked]
        assert found == (["a", "b", "b"] if backfilled else [None, None, None])
    assert [row["tier"] for row in pure(definition, rows, asked)] == ["a", "b", "b"]


def test_a_late_event_of_a_stream_is_in_its_interval_from_the_next_run_on():
    orders = ms.EventStream("orders", time="at", available="known", schema={
        "user_id": "int64", "at": "timestamp", "known": "timestamp"})  # fmt: skip
    counts = ms.BatchFeatureGroup(
        "counts",
        entity=USER,
        every="24h",
        sources=[orders],
        time="newest",
        query="""
        select user_id, max("at") as newest, count(*) as n from orders where "at" >= :start and "at" < :end group by 1""",
    )
    rows = [
        {"user_id": 1, "at": START + HOUR, "known": START + HOUR},
        {"user_id": 1, "at": START + HOUR, "known": START + 30 * HOUR},
    ]
    asked = [{"user_id": 1, "at": START + hours * HOUR} for hours in (23, 25, 47, 49)]
    assert ms.compute(counts, {orders: rows}, asked)["counts__n"].to_pylist() == [None, 1, 1, 2]


def test_a_snapshot_of_an_interval_that_would_lose_late_rows_is_refused():
    def snapshot(condition, source):
        query = f"select user_id, count(*) as n from accounts where {condition} group by 1"
        built = ms.BatchFeatureGroup("kyc", entity=USER, every="24h", sources=[source], query=query)
        check_late(built, built.sources)

    with pytest.raises(PlanError, match="known later, by 'known', would be in no snapshot") as raised:
        snapshot("changed >= :start and changed < :end", table(available="known"))
    assert "known >= :start and known < :end" in (raised.value.hint or "")
    snapshot("known >= :start and known < :end and tier = 'a'", table(available="known"))
    snapshot("changed >= :start and changed < :end", table(delay="1h"))


def test_times_of_random_rows_and_lags_agree_with_the_pure_function(make_world):
    rng = np.random.default_rng(5)
    for query in ("from start on", "sums"):
        definition = group(query, table(available="known"))
        moments = START - 8 * DAY + rng.integers(0, 7 * DAY, 60)
        known = moments + rng.choice([0, HOUR, 26 * HOUR, 4 * DAY], 60) * rng.integers(0, 2, 60)
        rows = [
            (int(user), f"t{user}", float(place), int(at), int(late))
            for place, (user, at, late) in enumerate(zip(rng.integers(0, 6, 60), moments, known, strict=True))
        ]
        world = World(make_world(definition).folder, version_of(definition))
        write(world, rows)
        world.computer.backfill(world.version.id, START - 12 * DAY, world.clock.now())
        world.ingest()
        asked = [(user, int(at)) for user in range(6) for at in START - 8 * DAY + rng.integers(0, 9 * DAY, 20)]
        assert world.trained_at(asked) == pure(definition, rows, asked), query
