"""The front: who reads a stream from where, and which of them can share one reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """What to read of a partition: from `position` on, up to `until` where others already are (None: to the end)."""

    partition: int
    position: int
    until: int | None


@dataclass(frozen=True)
class Shared:
    """One micro-batch to be: the consumers that stand at the same positions of these partitions."""

    consumers: tuple[str, ...]
    spans: tuple[Span, ...]


class Front:
    """The positions of all consumers of one stream, for one round of micro-batches.

    Consumers at the same position of a partition share the reading, the decoding and the preparing. One that is behind
    reads up to the next one ahead of it and joins it there, so that all end up together. In a round everyone reads once
    from the place it reaches.

    >>> front = Front({"habits@1": [7], "habits@2": [3]})
    >>> behind, = front.next()
    >>> behind.consumers, behind.spans
    (('habits@2',), (Span(partition=0, position=3, until=7),))
    >>> front.advance(behind, {0: 7})
    >>> [shared.consumers for shared in front.next()]
    [('habits@1', 'habits@2')]
    """

    def __init__(self, positions: Mapping[str, Sequence[int | None]], partitions: Sequence[int] | None = None) -> None:
        """Take the committed positions by consumer; a consumer that has none in a partition does not read it."""
        width = max((len(row) for row in positions.values()), default=0)
        chosen = range(width) if partitions is None else [p for p in partitions if p < width]
        self._waiting: dict[int, dict[int, list[str]]] = {}
        for partition in chosen:
            places = self._waiting[partition] = {}
            for consumer, row in positions.items():
                position = row[partition]
                if position is not None:
                    places.setdefault(position, []).append(consumer)

    def next(self) -> list[Shared]:
        """The hindmost of each partition that have not read in this round, as few micro-batches as possible."""
        together: dict[tuple[str, ...], list[Span]] = {}
        for partition, places in self._waiting.items():
            if places:
                first, *ahead = sorted(places)
                span = Span(partition, first, ahead[0] if ahead else None)
                together.setdefault(tuple(sorted(places[first])), []).append(span)
        return [Shared(consumers, tuple(spans)) for consumers, spans in together.items()]

    def advance(self, shared: Shared, reached: Mapping[int, int]) -> None:
        """Note that a micro-batch is done, and where it ended in each partition that had something to read."""
        for span in shared.spans:
            places = self._waiting[span.partition]
            done = places.pop(span.position)
            ahead = places.get(reached.get(span.partition, span.position))
            if ahead is not None:
                ahead.extend(done)
