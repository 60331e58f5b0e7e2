"""Memory after some events and after four times as many, beside a process that only reads the same records.

Fair: each is a process of its own that takes the same events of the same keys, a thousand a second by its clock, into its
own log, and forgets what its log need not keep. Ours computes, ingests and archives them; the peer reads them, and no
more. Counted is what psutil calls RSS less the pages of files, which the kernel takes back when it wants: the log and
the stores are mapped.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.compute as pc

import millstream as ms
from benchmarks.harness import Claim, Scale
from benchmarks.world import DAY, NOW, SCHEMA, SECOND, USER, payments
from millstream.clock import FileClock
from millstream.ingest.retention import trim

EACH, RATE, USERS = 5_000, 1_000, 2_000
ARCHIVE = 10  # micro-batches between two commits to the archive
PAYMENTS = ms.EventStream(
    "payments", time="paid_at", schema=SCHEMA, partitions=1, retention="1m", deduplicate="payment_id", within="20s"
)
PEER = "reading the same records"
OVER = ["5s", "30s"]  # full before anything is counted
GROUP = ms.StreamFeatureGroup(
    "spending",
    entity=USER,
    source=PAYMENTS,
    features=[ms.Count(over=OVER), ms.Sum("amount", over=OVER), ms.Max("amount", over=OVER), ms.Sum("amount")],
)
VIEW = ms.FeatureView("spending", request={}, features=[GROUP])


class Site:
    """A project whose clock goes on with the events it takes."""

    def __init__(self, folder: Path) -> None:
        self._data, self.taken = folder / ".millstream", 0
        self._data.mkdir(parents=True)
        self._tick()
        self.project = ms.Project(folder, create=True)
        self.project.apply(VIEW)
        self.project.backfill()

    def _tick(self) -> int:
        now = NOW + self.taken * SECOND // RATE
        FileClock(self._data / "clock.json").set(now, rate=0.0)
        return now

    def take(self) -> None:
        """Append the next events to the log."""
        events = payments(EACH, USERS, days=(EACH / RATE + 1) * SECOND / DAY, seed=self.taken)
        ids = pa.array([f"{self.taken + number}" for number in range(EACH)])
        self.taken += EACH
        late = pa.scalar(self._tick() - NOW, pa.duration("us"))
        times = pc.add(events["paid_at"], late)
        self.project.send(PAYMENTS, events.set_column(0, "payment_id", ids).set_column(5, "paid_at", times))


def ours(site: Site) -> Callable[[], None]:
    """What computes, ingests and archives all that there is."""
    parts = site.project.parts
    computer, ingester, archiver = parts.layers.computer(), parts.layers.ingester(), parts.layers.archiver()

    def work() -> None:
        while computer.step().records:
            pass
        while ingester.step().records:
            pass
        if site.taken // EACH % ARCHIVE == 0:
            archiver.step()
            trim(parts)

    return work


def theirs(site: Site) -> Callable[[], None]:
    """What reads all that there is, and lets the log forget it a minute later."""
    log, position = site.project.parts.log, 0

    def work() -> None:
        nonlocal position
        while len(records := log.read(PAYMENTS.name, 0, position, EACH)):
            position = records.next
        log.trim(PAYMENTS.name, 0, max(0, position - 60 * RATE))

    return work


def lived(side: str, folder: str, events: int) -> None:
    """Print the memory (MiB), with the pages of files and without, after the events and after four times as many."""
    site, found = Site(Path(folder)), []
    work = {"ours": ours, "theirs": theirs}[side](site)
    for goal in (events, 4 * events):
        while site.taken < goal:
            site.take()
            work()
        gc.collect()
        held = psutil.Process().memory_info()
        found.append(((held.rss - held.shared) / 2**20, held.rss / 2**20))
    print(json.dumps(found))


def run(scale: Scale) -> Iterator[Claim]:
    """Each side once; at full size an hour at a thousand events a second."""
    events = scale.of(900_000, least=2 * EACH)
    mine, peer = _measured("ours", events), _measured("theirs", events)
    for count, (own, whole), (least, _) in zip((events, 4 * events), mine, peer, strict=True):
        name, note = f"after {count:,} events of {USERS:,} keys", f"{whole:,.0f} MiB with the pages of files"
        yield Claim(name, "MiB", [own], [least], PEER, note=note)
    growth, least = (some[1][0] / some[0][0] for some in (mine, peer))
    target = 0.8 if scale.share >= 1 else None  # before some hundred steps, libraries still take what they keep
    yield Claim("growth while events become four times as many", "x", [growth], [least], PEER, target=target)


def _measured(side: str, events: int) -> list[list[float]]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.memory", side, folder, str(events)]
        home = Path(__file__).parents[1]
        said = subprocess.run(command, cwd=home, capture_output=True, text=True, check=True).stdout
    found: list[list[float]] = json.loads(said)
    return found


if __name__ == "__main__":
    lived(sys.argv[1], sys.argv[2], int(sys.argv[3]))
