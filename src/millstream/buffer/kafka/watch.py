"""Whether anything has come to a log on Kafka, whatever the topic, by one small request now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import TimeoutError as NotInTime
from itertools import count
from threading import Event

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from millstream.buffer.kafka.connection import Connection
from millstream.errors import LogError

EVERY = 0.01
"""Seconds between two looks, at least; one is so much longer apart than it takes that it has a tenth of the time."""
SOON = 1.0
"""Seconds that a look may take: whoever waits has the log's own patience for what it does next."""
KNOWN = 5.0
"""Seconds between two looks which topics there are."""


class Watch:
    """Looks where all topics of a project end; any number of threads share it.

    Args:
        connection: the cluster.
        topics: asks which topics of Kafka's the project has, with their numbers of partitions.
    """

    def __init__(self, connection: Connection, topics: Callable[[], Mapping[str, int]]) -> None:
        self._connection, self._topics = connection, topics
        self._places: list[TopicPartition] = []
        self._looked = 0.0
        self._unknown = count()

    def wait(self, seen: int | None, seconds: float) -> int:
        """Return a number that is another than before once something was appended; see `Watched.wait`."""
        end = time.monotonic() + seconds
        while True:
            began = time.monotonic()
            number = self._number()
            now = time.monotonic()
            if number != seen or now >= end:
                return number
            Event().wait(min(max(EVERY, 9 * (now - began)), end - now))

    def _number(self) -> int:
        """A number of where everything ends; one that there never was while that is not to be learnt."""
        try:
            if time.monotonic() - self._looked >= KNOWN:
                found = self._topics()
                self._places = [TopicPartition(name, p) for name, parts in sorted(found.items()) for p in range(parts)]
                self._looked = time.monotonic()
            asked = self._connection.admin.list_offsets({place: OffsetSpec.latest() for place in self._places})
            ends = tuple(asked[place].result(SOON).offset for place in self._places)
            return hash((len(self._places), ends))
        except (KafkaException, LogError, NotInTime):
            self._looked = 0.0
            return hash(("unknown", next(self._unknown)))
