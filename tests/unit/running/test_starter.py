"""Processes begun as forks of one that has loaded everything: their own in all that counts, whatever becomes of it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from millstream.running import starter as module
from millstream.running.starter import Process, Starter
from millstream.running.supervised import Supervised, stop_all
from millstream.settings import Settings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each process loads everything by itself")


@pytest.fixture(scope="module")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    with Starter(tmp_path_factory.mktemp("starter") / "starter.out") as starter:
        yield starter


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "millstream.toml").write_text('name = "shop"\n')
    (tmp_path / "features.py").write_text("")
    return Settings.load(tmp_path)


def begun(starter: Starter, folder: Path, *command: str) -> tuple[Process, socket.socket]:
    """A process, and what it listens to."""
    ear, mouth = socket.socketpair()
    with mouth, (folder / "said").open("ab") as output:
        return starter.begin(command, mouth.fileno(), output), ear


def running(starter: Starter, settings: Settings) -> tuple[Process, socket.socket]:
    """The layer of batch runs, once it says that it has started."""
    process, ear = begun(starter, settings.folder, "run", "batch", "--project", str(settings.folder), "--supervised")
    end = time.monotonic() + 60
    while "started" not in (settings.folder / "said").read_text():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    return process, ear


def itself(starter: Starter) -> Any:
    """The process of the starter."""
    return starter._process


def test_a_process_ends_with_its_code_and_says_why(starter: Starter, tmp_path: Path) -> None:
    process, ear = begun(starter, tmp_path, "run", "nonsense", "--project", str(tmp_path))
    with ear:
        assert process.wait(60) == 1
    assert (tmp_path / "said").read_text().startswith("Error: ")


def test_a_process_has_a_session_and_a_command_line_of_its_own(starter: Starter, settings: Settings) -> None:
    process, ear = running(starter, settings)
    with ear:
        shown = psutil.Process(process.pid)
        wanted = ["-m", "millstream", "run", "batch", "--project", str(settings.folder), "--supervised"]
        assert shown.cmdline()[1 : 1 + len(wanted)] == wanted
        assert shown.ppid() == itself(starter).pid
        assert os.getsid(process.pid) == process.pid
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
        process.kill()  # of one that has ended is nothing


def test_a_process_that_is_told_to_stop_says_no_more_than_that(starter: Starter, settings: Settings) -> None:
    process, ear = running(starter, settings)
    with ear:
        process.terminate()
        assert process.wait(60) == 0
    assert (settings.folder / "said").read_text().splitlines() == ["batch: started", "batch: stopped"]


def test_a_process_stops_when_nobody_is_left_to_hear_it(starter: Starter, settings: Settings) -> None:
    process, ear = running(starter, settings)
    ear.close()
    assert process.wait(60) == 0


def test_what_runs_goes_on_without_the_starter_and_the_next_begins_with_another(settings: Settings) -> None:
    with Starter(settings.folder / "starter.out") as starter:
        first, ear = running(starter, settings)
        before = itself(starter)
        os.kill(before.pid, signal.SIGKILL)
        before.wait()
        with pytest.raises(subprocess.TimeoutExpired):
            first.wait(0.5)
        (settings.folder / "said").write_text("")
        second, other_ear = running(starter, settings)
        assert first.poll() is None
        first.terminate()
        assert first.wait(60) == 1  # nobody has learnt that it was 0
        ear.close()
        other_ear.close()
        assert second.wait(60) == 0


def test_a_starter_that_does_not_answer_is_done_without(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with Starter(settings.folder / "starter.out") as starter:
        first, ear = running(starter, settings)
        os.kill(itself(starter).pid, signal.SIGSTOP)
        monkeypatch.setattr(module, "BEGINS", 0.5)
        (settings.folder / "said").write_text("")
        second, other_ear = running(starter, settings)
        assert isinstance(second, subprocess.Popen)
        for process in (first, second):
            process.terminate()
            process.wait(60)
        ear.close()
        other_ear.close()


def test_a_layer_is_started_again_by_the_starter(starter: Starter, settings: Settings) -> None:
    layer = Supervised(settings, "batch", lambda said: None, starter.begin)
    try:
        before = layer.pid
        os.kill(before, signal.SIGKILL)
        end = time.monotonic() + 60
        while layer.restarts == 0:
            assert time.monotonic() < end
            layer.watch()
            time.sleep(0.02)
        assert psutil.Process(layer.pid).ppid() == itself(starter).pid
        assert layer.pid != before
    finally:
        stop_all([layer])
