"""The positions that consumers have committed: offsets of groups of Kafka's that have no members."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future

from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition

from millstream.buffer.kafka.connection import Connection
from millstream.buffer.kafka.messages import STRIDE
from millstream.buffer.kafka.names import positions_group, topic_name

Moves = Mapping[tuple[str, int], int]
"""By topic and partition, a position."""


class Committed:
    """Keeps consumers' positions with Kafka, whose tools show their lag.

    They are hints: Kafka compares nothing, forgets those of a group that commits nothing for a week
    (`offsets.retention.minutes`), and a commit may come late.

    Args:
        connection: the cluster.
        prefix: what the names of the project's topics and groups begin with.
    """

    def __init__(self, connection: Connection, prefix: str) -> None:
        self._connection, self._prefix = connection, prefix

    def positions(self, consumer: str, topic: str, partitions: int) -> list[int | None]:
        """By partition, the position that a consumer has committed."""
        name = topic_name(self._prefix, topic)
        group = positions_group(self._prefix, consumer)
        asked = ConsumerGroupTopicPartitions(group, [TopicPartition(name, p) for p in range(partitions)])
        (answer,) = self._connection.ask(
            f"Positions of '{consumer}' in '{topic}'", self._request("list_consumer_group_offsets", [asked])
        )
        found = {one.partition: one for one in answer.topic_partitions or () if one.offset >= 0}
        return [_position(found[p]) if p in found else None for p in range(partitions)]

    def commit(self, moves: Mapping[str, Moves]) -> None:
        """Let consumers stand where they are told to.

        Args:
            moves: by consumer, its positions.
        """
        groups = [
            ConsumerGroupTopicPartitions(
                positions_group(self._prefix, consumer), [self._told(*place, at) for place, at in positions.items()]
            )
            for consumer, positions in moves.items()
        ]
        for group in groups:
            self._connection.ask(
                f"Positions of '{group.group_id}'", self._request("alter_consumer_group_offsets", [group])
            )

    def _request(
        self, name: str, groups: list[ConsumerGroupTopicPartitions]
    ) -> Callable[[], Iterable[Future[ConsumerGroupTopicPartitions]]]:
        method = getattr(self._connection.admin, name)
        return lambda: method(groups, request_timeout=self._connection.seconds).values()

    def _told(self, topic: str, partition: int, position: int) -> TopicPartition:
        offset, number = divmod(position, STRIDE)
        return TopicPartition(topic_name(self._prefix, topic), partition, offset, metadata=str(number))


def _position(told: TopicPartition) -> int:
    """The position that an offset and the text beside it say; whoever else commits writes no such text."""
    offset, number = int(told.offset), str(told.metadata or "")
    return offset * STRIDE + (int(number) if number.isdecimal() else 0)
