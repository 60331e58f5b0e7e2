"""States that are damaged on disk: said, never served, and built again from history."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import millstream as ms
from millstream.cli.checks import checked
from millstream.errors import StoreError
from millstream.project import apply
from millstream.running.work import Ingest

user = ms.Entity("user", keys={"user_id": "int64"})
payments = ms.EventStream("payments", time="at", schema={"user_id": "int64", "amount": "float64", "at": "timestamp"})
pace = ms.StreamFeatureGroup("pace", entity=user, source=payments, features=[ms.Count(), ms.Sum("amount", over="24h")])
view = ms.FeatureView("pace", features=[pace])
EVENTS = [
    {"user_id": n % 40, "amount": 1.0 + n, "at": f"2026-01-01T10:{n // 60:02d}:{n % 60:02d}Z"} for n in range(400)
]
AT = "2026-01-01T11:00:00Z"
KEYS = [{"user_id": n} for n in range(40)]


def right(project: ms.Project) -> bool:
    asked = [{**key, "at": AT} for key in KEYS]
    pure = ms.compute(pace, {payments: EVENTS}, asked)
    found = project.features(view, KEYS, at=AT)
    return found.to_pylist() == pure.select(found.column_names).to_pylist()


def damage(project: ms.Project) -> None:
    """Flip a bit of the first state of a shard that has some, which the walk through its pages does not see."""
    (place, *_) = (one for one in sorted((project.settings.data / "online").glob("pace@1/*/data.mdb")))
    program = (
        "import lmdb, sys\n"
        "with lmdb.open(sys.argv[1], max_dbs=2, map_size=1 << 30) as env, env.begin() as txn:\n"
        "    print(next(iter(txn.cursor(env.open_db(b'states', txn))))[1].hex())\n"
    )
    command = [sys.executable, "-c", program, str(place.parent)]
    state = bytes.fromhex(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    whole = bytearray(place.read_bytes())
    assert state in whole
    while state in whole:  # pages of before may hold it too
        whole[whole.find(state) + 40] ^= 16
    place.write_bytes(whole)


@pytest.fixture
def project(tmp_path: Path) -> ms.Project:
    """A project whose states another process has written, so that this one has no file of them open."""
    made = ms.Project(tmp_path / "shop", create=True)
    child = os.fork()
    if child == 0:
        gc.freeze()  # what other tests have left in this process is the parent's to end
        filled = ms.Project(tmp_path / "shop")
        filled.apply(view)
        filled.load(payments, EVENTS)
        filled.drain()
        filled.backfill()
        os._exit(0 if right(filled) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    damage(made)
    return made


def test_a_damaged_state_is_an_error_of_features_and_of_doctor(project: ms.Project) -> None:
    with pytest.raises(StoreError, match=r"Group version 'pace@1', shard \d: the store cannot be read") as raised:
        project.features(view, KEYS, at=AT)
    assert raised.value.hint is not None and "backfill pace" in raised.value.hint
    said = {check.name: check for check in checked(project.settings.folder)}["online store"]
    assert not said.fine
    assert "pace@1" in said.found


def test_backfill_builds_damaged_states_again(project: ms.Project) -> None:
    project.backfill("pace")
    assert right(project)
    assert {check.name: check.fine for check in checked(project.settings.folder)}["online store"]


def test_the_layer_of_ingestion_builds_damaged_states_again_by_itself(project: ms.Project) -> None:
    with pytest.raises(StoreError):
        project.features(view, KEYS, at=AT)
    assert apply.rebuild_damaged(project.parts) == ["pace@1"]
    assert apply.rebuild_damaged(project.parts) == []
    layer = Ingest(project.parts)
    try:
        while any(one.building is not None for one in project.parts.registry.groups()):
            time.sleep(0.05)
    finally:
        layer.close()
    assert right(project)


def test_backfill_builds_a_damaged_version_again_that_only_a_model_reads(tmp_path: Path) -> None:
    made = ms.Project(tmp_path / "shop", create=True)
    newer = ms.StreamFeatureGroup("pace", entity=user, source=payments, features=[ms.Count()])
    child = os.fork()
    if child == 0:
        filled = ms.Project(tmp_path / "shop")
        filled.apply(view)
        filled.load(payments, EVENTS)
        filled.drain()
        filled.backfill()
        filled.parts.registry.pin("model@1", ["pace@1"])
        changed = ms.FeatureView("pace", features=[newer])
        filled.apply(changed, allow_breaking=True)
        filled.drain()
        filled.backfill()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    damage(made)
    registry = made.parts.registry
    assert registry.group("pace").id == "pace@2"
    with pytest.raises(StoreError):
        [made.parts.online.examine(registry.group("pace", 1).states, shard) for shard in range(4)]
    assert made.backfill("pace") == ["pace@2", "pace@1"]
    version = registry.group("pace", 1)
    assert (version.state, version.default, version.building) == ("live", False, None)
    assert sum(made.parts.online.examine(version.states, shard) for shard in range(version.shards)) == 40
    assert registry.group("pace").id == "pace@2"


def test_damaged_states_of_a_query_are_built_again_from_what_its_runs_stated(tmp_path: Path) -> None:
    plans = ms.Table("plans", path="plans.parquet", time="seen", schema={"user_id": "int64", "plan": "string",
                                                                     "seen": "timestamp"})  # fmt: skip
    tier = ms.BatchFeatureGroup(
        "pace", entity=user, sources=[plans], every="1h", time="seen", query="select user_id, plan, seen from plans"
    )
    asked = ms.FeatureView("pace", features=[tier])
    made = ms.Project(tmp_path / "shop", create=True)
    table = tmp_path / "shop" / "plans.parquet"
    child = os.fork()
    if child == 0:
        seen = pa.array(["2026-01-01T10:00:00Z"] * 40).cast(pa.timestamp("us", "UTC"))
        columns = {"user_id": list(range(40)), "plan": [f"plan {n % 3}" for n in range(40)], "seen": seen}
        pq.write_table(pa.table(columns), table)
        filled = ms.Project(tmp_path / "shop")
        filled.apply(asked)
        filled.drain()
        filled.backfill()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    damage(made)
    table.unlink()  # what it said is known
    with pytest.raises(StoreError, match="backfill pace"):
        made.features(asked, KEYS)
    assert apply.rebuild_damaged(made.parts) == ["pace@1"]
    made.backfill()
    assert made.features(asked, KEYS)["pace__plan"].to_pylist() == [f"plan {n % 3}" for n in range(40)]
    assert {check.name: check.fine for check in checked(made.settings.folder)}["online store"]
    assert made.parts.registry.group("pace").states == "pace@1.2"
