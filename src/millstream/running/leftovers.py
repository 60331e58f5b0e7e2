"""The layers that an `up` which died has left behind: written down while they run, found and ended by the next `up`."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from millstream.settings import Settings

PATIENCE = 5.0
"""Seconds that a layer left behind has to stop by itself."""
_LENGTH = 4096
"""Bytes of the file, all taken when it is made: later it is written on a full disk too."""


def note(settings: Settings, running: Mapping[str, int]) -> None:
    """Write down which processes run the layers; what cannot be written on a full disk is left out."""
    born = {layer: (pid, _born(pid)) for layer, pid in running.items()}
    text = json.dumps({"folder": str(settings.folder), "layers": born}).ljust(_LENGTH)
    with suppress(OSError):
        _path(settings).parent.mkdir(parents=True, exist_ok=True)
        file = os.open(_path(settings), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.pwrite(file, text.encode(), 0)
        finally:
            os.close(file)


def end_leftovers(settings: Settings, say: Callable[[str], None]) -> None:
    """End the layers of this project that a dead `up` has left behind, frozen ones too; call it under the lock of `up`.

    A process is ended only if it is the one that was written down: of that id, born at that moment, and running that
    layer of this folder.
    """
    left = {
        layer: found for layer, (pid, born) in _noted(settings).items() if (found := _same(settings, layer, pid, born))
    }
    if not left:
        return
    for process in left.values():
        _signal(process, signal.SIGTERM)
        _signal(process, signal.SIGCONT)
    end = time.monotonic() + PATIENCE
    for process in left.values():
        if not _gone(process, end):
            _signal(process, signal.SIGKILL)
            _gone(process, time.monotonic() + PATIENCE)
    named = ", ".join(f"{layer} (process {process.pid})" for layer, process in left.items())
    say(f"Ended what an `up` that died had left behind: {named}.")


def _noted(settings: Settings) -> dict[str, tuple[int, float]]:
    try:
        noted = json.loads(_path(settings).read_text(encoding="utf-8"))
        if noted["folder"] != str(settings.folder):  # copied with the folder from another project, whose layers may run
            return {}
        return {layer: (int(pid), float(born)) for layer, (pid, born) in noted["layers"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _same(settings: Settings, layer: str, pid: int, born: float) -> psutil.Process | None:
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        line = process.cmdline()
        runs = [layer, "--project", str(settings.folder)]
        if _born(pid) == born and any(line[at : at + 3] == runs for at in range(len(line))):
            return process
    return None


def _born(pid: int) -> float:
    """When a process began: in ticks since the machine started, where it says so, for those no clock can move."""
    with suppress(OSError, IndexError, ValueError):
        return float(
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
        )
    with suppress(psutil.Error):
        return float(round(psutil.Process(pid).create_time()))
    return 0.0


def _signal(process: psutil.Process, number: int) -> None:
    with suppress(psutil.Error):
        process.send_signal(number)  # which looks whether it is still the same process


def _gone(process: psutil.Process, end: float) -> bool:
    while time.monotonic() < end:
        try:
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.Error:
            return True
        time_left = max(0.0, min(0.05, end - time.monotonic()))
        with suppress(psutil.Error):
            process.wait(time_left)
    return False


def _path(settings: Settings) -> Path:
    return settings.data / "run" / "layers.json"
