"""A worker as a member of one of Kafka's groups: partitions move by cooperative rebalancing, under epochs that only grow."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from confluent_kafka import OFFSET_END, Consumer, KafkaError, TopicPartition

from millstream.buffer.kafka.connection import SURE, Connection, may_pass
from millstream.buffer.log import Transaction
from millstream.buffer.worker import Owned
from millstream.errors import LogError

AT_ONCE = 100
"""Events of the group that are heeded in one call at most."""
JOINING = 0.02
"""Seconds that a call waits for news while nothing is owned."""


class KafkaWorker:
    """A member of a group; see the protocol `Worker`.

    It hears of what comes and goes when it asks, and then gives up what is to go to others. What it has come to own it
    says in a record of the group's epochs, and the record's place is the epoch: no other has it, and it only grows.

    Args:
        connection: the cluster.
        group: the group, as Kafka calls it.
        topics: by what Kafka calls it, each topic that is read, as Millstream calls it.
        owner: a name to be known by.
        begin: appends what is said to the epochs, and returns the place.
        transaction: opens a transaction of the log.
        seconds: after how many seconds without a sign of life the member has lost all that it owned.
    """

    def __init__(
        self,
        connection: Connection,
        group: str,
        topics: dict[str, str],
        owner: str | None,
        begin: Callable[[bytes], int],
        transaction: Callable[[], AbstractContextManager[Transaction]],
        seconds: float,
    ) -> None:
        self._connection, self._group, self._topics, self._owner = connection, group, topics, owner
        self._begin, self._transaction, self._seconds = begin, transaction, seconds
        self._owned: dict[tuple[str, int], int | None] = {}
        self._consumer: Consumer | None = None
        self._closed = False
        self._looked = time.monotonic()
        if topics:
            self._join()

    def assigned(self) -> Owned:
        """Return what this member owns now."""
        if self._closed or not self._topics:
            return {}
        consumer = self._consumer or self._join()
        wait = 0.0 if self._owned else JOINING
        for _ in range(AT_ONCE):
            message = consumer.poll(wait)
            if message is None:
                break
            error, wait = message.error(), 0.0
            if error is not None:
                self._heed(error)
        self._begin_epochs()
        self._look_again(consumer)
        owned: dict[str, dict[int, int]] = {}
        for (name, partition), epoch in self._owned.items():
            if epoch is not None:
                owned.setdefault(self._topics[name], {})[partition] = epoch
        return owned

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Open a transaction of the log; nobody is fenced, and records name where they come from."""
        return self._transaction()

    def close(self) -> None:
        """Leave the group."""
        self._closed = True
        self._leave()

    def _join(self) -> Consumer:
        consumer = self._connection.client(
            Consumer,
            group_id=self._group,
            client_id=f"millstream-{self._owner}" if self._owner else "millstream",
            partition_assignment_strategy="cooperative-sticky",
            session_timeout_ms=int(self._seconds * 1_000),
            heartbeat_interval_ms=max(100, min(500, int(self._seconds * 100))),
            max_poll_interval_ms=900_000,
            enable_auto_commit=False,
            enable_auto_offset_store=False,
            auto_offset_reset="latest",
            topic_metadata_refresh_interval_ms=2_000,
        )
        consumer.subscribe(list(self._topics), on_assign=self._gain, on_revoke=self._lose, on_lost=self._lose_at_once)
        self._consumer, self._owned = consumer, {}
        return consumer

    def _gain(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Partitions are this member's; no record of them is to come by this client."""
        for one in partitions:
            self._owned[one.topic, one.partition] = None
        there = [TopicPartition(one.topic, one.partition, OFFSET_END) for one in partitions]
        consumer.incremental_assign(there)
        consumer.pause(there)

    def _lose(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Partitions are to go to others, who get them once this is said."""
        for one in partitions:
            self._owned.pop((one.topic, one.partition), None)
        consumer.incremental_unassign(partitions)

    def _lose_at_once(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Partitions have gone to others long since."""
        self._lose(consumer, partitions)

    def _begin_epochs(self) -> None:
        """Give an epoch to what has none, one for all: what this member says is the newest record of the group's."""
        fresh = [place for place, epoch in self._owned.items() if epoch is None]
        if fresh:
            said = {"group": self._group, "owner": self._owner, "partitions": sorted(fresh)}
            epoch = self._begin(json.dumps(said).encode())
            self._owned |= dict.fromkeys(fresh, epoch)

    def _look_again(self, consumer: Consumer) -> None:
        """Join anew where nothing is owned for long, and the group does not know of this member."""
        now = time.monotonic()
        if self._owned:
            self._looked = now
        if now - self._looked > SURE:
            self._looked = now
            asked = [self._group]
            (found,) = self._connection.ask(
                f"Group '{self._group}'", lambda: self._connection.admin.describe_consumer_groups(asked).values()
            )
            if consumer.memberid() not in {member.member_id for member in found.members}:
                self._leave()

    def _heed(self, error: KafkaError) -> None:
        """Join anew where the client cannot go on; raise what only people can mend."""
        if error.fatal() or error.code() == KafkaError.FENCED_INSTANCE_ID:
            self._leave()
        elif error.code() not in _BY_ITSELF and not may_pass(error):
            raise self._connection.failure(f"Group '{self._group}'", error)

    def _leave(self) -> None:
        consumer, self._consumer, self._owned = self._consumer, None, {}
        if consumer is not None:
            with contextlib.suppress(LogError, RuntimeError):
                self._connection.within(f"Group '{self._group}'", consumer.close)


_BY_ITSELF = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._MAX_POLL_EXCEEDED,
        KafkaError._PARTITION_EOF,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._AUTO_OFFSET_RESET,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.OFFSET_OUT_OF_RANGE,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.UNKNOWN_MEMBER_ID,
    }
)
"""After which a client goes on by itself."""
