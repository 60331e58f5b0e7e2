"""How far behind a reader of the log is, in time."""

from __future__ import annotations

from collections.abc import Sequence

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
    oldest = clock.now()
    for partition, (first, following) in enumerate(log.ends(topic)):
        position = positions[partition] if partition < len(positions) else None
        if position is None or position >= following:
            continue
        for record in log.read(topic, partition, max(first, position), 1):
            oldest = min(oldest, record.appended)
    return max(0, clock.now() - oldest) / 1e6
