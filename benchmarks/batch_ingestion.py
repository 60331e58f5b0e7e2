"""Rows per second that ingestion takes from runs of a batch group into both stores, beside raw LMDB putting the same bytes.

Fair: the same states in the same transactions of the same durability. Ours also reads the run from the log, compares
it with what is there, finds keys that vanished, and appends what is new to the Iceberg table; raw LMDB only writes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import lmdb
import numpy as np
import pyarrow as pa

import millstream as ms
from benchmarks.harness import Claim, Scale, in_turns, seconds
from benchmarks.ingestion import Items, Recording
from benchmarks.world import NOW, USER
from millstream.buffer.embedded.log import EmbeddedLog
from millstream.buffer.log import Batch
from millstream.buffer.staging import Run, encode_run
from millstream.buffer.topics import staging_topic
from millstream.clock import SimulatedClock
from millstream.definitions.group_version import GroupVersion
from millstream.ingest.batch import BatchIngester
from millstream.store.iceberg.store import IcebergOfflineStore
from millstream.store.lmdb.store import LmdbOnlineStore

DAY = 86_400_000_000
COLUMNS = {"user_id": "int64", "tier": "string", "credit": "float64", "changed": "timestamp"}
ACCOUNTS = ms.Table("accounts", path="accounts.parquet", schema=COLUMNS)
DATED = ms.Table("accounts", path="accounts.parquet", time="changed", schema=COLUMNS)
SNAPSHOT = {"sources": [ACCOUNTS], "query": "select user_id, tier, credit from accounts"}
ROWS = {"sources": [DATED], "query": "select user_id, changed, tier, credit from accounts", "time": "changed"}
KINDS = {"snapshots": SNAPSHOT, "dated rows": ROWS, "dated rows with a ttl": {**ROWS, "ttl": "48h"}}


class Days:
    """Two runs of a batch group, a day apart: every tenth row has other values in the second, few are gone."""

    def __init__(self, folder: Path, rows: int, kind: str) -> None:
        self._folder, self._places = folder, count()
        self._version = GroupVersion(ms.BatchFeatureGroup("kyc", entity=USER, every="24h", **KINDS[kind]), 1)
        self._runs = [encode_run(_day(rows, day, kind == "snapshots")) for day in range(2)]

    def ingest(self, store: LmdbOnlineStore) -> list[float]:
        """Ingest both runs, one after the other, into empty stores; the seconds each took."""
        place, clock = self.place(), SimulatedClock(NOW)
        log = EmbeddedLog(place / "log", clock, map_gib=4)
        log.create(staging_topic(self._version.id), 1)
        ingester = BatchIngester(log, store, IcebergOfflineStore(place / "offline"), [self._version], clock)
        taken = []
        for payload in self._runs:
            log.append(staging_topic(self._version.id), 0, Batch(payload, "bytes", 1))
            taken.append(seconds(ingester.flush))
            clock.advance(DAY)
        log.close()
        return taken

    def place(self) -> Path:
        """A new folder."""
        place = self._folder / str(next(self._places))
        place.mkdir()
        return place

    def put(self, writes: list[tuple[int, Items]]) -> float:
        """Put the same states with LMDB alone, as durably; the seconds it took."""
        place = self.place()
        with ExitStack() as stack:
            files = {}
            for shard in {shard for shard, _ in writes}:
                (place / str(shard)).mkdir()
                options = {"map_size": 4 << 30, "metasync": False}
                files[shard] = stack.enter_context(lmdb.open(str(place / str(shard)), **options))

            def work() -> None:
                for shard, items in writes:
                    with files[shard].begin(write=True) as rows, rows.cursor() as cursor:
                        cursor.putmulti(items)

            return seconds(work)


def _day(rows: int, day: int, snapshot: bool) -> Run:
    """What the group's query returns on a day."""
    end = NOW + day * DAY
    users = np.arange(rows) if day == 0 else np.arange(rows // 100, rows + rows // 100)
    other = (users % 10 == 0) & (day == 1)
    event = np.full(rows, end) if snapshot else NOW - DAY - users + other * DAY
    columns = {
        "user_id": users,
        "event_time": event,
        "available_time": np.full(rows, end),
        "tier": pa.array(np.char.add("tier ", (users % 7 + other).astype(str))),
        "credit": users * 1.5,
    }
    return Run(end - DAY, end, end, snapshot, pa.table(columns))


def run(scale: Scale) -> Iterator[Claim]:
    """The first run, all of which is written, and the next, of which little is."""
    rows = scale.of(200_000, least=500)
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            days = Days(Path(folder), rows, kind)
            recorded = Recording(days.place())
            days.ingest(recorded)
            shards = len({shard for shard, _ in recorded.writes})
            for day, name in enumerate(("the first run", "the next run")):
                writes = [write for write in recorded.writes[day * shards : (day + 1) * shards] if write[1]]
                written = sum(len(items) for _, items in writes)
                ours, theirs = in_turns(
                    lambda: rows / days.ingest(LmdbOnlineStore(days.place()))[day],  # noqa: B023
                    lambda: written / days.put(writes),  # noqa: B023
                    min(scale.repeats, 3),
                )
                peer, note = "raw LMDB, the states written", f"{written:,} states written"
                yield Claim(f"{kind}: {name}", "rows/s", ours, theirs, peer, "higher", None, note)
