"""A stream of Kinesis that is pushed to a consumer: every event once, however its subscriptions end, and what is refused."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from time import monotonic
from unittest.mock import patch

import msgspec
import pytest
from botocore.exceptions import ClientError
from moto.kinesis.models import Consumer as Registered
from tests.kinesis import CREDENTIALS, REGION, ForeignStream, KinesisServer

import millstream as ms
from millstream.errors import Forked, MillstreamError, SourceBusy, SourceError
from millstream.settings import Settings
from millstream.sources.kinesis import fan_out, subscription
from millstream.sources.kinesis.backend import Kinesis
from millstream.sources.kinesis.source import KinesisSource
from millstream.testing.source_suite import numbers, some

user = ms.Entity("user", keys={"user_id": "int64"})
clicks = ms.EventStream("clicks", time="at", schema={"user_id": "int64", "page": "string", "at": "timestamp"})
pace = ms.StreamFeatureGroup("pace", entity=user, source=clicks, features=[ms.Count()])
view = ms.FeatureView("pace", features=[pace])
LONG = 30.0
"""Seconds after which what does not come has not come."""


@pytest.fixture
def stream(kinesis: KinesisServer) -> Iterator[ForeignStream]:
    """A stream of one shard."""
    yield ForeignStream(kinesis, shards=1)
    kinesis.pushing.as_usual()


@pytest.fixture
def source(stream: ForeignStream) -> Iterator[KinesisSource]:
    """It, pushed to a consumer."""
    source = stream.source(consumer="fraud")
    yield source
    source.close()


def shard_of(source: KinesisSource) -> str:
    return source.shards({})[0].name


def come(source: KinesisSource, position: str | None, until: int, limit: int = 2) -> tuple[list[int], str | None]:
    """What comes after a position until the event of a number has, and the position then."""
    found: list[int] = []
    end, shard = monotonic() + LONG, shard_of(source)
    while until not in found and monotonic() < end:
        try:
            events = source.read(shard, position, limit)
        except SourceBusy:
            threading.Event().wait(0.02)
            continue
        assert events.lost is None
        found, position = found + numbers(events), events.next
    return found, position


def begins(stream: ForeignStream) -> list[str | None]:
    """After which sequence number each subscription of this stream has begun."""
    calls = [one for one in stream.server.pushing.calls if f"/{stream.name}/" in one["ConsumerARN"]]
    return [one["StartingPosition"].get("SequenceNumber") for one in calls]


def failing(client: object, what: str, code: str) -> AbstractContextManager[object]:
    """While it lasts a call fails as the service lets it fail, and no server here does."""
    error = ClientError({"Error": {"Code": code, "Message": "from the service"}}, what)
    return patch.object(client, what, side_effect=error)


def threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("kinesis-")]


def test_records_are_pushed_and_not_polled_and_one_subscription_is_enough(
    stream: ForeignStream, source: KinesisSource
) -> None:
    stream.put(0, some(0, 5))
    with failing(source._service._client, "get_records", "AccessDeniedException"):
        found, position = come(source, None, 4)
        stream.put(0, some(5, 3))
        more, _ = come(source, position, 7)
    assert (found, more, begins(stream)) == ([0, 1, 2, 3, 4], [5, 6, 7], [None])


def test_a_place_that_was_just_read_is_read_again_without_another_call(
    stream: ForeignStream, source: KinesisSource
) -> None:
    stream.server.pushing.held = LONG
    stream.put(0, some(0, 6))
    _, position = come(source, None, 1)
    assert come(source, position, 5, limit=9)[0] == come(source, position, 5, limit=1)[0] == [2, 3, 4, 5]
    assert begins(stream) == [None]


@pytest.mark.parametrize("how", ["end", "tear"])
def test_a_subscription_that_has_ended_is_made_anew_where_it_was(
    stream: ForeignStream, source: KinesisSource, how: str
) -> None:
    found: list[int] = []
    position = None
    for first in range(0, 9, 3):
        stream.put(0, some(first, 3))
        some_more, position = come(source, position, first + 2)
        found += some_more
        getattr(stream.server.pushing, how)()
    assert found == list(range(9))
    assert begins(stream)[:3] == [None, "3", "6"]


def test_a_project_changes_between_polling_and_pushing_and_every_event_counts_once(
    stream: ForeignStream, tmp_path: Path
) -> None:
    for turn, consumer in enumerate(["", "fraud", "", "fraud"]):
        stream.put(0, [msgspec.json.encode({"user_id": 0, "at": "2026-01-05T09:00:00Z"}) for _ in range(3)])
        given = {"kind": "kinesis", "name": stream.name, "region": REGION, "endpoint": stream.server.endpoint}
        given |= {"consumer": consumer, "read_every_s": 0}
        lines = "\n".join(f"{name} = {msgspec.json.encode(value).decode()}" for name, value in given.items())
        (tmp_path / "millstream.toml").write_text(f"partitions = 1\n[streams.clicks]\n{lines}\n")
        with patch.dict(os.environ, CREDENTIALS), ms.Project(tmp_path) as project:
            project.apply(view)
            assert project.drain()["taken"] == 3
            assert project.features(view, [{"user_id": 0}])["pace__count"].to_pylist() == [3 * (turn + 1)]
    assert begins(stream) == ["3", "9"]
    assert threads() == []


def test_a_shard_that_is_split_ends_and_those_that_go_on_from_it_are_read(
    stream: ForeignStream, source: KinesisSource
) -> None:
    stream.put(0, some(0, 2))
    parent = shard_of(source)
    _, position = come(source, None, 1)
    stream.split(0)
    stream.put(0, some(2, 1))
    end, closed = monotonic() + LONG, False
    while not closed and monotonic() < end:
        events = source.read(parent, position, 9)
        position, closed = events.next, events.closed
    assert closed
    children = {one.name for one in source.shards({}) if parent in one.parents}
    assert len(children) == 2


def test_a_young_subscription_elsewhere_keeps_a_shard_busy_and_then_it_comes(
    stream: ForeignStream, source: KinesisSource
) -> None:
    stream.put(0, some(0, 4))
    _, position = come(source, None, 1)
    stream.server.pushing.held = 600.0
    other = stream.source(consumer="fraud")
    with pytest.raises(SourceBusy, match="in use by another"):
        while True:
            try:
                other.read(shard_of(other), position, 9)
            except SourceBusy as busy:
                if "begins" not in busy.message:
                    raise
    stream.server.pushing.held = 0.0
    assert come(other, position, 3)[0] == [2, 3]
    other.close()


def test_no_more_is_held_than_there_is_room_for_and_all_of_it_comes(
    stream: ForeignStream, source: KinesisSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "ROOM", 10_000)
    monkeypatch.setattr("tests.pushing.AT_ONCE", 4)
    stream.put(0, [msgspec.json.encode({"n": n, "filled": "x" * 1_000}) for n in range(60)])
    found, position = come(source, None, 0, limit=1)
    threading.Event().wait(0.3)
    (live,) = source._feed._live.values()  # type: ignore[attr-defined]
    assert 10_000 <= live._bytes < 10_000 + 4 * 1_300
    assert found + come(source, position, 59, limit=7)[0] == list(range(60))


def test_what_had_expired_is_told_though_its_subscription_is_waited_for(
    stream: ForeignStream, source: KinesisSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream.put(0, some(0, 5))
    position = come(source, None, 0, limit=1)[1]
    stream.expire(0)
    monkeypatch.setattr(fan_out, "MOMENT", 0.0)
    other = stream.source(consumer="fraud")
    shard, end = shard_of(other), monotonic() + LONG
    with pytest.raises(SourceBusy, match="begins"):
        other.read(shard, position, 9)
    while monotonic() < end:
        try:
            events = other.read(shard, position, 9)
            break
        except SourceBusy:
            continue
    assert (numbers(events), "is kept no longer" in str(events.lost)) == ([3, 4], True)
    other.close()


def test_no_thread_is_left_though_nothing_comes_that_would_wake_it(
    stream: ForeignStream, source: KinesisSource
) -> None:
    stream.server.pushing.idle = LONG
    stream.put(0, some(0, 1))
    come(source, None, 0)
    assert threads() != []
    begin = monotonic()
    source.close()
    assert threads() == []
    assert monotonic() - begin < 1.5


def test_a_consumer_that_was_deregistered_is_registered_anew_and_nothing_is_lost(
    stream: ForeignStream, source: KinesisSource
) -> None:
    stream.put(0, some(0, 2))
    _, position = come(source, None, 1)
    arn = stream.server.pushing.calls[-1]["ConsumerARN"]
    stream.client.deregister_stream_consumer(ConsumerARN=arn)
    stream.put(0, some(2, 2))
    assert come(source, position, 3)[0] == [2, 3]


def test_a_stream_that_is_made_anew_is_another_one(stream: ForeignStream, source: KinesisSource) -> None:
    stream.put(0, some(0, 2))
    old = shard_of(source)
    _, position = come(source, None, 1)
    stream.make_anew()
    stream.put(0, some(7, 1))
    end, closed = monotonic() + LONG, False
    while not closed and monotonic() < end:
        try:
            events = source.read(old, position, 9)
        except SourceBusy:
            continue
        position, closed = events.next, events.closed
    assert closed and "is there no more" in str(events.lost)
    other = stream.source(consumer="fraud")
    assert come(other, None, 7)[0] == [7]
    other.close()


def test_a_consumer_that_is_not_active_yet_is_waited_for_a_time(stream: ForeignStream, source: KinesisSource) -> None:
    stream.put(0, some(0, 1))
    whole, shard = Registered.to_json, shard_of(source)

    def creating(self: Registered, include_stream_arn: bool = False) -> dict[str, object]:
        return whole(self, include_stream_arn) | {"ConsumerStatus": "CREATING"}

    with patch.object(Registered, "to_json", creating):
        with pytest.raises(SourceBusy, match="consumer 'fraud' is CREATING"):
            source.read(shard, None, 9)
        later = patch("millstream.sources.kinesis.consumer.PATIENCE", -1.0)
        with later, pytest.raises(SourceError, match="is CREATING for more than"):
            source.read(shard, None, 9)
    assert come(source, None, 0)[0] == [0]


def test_each_thing_that_is_wrong_is_one_sentence(stream: ForeignStream, tmp_path: Path) -> None:
    def said(what: str, code: str) -> MillstreamError:
        source = stream.source(consumer=f"fraud-{what}-{code}")
        client = source._feed._pushed._client if what == "subscribe_to_shard" else source._service._client  # type: ignore[attr-defined]
        end = monotonic() + LONG
        with failing(client, what, code):
            while monotonic() < end:
                try:
                    source.read(shard_of(source), None, 9)
                except SourceBusy:
                    continue
                except SourceError as error:
                    source.close()
                    return error
        raise AssertionError("it is not refused")

    full = said("register_stream_consumer", "LimitExceededException")
    assert "takes no consumer 'fraud-" in full.message and "deregister one" in str(full.hint)
    bad = said("describe_stream_consumer", "InvalidArgumentException")
    assert "takes no consumer" in bad.message
    refused = said("subscribe_to_shard", "AccessDeniedException")
    assert "is refused: AccessDeniedException" in refused.message and "SubscribeToShard" in str(refused.hint)
    (tmp_path / "millstream.toml").write_text(
        f'[streams.clicks]\nkind = "kinesis"\nname = "{stream.name}"\nconsumer = "no name"\n'
    )
    with pytest.raises(MillstreamError) as raised, ms.Project(tmp_path) as project:
        project.apply(view)
        project.drain()
    assert "consumer" in raised.value.message and "letters, digits" in str(raised.value)


def test_a_service_that_is_not_there_is_said(stream: ForeignStream, tmp_path: Path) -> None:
    with patch.dict(os.environ, CREDENTIALS):
        given = Kinesis(name="x", region=REGION, endpoint="http://127.0.0.1:1", consumer="fraud")
        source = given.open(Settings(folder=tmp_path), stream.clock, "clicks")
    with pytest.raises(SourceError, match="cannot be reached"):
        source.read("shardId-000000000000@1", None, 9)
    source.close()


def test_a_child_refuses_what_its_parent_opened_and_the_parent_goes_on(
    stream: ForeignStream, source: KinesisSource
) -> None:
    stream.put(0, some(0, 2))
    _, position = come(source, None, 1)
    shard = shard_of(source)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            source.read(shard, position, 9)
        except Forked as error:
            os.write(writing, error.message.encode())
        source.close()
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as answer:
        assert "was opened before this process was forked" in answer.read()
    stream.put(0, some(2, 1))
    assert come(source, position, 2)[0] == [2]
    assert begins(stream) == [None]
