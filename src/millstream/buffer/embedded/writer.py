"""What is appended and committed in one transaction of the embedded log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from millstream.buffer.embedded import rows as stored
from millstream.buffer.embedded.partitions import commit_key, committed_by, ends_of, owned_by, put_ends, topic_of
from millstream.buffer.embedded.rows import Damaged
from millstream.buffer.log import Batch
from millstream.clock import Clock
from millstream.errors import Fenced, LogError

if TYPE_CHECKING:
    import lmdb


class Writer:
    """Appends and commits within one write transaction; see the protocol `Transaction`.

    Args:
        rows: the write transaction of the table.
        clock: what batches are stamped with that have no arrival.
        largest: the most bytes of a batch; any size unless given.
    """

    def __init__(self, rows: lmdb.Transaction, clock: Clock, largest: int | None = None) -> None:
        self._rows = rows
        self._clock = clock
        self._largest = largest
        self.appended = 0
        self.committed = False
        self._topics: dict[str, tuple[int, int]] = {}
        self._ends: dict[tuple[str, int], tuple[int, int]] = {}
        self._stamps: dict[tuple[str, int, int], int] = {}

    def append(self, topic: str, partition: int, batch: Batch, arrival: int | None = None) -> int:
        """Append a batch and return the position of its first record; see `Transaction.append`."""
        if batch.count < 1:
            raise LogError(
                f"Topic '{topic}': the batch holds {batch.count} records; expected at least 1.",
                "append nothing instead.",
            )
        if self._largest is not None and len(batch.payload) > self._largest:
            raise LogError.too_large(f"Topic '{topic}': a batch", len(batch.payload), self._largest)
        number, (first, position) = self._place(topic, partition)
        stamp = self._clock.now() if arrival is None else arrival
        if self._steps_back((topic, number, partition), (first, position), stamp):
            stored.put_step_back(self._rows, (number, partition, position))
        stored.put_batch(self._rows, (number, partition, position), batch, stamp)
        self._ends[topic, partition] = first, position + batch.count
        self.appended += len(batch.payload)
        return position

    def commit(self, consumer: str, topic: str, partition: int, expected: int | None, position: int) -> None:
        """Move a consumer's position from `expected` to `position`, or refuse; see `Transaction.commit`."""
        number, _ = self._place(topic, partition)
        found = committed_by(self._rows, consumer, topic, number, partition)
        if found != expected:
            raise fenced(consumer, topic, partition, expected, found)
        key = commit_key(number, partition, consumer)
        self._rows.put(key, stored.seal(key, stored.POSITION.pack(position)))
        self.committed = True

    def owner(self, group: str, topic: str, partition: int) -> tuple[int, bytes]:
        """Return the epoch of a partition in a group of workers, and who owns it; 0 and `FREE` where nobody ever did.

        Args:
            group: the name of the group.
            topic: the topic.
            partition: which of its partitions.

        Raises:
            LogError: when there is no such topic or partition.
        """
        number, _ = self._place(topic, partition)
        return owned_by(self._rows, group, number, (topic, partition))

    def _steps_back(self, place: tuple[str, int, int], ends: tuple[int, int], stamp: int) -> bool:
        """Whether what comes next was appended, by the clock, before what came last."""
        first, position = ends
        before = self._stamps.get(place)
        if before is None and first < position:
            try:
                before = stored.oldest(self._rows, place, position - 1, position)
            except Damaged:
                before = stamp + 1  # nobody can tell: a step too many does no harm
        self._stamps[place] = stamp
        return before is not None and stamp < before

    def finish(self) -> None:
        """Write where the partitions end that were appended to; called at the end of the transaction."""
        for (topic, partition), (first, following) in self._ends.items():
            put_ends(self._rows, self._topics[topic][0], partition, first, following)

    def _place(self, topic: str, partition: int) -> tuple[int, tuple[int, int]]:
        """The number of a topic and the ends of a partition as this transaction has left them."""
        known = self._topics.get(topic)
        if known is None:
            known = self._topics[topic] = topic_of(self._rows, topic)
        ends = self._ends.get((topic, partition))
        if ends is None:
            ends = ends_of(self._rows, topic, *known, partition)
        return known[0], ends


def fenced(consumer: str, topic: str, partition: int, expected: int | None, found: int | None) -> Fenced:
    """Return what is said to a worker whose position another has moved.

    Args:
        consumer: the consumer that was to move.
        topic: the topic it reads.
        partition: the partition in which it was to move.
        expected: where the worker believed it to be; None: it never committed.
        found: where it is; None as well.
    """
    return Fenced(
        f"Consumer '{consumer}' on topic '{topic}', partition {partition}, is at {found}, not at {expected}: "
        "another worker has gone on.",
        "discard this batch and read again from the committed position.",
    )
