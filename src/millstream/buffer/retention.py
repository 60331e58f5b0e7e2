"""Retention: the log forgets what is old, but never what somebody still needs."""

from __future__ import annotations

from collections.abc import Sequence

from millstream.buffer.computed import computed_in
from millstream.buffer.log import OwnLog
from millstream.buffer.reading import position_of_last, position_since
from millstream.buffer.topics import computing_consumer
from millstream.clock import Clock
from millstream.definitions.source import EventStream


def trim_consumed(
    log: OwnLog,
    stream: EventStream,
    consumers: Sequence[str],
    clock: Clock,
    *,
    early: bool = False,
    archived: Sequence[int | None] | None = None,
) -> int:
    """Trim what is older than a stream's retention and consumed by everybody.

    Nothing is trimmed from a partition while one of the consumers has committed nothing in it. For the sake of repeats,
    what was appended less than `within` before the slowest consumer's position stays too.

    Args:
        log: the log.
        stream: the stream whose topic is trimmed.
        consumers: all who must have read it, the archive among them.
        clock: the clock that the log stamps with.
        early: whether it goes as soon as it is consumed, because the log is nearly full.
        archived: by partition, how far the archive is by what it holds; as it has committed when left out.

    Returns:
        int: about how many records were trimmed.
    """
    trimmed = 0
    for partition, needed in enumerate(reached(log, stream.name, consumers, archived)):
        if needed is None:
            continue
        horizon = clock.now() + 1 if early else clock.now() - stream.retention
        slowest = log.behind(stream.name, partition, needed).since
        if slowest is not None and stream.deduplicate is not None:
            horizon = min(horizon, slowest - stream.within)
        trimmed += _trim(log, stream.name, partition, needed, horizon)
    return trimmed


def trim_older(log: OwnLog, topic: str, needed: Sequence[int | None], age: int, clock: Clock) -> int:
    """Trim what is older than an age and needed by nobody.

    Args:
        log: the log.
        topic: the topic to trim.
        needed: by partition, the first position that somebody needs; nothing is trimmed where it is None.
        age: how old (µs since it was appended) a batch has to be.
        clock: the clock that the log stamps with.

    Returns:
        int: about how many records were trimmed.
    """
    horizon = clock.now() - age
    return sum(_trim(log, topic, p, before, horizon) for p, before in enumerate(needed) if before is not None)


def reached(
    log: OwnLog, topic: str, consumers: Sequence[str], archived: Sequence[int | None] | None = None
) -> list[int | None]:
    """By partition, the position that all consumers have reached; None where one of them has not begun.

    Args:
        log: the log.
        topic: the topic that they read.
        consumers: the consumers; on a log that is not atomic those that compute are asked for what they have written.
        archived: by partition, a position that counts like those of a consumer.
    """
    rows = [_standing(log, topic, consumer) for consumer in consumers]
    by_partition = zip(*rows, *([] if archived is None else [archived]), strict=False)  # a topic may grow meanwhile
    return [None if None in row else min(at for at in row if at is not None) for row in by_partition]


def _standing(log: OwnLog, topic: str, consumer: str) -> list[int | None]:
    computes = computing_consumer("")
    if consumer.startswith(computes):
        return computed_in(log, consumer.removeprefix(computes), topic)
    return log.committed(consumer, topic)


def _trim(log: OwnLog, topic: str, partition: int, needed: int, horizon: int) -> int:
    """Trim what is older than an instant and before a position; returns about how many records that were."""
    first = log.ends(topic)[partition][0]
    if needed <= first:
        return 0
    before = log.behind(topic, partition, first).records
    upto = position_since(log, topic, partition, horizon, needed)
    if not log.atomic and log.behind(topic, partition, upto).since is None:
        upto = position_of_last(log, topic, partition, 1)  # it says how far whoever writes there is
    kept = log.trim(topic, partition, upto)
    return before - log.behind(topic, partition, kept).records
