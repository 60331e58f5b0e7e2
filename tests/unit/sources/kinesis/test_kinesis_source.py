"""A stream of Kinesis that others own as a source: what its records become, and what happens when the stream changes."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from unittest.mock import patch

import msgspec
import pyarrow as pa
import pytest
from botocore.exceptions import ClientError
from tests.kinesis import CREDENTIALS, REGION, ForeignStream, KinesisServer

import millstream as ms
from millstream.clock import SystemClock
from millstream.errors import ProjectError, SourceBusy, SourceError
from millstream.settings import Settings
from millstream.sources.kinesis.backend import Kinesis
from millstream.sources.kinesis.source import KinesisSource

user = ms.Entity("user", keys={"user_id": "int64"})
clicks = ms.EventStream("clicks", time="at", schema={"user_id": "int64", "page": "string", "at": "timestamp"})
pace = ms.StreamFeatureGroup("pace", entity=user, source=clicks, features=[ms.Count(), ms.LastK("page", k=5)])
view = ms.FeatureView("pace", features=[pace])


@pytest.fixture
def stream(kinesis: KinesisServer) -> ForeignStream:
    return ForeignStream(kinesis)


@pytest.fixture
def project(stream: ForeignStream, tmp_path: Path) -> Iterator[ms.Project]:
    """A project whose clicks are read from the stream."""
    given = {"kind": "kinesis", "name": stream.name, "region": REGION, "endpoint": stream.server.endpoint}
    given |= {"key_column": "page", "read_every_s": 0}
    lines = "\n".join(f"{name} = {msgspec.json.encode(value).decode()}" for name, value in given.items())
    (tmp_path / "millstream.toml").write_text(f"partitions = 2\n[streams.clicks]\n{lines}\n")
    with patch.dict(os.environ, CREDENTIALS), ms.Project(tmp_path) as project:
        project.apply(view)
        yield project


def event(user_id: int, **more: object) -> bytes:
    return msgspec.json.encode({"user_id": user_id, "at": "2026-01-05T09:00:00Z", **more})


def counts(project: ms.Project, users: int) -> list[int]:
    return list(project.features(view, [{"user_id": n} for n in range(users)])["pace__count"].to_pylist())


def aggregated(*records: tuple[str, bytes]) -> bytes:
    """What the producer library makes of some records, by their partition keys: written byte by byte from its format."""

    def piece(tag: int, data: bytes) -> bytes:
        size, length = len(data), bytearray()
        while True:
            length.append(size & 127 | (128 if size > 127 else 0))
            size >>= 7
            if not size:
                return bytes([tag << 3 | 2]) + bytes(length) + data

    keys = [*dict.fromkeys(key for key, _ in records)]
    body = b"".join(piece(1, key.encode()) for key in keys)
    body += b"".join(piece(3, bytes([1 << 3, keys.index(key)]) + piece(3, data)) for key, data in records)
    return b"\xf3\x89\x9a\xc2" + body + hashlib.md5(body).digest()


def failing(source: KinesisSource, what: str, code: str) -> AbstractContextManager[object]:
    """While it lasts a call fails as the service lets it fail, and no server here does."""
    error = ClientError({"Error": {"Code": code, "Message": "from the service"}}, what)
    return patch.object(source._service._client, what, side_effect=error)


def test_each_record_counts_once_and_what_is_no_event_is_a_dead_letter(
    stream: ForeignStream, project: ms.Project
) -> None:
    stream.put(0, [event(0), b"no json"], key="/home")
    stream.put(1, [event(1), event(1, page="/own")], key="/cart")
    assert project.drain()["taken"] == 4
    assert project.drain()["taken"] == 0
    assert counts(project, 2) == [1, 2]
    assert [letter["payload"] for letter in project.dead_letters("clicks").to_pylist()] == ["no json"]
    found = project.features(view, [{"user_id": 0}, {"user_id": 1}])["pace__page_last_5"].to_pylist()
    assert [sorted(one) for one in found] == [["/home"], ["/cart", "/own"]]


def test_what_the_producer_library_has_aggregated_comes_apart(stream: ForeignStream, project: ms.Project) -> None:
    whole = aggregated(("a", event(0)), ("b", event(1)), ("a", event(1)))
    stream.put(0, [whole, whole[:-1] + bytes([whole[-1] ^ 1]), event(0)])
    assert project.drain()["taken"] == 5
    assert counts(project, 2) == [2, 2]
    assert project.dead_letters("clicks").num_rows == 1


def test_records_of_arrow_are_rows(stream: ForeignStream) -> None:
    table, sink = pa.table({"user_id": [1, 2, 3]}), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    stream.put(0, [sink.getvalue().to_pybytes()])
    source = stream.source(format="arrow")
    (found,) = [one for shard in source.shards({}) if len(one := source.read(shard.name, None, 10))]
    assert (found.encodings, found.counts.tolist()) == (["arrow"], [3])


def test_shards_split_and_merged_are_read_after_those_they_go_on_from(
    stream: ForeignStream, project: ms.Project
) -> None:
    """The pages of one user come in the order in which they were put, through a split, and a merge of what it made."""
    stream.put(0, [event(7, page="1"), event(7, page="2")])
    stream.split(0)
    stream.put(0, [event(7, page="3")])
    assert project.drain()["taken"] == 3
    stream.put(0, [event(7, page="4")])
    stream.merge(0)
    stream.put(0, [event(7, page="5")])
    assert project.drain()["taken"] == 2
    names = {one.name: one.parents for one in stream.source().shards({})}
    assert sorted(len(parents) for parents in names.values()) == [0, 0, 1, 1, 2]
    events = project.parts.log
    lines = [payload for partition in range(2) for payload in events.read("clicks", partition, 0, 100).payloads]
    assert [msgspec.json.decode(one)["page"] for line in lines for one in line.split(b"\n")] == [
        "1",
        "2",
        "3",
        "4",
        "5",
    ]


def test_a_stream_that_is_made_anew_is_another_one(stream: ForeignStream, project: ms.Project) -> None:
    stream.put(0, [event(0), event(0)])
    assert project.drain()["taken"] == 2
    stream.make_anew()
    stream.put(0, [event(1)])
    source = stream.source()
    assert [len(source.read(one.name, None, 10)) for one in source.shards({})] == [1]
    old = source.read("shardId-000000000000@1", "5@1", 10)
    assert old.closed and "is there no more" in str(old.lost)


def test_an_iterator_that_has_expired_is_made_anew(stream: ForeignStream) -> None:
    stream.put(0, [event(n) for n in range(3)])
    source = stream.source()
    shard = source.shards({})[0].name
    first = source.read(shard, None, 2)
    with failing(source, "get_records", "ExpiredIteratorException"):
        some = source.read(shard, first.next, 10)
    again = source.read(shard, some.next, 10)
    assert (len(first), len(some), len(again), some.lost, again.lost) == (2, 0, 1, None, None)


def test_an_iterator_that_expires_before_its_first_use_moves_nothing(stream: ForeignStream) -> None:
    """As that of a process that stood still between the two calls: its place is as good as it was."""
    stream.put(0, [event(n) for n in range(3)])
    shard = stream.source().shards({})[0].name
    place = stream.source().read(shard, None, 2).next
    fresh = stream.source()
    with failing(fresh, "get_records", "ExpiredIteratorException"):
        found = fresh.read(shard, place, 10)
    assert (len(found), found.next, found.lost) == (0, place, None)
    assert len(fresh.read(shard, place, 10)) == 1


def test_a_place_that_a_shard_does_not_have_is_said_and_it_is_read_from_its_beginning(stream: ForeignStream) -> None:
    stream.put(0, [event(n) for n in range(3)])
    source = stream.source()
    shard = source.shards({})[0].name
    place = source.read(shard, None, 2).next
    other = stream.source()
    with failing(other, "get_shard_iterator", "InvalidArgumentException"):
        found = other.read(shard, place, 10)
    assert (len(found), found.next) == (0, None)
    assert "is none of its positions; it is read from its beginning" in str(found.lost)


def test_a_shard_is_not_read_more_often_than_the_service_lets_it(stream: ForeignStream) -> None:
    stream.put(0, [event(n) for n in range(3)])
    source = stream.source(read_every_s=60)
    shard = source.shards({})[0].name
    first = source.read(shard, None, 2)
    waiting = source.read(shard, first.next, 10)
    assert (len(first), len(waiting), waiting.next) == (2, 0, first.next)


def test_where_it_was_read_to_the_end_nothing_was_lost_however_long_nothing_came(stream: ForeignStream) -> None:
    source = stream.source()
    shard = source.shards({})[0].name
    place = source.read(shard, None, 10).next
    for _ in range(3):
        stream.clock.by += 20 * 3_600_000_000
        found = source.read(shard, place, 10)
        place = found.next
        assert found.lost is None
    stream.clock.by += 30 * 3_600_000_000
    assert "if anything, is kept no longer" in str(stream.source().read(shard, place, 10).lost)


def test_it_says_for_how_long_records_are_kept(stream: ForeignStream) -> None:
    source = stream.source()
    assert source.kept() == 24 * 3_600_000_000
    assert {source.behind(one.name, None).records for one in source.shards({})} == {0}


def test_a_service_that_throttles_is_busy_not_broken(stream: ForeignStream) -> None:
    stream.put(0, [event(0)])
    source = stream.source()
    shard = source.shards({})[0].name
    busy = pytest.raises(SourceBusy, match="is throttled")
    with failing(source, "get_records", "ProvisionedThroughputExceededException"), busy:
        source.read(shard, None, 10)
    assert len(source.read(shard, None, 10)) == 1


def test_each_thing_that_is_wrong_is_one_sentence(stream: ForeignStream, tmp_path: Path) -> None:
    def said(what: str, hint: str, name: str = stream.name, **settings: object) -> None:
        given = {"endpoint": stream.server.endpoint, "region": REGION, **settings}
        source = Kinesis(name=name, **given).open(Settings(folder=tmp_path), stream.clock, "clicks")  # type: ignore[arg-type]
        with pytest.raises(SourceError) as raised:
            source.shards({})
        assert what in raised.value.message and hint in str(raised.value.hint)
        assert "tests" not in str(raised.value)  # as in the secret

    with patch.dict(os.environ, CREDENTIALS):
        said("is not there", "did you mean 'payments-", name=stream.name + "x")
        said("cannot be reached", "check `region` and `endpoint`", endpoint="http://127.0.0.1:1")
    nobody = {name: "" for name in ("HOME", *CREDENTIALS)} | {"AWS_EC2_METADATA_DISABLED": "true"}
    with patch.dict(os.environ, nobody):
        said("no credentials were found", "AWS_ACCESS_KEY_ID")
    with pytest.raises(ProjectError, match="makes no client of Kinesis"):
        Kinesis(name="x", profile="nobody").open(Settings(folder=tmp_path), stream.clock, "clicks")
    with pytest.raises(ProjectError, match="have no key of their own"):
        Kinesis(name="x", format="arrow", key_column="k").open(Settings(folder=tmp_path), stream.clock, "clicks")


def test_a_server_that_hangs_is_given_up_in_time(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, patch.dict(os.environ, CREDENTIALS):
        given = Kinesis(name="x", region=REGION, endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}", wait_s=0.3)
        source = given.open(Settings(folder=tmp_path), SystemClock(), "clicks")
        with pytest.raises(SourceError, match="cannot be reached"):
            source.shards({})
