"""Writing a step of taking in: events, and how far they were read, at once or so that what came apart is mended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from zlib import crc32

import pyarrow as pa

from millstream.buffer.codec.write import encode_frame
from millstream.buffer.log import Batch, OwnLog
from millstream.buffer.reading import through
from millstream.buffer.topics import INTAKE, intake_topic
from millstream.buffer.worker import Worker
from millstream.buffer.writing import Append
from millstream.definitions.source import EventStream
from millstream.errors import Fenced
from millstream.sources.checkpoint import Checkpoint, Intent, Loss, Place, Record
from millstream.sources.placing import placed
from millstream.sources.source import Events


class Bite(NamedTuple):
    """What was read of a shard from a position on."""

    shard: str
    begin: str | None
    events: Events

    @property
    def place(self) -> Place:
        """Where the shard is once this is taken in."""
        return Place(self.events.next, self.events.closed)


@dataclass(frozen=True)
class Step:
    """What one step is to write.

    Args:
        bites: what was read.
        moved: by name, how far shards were read since that was written, those of the bites among them.
        gone: the shards that need not be remembered any more.
        losses: what was lost.
        now: the instant, in microseconds.
    """

    bites: Sequence[Bite]
    moved: Mapping[str, Place]
    gone: Sequence[str]
    losses: Sequence[Loss]
    now: int


def together(log: OwnLog, stream: EventStream, known: Checkpoint, step: Step, worker: Worker) -> None:
    """Write a step in one transaction, on a log that is atomic.

    Args:
        log: the log.
        stream: the stream whose source is taken in.
        known: how far it is; further afterwards.
        step: what to write.
        worker: who is to own the source.

    Raises:
        Fenced: when another process takes the same source in, or is to; nothing was written.
    """
    topic, partitions = intake_topic(stream.name), len(log.ends(stream.name))
    record = known.next_record(step.moved, step.gone, step.losses)
    appends = [
        append
        for one in step.bites
        for append in placed(stream, one.shard, one.events, partitions, step.now, log.largest)
    ]
    with worker.transaction() as work:
        work.commit(INTAKE, topic, 0, known.committed, known.end)
        for append in appends:
            work.append(*append)
        for batch in record.batches(log.largest):
            work.append(topic, 0, batch)
    known.committed = known.end
    [(_, end)] = log.ends(topic)  # who appends meanwhile has committed, so the next commit is refused
    _wrote(log, topic, known, record, end)


def apart(log: OwnLog, stream: EventStream, known: Checkpoint, step: Step, _: Worker) -> None:
    """Write a step shard by shard, on a log whose transactions may come apart: what is to come first, then the events.

    What was written before an error stays, and is known. Before each append it is seen whether another process has gone
    on: one that was stopped, and whose source others have, appends nothing more but what it was about to append at that
    moment.

    Args:
        log: the log.
        stream: the stream whose source is taken in.
        known: how far it is; further afterwards.
        step: what to write.
        _: who is to own the source; nobody asks it here, as `together` does.

    Raises:
        Fenced: when another process takes the same source in, and has gone on.
    """
    left = dict(step.moved)
    losses = list(step.losses)
    for one in (bite for bite in step.bites if len(bite.events)):
        partitions = len(log.ends(stream.name))
        appends = placed(stream, one.shard, one.events, partitions, step.now, log.largest)
        here = [loss for loss in losses if loss.shard == one.shard]
        losses = [loss for loss in losses if loss.shard != one.shard]
        intent = _intent(log, stream, one.shard, one.begin, left.pop(one.shard, one.place), partitions, appends)
        _carry_out(log, stream, known, intent, appends, here)
    if left or losses or step.gone:
        _write_alone(log, stream, known, known.next_record(left, step.gone, losses))


def finish(
    log: OwnLog, stream: EventStream, known: Checkpoint, intent: Intent, read: Sequence[Events], now: int
) -> None:
    """Append what is not there of what somebody was about to append when he stopped.

    Where some of it is not kept any more, that is the oldest of the shard.

    Args:
        log: the log.
        stream: the stream.
        known: how far its source is taken in; further afterwards.
        intent: what was about to be appended.
        read: what the source has given again, from the intent's beginning to its end.
        now: the instant, in microseconds.

    Raises:
        Fenced: when another process takes the same source in.
    """
    appends = [
        append for one in read for append in placed(stream, intent.shard, one, intent.partitions, now, log.largest)
    ]
    given: Counter[int] = Counter()
    for append in appends:
        given[append.partition] += append.batch.count
    there = {at: intent.done.get(at, 0) + _present(log, stream.name, intent, at) for at in intent.before}
    skipped, lost = {}, 0
    for at, count in there.items():
        missing = max(0, intent.done.get(at, 0) + sum(events for events, _ in intent.sums.get(at, [])) - given[at])
        skipped[at] = max(0, count - missing)
        lost += max(0, missing - count)
    rest = _without_first(appends, skipped)
    losses = [Loss(now, intent.shard, one.lost) for one in read if one.lost]
    if lost and not losses:
        losses = [Loss(now, intent.shard, f"Shard '{intent.shard}': {lost} events are not kept any more.")]
    again = _intent(log, stream, intent.shard, intent.begin, intent.place, intent.partitions, rest, there)
    _carry_out(log, stream, known, again, rest, losses)


def _intent(
    log: OwnLog,
    stream: EventStream,
    shard: str,
    begin: str | None,
    place: Place,
    partitions: int,
    appends: Sequence[Append],
    done: Mapping[int, int] | None = None,
) -> Intent:
    sums: dict[int, list[tuple[int, int]]] = {}
    for append in appends:
        sums.setdefault(append.partition, []).append((append.batch.count, crc32(append.batch.payload)))
    ends = log.ends(stream.name)
    before = {partition: ends[partition][1] for partition in {*sums, *(done or {})}}
    return Intent(shard, begin, place, partitions, before, sums, dict(done or {}))


def _carry_out(
    log: OwnLog, stream: EventStream, known: Checkpoint, intent: Intent, appends: Sequence[Append], losses: list[Loss]
) -> None:
    _write_alone(log, stream, known, Record(intent=intent))
    for append in appends:
        _refuse_overtaken(log, stream, known)
        log.append(*append)
    _write_alone(log, stream, known, known.next_record({intent.shard: intent.place}, [], losses))


def _write_alone(log: OwnLog, stream: EventStream, known: Checkpoint, record: Record) -> None:
    """Append a record where nobody else has appended since, nor does meanwhile."""
    topic, batches = intake_topic(stream.name), record.batches(log.largest)
    _refuse_overtaken(log, stream, known)
    for batch in batches:
        log.append(topic, 0, batch)
    [(_, end)] = log.ends(topic)
    there = [payload for found in through(log, topic, 0, known.end, end) for payload in found.payloads]
    if there != [batch.payload for batch in batches]:
        raise _overtaken(stream)
    _wrote(log, topic, known, record, end)


def _refuse_overtaken(log: OwnLog, stream: EventStream, known: Checkpoint) -> None:
    [(_, end)] = log.ends(intake_topic(stream.name))
    if end != known.end:
        raise _overtaken(stream)


def _overtaken(stream: EventStream) -> Fenced:
    return Fenced(
        f"Stream '{stream.name}': another process takes its source in, and has gone on.",
        "read how far it is, and go on from there.",
    )


def _wrote(log: OwnLog, topic: str, known: Checkpoint, record: Record, end: int) -> None:
    """Go on from a record that was written; one that says all makes those before it superfluous."""
    begin, known.end = known.end, end
    known.add(record)
    if record.whole:
        log.trim(topic, 0, begin)


def _present(log: OwnLog, topic: str, intent: Intent, partition: int) -> int:
    """How many of the events of an intent are in a partition; they were appended in their order."""
    wanted = intent.sums.get(partition, [])
    first, end = log.ends(topic)[partition]
    there = 0
    for records in through(log, topic, partition, max(first, intent.before[partition]), end):
        for payload, count in zip(records.payloads, records.counts.tolist(), strict=True):
            if there < len(wanted) and (count, crc32(payload)) == wanted[there]:
                there += 1
    return sum(count for count, _ in wanted[:there])


def _without_first(appends: Sequence[Append], skipped: Mapping[int, int]) -> list[Append]:
    """Batches without so many of the first events of each partition."""
    left, kept = Counter(skipped), []
    for append in appends:
        skip = min(left[append.partition], append.batch.count)
        left[append.partition] -= skip
        if skip < append.batch.count:
            kept += [append._replace(batch=batch) for batch in _cut(append.batch, skip)]
    return kept


def _cut(batch: Batch, skip: int) -> list[Batch]:
    if not skip:
        return [batch]
    if batch.encoding == "arrow":
        return encode_frame(pa.ipc.open_stream(batch.payload).read_all().slice(skip), None)
    return [Batch(b"\n".join(batch.payload.split(b"\n")[skip:]), "json", batch.count - skip)]
