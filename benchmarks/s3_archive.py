"""Rows per second into the archive on S3, beside PyArrow that writes the same rows to the same server.

Fair: one SeaweedFS server, which shares the machine; both write the same rows in Parquet with the same compression and row
groups, and what is counted ends when the server has acknowledged all. The peer has the rows in memory, writes one file, and
nothing says that it is there. Ours, in the first line, commits them with positions to an Iceberg table of a SQLite catalog;
in the others it reads them from the log before, decodes and checks them, 1,000 events a message.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import Claim, Scale, in_turns, seconds
from benchmarks.world import NOW, PAYMENTS, payments
from millstream.buffer.codec.events import encode
from millstream.buffer.embedded.log import EmbeddedLog
from millstream.buffer.topics import event_table
from millstream.clock import SimulatedClock
from millstream.ingest.archive import Archiver
from millstream.store.iceberg.store import IcebergOfflineStore
from millstream.testing.servers.s3 import S3Server

PARTITIONS = 4
ROWS = 400_000  # about as many as a busy project archives at once
BATCH = 1_000  # events that a producer sends at once


class Archive:
    """A log to which events are appended, and their archive on a server.

    Args:
        folder: where log and catalog lie.
        server: the server.
        events: the events of one step.
        encoding: how producers send them, "arrow" or "json".
    """

    def __init__(self, folder: Path, server: S3Server, events: pa.Table, encoding: str) -> None:
        folder.mkdir()
        self._clock, self._events = SimulatedClock(NOW), events
        self.log = EmbeddedLog(folder / "log", self._clock, map_gib=16)
        self.log.create(PAYMENTS.name, PARTITIONS)
        self.offline = IcebergOfflineStore(server.sql(f"sqlite:///{folder}/catalog.db?timeout=60", server.bucket()))
        self._archiver = Archiver(self.log, self.offline, [PAYMENTS], self._clock)
        self._batches = [
            batch
            for first in range(0, events.num_rows, BATCH)
            for batch in encode(PAYMENTS, _given(events.slice(first, BATCH), encoding))
        ]

    def step(self) -> float:
        """Rows a second of a step, once the log has as many events more."""
        for number, batch in enumerate(self._batches):
            self.log.append(PAYMENTS.name, number % PARTITIONS, batch)
        return self._events.num_rows / seconds(self._archiver.step)

    def archived(self) -> pa.Table:
        """The rows of one step as the archive has them."""
        return self.offline.scan(event_table(PAYMENTS.name)).slice(0, self._events.num_rows)


def run(scale: Scale) -> Iterator[Claim]:
    """The rows of one step committed, then archived from a log that got them as Arrow and as JSON."""
    remedy = S3Server.lacking()
    if remedy is not None:
        raise SystemExit(f"s3_archive needs SeaweedFS: {remedy}")
    events = payments(scale.of(ROWS, least=1_000), 1_000, days=0.25)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(S3Server())
        archives = {kind: Archive(folder / kind, server, events, kind) for kind in ("arrow", "json")}
        for archive in archives.values():
            stack.callback(archive.log.close)
            archive.step()
        rows, files = archives["arrow"].archived(), server.access().files
        place = f"{server.bucket()}/rows.parquet"

        def theirs() -> float:
            write = partial(pq.write_table, rows, place, 65_536, filesystem=files, compression="zstd")
            return rows.num_rows / seconds(write)

        def committed() -> float:
            append = partial(archives["arrow"].offline.append, "events.same", rows, {"millstream.positions": "{}"})
            return rows.num_rows / seconds(append)

        peer = "pyarrow.parquet.write_table"
        found = in_turns(committed, theirs, scale.repeats)
        yield Claim("rows in memory, committed", "rows/s", *found, peer, "higher", 0.5)
        for kind, archive in archives.items():
            found = in_turns(archive.step, theirs, scale.repeats)
            yield Claim(f"from a log of {kind} events", "rows/s", *found, peer, "higher")


def _given(events: pa.Table, encoding: str) -> pa.Table | list[dict[str, Any]]:
    return events if encoding == "arrow" else events.to_pylist()
