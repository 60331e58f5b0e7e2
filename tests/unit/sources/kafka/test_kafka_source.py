"""A topic that others own as a source: what its messages become, and what happens when the topic changes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest
from tests.foreign_topic import ForeignTopic

import millstream as ms
from millstream.buffer.embedded.log import EmbeddedLog
from millstream.clock import SimulatedClock
from millstream.errors import MillstreamError, SourceError
from millstream.sources.formats import Arrow, Json
from millstream.sources.kafka.source import KafkaSource
from millstream.sources.source import NO_STAMP
from millstream.sources.take_in import TakeIn
from millstream.testing.servers.kafka import PASSWORD, USER, Kafka

pytestmark = pytest.mark.usefixtures("kafka")
user = ms.Entity("user", keys={"user_id": "int64"})
clicks = ms.EventStream("clicks", time="at", schema={"user_id": "int64", "page": "string", "at": "timestamp"})
pace = ms.StreamFeatureGroup("pace", entity=user, source=clicks, features=[ms.Count()])
view = ms.FeatureView("pace", features=[pace])


@pytest.fixture
def topic(kafka: Kafka) -> ForeignTopic:
    return ForeignTopic(kafka)


def event(user_id: int, **more: object) -> bytes:
    return msgspec.json.encode({"user_id": user_id, "at": "2026-01-05T09:00:00Z", **more})


def bound(folder: Path, servers: str, topic: str, **settings: object) -> ms.Project:
    """A project whose clicks are read from a topic."""
    given = {"kind": "kafka", "servers": servers, "topic": topic, **settings}
    lines = "\n".join(f"{name} = {msgspec.json.encode(value).decode()}" for name, value in given.items())
    (folder / "millstream.toml").write_text(f"partitions = 2\n[streams.clicks]\n{lines}\n")
    return ms.Project(folder)


@pytest.fixture
def project(topic: ForeignTopic, tmp_path: Path) -> Iterator[ms.Project]:
    with bound(tmp_path, topic.servers, topic.name, key_column="page") as project:
        project.apply(view)
        yield project


def frame(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def counts(project: ms.Project, users: int) -> list[int]:
    return project.features(view, [{"user_id": n} for n in range(users)])["pace__count"].to_pylist()


def payloads(source: KafkaSource, shard: str, position: str | None) -> list[bytes | None]:
    """All that comes from a position on."""
    found = source.read(shard, position, 100)
    return found.payloads + payloads(source, shard, found.next) if len(found) else []


def test_each_message_counts_once_and_what_is_no_event_is_a_dead_letter(topic: ForeignTopic, project: ms.Project):
    topic.produce([event(0), event(1), b"no json", None, event(1)], key=b"/home")
    assert project.drain()["taken"] == 5
    assert project.drain()["taken"] == 0
    topic.produce([event(1)], key=b"/cart")
    assert project.drain()["taken"] == 1
    assert counts(project, 2) == [1, 3]
    assert sorted(project.dead_letters("clicks")["payload"].to_pylist()) == ["no json", "null"]
    pages = project.parts.histories.events().read("clicks")["page"].to_pylist()
    assert sorted(pages) == ["/cart", "/home", "/home", "/home"]


def test_partitions_that_are_added_are_read_from_their_start_by_versions_that_run(
    topic: ForeignTopic, project: ms.Project
):
    topic.produce([event(0)])
    project.drain()
    topic.grow(3)
    topic.produce([event(0), event(1)], partition=2)
    taken = 0
    while taken < 2:  # that a topic has grown shows a moment later
        taken += project.drain()["taken"]
    assert counts(project, 2) == [2, 1]


def test_keys_headers_and_stamps_come_with_a_message(topic: ForeignTopic):
    form = Json("page", {"trace": "x-trace", "host": "x-host"})
    topic.produce([b'{"n": 1}', b"{}", b'{"page": "own"}'], key=b"k", headers={"x-trace": b"t"}, timestamp=5_000)
    with closing(topic.source(form)) as source:
        [shard] = source.shards({})
        found = source.read(shard.name, None, 10)
    assert found.payloads == [
        b'{"page":"k","trace":"t","n": 1}',
        b'{"page":"k","trace":"t"}',
        b'{"page":"k","trace":"t","page": "own"}',
    ]
    assert found.keys == [b"k"] * 3 and found.stamps.tolist() == [5_000_000] * 3


def test_who_appends_stamps_where_the_topic_says_so(kafka: Kafka):
    topic = ForeignTopic(kafka, message_timestamp_type="LogAppendTime")
    begun = time.time_ns() // 1_000_000
    topic.produce([b"{}"], timestamp=5_000)
    with closing(topic.source()) as source:
        [shard] = source.shards({})
        [stamp] = source.read(shard.name, None, 10).stamps.tolist()
    assert stamp != NO_STAMP and stamp >= begun * 1_000


def test_what_was_not_committed_does_not_come_and_markers_are_passed_over(topic: ForeignTopic):
    from confluent_kafka import Producer

    other = Producer({"bootstrap.servers": topic.servers, "transactional.id": topic.name})
    other.init_transactions(60)
    for value, end in ((b"1", other.abort_transaction), (b"2", other.commit_transaction)):
        other.begin_transaction()
        other.produce(topic.name, value, partition=0)
        other.flush(30)
        end(60)
    with closing(topic.source()) as source:
        [shard] = source.shards({})
        found = source.read(shard.name, None, 10)
        assert found.payloads == [b"2"]
        assert source.behind(shard.name, found.next).records == 0
        topic.produce([b"3"])
        source.shards({})
        assert source.read(shard.name, found.next, 10).payloads == [b"3"]


def test_a_topic_that_is_made_anew_has_other_shards_and_those_of_the_old_one_are_closed(topic: ForeignTopic):
    topic.produce([b"1"])
    with closing(topic.source()) as source:
        [old] = source.shards({})
        position = source.read(old.name, None, 10).next
        topic.delete()
        while True:
            try:
                topic.make(1)
                break
            except Exception:
                time.sleep(0.1)
        topic.produce([b"2"])
        new = old
        while new == old:
            try:
                [new] = source.shards({})
            except SourceError:
                time.sleep(0.1)
        closed = source.read(old.name, position, 10)
        assert closed.closed and closed.lost is not None and "made anew" in closed.lost
        assert source.read(new.name, None, 10).payloads == [b"2"]


def test_rows_of_arrow_are_as_many_events(topic: ForeignTopic, tmp_path: Path):
    table = pa.table({"user_id": [1, 2]})
    topic.produce([frame(table), b"no arrow", frame(table.slice(0, 0)), frame(table)])
    log = EmbeddedLog(tmp_path, SimulatedClock(2_000_000_000_000_000), map_gib=1, fsync=False)
    log.create("clicks", 1)
    with closing(log), closing(TakeIn(log, clicks, topic.source(Arrow()), SimulatedClock(0))) as taking:
        taken = 0
        while taken < 5:
            taken += taking.step().records
        found = log.read("clicks", 0, 0, 10)
    assert found.counts.tolist() == [2, 1, 2] and found.encodings == ["arrow", "json", "arrow"]
    assert b"no Arrow" in found.payloads[1]


def test_readers_that_go_back_get_the_same_again(topic: ForeignTopic):
    topic.produce([b"%d" % number for number in range(50)])
    with closing(topic.source()) as source:
        [shard] = source.shards({})
        first = source.read(shard.name, None, 20)
        rest = payloads(source, shard.name, first.next)
        assert payloads(source, shard.name, first.next) == rest
        assert source.read(shard.name, None, 100, first.next).payloads == first.payloads
        assert first.payloads + rest == [b"%d" % number for number in range(50)]


def test_what_is_unread_and_soon_not_kept_any_more_is_an_alarm(kafka: Kafka, tmp_path: Path):
    topic = ForeignTopic(kafka, retention_ms=str(7_200_000))
    with bound(tmp_path, topic.servers, topic.name) as project:
        project.apply(view)
        [taking] = project.parts.layers.takings()
        topic.produce([event(1)], timestamp=int(time.time() * 1_000) - 1_000)
        assert taking.threat() is None
        topic.produce([event(2)], timestamp=int(time.time() * 1_000) - 5_400_000)
        while taking.step().more:
            pass
        topic.produce([event(3)], timestamp=int(time.time() * 1_000) - 5_400_000)
        threat = taking.threat()
        assert threat is not None and "keeps events for 2 h, and the oldest that is not taken in is 1.5 h old" in threat
        taking.close()


def test_a_topic_that_is_not_there_is_said(topic: ForeignTopic, tmp_path: Path):
    with bound(tmp_path, topic.servers, topic.name + "s") as project:
        project.apply(view)
        with pytest.raises(SourceError, match=r"Stream 'clicks': Topic '.*' is not in the cluster") as told:
            project.drain()
        assert told.value.hint == f"did you mean '{topic.name}'?"


def test_who_is_not_let_in_is_told_what_to_check(kafka: Kafka, topic: ForeignTopic, tmp_path: Path, monkeypatch):
    guarded = {"security": "sasl_plaintext", "user": USER, "password_env": "THEIRS", "wait_s": 3.0}
    monkeypatch.setenv("THEIRS", "wrong-1")
    with bound(tmp_path, f"127.0.0.1:{kafka.guarded}", topic.name, **guarded) as project:
        project.apply(view)
        with pytest.raises(SourceError, match="does not let us in") as told:
            project.drain()
        assert "[streams.clicks]" in str(told.value) and "wrong-1" not in str(told.value)
    monkeypatch.setenv("THEIRS", PASSWORD)
    topic.produce([event(1)])
    with bound(tmp_path, f"127.0.0.1:{kafka.guarded}", topic.name, **guarded) as project:
        [taking] = project.parts.layers.takings()
        assert taking.step().records == 1
        taking.close()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"format": "avro"}, r"\[streams.clicks\] format = 'avro' needs 'registry'"),
        ({"format": "arrow", "key_column": "page"}, "rows of Arrow have no key"),
        ({"format": "xml"}, "json, arrow, avro or protobuf"),
        ({"format": "avro", "registry": "https://ada:grist@example.org"}, "without user and password"),
        ({"format": "avro", "registry": "file:///schemas"}, "a URL of http or https"),
        ({"security": "sasl_ssl"}, r"\[streams.clicks\] kind = 'kafka': 'user' is missing"),
    ],
)
def test_a_setting_that_is_wrong_is_said_in_a_sentence(tmp_path: Path, settings: dict[str, object], said: str):
    with pytest.raises(MillstreamError, match=said), bound(tmp_path, "127.0.0.1:1", "clicks", **settings) as project:
        project.apply(view)
        project.drain()
