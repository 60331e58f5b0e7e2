"""Somebody else's topic of Kafka as a source: each partition is a shard, each message is an event."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message

from millstream.buffer.kafka.connection import Connection
from millstream.buffer.log import Ints
from millstream.errors import LogError, SourceError
from millstream.sources.formats import Format, Read
from millstream.sources.kafka.fetching import Fetching
from millstream.sources.kafka.topic import Described, Topic
from millstream.sources.source import NO_STAMP, Behind, Events, Shard, rounded

T = TypeVar("T")
_SHARD = re.compile(r"(\d+)@(.+)", re.DOTALL)


class KafkaSource:
    """Reads a topic that others own: what was committed, from any offset, and without a group.

    A shard is a partition of a topic that is known by Kafka's id of it, so one that is made anew under its name has other
    shards. A position is an offset.

    Args:
        connection: the cluster, which is closed with the source.
        topic: the topic's name.
        stream: the stream that is bound to it, for messages.
        format: what a message's bytes say.
    """

    def __init__(self, connection: Connection, topic: str, stream: str, format: Format) -> None:
        self._connection, self._stream, self._format = connection, stream, format
        self._topic, self._fetching = Topic(connection, topic), Fetching(connection, topic)
        self._ends: dict[int, tuple[int, int]] = {}
        self._identity = ""

    def shards(self, read: Mapping[str, str | None]) -> list[Shard]:
        """Return a shard for each partition; see `Source.shards`."""
        return self._asked(self._shards)

    def read(self, shard: str, position: str | None, limit: int, until: str | None = None) -> Events:
        """Return messages of a partition from an offset on, as what they say; see `Source.read`."""
        return self._asked(lambda: self._read(shard, position, limit, until))

    def behind(self, shard: str, position: str | None) -> Behind:
        """Return how many offsets follow, and when the next of them was stamped; see `Source.behind`."""
        return self._asked(lambda: self._behind(shard, position))

    def kept(self) -> int | None:
        """Return for how many microseconds the topic keeps what it has; see `Expiring.kept`."""
        return self._asked(self._topic.kept)

    def close(self) -> None:
        """Let go of the cluster."""
        self._fetching.close()

    def _shards(self) -> list[Shard]:
        identity, partitions = self._described()
        self._ends = self._topic.ends(list(range(partitions)))
        return [Shard(f"{partition}@{identity}") for partition in range(partitions)]

    def _read(self, shard: str, position: str | None, limit: int, until: str | None) -> Events:
        partition = self._partition(shard)
        if partition is None:
            gone = f"Topic '{self._topic.name}' was deleted, or made anew; what was unread in it is gone."
            return Events.of([], position, closed=True, lost=gone)
        if partition not in self._ends:
            self._ends |= self._topic.ends([partition])
        first, end = self._ends[partition]
        begin = _offset(position)
        found = self._fetching.read(partition, first if begin is None else begin, limit, end)
        if found is None:
            return self._elsewhere(partition, begin, position)
        messages, following = found
        stop = _offset(until)
        if stop is not None and following >= stop:
            messages, following = [one for one in messages if (one.offset() or 0) < stop], stop
        lost: str | None = None
        if position is not None and begin is None:
            place = f"Topic '{self._topic.name}', partition {partition}"
            lost = f"{place}: '{position}' is no offset; it is read from its beginning."
        return self._events(messages, following, lost)

    def _elsewhere(self, partition: int, begin: int | None, position: str | None) -> Events:
        """Where to go on when an offset is not there, and what was lost by it."""
        first, end = self._topic.ends([partition])[partition]
        self._ends[partition] = first, end
        if begin is None or first <= begin <= end:
            return Events.of([], position)
        place = f"Topic '{self._topic.name}', partition {partition}"
        if begin < first:
            lost = f"{place}: offsets {begin} to {first - 1} were deleted before they were read."
            return Events.of([], str(first), lost=lost)
        lost = f"{place}: it ends at {end}, before offset {begin}, up to which it was read; it has stepped back."
        return Events.of([], str(end), lost=lost)

    def _events(self, messages: Sequence[Message], following: int, lost: str | None) -> Events:
        """What messages say, those that can be read now."""
        read = self._format.read(messages) if messages else Read.lines([])
        if len(read.payloads) < len(messages):
            following = messages[len(read.payloads)].offset() or 0
            messages = messages[: len(read.payloads)]
        keys = [one.key() for one in messages]
        return Events(read.payloads, read.encodings, read.counts, _stamps(messages), keys, str(following), lost=lost)

    def _behind(self, shard: str, position: str | None) -> Behind:
        partition = self._partition(shard)
        if partition is None:
            return Behind(0, None)
        first, end = self._topic.ends([partition])[partition]
        begin = max(first, _offset(position) or 0)
        if begin >= end:
            return Behind(0, None)
        messages, following = self._fetching.read(partition, begin, 1, end) or ([], begin)
        if not messages:  # what follows was compacted, or is a marker of a transaction
            return Behind(end - following, None) if following < end else Behind(0, None)
        kind, stamp = messages[0].timestamp()
        return Behind(end - begin, None if kind == TIMESTAMP_NOT_AVAILABLE else stamp * 1_000)

    def _partition(self, shard: str) -> int | None:
        """The partition that a shard is of; None where it is of a topic that is there no more."""
        found, (identity, partitions) = _SHARD.fullmatch(shard), self._described()
        if found is None or found[2] != identity or int(found[1]) >= partitions:
            return None
        return int(found[1])

    def _described(self) -> Described:
        """Which topic it is now; of another one nothing is held or known."""
        described = self._topic.described()
        if described.identity != self._identity:
            self._fetching.close()
            self._ends, self._identity = {}, described.identity
        return described

    def _asked(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except LogError as error:
            raise SourceError(f"Stream '{self._stream}': {error.message}", error.hint) from error


def _offset(position: str | None) -> int | None:
    """The offset that a position is; None for the beginning, and for a text that is none."""
    return int(position) if position is not None and position.isdecimal() else None


def _stamps(messages: Sequence[Message]) -> Ints:
    stamps = np.array([one.timestamp() for one in messages], np.int64).reshape(-1, 2)
    return np.where(stamps[:, 0] == TIMESTAMP_NOT_AVAILABLE, NO_STAMP, rounded(stamps[:, 1] * 1_000))
