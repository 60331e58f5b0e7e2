"""Clients of Kafka that hear nothing any more, as some have after a server's death, are noticed and replaced."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.end_to_end.running import until

from millstream.buffer.kafka import cursors, positions, worker
from millstream.buffer.kafka.log import KafkaLog
from millstream.buffer.kafka.messages import STRIDE
from millstream.buffer.log import Batch
from millstream.clock import SimulatedClock
from millstream.errors import LogError
from millstream.project.backends import backend
from millstream.settings import Settings
from millstream.testing.servers.kafka import Kafka

SOON = 0.3


class Deaf:
    """A client that goes on as it does, and tells of nothing."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def poll(self, *_: float) -> None:
        return None

    def consume(self, *_: float) -> list[Any]:
        return []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


@pytest.fixture
def log(kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KafkaLog]:
    for module in (cursors, positions, worker):
        monkeypatch.setattr(module, "SURE", SOON)
    said = {"kind": "kafka", "servers": kafka.servers, "prefix": kafka.prefix(), "session_s": 2.0, "wait_s": 5.0}
    project = Settings(folder=tmp_path, log=said)
    log = backend(project, "log").open(project, SimulatedClock(7))
    log.create("clicks", 1)
    yield log
    log.close()


def appended(log: KafkaLog, payload: bytes) -> int:
    return log.append("clicks", 0, Batch(payload, "bytes", 1))


def test_an_end_is_met_again_and_nothing_is_read_twice(log: KafkaLog) -> None:
    first = appended(log, b"one")
    found: list[bytes] = []
    position = 0
    while position <= first:
        records = log.read("clicks", 0, position, 10)
        found, position = found + list(records.payloads), records.next
    (client,) = log._reader._clients
    cursor = client.cursor((f"{log._prefix}-clicks", 0))
    assert cursor is not None
    until(lambda: log.read("clicks", 0, position, 10) is not None and cursor.ended, "the end is met")
    heard = cursor.heard
    until(lambda: not log.read("clicks", 0, position, 10).payloads and cursor.ended and cursor.heard > heard + SOON,
          "the end is met again")  # fmt: skip
    appended(log, b"two")
    until(lambda: found.extend(log.read("clicks", 0, position, 10).payloads) or found[1:], "what comes then is read")
    assert found == [b"one", b"two"]


def test_what_a_deaf_client_does_not_tell_is_read_by_another(log: KafkaLog) -> None:
    position = appended(log, b"one")
    until(lambda: log.read("clicks", 0, 0, 10).payloads, "the first is read")
    (client,) = log._reader._clients
    client._consumer = deaf = Deaf(client._consumer)
    appended(log, b"two")
    found: list[bytes] = []
    until(lambda: found.extend(log.read("clicks", 0, position + STRIDE, 10).payloads) or found, "the second is read")
    assert found == [b"two"]
    assert client._consumer is not deaf


def test_positions_that_a_deaf_client_does_not_tell_are_read_by_another(log: KafkaLog, tmp_path: Path) -> None:
    assert log.committed("reader", "clicks") == [None]
    log._positions._consumer = deaf = Deaf(log._positions._consumer)
    project = Settings(
        folder=tmp_path, log={"kind": "kafka", "servers": log._connection.servers, "prefix": log._prefix}
    )
    other = backend(project, "log").open(project, SimulatedClock(7))
    with other.transaction() as work:
        work.commit("reader", "clicks", 0, None, 5)
    other.close()
    until(lambda: log.committed("reader", "clicks") == [5], "what another has committed")
    assert log._positions._consumer is not deaf
    settled = log._positions._consumer
    time.sleep(4 * SOON)
    until(lambda: log.committed("reader", "clicks") == [5], "an end that is met again changes nothing")
    assert log._positions._consumer is settled


def test_a_member_that_its_group_does_not_know_joins_anew(log: KafkaLog) -> None:
    member = log.worker("compute", ["clicks"], "one")
    until(lambda: member.assigned().get("clicks"), "the partition is its own")
    consumer = member._consumer
    assert consumer is not None
    consumer.unsubscribe()  # it leaves, and takes nothing up by itself
    until(lambda: not member.assigned(), "it has left")
    until(lambda: member.assigned().get("clicks"), "it has joined anew")
    assert member._consumer is not consumer
    second = log.worker("compute", ["clicks"], "two")
    idle = until(lambda: second._consumer is not None and second._consumer.memberid() and second._consumer, "a second")
    for _ in range(20):
        assert not second.assigned() and member.assigned().get("clicks")
        time.sleep(0.1)
    assert second._consumer is idle, "who owns nothing because others do stays"
    for one in (member, second):
        one.close()


def test_an_administrator_who_is_not_answered_is_replaced(log: KafkaLog, kafka: Kafka) -> None:
    before = log._connection.admin
    kafka.kill()
    try:
        with pytest.raises(LogError, match="has not answered"):
            log.topics()
    finally:
        kafka.start()
    assert "clicks" in log.topics()
    assert log._connection.admin is not before
