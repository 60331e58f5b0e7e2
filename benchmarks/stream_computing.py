"""Events per second through stream computing, beside bytewax folding the same events by event-time windows.

Fair: one process each. Ours reads a durable log and ends each micro-batch with a durable transaction of deltas and
positions, for eight features over two windows of every user; bytewax goes from memory to memory, keeps nothing, and folds
a count, a sum and a maximum over one window. Both take 50,000 events at a time, and a thousand users, which suits bytewax:
it looks at every key it knows after each batch. JSON is decoded by the same library on both sides; where ours gets Arrow,
bytewax gets finished objects.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import msgspec
import pyarrow as pa

import millstream as ms
from benchmarks.harness import Claim, Scale, in_turns, seconds
from benchmarks.peers import Peer, peer
from benchmarks.world import NOW, PAYMENTS, SCHEMA, USER, payments
from millstream.buffer.codec.events import encode
from millstream.buffer.embedded.log import EmbeddedLog
from millstream.buffer.topics import feature_topic
from millstream.clock import SimulatedClock
from millstream.computing.start_markers import start_version
from millstream.computing.stream import StreamComputer
from millstream.definitions import EventStream
from millstream.definitions.group_version import GroupVersion
from millstream.registry.definitions import Registry

PARTITIONS = 4
BATCH = 1_000  # events that a producer sends at once
UNIQUE = ms.EventStream("unique", time="paid_at", schema=SCHEMA, deduplicate="payment_id", within="1h")
#: By number of users: the stream, its encoding, the peer's windows, and the ratio that is claimed.
LINES: dict[int, list[tuple[EventStream, str, str, float | None]]] = {
    1_000: [
        (PAYMENTS, "arrow", "tumbling", 2.0),
        (PAYMENTS, "json", "tumbling", 2.0),
        (PAYMENTS, "arrow", "sliding", None),
        (UNIQUE, "arrow", "tumbling", None),
        (UNIQUE, "json", "tumbling", None),
    ],
    10_000: [(PAYMENTS, "arrow", "tumbling", None)],
}


class Computing:
    """A log that holds events, and the computing of them as often as wanted."""

    def __init__(self, folder: Path, events: pa.Table) -> None:
        self._folder, self._clock, self._versions = folder, SimulatedClock(NOW), count(1)
        self._log = EmbeddedLog(folder / "log", self._clock, map_gib=16)
        self._events = events

    def _sent(self, stream: EventStream, encoding: str) -> EventStream:
        """A stream like this one that holds the events in this encoding."""
        name = f"{stream.name}_{encoding}"
        source = ms.EventStream(name, time=stream.time, schema=SCHEMA, deduplicate=stream.deduplicate, within="1h")
        if name not in self._log.topics():
            self._log.create(name, PARTITIONS)
            self._send(source, encoding)
        return source

    def _send(self, stream: EventStream, encoding: str) -> None:
        """Append the events in a producer's batches, each when its last one happened."""
        times = self._events["paid_at"].cast(pa.int64()).to_numpy()
        for number, start in enumerate(range(0, len(times), BATCH)):
            part = self._events.slice(start, BATCH)
            self._clock.set(int(times[start + len(part) - 1]))
            for batch in encode(stream, part if encoding == "arrow" else part.to_pylist()):
                self._log.append(stream.name, number % PARTITIONS, batch)

    def events_per_second(self, stream: EventStream, encoding: str) -> float:
        """Compute all events for a new group version, from the first event to the last commit."""
        source = self._sent(stream, encoding)
        over = ["1h", "24h"]
        group = ms.StreamFeatureGroup(
            f"spending_{source.name}", entity=USER, source=source,
            features=[ms.Count(over=over), ms.Sum("amount", over=over), ms.Mean("amount", over=over),
                      ms.Max("amount", over=over)],
        )  # fmt: skip
        version = GroupVersion(group, next(self._versions))
        marks = Registry(f"sqlite:///{self._folder / 'registry.db'}").marks
        start_version(self._log, marks, version, [source], self._clock, at="zero")
        folder = self._folder / f"data{version.version}"
        with StreamComputer(self._log, [source], [version], self._clock, data=folder) as computer:
            taken = seconds(lambda: _drain(computer))
            counted = sum(counter["records"] for counter in computer.counters.values())
        rows = len(self._events)
        assert counted == rows, f"{counted} of {rows} events were computed"
        self._log.drop(feature_topic(version.id))
        return rows / taken

    def close(self) -> None:
        """Let go of the log."""
        self._log.close()


def run(scale: Scale) -> Iterator[Claim]:
    """Arrow and JSON events against a tumbling window; sliding ones, repeats and more users for information."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bytewax = stack.enter_context(peer("bytewax")) if scale.foreign else None
        for users in (1_000, 10_000):
            events = payments(scale.of(400_000, least=2_000), scale.of(users, least=50), days=0.25)
            computing = Computing(folder / str(users), events)
            stack.callback(computing.close)
            if bytewax:
                _open(bytewax, folder / "events.json", events)
            for stream, encoding, window, target in LINES[users]:
                theirs = _peer(bytewax, window, encoding == "arrow", len(events)) if bytewax else None
                found = in_turns(_ours(computing, stream, encoding), theirs, scale.repeats)
                name = f"{encoding} events of {users:,} users" + (", repeats left out" if stream.deduplicate else "")
                yield Claim(name, "events/s", *found, f"bytewax, {window} 1 h", "higher", target)


def _ours(computing: Computing, stream: EventStream, encoding: str) -> Callable[[], float]:
    return lambda: computing.events_per_second(stream, encoding)


def _peer(bytewax: Peer, window: str, decoded: bool, rows: int) -> Callable[[], float]:
    def measure() -> float:
        found = bytewax.ask(do="run", window=window, decoded=decoded)
        assert found["counted"] >= rows, f"bytewax counted {found['counted']} of {rows} events"
        return float(rows / found["wall"])

    return measure


def _drain(computer: StreamComputer) -> None:
    while computer.step().records:
        pass


def _open(bytewax: Peer, path: Path, events: pa.Table) -> None:
    """Give bytewax the events as JSON lines; its keys have to be strings, so they are."""
    place = events.schema.get_field_index("user_id")
    events = events.set_column(place, "user_id", events["user_id"].cast(pa.string()))
    path.write_bytes(msgspec.json.Encoder().encode_lines(events.to_pylist()))
    bytewax.ask(do="open", path=str(path))
