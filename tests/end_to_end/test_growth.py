"""Partitions that come while processes compute, ingest and score: nothing is lost, nothing doubled, all is verified."""

import json
import signal
import threading
import time
from collections import Counter
from pathlib import Path

from tests.commands import begin
from tests.end_to_end import shop
from tests.end_to_end.running import together, until

import millstream as ms
from millstream.buffer.computed import computed_in
from millstream.buffer.log import OwnLog
from millstream.buffer.topics import ARCHIVE

LAYERS = ("compute", "compute", "ingest", "sync")


def _wider(definitions: str, partitions: int) -> str:
    return definitions.replace('deduplicate="id", schema', f'deduplicate="id", partitions={partitions}, schema')


def _computed(log: OwnLog, partitions: int) -> bool:
    """Whether there are so many partitions, and something of each has been computed by every group."""
    rows = [log.committed(f"compute/{version}", "orders") for version in ("spending@1", "turnover@1")]
    return all(len(row) == partitions and all(row) for row in rows)


def _all_computed(log: OwnLog) -> bool:
    ends = [end for _, end in log.ends("orders")]
    return all(computed_in(log, version, "orders") == ends for version in ("spending@1", "turnover@1"))


def _archived(log: OwnLog) -> bool:
    return log.committed(ARCHIVE, "orders") == [end for _, end in log.ends("orders")]


def _partitions(groups: str) -> int:
    """How many partitions a captured vector of a user's spending counts."""
    return len(json.loads(groups)["spending"]["positions"])


def test_partitions_grow_while_everything_runs(tmp_path: Path) -> None:
    shop.write_project(tmp_path, sync="2s")
    shop.write_accounts(tmp_path, 0, time.time_ns() // 1_000)
    project = ms.Project(tmp_path)
    project.apply()
    project.drain()
    project.backfill()
    shop.deploy_model(project)
    log, sent, numbers = project.parts.log, Counter[int](), iter(range(10**9))

    def producing(stop: threading.Event) -> None:
        while not stop.is_set():
            rows = shop.orders([next(numbers) for _ in range(100)], time.time_ns() // 1_000, 3)
            assert project.send("orders", rows) == 100
            sent.update(row["user_id"] for row in rows)
            stop.wait(0.1)

    def scoring(stop: threading.Event) -> None:
        while not stop.is_set():
            project.score("risk", [{"user_id": n, "shop": f"shop-{n % 25}", "amount": 5.0} for n in range(4)])
            stop.wait(0.1)

    processes = [begin("run", layer, folder=tmp_path) for layer in LAYERS]
    try:
        with together(producing, scoring):
            until(lambda: _computed(log, 3), "the partitions that there were are computed")
            (tmp_path / "features.py").write_text(_wider((tmp_path / "features.py").read_text(), 5))
            project.apply()
            until(lambda: _computed(log, 5), "those that the definition adds are computed")
            log.grow("orders", 8)
            until(lambda: _computed(log, 8), "those that come under everybody's feet are computed")
        killed = processes[0]
        killed.kill()
        killed.wait()
        until(lambda: _all_computed(log), "the other one computes all partitions")
        until(lambda: _archived(log), "everything is archived")
        assert [one.poll() for one in processes[1:]] == [None] * 3
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
            process.wait()
    project.drain()
    users = sorted(sent)
    found = project.features("risk", [{"user_id": n, "shop": "shop-1"} for n in users])
    assert dict(zip(users, found["spending__count"].to_pylist(), strict=True)) == dict(sent)
    ids = project.parts.histories.events().read("orders")["id"]
    assert len(ids) == len(ids.unique()) == sent.total()
    project.sync()
    project.score("risk", [{"user_id": users[0], "shop": "shop-1", "amount": 5.0}])
    verified = project.verify()
    assert (verified.mismatches, verified.degraded, verified.shown) == (0, 0, ())
    assert verified.requests > 20
    assert {3, 8} <= {_partitions(text) for text in project.parts.histories.captures("risk")["_groups"].to_pylist()}
    compared = project.parity("risk")
    assert (compared.unexplained, compared.shown) == (0, ())
