"""Reading partitions of Kafka from any position: a client's stream of messages, parted into one cursor for each partition."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from millstream.buffer.kafka.connection import SURE, UNKNOWN, Connection, may_pass
from millstream.buffer.kafka.messages import Entry, entry_of

Place = tuple[str, int]
AT_ONCE = 1_000
"""Messages taken from the client at once."""
HELD = 8 << 20
"""Bytes that may be held of a partition of which nobody takes them."""
ALL_HELD = 64 << 20
"""Bytes that may be held of all partitions together; those that were read longest ago are forgotten first."""
IDLE = 10.0
"""Seconds after which a partition that nobody reads is not fetched any more."""
LOOK = 1.0
"""Seconds that an answer is waited for who leads a topic that is read for the first time."""

_GONE = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE, KafkaError.UNKNOWN_TOPIC_OR_PART})
"""What is said of an offset, or a topic, that is not there."""


@dataclass
class Cursor:
    """What has come of one partition.

    Attributes:
        next: the offset that comes next.
        held: what has come and was not passed by a reader, in order.
        size: the bytes of that.
        fetched: whether the client goes on to fetch.
        ended: whether the partition's end was met, and nothing has come since.
        lost: that what comes next is not there: it was trimmed, or never written.
        read: when somebody read here last.
        heard: when the client last said something of it, or was last told to fetch it.
    """

    next: int
    held: deque[Entry] = field(default_factory=deque)
    size: int = 0
    fetched: bool = False
    ended: bool = False
    lost: bool = False
    read: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)

    def covers(self, offset: int) -> bool:
        """Whether a reader can go on at an offset."""
        return not self.lost and (self.held[0].offset if self.held else self.next) <= offset <= self.next

    def take(self, entry: Entry) -> None:
        """Hold what has come."""
        self.held.append(entry)
        self.size += len(entry.payload)
        self.next, self.ended, self.heard = entry.offset + 1, False, time.monotonic()

    def pass_to(self, offset: int) -> None:
        """Let go of what lies before an offset."""
        while self.held and self.held[0].offset < offset:
            self.size -= len(self.held.popleft().payload)
        self.read = time.monotonic()


class Cursors:
    """One client of Kafka that fetches some partitions, each from one offset on; used by one thread at a time.

    What comes is never taken on trust: clients have given messages of before they were told to go elsewhere. So offsets
    must follow each other, and a gap is believed when a client that has read nothing else sees it too.

    Args:
        connection: the cluster.
        group: a group's name, which Kafka wants of every reader; nothing is committed.
        counted: told of each entry that comes, with its place.
    """

    def __init__(self, connection: Connection, group: str, counted: Callable[[Place, Entry], None]) -> None:
        self._connection, self._group, self._counted = connection, group, counted
        self._cursors: dict[Place, Cursor] = {}
        self._gaps: dict[tuple[Place, int], int] = {}
        self._met: set[str] = set()
        self._consumer = self._opened()

    def cursor(self, place: Place) -> Cursor | None:
        """The cursor of a partition, if it has one."""
        return self._cursors.get(place)

    def begin(self, place: Place, offset: int) -> Cursor:
        """Let a partition be fetched from an offset on, whatever was before."""
        self.forget(place)
        now = time.monotonic()
        for other, cursor in list(self._cursors.items()):
            if now - cursor.read > IDLE:
                self.forget(other)
        self._cursors[place] = Cursor(offset)
        return self._cursors[place]

    def forget(self, place: Place) -> None:
        """Let go of a partition."""
        cursor = self._cursors.pop(place, None)
        if cursor is not None:
            self._stop(place, cursor)

    def fetch(self, place: Place, seconds: float) -> None:
        """Take what has come of all partitions, and wait for something, or its end, of one.

        Args:
            place: the one.
            seconds: how long to wait.

        Raises:
            LogError: when Kafka does not allow it.
        """
        cursor, end = self._cursors[place], time.monotonic() + seconds
        self._start(place, cursor)
        before = cursor.next
        while True:
            message = self._consumer.poll(max(0.0, end - time.monotonic()))
            if message is None:
                self._look_again(place, self._cursors.get(place, cursor))
                return
            for one in (message, *self._consumer.consume(AT_ONCE, 0)):
                self._sort(one)
            cursor = self._cursors.get(place, cursor)
            if cursor.next != before or cursor.ended or cursor.lost or not cursor.fetched:
                break
        self._keep_within(place)

    def close(self) -> None:
        """Let go of the client."""
        self._connection.within("Reading", self._consumer.close)

    def _sort(self, message: Message) -> None:
        """Give a message to the cursor that it is of."""
        place = (message.topic() or "", message.partition() or 0)
        cursor, error = self._cursors.get(place), message.error()
        if error is not None:
            self._heed(place, cursor, error, message.offset() or 0)
        elif cursor is not None and cursor.fetched and (message.offset() or 0) >= cursor.next:
            entry = entry_of(message)
            if entry.offset == cursor.next or self._gaps.get((place, cursor.next)) == entry.offset:
                cursor.take(entry)
                self._counted(place, entry)
            else:
                self._gaps[place, cursor.next] = entry.offset
                self._anew()

    def _heed(self, place: Place, cursor: Cursor | None, error: KafkaError, offset: int) -> None:
        code = error.code()
        if cursor is None or not cursor.fetched:
            return
        if code == KafkaError._PARTITION_EOF:
            if offset >= cursor.next:
                cursor.next, cursor.ended, cursor.heard = offset, True, time.monotonic()
        elif code in UNKNOWN or code in _GONE:
            cursor.lost = True
            if code in UNKNOWN:
                look = partial(self._consumer.list_topics, place[0], timeout=self._connection.seconds)
                self._connection.within("Reading", look)
        elif not may_pass(error):
            raise self._connection.failure(f"Topic '{place[0]}'", error)

    def _look_again(self, place: Place, cursor: Cursor) -> None:
        """Meet an end anew that was met long ago; where not even that comes, read on with another client."""
        silent = time.monotonic() - cursor.heard
        if cursor.ended and silent > SURE:
            self._stop(place, cursor)
            self._start(place, cursor)
        elif cursor.fetched and not cursor.ended and silent > self._connection.seconds:
            self._anew()

    def _anew(self) -> None:
        """Read on with a client that has read nothing before; what is held stays."""
        old, self._consumer = self._consumer, self._opened()
        self._met.clear()
        for cursor in self._cursors.values():
            cursor.fetched = False
        self._connection.within("Reading", old.close)

    def _start(self, place: Place, cursor: Cursor) -> None:
        if not cursor.fetched:
            self._connection.within("Reading", lambda: self._assign(place, cursor.next))
            cursor.fetched, cursor.ended, cursor.heard = True, False, time.monotonic()

    def _assign(self, place: Place, offset: int) -> None:
        """Let the client fetch a partition; of a topic that it has not met it would look for the leader a second later."""
        if place[0] not in self._met:
            with suppress(KafkaException):  # then it looks by itself
                self._consumer.list_topics(place[0], timeout=LOOK)
                self._met.add(place[0])
        self._consumer.incremental_assign([TopicPartition(*place, offset)])

    def _stop(self, place: Place, cursor: Cursor) -> None:
        if cursor.fetched:
            given = [TopicPartition(*place)]
            self._connection.within("Reading", lambda: self._consumer.incremental_unassign(given))
            cursor.fetched = False

    def _keep_within(self, read: Place) -> None:
        """Hold no more of what nobody takes than there is room for."""
        for place, cursor in self._cursors.items():
            if place != read and cursor.size > HELD:
                self._stop(place, cursor)
        while sum(cursor.size for cursor in self._cursors.values()) > ALL_HELD and len(self._cursors) > 1:
            self.forget(min((one for one in self._cursors if one != read), key=lambda one: self._cursors[one].read))

    def _opened(self) -> Consumer:
        return self._connection.client(
            Consumer,
            group_id=self._group,
            enable_auto_commit=False,
            enable_auto_offset_store=False,
            auto_offset_reset="error",
            enable_partition_eof=True,
            check_crcs=True,
            isolation_level="read_uncommitted",
            # A partition that is to be fetched too waits for the request that is under way.
            fetch_wait_max_ms=25,
            fetch_error_backoff_ms=25,
            fetch_queue_backoff_ms=5,
            queued_max_messages_kbytes=16_384,
            topic_metadata_refresh_interval_ms=60_000,
        )
