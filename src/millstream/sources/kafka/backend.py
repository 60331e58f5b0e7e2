"""Somebody else's topic of Kafka as settings bind a stream to it."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Literal

from msgspec import Meta, field

from millstream.buffer.kafka.cluster import Cluster
from millstream.buffer.kafka.connection import Connection
from millstream.buffer.kafka.security import password_of
from millstream.clock import Clock
from millstream.errors import ProjectError
from millstream.settings import Settings, Text
from millstream.sources.formats import Arrow, Format, Json
from millstream.sources.kafka.source import KafkaSource

_LANGUAGES = {"avro": ("avro", "Avro", "fastavro"), "protobuf": ("protobuf", "Protobuf", "protobuf")}
"""By format: the module, the class, and the package that it needs."""


class Kafka(Cluster, frozen=True, kw_only=True):
    """`[streams.payments] kind = "kafka"`: `topic` is read, whose messages others write; see `Cluster` for where it is.

    Args:
        topic: the topic.
        format: what a message holds: "json" unless set, "arrow", "avro" or "protobuf".
        registry: the URL of the registry that has the schemas of the two last ones.
        registry_user: who asks it, where it wants to know.
        registry_password_env: the environment variable that holds the password.
        registry_password_file: the file that holds it, relative to the project's folder.
        key_column: the column that the message's key is put into, as text, where the event does not say it.
        header_columns: by column, the header whose value is put into it likewise.
    """

    topic: Text
    format: Annotated[
        Literal["json", "arrow", "avro", "protobuf"], Meta(description="json, arrow, avro or protobuf")
    ] = "json"
    registry: Annotated[
        str,
        Meta(
            pattern=r"^(https?://[^\s@/]+(/[^\s@]*)?)?$",
            description="a URL of http or https, without user and password",
        ),
    ] = ""
    registry_user: str = ""
    registry_password_env: str = ""
    registry_password_file: str = ""
    key_column: str = ""
    header_columns: Annotated[
        dict[str, str], Meta(description='a table of headers by column, such as {trace = "x-trace-id"}')
    ] = field(default_factory=dict)

    def open(self, settings: Settings, clock: Clock, stream: str) -> KafkaSource:
        """Open the source; whether the cluster can be reached is seen when it is read; see `SourceBackend.open`.

        Raises:
            ProjectError: when the password cannot be had, or the format lacks something.
            LogError: when the settings make no client.
        """
        section = f"streams.{stream}"
        form = self._form(settings, section, stream)
        connection = Connection(self.servers, self.options(settings.folder, section), self.wait_s, section)
        return KafkaSource(connection, self.topic, stream, form)

    def _form(self, settings: Settings, section: str, stream: str) -> Format:
        """How messages are read."""
        if self.format == "json":
            return Json(self.key_column, self.header_columns)
        if self.format == "arrow":
            if self.key_column or self.header_columns:
                raise ProjectError(
                    f"Settings: [{section}]: rows of Arrow have no key or headers of their own.",
                    "leave `key_column` and `header_columns` out.",
                )
            return Arrow()
        if not self.registry:
            raise ProjectError(
                f"Settings: [{section}] format = '{self.format}' needs 'registry', the URL of the registry of its schemas.",
                f"write it below [{section}].",
            )
        return self._registered(settings, section, stream)

    def _registered(self, settings: Settings, section: str, stream: str) -> Format:
        from millstream.sources.kafka.registered import Registered
        from millstream.sources.kafka.registry import SchemaRegistry

        module, name, package = _LANGUAGES[self.format]
        try:
            language = getattr(import_module(f"millstream.sources.kafka.{module}"), name)()
        except ModuleNotFoundError as error:
            raise ProjectError(
                f"Settings: [{section}] format = '{self.format}' needs the package '{package}', which is not installed.",
                f"pip install 'millstream[{self.format}]'",
            ) from error
        user = None
        if self.registry_user:
            secret = (self.registry_password_env, self.registry_password_file)
            user = self.registry_user, password_of(settings.folder, *secret, section=section)
        registry = SchemaRegistry(self.registry, self.wait_s, stream, user)
        return Registered(registry, language, Json(self.key_column, self.header_columns))
