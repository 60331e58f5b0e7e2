"""Keys per second that ingestion merges into the online store, beside raw LMDB putting the same bytes.

Fair: the same states of the same keys, in the same order, in as many transactions of the same durability, into as many
files. Ours also reads the deltas from the log, reads each key's old state, merges, compares and moves positions, and
tells the log, durably too; raw LMDB only writes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import lmdb
import numpy as np
import pyarrow as pa

import millstream as ms
from benchmarks.harness import Claim, Scale, in_turns, seconds
from benchmarks.world import NOW, PAYMENTS, USER, payments
from millstream.buffer.codec.events import encode
from millstream.buffer.embedded.log import EmbeddedLog
from millstream.buffer.log import Batch
from millstream.clock import FileClock, SimulatedClock
from millstream.computing.start_markers import start_version
from millstream.computing.stream import StreamComputer
from millstream.definitions.group_version import GroupVersion
from millstream.fold import decode_deltas
from millstream.ingest.stream import StreamIngester
from millstream.registry.definitions import Registry
from millstream.store.lmdb.store import LmdbOnlineStore
from millstream.store.online import OnlineStore, ShardMeta
from millstream.testing.shards import pairs

OVER = ["1h", "24h"]
FEATURES = [ms.Count(over=OVER), ms.Sum("amount", over=OVER), ms.Max("amount", over=OVER)]
GROUP = ms.StreamFeatureGroup("spending", entity=USER, source=PAYMENTS, features=FEATURES)
Items = list[tuple[bytes, bytes]]


class Recording(LmdbOnlineStore):
    """The store, keeping what is written to each shard."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.writes: list[tuple[int, Items]] = []

    def write(
        self, states: str, shard: int, changes: Sequence[tuple[bytes, bytes]], meta: ShardMeta, expected: int | None
    ) -> Sequence[bytes]:
        """Write, and keep the changes."""
        self.writes.append((shard, list(changes)))
        return super().write(states, shard, changes, meta, expected)


