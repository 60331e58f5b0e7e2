"""How far behind a reader of the log is, in time and in records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from millstream.buffer.log import Log
from millstream.clock import Clock


def seconds_behind(log: Log, topic: str, positions: Sequence[int | None], clock: Clock) -> float:
    """Return how long ago the oldest record was appended that a reader has still before it.

    Args:
        log: the log.
        topic: the topic it reads.
        positions: by partition, the next position it will read; None where it has not begun.
        clock: the clock that the log stamps with.

    Returns:
        float: seconds, 0 when nothing is before it, and never less.

    Example:
        >>> import pathlib, tempfile
        >>> from millstream.buffer.embedded.log import EmbeddedLog
        >>> from millstream.buffer.log import Batch
        >>> from millstream.clock import SimulatedClock
        >>> clock = SimulatedClock(0)
        >>> log = EmbeddedLog(pathlib.Path(tempfile.mkdtemp()), clock, map_gib=1)
        >>> log.create("clicks", 1)
        >>> _ = log.append("clicks", 0, Batch(b"{}", "json", 1))
        >>> _ = clock.advance(2_500_000)
        >>> seconds_behind(log, "clicks", [0], clock), seconds_behind(log, "clicks", [1], clock)
        (2.5, 0.0)
        >>> log.close()
    """
    now = oldest = clock.now()
    for partition, position in _reading(log, topic, positions):
        since = log.behind(topic, partition, position).since
        oldest = oldest if since is None else min(oldest, since)
    return max(0, now - oldest) / 1e6


def records_behind(log: Log, topic: str, positions: Sequence[int | None]) -> int:
    """Return about how many records a reader of all of a topic has before it; 0 exactly when it stands at the end.

    Args:
        log: the log.
        topic: the topic it reads.
        positions: by partition, the next position it will read; None where it has not begun.
    """
    return sum(max(1, log.behind(topic, partition, at).records) for partition, at in _reading(log, topic, positions))


def records_ever(log: Log, topic: str) -> int:
    """Return about how many records were ever appended to a topic, those among them that were trimmed since."""
    return sum(log.behind(topic, partition, 0).records for partition in range(len(log.ends(topic))))


def records_before(log: Log, topic: str, positions: Mapping[int, int]) -> int:
    """Return about how many records were appended before some positions, in all.

    Args:
        log: the log.
        topic: the topic.
        positions: by partition, the position; partitions that are not in it count for nothing.
    """
    return sum(
        log.behind(topic, partition, 0).records - log.behind(topic, partition, position).records
        for partition, position in positions.items()
    )


def _reading(log: Log, topic: str, positions: Sequence[int | None]) -> Iterator[tuple[int, int]]:
    """The partitions that end beyond a position, and that position."""
    for partition, (_, end) in enumerate(log.ends(topic)):
        position = positions[partition] if partition < len(positions) else None
        if position is not None and position < end:
            yield partition, position
