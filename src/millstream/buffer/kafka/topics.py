"""The topics of a log on Kafka: making, widening, trimming and dropping them, and where they begin and end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import NewPartitions, NewTopic, OffsetSpec

from millstream.buffer.kafka.connection import PAUSE, Connection, kafka_error, may_pass
from millstream.buffer.kafka.messages import OVERHEAD, STRIDE
from millstream.buffer.kafka.names import topic_name, topic_of
from millstream.errors import LogError

KNOWN = 1.0
"""Seconds for which it is known which topics there are, and with how many partitions."""
_EVER = str(2**63 - 1)


class KafkaTopics:
    """A log's topics; see the protocol `TopicAdmin`.

    What is known of them is a moment old at most; a topic or partition that is not known is looked for anew.

    Args:
        connection: the cluster.
        prefix: what the names of the project's topics begin with.
        largest: the most bytes of a payload.
        replicas: on how many servers each topic is kept; as the cluster has it for 0.
    """

    def __init__(self, connection: Connection, prefix: str, largest: int, replicas: int) -> None:
        self._connection, self._prefix, self._largest, self._replicas = connection, prefix, largest, replicas
        self._known: dict[str, int] = {}
        self._made: set[str] = set()
        self._fresh_until, self._looking = 0.0, threading.Lock()

    def create(self, topic: str, partitions: int) -> None:
        """Make a topic unless it is there, and wait until it can be used; see `TopicAdmin.create`."""
        name, there = self._name(topic), self.topics().get(topic)
        if there is None:
            self._make(
                f"Topic '{topic}'",
                KafkaError.TOPIC_ALREADY_EXISTS,
                lambda: self._connection.admin.create_topics([self._new(name, partitions)]),
            )
            there = self._until_it_has(topic, 1)
        if there != partitions:
            raise LogError(
                f"Topic '{topic}' has {there} partitions, not {partitions}.",
                "give the stream another name, or as many partitions as it has.",
            )

    def grow(self, topic: str, partitions: int) -> None:
        """Add partitions to a topic until it has so many; see `TopicAdmin.grow`."""
        if self._partitions(topic, fresh=True) < partitions:
            new = NewPartitions(self._name(topic), partitions)
            self._make(
                f"Topic '{topic}'",
                KafkaError.INVALID_PARTITIONS,  # somebody else has added them
                lambda: self._connection.admin.create_partitions([new]),
            )
            self._until_it_has(topic, partitions)

    def topics(self) -> dict[str, int]:
        """Return all topics of the project with their numbers of partitions."""
        return dict(self._look())

    def trim(self, topic: str, partition: int, before: int) -> int:
        """Drop whole batches that end at or before a position; see `TopicAdmin.trim`."""
        self._check(topic, partition)
        first, following = self.ends(topic)[partition]
        if before > first:
            upto = TopicPartition(self._name(topic), partition, min(before, following) // STRIDE)
            (gone,) = self._connection.ask(
                f"Topic '{topic}', partition {partition}: trimming it",
                lambda: self._connection.admin.delete_records([upto]).values(),
            )
            first = gone.low_watermark * STRIDE
        return first

    def drop(self, topic: str) -> None:
        """Drop a topic, its records and the positions committed in it."""
        if topic in self._look():
            name = self._name(topic)
            self._make(
                f"Topic '{topic}'",
                KafkaError.UNKNOWN_TOPIC_OR_PART,
                lambda: self._connection.admin.delete_topics([name]),
            )
            self._until(lambda: topic not in self._look(), f"Topic '{topic}': that it is gone")

    def ends(self, topic: str) -> list[tuple[int, int]]:
        """Return each partition's first position kept and next position; see `Log.ends`."""
        return self.ends_of([topic])[topic]

    def ends_of(self, topics: Sequence[str]) -> dict[str, list[tuple[int, int]]]:
        """Return each partition's first position kept and next position, by topic; see `EndsAtOnce.ends_of`."""
        while True:
            partitions = {topic: self._partitions(topic) for topic in topics}
            try:
                return self._offsets(partitions) if topics else {}
            except LogError:
                there = self._look()
                if partitions == {topic: there.get(topic) for topic in topics}:
                    raise  # else another process has dropped one, or made it anew

    def position_at(self, topic: str, partition: int, instant: int) -> int:
        """Return the position of the first batch of an instant's millisecond or later; see `TimeIndex.position_at`."""
        self._check(topic, partition)
        place = TopicPartition(self._name(topic), partition)
        wanted = {place: OffsetSpec.for_timestamp(max(0, instant // 1_000))}
        (found,) = self._connection.ask(
            f"Topic '{topic}', partition {partition}: finding an instant",
            lambda: self._connection.admin.list_offsets(wanted).values(),
        )
        return found.offset * STRIDE if found.offset >= 0 else self.ends(topic)[partition][1]

    def position_of_last(self, topic: str, partition: int, count: int) -> int:
        """Return the position of the last `count` batches, each at least a record; see `Tail.position_of_last`."""
        self._check(topic, partition)
        first, following = self.ends(topic)[partition]
        return max(first, following - count * STRIDE)

    def _offsets(self, partitions: Mapping[str, int]) -> dict[str, list[tuple[int, int]]]:
        """Where each partition begins and ends, by topic."""
        places = [TopicPartition(self._name(topic), p) for topic, count in partitions.items() for p in range(count)]

        def request() -> list[Future[Any]]:
            admin = self._connection.admin
            begins = admin.list_offsets({place: OffsetSpec.earliest() for place in places})
            ends = admin.list_offsets({place: OffsetSpec.latest() for place in places})
            return [*(begins[place] for place in places), *(ends[place] for place in places)]

        name, *others = partitions
        what = f"Topic '{name}'" + (f" and {len(others)} others" if others else "")
        found = [one.offset * STRIDE for one in self._connection.ask(f"{what}: where it ends", request)]
        pairs = iter(zip(found[: len(places)], found[len(places) :], strict=True))
        return {topic: list(islice(pairs, count)) for topic, count in partitions.items()}

    def _check(self, topic: str, partition: int) -> None:
        """Refuse a topic or a partition that is not there."""
        partitions = self._partitions(topic)
        if partition >= partitions:
            partitions = self._partitions(topic, fresh=True)
        if not 0 <= partition < partitions:
            raise LogError(
                f"Topic '{topic}' has no partition {partition}; it has {partitions}.",
                "partitions are numbered from 0 on.",
            )

    def _partitions(self, topic: str, *, fresh: bool = False) -> int:
        if not fresh and time.monotonic() < self._fresh_until and topic in self._known:
            return self._known[topic]
        found = self._look().get(topic)
        if found is None:
            raise LogError(f"Topic '{topic}' is not in this log.", "apply the stream, group or model that it is of.")
        return found

    def _look(self) -> dict[str, int]:
        """Ask which topics there are."""
        began, there = time.monotonic(), self._there()
        found = {topic_of(self._prefix, name): partitions for name, partitions in there.items()}
        known = {topic: partitions for topic, partitions in found.items() if topic is not None}
        with self._looking:
            self._known, self._fresh_until = known, began + KNOWN
        return known

    def _there(self) -> dict[str, int]:
        """The topics of Kafka's that are the project's, those that it keeps for itself among them."""
        admin = self._connection.admin

        def listed() -> Any:
            return admin.list_topics(timeout=self._connection.seconds)

        there = self._connection.within("Topics", listed).topics.values()
        own = (f"{self._prefix}-", f"{self._prefix}.")
        return {
            one.topic: len(one.partitions)
            for one in there
            if one.error is None and one.partitions and one.topic.startswith(own)
        }

    def _new(self, name: str, partitions: int) -> NewTopic:
        """A topic that keeps what it is given until it is trimmed, whatever the clock that stamps it says."""
        config = {
            "cleanup.policy": "delete",
            "retention.ms": "-1",
            "retention.bytes": "-1",
            "segment.ms": _EVER,
            "message.timestamp.type": "CreateTime",
            "message.timestamp.after.max.ms": _EVER,
            "message.timestamp.before.max.ms": _EVER,
            "max.message.bytes": str(self._largest + 2 * OVERHEAD),
        }
        return NewTopic(name, partitions, replication_factor=self._replicas or -1, config=config)

    def _make(self, what: str, done: int, request: Callable[[], dict[str, Future[Any]]]) -> None:
        """Ask for a change that somebody else may have made already, which an error says then."""
        end = time.monotonic() + self._connection.seconds
        while True:
            for part in request().values():
                try:
                    part.result(self._connection.seconds)
                    return
                except (KafkaException, TimeoutError) as error:
                    found = kafka_error(error)
                    if found is not None and found.code() == done:
                        return
                    if not may_pass(error) or time.monotonic() >= end:
                        failure = self._connection.failure(what, error)
                        self._connection.give_up()
                        raise failure from None
            threading.Event().wait(PAUSE)

    def _make_own(self, name: str, config: Mapping[str, str]) -> None:
        """Make a topic of the log's own, of one partition, which is none of the project's, unless it is there."""
        if name not in self._made:
            topic = NewTopic(name, 1, replication_factor=self._replicas or -1, config=dict(config))
            self._make(
                f"Topic '{name}'",
                KafkaError.TOPIC_ALREADY_EXISTS,
                lambda: self._connection.admin.create_topics([topic]),
            )
            self._made.add(name)

    def _until_it_has(self, topic: str, partitions: int) -> int:
        self._until(
            lambda: self._look().get(topic, 0) >= partitions, f"Topic '{topic}': that it has {partitions} partitions"
        )
        self._offsets({topic: self._known[topic]})  # its leaders are known
        return self._known[topic]

    def _until(self, there: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + self._connection.seconds
        while not there():
            if time.monotonic() >= end:
                raise self._connection.failure(what, TimeoutError())
            threading.Event().wait(PAUSE)

    def _name(self, topic: str) -> str:
        return topic_name(self._prefix, topic)
