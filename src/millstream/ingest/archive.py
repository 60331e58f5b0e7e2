"""The archive: everything that goes through the log, kept for good in the offline store, exactly once.

The positions that the archive covers are in the same commit as the rows, so a worker that dies anywhere goes on from
what the table itself says; two workers cannot both append after the same commit. A commit costs tens of milliseconds,
so the archive takes large bites: it waits for many rows, or for old ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from millstream.buffer.events import dead_letters, decode
from millstream.buffer.log import Log, Records, TopicAdmin
from millstream.clock import Clock
from millstream.definitions.durations import UNITS
from millstream.definitions.source import EventStream
from millstream.errors import Fenced, MillstreamError, StoreError
from millstream.store.history import POSITIONS, archived_positions, event_table
from millstream.store.offline import OfflineStore, Snapshot

#: The consumer by which the archive tells the log how far it is: a bound for retention.
ARCHIVE = "archive"
_DEAD, _CAPTURES = "dead.", "captures."


class AdminLog(Log, TopicAdmin, Protocol):
    """A log whose topics can be listed."""


@dataclass(frozen=True)
class Archived:
    """What one step did: rows archived, commits made, and records that are not archived yet."""

    rows: int = 0
    commits: int = 0
    lag: int = 0

    def __add__(self, other: Archived) -> Archived:
        return Archived(self.rows + other.rows, self.commits + other.commits, self.lag + other.lag)


class Archiver:
    """Archives events, dead letters and captures into tables named like their topics; any number of workers may run.

    Events go to `events.{stream}` with their place in the log and `_repeat`, which marks repeats.

    Args:
        log: the project's log.
        offline: where the tables are.
        streams: the streams whose events are archived; dead letters and captures are found by their topics.
        clock: says how old the oldest record is.
        data: a folder for the index of ids, which repeats are told by; needed by streams that deduplicate.
        min_rows: how many records are worth a commit.
        max_age: how long (µs) fewer of them wait.
        limit: records taken in one commit, about.
    """

    def __init__(
        self,
        log: AdminLog,
        offline: OfflineStore,
        streams: Iterable[EventStream],
        clock: Clock,
        *,
        data: Path | str,
        min_rows: int = 50_000,
        max_age: int = UNITS["m"],
        limit: int = 500_000,
    ) -> None:
        self._log, self._offline, self._clock = log, offline, clock
        self._streams = {stream.name: stream for stream in streams}
        self._min_rows, self._max_age, self._limit = min_rows, max_age, limit
        self._repeats = _Repeats(Path(data) / "archive-ids", log)
        self._heads: dict[str, Snapshot | None] = {}

    def step(self, *, flush: bool = False) -> Archived:
        """Archive the topics that have enough to archive, one commit each; with `flush`, all that have anything.

        Raises:
            StoreError: the first failure, after all topics had their turn; nothing of it was committed.
            DiskFull: when there is no room.
        """
        done, failures = Archived(), list[StoreError]()
        for topic in self._log.topics():
            taken = self._taken(topic)
            if taken is None:
                continue
            try:
                done += self._archive(topic, *taken, flush)
            except StoreError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return done

    def close(self) -> None:
        """Let go of the index of ids."""
        self._repeats.close()

    def _taken(self, topic: str) -> tuple[str, Callable[[Sequence[Records]], pa.Table]] | None:
        """The table that a topic goes to and how its records become rows; None for what is not archived."""
        stream = self._streams.get(topic)
        if stream is not None:
            return event_table(topic), lambda records: self._events(stream, records)
        if topic.startswith(_DEAD):
            return topic, _letters
        return (topic, _captures) if topic.startswith(_CAPTURES) else None

    def _archive(
        self, topic: str, table: str, rows_of: Callable[[Sequence[Records]], pa.Table], flush: bool
    ) -> Archived:
        ends = [following for _, following in self._log.ends(topic)]
        if table not in self._heads:
            self._heads[table] = self._offline.snapshot(table)
        head = self._heads[table]
        positions = archived_positions(head)
        waiting = sum(end - positions.get(p, 0) for p, end in enumerate(ends))
        if not waiting or not (flush or waiting >= self._min_rows or self._is_old(topic, ends, positions)):
            return Archived(lag=waiting)
        records, reached = self._read(topic, ends, positions)
        if not records:
            return Archived(lag=waiting)
        rows = rows_of(records)
        properties = {POSITIONS: json.dumps({str(p): position for p, position in reached.items()})}
        try:
            self._heads[table] = self._offline.append(table, rows, properties, None if head is None else head.id)
        except Fenced:
            del self._heads[table]  # another worker has archived some of this; look again at the next step
            return Archived(lag=waiting)
        self._tell(topic, reached)
        return Archived(rows.num_rows, 1, waiting - sum(r.count - r.skip for r in records))

    def _is_old(self, topic: str, ends: Sequence[int], positions: Mapping[int, int]) -> bool:
        """Whether a record has waited too long."""
        horizon = self._clock.now() - self._max_age
        for partition, end in enumerate(ends):
            position = positions.get(partition, 0)
            first = self._log.ends(topic)[partition][0] if position < end else end
            if position < end and any(
                record.appended <= horizon for record in self._log.read(topic, partition, max(position, first), 1)
            ):
                return True
        return False

    def _read(
        self, topic: str, ends: Sequence[int], positions: Mapping[int, int]
    ) -> tuple[list[Records], dict[int, int]]:
        """Records of all partitions up to the limit, and the next position of each."""
        records: list[Records] = []
        reached = {partition: positions.get(partition, 0) for partition in range(len(ends))}
        waiting = [partition for partition, end in enumerate(ends) if reached[partition] < end]
        for partition in waiting:
            first = self._log.ends(topic)[partition][0]
            if reached[partition] < first:
                raise _lost(topic, partition, reached[partition], first)
            found = self._log.read(topic, partition, reached[partition], max(1, self._limit // len(waiting)))
            records += found
            reached[partition] = found[-1].end if found else reached[partition]
        return records, reached

    def _events(self, stream: EventStream, records: Sequence[Records]) -> pa.Table:
        """The valid events, repeats marked; the others become dead letters in stream computing."""
        table = decode(stream, records).table
        return table.append_column("_repeat", pa.array(self._repeats.mark(table, stream)))

    def _tell(self, topic: str, reached: Mapping[int, int]) -> None:
        """Tell the log what the archive holds, after the fact: never more than it does."""
        told = self._log.committed(ARCHIVE, topic)
        try:
            with self._log.transaction() as work:
                for partition, position in reached.items():
                    if (told[partition] or 0) < position:
                        work.commit(ARCHIVE, topic, partition, told[partition], position)
        except Fenced:
            return


class _Repeats:
    """The index of ids, opened when a stream first needs it."""

    def __init__(self, path: Path, log: Log) -> None:
        from millstream.buffer.repeats import RepeatIndex

        self._open = lambda: RepeatIndex(path, log)
        self._index: RepeatIndex | None = None

    def mark(self, table: pa.Table, stream: EventStream) -> np.ndarray:
        from millstream.buffer.repeats import mark

        if stream.deduplicate is None:
            return np.zeros(table.num_rows, bool)
        self._index = self._index or self._open()
        return mark(table, stream, self._index)

    def close(self) -> None:
        if self._index is not None:
            self._index.close()
            self._index = None


def _letters(records: Sequence[Records]) -> pa.Table:
    """Dead letters as rows."""
    letters = dead_letters(records)
    columns = {name: [getattr(letter, name) for letter in letters] for name in ("stream", "reason", "payload")}
    columns |= {name: [getattr(letter, name) for letter in letters] for name in ("partition", "position", "arrival")}
    text = {name: pa.string() for name in ("stream", "reason", "payload")}
    arrays = {name: pa.array(values, text.get(name, pa.int64())) for name, values in columns.items()}
    return pa.table(arrays)


def _captures(records: Sequence[Records]) -> pa.Table:
    """Captures as rows; those of a newer model version may have other columns, which are null in older ones."""
    tables = []
    for record in records:
        if record.encoding != "arrow":
            raise MillstreamError(
                f"Topic '{record.topic}': the record at {record.position} is '{record.encoding}', expected 'arrow'.",
                "captures are written by the scoring service only.",
            )
        tables.append(pa.ipc.open_stream(record.payload).read_all().slice(record.skip))
    return pa.concat_tables(tables, promote_options="default").replace_schema_metadata(None)


def _lost(topic: str, partition: int, position: int, first: int) -> StoreError:
    return StoreError(
        f"Archive of '{topic}', partition {partition}: it holds what comes before {position}, but the log begins at "
        f"{first}; the records between are gone.",
        "restore the offline store from a copy that goes further.",
    )