class Deltas:
    """The delta records of some payments, to be ingested as they come or all at once."""

    def __init__(self, folder: Path, rows: int, users: int, batches: int) -> None:
        self._folder, self._clock, self._runs = folder, SimulatedClock(NOW), count()
        self._version = GroupVersion(GROUP, 1)
        self._topic = f"features.{self._version.id}"
        events, each = payments(rows, users, days=1.0), -(-rows // batches)
        times = events["paid_at"].cast("int64").to_numpy()
        log = self._log("computed")
        log.create(PAYMENTS.name, 1)
        marks = Registry(f"sqlite:///{self._folder / 'registry.db'}").marks
        start_version(log, marks, self._version, [PAYMENTS], self._clock, at="zero")
        for start in range(0, rows, each):
            part = events.slice(start, each)
            self._clock.set(int(times[start + len(part) - 1]))
            for batch in encode(PAYMENTS, part):
                log.append(PAYMENTS.name, 0, batch)
        with StreamComputer(log, [PAYMENTS], [self._version], self._clock, data=folder, micro_batch=each) as computer:
            while computer.step().records:
                pass
        shards = range(self._version.shards)
        self._records = [log.read(self._topic, shard, 0, 1 << 30).payloads for shard in shards]
        self.keys = sum(len(decode_deltas(record).keys) for records in self._records for record in records)
        log.close()

    def _log(self, name: str) -> EmbeddedLog:
        return EmbeddedLog(self._folder / name, self._clock, map_gib=16)

    def ingest(self, store: OnlineStore, at_once: int) -> float:
        """Ingest all records, so many of each shard at a time, into an empty store; the seconds ingestion took."""
        log, taken = self._log(f"log{next(self._runs)}"), 0.0
        log.create(self._topic, self._version.shards)
        ingester = StreamIngester(log, store, [self._version], self._clock)
        for start in range(0, len(self._records[0]), at_once):
            for shard, records in enumerate(self._records):
                for record in records[start : start + at_once]:
                    log.append(self._topic, shard, Batch(record, "bytes", 1))
            taken += seconds(lambda: _drain(ingester))
        log.close()
        return taken

    def place(self) -> Path:
        """Where a new store may be."""
        return self._folder / f"store{next(self._runs)}"

    def put(self, writes: Sequence[tuple[int, Items]]) -> float:
        """Put the same states with LMDB alone, as durably; the seconds it took."""
        return put(self._folder / f"raw{next(self._runs)}", self._version.shards, writes)


def put(path: Path, shards: int, writes: Sequence[tuple[int, Items]]) -> float:
    """Put states with LMDB alone, into as many files, as durably; the seconds it took."""
    path.mkdir()
    with ExitStack() as stack:
        options = {"map_size": 16 << 30, "metasync": False}
        files = [stack.enter_context(lmdb.open(str(path / str(shard)), **options)) for shard in range(shards)]

        def work() -> None:
            for shard, items in writes:
                with files[shard].begin(write=True) as rows, rows.cursor() as cursor:
                    cursor.putmulti(items)

        return seconds(work)


def run(scale: Scale) -> Iterator[Claim]:
    """Micro-batches of payments as they come; for information a backlog of all, which ingestion merges before it writes."""
    with tempfile.TemporaryDirectory() as folder:
        deltas = Deltas(Path(folder), scale.of(800_000, least=1_000), scale.of(50_000, least=100), batches=20)
        recorded = Recording(deltas.place())
        deltas.ingest(recorded, at_once=1)
        writes = [write for write in recorded.writes if write[1]]
        sizes = [len(value) for _, items in writes for _, value in items]
        assert len(sizes) == deltas.keys, f"{len(sizes)} of {deltas.keys} deltas changed a state"
        note = f"states of {sum(sizes) / len(sizes):,.0f} bytes"
        for name, at_once, target in (
            ("each micro-batch as it comes", 1, 1 / 3),
            ("a backlog of 20 micro-batches", 20, None),
        ):
            ours, theirs = in_turns(
                lambda: deltas.keys / deltas.ingest(LmdbOnlineStore(deltas.place()), at_once),  # noqa: B023
                lambda: deltas.keys / deltas.put(writes),
                scale.repeats,
            )
            yield Claim(name, "keys/s", ours, theirs, "raw LMDB, micro-batch by micro-batch", "higher", target, note)
    for keys in (125_000, 1_000_000):
        with tempfile.TemporaryDirectory() as folder:
            yield _distinct(Path(folder), scale.of(keys, least=200))
    for keys in (1_000, 125_000, 1_000_000):
        with tempfile.TemporaryDirectory() as folder:
            claim = _filled(Path(folder), scale.of(keys, least=200))
        if keys > 1_000:  # the first loads the libraries
            yield claim


def _distinct(folder: Path, keys: int) -> Claim:
    """About as many distinct keys as asked for, in eight micro-batches, beside raw LMDB once."""
    deltas = Deltas(folder, 2 * keys, keys, batches=8)
    recorded = Recording(deltas.place())
    deltas.ingest(recorded, at_once=1)
    ours = [deltas.keys / deltas.ingest(LmdbOnlineStore(deltas.place()), 1)]
    theirs = [deltas.keys / deltas.put([write for write in recorded.writes if write[1]])]
    return Claim(f"{keys:,} distinct keys", "keys/s", ours, theirs, "raw LMDB, micro-batch by micro-batch", "higher")


def _filled(folder: Path, keys: int) -> Claim:
    """A backfill of one event for each of so many keys, beside raw LMDB putting the states it ends with, once."""
    data = folder / ".millstream"
    data.mkdir()
    FileClock(data / "clock.json").set(NOW, rate=0.0)
    project = ms.Project(folder, create=True)
    project.apply(PAYMENTS)
    users = pa.array(np.random.default_rng(1).permutation(keys))
    project.load(PAYMENTS, payments(keys, 1, days=1.0).set_column(1, "user_id", users))
    project.apply(ms.FeatureView("spending", request={}, features=[GROUP]))
    taken = seconds(project.backfill)
    (version,), online = project.parts.registry.groups(), project.parts.online
    items = [pairs(online, version.states, shard) for shard in range(version.shards)]
    project.close()
    assert sum(map(len, items)) == keys
    raw = put(folder / "raw", version.shards, list(enumerate(items)))
    return Claim(f"backfill of {keys:,} keys", "keys/s", [keys / taken], [keys / raw], "raw LMDB, in one go", "higher")


def _drain(ingester: StreamIngester) -> None:
    while ingester.step().records:
        pass
