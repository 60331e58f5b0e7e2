"""`millstream run intake` is killed again and again while files grow: every line is there once."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
from tests.unit.project.test_bound_streams import BINDING, VIEW, rows

import millstream as ms
from millstream.buffer.lag import records_ever

KILLS = 3


def run_intake(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "millstream", "run", "intake", "--project", str(folder)])


def test_every_line_is_taken_in_once_though_intake_is_killed(tmp_path: Path):
    (tmp_path / "millstream.toml").write_text(BINDING)
    (tmp_path / "incoming").mkdir()
    with ms.Project(tmp_path) as project:
        project.apply(VIEW)
        written = 0
        for kill in range(KILLS):
            process = run_intake(tmp_path)
            before, until = records_ever(project.parts.log, "payments"), time.monotonic() + 30
            while time.monotonic() < until:
                with (tmp_path / "incoming" / f"{kill % 3}.jsonl").open("ab") as file:
                    for row in rows(written, 20):
                        file.write(msgspec.json.encode(row) + b"\n")
                written += 20
                time.sleep(0.01 + 0.003 * kill)
                if records_ever(project.parts.log, "payments") > before:
                    break
            process.send_signal(signal.SIGKILL)
            process.wait()
        project.drain()
        assert records_ever(project.parts.log, "payments") == written  # the history leaves out what is there twice
        events = project.parts.history().read(project.parts.registry.stream("payments"))
        assert sorted(events["id"].to_pylist()) == sorted(f"p{n}" for n in range(written))
