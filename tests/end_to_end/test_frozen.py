"""Frozen processes: each layer of `up` stopped by SIGSTOP, under a supervisor that lives and under one that died."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from tests.end_to_end import shop
from tests.end_to_end.running import Up, ask, post, until

import millstream as ms
from millstream.testing.servers.ports import free_port

pytestmark = pytest.mark.slow


def send(up: Up, first: int, n: int) -> None:
    rows = shop.orders(range(first, first + n), time.time_ns() // 1_000, seed=7)
    assert post(up.port, "/v1/streams/orders/events", [{**row, "user_id": 3} for row in rows])[0] == 202


def count(up: Up) -> int:
    status, answer = ask(up.port, "GET", "/v1/views/risk/features?user_id=3&shop=shop-1")
    return int(answer["features"]["spending__count"] or 0) if status == 200 else -1


def test_frozen_layers_lose_nothing_whether_their_supervisor_lives_or_dies(tmp_path: Path) -> None:
    shop.write_project(tmp_path)
    settings = tmp_path / "millstream.toml"
    settings.write_text(settings.read_text() + 'frozen_after = "3s"\n')
    with contextlib.closing(ms.Project(tmp_path)) as project:
        project.apply()
        shop.deploy_model(project)
    up = Up(tmp_path, free_port())
    try:
        until(up.ready, "ready")
        send(up, 0, 50)
        until(lambda: count(up) == 50, "50 orders")
        layers = until(lambda: found if len(found := up.layers()) == 6 else None, "six layers")
        for process in layers.values():
            process.send_signal(signal.SIGSTOP)
        until(lambda: up.said().count("was stopped") == 6, "all layers going on")
        send(up, 50, 50)
        until(lambda: count(up) == 100, "100 orders")
        frozen = until(lambda: found if len(found := up.layers()) == 6 else None, "six layers")
        for process in frozen.values():
            os.kill(process.pid, signal.SIGSTOP)
        up.kill("up")
        up.start()
        until(up.ready, "ready again")
        assert "Ended what an `up` that died had left behind" in up.said()
        assert not any(
            process.is_running() and process.status() == psutil.STATUS_STOPPED for process in frozen.values()
        )
        send(up, 100, 50)
        until(lambda: count(up) == 150, "150 orders")
    finally:
        assert up.stop() == 0
