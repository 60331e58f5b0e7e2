"""What a cluster says of somebody else's topic: which one it is, its partitions, where they begin and end, what it keeps."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import TimeoutError as NotInTime
from typing import Any, NamedTuple

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import ConfigResource, OffsetSpec, ResourceType

from millstream.buffer.kafka.connection import Connection, kafka_error
from millstream.errors import LogError, nearest

KNOWN = 1.0
"""Seconds for which it is known which partitions there are."""
CONFIG_KNOWN = 300.0
"""Seconds for which it is known how long the topic keeps what it has."""
_NOT_THERE = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError.TOPIC_EXCEPTION})


class Described(NamedTuple):
    """A topic: what tells it from one that was made anew under its name, and how many partitions it has."""

    identity: str
    partitions: int


class Topic:
    """Asks about one topic.

    Args:
        connection: the cluster.
        name: the topic's name.
    """

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection, self.name = connection, name
        self._described: tuple[float, Described] | None = None
        self._kept: tuple[float, int | None] | None = None

    def described(self) -> Described:
        """Return which topic it is, as it was a moment ago at most.

        Raises:
            LogError: when it is not there, or nobody answers.
        """
        now = time.monotonic()
        if self._described is None or now - self._described[0] > KNOWN:
            self._described = now, self._describe()
        return self._described[1]

    def ends(self, partitions: list[int]) -> dict[int, tuple[int, int]]:
        """By partition, the first offset that is kept, and that before which all is committed.

        Raises:
            LogError: when nobody answers.
        """
        places = {one: TopicPartition(self.name, one) for one in partitions}
        admin = self._connection.admin

        def request() -> list[Any]:
            begins = admin.list_offsets({place: OffsetSpec.earliest() for place in places.values()})
            committed = IsolationLevel.READ_COMMITTED
            latest = {place: OffsetSpec.latest() for place in places.values()}
            ends = admin.list_offsets(latest, isolation_level=committed)
            return [*(begins[place] for place in places.values()), *(ends[place] for place in places.values())]

        found = [one.offset for one in self._connection.ask(f"Topic '{self.name}': where it ends", request)]
        return dict(zip(partitions, zip(found[: len(partitions)], found[len(partitions) :], strict=True), strict=True))

    def kept(self) -> int | None:
        """Return for how many microseconds the topic keeps what it has; None where it keeps it for ever, or does not say.

        Raises:
            LogError: when nobody answers.
        """
        now = time.monotonic()
        if self._kept is None or now - self._kept[0] > CONFIG_KNOWN:
            self._kept = now, self._retention()
        return self._kept[1]

    def _describe(self) -> Described:
        admin, name = self._connection.admin, self.name
        try:
            found = admin.describe_topics(TopicCollection([name]))[name].result(self._connection.seconds + 1)
        except (KafkaException, NotInTime) as error:
            code = kafka_error(error)
            if code is not None and code.code() in _NOT_THERE:
                raise self._unknown() from None
            raise self._connection.failure(f"Topic '{name}'", error) from None
        return Described(str(found.topic_id), len(found.partitions))

    def _unknown(self) -> LogError:
        admin, seconds = self._connection.admin, self._connection.seconds
        there = self._connection.within("Topics", lambda: admin.list_topics(timeout=seconds)).topics
        close = nearest(self.name, there)
        return LogError(
            f"Topic '{self.name}' is not in the cluster at '{self._connection.servers}'.",
            f"did you mean '{close}'?" if close else "check its name, and whether this user may see it.",
        )

    def _retention(self) -> int | None:
        resource = ConfigResource(ResourceType.TOPIC, self.name)
        try:
            (found,) = self._connection.ask(
                f"Topic '{self.name}': its settings",
                lambda: self._connection.admin.describe_configs([resource]).values(),
            )
        except LogError:  # one may be let to read a topic, and not its settings
            return None
        return _kept(found)


def _kept(config: Mapping[str, Any]) -> int | None:
    """How many microseconds a topic's settings let it keep what it has."""
    if "delete" not in config["cleanup.policy"].value:
        return None
    kept = int(config["retention.ms"].value)
    return None if kept < 0 else kept * 1_000
