"""A server that speaks Kinesis, and one stream in it that others write to."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import boto3
from moto.kinesis.models import kinesis_backends
from moto.server import ThreadedMotoServer

from millstream.clock import SystemClock
from millstream.settings import Settings
from millstream.sources.kinesis.backend import Kinesis
from millstream.sources.kinesis.source import KinesisSource
from tests.pushing import PUSHING

REGION = "eu-west-1"
ACCOUNT = "123456789012"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "a secret of tests"}
_names = itertools.count()


class KinesisServer:
    """Moto's server; use it as a context manager."""

    pushing = PUSHING

    def __enter__(self) -> KinesisServer:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.endpoint = f"http://{host}:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    def client(self) -> Any:
        """A client of a producer."""
        return boto3.client(
            "kinesis",
            region_name=REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id="producer",
            aws_secret_access_key="another secret of tests",
        )


class Ahead:
    """The clock of the machine, put ahead."""

    def __init__(self) -> None:
        self.by = 0
        self._clock = SystemClock()

    def now(self) -> int:
        """Return the instant."""
        return self._clock.now() + self.by


class ForeignStream:
    """A stream of Kinesis that somebody else writes to, with some shards."""

    def __init__(self, server: KinesisServer, shards: int = 2) -> None:
        self.server, self.name, self.clock = server, f"payments-{next(_names)}", Ahead()
        self.client = server.client()
        self.client.create_stream(StreamName=self.name, ShardCount=shards)

    def source(self, **settings: Any) -> KinesisSource:
        """Open it as settings do."""
        given = {"read_every_s": 0.0, "endpoint": self.server.endpoint, "region": REGION, **settings}
        with patch.dict(os.environ, CREDENTIALS):
            return Kinesis(name=self.name, **given).open(Settings(folder=Path()), self.clock, "clicks")

    def shards(self) -> list[dict[str, Any]]:
        """The open shards, by their hash keys."""
        found = self.client.list_shards(StreamName=self.name)["Shards"]
        there = [one for one in found if "EndingSequenceNumber" not in one["SequenceNumberRange"]]
        return sorted(there, key=lambda one: int(one["HashKeyRange"]["StartingHashKey"]))

    def put(self, place: int, events: list[bytes], key: str = "k") -> None:
        """Write events to an open shard."""
        begin = self.shards()[place]["HashKeyRange"]["StartingHashKey"]
        for event in events:
            self.client.put_record(StreamName=self.name, Data=event, PartitionKey=key, ExplicitHashKey=begin)

    def split(self, place: int) -> None:
        """Divide an open shard in two."""
        shard = self.shards()[place]
        first, last = (int(shard["HashKeyRange"][end]) for end in ("StartingHashKey", "EndingHashKey"))
        middle = str((first + last) // 2)
        self.client.split_shard(StreamName=self.name, ShardToSplit=shard["ShardId"], NewStartingHashKey=middle)

    def merge(self, place: int) -> None:
        """Make one of an open shard and the next."""
        shards = self.shards()
        first, second = shards[place]["ShardId"], shards[place + 1]["ShardId"]
        self.client.merge_shards(StreamName=self.name, ShardToMerge=first, AdjacentShardToMerge=second)

    def expire(self, place: int, count: int = 3) -> None:
        """Let a day go by, after which the oldest events of a shard are kept no longer, and all others are."""
        self.clock.by += 25 * 3_600_000_000
        records = kinesis_backends[ACCOUNT][REGION].streams[self.name].shards[self.shards()[place]["ShardId"]].records
        for _ in range(count):
            records.popitem(last=False)

    def make_anew(self) -> None:
        """Delete it, and make another under its name."""
        self.client.delete_stream(StreamName=self.name)
        self.client.create_stream(StreamName=self.name, ShardCount=1)
