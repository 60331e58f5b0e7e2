"""The layers on a Redis server that dies, hangs and loses what it wrote last, and a worker that wakes after its successor."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.conftest import redis_program
from tests.end_to_end import shop
from tests.end_to_end.running import Layer, post, together, until
from tests.end_to_end.test_kill import REFUSED, Ledger, expected_of, now, scoring

import millstream as ms
from millstream.errors import StoreError
from millstream.testing.servers.ports import free_port
from millstream.testing.servers.redis import PASSWORD, RedisServer
from millstream.testing.shards import meta_of

#: Of a user and a shop that nobody orders from: read as empty, unless the store cannot be read.
ROW = {"user_id": 10**6, "shop": "nowhere", "amount": 5.0}
ONLINE = '\n[online]\nkind = "redis"\nurl = "{url}"\ntimeout = "3s"\n'
GROUPS = {"user_id": "spending", "shop": "turnover"}
PATIENCE = 240.0


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer(redis_program("redis"), requirepass=PASSWORD) as server:
        yield server


@pytest.fixture
def project(tmp_path: Path, server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[ms.Project]:
    monkeypatch.setenv("MILLSTREAM_REDIS_PASSWORD", PASSWORD)
    shop.write_project(tmp_path, sync="1h")
    with (tmp_path / "millstream.toml").open("a") as settings:
        settings.write(ONLINE.format(url=server.url))
    with ms.Project(tmp_path) as project:
        project.apply()
        shop.deploy_model(project)
        project.drain()  # queries, too, have something to be read
        yield project


def sending(ledger: Ledger, project: ms.Project) -> Callable[[threading.Event], None]:
    """A producer of orders."""
    rng = random.Random(1)

    def work(stop: threading.Event) -> None:
        while not stop.wait(0.1):
            rows = shop.orders(ledger.take(rng.randint(1, 60)), now(), 1)
            assert project.send("orders", rows) == len(rows)
            ledger.acknowledged(rows)

    return work


def caught_up(project: ms.Project) -> bool:
    """Whether everything that was sent is computed and ingested."""
    log = project.parts.log
    ends = [end for _, end in log.ends("orders")]
    for version in (f"{group}@1" for group in GROUPS.values()):
        if log.committed(f"compute/{version}", "orders") != ends:
            return False
        for shard, (_, end) in enumerate(log.ends(f"features.{version}")):
            try:
                meta = meta_of(project.parts.online, version, shard)
            except StoreError:
                return False
            if meta is None or meta.position < end or meta.pending is not None:
                return False
    return True


def answered(port: int, degraded: bool) -> bool:
    """Whether a score is answered, soon, and whether without what the store holds."""
    begun = time.monotonic()
    try:
        status, answer = post(port, "/v1/models/risk/score", ROW)
    except REFUSED:
        return False
    assert time.monotonic() - begun < 8
    return status == 200 and bool(answer.get("degraded")) == degraded


def test_a_server_that_dies_hangs_and_loses_its_last_writes_costs_no_event(
    project: ms.Project, server: RedisServer
) -> None:
    folder, ledger, port = project.settings.folder, Ledger(), free_port()

    def until_answered(*, degraded: bool) -> None:
        until(lambda: answered(port, degraded), f"scores, {degraded=}", PATIENCE)

    with contextlib.ExitStack() as stack:
        _, ingest, _ = (started(stack, Layer(folder, name, port)) for name in ("serve", "ingest", "compute"))
        with together(sending(ledger, project), scoring(ledger, port)):
            until_answered(degraded=False)
            until(lambda: server.journal.stat().st_size > 150_000, "some events", PATIENCE)
            server.kill()
            until_answered(degraded=True)
            server.start()
            until_answered(degraded=False)
            server.freeze()
            until_answered(degraded=True)
            server.thaw()
            until_answered(degraded=False)
            ingest.process.send_signal(signal.SIGSTOP)
            started(stack, Layer(folder, "ingest", port))
            server.lose(server.journal.stat().st_size - 60_000)
            server.start()
            until_answered(degraded=False)
        until(lambda: caught_up(project), "everything is ingested", PATIENCE)
        with together(sending(ledger, project)):
            ingest.process.send_signal(signal.SIGCONT)
            time.sleep(1)
        until(lambda: caught_up(project), "everything is ingested", PATIENCE)
    check(project, ledger)


def started(stack: contextlib.ExitStack, layer: Layer) -> Layer:
    stack.callback(layer.kill)
    return layer


def check(project: ms.Project, ledger: Ledger) -> None:
    """Every value is what plain Python makes of what was acknowledged, and what was served is recomputed to the bit."""
    from millstream.serve.reader import FeatureReader
    from millstream.serve.request import RequestSchema

    at, parts = now(), project.parts
    versions = parts.served.versions()
    for key, group in GROUPS.items():
        expected = expected_of(ledger, key, at, positive=group == "turnover")
        view = ms.FeatureView("check", features=[versions[group].group])
        reader = FeatureReader(parts.online, view, versions, parts.clock)
        rows = RequestSchema(view).parse([{key: one, "at": at} for one in expected], at)
        columns = reader.read(rows.values, rows.at).columns
        for name in next(iter(expected.values())):
            got = columns[f"{group}__{name}"].tolist()
            assert got == [values[name] for values in expected.values()], (group, name)
    report = project.verify()
    assert report.mismatches == 0, report.shown
    assert report.requests > 20 and report.degraded > 0
