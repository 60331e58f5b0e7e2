"""Where the readers of streams stand, as one worker knows it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest

from millstream.buffer.computed import computed_in
from millstream.buffer.log import OwnLog
from millstream.buffer.topics import CHECK, computing_consumer

Row = list[int | None]


class Positions:
    """The positions that a worker reads from; on an atomic log those that are committed, and nothing is kept.

    On any other a committed position is a hint. A worker begins where the records of the feature topics end, goes on
    from where it is itself, and looks at them again when a hint is ahead of it, or it has forgotten where it was: then
    another worker has gone on.

    Args:
        log: the project's log.
    """

    def __init__(self, log: OwnLog) -> None:
        self._log = log
        self._reached: dict[tuple[str, str], Row] = {}
        self._hints: dict[tuple[str, str], Row] = {}

    def of(self, consumer: str, stream: str) -> Row:
        """By partition of a stream, where a consumer stands; None where it has not begun."""
        told = self._log.committed(consumer, stream)
        if self._log.atomic:
            return told
        place = (consumer, stream)
        known = self._reached.get(place, [])
        known = [*known, *[None] * (len(told) - len(known))]  # there may be more partitions than there were
        hints, self._hints[place] = self._hints.get(place), told
        if None in known or (told != hints and furthest(known, told) != known):
            known = furthest(known, self._found(consumer, stream, told))
        self._reached[place] = known
        return list(known)

    def move(self, consumer: str, stream: str, partition: int, position: int) -> None:
        """Note that all before a position has been written.

        Args:
            consumer: whose position it is: the name by which one group version, or several, read.
            stream: the stream.
            partition: its partition.
            position: where the consumer goes on.
        """
        row = self._reached.get((consumer, stream))
        if row is not None:
            row[partition] = position

    def forget(self, stream: str, partition: int) -> None:
        """Remember nothing of a partition any more: it was another's, or will be; what is asked next is read off the log."""
        for (_, name), row in self._reached.items():
            if name == stream and partition < len(row):
                row[partition] = None

    def standing(self, consumer: str, streams: Iterable[str]) -> dict[str, tuple[int, int]]:
        """By "stream/partition", an empty range where a consumer stands; none on an atomic log, which needs no telling.

        A record that holds them says of every partition how far computing is, whether it had events or not.
        """
        if self._log.atomic:
            return {}
        rows = {stream: self.of(consumer, stream) for stream in streams}
        return {f"{name}/{p}": (at, at) for name, row in rows.items() for p, at in enumerate(row) if at is not None}

    def _found(self, consumer: str, stream: str, told: Row) -> Row:
        if consumer == CHECK:  # its positions are told when its letters are durable
            return told
        return computed_in(self._log, consumer.removeprefix(computing_consumer("")), stream)


def furthest(left: Sequence[int | None], right: Sequence[int | None]) -> Row:
    """By partition, the further of two positions; None is before all of them, and what there is of a longer row.

    >>> furthest([3, None, None], [2, 5, None, 1])
    [3, 5, None, 1]
    """
    return [max((at for at in both if at is not None), default=None) for both in zip_longest(left, right)]
