"""Somebody else's stream of Kinesis as settings bind a stream to it."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from msgspec import Meta, Struct

from millstream.clock import Clock
from millstream.errors import ProjectError, first_line
from millstream.settings import Settings, Text
from millstream.sources.formats import Arrow, Format, Json
from millstream.sources.kinesis.consumer import Consumer
from millstream.sources.kinesis.fan_out import FanOut
from millstream.sources.kinesis.polling import Polling
from millstream.sources.kinesis.service import Feed, Service
from millstream.sources.kinesis.source import KinesisSource

_Seconds = Annotated[float, Meta(gt=0, le=300, description="seconds, from above 0 to 300")]
_Consumer = Annotated[
    str, Meta(pattern=r"^[a-zA-Z0-9_.-]{0,128}$", description="up to 128 letters, digits, '_', '.' and '-'")
]
_Pause = Annotated[float, Meta(ge=0, le=60, description="seconds, from 0 to 60")]
SILENT = 30.0
"""Seconds without an event after which a subscription is made anew: the service sends one every few, if only an empty one."""
MOST_SHARDS = 1_000
"""Shards to which connections are kept; each has one as long as its subscription lasts."""


class Kinesis(Struct, frozen=True, kw_only=True):
    """`[streams.payments] kind = "kinesis"`: `name` is read, whose records others write.

    Credentials are those that every tool of AWS finds: its environment variables, its files, the role of a machine.

    Args:
        name: the stream's name in Kinesis.
        region: the region, such as "eu-west-1"; that of the environment unless set.
        endpoint: the URL of a service that is not AWS's own.
        profile: which credentials of the files of AWS; the default ones unless set.
        format: what a record holds: "json" unless set, or "arrow".
        key_column: the column that a record's partition key is put into, where the event does not say it.
        read_every_s: seconds between two reads of a shard; all its readers together may read it five times a second.
        wait_s: seconds that an answer may take.
        consumer: the name of a consumer, registered unless it is there, to which shards are pushed; polled without one.
    """

    name: Text
    region: str = ""
    endpoint: Annotated[
        str, Meta(pattern=r"^(https?://[^\s@/]+(/[^\s@]*)?)?$", description="a URL of http or https")
    ] = ""
    profile: str = ""
    format: Annotated[Literal["json", "arrow"], Meta(description="json or arrow")] = "json"
    key_column: str = ""
    read_every_s: _Pause = 0.25
    wait_s: _Seconds = 10.0
    consumer: _Consumer = ""

    def open(self, settings: Settings, clock: Clock, stream: str) -> KinesisSource:
        """Open the source; whether the service can be reached is seen when it is read; see `SourceBackend.open`.

        Raises:
            ProjectError: when the settings make no client.
        """
        section = f"streams.{stream}"
        if self.format == "arrow" and self.key_column:
            raise ProjectError(
                f"Settings: [{section}]: rows of Arrow have no key of their own.", "leave `key_column` out."
            )
        form: Format = Arrow() if self.format == "arrow" else Json(self.key_column)
        try:
            session = boto3.session.Session(profile_name=self.profile or None, region_name=self.region or None)
            service = self._service(session, self.wait_s)
            feed: Feed = Polling(service)
            if self.consumer:
                pushed = self._service(session, max(self.wait_s, SILENT), max_pool_connections=MOST_SHARDS)
                feed = FanOut(service, pushed, Consumer(service, self.consumer))
        except (BotoCoreError, ValueError) as error:
            raise ProjectError(
                f"Settings: [{section}] makes no client of Kinesis: {first_line(error)}",
                "set `region`, or AWS_DEFAULT_REGION; `profile` is one of ~/.aws/credentials.",
            ) from error
        return KinesisSource(service, feed, stream, form, clock, self.read_every_s, time.monotonic)

    def _service(self, session: boto3.session.Session, wait: float, **more: Any) -> Service:
        config = Config(connect_timeout=self.wait_s, read_timeout=wait, retries={"total_max_attempts": 1}, **more)
        client = session.client("kinesis", endpoint_url=self.endpoint or None, config=config)
        return Service(client, self.name, self.endpoint or session.region_name)
