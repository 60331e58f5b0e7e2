"""What the layers ask of a log, and the records they exchange with it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from millstream.buffer.worker import Shareable

Encoding = Literal["json", "arrow", "bytes"]
Ints = npt.NDArray[np.int64]


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


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """Some records of one partition in columns, as a read gives them; none at all is no reason to stop reading.

    A payload is what was appended in one piece. The first four columns have a value for each payload, `positions` has
    one for each record from the one on that was asked for.

    Args:
        topic: the topic they are in.
        partition: the partition they are in.
        payloads: the bytes, as they were appended.
        encodings: how each payload is written.
        counts: how many records each payload holds.
        appended: when the log took each payload, in microseconds.
        positions: the position of each record; they increase, and need not be dense.
        next: the position to go on from; it may lie far past the last record, also when there is none.
        skip: how many records of the first payload come before the position that was asked for.
    """

    topic: str
    partition: int
    payloads: list[bytes]
    encodings: list[Encoding]
    counts: Ints
    appended: Ints
    positions: Ints
    next: int
    skip: int = 0

    @classmethod
    def of(cls, topic: str, partition: int, batch: Batch, positions: Ints, appended: int) -> Self:
        """Make what a read of one batch would give, for those who have it without a log and go on nowhere.

        Args:
            topic: the topic it would be in.
            partition: the partition it would be in.
            batch: the batch.
            positions: a position for each of its records.
            appended: when it would have been appended, in microseconds.
        """
        counts, stamps = np.array([batch.count], np.int64), np.array([appended], np.int64)
        last = int(positions[-1])
        return cls(topic, partition, [batch.payload], [batch.encoding], counts, stamps, positions, last)

    @classmethod
    def none(cls, topic: str, partition: int, position: int) -> Self:
        """Make what a read gives that found nothing, and goes on from a position.

        Args:
            topic: the topic that was read.
            partition: the partition that was read.
            position: where to go on: the one that was asked for, unless the log has moved on past it.
        """
        nothing = np.empty(0, np.int64)
        return cls(topic, partition, [], [], nothing, nothing, nothing, position)

    def __len__(self) -> int:
        return len(self.positions)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Records):
            return NotImplemented
        return self._plain() == other._plain()

    def _plain(self) -> tuple[object, ...]:
        columns = (self.counts.tolist(), self.appended.tolist(), self.positions.tolist())
        place = (self.topic, self.partition, self.next, self.skip)
        return (*place, self.payloads, self.encodings, *columns)

    @property
    def firsts(self) -> Ints:
        """By payload, the position of the first of its records that was asked for."""
        begins = np.cumsum(self.counts) - self.counts
        begins[1:] -= self.skip
        found: Ints = self.positions[begins]
        return found

    def before(self, position: int) -> Records:
        """Those whose payload begins before a position, to which reading goes on then at the most."""
        if self.next <= position:
            return self
        firsts = self.firsts
        kept = int(np.searchsorted(firsts, position))
        rows = int(self.counts[:kept].sum()) - (self.skip if kept else 0)
        to = position
        if rows and self.positions[rows - 1] >= position:  # the last payload holds that position
            to = self.next if kept == len(firsts) else int(firsts[kept])
        return replace(
            self,
            payloads=self.payloads[:kept],
            encodings=self.encodings[:kept],
            counts=self.counts[:kept],
            appended=self.appended[:kept],
            positions=self.positions[:rows],
            next=to,
            skip=self.skip if kept else 0,
        )


class Behind(NamedTuple):
    """What a reader of a partition has still before it.

    Attributes:
        records: about how many records, those among them that have been trimmed too.
        since: when the oldest of them that is kept was appended, in microseconds; None when there is none.
    """

    records: int
    since: int | None


class Transaction(Protocol):
    """Appends and commits that happen all together or not at all, where the log is atomic.

    On a log that is not, what is appended is there when the block is over without an error, may be read before that,
    and may stay, in part or late, when there was one. A commit is a hint: it may be lost or come late, and whoever
    commits in the transaction in which he appends may find the one without the other.
    """

    def append(self, topic: str, partition: int, batch: Batch, arrival: int | None = None) -> int:
        """Append a batch and return the position of its first record; it is readable once the transaction is over.

        Args:
            topic: the topic to append to, one that is there.
            partition: which of its partitions, from 0 on.
            batch: at least one record, in at most `Log.largest` bytes.
            arrival: when it came (µs), where a broker has stamped it already; None for the log's clock, as by
                `Log.append`.

        Returns:
            int: the position; on a log that is not `atomic` the one that it has unless others append meanwhile.

        Raises:
            LogError: when there is no such topic or partition, or the batch is empty or larger than the log takes.
        """
        ...

    def commit(self, consumer: str, topic: str, partition: int, expected: int | None, position: int) -> None:
        """Move a consumer from the position it had read from to the one it is to go on from.

        Args:
            consumer: the consumer's name.
            topic: the topic that it reads.
            partition: the partition in which it moves.
            expected: the position committed before; None: it never committed.
            position: the next position it wants to read.

        Raises:
            Fenced: here or when the transaction ends, if the position is not `expected`: another worker has gone on.
            LogError: when there is no such topic or partition.
        """
        ...


class Log(Protocol):
    """A durable log of topics, each of some partitions; positions in a partition increase from 0 on.

    A stream's topic may get more partitions at any time, by `TopicAdmin.grow` or by whoever runs a broker, and never
    fewer: whoever works by partition asks anew how many there are, and reads one that has come from 0 on. The topics of
    features, runs, captures and checkpoints keep the number that they were made with.

    Positions are dense in no way: nobody but the log adds to one, subtracts two, or counts with them. A reader goes on
    from where the last read says, and asks the log how much it has before it. A consumer is a name; its committed
    position is the next one it wants to read.
    """

    @property
    def atomic(self) -> bool:
        """Whether a transaction happens wholly or not at all, so that committed positions are as good as the data.

        On a log of which this is not true nothing is read off committed positions but where to look first: records
        name where they come from, and whoever reads them leaves out what comes again and sees what is missing.
        """
        ...

    @property
    def largest(self) -> int:
        """The most bytes that the payload of one batch may have.

        Who appends cuts what is larger: events into several batches, a record into parts (`millstream.buffer.parts`).
        """
        ...

    def append(self, topic: str, partition: int, batch: Batch, arrival: int | None = None) -> int:
        """Append a batch and return the position of its first record; called by producers.

        It is durable when this returns.

        Args:
            topic: the topic to append to, one that is there.
            partition: which of its partitions, from 0 on.
            batch: at least one record, in at most `largest` bytes.
            arrival: the stamp (µs), when it comes from a foreign producer whose broker has stamped it already; None for
                the log's clock.

        Raises:
            LogError: when there is no such topic or partition, or the batch is empty or larger than the log takes.
            DiskFull: when there is no room; nothing was appended.
        """
        ...

    def read(self, topic: str, partition: int, position: int, limit: int) -> Records:
        """Return records from a position on, in whole payloads, and where to go on; called by consumers.

        The first payload is the one that holds `position` (`skip` says where) or the next one there is. Fewer records
        than asked for, or none, may come at any time, and `next` may have moved on even so. A log that has nothing yet
        may wait a moment before it says so, so that readers who ask again do not spin.

        Args:
            topic: the topic to read.
            partition: which of its partitions, from 0 on.
            position: where to begin; what lies from it on may not have been trimmed.
            limit: about how many records are wanted; the last payload comes whole.

        Raises:
            LogError: when there is no such topic or partition, or what was asked for has been trimmed.
        """
        ...

    def ends(self, topic: str) -> list[tuple[int, int]]:
        """Return, for each partition, the first position kept (0 until something is trimmed), and where it ends now.

        A reader that has reached the end has read all that was there; the records before it may take a moment to show.

        Args:
            topic: the topic, one that is there.

        Raises:
            LogError: when there is no such topic.
        """
        ...

    def behind(self, topic: str, partition: int, position: int) -> Behind:
        """Return what a reader at a position has still before it; called where lag is shown, or events are counted.

        Args:
            topic: the topic it reads.
            partition: which of its partitions, from 0 on.
            position: the next position it will read; it may have been trimmed, or lie at the end or beyond.

        Raises:
            LogError: when there is no such topic or partition.
        """
        ...

    def committed(self, consumer: str, topic: str) -> list[int | None]:
        """Return, for each partition, the position a consumer has committed; None where it never did.

        Args:
            consumer: the consumer's name, as it was committed under.
            topic: the topic it reads.

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
    """A log that can make, widen, trim and drop its own topics."""

    def create(self, topic: str, partitions: int) -> None:
        """Make a topic unless it is there; called when definitions are applied.

        Args:
            topic: the name of the topic.
            partitions: how many partitions it is to have, at least one.

        Raises:
            LogError: when it is there with another number of partitions.
        """
        ...

    def grow(self, topic: str, partitions: int) -> None:
        """Add partitions to a topic, empty ones, until it has so many; nothing happens where it has as many or more.

        What is there stays as it is, and where it is. Called for streams, and for their dead letters, which lie in a
        partition of the number that the event is in.

        Args:
            topic: the topic, one that is there.
            partitions: how many partitions it is to have at least.

        Raises:
            LogError: when there is no such topic.
        """
        ...

    def topics(self) -> dict[str, int]:
        """Return all topics with their numbers of partitions."""
        ...

    def trim(self, topic: str, partition: int, before: int) -> int:
        """Drop whole batches that end at or before a position, and return where the partition begins then.

        It begins at or before that position: whoever is to go on from there finds that nothing is missing. Called by
        retention.

        Args:
            topic: the topic, one that is there.
            partition: which of its partitions, from 0 on.
            before: the position before which nobody needs anything any more.

        Raises:
            LogError: when there is no such topic or partition.
        """
        ...

    def drop(self, topic: str) -> None:
        """Drop a topic, its records and the positions committed in it.

        Args:
            topic: the topic; one that is not there is no error.
        """
        ...


