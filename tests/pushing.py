"""SubscribeToShard for a server of moto, which lacks it: what its shards have, as the event stream that AWS describes."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Event, Lock
from time import monotonic
from typing import Any

from moto.kinesis.exceptions import ConsumerNotFound, ResourceInUseError
from moto.kinesis.models import KinesisBackend, Shard, Stream
from moto.kinesis.responses import KinesisResponse

AT_ONCE = 100
"""Records in one event."""
OFTEN = 0.01
"""Seconds between two looks at a shard."""


class Pushing:
    """The subscriptions of all servers of this process, and what of AWS's times is kept.

    Attributes:
        held: seconds after a call that succeeded in which another one of the same shard and consumer is refused.
        lasting: seconds after which a subscription ends.
        idle: seconds after which an event without records comes.
    """

    def __init__(self) -> None:
        self.lock = Lock()
        self.calls: list[dict[str, Any]] = []
        self.live: dict[tuple[str, str], _Push] = {}
        self.as_usual()

    def as_usual(self) -> None:
        """Let calls follow each other at once, and last."""
        self.held, self.lasting, self.idle = 0.0, 300.0, 0.3

    def begun(self, key: tuple[str, str], push: _Push) -> None:
        """Note a subscription; the one of the same shard and consumer ends, or is too young for it."""
        with self.lock:
            before = self.live.get(key)
            if before is not None and push.began < before.began + self.held:
                raise ResourceInUseError(
                    f"Another active subscription exists for consumer {key[0]} and shard {key[1]}."
                )
            if before is not None:
                before.taken.set()
            self.live[key] = push

    def end(self) -> None:
        """End all subscriptions, as the service does after some time."""
        with self.lock:
            for push in self.live.values():
                push.ended.set()

    def tear(self) -> None:
        """Break all connections off in the midst of a message."""
        with self.lock:
            for push in self.live.values():
                push.torn.set()


PUSHING = Pushing()


@dataclass(eq=False)
class _Push:
    """One subscription: what it is of, after which sequence number it goes on, and whether it is to end, and how."""

    backend: KinesisBackend
    stream: Stream
    shard: Shard
    consumer: str
    after: int

    def __post_init__(self) -> None:
        self.began = monotonic()
        self.ended, self.taken, self.torn = Event(), Event(), Event()

    def body(self) -> Iterator[bytes]:
        """Its messages, until it ends."""
        yield _message("event", "initial-response", {})
        said = 0.0
        while not self.ended.is_set() and monotonic() < self.began + PUSHING.lasting:
            if self.torn.is_set():
                yield _message("event", "SubscribeToShardEvent", self._event([]))[:-3]
                return
            if self.taken.is_set():
                yield _message("exception", "ResourceInUseException", {"message": "It was taken over."})
                return
            there = self.backend.streams.get(self.stream.stream_name) is self.stream
            if not there or self.stream.get_consumer_by_arn(self.consumer) is None:
                yield _message("exception", "ResourceNotFoundException", {"message": "Stream or consumer not found."})
                return
            records = [one for number, one in list(self.shard.records.items()) if number > self.after][:AT_ONCE]
            if records or monotonic() > said + PUSHING.idle:
                self.after, said = records[-1].sequence_number if records else self.after, monotonic()
                yield _message("event", "SubscribeToShardEvent", self._event(records))
            elif not self.shard.is_open:
                yield _message("event", "SubscribeToShardEvent", self._last())
                return
            else:
                Event().wait(OFTEN)

    def _event(self, records: list[Any]) -> dict[str, Any]:
        behind = sum(number > self.after for number in list(self.shard.records))
        given = [
            {
                "SequenceNumber": str(one.sequence_number),
                "ApproximateArrivalTimestamp": round(one.created_at, 3),
                "Data": base64.b64encode(base64.b64decode(one.data)).decode(),
                "PartitionKey": one.partition_key,
            }
            for one in records
        ]
        return {"Records": given, "ContinuationSequenceNumber": str(self.after), "MillisBehindLatest": behind}

    def _last(self) -> dict[str, Any]:
        own = self.shard.shard_id
        children = [one for one in self.stream.shards.values() if own in (one.parent, one.adjacent_parent)]
        found = [{"ShardId": one.shard_id, "ParentShards": [own], "HashKeyRange": _hashes(one)} for one in children]
        return {"Records": [], "MillisBehindLatest": 0, "ChildShards": found}


def _hashes(shard: Shard) -> dict[str, str]:
    return {"StartingHashKey": str(shard.starting_hash), "EndingHashKey": str(shard.ending_hash)}


def _subscribe_to_shard(asked: KinesisResponse) -> tuple[Iterator[bytes], dict[str, str]]:
    """What the server does when it is called."""
    given = {name: asked._get_param(name) for name in ("ConsumerARN", "ShardId", "StartingPosition")}
    backend, consumer = asked.kinesis_backend, given["ConsumerARN"]
    PUSHING.calls.append(given)
    streams = [one for one in backend.streams.values() if one.get_consumer_by_arn(consumer)]
    if not streams:
        raise ConsumerNotFound(consumer, backend.account_id)
    shard = streams[0].get_shard(given["ShardId"])
    after = int(given["StartingPosition"].get("SequenceNumber", "0"))
    push = _Push(backend, streams[0], shard, consumer, after)
    PUSHING.begun((consumer, shard.shard_id), push)
    return push.body(), {"Content-Type": "application/vnd.amazon.eventstream"}


def _message(kind: str, name: str, payload: dict[str, Any]) -> bytes:
    """One message of an event stream."""
    told = {":message-type": kind, f":{kind}-type": name, ":content-type": "application/json"}
    headers = b"".join(
        bytes([len(key)]) + key.encode() + b"\x07" + len(value).to_bytes(2, "big") + value.encode()
        for key, value in told.items()
    )
    body = json.dumps(payload).encode()
    begin = (len(headers) + len(body) + 16).to_bytes(4, "big") + len(headers).to_bytes(4, "big")
    whole = begin + zlib.crc32(begin).to_bytes(4, "big") + headers + body
    return whole + zlib.crc32(whole).to_bytes(4, "big")


KinesisResponse.subscribe_to_shard = _subscribe_to_shard  # type: ignore[attr-defined]
