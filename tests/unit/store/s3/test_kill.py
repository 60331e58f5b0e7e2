"""The server is killed in the midst of commits: what was acknowledged is there, and every row once."""

from __future__ import annotations

import threading
from pathlib import Path

import pyarrow as pa
import pytest
from tests.conftest import needs
from tests.end_to_end.running import until

from millstream.errors import Fenced, StoreError
from millstream.store.iceberg.shared import SharedWarehouse
from millstream.store.iceberg.store import IcebergOfflineStore
from millstream.testing.servers.s3 import S3Server

EVENTS = "events.killed"
POSITIONS = "millstream.positions"


@pytest.mark.parametrize("catalog", ["sql", "rest"])
def test_killed_in_the_midst_of_commits_nothing_is_lost_or_doubled(tmp_path: Path, catalog: str) -> None:
    """Two archivers, each with a connection of its own, append where the table says; three kills."""
    needs(S3Server)
    with S3Server() as server:
        rest = catalog == "rest"
        warehouse = server.rest() if rest else server.sql(f"sqlite:///{tmp_path}/c.db?timeout=60", server.bucket())
        stop, acknowledged, failures = threading.Event(), [0], list[str]()
        IcebergOfflineStore(warehouse).append(EVENTS, numbers(0), {POSITIONS: "1"})
        workers = [threading.Thread(target=archive, args=(warehouse, stop, acknowledged, failures)) for _ in range(2)]
        for worker in workers:
            worker.start()
        for wait in (0.4, 0.9, 0.6):
            goal, noticed = acknowledged[0] + 2, len(failures)
            until(lambda goal=goal: acknowledged[0] >= goal, "commits")
            threading.Event().wait(wait)
            server.kill()
            until(lambda noticed=noticed: len(failures) > noticed, "a writer that notices")
            server.start()
        goal = acknowledged[0] + 2
        until(lambda: acknowledged[0] >= goal, "commits after the last kill")
        stop.set()
        for worker in workers:
            worker.join(120)
        assert not any(worker.is_alive() for worker in workers)
        store = IcebergOfflineStore(warehouse)
        newest = store.snapshot(EVENTS)
        assert newest is not None
        position = int(newest.properties[POSITIONS])
        assert position >= acknowledged[0] >= 8
        assert sorted(store.scan(EVENTS)["n"].to_pylist()) == list(range(position))
        store.examine(EVENTS)


def numbers(*these: int) -> pa.Table:
    return pa.table({"n": pa.array(these, pa.int64())})


def archive(warehouse: SharedWarehouse, stop: threading.Event, acknowledged: list[int], failures: list[str]) -> None:
    """Append each number where the table says that it comes next, as the archive does, whatever fails."""
    store = IcebergOfflineStore(warehouse)
    while not stop.is_set():
        try:
            found = store.snapshot(EVENTS)
            assert found is not None
            position = int(found.properties[POSITIONS])
            store.append(EVENTS, numbers(position), {POSITIONS: str(position + 1)}, expected=found.id)
            acknowledged[0] = max(acknowledged[0], position + 1)
        except Fenced:
            continue
        except StoreError as error:
            failures.append(error.message)
            stop.wait(0.1)
