"""A small project for batch groups: a table that tests rewrite, real stores, and all layers between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import millstream as ms
from millstream.buffer.embedded.log import EmbeddedLog
from millstream.buffer.topics import batch_table
from millstream.clock import SimulatedClock, to_micros
from millstream.computing.batch import BatchComputer
from millstream.definitions.group_version import GroupVersion
from millstream.fold import encode_key, shard_of
from millstream.fold.rows import rows_as_of, rows_at, with_keys
from millstream.ingest.batch import BatchIngester
from millstream.ingest.stream import StreamIngester
from millstream.registry.definitions import Registry
from millstream.serve.found import confirmed_at
from millstream.store.iceberg.store import IcebergOfflineStore
from millstream.store.lmdb.store import LmdbOnlineStore
from millstream.store.offline import Snapshot
from millstream.testing.shards import held

DAY = 86_400_000_000
HOUR = 3_600_000_000
START = to_micros("2024-01-10T00:00:00Z")
USER = ms.Entity("user", keys={"user_id": "int64"})
COLUMNS = {"user_id": "int64", "tier": "string", "credit": "float64", "changed": "timestamp"}
DATED = ms.Table("accounts", path="accounts.parquet", time="changed", schema=COLUMNS)
PLAIN = ms.Table("accounts", path="accounts.parquet", schema=COLUMNS)


def version_of(group: Any, version: int = 1, **options: Any) -> GroupVersion:
    """A group version as the registry gives it, of two shards."""
    return GroupVersion(group, version, **{"shards": 2, **options})


def dated_group(**options: Any) -> ms.BatchFeatureGroup:
    """Rows dated by their own time."""
    query = "select user_id, changed, tier, credit from accounts"
    settings = {"every": "24h", "sources": [DATED], "query": query, "time": "changed"} | options
    return ms.BatchFeatureGroup("kyc", entity=USER, **settings)


def snapshot_group(**options: Any) -> ms.BatchFeatureGroup:
    """Rows that say everything there is at the end of an interval."""
    query = "select user_id, tier, credit from accounts"
    settings = {"every": "24h", "sources": [PLAIN], "query": query} | options
    return ms.BatchFeatureGroup("kyc", entity=USER, **settings)


class Tables:
    """Offline tables in memory, so that many cases are quick."""

    def __init__(self) -> None:
        self.parts: dict[str, list[pa.Table]] = {}
        self.commits: dict[str, Snapshot] = {}

    def append(
        self, table: str, rows: pa.Table, properties: Mapping[str, str] | None = None, expected: Any = "any"
    ) -> Snapshot:
        found = self.snapshot(table)
        assert expected == (found.id if found else None)
        self.parts.setdefault(table, []).append(rows)
        self.commits[table] = Snapshot(len(self.parts[table]), dict(properties or {}))
        return self.commits[table]

    def scan(self, table: str, columns: Any = None, where: Any = None, snapshot: Any = None) -> pa.Table:
        rows = pa.concat_tables(self.parts[table])
        return rows.select(columns) if columns else rows

    def batches(self, table: str, columns: Any = None, where: Any = None, snapshot: Any = None) -> Any:
        yield from self.scan(table, columns, where, snapshot).to_batches(max_chunksize=3)

    def snapshot(self, table: str) -> Snapshot | None:
        return self.commits.get(table)


@dataclass
class World:
    """A project folder with its log, stores and clock, and the layers over them."""

    folder: Path
    version: GroupVersion = field(default_factory=lambda: version_of(dated_group()))
    offline: Any = None
    clock: SimulatedClock = field(default_factory=lambda: SimulatedClock(START + HOUR))

    def __post_init__(self) -> None:
        self.log = EmbeddedLog(self.folder / "log", self.clock, map_gib=1)
        self.online = LmdbOnlineStore(self.folder / "online", map_gib=1)
        self.marks = Registry(f"sqlite:///{self.folder / 'registry.db'}").marks
        self.offline = self.offline or IcebergOfflineStore(self.folder / "offline")
        self.again()

    def again(self) -> None:
        """The workers, as after a restart."""
        self.computer = BatchComputer(self.log, self.marks, [self.version], self.clock, folder=self.folder)
        self.ingester = BatchIngester(self.log, self.online, self.offline, [self.version], self.clock)
        self.folding = StreamIngester(self.log, self.online, [self.version], self.clock)

    def write(self, *rows: tuple[Any, ...]) -> None:
        """Replace the table: (user_id, tier, credit, at in µs)."""
        columns = list(zip(*rows, strict=True)) or [[], [], [], []]
        types = [pa.int64(), pa.string(), pa.float64(), pa.timestamp("us", "UTC")]
        arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
        pq.write_table(pa.table(arrays, list(COLUMNS)), self.folder / "accounts.parquet")

    def run(self) -> None:
        """Compute what is due and ingest it."""
        self.computer.step()
        self.ingest()

    def ingest(self) -> int:
        """Ingest all there is; returns the states written online."""
        written = 0
        while True:
            done = self.ingester.step()
            written += done.written
            if not done.lag and not done.fenced:
                return written

    def next_day(self) -> None:
        self.clock.advance(DAY)

    def served(self, user: int, at: int | None = None) -> dict[str, Any]:
        """What serving reads for a user."""
        key = encode_key(USER.keys, [user])
        (state,), meta = held(self.online, self.version.id, shard_of(key, self.version.shards), [key])
        instant = self.clock.now() if at is None else at
        confirmed = confirmed_at(meta, instant)
        return _plain(rows_at(self.version.schema, [state], np.array([instant]), self.version.group.ttl, confirmed))

    def trained(self, user: int, at: int | None = None) -> dict[str, Any]:
        """What training reads for a user."""
        rows = with_keys(USER.keys, self.offline.scan(batch_table(self.version.id)))
        instant = np.array([self.clock.now() if at is None else at])
        key = encode_key(USER.keys, [user])
        return _plain(rows_as_of(self.version.schema, rows, [key], instant, self.version.group.ttl))

    def trained_at(self, asked: list[tuple[int, int]]) -> list[dict[str, Any]]:
        """What training reads for pairs of a user and an instant (µs)."""
        rows = with_keys(USER.keys, self.offline.scan(batch_table(self.version.id)))
        keys, at = [encode_key(USER.keys, [user]) for user, _ in asked], np.array([at for _, at in asked], np.int64)
        columns = rows_as_of(self.version.schema, rows, keys, at, self.version.group.ttl)
        return [_plain({name: column[[place]] for name, column in columns.items()}) for place in range(len(asked))]

    def both(self, user: int, at: int | None = None) -> dict[str, Any]:
        """What serving and training read, which must be the same."""
        served, trained = self.served(user, at), self.trained(user, at)
        assert served == trained
        return served

    def stated(self) -> int:
        """How many rows the offline table holds, without the marks of runs."""
        rows = self.offline.scan(batch_table(self.version.id), ["user_id"])
        return rows.num_rows - rows["user_id"].null_count


def _plain(columns: dict[str, Any]) -> dict[str, Any]:
    values = {name: column.tolist()[0] for name, column in columns.items()}
    return {name: None if value != value else value for name, value in values.items()}
