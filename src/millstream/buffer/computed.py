"""How far computing is: by committed positions, or by the records themselves where only these can be trusted."""

from __future__ import annotations

from collections.abc import Iterable

from millstream.buffer.log import OwnLog
from millstream.buffer.reading import position_of_last, through
from millstream.buffer.topics import computing_consumer, feature_topic
from millstream.errors import CorruptLog

TAIL = 16
"""The newest records of each feature partition that are looked at: a worker that was overtaken may have written last."""


def computed_in(log: OwnLog, version: str, stream: str) -> list[int | None]:
    """By partition of a stream, the next position that computing will fold for a group version; None before its start.

    On an atomic log that is what was committed. On any other it is what the newest records of every feature partition
    hold; what was committed counts only in a partition of the stream that none of them names.

    Args:
        log: the project's log.
        version: the group version.
        stream: the stream.

    Raises:
        LogError: when there is no such stream.
    """
    told = log.committed(computing_consumer(version), stream)
    if log.atomic:
        return told
    try:
        reached = _by_ranges(log, feature_topic(version))
    except CorruptLog:  # whatever is true, ingestion leaves out what comes again, and folds what is missing
        return told
    if reached is None:
        return [None] * len(told)
    return [reached.get(f"{stream}/{partition}", at) for partition, at in enumerate(told)]


def computed_positions(log: OwnLog, version: str, streams: Iterable[str]) -> dict[str, int] | None:
    """By "stream/partition", the next position computing will fold for a group version, or None before its start."""
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
    reached = [_newest(log, topic, shard, ends).get(place) for shard, ends in enumerate(log.ends(topic))]
    return max((at for at in reached if at is not None), default=None)


def _by_ranges(log: OwnLog, topic: str) -> dict[str, int] | None:
    """By "stream/partition", up to where the records of every partition of a topic are; None when one has no record."""
    if topic not in log.topics():
        return None
    shards = [_newest(log, topic, shard, ends) for shard, ends in enumerate(log.ends(topic))]
    if not all(shards):
        return None
    return {place: min(reached[place] for reached in shards) for place in set.intersection(*map(set, shards))}


def _newest(log: OwnLog, topic: str, shard: int, ends: tuple[int, int]) -> dict[str, int]:
    from millstream.fold.deltas import ranges_of

    first, following = ends
    found: dict[str, int] = {}
    begin = max(first, position_of_last(log, topic, shard, TAIL))
    for records in through(log, topic, shard, begin, following):
        for payload in records.payloads:
            for place, (_, to) in ranges_of(payload).items():
                found[place] = max(to, found.get(place, to))
    return found
