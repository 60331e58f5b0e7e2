"""A layer's process as `up` holds it: one that is frozen is told to go on, and ended if it does not."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from millstream.running.leftovers import end_leftovers, note
from millstream.running.supervised import Supervised, stop_all
from millstream.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "millstream.toml").write_text('name = "shop"\nfrozen_after = "2s"\n')
    (tmp_path / "features.py").write_text("")
    return Settings.load(tmp_path)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def layer(settings: Settings, said: list[str]) -> Iterator[Supervised]:
    process = Supervised(settings, "batch", said.append)
    try:
        watched(process, lambda: "started" in (settings.data / "run" / "batch.out").read_text())
        yield process
    finally:
        stop_all([process])


def watched(process: Supervised, condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        process.watch()
        time.sleep(0.05)


def test_a_layer_that_was_stopped_is_told_to_go_on(layer: Supervised, said: list[str]) -> None:
    pid = layer.pid
    os.kill(pid, signal.SIGSTOP)
    watched(layer, lambda: bool(said))
    assert said == [f"batch was stopped (process {pid}) and goes on."]
    assert psutil.Process(pid).status() != psutil.STATUS_STOPPED
    assert layer.restarts == 0


def test_a_layer_that_stays_frozen_is_ended_and_started_again(layer: Supervised, said: list[str]) -> None:
    pid, over = layer.pid, threading.Event()

    def freeze() -> None:
        while not over.wait(0.001):
            try:
                os.kill(pid, signal.SIGSTOP)
            except ProcessLookupError:
                return

    freezing = threading.Thread(target=freeze)
    freezing.start()
    try:
        watched(layer, lambda: layer.restarts == 1)
    finally:
        over.set()
        freezing.join()
    assert said[-1:] == [f"batch (process {pid}) gave no sign of life for 2 s; ended it and starting it again."]
    assert layer.pid != pid


def test_a_layer_that_works_or_waits_is_left_alone(layer: Supervised, said: list[str]) -> None:
    pid, end = layer.pid, time.monotonic() + 3.5
    watched(layer, lambda: time.monotonic() > end)
    assert (layer.pid, said) == (pid, [])


def left_behind(settings: Settings) -> subprocess.Popen[bytes]:
    """A layer whose supervisor is gone, without a way to notice."""
    command = [sys.executable, "-m", "millstream", "run", "batch", "--project", str(settings.folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while "batch" not in psutil.Process(process.pid).cmdline():  # for a moment it still has that of the tests
        time.sleep(0.001)
    return process


@pytest.mark.parametrize("frozen", [False, True])
def test_layers_that_a_dead_up_left_behind_are_ended(settings: Settings, said: list[str], frozen: bool) -> None:
    process = left_behind(settings)
    try:
        note(settings, {"batch": process.pid})
        if frozen:
            os.kill(process.pid, signal.SIGSTOP)
        end_leftovers(settings, said.append)
        assert said == [f"Ended what an `up` that died had left behind: batch (process {process.pid})."]
        assert process.wait(1) is not None
    finally:
        process.kill()
        process.wait()


def test_no_process_but_the_one_written_down_is_ended(settings: Settings, said: list[str], tmp_path: Path) -> None:
    mine = os.getpid()
    note(settings, {"batch": mine})
    end_leftovers(settings, said.append)
    process = left_behind(settings)
    try:
        record = settings.data / "run" / "layers.json"
        note(settings, {"batch": process.pid})
        kept = record.read_text()
        record.write_text(kept.replace(str(settings.folder), "/elsewhere"))  # a copied folder
        end_leftovers(settings, said.append)
        record.write_text(kept.replace(f"[{process.pid}, ", f"[{process.pid}, 1"))  # the number came round again
        end_leftovers(settings, said.append)
        record.write_text("{")
        end_leftovers(settings, said.append)
        assert (said, process.poll()) == ([], None)
    finally:
        process.kill()
        process.wait()
