"""A micro-batch: some records of a stream, read and decoded once for all who stand at the same place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from millstream.buffer.codec.events import DeadLetter, decode
from millstream.buffer.log import Log, Records
from millstream.computing.shared_reads import Span
from millstream.computing.start_markers import NO_ARRIVAL
from millstream.definitions.source import EventStream


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """The valid events of some position ranges, and the letters of what was not valid.

    `ranges` gives, by partition, the position that was read from and the one to go on from; `records` counts what was there;
    `newest_arrival` (µs) is that of the valid events.
    """

    stream: EventStream
    ranges: dict[int, tuple[int, int]]
    table: pa.Table
    dead: list[DeadLetter]
    records: int
    newest_arrival: int

    @property
    def places(self) -> dict[str, tuple[int, int]]:
        """The ranges by "stream/partition", as delta records name them."""
        return {f"{self.stream.name}/{partition}": span for partition, span in self.ranges.items()}

    def without(self, rows: np.ndarray) -> MicroBatch:
        """The same ranges, less the rows marked true."""
        return replace(self, table=self.table.filter(pa.array(~rows))) if rows.any() else self


def read_micro_batch(log: Log, stream: EventStream, spans: Sequence[Span], limit: int) -> MicroBatch | None:
    """Read and decode the records of some spans, or None when reading has not moved on.

    Whole stored batches are taken, so that positions stay on their borders. Where reading has moved on past nothing but
    gaps there is a range and no event.

    Args:
        log: where the stream is read.
        stream: the stream, by whose schema the records are decoded.
        spans: what to read, at most one span of a partition.
        limit: about how many records to read in all; the spans have equal shares of it.
    """
    share = max(1, limit // max(1, len(spans)))
    records: list[Records] = []
    ranges: dict[int, tuple[int, int]] = {}
    for span in spans:
        found = log.read(stream.name, span.partition, span.position, share)
        if span.until is not None:
            found = found.before(span.until)
        if found.next > span.position:
            records.append(found)
            ranges[span.partition] = (span.position, found.next)
    if not ranges:
        return None
    decoded = decode(stream, records)
    return MicroBatch(stream, ranges, decoded.table, decoded.dead, sum(map(len, records)), _newest(decoded.table))


def group_letters(
    stream: EventStream, table: pa.Table, version: str, dead: Sequence[tuple[int, str]]
) -> list[DeadLetter]:
    """The letters of the rows that one group version cannot fold, each with the reason and its place in the stream.

    Args:
        stream: the stream that the rows are events of.
        table: the events, with `_partition` and `_position`.
        version: the group version, such as "habits@1", which the reason begins with.
        dead: the number of each such row in `table`, and why it cannot be folded.
    """
    if not dead:
        return []
    rows = table.take(pa.array([row for row, _ in dead], pa.int64())).to_pylist()
    return [_letter(stream, row, f"{version}: {reason}") for row, (_, reason) in zip(rows, dead, strict=True)]


def _letter(stream: EventStream, row: dict[str, Any], reason: str) -> DeadLetter:
    payload = msgspec.json.encode({name: row[name] for name in stream.schema}).decode()
    return DeadLetter(stream.name, row["_partition"], row["_position"], reason, payload, row["_arrival"])


def _newest(table: pa.Table) -> int:
    return int(table["_arrival"].to_numpy().max()) if table.num_rows else NO_ARRIVAL
