"""History: all events of a stream, archived or still in the log, as one table in one space of positions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.buffer.codec.events import decode, redecode, retaken
from millstream.buffer.codec.types import event_schema
from millstream.buffer.log import Log, Records
from millstream.buffer.reading import position_since, through
from millstream.buffer.repeats import repeats
from millstream.buffer.topics import event_table, refused_table
from millstream.definitions.source import EventStream
from millstream.errors import LogError, NotFound, StoreError
from millstream.history.columns import has_repeats, ordered
from millstream.history.selection import Archive, Wanted, chosen, union_of
from millstream.store.offline import OfflineStore, Snapshot, Where, batches_of

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
            upto: by partition, the position before which to read, and nothing of a partition that is not named: it may
                have come later. Everything to its end when left out.
            since: by partition, the first position to read.

        Raises:
            NotFound: there is no such stream.
        """
        return pa.concat_tables(self.chunks(stream, upto, since=since, rows=None))

    def chunks(
        self,
        stream: str | EventStream,
        upto: Mapping[int, int] | None = None,
        rows: int | None = _RECORDS,
        *,
        since: Mapping[int, int] | None = None,
    ) -> Iterator[pa.Table]:
        """The events of `read` in several tables, in bounded memory; the first is an empty one.

        Args:
            stream: its name, or a definition of it; see `read`.
            upto: by partition, the position before which to read; see `read`.
            rows: about how many events a table may have; None: as they come.
            since: by partition, the first position to read; 0 for one that is not in it.

        Raises:
            NotFound: there is no such stream.
        """
        definition = self._stream(stream)
        since = since or {}
        yield event_schema(definition).empty_table()
        for partition, last in self._bounded(definition, upto):
            yield from self._partition(definition, partition, since.get(partition, 0), last, rows)

    def ends(self, stream: str) -> dict[int, int]:
        """By partition of a stream, the position before which all that has come lies: `upto` for reading it again."""
        return {partition: end for partition, (_, end) in enumerate(self._log.ends(stream))}

    def select(
        self, stream: str | EventStream, wanted: Sequence[Wanted], *, upto: Mapping[int, int] | None = None
    ) -> pa.Table:
        """Those events of `read` that are wanted, in memory for them and for what is looked at at once.

        Args:
            stream: its name, or a definition of it; see `read`.
            wanted: what is looked for; an event that any of these means is found.
            upto: by partition, the position before which to look; see `read`.

        Raises:
            NotFound: there is no such stream.
        """
        definition = self._stream(stream)
        wanted = [one for one in wanted if not one.nothing]
        pieces = [event_schema(definition).empty_table()]
        for partition, last in self._bounded(definition, upto) if wanted else ():
            found = pa.concat_tables([pieces[0], *self._search(definition, partition, last, wanted)])
            pieces.append(self._without_repeats(definition, partition, last, found))
        return pa.concat_tables(pieces).combine_chunks()

    def _bounded(self, stream: EventStream, upto: Mapping[int, int] | None) -> Iterator[tuple[int, int]]:
        """The partitions to read, each with the position before which to stop."""
        for partition, end in self.ends(stream.name).items():
            yield partition, end if upto is None else min(upto.get(partition, 0), end)

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
                for records in through(self._log, stream.name, partition, position, last, _LOOKED_AT):
                    position = records.next
                    yield chosen(stream, _decoded(stream, records, last), wanted)
                return
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

    def _partition(
        self, stream: EventStream, partition: int, first: int, last: int, rows: int | None
    ) -> Iterator[pa.Table]:
        carried, since = None, 0
        for found in self._pieces(stream, partition, first, last, rows):
            if not found.num_rows:
                continue
            if stream.deduplicate is None:
                yield found
                continue
            appended = int(pc.min(found["_appended"]).as_py())
            if carried is None or appended < since:  # the first, or the clock was set back
                carried = self._before(stream, partition, int(found["_position"][0].as_py()), appended)
            since = appended
            every = pa.concat_tables([carried, found.select([stream.deduplicate, *_PLACE])]).combine_chunks()
            repeated = repeats(every, stream)[carried.num_rows :]
            carried = every.filter(pc.greater_equal(every["_appended"], since - stream.within))
            yield found.filter(pa.array(~repeated)) if repeated.any() else found

    def _before(self, stream: EventStream, partition: int, first: int, appended: int) -> pa.Table:
        """The ids that occurred before a position, within the span of repeats before an append time (µs)."""
        return self.occurred(stream, partition, first, appended - stream.within)

    def occurred(self, stream: EventStream, partition: int, first: int, oldest: int) -> pa.Table:
        """The ids of the valid events of a partition before a position, with their places.

        Args:
            stream: the stream, which has a `deduplicate`.
            partition: the partition.
            first: the position before which they lie.
            oldest: when the oldest of them may have been appended (µs).
        """
        columns = [*filter(None, [stream.deduplicate]), *_PLACE]
        pieces = [event_schema(stream).empty_table().select(columns)]
        for piece in self._pieces(stream, partition, 0, first, None, oldest):
            pieces.append(piece.select(columns).filter(pc.greater_equal(piece["_appended"], oldest)))
        return pa.concat_tables(pieces)

    def _pieces(
        self, stream: EventStream, partition: int, first: int, last: int, rows: int | None, oldest: int | None = None
    ) -> Iterator[pa.Table]:
        """The valid events of a partition from `first` to before `last`, repeats included, in their order.

        What was appended before the instant `oldest` (µs) may be left out.
        """
        position = first
        while position < last:
            table = event_table(stream.name)
            snapshot = self._offline.snapshot(table)
            covered = min(held(table, snapshot).get(partition, 0), last)
            if snapshot is not None and covered > position:
                where = [("_partition", "=", partition), ("_position", ">=", position), ("_position", "<", covered)]
                where += [] if oldest is None else [("_appended", ">=", oldest)]
                borders = [] if rows is None else self._borders(table, where, snapshot, rows)
                for begin, end in pairwise([position, *borders, covered]):
                    inside = [("_position", ">=", begin), ("_position", "<", end)]
                    yield self._archived(stream, [where[0], *inside, *where[3:]], snapshot)
                position = covered
            try:
                if oldest is not None and position < last:
                    position = max(position, position_since(self._log, stream.name, partition, oldest, last))
                for records in through(self._log, stream.name, partition, position, last, rows or _RECORDS):
                    position = records.next
                    yield _decoded(stream, records, last)
                return
            except LogError:
                # Archived and trimmed since the archive was looked at: then it has moved on, and is read instead.
                if held(table, self._offline.snapshot(table)).get(partition, 0) <= position:
                    raise

    def _borders(self, table: str, where: Where, snapshot: Snapshot, rows: int) -> list[int]:
        """Positions that divide some rows of an archive into parts of about so many, found in memory for a few parts."""
        kept, weights = np.empty(0, np.int64), np.empty(0, np.int64)
        for batch in batches_of(self._offline, table, ["_position"], where, snapshot.id):
            kept = np.concatenate([kept, np.asarray(batch.column(0)).astype(np.int64)])
            weights = np.concatenate([weights, np.ones(len(batch), np.int64)])
            if len(kept) > 4 * rows:
                kept, weights = _thinned(kept, weights, max(1, rows // 16))
        kept, _ = _thinned(kept, weights, rows)
        return sorted(set(kept.tolist()))[1:]

    def _archived(self, stream: EventStream, where: Where, snapshot: Snapshot) -> pa.Table:
        """What the archive holds of a stretch of a partition."""
        known: list[pa.Array] = []

        def decoded() -> Iterator[pa.Table]:
            yield event_schema(stream).empty_table()
            for batch in batches_of(self._offline, event_table(stream.name), None, where, snapshot.id):
                known.append(batch["_position"])
                yield redecode(stream, pa.Table.from_batches([batch]))

        taken = ordered(decoded(), "_position")
        if has_repeats(known):  # another program has appended some again
            found = self._offline.scan(event_table(stream.name), where=where, snapshot=snapshot.id)
            taken = redecode(stream, _once(found.sort_by(_ORDER)))
        return self._with_refused(stream, taken, pa.chunked_array(known, pa.int64()), where)

    def _with_refused(self, stream: EventStream, taken: pa.Table, known: pa.ChunkedArray, where: Where) -> pa.Table:
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


def _decoded(stream: EventStream, records: Records, last: int) -> pa.Table:
    """The valid events of a read that lie before a position."""
    events = decode(stream, [records]).table
    return events if records.positions[-1] < last else events.filter(pc.less(events["_position"], last))


def _thinned(positions: np.ndarray, weights: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Of some positions about each `step`th, from the first on; each with how many it stands for."""
    order = np.argsort(positions, kind="stable")
    positions, weights = positions[order], weights[order]
    before = (np.cumsum(weights) - weights) // step
    starts = np.flatnonzero(np.diff(before, prepend=-1))
    return positions[starts], np.add.reduceat(weights, starts) if len(starts) else weights[:0]


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
