"""How a batch is one message of Kafka's, and what that says of positions.

A message holds a batch whole. A record's position is the message's offset times `STRIDE`, and its number in the batch; so
positions increase, and say without a read in which message a record is.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from millstream.buffer.log import Batch, Encoding, Ints, Records

STRIDE = 1 << 20
"""More records than a batch has; with it an offset may reach 2**43, which at 10,000 batches a second takes 27 years."""
HEADER = "millstream"
OVERHEAD = 1_024
"""Bytes that a message has beside its payload, at the most."""
_HEAD = struct.Struct("<BBIq")
_VERSION = 1
_ENCODINGS: tuple[Encoding, ...] = ("json", "arrow", "bytes")


class Message(Protocol):
    """What is asked of a message that Kafka has given."""

    def offset(self) -> int | None:
        """Return its place in the partition."""
        ...

    def value(self) -> bytes | None:
        """Return its bytes; None for a tombstone."""
        ...

    def headers(self) -> Any:
        """Return its headers, each a name and bytes; None where there are none."""
        ...

    def timestamp(self) -> tuple[int, int]:
        """Return the kind of its timestamp, and that, in milliseconds."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """A message as it was read.

    Attributes:
        offset: its place in the partition.
        payload: the batch's bytes.
        encoding: how they are written.
        count: how many records they hold.
        appended: when the log took them, in microseconds.
    """

    offset: int
    payload: bytes
    encoding: Encoding
    count: int
    appended: int


def headers_of(batch: Batch, appended: int) -> list[tuple[str, str | bytes | None]]:
    """Return what is kept beside a batch's payload.

    Args:
        batch: the batch.
        appended: when the log takes it, in microseconds, which Kafka's own timestamps cannot tell.
    """
    return [(HEADER, _HEAD.pack(_VERSION, _ENCODINGS.index(batch.encoding), batch.count, appended))]


def entry_of(message: Message) -> Entry:
    """Read a message; one that another program wrote is one JSON record, which came when Kafka says it did."""
    offset, payload = message.offset(), message.value()
    assert offset is not None
    for name, value in message.headers() or ():
        if name == HEADER and value is not None and len(value) == _HEAD.size and value[0] == _VERSION:
            _, encoding, count, appended = _HEAD.unpack(value)
            return Entry(offset, payload or b"", _ENCODINGS[encoding], count, appended)
    line = b"null" if payload is None else payload.replace(b"\r", b" ").replace(b"\n", b" ")
    return Entry(offset, line, "json", 1, message.timestamp()[1] * 1_000)


def records_of(topic: str, partition: int, entries: Sequence[Entry], position: int, following: int) -> Records:
    """Return what a read from a position on gives that found some entries.

    Args:
        topic: the topic.
        partition: the partition.
        entries: the messages from that which holds the position on, none that lies wholly before it.
        position: where was read from.
        following: the offset to go on from.
    """
    if not entries:
        return Records.none(topic, partition, max(position, following * STRIDE))
    counts = np.array([one.count for one in entries], np.int64)
    offsets = np.array([one.offset for one in entries], np.int64)
    begins = np.cumsum(counts) - counts
    numbers = np.arange(int(counts.sum()), dtype=np.int64) - np.repeat(begins, counts)
    skip = max(0, position - entries[0].offset * STRIDE)
    positions: Ints = (np.repeat(offsets * STRIDE, counts) + numbers)[skip:]
    return Records(
        topic,
        partition,
        [one.payload for one in entries],
        [one.encoding for one in entries],
        counts,
        np.array([one.appended for one in entries], np.int64),
        positions,
        following * STRIDE,
        skip,
    )
