"""History: all events of a stream, archived or still in the log, as one table in one space of positions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from millstream.buffer.codec.events import decode, redecode, retaken
from millstream.buffer.codec.types import event_schema
from millstream.buffer.log import Log
from millstream.buffer.repeats import repeats
from millstream.buffer.topics import event_table, refused_table
from millstream.definitions.source import EventStream
from millstream.errors import LogError, NotFound, StoreError
from millstream.history.selection import Archive, Wanted, chosen, union_of
from millstream.store.offline import OfflineStore, Snapshot, Where

#: The snapshot property by which an archive says, by partition, the first position that it does not hold.
POSITIONS = "millstream.positions"
#: The property by which it says, by partition, which log that was: see `millstream.buffer.agreement`.
MARKS = "millstream.log"
_RECORDS = 200_000
_LOOKED_AT = 50_000
_ORDER = [("_partition", "ascending"), ("_position", "ascending")]
_PLACE = ("_partition", "_position", "_appended")


def positions_of(properties: Mapping[str, str]) -> dict[int, int]:
    """By partition, the first position that an archive's snapshot does not hold."""
    return {int(p): end for p, end in msgspec.json.decode(properties.get(POSITIONS, "{}"), type=dict[str, int]).items()}


def marks_of(properties: Mapping[str, str]) -> dict[int, str]:
    """By partition, the mark of the log that an archive was filled from."""
    return {int(p): kept for p, kept in msgspec.json.decode(properties.get(MARKS, "{}"), type=dict[str, str]).items()}


def held(table: str, snapshot: Snapshot | None) -> dict[int, int]:
    """By partition or shard, the first position that a table does not hold, 0 where none is named.

    Raises:
        StoreError: the table has rows and does not say which positions they stand for, so that going on from it would
            lose or repeat some.
    """
    if snapshot is None:
        return {}
    if POSITIONS not in snapshot.properties:
        raise StoreError(
            f"Offline table '{table}': it has lost its property '{POSITIONS}', which says what it holds.",
            "another program has taken it away: set it again from an older metadata file, or drop the table if the log "
            "still holds everything.",
        )
    return positions_of(snapshot.properties)


