"""What the 50th and the 800th sync take and how many files they leave, beside raw PyIceberg appending the same rows.

Fair: the same rows in as many commits to the same two tables (the archive and the values of a group), ten seconds apart.
Ours also reads the log and the online store, keeps positions, waits for the disk, notes the sum of every file, compacts
and sweeps; raw PyIceberg only appends.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pyiceberg.catalog.sql import SqlCatalog

import millstream as ms
from benchmarks.harness import Claim, Scale, seconds
from benchmarks.world import NOW, PAYMENTS, SECOND, USER, payments
from millstream.clock import FileClock

OVER = ["1h", "24h"]
GROUP = ms.StreamFeatureGroup(
    "spending", entity=USER, source=PAYMENTS, features=[ms.Count(over=OVER), ms.Sum("amount", over=OVER)]
)
VIEW = ms.FeatureView("spending", request={}, features=[GROUP])
TABLES = ("events.payments", "features.spending@1")
EACH, NEAR = 100, 10


class Site:
    """A project that takes some payments and syncs, every ten seconds by its clock."""

    def __init__(self, folder: Path) -> None:
        self._data, self._now = folder / ".millstream", NOW
        self._data.mkdir(parents=True)
        self._tick()
        self.project = ms.Project(folder, create=True)
        self.project.apply(VIEW)
        self.project.backfill()

    def _tick(self) -> None:
        self._now += 10 * SECOND
        FileClock(self._data / "clock.json").set(self._now, rate=0.0)

    def sync(self, number: int) -> float:
        """Take payments, then sync; the seconds of the sync."""
        self._tick()
        self.project.send(PAYMENTS, payments(EACH, EACH, days=1.0, seed=number))
        self.project.drain()
        return seconds(self.project.sync)

    def rows(self) -> list[pa.Table]:
        """The rows of one sync, by table."""
        return [self.project.parts.offline.scan(table).slice(0, EACH) for table in TABLES]


class Raw:
    """Tables of PyIceberg, with its own file access and its defaults."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        catalog = SqlCatalog("raw", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}")
        catalog.create_namespace("raw")
        self._catalog = catalog

    def append(self, rows: list[pa.Table]) -> float:
        """Append to both tables; the seconds that it takes."""
        begun = time.perf_counter()
        for number, some in enumerate(rows):
            self._catalog.create_table_if_not_exists(("raw", f"table_{number}"), some.schema).append(some)
        return time.perf_counter() - begun


def files(folder: Path) -> int:
    """The files in a folder and those below it."""
    return sum(one.is_file() for one in folder.rglob("*"))


def run(scale: Scale) -> Iterator[Claim]:
    """Sync and append in turns, from the first to the last."""
    last = scale.of(800, least=12)
    early = min(50, last // 2)
    with tempfile.TemporaryDirectory() as place:
        site, raw = Site(Path(place) / "site"), Raw(Path(place) / "raw")
        ours = [site.sync(0)]
        rows = site.rows()
        theirs = [raw.append(rows)]
        for number in range(1, last):
            ours.append(site.sync(number))
            theirs.append(raw.append(rows))
        left = files(Path(place) / "site" / ".millstream" / "offline"), files(Path(place) / "raw")
        site.project.close()
    for at in (early, last):
        yield Claim(
            f"a sync, near the {at}th", "ms", _near(ours, at), _near(theirs, at), "pyiceberg", note="two tables"
        )
    growth = [statistics.median(_near(some, last)) / statistics.median(_near(some, early)) for some in (ours, theirs)]
    yield Claim(f"growth from the {early}th to the {last}th", "x", growth[:1], growth[1:], "pyiceberg")
    yield Claim(f"files after {last}", "files", [left[0]], [left[1]], "pyiceberg", note="of the last ten minutes, too")


def _near(taken: list[float], at: int) -> list[float]:
    """The milliseconds of those that end at a number."""
    return [1e3 * one for one in taken[max(0, at - NEAR) : at]]
