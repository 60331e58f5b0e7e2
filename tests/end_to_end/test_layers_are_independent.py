"""Each layer may be down while others go on: scoring without computing and ingestion, computing without ingestion."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.end_to_end import shop
from tests.end_to_end.running import Layer, ask, post, until

import millstream as ms
from millstream.testing.servers.ports import free_port

pytestmark = pytest.mark.slow
ROW = {"user_id": 3, "shop": "shop-1", "amount": 5.0}


class World:
    """A project whose layers are started and stopped one by one."""

    def __init__(self, folder: Path) -> None:
        shop.write_project(folder)
        self.folder, self.port = folder, free_port()
        self.project = ms.Project(folder)
        self.project.apply()
        shop.deploy_model(self.project)
        self.layers: dict[str, Layer] = {}
        self.sent: list[dict[str, Any]] = []

    def start(self, *names: str) -> None:
        for name in names:
            self.layers[name] = Layer(self.folder, name, self.port)

    def kill(self, *names: str) -> None:
        for name in names:
            self.layers.pop(name).kill()

    def send(self, n: int) -> None:
        """Send orders over HTTP."""
        first = len(self.sent)
        rows = shop.orders(range(first, first + n), time.time_ns() // 1_000, seed=7)
        rows = [{**row, "user_id": 3, "shop": "shop-1", "amount": 1.0} for row in rows]
        assert post(self.port, "/v1/streams/orders/events", rows)[0] == 202
        self.sent += rows

    def count(self) -> int:
        """How many orders of the user are in what is served."""
        status, answer = ask(self.port, "GET", "/v1/views/risk/features?user_id=3&shop=shop-1")
        assert status == 200, answer
        return int(answer["features"]["spending__count"] or 0)

    def score(self) -> dict[str, Any]:
        status, answer = post(self.port, "/v1/models/risk/score", ROW)
        assert status == 200, answer
        assert not answer["degraded"]
        return answer

    def complete(self) -> bool:
        """Whether every group has applied something of what is asked for."""
        answer = post(self.port, "/v1/models/risk/score", ROW)[1]
        return not answer["degraded"] and all(group["age_ms"] is not None for group in answer["groups"].values())

    def buffered(self) -> int:
        """How many records the feature topic of spending holds."""
        return sum(end for _, end in self.project.parts.log.ends("features.spending@1"))

    def computed(self) -> int:
        """How many orders are computed."""
        return sum(at or 0 for at in self.project.parts.log.committed("compute/spending@1", "orders"))

    def serving(self) -> bool:
        try:
            return ask(self.port, "GET", "/readyz")[0] == 200
        except OSError:
            return False


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("project"))
    with ExitStack() as stack:
        stack.callback(lambda: [layer.kill() for layer in world.layers.values()])
        yield world


@pytest.fixture
def world(shared: World) -> World:
    """The project with all of its layers up, those that the test before has killed among them, and all that was sent served."""
    shared.start(*(name for name in ("compute", "ingest", "batch", "serve") if name not in shared.layers))
    until(shared.serving, "serving")
    shared.send(100)
    until(lambda: shared.count() == len(shared.sent), "all orders served")
    until(shared.complete, "every group read")
    return shared


def test_scoring_goes_on_without_computing_and_ingestion_and_says_how_old_its_values_are(world: World) -> None:
    sent = len(world.sent)
    world.kill("compute", "ingest", "batch")
    before = world.score()
    world.send(50)
    time.sleep(1.5)
    later = world.score()
    for name, group in later["groups"].items():
        assert group["version"] == before["groups"][name]["version"]
        assert group["age_ms"] - before["groups"][name]["age_ms"] >= 1_500
        assert group["applied_ms"] - before["groups"][name]["applied_ms"] >= 1_500
    assert world.count() == sent
    assert world.computed() == sent
    world.start("compute", "ingest")
    until(lambda: world.count() == sent + 50, "what was sent meanwhile")
    sending = time.monotonic()
    world.send(10)
    until(lambda: world.count() == sent + 60, "what is sent now")
    assert world.score()["groups"]["spending"]["age_ms"] <= (time.monotonic() - sending) * 1_000


def test_computing_goes_on_without_ingestion_and_the_buffer_grows(world: World) -> None:
    sent = len(world.sent)
    world.kill("ingest")
    before = world.buffered()
    for _ in range(5):
        world.send(20)
        time.sleep(0.2)
    until(lambda: world.computed() == sent + 100, "computing without ingestion")
    assert world.buffered() > before
    assert world.count() == sent
    world.start("ingest")
    until(lambda: world.count() == sent + 100, "what computing put into the buffer")


def test_events_wait_in_the_log_while_nothing_but_serving_runs(world: World) -> None:
    sent = len(world.sent)
    world.kill("compute", "ingest", "batch")
    world.send(30)
    assert sum(end for _, end in world.project.parts.log.ends("orders")) == sent + 30
    world.kill("serve")
    world.start("serve")
    until(world.serving, "serving again")
    assert world.count() == sent
    world.score()
    world.start("compute", "ingest")
    until(lambda: world.count() == sent + 30, "what was sent meanwhile")
    report = world.project.verify()
    assert report.requests > 0
    assert report.mismatches == 0, report.shown
