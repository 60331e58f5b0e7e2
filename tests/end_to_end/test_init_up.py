"""`millstream init`, `cd`, `millstream up`, as a person types them: scores within a minute; what refuses to start."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.commands import millstream
from tests.end_to_end.running import Up, ask, until

from millstream.testing.servers.ports import free_port

MINUTE = 60.0
LAYERS = {"compute", "ingest", "batch", "sync", "serve", "monitor", "generator"}


class Shop(Up):
    """The example project, made and started as the README says."""

    def __init__(self, folder: Path) -> None:
        assert millstream("init", "shop", folder=folder).returncode == 0
        self.began = time.monotonic()
        super().__init__(folder / "shop", free_port())

    def status(self) -> dict[str, Any]:
        """What the service says of the pipeline; nothing is known before it is up."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            found: dict[str, Any] = ask(self.port, "GET", "/status")[1]
            return found
        return {"layers": [], "groups": [], "models": [], "streams": []}

    def scored(self) -> int:
        return sum(model["scored"] for model in self.status()["models"])

    def events(self) -> int:
        return sum(stream["events"] for stream in self.status()["streams"])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    running = Shop(tmp_path_factory.mktemp("up"))
    yield running
    running.stop()


def test_live_scores_within_a_minute(shop: Shop) -> None:
    until(lambda: shop.scored() > 10, "live scores", MINUTE)
    assert time.monotonic() - shop.began < MINUTE


def test_every_layer_is_up(shop: Shop) -> None:
    def up() -> set[str]:
        return {layer["name"] for layer in shop.status()["layers"] if layer["state"] == "up"}

    until(lambda: up() == LAYERS, "all layers up")


def test_events_are_computed_and_ingested(shop: Shop) -> None:
    before = until(shop.events, "events")
    until(lambda: shop.events() > before, "more events")
    until(lambda: all((group["lag"] or 0) < 100 for group in shop.status()["groups"]), "ingestion to catch up")


@pytest.mark.parametrize("layer", ["compute", "serve"])
def test_a_layer_that_is_killed_is_started_again(shop: Shop, layer: str) -> None:
    first = until(lambda: shop.layers().get(layer), f"{layer} running").pid
    assert shop.kill(layer)
    until(lambda: (found := shop.layers().get(layer)) and found.pid != first, f"{layer} running again")
    until(shop.ready, "service ready")


def test_served_vectors_are_recomputed_bit_for_bit(shop: Shop) -> None:
    until(lambda: shop.scored() > 20, "twenty scores")
    time.sleep(2)  # a capture is shipped within a second
    found = millstream("verify", "--sample", "50", "--json", folder=shop.folder)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["requests"] > 0


def test_a_second_up_is_refused_in_one_sentence(shop: Shop) -> None:
    refused = millstream("up", "--port", str(free_port()), folder=shop.folder)
    assert refused.returncode == 1
    assert f"already running: `millstream up` is process {shop.process.pid}" in refused.stderr
    assert "Hint: " in refused.stderr
    assert "Traceback" not in refused.stderr
    assert shop.process.poll() is None


def test_plan_loads_no_compiler(shop: Shop) -> None:
    asked = [sys.executable, "-X", "importtime", "-m", "millstream", "plan"]
    done = subprocess.run(asked, cwd=shop.folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2_000:]
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "millstream.project.project" in loaded
    assert "numba" not in loaded


def test_a_taken_port_is_refused_in_one_sentence(shop: Shop, tmp_path: Path) -> None:
    assert millstream("init", "other", folder=tmp_path).returncode == 0
    refused = millstream("up", "--port", str(shop.port), folder=tmp_path / "other")
    assert refused.returncode == 1
    assert f"Port {shop.port} on 127.0.0.1 cannot be served: address already in use" in refused.stderr


def test_a_folder_without_a_project_is_refused_in_one_sentence(tmp_path: Path) -> None:
    refused = millstream("up", folder=tmp_path)
    assert refused.returncode == 1
    assert "is not a Millstream project" in refused.stderr
    assert not (tmp_path / ".millstream").exists()


def test_no_layer_outlives_a_supervisor_that_was_killed_and_the_next_one_goes_on(shop: Shop) -> None:
    processes = list(shop.layers().values())
    events = shop.events()
    assert shop.kill("up")
    gone, alive = psutil.wait_procs(processes, timeout=30)
    assert (len(gone), alive) == (len(processes), [])
    shop.start()
    until(lambda: shop.events() > events, "events after the restart")


def test_stopping_ends_every_process_and_the_clock(shop: Shop) -> None:
    processes = list(shop.layers().values())
    os.kill(shop.process.pid, signal.SIGINT)
    assert shop.process.wait(30) == 0
    assert not [process for process in processes if process.is_running()]
    clock = json.loads((shop.folder / ".millstream" / "clock.json").read_text())
    assert clock["rate"] == 0.0
