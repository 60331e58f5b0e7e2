"""Stream computing: micro-batches of events in, deltas of every group version out, exactly once.

A worker keeps nothing that matters. It asks which partitions are its own before each round, and forgets what it knew of
one whose owner was another meanwhile. It reads from the committed positions, folds, and appends the deltas and moves the
positions in one transaction of the log; if another worker has moved them first, the whole batch is discarded. On a log
whose transactions can be torn it reads from where its own records end, and appends before it commits: whatever comes
twice or is missing is seen by the ranges that each record names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from millstream.buffer.codec.events import DeadLetter, dead_batches
from millstream.buffer.log import Batch, OwnLog
from millstream.buffer.repeats import Earlier, RepeatIndex, mark
from millstream.buffer.topics import CHECK, computing_consumer, dead_topic, feature_topic
from millstream.buffer.worker import EveryPartition, Owned, Worker, changed
from millstream.buffer.writing import Append, Commit, append_and_commit, widen
from millstream.clock import Clock
from millstream.computing.deltas import fold_all, prepare_all
from millstream.computing.micro_batch import MicroBatch, group_letters, read_micro_batch
from millstream.computing.positions import Positions, furthest
from millstream.computing.shared_reads import Front, Shared
from millstream.definitions.group_version import StreamGroupVersion
from millstream.definitions.source import EventStream
from millstream.engines.stream import Progress
from millstream.errors import Fenced


@dataclass(frozen=True)
class _Reading:
    """Who reads a stream by one definition of it: the check, which goes by that of now, and group versions."""

    stream: EventStream
    versions: Mapping[str, StreamGroupVersion]
    checks: bool

    @property
    def consumers(self) -> list[str]:
        """Whose positions move."""
        return [*([CHECK] if self.checks else []), *self.versions]


@dataclass(frozen=True)
class _Output:
    """What a micro-batch adds to the log, ready to be written."""

    records: list[tuple[str, int, bytes]]
    letters: list[DeadLetter]
    reasons: dict[str, Counter[str]]
    progress: Progress


class StreamComputer:
    """A worker that computes stream groups; any number of them may share the partitions of a stream.

    Group versions that stand at the same positions share reading, decoding and one query; a version that has not been
    started is left alone. A version whose stream has been declared anew goes on by the definition it was made with.

    Args:
        log: the project's log.
        streams: the streams as they are declared now; each is read by someone even if no group does, so that what does
            not fit becomes a dead letter.
        group_versions: what to compute; several versions of one group may run side by side.
        clock: stamps the deltas.
        data: the project's data folder; keeps the index of event ids, which can be deleted at any time.
        micro_batch: about how many records to take at once (50,000).
        worker: says which partitions are its own, and is closed with it; every partition unless given, whoever else
            computes them.
        earlier: tells of the ids of events that came before the log began, where it took the place of another one.

    Raises:
        LogError: when a stream's topic is not there.
    """

    def __init__(
        self,
        log: OwnLog,
        streams: Iterable[EventStream],
        group_versions: Iterable[StreamGroupVersion],
        clock: Clock,
        *,
        data: Path,
        micro_batch: int = 50_000,
        worker: Worker | None = None,
        earlier: Earlier | None = None,
    ) -> None:
        self._log, self._clock, self._limit, self._earlier = log, clock, micro_batch, earlier
        self._streams = list(streams)
        self._worker = worker or EveryPartition(log, [stream.name for stream in self._streams])
        self._owned: Owned = {}
        versions = list(group_versions)
        self._readings = [reading for stream in self._streams for reading in _readings(stream, versions)]
        self._widths: dict[str, int] = {}
        for stream in self._streams:
            self._widen_dead_topic(stream.name, len(log.ends(stream.name)))
        self._positions = Positions(log)
        self._folder = Path(data) / "repeats"
        self._indexes: dict[str, RepeatIndex] = {}
        #: By stream or group version, how many records or rows met with what, since this worker began.
        self.counters: dict[str, Counter[str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give up the partitions, and let go of the index of event ids; the log stays open."""
        self._worker.close()
        while self._indexes:
            self._indexes.popitem()[1].close()

    def step(self) -> Progress:
        """Compute one micro-batch of every stream, durably, and say what was done and what is left.

        Raises:
            DiskFull: when the log has no room; nothing was written.
        """
        total = Progress()
        for reading in self._readings:
            total += self._round(reading)
        return total

    def _round(self, reading: _Reading) -> Progress:
        """Let every reader of a stream read once."""
        stream = reading.stream
        firsts, ends = zip(*self._log.ends(stream.name), strict=True)
        mine = [partition for partition in self._mine(stream.name) if partition < len(ends)]
        self._widen_dead_topic(stream.name, len(ends))
        committed = self._committed(reading, len(ends))
        front = Front(self._standing(firsts, committed), mine)
        total = Progress()
        while together := front.next():
            for shared in together:
                try:
                    progress, reached = self._advance(reading, shared, committed, ends)
                except Fenced:
                    self.counters.setdefault(stream.name, Counter())["fenced"] += 1
                    now = self._standing(firsts, self._committed(reading, len(ends)))
                    return total + Progress(fenced=1, lag=self._lag(stream.name, now, ends, mine))
                front.advance(shared, reached)
                total += progress
        return total + Progress(lag=self._lag(stream.name, self._standing(firsts, committed), ends, mine))

    def _mine(self, stream: str) -> list[int]:
        """The partitions of a stream that are this worker's now; of those that come or go nothing is remembered."""
        owned = self._worker.assigned()
        for topic, partition in changed(self._owned, owned):
            self._positions.forget(topic, partition)
        self._owned = owned
        return sorted(owned.get(stream, ()))

    def _widen_dead_topic(self, stream: str, partitions: int) -> None:
        """Let each partition of a stream have one for its dead letters; those that came lately have their turn now."""
        if self._widths.get(stream, 0) < partitions:
            widen(self._log, dead_topic(stream), partitions)
            self._widths[stream] = partitions

    def _committed(self, reading: _Reading, partitions: int) -> dict[str, list[int | None]]:
        """By consumer, its positions in the partitions of a round; one that has come since is for the next."""
        name = reading.stream.name
        return {consumer: self._positions.of(consumer, name)[:partitions] for consumer in reading.consumers}

    def _standing(
        self, firsts: Sequence[int], committed: Mapping[str, list[int | None]]
    ) -> dict[str, list[int | None]]:
        """Where each reader stands; the check of a stream begins at the first record of each partition there is.

        So does every reader that has begun in a partition that has come since; and one whose records have been trimmed,
        for ingestion sees what is missing of them.
        """
        if self._log.atomic and not any(None in row for row in committed.values()):
            return dict(committed)
        standing: dict[str, list[int | None]] = {}
        for name, row in committed.items():
            begun = name == CHECK or any(at is not None for at in row)
            further = list(row) if self._log.atomic else furthest(row, firsts[: len(row)])
            standing[name] = (
                [first if at is None else at for at, first in zip(further, firsts, strict=False)]
                if begun
                else list(row)
            )
        return standing

    def _lag(self, topic: str, standing: Mapping[str, list[int | None]], ends: Sequence[int], mine: list[int]) -> int:
        """How many records the hindmost reader has before it in the partitions of this worker; 0 at the end alone."""
        places = {
            tuple((p, at) for p in mine if (at := row[p]) is not None and at < ends[p]) for row in standing.values()
        }
        return max(sum(max(1, self._log.behind(topic, p, at).records) for p, at in reader) for reader in places)

    def _advance(
        self, reading: _Reading, shared: Shared, committed: dict[str, list[int | None]], ends: Sequence[int]
    ) -> tuple[Progress, dict[int, int]]:
        """One micro-batch for those who share it: read, fold, write; also where it ended by partition."""
        stream = reading.stream
        spans = [span for span in shared.spans if span.position < ends[span.partition]]
        batch = read_micro_batch(self._log, stream, spans, self._limit) if spans else None
        if batch is None:
            return Progress(), {}
        versions = [reading.versions[c] for c in shared.consumers if c != CHECK]
        fresh = self._without_repeats(batch, shared) if versions else batch
        output = self._outputs(fresh, versions, batch.dead if CHECK in shared.consumers else [])
        self._write(batch, shared.consumers, output, committed)
        self._note(batch, fresh, output)
        return output.progress, {partition: to for partition, (_, to) in batch.ranges.items()}

    def _without_repeats(self, batch: MicroBatch, shared: Shared) -> MicroBatch:
        """The events that have not occurred before, by an index that remembers positions: asking again changes nothing.

        Those who are behind have an index of their own, because an index forgets what the newest events cannot repeat.
        """
        if batch.stream.deduplicate is None:
            return batch
        name = "front" if all(span.until is None for span in shared.spans) else "behind"
        if name not in self._indexes:
            self._indexes[name] = RepeatIndex(self._folder / name, self._log, earlier=self._earlier)
        return batch.without(mark(batch.table, batch.stream, self._indexes[name], batch.ranges))

    def _outputs(self, batch: MicroBatch, versions: list[StreamGroupVersion], dead: list[DeadLetter]) -> _Output:
        records: list[tuple[str, int, bytes]] = []
        letters, reasons = list(dead), dict[str, Counter[str]]()
        prepared = prepare_all(versions, batch.stream, batch.table)
        ranges = [self._standing_of(version) | batch.places for version in versions]
        found = fold_all(versions, prepared, ranges, self._clock.now(), batch.newest_arrival, self._log.largest)
        for version, events, folded in zip(versions, prepared, found, strict=True):
            if events is not None:
                letters += group_letters(batch.stream, batch.table, version.id, events.dead)
                facts = {**events.skipped, "dead": len(events.dead), "overflow": folded.overflow}
                reasons[version.id] = +Counter(facts)
            topic = feature_topic(version.id)
            records += [(topic, shard, payload) for shard, some in enumerate(folded.records) for payload in some]
        skipped = sum(reasons.values(), Counter[str]())
        total = sum(folded.keys for folded in found)
        return _Output(records, letters, reasons, Progress(batch.records, len(letters), dict(skipped), total))

    def _standing_of(self, version: StreamGroupVersion) -> dict[str, tuple[int, int]]:
        """Where a group version has got to in the partitions of all its streams."""
        names = [source.name for source in version.group.sources]
        return self._positions.standing(computing_consumer(version.id), names)

    def _write(
        self, batch: MicroBatch, consumers: tuple[str, ...], output: _Output, committed: dict[str, list[int | None]]
    ) -> None:
        """Dead letters and deltas, and the positions from where they were read to the end of the batch."""
        name, moves = batch.stream.name, {partition: to for partition, (_, to) in batch.ranges.items()}
        letters: dict[int, list[DeadLetter]] = {}
        for letter in output.letters:
            letters.setdefault(letter.partition, []).append(letter)
        appends = [
            Append(dead_topic(name), partition, batch)
            for partition, some in letters.items()
            for batch in dead_batches(some, self._log.largest)
        ]
        appends += [Append(topic, shard, Batch(record, "bytes", 1)) for topic, shard, record in output.records]
        steps = [(consumer, partition, to) for consumer in consumers for partition, to in moves.items()]
        commits = [Commit(consumer, name, p, committed[consumer][p], to) for consumer, p, to in steps]
        append_and_commit(self._log, appends, commits, self._worker)
        for consumer, partition, to in steps:
            committed[consumer][partition] = to
            self._positions.move(consumer, name, partition, to)

    def _note(self, batch: MicroBatch, fresh: MicroBatch, output: _Output) -> None:
        repeats = batch.table.num_rows - fresh.table.num_rows
        of_stream = Counter(records=batch.records, dead=len(output.letters), repeats=repeats)
        for name, reasons in {batch.stream.name: +of_stream, **output.reasons}.items():
            self.counters.setdefault(name, Counter()).update(reasons)


def _readings(stream: EventStream, versions: Sequence[StreamGroupVersion]) -> list[_Reading]:
    """Who reads a stream by its definition of now, then who reads it by each earlier one."""
    by_definition: dict[EventStream, dict[str, StreamGroupVersion]] = {stream: {}}
    for version in versions:
        for source in version.group.sources:
            if isinstance(source, EventStream) and source.name == stream.name:
                used = stream if stream.reads(source) else source
                by_definition.setdefault(used, {})[computing_consumer(version.id)] = version
    return [_Reading(used, readers, used is stream) for used, readers in by_definition.items()]
