"""Peak memory of verifying 500 served vectors over a history of a million events and of ten, beside loading the rows.

Fair: each measurement is a process of its own, and counts what it takes beyond what it held before: ours reads the
captures, finds the events of their keys in the archive and recomputes every value; PyArrow reads the archive's Parquet
files into a table, and no more. Every recomputed value must be the one that was served.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import lightgbm
import numpy as np

import millstream as ms
from benchmarks.harness import Claim, Scale
from benchmarks.world import NOW, PAYMENTS, USER, payments
from millstream.clock import FileClock

SERVED = 500
GROUP = ms.StreamFeatureGroup(
    "spending",
    entity=USER,
    source=PAYMENTS,
    features=[ms.Count(over=["1h", "24h"]), ms.Sum("amount", over="24h"), ms.Count()],
)
VIEW = ms.FeatureView("spending", request={}, features=[GROUP])
LABEL = ms.Label(PAYMENTS, "amount", on="user_id", after="1h")
MEASURE = """
import json, sys
from pathlib import Path
def held(what):
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what)]
    return int(line.split()[1]) / 1024
def begin():
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    return held("VmRSS")
"""
OURS = """
import millstream as ms
project = ms.Project(sys.argv[1])
project.verify(sample=1)  # what the process needs of libraries and compiled code
before = begin()
found = project.verify(sample=int(sys.argv[2]))
assert found.mismatches == 0 and found.requests == int(sys.argv[2]), found
print(json.dumps(held("VmHWM") - before))
"""
THEIRS = """
import pyarrow.parquet as pq
import pyarrow as pa
files = sorted(Path(sys.argv[1]).glob(".millstream/offline/warehouse/events/*/data/**/*.parquet"))
pq.ParquetFile(files[0]).read(columns=["amount"]).slice(0, 1)
before = begin()
table = pa.concat_tables([pq.ParquetFile(file).read() for file in files])
print(json.dumps(held("VmHWM") - before))
"""


def run(scale: Scale) -> Iterator[Claim]:
    """Measure both histories, in turns with the peer."""
    for rows in (scale.of(1_000_000), scale.of(10_000_000)):
        with tempfile.TemporaryDirectory() as folder:
            served = made(Path(folder), rows)
            ours, theirs = [], []
            for _ in range(min(scale.repeats, 3)):
                ours.append(measured(OURS, folder, served))
                theirs.append(measured(THEIRS, folder, served))
        yield Claim(
            f"verify {served} of a history of {rows:,} events", "MiB", ours, theirs, "PyArrow, loading its rows",
            target=3.0 if scale.share >= 1 and rows > 5_000_000 else None,
        )  # fmt: skip


def made(folder: Path, rows: int) -> int:
    """A project with an archived history and some served vectors; how many of them."""
    data = folder / ".millstream"
    data.mkdir()
    FileClock(data / "clock.json").set(NOW, rate=0.0)
    project = ms.Project(folder, create=True)
    project.apply(ms.Model("spending", view=VIEW, examples="captures", label=LABEL))
    users = max(20, rows // 50)
    events = payments(rows, users, days=1.0)
    for start in range(0, rows, 500_000):
        project.load(PAYMENTS, events.slice(start, 500_000))
    project.backfill()
    drawn = np.random.default_rng(1).random((200, len(VIEW.columns)))
    fitted = lightgbm.Dataset(drawn, (drawn[:, 0] > 0.5).astype(int), feature_name=list(VIEW.columns))
    project.register("spending", lightgbm.train({"objective": "binary", "verbose": -1}, fitted, num_boost_round=2))
    project.deploy("spending")
    served = min(SERVED, users)
    project.score("spending", [{"user_id": user} for user in range(served)])
    project.sync()
    log = project.parts.log
    for partition, (_, end) in enumerate(log.ends(PAYMENTS.name)):
        log.trim(PAYMENTS.name, partition, end)  # as retention does
    project.close()
    return served


def measured(code: str, folder: str, served: int) -> float:
    """The memory (MiB) that a process took for what it did."""
    found = subprocess.run(
        [sys.executable, "-c", MEASURE + code, folder, str(served)], capture_output=True, text=True, check=True
    )  # fmt: skip
    return float(max(json.loads(found.stdout), 0.1))
