"""Events per second of processor time through stream computing of a log on Kafka, beside bytewax and Quix Streams on Kafka.

Fair: one process each, on one server that shares the machine, and the same ten aggregates of every user over three windows.
What is counted is the processor time that the process itself has used, its client of Kafka included, so that neither pays
for the server. Ours reads what `send` has appended, a thousand events a message, and ends each micro-batch with deltas in a
feature topic that the server has acknowledged; bytewax reads one event of JSON a message, as any producer writes it, 10,000
at a time, decodes it by the same library, folds three tumbling windows, and keeps and writes nothing; Quix Streams reads the
same messages, and folds the same windows to a state in RocksDB, without a changelog in Kafka. The other lines are ours
beside ours on the embedded log, by the clock.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pyarrow as pa

import millstream as ms
from benchmarks.computing import PARTITIONS, Computing
from benchmarks.harness import Claim, Scale, in_turns
from benchmarks.peers import Peer, peer
from benchmarks.world import NOW, PAYMENTS, SCHEMA, USER, payments
from millstream.clock import SimulatedClock
from millstream.definitions import EventStream, StreamFeatureGroup
from millstream.testing.servers.kafka import Kafka

OVER = ["5m", "1h", "24h"]


def run(scale: Scale) -> Iterator[Claim]:
    """JSON events of a thousand users, from Kafka on both sides; then beside the embedded log, JSON and Arrow."""
    remedy = Kafka.lacking()
    if remedy is not None:
        raise SystemExit(f"kafka_computing needs Kafka: {remedy}")
    from millstream.buffer.kafka.log import KafkaLog

    rows = scale.of(200_000, least=2_000)
    events = payments(rows, scale.of(1_000, least=50), days=0.25)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        kafka = stack.enter_context(Kafka())
        clock = SimulatedClock(NOW)
        log = KafkaLog(kafka.servers, kafka.prefix(), clock, seconds=60)
        ours = Computing(folder / "kafka", events, SCHEMA, log=log, clock=clock)
        stack.callback(ours.close)
        topic = _sent(kafka, events) if scale.foreign else ""
        for name, told in (("bytewax", "bytewax on Kafka, tumbling"), ("quix", "Quix Streams on Kafka, tumbling")):
            other = stack.enter_context(peer(f"{name}_kafka")) if scale.foreign else None
            theirs = _peer(other, kafka, topic, rows) if other else None
            found = in_turns(_per_processor(ours, rows), theirs, scale.repeats)
            yield Claim("JSON events from Kafka", "events/cpu s", *found, told, "higher", 5.0)
        embedded = Computing(folder / "embedded", events, SCHEMA)
        stack.callback(embedded.close)
        for encoding in ("json", "arrow"):
            found = in_turns(_by_clock(ours, rows, encoding), _by_clock(embedded, rows, encoding), scale.repeats)
            yield Claim(f"{encoding} events", "events/s", *found, "the embedded log", "higher", 0.7)


def _spending(source: EventStream) -> list[StreamFeatureGroup]:
    features = [
        ms.Count(over=OVER), ms.Sum("amount", over=OVER), ms.Mean("amount", over=OVER), ms.Min("amount", over=OVER),
        ms.Max("amount", over=OVER), ms.Std("amount", over=OVER), ms.Last("amount", over=OVER), ms.Sum("fee", over=OVER),
        ms.Max("fee", over=OVER), ms.Count(name="declined", where="status = 'declined'", over=OVER),
    ]  # fmt: skip
    return [ms.StreamFeatureGroup(f"spending_{source.name}", entity=USER, source=source, features=features)]


def _per_processor(computing: Computing, rows: int) -> Callable[[], float]:
    def measure() -> float:
        computing.sent(PAYMENTS, "json")
        begun = time.process_time()
        computing.seconds(PAYMENTS, "json", _spending)
        return rows / (time.process_time() - begun)

    return measure


def _by_clock(computing: Computing, rows: int, encoding: str) -> Callable[[], float]:
    return lambda: rows / computing.seconds(PAYMENTS, encoding, _spending)


def _sent(kafka: Kafka, events: pa.Table) -> str:
    """The topic to which the events were appended as other programs append them, each a message of its user's and its time."""
    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient, NewTopic

    topic = f"{kafka.prefix()}.payments"
    admin = AdminClient({"bootstrap.servers": kafka.servers})
    admin.create_topics([NewTopic(topic, PARTITIONS, 1, config={"retention.ms": "-1"})])[topic].result(60)
    producer = Producer({"bootstrap.servers": kafka.servers, "compression.type": "lz4", "linger.ms": 20})
    place = events.schema.get_field_index("user_id")
    texts = events.set_column(place, "user_id", events["user_id"].cast(pa.string()))
    for event in texts.to_pylist():
        at = int(event["paid_at"].timestamp() * 1_000)
        producer.produce(topic, msgspec.json.encode(event), event["user_id"].encode(), timestamp=at)
        producer.poll(0)
    assert producer.flush(120) == 0
    return topic


def _peer(other: Peer, kafka: Kafka, topic: str, rows: int) -> Callable[[], float]:
    """A peer's rate for the same events."""

    def measure() -> float:
        found = other.ask(do="run", servers=kafka.servers, topic=topic, rows=rows)
        assert found["counted"] == rows, f"{found['counted']} of {rows} events were counted"
        return float(rows / found["processor"])

    return measure
