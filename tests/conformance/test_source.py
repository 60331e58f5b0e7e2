"""Every source passes the suite."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.foreign_topic import ForeignTopic
from tests.kinesis import ForeignStream, KinesisServer

from millstream.buffer.embedded.log import EmbeddedLog
from millstream.buffer.log import Batch
from millstream.clock import SimulatedClock
from millstream.sources.another_project import ProjectSource
from millstream.sources.files import FilesSource
from millstream.sources.source import Source
from millstream.testing.adversarial_source import AdversarialSource
from millstream.testing.servers.kafka import Kafka
from millstream.testing.source_suite import SourceConformance


class Made:
    """A made source, which every process shares."""

    def __init__(self, seed: int) -> None:
        self._source = AdversarialSource(seed)

    def open(self) -> Source:
        return self._source

    def put(self, place: int, events: list[bytes]) -> None:
        for event in events:
            self._source.put(f"shard {place}", event)

    def expire(self, place: int) -> None:
        self._source.expire(f"shard {place}", 3)


class TestAdversarialSource(SourceConformance):
    @pytest.fixture(params=range(5))
    def world(self, request: pytest.FixtureRequest) -> Made:
        return Made(request.param)


class Written:
    """Files that grow."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self) -> Source:
        return FilesSource(self._folder, "*.jsonl", "clicks")

    def put(self, place: int, events: list[bytes]) -> None:
        with (self._folder / f"{place}.jsonl").open("ab") as file:
            file.write(b"".join(event + b"\n" for event in events))

    def expire(self, place: int) -> None:
        """Nothing of a file is ever kept no longer but all of it."""


class TestFilesSource(SourceConformance):
    of = ("source", "files")

    @pytest.fixture
    def world(self, tmp_path: Path) -> Written:
        return Written(tmp_path)


class Sent:
    """The log of another project."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = EmbeddedLog(folder, SimulatedClock(1_800_000_000_000_000), map_gib=1, fsync=False)
        self._log.create("clicks", 2)

    def open(self) -> Source:
        log = EmbeddedLog(self._folder, SimulatedClock(0), map_gib=1, fsync=False)
        return ProjectSource(log, "clicks", "clicks", self._folder)

    def put(self, place: int, events: list[bytes]) -> None:
        for event in events:
            self._log.append("clicks", place, Batch(event, "json", 1))

    def expire(self, place: int) -> None:
        self._log.trim("clicks", place, 3)


class TestProjectSource(SourceConformance):
    of = ("source", "another project")

    @pytest.fixture
    def world(self, tmp_path: Path) -> Sent:
        return Sent(tmp_path)


class Produced:
    """A topic of Kafka's that others write to."""

    def __init__(self, kafka: Kafka) -> None:
        self._topic = ForeignTopic(kafka, partitions=2)

    def open(self) -> Source:
        return self._topic.source()

    def put(self, place: int, events: list[bytes]) -> None:
        self._topic.produce(events, partition=place)

    def expire(self, place: int) -> None:
        self._topic.delete_before(3, partition=place)


class TestKafkaSource(SourceConformance):
    of = ("source", "Kafka")

    @pytest.fixture
    def world(self, kafka: Kafka) -> Produced:
        return Produced(kafka)


class Stream:
    """A stream of Kinesis, with two shards, which are polled, or pushed to a consumer."""

    def __init__(self, kinesis: KinesisServer, **settings: Any) -> None:
        self._stream = ForeignStream(kinesis)
        self.open = partial(self._stream.source, **settings)
        self.put, self.expire = self._stream.put, self._stream.expire


class TestKinesisSource(SourceConformance):
    of = ("source", "Kinesis")

    @pytest.fixture
    def world(self, kinesis: KinesisServer) -> Stream:
        return Stream(kinesis)


class TestKinesisSourceWithAConsumer(SourceConformance):
    of = ("source", "Kinesis, pushed")

    @pytest.fixture
    def world(self, kinesis: KinesisServer) -> Stream:
        return Stream(kinesis, consumer="fraud")
