"""What a log on Kafka does beyond the suite: in a cluster that others use, refuses us, grows, and is killed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from millstream.buffer.log import Batch
from millstream.buffer.reading import through
from millstream.clock import SimulatedClock
from millstream.errors import LogError, ProjectError
from millstream.project.backends import backend
from millstream.settings import Settings
from millstream.testing.servers.kafka import PASSWORD, USER, Kafka

pytestmark = pytest.mark.usefixtures("kafka")


@pytest.fixture
def settings(kafka: Kafka, tmp_path: Path) -> Iterator[dict[str, object]]:
    """The settings of a log of its own."""
    yield {"kind": "kafka", "servers": kafka.servers, "prefix": kafka.prefix(), "session_s": 2.0}


def opened(folder: Path, settings: dict[str, object]):
    project = Settings(folder=folder, log=settings)
    return backend(project, "log").open(project, SimulatedClock(7))


def payloads(log, topic: str, partition: int = 0) -> list[bytes]:
    first, end = log.ends(topic)[partition]
    return [one for records in through(log, topic, partition, first, end) for one in records.payloads]


def test_what_other_programs_write_is_read_as_json_and_markers_are_passed_over(kafka, settings, tmp_path):
    from confluent_kafka import Producer

    log = opened(tmp_path, settings)
    log.create("clicks", 1)
    name = f"{settings['prefix']}-clicks"
    other = Producer({"bootstrap.servers": kafka.servers, "transactional.id": name})
    other.init_transactions(60)
    other.begin_transaction()
    other.produce(name, b'{\n"a": 1}', timestamp=5)
    other.produce(name, None, key=b"gone", timestamp=6)
    other.commit_transaction(60)
    log.append("clicks", 0, Batch(b"ours", "bytes", 1))
    other.begin_transaction()
    other.produce(name, b"{}", timestamp=9)
    other.commit_transaction(60)
    first, end = log.ends("clicks")[0]
    found = list(through(log, "clicks", 0, first, end))
    assert [one for records in found for one in records.payloads] == [b'{ "a": 1}', b"null", b"ours", b"{}"]
    assert [one for records in found for one in records.encodings] == ["json", "json", "bytes", "json"]
    assert [one for records in found for one in records.appended.tolist()] == [5_000, 6_000, 7, 9_000]
    log.close()


STRIDE = 1 << 20


@pytest.mark.parametrize(("ended", "following"), [(0, 0), (1, STRIDE), (STRIDE, STRIDE), (5 * STRIDE + 7, 6 * STRIDE)])
def test_a_partition_goes_on_beyond_where_another_log_ended_and_holds_nothing_before(
    settings, tmp_path, ended, following
):
    log = opened(tmp_path, settings)
    log.create("clicks", 2)
    assert log.begin_beyond("clicks", 1, ended) == following
    assert log.begin_beyond("clicks", 1, ended) == following
    assert log.ends("clicks") == [(0, 0), (0, following)]
    assert payloads(log, "clicks", 1) == []
    for begin in {0, ended // 2, ended, following}:
        found = log.read("clicks", 1, begin, 10)
        assert (len(found), found.next) == (0, max(begin, following))
    assert log.behind("clicks", 1, following).records == 0
    assert log.append("clicks", 1, Batch(b"first", "bytes", 1)) == following
    assert [one.positions.tolist() for one in through(log, "clicks", 1, ended, log.ends("clicks")[1][1])] == [
        [following]
    ]
    assert log.behind("clicks", 1, ended).since == 7
    log.close()


def test_what_was_acknowledged_outlives_a_server_that_is_killed_and_appending_goes_on(kafka, settings, tmp_path):
    log = opened(tmp_path, {**settings, "wait_s": 5})
    log.create("clicks", 1)
    told = [log.append("clicks", 0, Batch(b"%d" % number, "bytes", 1)) for number in range(50)]
    assert len(payloads(log, "clicks")) == 50
    kafka.kill()
    try:
        with pytest.raises(LogError, match=r"'127.0.0.1:\d+' has not answered within 5 s"):
            log.append("clicks", 0, Batch(b"lost", "bytes", 1))
    finally:
        kafka.start()
    position = log.append("clicks", 0, Batch(b"after", "bytes", 1))
    assert position > told[-1]
    found = payloads(log, "clicks")
    assert found[:50] == [b"%d" % number for number in range(50)] and found[-1] == b"after"
    log.close()


def test_partitions_that_others_add_are_appended_to_and_read_at_once(settings, tmp_path):
    ours, others = opened(tmp_path, settings), opened(tmp_path, settings)
    ours.create("clicks", 1)
    ours.append("clicks", 0, Batch(b"a", "bytes", 1))
    assert payloads(ours, "clicks") == [b"a"]
    others.grow("clicks", 3)
    ours.append("clicks", 2, Batch(b"b", "bytes", 1))
    assert payloads(ours, "clicks", 2) == [b"b"]
    ours.close()
    others.close()


def test_many_threads_append_and_read_at_once(settings, tmp_path):
    log = opened(tmp_path, settings)
    log.create("clicks", 4)

    def work(partition: int) -> None:
        for number in range(40):
            log.append("clicks", partition, Batch(b"%d" % number, "bytes", 1))
            log.read("clicks", (partition + 1) % 4, 0, 10)

    threads = [threading.Thread(target=work, args=(partition,)) for partition in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for partition in range(4):
        assert payloads(log, "clicks", partition) == [b"%d" % number for number in range(40)]
    log.close()


def test_readers_at_different_places_do_not_disturb_each_other(settings, tmp_path):
    log = opened(tmp_path, settings)
    log.create("clicks", 1)
    places = [log.append("clicks", 0, Batch(b"%d" % number, "bytes", 1)) for number in range(300)]
    end = log.ends("clicks")[0][1]
    for step in range(0, 290, 29):
        for begin in (0, step, 290 - step):
            (found,) = list(through(log, "clicks", 0, places[begin], places[begin + 5], 5))[:1]
            assert found.payloads[0] == b"%d" % begin
    assert [one for r in through(log, "clicks", 0, 0, end, 7) for one in r.positions.tolist()] == places
    log.close()


def test_who_is_let_in_needs_the_password(kafka, settings, tmp_path, monkeypatch):
    guarded = {**settings, "servers": f"127.0.0.1:{kafka.guarded}", "wait_s": 5.0}
    known = {**guarded, "security": "sasl_plaintext", "user": USER, "password_env": "KAFKA_PASSWORD"}
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    log = opened(tmp_path, known)
    assert log.topics() == {}
    log.close()
    monkeypatch.setenv("KAFKA_PASSWORD", "wrong-1")
    refused = opened(tmp_path, known)
    with pytest.raises(LogError, match="does not let us in") as told:
        refused.topics()
    assert "wrong-1" not in str(told.value)
    refused.close()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"security": "sasl_ssl"}, "'user' is missing"),
        ({"security": "sasl_ssl", "user": "ada"}, "neither 'password_env' nor 'password_file'"),
        ({"security": "sasl_ssl", "user": "ada", "password_env": "NO_SUCH"}, "variable 'NO_SUCH' holds no password"),
        ({"security": "sasl_ssl", "user": "ada", "password_file": "no"}, "no' holds no password"),
        ({"security": "ssl", "ca": "ca.pem"}, "ca.pem' is not there"),
        ({"prefix": "a-b"}, "letters, digits and underscores"),
        ({"compression": "zip"}, "none, gzip, snappy, lz4 or zstd"),
    ],
)
def test_a_setting_that_is_wrong_is_said_in_a_sentence(tmp_path, wrong, said):
    settings = {"kind": "kafka", "servers": "127.0.0.1:1", "prefix": "fraud", **wrong}
    with pytest.raises(ProjectError, match=said):
        opened(tmp_path, settings)


def test_a_cluster_that_cannot_be_reached_is_said_in_a_sentence(tmp_path):
    log = opened(tmp_path, {"kind": "kafka", "servers": "127.0.0.1:1", "prefix": "fraud", "wait_s": 1})
    with pytest.raises(LogError, match=r"Kafka at '127.0.0.1:1' has not answered within 1 s"):
        log.topics()
    log.close()
