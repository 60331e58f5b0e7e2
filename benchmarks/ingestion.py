"""Keys per second that ingestion merges into the online store, beside raw LMDB putting the same bytes.

Fair: the same states, in the same order, in as many transactions of the same durability. Ours also reads the deltas from
the log, reads each key's old state, merges, and compares and moves positions; raw LMDB only writes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import lmdb

import millstream as ms
from benchmarks.harness import Claim, Scale, in_turns, seconds
from benchmarks.world import NOW, PAYMENTS, USER, payments
from millstream.buffer.embedded import EmbeddedLog
from millstream.buffer.events import encode
from millstream.clock import SimulatedClock
from millstream.computing.start import start_version
from millstream.computing.stream import StreamComputer
from millstream.ingest.stream import StreamIngester
from millstream.store.lmdb import LmdbOnlineStore
from millstream.store.online import ShardMeta
from millstream.store.plan import GroupVersion

BATCH = 20_000
Items = list[tuple[bytes, bytes | None]]


class Recording(LmdbOnlineStore):
    """The store, keeping what is written to it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.writes: list[Items] = []

    def write(
        self, gv: str, shard: int, items: Sequence[tuple[bytes, bytes | None]], meta: ShardMeta, expected: int | None
    ) -> None:
        """Write, and keep the items."""
        self.writes.append(list(items))
        super().write(gv, shard, items, meta, expected)


class Ingestion:
    """A log whose feature topic holds the deltas of some payments."""

    def __init__(self, folder: Path, rows: int, users: int) -> None:
        self._folder, self._clock, self._runs = folder, SimulatedClock(NOW), 0
        self._log = EmbeddedLog(folder / "log", self._clock, map_gib=16)
        self._log.create(PAYMENTS.name, 1)
        over = ["1h", "24h"]
        features = [ms.Count(over=over), ms.Sum("amount", over=over), ms.Max("amount", over=over)]
        group = ms.StreamFeatureGroup("spending", entity=USER, source=PAYMENTS, features=features)
        self._version = GroupVersion(group, 1, shards=1)
        start_version(self._log, self._version, [PAYMENTS], self._clock, at="zero")
        events = payments(rows, users, days=1.0)
        for start in range(0, rows, BATCH):
            for batch in encode(PAYMENTS, events.slice(start, BATCH)):
                self._log.append(PAYMENTS.name, 0, batch)
        with StreamComputer(
            self._log, [PAYMENTS], [self._version], self._clock, data=folder / "data", micro_batch=BATCH
        ) as computer:
            while computer.step().records:
                pass
        store = Recording(folder / "recorded")
        self._ingest(store)
        self.writes = store.writes

    def _ingest(self, store: LmdbOnlineStore) -> int:
        ingester, keys = StreamIngester(self._log, store, [self._version], self._clock), 0
        while (done := ingester.step()).records:
            keys += done.keys
        return keys

    def ours(self) -> float:
        """Ingest everything into an empty store: keys merged per second."""
        self._runs += 1
        store, found = LmdbOnlineStore(self._folder / f"store{self._runs}"), list[int]()
        taken = seconds(lambda: found.append(self._ingest(store)))
        return found[0] / taken

    def raw(self) -> float:
        """Put the same states with LMDB alone: keys per second."""
        self._runs += 1
        path = self._folder / f"raw{self._runs}"
        env = lmdb.open(str(path), map_size=16 << 30, metasync=False)
        writes = [sorted((key, value or b"") for key, value in items) for items in self.writes]

        def put() -> None:
            for items in writes:
                with env.begin(write=True) as rows, rows.cursor() as cursor:
                    cursor.putmulti(items)

        taken = seconds(put)
        env.close()
        return sum(map(len, writes)) / taken


def run(scale: Scale) -> Iterator[Claim]:
    """Deltas of payments, folded in micro-batches, into an empty store."""
    with tempfile.TemporaryDirectory() as folder:
        world = Ingestion(Path(folder), scale.of(400_000, least=1_000), scale.of(50_000, least=100))
        ours, theirs = in_turns(world.ours, world.raw, scale.repeats)
        sizes = [len(value or b"") for items in world.writes for _, value in items]
        note = f"states of {sum(sizes) / len(sizes):,.0f} bytes"
        yield Claim("deltas into states", "keys/s", ours, theirs, "raw LMDB", "higher", 1 / 3, note)
