"""Somebody else's stream of Kinesis as settings bind a stream to it."""

from __future__ import annotations

import time
from typing import Annotated, Literal

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from msgspec import Meta, Struct

from millstream.clock import Clock
from millstream.errors import ProjectError, first_line
from millstream.settings import Settings, Text
from millstream.sources.formats import Arrow, Format, Json
from millstream.sources.kinesis.service import Service
from millstream.sources.kinesis.source import KinesisSource

_Seconds = Annotated[float, Meta(gt=0, le=300, description="seconds, from above 0 to 300")]
_Pause = Annotated[float, Meta(ge=0, le=60, description="seconds, from 0 to 60")]


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
        waits = {"connect_timeout": self.wait_s, "read_timeout": self.wait_s, "retries": {"total_max_attempts": 1}}
        try:
            session = boto3.session.Session(profile_name=self.profile or None, region_name=self.region or None)
            client = session.client("kinesis", endpoint_url=self.endpoint or None, config=Config(**waits))
        except (BotoCoreError, ValueError) as error:
            raise ProjectError(
                f"Settings: [{section}] makes no client of Kinesis: {first_line(error)}",
                "set `region`, or AWS_DEFAULT_REGION; `profile` is one of ~/.aws/credentials.",
            ) from error
        place = self.endpoint or session.region_name
        return KinesisSource(Service(client, self.name, place), stream, form, clock, self.read_every_s, time.monotonic)
