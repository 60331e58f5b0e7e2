"""Where a cluster is, and how one is let in: what the settings of everything that is on Kafka have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from millstream.buffer.kafka.security import SASL, Security, options_of
from millstream.settings import Text


class Cluster(Struct, frozen=True, kw_only=True):
    """A cluster, as a section of the settings says it.

    Args:
        servers: where the cluster is, "host:port" with commas between them.
        wait_s: seconds that an answer of the cluster's is waited for (15).
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
    wait_s: Annotated[float, Meta(ge=1, le=600, description="a number from 1 to 600")] = 15.0
    security: Annotated[Security, Meta(description="plaintext, ssl, sasl_plaintext or sasl_ssl")] = "plaintext"
    sasl: Annotated[SASL, Meta(description="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")] = "PLAIN"
    user: str = ""
    password_env: str = ""
    password_file: str = ""
    ca: str = ""
    certificate: str = ""
    key: str = ""

    def options(self, folder: Path, section: str) -> dict[str, Any]:
        """Return what every client is told of security.

        Args:
            folder: the project's folder.
            section: the section of the settings that this was made of, for errors.

        Raises:
            ProjectError: when the password, or a file, cannot be had.
        """
        files = {
            "ssl.ca.location": self.ca,
            "ssl.certificate.location": self.certificate,
            "ssl.key.location": self.key,
        }
        return options_of(
            folder,
            security=self.security,
            sasl=self.sasl,
            user=self.user,
            password=(self.password_env, self.password_file),
            files=files,
            section=section,
        )
