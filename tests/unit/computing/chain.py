"""A small chain for the tests: streams, groups, a log, a store, and what folding everything at once gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import millstream as ms
from millstream.buffer.codec.events import decode, encode, partition_of
from millstream.buffer.embedded.log import EmbeddedLog
from millstream.buffer.repeats import repeats
from millstream.clock import SimulatedClock
from millstream.computing.start_markers import start_version
from millstream.computing.stream import StreamComputer
from millstream.definitions.group_version import GroupVersion
from millstream.fold import States, fold, layout_of, merge, prepare, shard_of
from millstream.ingest.stream import StreamIngester
from millstream.registry.definitions import Registry
from millstream.store.lmdb.store import LmdbOnlineStore
from millstream.testing.shards import pairs

SECOND, HOUR = 1_000_000, 3_600_000_000
BASE = 1_700_000_000_000_000
PARTITIONS = 3

USER = ms.Entity("user", keys={"user_id": "int64"})
DEVICE = ms.Entity("device", keys={"device": "string"})
PAYMENTS = ms.EventStream(
    "payments",
    time="at",
    deduplicate="id",
    within="1h",
    schema={"id": "string", "user_id": "int64", "device": "string", "amount": "float64", "at": "timestamp"},
)
LOGINS = ms.EventStream(
    "logins", time="at", schema={"user_id": "int64", "device": "string", "amount": "float64", "at": "timestamp"}
)
FEATURES = [
    ms.Count(over=["5m", "1h"]),
    ms.Sum("amount", over="1h"),
    ms.Std("amount", over="24h"),
    ms.Last("device"),
    ms.Max("amount"),
]
VELOCITY = ms.StreamFeatureGroup("velocity", entity=USER, source=PAYMENTS, where="amount > 0", features=FEATURES)
DEVICES = ms.StreamFeatureGroup("devices", entity=DEVICE, source=PAYMENTS, features=FEATURES)
ACTIVITY = ms.StreamFeatureGroup("activity", entity=USER, source=[PAYMENTS, LOGINS], features=FEATURES)


def version_of(group: Any, version: int = 1, **options: Any) -> GroupVersion:
    """A group version as the registry gives it, of two shards."""
    return GroupVersion(group, version, **{"shards": 2, **options})


@dataclass
class Chain:
    """A project folder with its log, store and clock, and the two layers over them."""

    folder: Path
    streams: Sequence[Any] = (PAYMENTS,)
    versions: Sequence[GroupVersion] = (version_of(VELOCITY),)
    clock: Any = field(default_factory=lambda: SimulatedClock(BASE))

    def __post_init__(self) -> None:
        self.log = EmbeddedLog(self.folder / "log", self.clock, map_gib=1)
        self.online = LmdbOnlineStore(self.folder / "online", map_gib=1)
        self.marks = Registry(f"sqlite:///{self.folder / 'registry.db'}").marks
        for stream in self.streams:
            self.log.create(stream.name, PARTITIONS)

    def start(self, at: Any = "zero") -> None:
        for version in self.versions:
            start_version(self.log, self.marks, version, self.streams, self.clock, at)

    def send(self, stream: Any, rows: Any) -> None:
        for partition, part in partition_of(stream, rows, len(self.log.ends(stream.name))):
            for batch in encode(stream, part):
                self.log.append(stream.name, partition, batch)

    def computer(self, **options: Any) -> StreamComputer:
        return StreamComputer(self.log, self.streams, self.versions, self.clock, data=self.folder, **options)

    def ingester(self, **options: Any) -> StreamIngester:
        return StreamIngester(self.log, self.online, self.versions, self.clock, **options)

    def drain(self) -> None:
        with self.computer() as computer:
            while computer.step().records:
                pass
        ingester = self.ingester()
        while ingester.step().records:
            pass

    def states(self, version: GroupVersion) -> dict[bytes, bytes]:
        return {k: v for shard in range(version.shards) for k, v in pairs(self.online, version.states, shard)}


def payments(n: int, seed: int = 0, users: int = 7, first: int = 0) -> list[dict[str, Any]]:
    """Valid payments, a few of them repeats, out of order and late."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(first, first + n):
        number = i - int(rng.integers(1, 9)) if rng.random() < 0.1 and i > 9 else i
        once = np.random.default_rng(number)
        rows.append(
            {
                "id": f"p{number}",
                "user_id": int(once.integers(0, users)),
                "device": f"d{once.integers(0, 4)}",
                "amount": round(float(once.normal(20, 30)), 2),
                "at": BASE - int(once.integers(0, 2 * HOUR)) + number,
            }
        )
    return rows


class LogHistory:
    """The past of a stream, from the log alone."""

    def __init__(self, log: Any, killed_at: int | None = None) -> None:
        self._log, self._left = log, killed_at

    def chunks(self, stream: Any, upto: Mapping[int, int], rows: int) -> Iterator[pa.Table]:
        table = events(self._log, {"payments": PAYMENTS, "logins": LOGINS}[stream.name], upto)
        for at in range(0, table.num_rows, rows):
            if self._left is not None:
                if self._left == 0:
                    raise KeyboardInterrupt
                self._left -= 1
            yield table.slice(at, rows)


def events(log: Any, stream: Any, upto: Mapping[int, int] | None = None) -> pa.Table:
    """The valid events of a stream that are no repeats, before some positions."""
    records = [log.read(stream.name, p, first, 10**9) for p, (first, _) in enumerate(log.ends(stream.name))]
    table = decode(stream, records).table
    table = table.filter(pa.array(~repeats(table, stream)))
    if upto is not None:
        partitions, positions = table["_partition"].to_numpy(), table["_position"].to_numpy()
        table = table.filter(pa.array(positions < np.array([upto.get(p, 0) for p in range(len(records))])[partitions]))
    return table


def expected_states(chain: Chain, version: GroupVersion) -> dict[bytes, bytes]:
    """The state of every key from one fold of all events."""
    layout, found = layout_of(version.group), dict[bytes, bytes]()
    for stream in version.group.sources:
        (prepared,) = prepare([version.group], stream, events(chain.log, stream))
        new = dict(zip(prepared.keys, fold(layout, prepared).to_bytes(), strict=True))
        keys = sorted(found.keys() | new.keys())
        both = [States.from_bytes([some.get(key) for key in keys]) for some in (found, new)]
        found = dict(zip(keys, merge(layout, *both).to_bytes(), strict=True))
    return found


def in_right_shard(chain: Chain, version: GroupVersion) -> bool:
    """Whether every stored key is in the shard of its hash."""
    return all(
        shard_of(key, version.shards) == shard
        for shard in range(version.shards)
        for key, _ in pairs(chain.online, version.id, shard)
    )
