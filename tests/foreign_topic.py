"""A topic of Kafka's as other programs make it, write to it and change it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from millstream.testing.servers.kafka import Kafka

if TYPE_CHECKING:
    from millstream.sources.formats import Format
    from millstream.sources.kafka.source import KafkaSource


class ForeignTopic:
    """A topic of a server's.

    Args:
        kafka: the server.
        partitions: how many partitions it has.
        config: settings of the topic's.
    """

    def __init__(self, kafka: Kafka, partitions: int = 1, **config: str) -> None:
        from confluent_kafka.admin import AdminClient

        self.servers, self.name = kafka.servers, f"{kafka.prefix()}.foreign"
        self.admin = AdminClient({"bootstrap.servers": kafka.servers, "log_level": 0})
        self._config = {name.replace("_", "."): value for name, value in config.items()}
        self.make(partitions)

    def make(self, partitions: int) -> None:
        """Make it."""
        from confluent_kafka.admin import NewTopic

        new = NewTopic(self.name, partitions, 1, config=self._config)
        self.admin.create_topics([new])[self.name].result(30)

    def delete(self) -> None:
        """Delete it."""
        self.admin.delete_topics([self.name])[self.name].result(30)

    def grow(self, partitions: int) -> None:
        """Give it more partitions."""
        from confluent_kafka.admin import NewPartitions

        self.admin.create_partitions([NewPartitions(self.name, partitions)])[self.name].result(30)

    def produce(self, values: Sequence[bytes | None], partition: int = 0, **given: Any) -> None:
        """Write messages, durably; `key`, `headers` and `timestamp` are those of each."""
        from confluent_kafka import Producer

        producer = Producer({"bootstrap.servers": self.servers, "linger.ms": 0, "log_level": 0})
        while len(producer.list_topics(self.name).topics[self.name].partitions) <= partition:
            pass  # that it was made, or has grown, shows a moment later
        for value in values:
            producer.produce(self.name, value, partition=partition, **given)
        assert producer.flush(30) == 0

    def delete_before(self, offset: int, partition: int = 0) -> None:
        """Delete what lies before an offset, as retention does."""
        from confluent_kafka import TopicPartition

        for future in self.admin.delete_records([TopicPartition(self.name, partition, offset)]).values():
            future.result(30)

    def source(self, form: Format | None = None) -> KafkaSource:
        """Open it as a source of the stream 'clicks'."""
        from millstream.buffer.kafka.connection import Connection
        from millstream.sources.formats import Json
        from millstream.sources.kafka.source import KafkaSource

        return KafkaSource(Connection(self.servers, {}, 20.0, "streams.clicks"), self.name, "clicks", form or Json())
