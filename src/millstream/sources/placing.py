"""Where in a stream's topic the events of a foreign source go: where `send` puts the same events."""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

import msgspec
import pyarrow as pa

from millstream.buffer.codec.read import row_text
from millstream.buffer.codec.write import encode_frame, partition_of, partitions_of_lines
from millstream.buffer.log import Batch
from millstream.buffer.parts import LARGEST
from millstream.buffer.writing import Append
from millstream.definitions.source import EventStream
from millstream.errors import LogError
from millstream.sources.source import NO_STAMP, Events

MOST = 10_000
"""The most events of one batch."""
TOGETHER = 500_000
"""The most bytes that events are put together to in one batch."""
KEPT = 1_000
"""Bytes that are kept of an event that is larger than the log takes."""
TOMBSTONE = b"null"
"""What a record without a value is taken in as: no event, so a dead letter."""


def placed(
    stream: EventStream, shard: str, events: Events, partitions: int, now: int, largest: int = LARGEST
) -> list[Append]:
    """Divide what a read gave among the partitions of a stream's topic, keeping its order.

    Equal values of the stream's `partition_by` go to the partition to which `send` takes them. Without one, the source's
    key decides, or the shard where there is none, so that the order within them is kept; the same events go to the same
    partitions however often they are read. What does not parse goes along as it is, to become a dead letter; of what is
    larger than the log takes the beginning goes along, and says so.

    Args:
        stream: the stream.
        shard: the shard that was read.
        events: what was read of it.
        partitions: how many partitions there are.
        now: the instant, in microseconds; nothing arrives later than it is taken in.
        largest: the most bytes of a batch, as the log says (1 MB).

    Returns:
        list[Append]: batches of one arrival each; as many events as were read, all in all.

    Example:
        >>> clicks = EventStream("clicks", time="at", partition_by="user", schema={"user": "int64", "at": "timestamp"})
        >>> found = Events.of([b'{"user": 7}', b'{"user": 8}', b'{"user": 7}'], "3", stamps=[5, 5, 6])
        >>> [(one.partition, one.batch.payload, one.arrival) for one in placed(clicks, "a", found, 4, 100)]
        [(2, b'{"user": 7}', 5), (2, b'{"user": 7}', 6), (3, b'{"user": 8}', 5)]
    """
    made: dict[int, _Lines] = {}
    appends: list[Append] = []
    columns = zip(
        events.payloads, events.encodings, events.counts.tolist(), events.stamps.tolist(), events.keys, strict=True
    )
    for payload, encoding, count, stamp, key in columns:
        arrival = None if stamp == NO_STAMP else min(stamp, now)
        if encoding == "arrow" and payload is not None:
            for some in made.values():
                appends += some.all(stream.name)
            made = {}
            appends += _of_frame(stream, shard, payload, key, partitions, arrival, largest)
            continue
        lines = _lines(payload, count)
        for line, partition in zip(lines, _partitions(stream, shard, key, lines, partitions), strict=True):
            if partition not in made:
                made[partition] = _Lines(partition, largest)
            made[partition].add(line, arrival)
    for some in made.values():
        appends += some.all(stream.name)
    return appends


class _Lines:
    """Events of JSON on their way to one partition, cut where the arrival changes and where a batch is full."""

    def __init__(self, partition: int, largest: int) -> None:
        self._partition, self._largest, self._most = partition, largest, min(TOGETHER, largest)
        self._cuts: list[tuple[list[bytes], int | None]] = []
        self._size, self._alone = 0, False

    def add(self, line: bytes, arrival: int | None) -> None:
        """Put an event behind those that are there; one that no batch can hold becomes its beginning, a dead letter."""
        if len(line) > self._largest:
            line = _beginning(line, self._largest)
        alone = b"\n" in line  # one event in several lines: a batch of one event may hold it
        lines, came = self._cuts[-1] if self._cuts else (None, None)
        full = lines is not None and (len(lines) >= MOST or self._size + len(line) > self._most)
        if lines is None or full or alone or self._alone or came != arrival:
            self._cuts.append(([line], arrival))
            self._size = 0
        else:
            lines.append(line)
        self._size += len(line) + 1
        self._alone = alone

    def all(self, topic: str) -> Iterator[Append]:
        for lines, arrival in self._cuts:
            yield Append(topic, self._partition, Batch(b"\n".join(lines), "json", len(lines)), arrival)


def _beginning(event: bytes, largest: int) -> bytes:
    """What is taken in for an event that is larger than the log takes: text, so a dead letter, that says so."""
    beginning = event[: min(KEPT, largest // 8)].decode(errors="replace")
    return msgspec.json.encode(f"{beginning} ... (cut: {len(event):,} bytes; the log takes {largest:,})")


def _lines(payload: bytes | None, count: int) -> list[bytes]:
    """The events of a payload; one that has another number of lines than it says is one event, as it is."""
    if payload is None:
        return [TOMBSTONE]
    if count == 1:
        return [payload]
    lines = payload.split(b"\n")
    return lines if len(lines) == count else [payload]


def _partitions(stream: EventStream, shard: str, key: bytes | None, lines: list[bytes], partitions: int) -> list[int]:
    if partitions == 1:
        return [0] * len(lines)
    if stream.partition_by is None:
        return [crc32(shard.encode() if key is None else key) % partitions] * len(lines)
    return partitions_of_lines(stream, lines, partitions)


def _of_frame(
    stream: EventStream,
    shard: str,
    payload: bytes,
    key: bytes | None,
    partitions: int,
    arrival: int | None,
    largest: int,
) -> Iterator[Append]:
    """The rows of an Arrow payload; one that is none is taken in as text, which says so."""
    try:
        table = pa.ipc.open_stream(payload).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        text = msgspec.json.encode(f"{len(payload)} bytes that are no Arrow: {error}")
        yield Append(
            stream.name, _partitions(stream, shard, key, [text], partitions)[0], Batch(text, "json", 1), arrival
        )
        return
    if stream.partition_by is None:
        divided = [(_partitions(stream, shard, key, [b""], partitions)[0], table)]
    else:
        divided = partition_of(stream, table, partitions)
    for partition, part in divided:
        for batch in _frames(part, largest):
            yield Append(stream.name, partition, batch, arrival)


def _frames(table: pa.Table, largest: int) -> Iterator[Batch]:
    """The rows of a table as batches that the log takes; of a row that is larger by itself the beginning, as text."""
    try:
        yield from encode_frame(table, largest)
    except LogError:
        middle = len(table) // 2
        if middle:
            yield from _frames(table.slice(0, middle), largest)
            yield from _frames(table.slice(middle), largest)
        else:
            yield Batch(_beginning(row_text(table, 0).encode(), largest), "json", 1)
