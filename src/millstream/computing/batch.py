"""Batch computing: queries over tables on a schedule, into the staging topics; the fold over a table, into deltas.

A run appends what it returned and moves the group's schedule in one transaction of the log, so an interval runs once,
however many workers there are. A run of a past interval moves nothing: repeating it is harmless.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from millstream.buffer.events import DeadLetter, dead_batch
from millstream.buffer.log import Batch, Log, TopicAdmin
from millstream.buffer.staging import Run, batch_consumer, encode_run, staging_topic
from millstream.clock import Clock
from millstream.computing.guilty import query_failed, run_query
from millstream.computing.staged import Staged, features_of, stage
from millstream.computing.start import feature_topic
from millstream.computing.table_fold import fold_events, stream_events, table_events
from millstream.computing.tables import (
    DATED,
    KNOWN,
    EventReader,
    Tables,
    dated,
    interval_column,
    row_by_row,
    with_known,
)
from millstream.definitions.expressions import bind_interval
from millstream.definitions.feature_group import BatchFeatureGroup
from millstream.definitions.schedule import last_tick, ticks
from millstream.definitions.source import Source, Table
from millstream.errors import Fenced, MillstreamError, NotFound
from millstream.instants import micros


class Version(Protocol):
    """What batch computing asks of a group version."""

    @property
    def id(self) -> str:
        """The name of the group version, such as "kyc@1"."""
        ...

    @property
    def group(self) -> BatchFeatureGroup:
        """What is computed."""
        ...

    @property
    def shards(self) -> int:
        """How many partitions its feature topic has, if it folds a table."""
        ...

    @property
    def schema(self) -> Mapping[str, str]:
        """The type of each feature."""
        ...


class AdminLog(Log, TopicAdmin, Protocol):
    """A log whose topics Millstream makes itself."""


@dataclass(frozen=True)
class Interval:
    """A scheduled interval `(start, end]` of a group version, in µs; one that is `past` does not move the schedule."""

    version: str
    start: int
    end: int
    past: bool = False


@dataclass(frozen=True)
class Ran:
    """What one run did: the rows (or keys, for a fold) it wrote, dead letters, and rows left out by reason."""

    interval: Interval
    rows: int
    dead: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)


class BatchComputer:
    """Runs batch groups when they are due; any number of workers may run, and each interval runs once.

    Args:
        log: the project's log.
        group_versions: the versions to run; those of stream groups are left alone.
        clock: says what is due, and when rows became available.
        tables: the current tables; a group's own definition holds where one is not among them.
        history: the events of streams that queries read.
        folder: what the paths of tables start from.
    """

    def __init__(
        self,
        log: AdminLog,
        group_versions: Iterable[Version],
        clock: Clock,
        *,
        tables: Iterable[Table] = (),
        history: EventReader | None = None,
        folder: Path | str = ".",
    ) -> None:
        self._log, self._clock, self._history = log, clock, history
        self._versions = {v.id: v for v in group_versions if isinstance(v.group, BatchFeatureGroup)}
        self._current = {table.name: table for table in tables}
        self._tables = Tables(Path(folder), history)

    def due(self, now: int | None = None) -> list[Interval]:
        """The intervals that have ended by `now` (µs; the clock's) and did not run, by group version, oldest first.

        A query that never ran begins with its newest interval (`backfill` runs earlier ones), a fold with all of time.
        """
        instant = self._clock.now() if now is None else now
        return [interval for version in self._versions.values() for interval in self._due(version, instant)]

    def step(self) -> list[Ran]:
        """Run what is due. Intervals that are late become available now, so only the newest one of a query that does
        not look at its interval runs, and a fold takes them all at once.

        Raises:
            MillstreamError: the first failure, after all groups had their turn; what failed is due again.
        """
        done: list[Ran] = []
        failures: list[MillstreamError] = []
        for version in self._versions.values():
            try:
                done += [self.run(interval) for interval in _together(version, self._due(version, self._clock.now()))]
            except Fenced:
                continue  # another worker ran it
            except MillstreamError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return done

    def run(self, interval: Interval) -> Ran:
        """Run one interval and append what it returned.

        Raises:
            Fenced: when the interval ran already, or is not the next one; nothing was appended.
            MillstreamError: when the query fails, or its result does not fit the group.
        """
        version = self._version(interval.version)
        if version.group.query is None:
            return self._fold(version, interval)
        available = interval.end if interval.past else max(self._clock.now(), interval.end)
        result, dead = self._query(version, interval)
        staged = stage(_thing(version), version.group, _schema(version, result), result, interval.end, available)
        self._append(version, interval, staged, available, dead)
        return Ran(interval, staged.rows.num_rows, len(dead), staged.skipped)

    def backfill(self, gv: str, start: int, end: int) -> list[Ran]:
        """Run the intervals of a query that ended in `(start, end]` (µs), each as if it had run on time.

        What a run returned became available at its end. Where all runs together say no more than one query does,
        because the query looks at its rows one by one or at nothing that changes, one is made for all of them.

        Raises:
            MillstreamError: when the group folds a table (which needs no backfill), or a query fails.
        """
        version = self._version(gv)
        group = version.group
        if group.query is None:
            raise MillstreamError(
                f"{_thing(version)}: it folds a table, whose rows its next run takes in from the first one on.",
                "run the batch layer; there is nothing to backfill.",
            )
        ends = ticks(group, start, end)
        if not ends:
            return []
        first = last_tick(group, ends[0] - 1) or 0
        intervals = [Interval(gv, a, b, past=True) for a, b in zip([first, *ends], ends, strict=False)]
        looks = bool(bind_interval(group.query)[1])
        by = interval_column(group.query) if looks else None
        if group.ttl is None and (by or not looks):
            if not looks and not any(dated(source) for source in group.sources):
                return [self.run(intervals[0])]
            if group.time and row_by_row(group.query, group.sources) and isinstance(group.sources[0], Table):
                return [self._run_dated(version, np.array(ends), Interval(gv, first, ends[-1], past=True), by)]
        return [self.run(interval) for interval in intervals]

    def _run_dated(self, version: Version, ends: np.ndarray, interval: Interval, by: tuple[str, bool] | None) -> Ran:
        """Many past intervals by one query: each row became available with the first run that could see it.

        Where each row belongs to one interval, `by` its column, only that run could: a row known later is in none.
        """
        group = version.group
        sources = self._sources(group)
        query = with_known(group.query or "", by[0] if by else None)
        try:
            result = self._tables.query(query, sources, interval.start, interval.end, known=True)
        except Exception as error:
            raise query_failed(_thing(version), group.query or "", interval.start, interval.end, error) from error
        known = np.asarray(micros(result[KNOWN])).astype(np.int64)
        if by is None:
            available = ends[np.searchsorted(ends, known)]
        else:
            moments = np.asarray(micros(result[DATED])).astype(np.int64)
            available = ends[np.searchsorted(ends, moments, side="left" if by[1] else "right")]
            seen = known <= available
            result, available = result.filter(pa.array(seen)), available[seen]
        plain = result.drop_columns([name for name in (KNOWN, DATED) if name in result.column_names])
        staged = stage(_thing(version), group, _schema(version, plain), plain, interval.end, available)
        self._append(version, interval, staged, interval.end, [])
        return Ran(interval, staged.rows.num_rows, 0, staged.skipped)

    def _due(self, version: Version, now: int) -> list[Interval]:
        committed = self._committed(version)
        if committed is None:
            end = last_tick(version.group, now)
            if end is None:
                return []
            start = 0 if version.group.query is None else last_tick(version.group, end - 1) or 0
            return [Interval(version.id, start, end)]
        ends = ticks(version.group, committed, now)
        return [Interval(version.id, a, b) for a, b in zip([committed, *ends], ends, strict=False)]

    def _committed(self, version: Version) -> int | None:
        topic = _topic(version)
        if topic not in self._log.topics():
            return None
        return self._log.committed(batch_consumer(version.id), topic)[0]

    def _query(self, version: Version, interval: Interval) -> tuple[pa.Table, list[DeadLetter]]:
        """The result of a group's query, and the rows on which it fails, if it looks at them one by one."""
        group = version.group
        between = interval.start, interval.end
        return run_query(
            self._tables, _thing(version), group.query or "", self._sources(group), *between, self._clock.now()
        )

    def _append(
        self, version: Version, interval: Interval, staged: Staged, available: int, dead: Sequence[DeadLetter]
    ) -> None:
        run = Run(interval.start, interval.end, available, version.group.time is None, staged.rows)
        self._write(version, interval, [Batch(encode_run(run), "bytes", 1)], dead, {})

    def _fold(self, version: Version, interval: Interval) -> Ran:
        if interval.past:
            raise MillstreamError(f"{_thing(version)}: a fold has no past runs.", "run the batch layer.")
        (source,) = self._sources(version.group)
        if isinstance(source, Table):
            told: dict[str, tuple[int | None, int]] = {}
            ranges = {f"{source.name}/0": (interval.start, interval.end)}
            events = table_events(source, self._tables.rows(source, interval.end), interval.start, interval.end)
        else:
            told = self._unread(version, source)
            ranges = {place: (begin or 0, end) for place, (begin, end) in told.items()}
            events = stream_events(source, ranges, self._history)
        folded = fold_events(version, source, events, ranges, self._clock.now())
        batches = [Batch(record, "bytes", 1) for record in folded.records]
        self._write(version, interval, batches, folded.dead, told)
        return Ran(interval, folded.keys, len(folded.dead), folded.skipped)

    def _unread(self, version: Version, stream: Source) -> dict[str, tuple[int | None, int]]:
        """By "stream/partition", where a fold of a stream is (None: it has not begun), and where the stream ends."""
        told = self._log.committed(batch_consumer(version.id), stream.name)
        ends = self._log.ends(stream.name)
        return {f"{stream.name}/{p}": (told[p], following) for p, (_, following) in enumerate(ends)}

    def _write(
        self,
        version: Version,
        interval: Interval,
        batches: Sequence[Batch],
        dead: Sequence[DeadLetter],
        positions: Mapping[str, tuple[int | None, int]],
    ) -> None:
        """Append, one batch to each partition, and move the schedule, in one transaction."""
        topic, consumer = _topic(version), batch_consumer(version.id)
        self._log.create(topic, len(batches))
        committed = self._log.committed(consumer, topic)[0]
        if not interval.past and committed not in (None, interval.start):
            raise Fenced.moved(f"the schedule of '{version.id}'", interval.start, committed)
        for name in {letter.stream for letter in dead}:
            self._log.create(_dead_topic(name), self._log.topics().get(_dead_topic(name), 1))
        with self._log.transaction() as work:
            for number, batch in enumerate(batches):
                work.append(topic, number, batch)
            if dead:
                work.append(_dead_topic(dead[0].stream), 0, dead_batch(dead))
            if not interval.past:
                work.commit(consumer, topic, 0, committed, interval.end)
            for place, (begin, end) in positions.items():
                stream, _, partition = place.rpartition("/")
                work.commit(consumer, stream, int(partition), begin, end)

    def _sources(self, group: BatchFeatureGroup) -> list[Source]:
        return [self._current.get(source.name, source) for source in group.sources]

    def _version(self, gv: str) -> Version:
        if gv not in self._versions:
            raise NotFound.named("batch group version", gv, self._versions)
        return self._versions[gv]


def _together(version: Version, due: list[Interval]) -> list[Interval]:
    """Late intervals as one, where the runs before the last would say nothing that it does not."""
    query = version.group.query
    if len(due) < 2 or (query is not None and bind_interval(query)[1]):
        return due
    return [Interval(version.id, due[0].start, due[-1].end)]


def _topic(version: Version) -> str:
    return feature_topic(version.id) if version.group.query is None else staging_topic(version.id)


def _dead_topic(source: str) -> str:
    return f"dead.{source}"


def _schema(version: Version, result: pa.Table) -> Mapping[str, str]:
    return version.schema or features_of(version.group, result)


def _thing(version: Version) -> str:
    return f"Group version '{version.id}'"
