"""What a micro-batch costs by its empty records: one in every partition of a feature topic of which no key changed.

They say how far computing is where a log's transactions cannot be trusted. Ours writes them, the peer is the same without
them: idle groups, whose filter no event passes, beside one that folds every event. Both read 1,000 events of JSON from a
durable log and end in one durable transaction; both evaluate the idle groups' filters.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import millstream as ms
from benchmarks.harness import Claim, Scale, in_turns, seconds
from benchmarks.world import NOW, PAYMENTS, USER, payments
from millstream.buffer.codec.write import encode
from millstream.buffer.embedded.log import EmbeddedLog
from millstream.buffer.topics import feature_topic
from millstream.clock import SimulatedClock
from millstream.computing import deltas, stream
from millstream.computing.start_markers import start_version
from millstream.definitions.group_version import GroupVersion
from millstream.registry.definitions import Registry

EVENTS = 1_000
#: Idle feature topics, and the partitions of each.
IDLE = ((1, 1), (5, 2), (25, 4))
_every_record = deltas.delta_records


def run(scale: Scale) -> Iterator[Claim]:
    """One, ten and a hundred idle partitions of feature topics."""
    for topics, shards in IDLE:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            sides = [Side(Path(folder) / name, topics, shards, stack) for name in ("with", "without")]
            ours, theirs = sides[0].micro_batch(deltas.delta_records), sides[1].micro_batch(_records_of_keys)
            found = in_turns(ours, theirs, 3 * scale.repeats)
            size = sides[0].empty_bytes()
            name = f"a micro-batch of {EVENTS:,} events, {topics * shards} idle partitions"
            note = f"{size:,} bytes of empty records"
            yield Claim(name, "ms", *found, "without empty records", note=note)


class Side:
    """A log with its stream, an active group, idle ones, and what computes them."""

    def __init__(self, folder: Path, topics: int, shards: int, stack: ExitStack) -> None:
        folder.mkdir()
        clock = SimulatedClock(NOW)
        self._log = EmbeddedLog(folder / "log", clock, map_gib=2)
        stack.callback(self._log.close)
        self._log.create(PAYMENTS.name, 1)
        counted = [ms.Count(over="1h"), ms.Sum("amount", over="24h")]
        active = ms.StreamFeatureGroup("active", entity=USER, source=PAYMENTS, features=counted)
        idle = [
            ms.StreamFeatureGroup(f"idle{n}", entity=USER, source=PAYMENTS, where="amount < 0", features=counted)
            for n in range(topics)
        ]
        versions = [GroupVersion(group, 1, shards=shards) for group in (active, *idle)]
        self._idle = [feature_topic(version.id) for version in versions[1:]]
        marks = Registry(f"sqlite:///{folder / 'registry.db'}").marks
        for version in versions:
            start_version(self._log, marks, version, [PAYMENTS], clock, at="zero")
        data = folder / "data"
        self._computer = stack.enter_context(stream.StreamComputer(self._log, [PAYMENTS], versions, clock, data=data))
        (self._batch,) = encode(PAYMENTS, payments(EVENTS, 200, days=0.01).to_pylist())

    def micro_batch(self, records: Callable[..., Any]) -> Callable[[], float]:
        """Milliseconds to compute the next events, with the records that are given."""

        def measure() -> float:
            self._log.append(PAYMENTS.name, 0, self._batch)
            with patch.object(deltas, "delta_records", records):
                taken = seconds(self._step)
            return 1_000 * taken

        return measure

    def empty_bytes(self) -> int:
        """Bytes that the idle topics got with the last micro-batch, without what LMDB adds to a row."""
        last = 0
        for topic in self._idle:
            for shard, (_, end) in enumerate(self._log.ends(topic)):
                last += len(self._log.read(topic, shard, end - 1, 1).payloads[0])
        return last

    def _step(self) -> None:
        done = self._computer.step()
        assert done.records == EVENTS, f"{done.records} of {EVENTS} events were computed"


def _records_of_keys(keys: list[bytes], states: Any, shards: int, *given: Any) -> list[list[bytes]]:
    """The records of a group that has any key; none of one that has not."""
    return _every_record(keys, states, shards, *given) if keys else [[] for _ in range(shards)]
