"""History: the archive, then the log, as one sequence of events with one position each.

Whether an event is read from the archive or still from the log never shows. Repeats are left out by the same rule, and
retention cannot pull anything away: what the log trims is in a newer snapshot of the archive.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.buffer.columns import event_schema
from millstream.buffer.events import decode
from millstream.buffer.log import Log
from millstream.buffer.repeats import repeats
from millstream.definitions.source import EventStream
from millstream.errors import LogError, NotFound
from millstream.store.offline import OfflineStore, Snapshot

#: The property of an offline table that says, as JSON by partition, the next position of its topic.
POSITIONS = "millstream.positions"
_LOOKS = 5  # times to look for a newer snapshot when the log has been trimmed meanwhile
_READ = 100_000

Positions = Mapping[int, int]


def event_table(stream: str) -> str:
    """The offline table that archives the events of a stream.

    >>> event_table("payments")
    'events.payments'
    """
    return f"events.{stream}"


def archived_positions(snapshot: Snapshot | None) -> dict[int, int]:
    """By partition, the next position that a snapshot of an archive does not hold."""
    said = {} if snapshot is None else json.loads(snapshot.properties.get(POSITIONS, "{}"))
    return {int(partition): int(position) for partition, position in said.items()}


class History:
    """All valid events of the streams of a project, without repeats and dead letters.

    Args:
        log: where the newest events are.
        offline: where the archived ones are.
        streams: the streams that can be read.
    """

    def __init__(self, log: Log, offline: OfflineStore, streams: Iterable[EventStream]) -> None:
        self._log, self._offline = log, offline
        self._streams = {stream.name: stream for stream in streams}

    def read(
        self,
        stream: EventStream | str,
        *,
        upto: Positions | None = None,
        since: Positions | None = None,
        columns: Sequence[str] | None = None,
        only: tuple[str, Sequence[Any]] | None = None,
    ) -> pa.Table:
        """The events of a stream, sorted by `_partition` and `_position`.

        Args:
            stream: the stream or its name.
            upto: by partition, the position to stop before; the newest event where not given.
            since: by partition, the position to begin at; the first where not given.
            columns: the columns to read; all of `event_schema` when left out.
            only: a column, and the values it has in the events asked for.

        Raises:
            NotFound: when there is no such stream.
            LogError: when events are neither in the log nor in the archive.
        """
        found = self._stream(stream)
        names = list(columns or event_schema(found).names)
        needed = list(dict.fromkeys([*names, "_partition", "_position", *([only[0]] if only else [])]))
        for look in range(_LOOKS):
            snapshot = self._offline.snapshot(event_table(found.name))
            try:
                tail = list(self._tail(found, archived_positions(snapshot), upto, _READ))
                break
            except LogError:
                newer = self._offline.snapshot(event_table(found.name))
                if look == _LOOKS - 1 or newer is None or (snapshot is not None and newer.id == snapshot.id):
                    raise
        parts = [self._archived(found, snapshot, needed, _conditions(since, only)), *tail]
        table = pa.concat_tables([_within(part.select(needed), upto, since, only) for part in parts])
        return _sorted(table).select(names)

    def chunks(
        self, stream: EventStream | str, upto: Positions | None = None, rows: int = 200_000
    ) -> Iterator[pa.Table]:
        """The events of a stream before a position of each partition, about `rows` at a time, in bounded memory."""
        found = self._stream(stream)
        snapshot = self._offline.snapshot(event_table(found.name))
        archived = archived_positions(snapshot)
        names = event_schema(found).names
        for partition, following in sorted(archived.items()):
            end = min(following, (upto or {}).get(partition, following))
            for begin in range(0, end, rows):
                until = min(begin + rows, end)
                where = f"_partition == {partition} and _position >= {begin} and _position < {until}"
                table = self._archived(found, snapshot, names, where)
                if table.num_rows:
                    yield _sorted(table)
        for table in self._tail(found, archived, upto, rows):
            kept = _within(table, upto, None, None)
            if kept.num_rows:
                yield kept

    def _stream(self, stream: EventStream | str) -> EventStream:
        if isinstance(stream, EventStream):
            return stream
        if stream not in self._streams:
            raise NotFound.named("stream", stream, self._streams)
        return self._streams[stream]

    def _archived(
        self, stream: EventStream, snapshot: Snapshot | None, columns: Sequence[str], where: str | None
    ) -> pa.Table:
        """Archived events without repeats, in no order."""
        schema = pa.schema([event_schema(stream).field(name) for name in columns])
        if snapshot is None:
            return schema.empty_table()
        table = self._offline.scan(event_table(stream.name), [*columns, "_repeat"], where, snapshot.id)
        if pc.any(table["_repeat"]).as_py():
            table = table.filter(pc.invert(table["_repeat"]))
        return table.select(columns).cast(schema)

    def _tail(
        self, stream: EventStream, archived: Positions, upto: Positions | None, rows: int
    ) -> Iterator[pa.Table]:
        """The events past the archive, without repeats; what came before decides which those are."""
        before: pa.Table | None = None
        for partition, (_, following) in enumerate(self._log.ends(stream.name)):
            position = archived.get(partition, 0)
            end = min(following, (upto or {}).get(partition, following))
            while position < end:
                records = self._log.read(stream.name, partition, position, min(rows, end - position))
                if not records:
                    break
                table = decode(stream, records).table
                position = records[-1].end
                if stream.deduplicate is None or not table.num_rows:
                    yield table
                    continue
                if before is None:
                    before = self._ids(stream, partition, int(pc.min(table["_appended"]).as_py()) - stream.within)
                table, before = _without_repeats(stream, before, table)
                yield table
            before = None

    def _ids(self, stream: EventStream, partition: int, since: int) -> pa.Table:
        """The archived ids of a partition from an append time (µs) on."""
        columns = [stream.deduplicate or "", "_partition", "_position", "_appended"]
        schema = pa.schema([event_schema(stream).field(name) for name in columns])
        snapshot = self._offline.snapshot(event_table(stream.name))
        if snapshot is None:
            return schema.empty_table()
        where = f"_partition == {partition} and _appended >= {since}"
        found = self._offline.scan(event_table(stream.name), columns, where, snapshot.id)
        return _sorted(found.cast(schema))


def _without_repeats(stream: EventStream, before: pa.Table, table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The events of one partition that are no repeats, and the ids that the next ones are compared with."""
    first = int(table["_position"][0].as_py())
    ids = pa.concat_tables([before.filter(pc.less(before["_position"], first)), table.select(before.column_names)])
    marked = repeats(ids, stream)[-table.num_rows :]
    horizon = int(pc.max(table["_appended"]).as_py()) - stream.within
    return table.filter(pa.array(~marked)), ids.filter(pc.greater_equal(ids["_appended"], horizon))


