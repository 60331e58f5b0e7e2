"""`up` on a small disk that is filled and emptied: it stays up, says so, and goes on when there is room."""

from __future__ import annotations

import contextlib
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from tests.disks import disk, fill
from tests.end_to_end import shop
from tests.end_to_end.running import Up, ask, post, together, until

import millstream as ms
from millstream.testing.servers.ports import free_port

pytestmark = pytest.mark.slow
ROW = {"user_id": 3, "shop": "shop-1", "amount": 5.0}


def send(up: Up, first: int, n: int) -> int:
    rows = shop.orders(range(first, first + n), time.time_ns() // 1_000, seed=7)
    status, answer = post(up.port, "/v1/streams/orders/events", [{**row, "user_id": 3} for row in rows])
    assert status == 202 or answer["error"]["hint"]
    return status


def count(up: Up) -> int:
    with contextlib.suppress(OSError):
        status, answer = ask(up.port, "GET", "/v1/views/risk/features?user_id=3&shop=shop-1")
        return int(answer["features"]["spending__count"] or 0) if status == 200 else -1
    return -1


def filled(place: Path) -> Path:
    """Take all the room, though others take some meanwhile."""
    return until(lambda: _taken(place), "a full disk")


def _taken(place: Path) -> Path | None:
    with contextlib.suppress(OSError):
        return fill(place)
    return None


def _give_room(ballast: Path, stop: threading.Event) -> None:
    """Let the disk be full for some seconds."""
    stop.wait(8)
    ballast.unlink()


def test_up_outlives_a_full_disk_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with disk(tmp_path / "disk", mebibytes=96) as place:
        shop.write_project(place)
        with contextlib.closing(ms.Project(place)) as project:
            project.apply()
            shop.deploy_model(project)
        up = Up(place, free_port())
        try:
            until(up.ready, "ready")
            assert send(up, 0, 50) == 202
            until(lambda: count(up) == 50, "50 orders")
            layers = {name: process.pid for name, process in up.layers().items()}
            ballast = filled(place)
            until(lambda: send(up, 50, 2_000) == 507, "refused")
            time.sleep(4)
            assert {name: process.pid for name, process in up.layers().items()} == layers
            assert post(up.port, "/v1/models/risk/score", ROW)[0] == 200
            for layer in ("compute", "ingest", "sync"):
                up.kill(layer)
            time.sleep(5)
            assert up.process.poll() is None, up.said()
            assert count(up) >= 50
            ballast.unlink()
            until(lambda: send(up, 10_000, 50) == 202, "taken again")
            end = sum(at for _, at in ms.Project(place).parts.log.ends("orders"))
            until(lambda: count(up) == end, f"all {end} orders")
            ballast = filled(place)
            assert up.stop() == 0
            with together(partial(_give_room, ballast)):
                up.start()  # which returns when the layers run
            assert up.starts == 2, up.said()
            until(up.ready, "ready again")
            until(lambda: count(up) == end, f"all {end} orders again")
        finally:
            up.stop()