class History:
    """Reads the events of streams: the archive first, then the log from where the archive ends.

    Dead letters and repeats are not among them. What is read depends on the positions asked for alone, not on how much
    of it has been archived by then.

    What another program changes in the archive is respected: a row that it deletes is gone, one that it rewrites reads
    as rewritten. Rows that it adds are no events: those at a position that an event has already, or that the archive
    does not claim, are not read.

    Args:
        log: the project's log.
        offline: where the archive is.
        streams: the streams that can be read.
    """

    def __init__(self, log: Log, offline: OfflineStore, streams: Sequence[EventStream]) -> None:
        self._log, self._offline = log, offline
        self._streams = {stream.name: stream for stream in streams}

    def read(
        self,
        stream: str | EventStream,
        *,
        upto: Mapping[int, int] | None = None,
        since: Mapping[int, int] | None = None,
    ) -> pa.Table:
        """The events of a stream, sorted by partition and position, with `_partition` to `_appended` (see decode).

        Args:
            stream: its name; or a definition of it, by which it is read if the one of today does not give the same.
            upto: by partition, the position before which to read; a partition that is not named is read to its end.
            since: by partition, the first position to read.

        Raises:
            NotFound: there is no such stream.
        """
        pieces = list(self.chunks(stream, upto, since=since, rows=None))
        return pa.concat_tables(pieces).combine_chunks()

    def chunks(
        self,
        stream: str | EventStream,
        upto: Mapping[int, int] | None = None,
        rows: int | None = _RECORDS,
        *,
        since: Mapping[int, int] | None = None,
    ) -> Iterator[pa.Table]:
        """The same events in tables of about `rows` positions (None: one table a partition), in bounded memory."""
        definition = self._stream(stream)
        upto, since = upto or {}, since or {}
        ends = self._log.ends(definition.name)
        yield event_schema(definition).empty_table()
        for partition, (_, end) in enumerate(ends):
            last = min(upto.get(partition, end), end)
            first = since.get(partition, 0)
            yield from self._partition(definition, partition, first, last, rows or max(last - first, 1))

    def select(
        self, stream: str | EventStream, wanted: Sequence[Wanted], *, upto: Mapping[int, int] | None = None
    ) -> pa.Table:
        """Those events of `read` that are wanted, in memory for them and for what is looked at at once.

        Args:
            stream: its name, or a definition of it; see `read`.
            wanted: what is looked for; an event that any of these means is found.
            upto: by partition, the position before which to look.

        Raises:
            NotFound: there is no such stream.
        """
        definition = self._stream(stream)
        wanted = [one for one in wanted if not one.nothing]
        ends = self._log.ends(definition.name) if wanted else []
        pieces = [event_schema(definition).empty_table()]
        for partition, (_, end) in enumerate(ends):
            last = min((upto or {}).get(partition, end), end)
            found = pa.concat_tables([pieces[0], *self._search(definition, partition, last, wanted)])
            pieces.append(self._without_repeats(definition, partition, last, found))
        return pa.concat_tables(pieces).combine_chunks()

    def _search(self, stream: EventStream, partition: int, last: int, wanted: Sequence[Wanted]) -> Iterator[pa.Table]:
        """The wanted events of a partition before a position, repeats included, in their order."""
        position = 0
        while position < last:
            table = event_table(stream.name)
            snapshot = self._offline.snapshot(table)
            covered = held(table, snapshot).get(partition, 0)
            if snapshot is not None and covered > position:
                archive = Archive(self._offline, stream, (table, refused_table(stream.name)), snapshot)
                yield archive.search(partition, position, min(covered, last), wanted)
                position = covered
            try:
                while position < last:
                    records = self._log.read(stream.name, partition, position, min(_LOOKED_AT, last - position))
                    if not records:
                        return
                    events = decode(stream, records).table
                    position = records[-1].end
                    inside = events if position <= last else events.filter(pc.less(events["_position"], last))
                    yield chosen(stream, inside, wanted)
            except LogError:
                # Archived and trimmed since the archive was looked at: then it has moved on, and is searched again.
                if held(table, self._offline.snapshot(table)).get(partition, 0) <= position:
                    raise

    def _without_repeats(self, stream: EventStream, partition: int, last: int, found: pa.Table) -> pa.Table:
        """Of events that were looked for, those whose id did not occur before in any event of the partition."""
        if stream.deduplicate is None or not found.num_rows:
            return found
        same = Wanted({stream.deduplicate: union_of([found[stream.deduplicate]])})
        columns = [stream.deduplicate, *_PLACE]
        pieces = [found.slice(0, 0).select(columns)]
        if not same.nothing:
            pieces += [piece.select(columns) for piece in self._search(stream, partition, last, [same])]
        every = pa.concat_tables(pieces).combine_chunks()
        repeated = every.filter(pa.array(repeats(every, stream)))["_position"].combine_chunks()
        return found.filter(pc.invert(pc.is_in(found["_position"], value_set=repeated)))

    def _partition(self, stream: EventStream, partition: int, first: int, last: int, rows: int) -> Iterator[pa.Table]:
        carried = self._before(stream, partition, first)
        for begin in range(first, last, rows):
            found = self._span(stream, partition, begin, min(begin + rows, last))
            if not found.num_rows:
                continue
            if stream.deduplicate is None:
                yield found
                continue
            every = pa.concat_tables([carried, found.select([stream.deduplicate, *_PLACE])]).combine_chunks()
            repeated = repeats(every, stream)[carried.num_rows :]
            recent = pc.greater_equal(every["_appended"], int(pc.max(every["_appended"]).as_py()) - stream.within)
            carried = every.filter(recent)
            yield found.filter(pa.array(~repeated)) if repeated.any() else found

    def _before(self, stream: EventStream, partition: int, first: int) -> pa.Table:
        """The ids that occurred within the span of repeats before a position."""
        if stream.deduplicate is None or first == 0:
            return event_schema(stream).empty_table().select([*filter(None, [stream.deduplicate]), *_PLACE])
        at = self._span(stream, partition, first, first + 1, or_next=True)
        begin = first
        oldest = int(at["_appended"][0].as_py()) - stream.within if at.num_rows else 0
        pieces: list[pa.Table] = []
        while begin > 0:
            begin, end = max(0, begin - _RECORDS), begin
            piece = self._span(stream, partition, begin, end).select([stream.deduplicate, *_PLACE])
            pieces.insert(0, piece.filter(pc.greater_equal(piece["_appended"], oldest)))
            if piece.num_rows and int(piece["_appended"][0].as_py()) < oldest:
                break
        return pa.concat_tables(pieces)

    def _span(self, stream: EventStream, partition: int, begin: int, end: int, *, or_next: bool = False) -> pa.Table:
        """The valid events of a partition from `begin` to before `end`, repeats included."""
        archived, covered = self._archived(stream, partition, begin, end)
        pieces = [archived]
        position = max(begin, covered)
        while position < end:
            try:
                records = self._log.read(stream.name, partition, position, min(_RECORDS, end - position))
            except LogError:
                # Archived and trimmed since the archive was looked at: then it has moved on, and is read instead.
                newer, further = self._archived(stream, partition, position, end)
                if further <= position:
                    raise
                pieces.append(newer)
                position = further
                continue
            if not records:
                break
            pieces.append(decode(stream, records).table)
            position = records[-1].end
        table = pa.concat_tables(pieces)
        if position > end and not or_next:
            table = table.filter(pc.less(table["_position"], end))
        return table

    def _archived(self, stream: EventStream, partition: int, begin: int, end: int) -> tuple[pa.Table, int]:
        """What the archive holds of a span, and the first position of the partition that it does not hold."""
        schema = event_schema(stream)
        table = event_table(stream.name)
        snapshot = self._offline.snapshot(table)
        covered = held(table, snapshot).get(partition, 0)
        if snapshot is None or begin >= covered:
            return schema.empty_table(), covered
        where = [("_partition", "=", partition), ("_position", ">=", begin), ("_position", "<", min(end, covered))]
        found = self._offline.scan(table, where=where, snapshot=snapshot.id)
        taken = redecode(stream, _once(found.sort_by(_ORDER)))
        return self._with_refused(stream, taken, pc.unique(found["_position"]), where), covered

    def _with_refused(self, stream: EventStream, taken: pa.Table, known: pa.Array, where: Where) -> pa.Table:
        """The events of a span with those that were refused as their stream was declared then, and fit it as it is read."""
        table = refused_table(stream.name)
        snapshot = self._offline.snapshot(table)
        rows = None if snapshot is None else self._offline.scan(table, where=where, snapshot=snapshot.id)
        if rows is None or not rows.num_rows:
            return taken
        rows = rows.filter(pc.invert(pc.is_in(rows["_position"], known))).sort_by(_ORDER)
        more = retaken(stream, _once(rows))  # an archiver that was killed says it again
        return pa.concat_tables([taken, more]).sort_by(_ORDER) if more.num_rows else taken

    def _stream(self, stream: str | EventStream) -> EventStream:
        name = stream if isinstance(stream, str) else stream.name
        known = self._streams.get(name)
        if isinstance(stream, EventStream) and not (known and known.reads(stream)):
            return stream
        if name not in self._streams:
            raise NotFound.named("stream", name, self._streams)
        return self._streams[name]


def _once(table: pa.Table) -> pa.Table:
    """A sorted table with one row for each place, whatever another program has appended to the archive."""
    if table.num_rows < 2:
        return table
    later, earlier = table.slice(1), table.slice(0, table.num_rows - 1)
    same = [pc.equal(later[name], earlier[name]) for name in ("_partition", "_position")]
    repeated = pc.and_(*same)
    if not pc.any(repeated).as_py():
        return table
    first = pa.array([True])
    return table.filter(pa.chunked_array([first, *pc.invert(repeated).chunks]))
