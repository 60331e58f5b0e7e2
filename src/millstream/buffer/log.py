"""What the layers ask of a log, and the records they exchange with it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

Encoding = Literal["json", "arrow", "bytes"]


@dataclass(frozen=True, slots=True)
class Batch:
    """What is appended in one piece: `count` records in one payload.

    Args:
        payload: the bytes.
        encoding: "json" (newline-delimited objects), "arrow" (an IPC stream) or "bytes" (one opaque record).
        count: how many records the payload holds, at least one; each takes a position.
    """

    payload: bytes
    encoding: Encoding
    count: int


@dataclass(frozen=True, slots=True)
class Records:
    """A stored batch, as it is read.

    Args:
        topic: the topic it is in.
        partition: the partition it is in.
        position: the position of its first record.
        count: how many records it holds.
        appended: when the log took it, in microseconds.
        encoding: how the payload is written.
        payload: the bytes, as they were appended.
        skip: how many of its first records come before the position that was asked for.
    """

    topic: str
    partition: int
    position: int
    count: int
    appended: int
    encoding: Encoding
    payload: bytes
    skip: int = 0

    @property
    def end(self) -> int:
        """The position after its last record."""
        return self.position + self.count


class Transaction(Protocol):
    """Appends and commits that happen all together or not at all."""

    def append(self, topic: str, partition: int, batch: Batch) -> int:
        """Append a batch and return the position of its first record; it is readable once the transaction is over.

        Raises:
            LogError: when there is no such topic or partition, or the batch is empty.
        """
        ...

    def commit(self, consumer: str, topic: str, partition: int, expected: int | None, position: int) -> None:
        """Move a consumer from the position it had read from, `expected` (None: it never committed), to `position`.

        Raises:
            Fenced: here or when the transaction ends, if the position is not `expected`: another worker has gone on.
        """
        ...


class Log(Protocol):
    """A durable log of topics, each a fixed number of partitions; positions in a partition increase.

    Positions need not be dense. A consumer is a name; its committed position is the next one it wants to read.
    """

    def append(self, topic: str, partition: int, batch: Batch, arrival: int | None = None) -> int:
        """Append a batch and return the position of its first record; called by producers.

        It is durable when this returns. It is stamped with the log's clock, or with `arrival` (microseconds) when it
        comes from a foreign producer whose broker has stamped it already.

        Raises:
            LogError: when there is no such topic or partition, or the batch is empty.
            DiskFull: when there is no room; nothing was appended.
        """
        ...

    def read(self, topic: str, partition: int, position: int, limit: int) -> list[Records]:
        """Return whole stored batches from a position on; called by consumers, which keep their own positions.

        The first batch is the one that holds `position` (its `skip` says where) or the next one. Batches follow until
        they hold `limit` records; at least one is returned if there is one. Nothing there yet is an empty list, never a
        wait.

        Raises:
            LogError: when there is no such topic or partition, or what was asked for has been trimmed.
        """
        ...

    def ends(self, topic: str) -> list[tuple[int, int]]:
        """Return, for each partition, the first position kept and the position the next record will take.

        Raises:
            LogError: when there is no such topic.
        """
        ...

    def committed(self, consumer: str, topic: str) -> list[int | None]:
        """Return, for each partition, the position a consumer has committed; None where it never did.

        Raises:
            LogError: when there is no such topic.
        """
        ...

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Open a transaction; what is done in the block is durable after it, or was never done if it raises.

        Called by workers that turn records into others exactly once. Prepare the work before: others wait meanwhile.

        Raises:
            Fenced: when a commit in it was not from the expected position.
            DiskFull: when there is no room.
        """
        ...


@runtime_checkable
class TopicAdmin(Protocol):
    """A log that can make, trim and drop its own topics."""

    def create(self, topic: str, partitions: int) -> None:
        """Make a topic unless it is there; called when definitions are applied.

        Raises:
            LogError: when it is there with another number of partitions, which is fixed for life.
        """
        ...

    def topics(self) -> dict[str, int]:
        """Return all topics with their numbers of partitions."""
        ...

    def trim(self, topic: str, partition: int, before: int) -> int:
        """Drop whole batches that end at or before a position; return the first position kept. Called by retention."""
        ...

    def drop(self, topic: str) -> None:
        """Drop a topic, its records and the positions committed in it; one that is not there is no error."""
        ...


class OwnLog(Log, TopicAdmin, Protocol):
    """A log whose topics are ours to make and trim."""


@runtime_checkable
class Limited(Protocol):
    """A log with room for so much and no more."""

    def filled(self) -> float:
        """Return the share of its room that is taken, from 0 to 1; called by retention, which forgets early near 1."""
        ...