class OwnLog(Log, TopicAdmin, Shareable, Protocol):
    """A log whose topics are ours to make, to trim, and to share among workers."""


@runtime_checkable
class Continuing(Protocol):
    """A log in which a partition that holds nothing yet can take the place of one that has ended in another log."""

    def begin_beyond(self, topic: str, partition: int, position: int) -> int:
        """Let what is appended next have a position that nobody knows from another log, and return it.

        A read from any position up to there gives nothing, and goes on. Called by a migration, once for every partition
        of its new topics; doing it again changes nothing.

        Args:
            topic: the topic, one that is there.
            partition: which of its partitions, from 0 on.
            position: where the partition has ended in the other log.

        Raises:
            LogError: when there is no such topic or partition.
            DiskFull: when there is no room.
        """
        ...


@runtime_checkable
class Limited(Protocol):
    """A log with room for so much and no more."""

    def filled(self) -> float:
        """Return the share of its room that is taken, from 0 to 1; called by retention, which forgets early near 1."""
        ...


@runtime_checkable
class Watched(Protocol):
    """A log that tells whether anything has come, whatever the topic, without being asked for each."""

    def wait(self, seen: int | None, seconds: float) -> int:
        """Return a number that is another than before once something was appended or committed since.

        It may be another though nothing has come. Called before reading, with None, and by readers that have nothing to
        do.

        Args:
            seen: the number that was returned last; returns at once where it is another by now, as it is for None.
            seconds: how long to wait for another one at most.

        Raises:
            LogError: when the log cannot be read.
        """
        ...


