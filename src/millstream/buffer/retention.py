"""Retention: the log forgets what is old, but never what somebody still needs."""

from __future__ import annotations

from collections.abc import Sequence

from millstream.buffer.log import Log, OwnLog
from millstream.clock import Clock
from millstream.definitions.source import EventStream


def trim_consumed(log: OwnLog, stream: EventStream, consumers: Sequence[str], clock: Clock) -> int:
    """Trim what is older than a stream's retention and consumed by everybody.

    Nothing is trimmed from a partition while one of the consumers has committed nothing in it. For the sake of repeats,
    what was appended less than `within` before the slowest consumer's position stays too.

    Args:
        log: the log.
        stream: the stream whose topic is trimmed.
        consumers: all who must have read it, the archive among them.
        clock: the clock that the log stamps with.

    Returns:
        int: how many positions were trimmed.
    """
    trimmed = 0
    positions = [log.committed(consumer, stream.name) for consumer in consumers]
    for partition, (first, _) in enumerate(log.ends(stream.name)):
        reached = [committed[partition] for committed in positions]
        needed = min((position for position in reached if position is not None), default=first)
        if not reached or None in reached or needed <= first:
            continue
        horizon = clock.now() - stream.retention
        slowest = log.read(stream.name, partition, needed, 1)
        if slowest and stream.deduplicate is not None:
            horizon = min(horizon, slowest[0].appended - stream.within)
        before = _younger(log, stream.name, partition, first, needed, horizon)
        trimmed += log.trim(stream.name, partition, before) - first
    return trimmed


def _younger(log: Log, topic: str, partition: int, first: int, needed: int, horizon: int) -> int:
    """The first position, not beyond `needed`, whose batch was appended at or after the horizon; found by halving."""
    low, high = first, needed
    while low < high:
        middle = (low + high) // 2
        records = log.read(topic, partition, middle, 1)
        if records and records[0].appended < horizon:
            low = min(records[0].end, high)
        else:
            high = middle
    return low
