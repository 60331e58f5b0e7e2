"""Reading a topic's partitions, each from one offset on, by a client that is never told to go elsewhere.

A client that is has given messages of before. So whoever reads from another place gets a new one, and whatever a client
gives is the partition's own, in its order; offsets that it leaves out were compacted, are markers of transactions, or were
never committed.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from itertools import islice

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from millstream.buffer.kafka.connection import UNKNOWN, Connection, may_pass

HELD = 50_000
"""Messages that may be held of a partition of which nobody takes them."""
_GONE = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})


@dataclass
class Held:
    """What has come of a partition.

    Attributes:
        passed: the offset up to which the reader has come.
        next: the offset that comes next.
        messages: what lies between the two, in order.
        lost: that what comes next is not there, or the client does not know of the partition.
        stopped: that nothing more is fetched.
    """

    passed: int
    next: int
    messages: deque[Message] = field(default_factory=deque)
    lost: bool = False
    stopped: bool = False

    def pass_to(self, offset: int) -> None:
        """Let go of what lies before an offset."""
        while self.messages and (self.messages[0].offset() or 0) < offset:
            self.messages.popleft()
        self.passed = offset


class Fetching:
    """Fetches messages of one topic that were committed; used by one thread.

    Args:
        connection: the cluster.
        topic: the topic.
    """

    def __init__(self, connection: Connection, topic: str) -> None:
        self._connection, self._topic = connection, topic
        self._held: dict[int, Held] = {}
        self._consumer: Consumer | None = None

    def read(self, partition: int, offset: int, limit: int, end: int) -> tuple[list[Message], int] | None:
        """Return messages of a partition from an offset on, and the offset to go on from.

        Args:
            partition: the partition.
            offset: where to begin.
            limit: the most messages to return.
            end: where the partition ended when that was asked last; there is something before that, or it was left out.

        Returns:
            tuple[list[Message], int] | None: messages, none where there are none now; None where that offset is not there.

        Raises:
            LogError: when nothing comes in time, or the topic may not be read.
        """
        held = self._at(partition, offset)
        until = time.monotonic() + self._connection.seconds
        wait = 0.0
        while not held.messages and not held.lost:
            self._take(limit, wait)
            if held.messages or held.next >= end:
                break
            wait = until - time.monotonic()
            if wait <= 0:
                raise self._connection.failure(f"Topic '{self._topic}', partition {partition}", TimeoutError())
        if held.lost and not held.messages:
            self._held.pop(partition)
            self.close()
            return None
        taken = list(islice(held.messages, limit))
        return taken, (taken[-1].offset() or 0) + 1 if len(taken) < len(held.messages) else held.next

    def close(self) -> None:
        """Let go of the client."""
        consumer, self._consumer = self._consumer, None
        self._held = {}
        if consumer is not None:
            self._connection.within("Reading", consumer.close)

    def _at(self, partition: int, offset: int) -> Held:
        """What is held of a partition at an offset; where it was read elsewhere, of a new client."""
        held = self._held.get(partition)
        if held is not None and not (held.passed <= offset <= held.next):
            self.close()
            held = None
        elif held is not None:
            held.pass_to(offset)
            if held.stopped and not held.messages:
                self.close()
                held = None
        if held is None:
            consumer = self._opened()
            place = [TopicPartition(self._topic, partition, offset)]
            self._connection.within("Reading", lambda: consumer.incremental_assign(place))
            held = self._held[partition] = Held(offset, offset)
        return held

    def _take(self, limit: int, seconds: float) -> None:
        """Take what has come, of whatever partitions; wait for something."""
        consumer = self._opened()
        first = consumer.poll(seconds)
        if first is None:
            return
        for message in (first, *consumer.consume(limit, 0)):
            held, error = self._held.get(message.partition() or 0), message.error()
            if held is None or held.stopped:
                continue
            if error is None:
                held.messages.append(message)
                held.next = (message.offset() or 0) + 1
            else:
                self._heed(held, error, message.offset() or 0)
        for partition, held in self._held.items():
            if len(held.messages) > HELD and not held.stopped:
                held.stopped = True
                gone = [TopicPartition(self._topic, partition)]
                self._connection.within("Reading", lambda: consumer.incremental_unassign(gone))  # noqa: B023

    def _heed(self, held: Held, error: KafkaError, offset: int) -> None:
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            held.next = max(held.next, offset)
        elif code in _GONE or code in UNKNOWN:
            held.lost = True
        elif not may_pass(error):
            raise self._connection.failure(f"Topic '{self._topic}'", error)

    def _opened(self) -> Consumer:
        self._connection.check()
        if self._consumer is None:
            self._consumer = self._connection.client(
                Consumer,
                group_id="millstream",  # the client wants one; nothing is committed, and nobody joins
                enable_auto_commit=False,
                enable_auto_offset_store=False,
                auto_offset_reset="error",
                enable_partition_eof=True,
                check_crcs=True,
                isolation_level="read_committed",
                fetch_wait_max_ms=100,
                fetch_error_backoff_ms=25,
                queued_max_messages_kbytes=32_768,
                topic_metadata_refresh_interval_ms=60_000,
            )
        return self._consumer