@runtime_checkable
class EndsAtOnce(Protocol):
    """A log that is elsewhere, and says of many topics where they end by one request."""

    def ends_of(self, topics: Sequence[str]) -> dict[str, list[tuple[int, int]]]:
        """Return what `Log.ends` does, by topic. Called by ingestion at each step, with all topics that it reads.

        Args:
            topics: the topics, which are there.

        Raises:
            LogError: when one of them is not, or the log cannot be read.
        """
        ...


@runtime_checkable
class TimeIndex(Protocol):
    """A log that finds the place of an instant without reading."""

    def position_at(self, topic: str, partition: int, instant: int) -> int:
        """Return a position with whatever was appended at an instant or later at or after it.

        The nearest such position in a log whose clock never stepped back. Called by retention and the index of repeats.

        Args:
            topic: the topic to look in.
            partition: which of its partitions, from 0 on.
            instant: the instant (µs), by the clock that the log stamps with.

        Raises:
            LogError: when there is no such topic or partition.
        """
        ...


@runtime_checkable
class Tail(Protocol):
    """A log that finds the place of its newest records without reading."""

    def position_of_last(self, topic: str, partition: int, count: int) -> int:
        """Return a position with the last `count` records at or after it, and as few before them as is cheap.

        Called where the newest are looked at.

        Args:
            topic: the topic to look in.
            partition: which of its partitions, from 0 on.
            count: how many records; there may be fewer.

        Raises:
            LogError: when there is no such topic or partition.
        """
        ...
