"""Some events of a stream: those of some keys, from an instant on, wherever they lie and however many others there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.buffer.codec.events import redecode, retaken
from millstream.buffer.codec.types import PLACE, event_schema
from millstream.definitions.data_types import arrow_type, comparable
from millstream.definitions.source import EventStream
from millstream.store.offline import OfflineStore, Snapshot, Where, batches_of


@dataclass(frozen=True)
class Wanted:
    """Which events of a stream are looked for.

    Attributes:
        values: by column, the values of which an event must have one; instants are in µs. Without columns, any event.
        since: the event time (µs) from which on events are looked for; None for all time.
    """

    values: Mapping[str, pa.Array] = field(default_factory=dict)
    since: int | None = None

    @property
    def nothing(self) -> bool:
        """Whether no event can be meant."""
        return any(not len(values) for values in self.values.values())


def chosen(stream: EventStream, events: pa.Table, wanted: Sequence[Wanted]) -> pa.Table:
    """Those of some decoded events that are wanted.

    Args:
        stream: the stream they are of.
        events: the events, with the columns of its schema.
        wanted: what is looked for; an event that any of these means is wanted.

    >>> clicks = EventStream("clicks", time="at", schema={"user_id": "int64", "at": "timestamp"})
    >>> events = pa.table({"user_id": [1, 2, 1], "at": pa.array([5, 6, 7], pa.timestamp("us", "UTC"))})
    >>> chosen(clicks, events, [Wanted({"user_id": pa.array([1])}, since=6)])["user_id"].to_pylist()
    [1]
    """
    keep = np.zeros(events.num_rows, np.bool_)
    for one in wanted:
        mine = np.ones(events.num_rows, np.bool_)
        for column, values in one.values.items():
            wanted_values = comparable(values.cast(arrow_type(stream.schema[column])))
            mine &= np.asarray(pc.is_in(comparable(events[column]), value_set=wanted_values))
        if one.since is not None:
            mine &= np.asarray(events[stream.time].cast(pa.int64())) >= one.since
        keep |= mine
    return events if keep.all() else events.filter(pa.array(keep))


class Archive:
    """One snapshot of a stream's archive, searched a batch at a time: what is not wanted is let go of at once.

    Args:
        offline: where the archive is.
        stream: the stream, as its events are to be read.
        tables: the archive's table, and that of what it refused.
        snapshot: the archive's snapshot.
    """

    def __init__(self, offline: OfflineStore, stream: EventStream, tables: tuple[str, str], snapshot: Snapshot) -> None:
        self._offline, self._stream, self._snapshot = offline, stream, snapshot
        self._table, self._refused = tables
        self._kept = offline.scan(self._table, where=[("_position", "<", 0)], snapshot=snapshot.id).schema

    def search(self, partition: int, first: int, last: int, wanted: Sequence[Wanted]) -> pa.Table:
        """The wanted events of a partition, each once, in the order of their positions.

        Args:
            partition: the partition.
            first: the position to begin at.
            last: the position before which to stop.
            wanted: what is looked for; an event that any of these means is found.
        """
        span: Where = [("_partition", "=", partition), ("_position", ">=", first), ("_position", "<", last)]
        pieces = [event_schema(self._stream).empty_table()]
        for where in self._looks(span, wanted):
            for batch in self._batches(self._table, where, self._snapshot.id):
                found = redecode(self._stream, pa.Table.from_batches([batch]))
                pieces.append(chosen(self._stream, found, wanted))
        refused = self._offline.snapshot(self._refused)
        if refused is not None:
            for batch in self._batches(self._refused, span, refused.id):
                found = retaken(self._stream, pa.Table.from_batches([batch]))
                pieces.append(chosen(self._stream, found, wanted))
        every = pa.concat_tables(pieces).combine_chunks()
        _, places = np.unique(every["_position"].to_numpy(), return_index=True)
        return every.take(pa.array(places))

    def _looks(self, span: Where, wanted: Sequence[Wanted]) -> Iterator[Where]:
        """What to look for: the wanted rows, and those with fields that had no column, whatever they are."""
        for one in wanted:
            columns = [(name, "in", values.to_pylist()) for name, values in one.values.items() if self._has(name)]
            time = self._stream.time
            since = [(time, ">=", one.since)] if one.since is not None and self._has(time) else []
            yield [*span, *columns, *since]
        if "rest" in self._kept.names:
            yield [*span, ("rest", ">=", "")]

    def _has(self, name: str) -> bool:
        """Whether the archive has the column as its stream is read: else its values are in `rest`."""
        return name in self._kept.names and self._kept.field(name).type == arrow_type(self._stream.schema[name])

    def _batches(self, table: str, where: Where, snapshot: int) -> Iterator[pa.RecordBatch]:
        columns = None
        if table == self._table:
            columns = [name for name in (*self._stream.schema, "rest", *PLACE.names) if name in self._kept.names]
        return batches_of(self._offline, table, columns, where, snapshot)


def union_of(values: Sequence[Any]) -> pa.Array:
    """The distinct values of some columns, without null."""
    arrays = [one.combine_chunks() if isinstance(one, pa.ChunkedArray) else one for one in values]
    every = pa.concat_arrays(arrays)
    return pc.drop_null(pc.unique(comparable(every))).cast(every.type)