def _conditions(since: Positions | None, only: tuple[str, Sequence[Any]] | None) -> str | None:
    """What the offline store can leave out by itself; never less than what is asked for is read."""
    found = []
    if since:
        given = ", ".join(str(partition) for partition in since)
        found.append(f"(_partition not in ({given}) or _position >= {min(since.values())})")
    if only and only[1] and all(isinstance(value, int) for value in only[1]):
        found.append(f"{only[0]} in ({', '.join(str(value) for value in only[1])})")
    return " and ".join(found) or None


def _within(
    table: pa.Table, upto: Positions | None, since: Positions | None, only: tuple[str, Sequence[Any]] | None
) -> pa.Table:
    """The rows between two positions of each partition, with one of some values in a column."""
    keep = np.ones(table.num_rows, bool)
    partitions, positions = np.asarray(table["_partition"]), np.asarray(table["_position"])
    for partition, end in (upto or {}).items():
        keep &= (partitions != partition) | (positions < end)
    for partition, begin in (since or {}).items():
        keep &= (partitions != partition) | (positions >= begin)
    if only is not None:
        values = pa.array(only[1], table[only[0]].type)
        keep &= np.asarray(pc.is_in(table[only[0]], value_set=values)).astype(bool)
    return table if keep.all() else table.filter(pa.array(keep))


def _sorted(table: pa.Table) -> pa.Table:
    partitions = np.asarray(table["_partition"]).astype(np.int64)
    positions = np.asarray(table["_position"])
    steps = np.diff(partitions)
    if not ((steps > 0) | ((steps == 0) & (np.diff(positions) > 0))).all():
        table = table.take(pa.array(np.lexsort((positions, partitions))))
    return table.combine_chunks()
