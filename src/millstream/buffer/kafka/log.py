"""The log on Kafka: appends by an idempotent producer, reads from any position, and workers that share partitions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from millstream.buffer.kafka.connection import Connection
from millstream.buffer.kafka.messages import HEADER, STRIDE, headers_of, records_of
from millstream.buffer.kafka.names import epochs_topic, topic_name, workers_group
from millstream.buffer.kafka.positions import Committed, Key
from millstream.buffer.kafka.producer import Appender, Outgoing
from millstream.buffer.kafka.reader import Reader
from millstream.buffer.kafka.topics import KafkaTopics
from millstream.buffer.kafka.watch import Watch
from millstream.buffer.kafka.worker import KafkaWorker
from millstream.buffer.log import Batch, Behind, Records, Transaction
from millstream.buffer.parts import LARGEST
from millstream.clock import Clock
from millstream.errors import LogError

_EPOCHS = {
    "cleanup.policy": "delete",
    "retention.ms": str(24 * 3_600_000),
    "message.timestamp.type": "LogAppendTime",
}
"""How Kafka keeps the topic of epochs, whose records nobody reads but people: its places go on when they are gone."""


_AT_ONCE = 10_000
"""Messages without records that are appended at once."""


class KafkaLog(KafkaTopics):
    """A project's log on a cluster; see the protocols `OwnLog`, `Continuing`, `TimeIndex` and `Tail`.

    It is not atomic, and uses no transactions of Kafka's: what they promise does not hold for a Python client. Every
    append is acknowledged by all replicas that are in sync. Any number of processes of any hosts use it at once.

    Args:
        servers: where the cluster is, "host:port" with commas between them.
        prefix: what the names of the project's topics and groups begin with.
        clock: what appends are stamped with.
        options: what every client is told beside that: how to encrypt, and who asks.
        largest: the most bytes of one batch (1 MB).
        replicas: on how many servers a new topic is kept; as the cluster has it for 0.
        compression: how Kafka packs messages: "none", "lz4", "zstd", "snappy" or "gzip".
        seconds: how long an answer of the cluster's is waited for.
        session: seconds after which a worker that gives no sign of life loses what it owns.

    Raises:
        LogError: when the settings make no client. Whether the cluster can be reached is seen when it is asked.
    """

    #: Transactions can come apart.
    atomic = False

    def __init__(
        self,
        servers: str,
        prefix: str,
        clock: Clock,
        *,
        options: Mapping[str, Any] | None = None,
        largest: int = LARGEST,
        replicas: int = 0,
        compression: str = "lz4",
        seconds: float = 15.0,
        session: float = 6.0,
    ) -> None:
        connection = Connection(servers, options or {}, seconds)
        super().__init__(connection, prefix, largest, replicas)
        self.largest, self._clock, self._session = largest, clock, session
        self._appender = Appender(connection, largest, compression)
        self._reader = Reader(connection, f"{prefix}.readers")
        self._positions = Committed(connection, prefix, self._appender, self._make_own)
        self._watch = Watch(connection, self._there)
        self._newest: dict[tuple[str, int], int] = {}

    def append(self, topic: str, partition: int, batch: Batch, arrival: int | None = None) -> int:
        """Append a batch, durably, and return the position of its first record; see `Log.append`."""
        (offset,) = self._append([self._outgoing(topic, partition, batch, arrival)])
        return offset * STRIDE

    def begin_beyond(self, topic: str, partition: int, position: int) -> int:
        """Append messages without records until a partition ends at a position or beyond; see `Continuing.begin_beyond`."""
        self._check(topic, partition)
        while True:
            following = self.ends(topic)[partition][1]
            if following >= position:
                return following
            lacking = -(-(position - following) // STRIDE)
            self._append([self._nothing(topic, partition)] * min(lacking, _AT_ONCE))

    def read(self, topic: str, partition: int, position: int, limit: int) -> Records:
        """Return whole batches from a position on, until they hold about `limit` records; see `Log.read`."""
        self._check(topic, partition)
        found = self._reader.read((self._name(topic), partition), position // STRIDE, limit)
        if found is None:
            first = self.ends(topic)[partition][0]
            if position < first:
                raise _trimmed(topic, partition, position, first)
            return Records.none(topic, partition, position)
        entries, following = found
        entries = [entry for entry in entries if entry.count]  # the others only take up positions
        if entries and entries[0].offset * STRIDE + entries[0].count <= position:
            entries = entries[1:]
        return records_of(topic, partition, entries, position, following)

    def behind(self, topic: str, partition: int, position: int) -> Behind:
        """Return about how many records lie after a position, and since when; see `Log.behind`."""
        self._check(topic, partition)
        first, following = self.ends(topic)[partition]
        if position >= following:
            return Behind(0, None)
        place = (self._name(topic), partition)
        since = self._reader.appended(place, max(first, position) // STRIDE, following // STRIDE)
        offset, number = divmod(position, STRIDE)
        records = round((following // STRIDE - offset) * self._reader.records_in(place)) - number
        return Behind(max(1, records), since)

    def committed(self, consumer: str, topic: str) -> list[int | None]:
        """Return each partition's committed position of a consumer; see `Log.committed`."""
        return self._positions.positions(consumer, topic, self._partitions(topic))

    def wait(self, seen: int | None, seconds: float) -> int:
        """Return another number once something was appended or committed; see `Watched.wait`."""
        return self._watch.wait(seen, seconds)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Open a transaction: at its end all batches are appended, and then the positions are committed."""
        work = _Work(self)
        yield work
        if work.outgoing:
            self._append(work.outgoing)
        if work.moves:
            self._positions.commit(work.moves)

    def drop(self, topic: str) -> None:
        """Drop a topic, its records and the positions committed in it."""
        super().drop(topic)
        self._positions.forget(topic)

    def worker(self, group: str, topics: Iterable[str], owner: str | None = None) -> KafkaWorker:
        """Join a group of workers, of processes of any hosts, that share some topics; see `Shareable.worker`."""
        names = {self._name(topic): topic for topic in topics}
        return KafkaWorker(
            self._connection,
            workers_group(self._prefix, group),
            names,
            owner,
            self._begin_epoch,
            self.transaction,
            self._session,
        )

    def close(self) -> None:
        """Let go of the cluster; what was acknowledged is durable. A second call does nothing."""
        self._appender.close()
        self._reader.close()
        self._positions.close()

    def _append(self, outgoing: list[Outgoing]) -> list[int]:
        names = sorted({one.topic for one in outgoing})
        offsets = self._appender.append(f"Appending to {', '.join(map(repr, names))}", outgoing)
        for one, offset in zip(outgoing, offsets, strict=True):
            self._newest[one.topic, one.partition] = offset + 1
        return offsets

    def _outgoing(self, topic: str, partition: int, batch: Batch, arrival: int | None) -> Outgoing:
        """A batch as a message, if it is one that the log takes."""
        self._check(topic, partition)
        if not 0 < batch.count < STRIDE:
            raise LogError(
                f"Topic '{topic}': a batch of {batch.count} records; it must have from 1 to {STRIDE - 1:,}.",
                "append what there is in several batches, and nothing where there is nothing.",
            )
        if len(batch.payload) > self.largest:
            raise LogError.too_large(f"Topic '{topic}': a batch", len(batch.payload), self.largest)
        appended = self._clock.now() if arrival is None else arrival
        return Outgoing(
            topic_name(self._prefix, topic), partition, batch.payload, headers_of(batch, appended), appended
        )

    def _nothing(self, topic: str, partition: int) -> Outgoing:
        """A message that holds no record, and takes up as many positions as any."""
        now = self._clock.now()
        return Outgoing(topic_name(self._prefix, topic), partition, b"", headers_of(Batch(b"", "bytes", 0), now), now)

    def _following(self, topic: str, partition: int) -> int:
        """The offset that a message gets which is appended next, if nobody else appends."""
        known = self._newest.get((self._name(topic), partition))
        return self.ends(topic)[partition][1] // STRIDE if known is None else known

    def _begin_epoch(self, said: bytes) -> int:
        """Say who owns what in the topic of epochs, which is made the first time; return the place."""
        name = epochs_topic(self._prefix)
        self._make_own(name, _EPOCHS)
        message = Outgoing(name, 0, said, [(HEADER, b"epoch")], self._clock.now())
        return self._appender.append(f"Appending to '{name}'", [message])[0]


class _Work:
    """Gathers what a transaction is to do."""

    def __init__(self, log: KafkaLog) -> None:
        self._log = log
        self.outgoing: list[Outgoing] = []
        self.moves: dict[Key, int | None] = {}
        self._gathered: Counter[tuple[str, int]] = Counter()

    def append(self, topic: str, partition: int, batch: Batch, arrival: int | None = None) -> int:
        """Append a batch and return the position that its first record has if nobody else appends meanwhile."""
        self.outgoing.append(self._log._outgoing(topic, partition, batch, arrival))
        self._gathered[topic, partition] += 1
        return (self._log._following(topic, partition) + self._gathered[topic, partition] - 1) * STRIDE

    def commit(self, consumer: str, topic: str, partition: int, expected: int | None, position: int) -> None:
        """Move a consumer to a position, wherever it is by then."""
        self._log._check(topic, partition)
        self.moves[consumer, topic, partition] = position


def _trimmed(topic: str, partition: int, position: int, first: int) -> LogError:
    return LogError(
        f"Topic '{topic}', partition {partition}: position {position} has been trimmed; the first kept is {first}.",
        f"read from {first} on, and what comes before it from the archive.",
    )
