"""A durable log that holds events, and the stream computing of groups from it, as often as wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path

import pyarrow as pa

import millstream as ms
from benchmarks.harness import seconds
from benchmarks.world import NOW
from millstream.buffer.codec.events import encode
from millstream.buffer.embedded.log import EmbeddedLog
from millstream.buffer.log import OwnLog
from millstream.buffer.topics import feature_topic
from millstream.clock import SimulatedClock
from millstream.computing.start_markers import start_version
from millstream.computing.stream import StreamComputer
from millstream.definitions import EventStream, StreamFeatureGroup
from millstream.definitions.group_version import GroupVersion
from millstream.registry.definitions import Registry

PARTITIONS = 4
BATCH = 1_000  # events that a producer sends at once
#: Makes the groups of a stream, which reads the events in one encoding.
Groups = Callable[[EventStream], Sequence[StreamFeatureGroup]]


class Computing:
    """A log that holds events, and the computing of them as often as wanted.

    Args:
        folder: where what it keeps lies.
        events: the events.
        schema: their columns.
        log: the log; an embedded one in the folder unless given.
        clock: what the log that is given asks for the time.
    """

    def __init__(
        self,
        folder: Path,
        events: pa.Table,
        schema: Mapping[str, str],
        *,
        log: OwnLog | None = None,
        clock: SimulatedClock | None = None,
    ) -> None:
        self._folder, self._clock, self._versions = folder, clock or SimulatedClock(NOW), count(1)
        folder.mkdir(parents=True, exist_ok=True)
        self._log = log or EmbeddedLog(folder / "log", self._clock, map_gib=16)
        self._events, self._schema = events, dict(schema)

    def sent(self, stream: EventStream, encoding: str) -> EventStream:
        """A stream like this one that holds the events in this encoding."""
        name = f"{stream.name}_{encoding}"
        source = ms.EventStream(
            name, time=stream.time, schema=self._schema, deduplicate=stream.deduplicate, within="1h"
        )
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

    def seconds(self, stream: EventStream, encoding: str, groups: Groups) -> float:
        """Compute all events for new group versions: the time from the first event to the last commit."""
        source = self.sent(stream, encoding)
        number = next(self._versions)
        versions = [GroupVersion(group, number) for group in groups(source)]
        marks = Registry(f"sqlite:///{self._folder / 'registry.db'}").marks
        for version in versions:
            start_version(self._log, marks, version, [source], self._clock, at="zero")
        folder = self._folder / f"data{number}"
        with StreamComputer(self._log, [source], versions, self._clock, data=folder) as computer:
            taken = seconds(lambda: _drain(computer))
            counted = computer.counters[source.name]["records"]
        assert counted >= len(self._events), f"{counted} of {len(self._events)} events were computed"
        for version in versions:
            self._log.drop(feature_topic(version.id))
        return taken

    def close(self) -> None:
        """Let go of the log."""
        self._log.close()  # type: ignore[attr-defined]


def _drain(computer: StreamComputer) -> None:
    while (done := computer.step()).records or done.lag:  # a read may give nothing though there is something
        pass
