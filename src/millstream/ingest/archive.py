"""The archive: events, dead letters and captures beyond the log's retention, each exactly once.

The next positions are in the same commit as the rows that end there, and the commit is refused when another archiver
has moved them, so neither a crash nor a second archiver loses or doubles a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec
import pyarrow as pa

from millstream.buffer.agreement import mark, refuse_stepped_back
from millstream.buffer.codec.events import decode, refused
from millstream.buffer.codec.read import into_rest
from millstream.buffer.lag import records_behind
from millstream.buffer.log import OwnLog, Records
from millstream.buffer.topics import ARCHIVE, CAPTURES, DEAD, event_table, refused_table
from millstream.clock import Clock
from millstream.definitions.source import EventStream
from millstream.errors import Fenced, SteppedBack
from millstream.history.captures import capture_tables, no_captures
from millstream.history.dead_letters import letter_table
from millstream.history.events import MARKS, POSITIONS, held, marks_of
from millstream.store.offline import OfflineStore


@dataclass(frozen=True)
class Archived:
    """What one step did: rows archived, commits refused because another archiver was first, and records left, about."""

    rows: int = 0
    fenced: int = 0
    lag: int = 0

    def __add__(self, other: Archived) -> Archived:
        return Archived(self.rows + other.rows, self.fenced + other.fenced, self.lag + other.lag)


class Archiver:
    """Brings what the log holds of streams, their dead letters and captures into the offline store.

    A commit costs tens of milliseconds and makes files that every later read opens: few large ones are better.

    Args:
        log: the project's log.
        offline: where the archive is.
        streams: the streams to archive.
        clock: the project's clock.
        most: records taken from one partition in one commit.
    """

    def __init__(
        self, log: OwnLog, offline: OfflineStore, streams: Sequence[EventStream], clock: Clock, *, most: int = 500_000
    ) -> None:
        self._log, self._offline, self._clock, self._most = log, offline, clock, most
        self._streams = list(streams)
        self._agreed: set[str] = set()
        self._held: dict[str, dict[int, int]] = {}

    def step(self, least: int = 1) -> Archived:
        """Archive what has come since the last step, one commit for each table that lacks at least so many records.

        Raises:
            SteppedBack: when the log is older than the archive, or another one; raised after the others had their turn.
        """
        topics, total, failed = self._log.topics(), Archived(), list[SteppedBack]()
        work: list[tuple[str, str, Callable[[list[Records]], pa.Table]]] = [
            (stream.name, event_table(stream.name), partial(self._events, stream))
            for stream in self._streams
            if stream.name in topics
        ]
        work += [(topic, topic, letter_table) for topic in topics if topic.startswith(DEAD)]
        work += [(topic, topic, _captures) for topic in topics if topic.startswith(CAPTURES)]
        for topic, table, read in work:
            try:
                total += self._archive(topic, table, read, least)
            except SteppedBack as error:
                failed.append(error)
        if failed:
            raise failed[0]
        return total

    def _refuse_stepped_back(
        self, topic: str, ends: list[int], positions: dict[int, int], marks: dict[int, str]
    ) -> None:
        """At the first look at an archive, and whenever the log ends before what the archive holds."""
        known = dict(enumerate(ends))
        if topic in self._agreed and all(position <= known.get(p, 0) for p, position in positions.items()):
            return
        for partition in sorted(known.keys() | positions.keys()):
            position = positions.get(partition, 0)
            refuse_stepped_back(
                f"Archive of '{topic}'", self._log, topic, partition, position, marks.get(partition, "")
            )
        self._agreed.add(topic)

    def _archive(self, topic: str, table: str, read: Callable[[list[Records]], pa.Table], least: int) -> Archived:
        ends = [end for _, end in self._log.ends(topic)]
        told = self._log.committed(ARCHIVE, topic)
        known = told if self._log.atomic else [self._held.get(topic, {}).get(p) for p in range(len(ends))]
        waiting = records_behind(self._log, topic, [position or 0 for position in known])
        if waiting < least and topic in self._agreed:  # the archive itself need not be asked
            return Archived(lag=waiting)
        snapshot = self._offline.snapshot(table)
        positions = self._held[topic] = held(table, snapshot)
        self._refuse_stepped_back(topic, ends, positions, marks_of(snapshot.properties) if snapshot else {})
        if waiting < least:
            return Archived(lag=waiting)
        found, after = self._take(topic, positions, len(ends))
        lag = records_behind(self._log, topic, [after[p] for p in range(len(ends))])
        if after != {p: positions.get(p, 0) for p in range(len(ends))}:
            marks = {str(p): mark(self._log, topic, p, end) for p, end in after.items()}
            properties = {POSITIONS: msgspec.json.encode({str(p): end for p, end in after.items()}).decode()}
            properties[MARKS] = msgspec.json.encode(marks).decode()
            rows = self._fitted(table, read(found)) if snapshot else read(found)
            try:
                self._offline.append(table, rows, properties, expected=snapshot.id if snapshot else None)
            except Fenced:
                return Archived(0, 1, lag)
            self._held[topic] = after
        self._tell(topic, told, after)
        return Archived(sum(map(len, found)), 0, lag)

    def _events(self, stream: EventStream, records: list[Records]) -> pa.Table:
        """The valid events; what is wrong with others is kept beside them, for it may fit the stream's next declaration."""
        decoded = decode(stream, records)
        if decoded.dead:
            self._offline.append(refused_table(stream.name), refused(records, decoded.dead))
        return decoded.table

    def _fitted(self, table: str, rows: pa.Table) -> pa.Table:
        """The rows with values in `rest` where the archive has their column with the type it was first declared with."""
        if "rest" not in rows.column_names:
            return rows
        kept = self._offline.scan(table, where=[("_position", "<", 0)]).schema
        retyped = [one.name for one in rows.schema if one.name in kept.names and kept.field(one.name).type != one.type]
        return into_rest(rows, retyped) if retyped else rows

    def _take(self, topic: str, positions: dict[int, int], partitions: int) -> tuple[list[Records], dict[int, int]]:
        """Records from the given positions on, and the positions after them."""
        found: list[Records] = []
        after = {}
        for partition in range(partitions):
            start = positions.get(partition, 0)
            records = self._log.read(topic, partition, start, self._most)
            found.append(records)
            after[partition] = records.next
        return found, after

    def _tell(self, topic: str, told: Sequence[int | None], after: dict[int, int]) -> None:
        """Let retention know; the archive itself never asks."""
        try:
            with self._log.transaction() as work:
                for partition, position in after.items():
                    if told[partition] != position:
                        work.commit(ARCHIVE, topic, partition, told[partition], position)
        except Fenced:
            return  # another archiver has told it something newer


def _captures(records: list[Records]) -> pa.Table:
    pieces = [table for some in records for table in capture_tables(some)]
    return pa.concat_tables(pieces, promote_options="permissive") if pieces else no_captures()
