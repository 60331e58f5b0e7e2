"""What came before a log that took the place of another one, for those who look back beyond its beginning."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from millstream.buffer.marks import Marks
from millstream.buffer.topics import moved_mark
from millstream.definitions.source import EventStream
from millstream.history.events import History


class EarlierEvents:
    """The archived events before the beginning of a log that was moved; see the protocol `Earlier` of the index of repeats.

    Args:
        history: the events of the streams.
        begun: by "stream/partition", where a partition of the log began.
    """

    def __init__(self, history: History, begun: dict[str, int]) -> None:
        self._history, self._begun = history, begun

    def occurred(self, stream: EventStream, partition: int, before: int, since: int) -> pa.Table | None:
        """The ids of what came before the log began; None where it is read from later on, and so goes back far enough."""
        begun = self._begun.get(f"{stream.name}/{partition}", 0)
        return None if before > begun or not begun else self._history.occurred(stream, partition, begun, since)


def earlier_events(history: History, marks: Marks, streams: Iterable[EventStream]) -> EarlierEvents | None:
    """What came before the log of a project; None where the log is the one that it began with.

    Args:
        history: the events of the streams.
        marks: the project's marks.
        streams: the streams; those without a `deduplicate` are not asked for.
    """
    begun: dict[str, int] = {}
    for stream in streams:
        if stream.deduplicate is not None:
            begun |= marks.read(moved_mark(stream.name))
    return EarlierEvents(history, begun) if begun else None
