"""What producers sent and the log took: the truth that everything else is held to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from millstream.buffer.codec.events import partition_of
from millstream.buffer.lag import records_before
from millstream.buffer.log import Log
from millstream.definitions.data_types import arrow_type
from millstream.definitions.source import EventStream
from millstream.testing.simulation.declared import EVENT

FUTURE = 300_000_000
"""How far (µs) ahead of its arrival an event may have happened."""
WRONG = "much"
"""A number as a producer sends it whose program is wrong."""
_EVENTS = pa.schema([(name, arrow_type(kind)) for name, kind in EVENT.items()])


@dataclass
class Landed:
    """One event that is in the log.

    Attributes:
        row: what was sent.
        arrival: when the log took it (µs).
        partition: where it is.
        place: how many came before it there.
        wrong: whether it does not fit the stream.
    """

    row: Mapping[str, Any]
    arrival: int
    partition: int
    place: int
    wrong: bool

    @property
    def valid(self) -> bool:
        """Whether it is an event at all, and not a dead letter."""
        return not self.wrong and self.row["at"] - self.arrival <= FUTURE


@dataclass
class Ledger:
    """Every event that landed, by stream, in the order in which it did; and which of them were acknowledged."""

    landed: dict[str, list[Landed]] = field(default_factory=lambda: defaultdict(list))
    acknowledged: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def land(self, stream: EventStream, rows: Sequence[Mapping[str, Any]], arrival: int, held: Sequence[int]) -> None:
        """Note what the log took just now.

        Args:
            stream: the stream.
            rows: the events, in the order in which they were sent.
            arrival: when the log took them (µs).
            held: how many events each partition of the stream had taken before.
        """
        for partition, part in _divided(stream, rows, len(held)):
            for place, row in enumerate(part, held[partition]):
                self.landed[stream.name].append(Landed(row, arrival, partition, place, row.get("x") == WRONG))

    def acknowledge(self, stream: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Note what a producer knows to be safe."""
        self.acknowledged[stream] |= {str(next(iter(row.values()))) for row in rows}

    def counted(self, stream: EventStream, before: Mapping[int, int] | None = None) -> list[Landed]:
        """The events that count: valid, none a repeat, of the first so many of each partition."""
        found: list[Landed] = []
        last: dict[tuple[int, str], int] = {}
        for one in self.landed[stream.name]:
            if not one.valid or (before is not None and one.place >= before.get(one.partition, 0)):
                continue
            if stream.deduplicate is not None:
                mark = (one.partition, str(one.row[stream.deduplicate]))
                known = last.get(mark)
                last[mark] = max(one.arrival, known or 0)
                if known is not None and one.arrival - known <= stream.within:
                    continue
            found.append(one)
        return found

    def place(self, stream: str, rows: int, partition: int, held: int) -> None:
        """Say where the last rows of a stream without a partition key went.

        Args:
            stream: the name of the stream.
            rows: how many rows those are.
            partition: where they went.
            held: how many came before them there.
        """
        for place, one in enumerate(self.landed[stream][-rows:], held):
            one.partition, one.place = partition, place

    def frame(self, stream: EventStream, before: Mapping[int, int] | None = None, delay: int = 0) -> pa.Table:
        """The events that count as a data frame for `ms.compute`; an id that counts twice becomes two.

        Args:
            stream: the stream.
            before: by partition, how many of its records are looked at; all unless given.
            delay: how long (µs) after it arrived each is known.
        """
        rows = [
            {**one.row, "id": f"{one.row['id']}#{number}", "seen": one.arrival + delay}
            for number, one in enumerate(self.counted(stream, before))
        ]
        return pa.Table.from_pylist(rows, schema=_EVENTS)


def taken(log: Log, positions: Mapping[str, int], stream: str) -> dict[int, int]:
    """By partition of a stream, how many records lie before some positions.

    Args:
        log: the log, which counts them.
        positions: the positions by "stream/partition", of other streams too.
        stream: the name of the stream.
    """
    places = {tuple(place.rsplit("/", 1)): end for place, end in positions.items()}
    return {
        int(partition): records_before(log, stream, {int(partition): end})
        for (name, partition), end in places.items()
        if name == stream
    }


def _divided(
    stream: EventStream, rows: Sequence[Mapping[str, Any]], partitions: int
) -> Iterable[tuple[int, Sequence[Mapping[str, Any]]]]:
    """The rows by partition; those of a stream without a partition key are of no known one."""
    if stream.partition_by is None:
        return [(-1, rows)]
    return partition_of(stream, list(rows), partitions)
