"""The log on Kafka as settings choose it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from millstream.buffer.kafka.cluster import Cluster
from millstream.buffer.kafka.log import KafkaLog
from millstream.clock import Clock
from millstream.settings import Settings


class Kafka(Cluster, frozen=True, kw_only=True):
    """`[log] kind = "kafka"`: topics of a cluster that other projects may use too; see `Cluster` for where it is.

    Args:
        prefix: what the names of the project's topics and groups begin with; no other project of the cluster has it.
        replicas: on how many servers a topic that is made is kept; as the cluster has it unless set.
        compression: how messages are packed; "lz4" unless set.
        session_s: seconds after which a worker that gives no sign of life loses what it owns (6).
    """

    prefix: Annotated[
        str, Meta(pattern=r"^[A-Za-z0-9_]{1,64}$", description="up to 64 letters, digits and underscores")
    ]
    replicas: Annotated[int, Meta(ge=0, le=100, description="a whole number from 0 to 100")] = 0
    compression: Annotated[
        Literal["none", "gzip", "snappy", "lz4", "zstd"], Meta(description="none, gzip, snappy, lz4 or zstd")
    ] = "lz4"
    session_s: Annotated[float, Meta(ge=0.5, le=300, description="a number from 0.5 to 300")] = 6.0

    def open(self, settings: Settings, clock: Clock) -> KafkaLog:
        """Open the log.

        Raises:
            ProjectError: when the password cannot be had.
            LogError: when the settings make no client.
        """
        return KafkaLog(
            self.servers,
            self.prefix,
            clock,
            options=self.options(settings.folder, "log"),
            largest=settings.largest_record,
            replicas=self.replicas,
            compression=self.compression,
            seconds=self.wait_s,
            session=self.session_s,
        )
