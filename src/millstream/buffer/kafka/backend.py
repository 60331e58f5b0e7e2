"""The log on Kafka as settings choose it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from millstream.buffer.kafka.log import KafkaLog
from millstream.buffer.kafka.security import SASL, Security, options_of
from millstream.clock import Clock
from millstream.settings import Settings, Text


class Kafka(Struct, frozen=True, kw_only=True):
    """`[log] kind = "kafka"`: topics of a cluster that other projects may use too.

    Args:
        servers: where the cluster is, "host:port" with commas between them.
        prefix: what the names of the project's topics and groups begin with; no other project of the cluster has it.
        replicas: on how many servers a topic that is made is kept; as the cluster has it unless set.
        compression: how messages are packed; "lz4" unless set.
        wait_s: seconds that an answer of the cluster's is waited for (15).
        session_s: seconds after which a worker that gives no sign of life loses what it owns (6).
        security: how to connect: "plaintext" unless set, "ssl", "sasl_plaintext" or "sasl_ssl".
        sasl: how to say who asks: "PLAIN" unless set, "SCRAM-SHA-256" or "SCRAM-SHA-512".
        user: who asks, where `security` is one of SASL's.
        password_env: the environment variable that holds the password.
        password_file: the file that holds it, relative to the project's folder.
        ca: a file of the certificates to trust; those of the machine unless set.
        certificate: a file of the certificate to show, where the cluster wants one.
        key: a file of its key.
    """

    servers: Text
    prefix: Annotated[
        str, Meta(pattern=r"^[A-Za-z0-9_]{1,64}$", description="up to 64 letters, digits and underscores")
    ]
    replicas: Annotated[int, Meta(ge=0, le=100, description="a whole number from 0 to 100")] = 0
    compression: Annotated[
        Literal["none", "gzip", "snappy", "lz4", "zstd"], Meta(description="none, gzip, snappy, lz4 or zstd")
    ] = "lz4"
    wait_s: Annotated[float, Meta(ge=1, le=600, description="a number from 1 to 600")] = 15.0
    session_s: Annotated[float, Meta(ge=0.5, le=300, description="a number from 0.5 to 300")] = 6.0
    security: Annotated[Security, Meta(description="plaintext, ssl, sasl_plaintext or sasl_ssl")] = "plaintext"
    sasl: Annotated[SASL, Meta(description="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")] = "PLAIN"
    user: str = ""
    password_env: str = ""
    password_file: str = ""
    ca: str = ""
    certificate: str = ""
    key: str = ""

    def open(self, settings: Settings, clock: Clock) -> KafkaLog:
        """Open the log.

        Raises:
            ProjectError: when the password cannot be had.
            LogError: when the settings make no client.
        """
        options = options_of(
            settings.folder,
            security=self.security,
            sasl=self.sasl,
            user=self.user,
            password=(self.password_env, self.password_file),
            files={
                "ssl.ca.location": self.ca,
                "ssl.certificate.location": self.certificate,
                "ssl.key.location": self.key,
            },
        )
        return KafkaLog(
            self.servers,
            self.prefix,
            clock,
            options=options,
            largest=settings.largest_record,
            replicas=self.replicas,
            compression=self.compression,
            seconds=self.wait_s,
            session=self.session_s,
        )
