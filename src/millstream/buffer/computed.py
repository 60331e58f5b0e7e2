"""How far computing is: by committed positions, or by the records themselves where only these can be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from millstream.buffer.log import Log, OwnLog
from millstream.buffer.parts import whole_records
from millstream.buffer.reading import position_of_last, through
from millstream.buffer.topics import computing_consumer, feature_topic
from millstream.errors import CorruptLog

TAIL = 16
"""The newest records of each feature partition that are looked at: a worker that was overtaken may have written last."""

FURTHEST = 4_096
"""How many are looked at where some of those are parts whose first ones are not there."""


def computed_in(log: OwnLog, version: str, stream: str) -> list[int | None]:
    """By partition of a stream, the next position that computing will fold for a group version; None before its start.

    On an atomic log that is what was committed. On any other it is what the newest records of every feature partition
    hold. In a partition that the stream has got since its start a version stands at the first record.

    Args:
        log: the project's log.
        version: the group version.
        stream: the stream.

    Raises:
        LogError: when there is no such stream.
    """
    told = log.committed(computing_consumer(version), stream)
    if log.atomic:
        return with_added(log, stream, told)
    try:
        reached = _by_ranges(log, feature_topic(version))
    except CorruptLog:  # whatever is true, ingestion leaves out what comes again, and folds what is missing
        return with_added(log, stream, told)
    if reached is None:
        return [None] * len(told)
    firsts = (first for first, _ in log.ends(stream))
    return [reached.get(f"{stream}/{p}", first) for p, first in zip(range(len(told)), firsts, strict=False)]


def with_added(log: Log, topic: str, standing: Sequence[int | None]) -> list[int | None]:
    """Where a consumer stands, with the first record of each partition that its topic has got since it began.

    Args:
        log: the log.
        topic: the topic that it reads.
        standing: by partition, where it stands; None where it has not begun. If that is everywhere, it stays so.
    """
    if None not in standing or all(at is None for at in standing):
        return list(standing)
    firsts = (first for first, _ in log.ends(topic))
    return [first if at is None else at for at, first in zip(standing, firsts, strict=False)]


def computed_positions(log: OwnLog, version: str, streams: Iterable[str]) -> dict[str, int] | None:
    """By "stream/partition", the next position computing will fold for a group version, or None before its start.

    Args:
        log: the project's log.
        version: the group version, such as "velocity@1".
        streams: the streams that the group reads; the version has started once it has in every partition of each.

    Raises:
        LogError: when one of the streams is not there.
    """
    found: dict[str, int] = {}
    for stream in streams:
        for partition, position in enumerate(computed_in(log, version, stream)):
            if position is None:
                return None
            found[f"{stream}/{partition}"] = position
    return found


def begun(log: OwnLog, topic: str, place: str) -> int | None:
    """The furthest that any partition of a feature topic is in a source; None when none has a record of it.

    On a log that is not atomic that may be further than the first partition, by which a run is known to be there: a
    worker has died in the midst of one.

    Args:
        log: the project's log.
        topic: the feature topic.
        place: the source and its partition, "source/partition".
    """
    if topic not in log.topics():
        return None
    reached = [_newest(log, topic, shard, ends, torn=True).get(place) for shard, ends in enumerate(log.ends(topic))]
    return max((at for at in reached if at is not None), default=None)


def _by_ranges(log: OwnLog, topic: str) -> dict[str, int] | None:
    """By "stream/partition", up to where the records of every partition of a topic are; None when one has no record."""
    if topic not in log.topics():
        return None
    shards = [_newest(log, topic, shard, ends) for shard, ends in enumerate(log.ends(topic))]
    if not all(shards):
        return None
    return {place: min(reached[place] for reached in shards) for place in set.intersection(*map(set, shards))}


def _newest(log: OwnLog, topic: str, shard: int, ends: tuple[int, int], *, torn: bool = False) -> dict[str, int]:
    """By "stream/partition", up to where the newest records of a feature partition are, whole ones unless `torn` is said."""
    from millstream.fold.deltas import ranges_of

    first, following = ends
    count = TAIL
    while True:
        begin = max(first, position_of_last(log, topic, shard, count))
        payloads = (one for records in through(log, topic, shard, begin, following) for one in records.payloads)
        records, unfinished = whole_records(payloads)
        if begin == first or count >= FURTHEST or all(record.begun for record in unfinished):
            break
        count *= 4  # some parts lie before what was read
    found: dict[str, int] = {}
    for record in [*records, *(one.head for one in unfinished if torn)]:
        for place, (_, to) in ranges_of(record).items():
            found[place] = max(to, found.get(place, to))
    return found
