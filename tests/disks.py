"""Disks for tests: a real one, to wait for, and small ones, so that they can be full."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

REAL = Path("/var/tmp")


@pytest.fixture
def on_disk() -> Iterator[Path]:
    """A temporary folder that is not in memory, whatever the others are."""
    with tempfile.TemporaryDirectory(dir=REAL if REAL.is_dir() else None, ignore_cleanup_errors=True) as folder:
        place = Path(folder) / "project"
        place.mkdir()
        yield place


@contextmanager
def disk(place: Path, mebibytes: int) -> Iterator[Path]:
    """A file system of its own at a place; the test is skipped where none can be mounted."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(place)]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path, left: int = 0) -> Path:
    """Leave so many bytes on a small disk; returns the file that takes the others."""
    ballast = place / "ballast"
    ballast.touch()
    room = os.statvfs(place)
    more = room.f_bavail * room.f_frsize - left
    if more > 0:
        with open(ballast, "r+b") as file:
            os.posix_fallocate(file.fileno(), ballast.stat().st_size, more)
    return ballast
