"""Appending to topics of Kafka: by an idempotent producer without transactions, which is replaced after any error."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as Delivered

from millstream.buffer.kafka.connection import UNKNOWN, Connection, kafka_error
from millstream.buffer.kafka.messages import OVERHEAD
from millstream.errors import LogError

POLL = 0.01
"""Seconds between two looks whether another thread was told what this one waits for."""


class Outgoing(NamedTuple):
    """A message to be appended.

    Attributes:
        topic: its topic, as Kafka calls it.
        partition: its partition.
        payload: its bytes.
        headers: what is kept beside them.
        appended: when the log takes it, in microseconds.
        key: what tells it from others in a compacted topic; none elsewhere.
    """

    topic: str
    partition: int
    payload: bytes
    headers: list[tuple[str, str | bytes | None]]
    appended: int
    key: bytes | None = None


class Appender:
    """Appends messages, each once unless a server or the network fails; any number of threads share it.

    Within a partition they lie in the order in which they were given. What was not acknowledged may be there all the
    same, now or later: a producer that has met an error is emptied and replaced, and what it has sent cannot be called
    back. So whoever appends again names where it comes from.

    Args:
        connection: the cluster.
        largest: the most bytes of a payload.
        compression: how Kafka packs messages, such as "lz4".
    """

    def __init__(self, connection: Connection, largest: int, compression: str) -> None:
        self._connection, self._largest, self._compression = connection, largest, compression
        self._lock = threading.Lock()
        self._producer: Producer | None = None

    def append(self, what: str, messages: Sequence[Outgoing]) -> list[int]:
        """Append some messages, and return the offset of each once all are durable.

        Args:
            what: what they are, for an error to say.
            messages: the messages.

        Raises:
            LogError: when one of them was not acknowledged in time; each of them may be there or not.
        """
        producer, told = self._current(), _Told(len(messages))
        end = time.monotonic() + self._connection.seconds
        try:
            for number, message in enumerate(messages):
                self._send(producer, message, told.of(number), end)
            while told.missing and time.monotonic() < end:
                producer.poll(POLL)
        except (KafkaException, BufferError) as error:
            self._replace(producer)
            raise self._connection.failure(what, error) from None
        if told.missing or told.error is not None:
            failure = self._connection.failure(what, told.error or TimeoutError())
            self._replace(producer)  # which tells of what was not sent, too
            raise failure
        return told.offsets

    def close(self) -> None:
        """Let go of the producer; what was acknowledged is durable."""
        with self._lock:
            producer, self._producer = self._producer, None
        if producer is not None:
            self._empty(producer)

    def _current(self) -> Producer:
        self._connection.check()
        with self._lock:
            if self._producer is None:
                self._producer = self._connection.client(
                    Producer,
                    enable_idempotence=True,
                    acks="all",
                    linger_ms=0,
                    compression_type=self._compression,
                    message_max_bytes=self._largest + OVERHEAD,
                    message_timeout_ms=int(self._connection.seconds * 1_000),
                    request_timeout_ms=int(self._connection.seconds * 1_000),
                    queue_buffering_max_messages=1_000_000,
                )
            return self._producer

    def _send(self, producer: Producer, message: Outgoing, tell: _Tell, end: float) -> None:
        """Hand a message to the producer: where it is full, once some have gone; where it is behind, once it has looked."""
        while True:
            try:
                producer.produce(
                    message.topic,
                    message.payload,
                    message.key,
                    partition=message.partition,
                    headers=message.headers,
                    timestamp=max(0, message.appended // 1_000),
                    on_delivery=tell,
                )
                return
            except BufferError:
                if time.monotonic() >= end:
                    raise
                producer.poll(POLL)
            except KafkaException as error:
                found = kafka_error(error)
                if found is None or found.code() not in UNKNOWN or time.monotonic() >= end:
                    raise
                look = partial(producer.list_topics, message.topic, timeout=self._connection.seconds)
                self._connection.within("Appending", look)

    def _replace(self, producer: Producer) -> None:
        with self._lock:
            if self._producer is producer:
                self._producer = None
        self._empty(producer)

    def _empty(self, producer: Producer) -> None:
        """Let nothing go out any more that has not gone."""

        def purge() -> None:
            producer.purge()
            producer.poll(0)

        with suppress(LogError, KafkaException):
            self._connection.within("Appending", purge)


class _Told:
    """What was told of some messages."""

    def __init__(self, count: int) -> None:
        self.offsets, self.missing = [-1] * count, count
        self.error: KafkaError | None = None

    def of(self, number: int) -> _Tell:
        """What takes note of one of them."""

        def tell(error: KafkaError | None, message: Delivered) -> None:
            self.missing -= 1
            if error is not None:
                self.error = error
            else:
                self.offsets[number] = message.offset() or 0

        return tell


_Tell = Callable[[KafkaError | None, Delivered], None]
