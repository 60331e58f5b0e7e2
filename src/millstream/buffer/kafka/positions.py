"""The positions that consumers have committed: the newest record of each in a compacted topic, which every process follows.

Offsets of Kafka's groups are not used: the client ends the process where it asks for them while a server is starting, and
Kafka forgets them after a week.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

from millstream.buffer.kafka.connection import SURE, Connection, may_pass
from millstream.buffer.kafka.names import positions_topic
from millstream.buffer.kafka.producer import Appender, Outgoing

Key = tuple[str, str, int]
"""A consumer, a topic and a partition."""
CONFIG = {
    "cleanup.policy": "compact",
    "segment.bytes": str(4 << 20),
    "min.cleanable.dirty.ratio": "0.2",
    "message.timestamp.type": "LogAppendTime",
}
"""How Kafka keeps the topic: what is newest of each key, and not much more to read where a process starts."""
AT_ONCE = 1_000
"""Messages taken from the client at once."""


class Committed:
    """Keeps consumers' positions; any number of threads share it.

    They are hints: nothing is compared, and what another process has committed shows a moment later.

    Args:
        connection: the cluster.
        prefix: what the names of the project's topics and groups begin with.
        appender: appends what is committed.
        make: makes a topic of Kafka's, by its name and its settings, unless it is there.
    """

    def __init__(
        self, connection: Connection, prefix: str, appender: Appender, make: Callable[[str, Mapping[str, str]], None]
    ) -> None:
        self._connection, self._appender, self._make = connection, appender, make
        self._name, self._group = positions_topic(prefix), f"{prefix}.readers"
        self._told: dict[Key, tuple[int, int | None]] = {}
        self._consumer: Consumer | None = None
        self._next, self._heard, self._asked = 0, 0.0, False
        self._lock = threading.Lock()

    def positions(self, consumer: str, topic: str, partitions: int) -> list[int | None]:
        """Return, by partition, the position that a consumer has committed; None where it never did.

        Args:
            consumer: the consumer's name.
            topic: the topic it reads.
            partitions: how many partitions to answer for, as many as the topic has.

        Raises:
            LogError: when the topic of positions cannot be read.
        """
        with self._lock:
            self._follow()
            return [self._told.get((consumer, topic, p), (0, None))[1] for p in range(partitions)]

    def commit(self, moves: Mapping[Key, int | None]) -> None:
        """Let consumers stand where they are told to.

        Args:
            moves: by consumer, topic and partition, the position; None where it is to be forgotten.
        """
        self._make(self._name, CONFIG)
        messages = [
            Outgoing(self._name, 0, b"" if at is None else b"%d" % at, [], 0, key=json.dumps(key).encode())
            for key, at in moves.items()
        ]
        offsets = self._appender.append("Committing positions", messages)
        with self._lock:
            for (key, at), offset in zip(moves.items(), offsets, strict=True):
                self._take(key, offset, at)

    def forget(self, topic: str) -> None:
        """Forget what was committed in a topic, which is gone."""
        with self._lock:
            self._follow()
            gone: dict[Key, int | None] = {
                key: None for key, (_, at) in self._told.items() if key[1] == topic and at is not None
            }
        if gone:
            self.commit(gone)

    def close(self) -> None:
        """Follow no more."""
        with self._lock:
            consumer, self._consumer = self._consumer, None
            if consumer is not None:
                self._connection.within("Positions", consumer.close)

    def _follow(self) -> None:
        """Take what has come; the first time all that is there."""
        self._connection.check()
        if self._consumer is None:
            self._begin()
            return
        while messages := self._consumer.consume(AT_ONCE, 0):
            for message in messages:
                self._heed(message)
        silent = time.monotonic() - self._heard
        if self._asked and silent > SURE + self._connection.seconds:
            consumer, self._consumer = self._consumer, None
            self._connection.within("Positions", consumer.close)
            self._begin()
        elif not self._asked and silent > SURE:
            self._consumer.assign([TopicPartition(self._name, 0, self._next)])
            self._asked = True

    def _begin(self) -> None:
        self._make(self._name, CONFIG)
        consumer = self._connection.client(
            Consumer,
            group_id=self._group,
            enable_auto_commit=False,
            enable_auto_offset_store=False,
            auto_offset_reset="earliest",
            enable_partition_eof=True,
            check_crcs=True,
            fetch_wait_max_ms=100,
            fetch_error_backoff_ms=25,
        )
        try:
            self._read_all(consumer)
        except BaseException:
            self._connection.within("Positions", consumer.close)
            raise
        self._consumer = consumer

    def _read_all(self, consumer: Consumer) -> None:
        """Take all that is there; whoever has read only some of it must not take that for all."""
        consumer.assign([TopicPartition(self._name, 0, OFFSET_BEGINNING)])
        end = time.monotonic() + self._connection.seconds
        while (left := end - time.monotonic()) > 0:
            message = consumer.poll(left)
            if message is not None and self._heed(message):
                return
        raise self._connection.failure("Positions", TimeoutError())

    def _heed(self, message: Message) -> bool:
        """Take note of a message; returns whether it says that there are no more."""
        error = message.error()
        if error is None or error.code() == KafkaError._PARTITION_EOF:
            self._next = (message.offset() or 0) + (error is None)
            self._heard, self._asked = time.monotonic(), False
        if error is None:
            consumer, topic, partition = json.loads(message.key() or b"")
            value = message.value()
            self._take((consumer, topic, partition), message.offset() or 0, int(value) if value else None)
        elif error.code() != KafkaError._PARTITION_EOF and not may_pass(error):
            raise self._connection.failure("Positions", error)
        return error is not None and error.code() == KafkaError._PARTITION_EOF

    def _take(self, key: Key, offset: int, at: int | None) -> None:
        """Keep what was said last."""
        if offset >= self._told.get(key, (-1, None))[0]:
            self._told[key] = (offset, at)
