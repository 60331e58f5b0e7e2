"""Batch computing: queries over tables on a schedule, into the staging topics; the fold over a table, into deltas.

A run appends what it returned, and only if nobody has appended meanwhile; then the group's schedule is marked. So an
interval runs once, however many workers there are. A run of a past interval moves nothing: repeating it is harmless.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from millstream.buffer.codec.events import DeadLetter, dead_batches
from millstream.buffer.computed import begun
from millstream.buffer.log import Batch, OwnLog
from millstream.buffer.marks import Marks
from millstream.buffer.staging import Run, run_payloads
from millstream.buffer.topics import dead_topic
from millstream.buffer.writing import Append, until_there, widen
from millstream.clock import Clock
from millstream.computing.interval_runs import Result, looks, run_interval, waits
from millstream.computing.late_rows import LateRows, Look
from millstream.computing.query_shape import DATED, dated, interval_column, row_by_row, with_known
from millstream.computing.row_failures import run_query
from millstream.computing.run_rows import Staged, features_of, stage
from millstream.computing.schedules import Schedules, Standing, topic_of
from millstream.computing.table_fold import arrivals_of, fold_events, stream_events, table_events
from millstream.computing.tables import EventReader, Tables
from millstream.definitions.feature_group import BatchFeatureGroup
from millstream.definitions.group_version import BatchGroupVersion
from millstream.definitions.schedule import last_tick, ticks
from millstream.definitions.source import Source, Table
from millstream.engines.engine import FIRST, KNOWN, LAST, Asked, BatchEngine
from millstream.engines.instants import micros
from millstream.errors import Fenced, MillstreamError, NotFound


@dataclass(frozen=True)
class Interval:
    """A scheduled interval `(start, end]` of a group version, in µs.

    One that is `past` does not move the schedule; one that is `again` moves it back, because the clock went back.
    """

    version: str
    start: int
    end: int
    past: bool = False
    again: bool = False


@dataclass(frozen=True)
class Ran:
    """What one run did: the rows (or keys, for a fold) it wrote, dead letters, and rows left out by reason.

    Left out as `late` are the rows of its tables that came later than those say since the run before.
    """

    interval: Interval
    rows: int
    dead: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)


class BatchComputer:
    """Runs batch groups when they are due; any number of workers may run, and each interval runs once.

    Args:
        log: the project's log.
        marks: the project's marks, among them the schedules.
        group_versions: the versions to run; those of stream groups are left alone.
        clock: says what is due, and when rows became available.
        tables: the current tables; a group's own definition holds where one is not among them.
        history: the events of streams that queries read.
        folder: what the paths of tables start from.
        paths: by name, where a table is; where its definition says unless given.
        engine: what runs the queries; DuckDB in this process unless given.
        apart: holds, for as long as a block lasts, what one worker does and no other beside it, and says whether it could.
            Without it workers may run one interval at the same time, of which one is discarded.
    """

    def __init__(
        self,
        log: OwnLog,
        marks: Marks,
        group_versions: Iterable[BatchGroupVersion],
        clock: Clock,
        *,
        tables: Iterable[Table] = (),
        history: EventReader | None = None,
        folder: Path | str = ".",
        paths: Mapping[str, str] | None = None,
        engine: BatchEngine | None = None,
        apart: Callable[[str], AbstractContextManager[bool]] = lambda _: nullcontext(True),
    ) -> None:
        self._log, self._clock, self._history, self._apart = log, clock, history, apart
        self._versions = {v.id: v for v in group_versions if isinstance(v.group, BatchFeatureGroup)}
        self._current = {table.name: table for table in tables}
        self._tables = Tables(Path(folder), history, paths=paths, engine=engine)
        self._told: set[tuple[str, str, str]] = set()
        self._schedules, self._late = Schedules(log, marks), LateRows(marks)
        self._ran: dict[str, int] = {}  # the schedules as they were last seen; they may have moved on since

    def due(self, now: int | None = None) -> list[Interval]:
        """The intervals that have ended by `now` (µs; the clock's) and did not run, by group version, oldest first.

        A query that never ran begins with its newest interval (`backfill` runs earlier ones), a fold with all of time.
        So does a query whose schedule is ahead, because the clock was.
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
                done += self._step(version) if self._due(version, self._clock.now()) else []
            except Fenced:
                continue  # another worker ran it
            except MillstreamError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return done

    def _step(self, version: BatchGroupVersion) -> list[Ran]:
        """Run what is due of a group, unless another worker is about it."""
        with self._apart(f"batch {version.id}") as mine:
            due = self._due(version, self._clock.now()) if mine else []
            return [self.run(interval) for interval in _together(version, due, self._begun(version, due))]

    def run(self, interval: Interval) -> Ran:
        """Run one interval and append what it returned.

        Raises:
            Fenced: when the interval ran already, or is not the next one; nothing was appended.
            MillstreamError: when the query fails, or its result does not fit the group.
        """
        version = self._version(interval.version)
        group = version.group
        if group.query is None:
            return self._fold(version, interval)
        sources, now = self._sources(group), self._clock.now()
        complete = interval.end + waits(group, sources)
        available = complete if interval.past else max(now, complete)
        look = None
        if looks(group) and not interval.past:
            before = interval.start + complete - interval.end
            look = self._late.of_query(version.id, self._tables, sources, before, complete)
        result = run_interval(self._tables, _thing(version), group, sources, interval.start, interval.end, now)
        staged = stage(_thing(version), group, _schema(version, result.rows), result, interval.end, available)
        ran = self._append(version, interval, staged, available, self._misfits(sources, now))
        return self._noted(ran, look)

    def backfill(self, gv: str, start: int, end: int) -> list[Ran]:
        """Run the intervals of a query that were complete in `(start, end]`, each as if it had run on time.

        What a run returned became available at its end. Where all runs together say no more than one query does,
        because the query looks at its rows one by one or at nothing that changes, one is made for all of them.

        Args:
            gv: the group version, such as "kyc@1".
            start: intervals that were complete by then (µs) are not run.
            end: nor are those that were not yet complete by then (µs).

        Returns:
            list[Ran]: what each run did, in their order; none where no interval was complete.

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
        wait = waits(group, self._sources(group))
        ends = ticks(group, start - wait, end - wait)
        if not ends:
            return []
        first = last_tick(group, ends[0] - 1) or 0
        by = interval_column(group.query) if looks(group) else None
        if group.ttl is None and (by or not looks(group)):
            sources = self._sources(group)
            if not looks(group) and not any(dated(source) for source in sources):
                return [self.run(Interval(gv, first, ends[0], past=True))]
            if group.time and row_by_row(group.query, sources) and isinstance(sources[0], Table):
                return [self._run_dated(version, np.array(ends), Interval(gv, first, ends[-1], past=True), by)]
        # There may be millions of them, and most often one query has taken all of them above.
        return [self.run(Interval(gv, a, b, past=True)) for a, b in pairwise((first, *ends))]

    def _run_dated(
        self, version: BatchGroupVersion, ends: np.ndarray, interval: Interval, by: tuple[str, bool] | None
    ) -> Ran:
        """Many past intervals by one query: each row became available with the first run that could see it.

        That is the run of its interval, by the column `by`, or the first after the row could be known.
        """
        group, now = version.group, self._clock.now()
        sources = self._sources(group)
        complete = ends + waits(group, sources)
        query = with_known(group.query or "", by[0] if by else None)
        asked = Asked(FIRST if by else interval.start, interval.end, until=int(complete[-1]), known=True)
        result, dead = run_query(self._tables, _thing(version), query, sources, asked, now)
        known = np.asarray(micros(result[KNOWN]).fill_null(LAST)).astype(np.int64)
        place = np.searchsorted(complete, known)
        if by is not None:
            moments = np.asarray(micros(result[DATED]).fill_null(FIRST)).astype(np.int64)
            place = np.maximum(place, np.searchsorted(ends, moments, side="left" if by[1] else "right"))
            # What both could be known and happened before the first of these runs is what earlier ones returned.
            seen = (known > interval.start + complete[0] - ends[0]) | ~_before(moments, interval.start, by[1])
            result, known, place = result.filter(pa.array(seen)), known[seen], place[seen]
        plain = result.drop_columns([name for name in (KNOWN, DATED) if name in result.column_names])
        found = Result(plain, known, dead)
        staged = stage(_thing(version), group, _schema(version, plain), found, interval.end, complete[place])
        return self._append(version, interval, staged, int(complete[-1]), self._misfits(sources, now))

    def _due(self, version: BatchGroupVersion, now: int) -> list[Interval]:
        if version.group.query is not None:
            now -= waits(version.group, self._sources(version.group))
        seen = self._ran.get(version.id)
        if seen is not None and seen <= now and not ticks(version.group, seen, now):
            return []
        ran = self._schedules.standing(version).end
        again = ran is not None and ran > now and version.group.query is not None
        if ran is None or again:
            end = last_tick(version.group, now)
            if end is None:
                return []
            start = 0 if version.group.query is None else last_tick(version.group, end - 1) or 0
            return [Interval(version.id, start, end, again=again)]
        self._ran[version.id] = ran
        ends = ticks(version.group, ran, now)
        return [Interval(version.id, a, b) for a, b in zip([ran, *ends], ends, strict=False)]

    def _begun(self, version: BatchGroupVersion, due: Sequence[Interval]) -> int | None:
        """Where a fold of a table has to end that was written in part: nobody can fold the rest of a longer one again."""
        source = version.group.sources[0]
        if self._log.atomic or not due or version.group.query is not None or not isinstance(source, Table):
            return None
        return begun(self._log, topic_of(version), f"{source.name}/0")

    def _misfits(self, sources: Sequence[Source], now: int) -> list[DeadLetter]:
        """Dead letters of the rows that are not what their table declares, each told once by this computer."""
        found = [letter for source in sources for letter in self._tables.misfits(source, now)]
        news = {(letter.stream, letter.reason, letter.payload): letter for letter in found}
        fresh = [letter for told, letter in news.items() if told not in self._told]
        self._told = set(news) | {told for told in self._told if told[0] not in {source.name for source in sources}}
        return fresh

    def _append(
        self,
        version: BatchGroupVersion,
        interval: Interval,
        staged: Staged,
        available: int,
        misfits: Sequence[DeadLetter],
    ) -> Ran:
        dead = [*staged.dead, *misfits]
        snapshot = version.group.time is None
        if snapshot and dead and not staged.rows.num_rows:
            raise MillstreamError(
                f"{_thing(version)}: no row of the snapshot is left: {dead[0].reason}",
                "mend the table or the query; the interval is run again, and what was served stays.",
            )
        run = Run(interval.start, interval.end, available, snapshot, staged.rows, scheduled=not interval.past)
        self._write(version, interval, [run_payloads(run, self._log.largest)], dead, {})
        return Ran(interval, staged.rows.num_rows, len(dead), staged.skipped)

    def _fold(self, version: BatchGroupVersion, interval: Interval) -> Ran:
        if interval.past:
            raise MillstreamError(f"{_thing(version)}: a fold has no past runs.", "run the batch layer.")
        (source,) = self._sources(version.group)
        look: Look | None = None
        if isinstance(source, Table):
            told: dict[str, tuple[int | None, int]] = {}
            ranges = {f"{source.name}/0": (interval.start, interval.end)}
            rows = self._tables.rows(source, Asked(interval.start, interval.end))
            events = table_events(source, rows, interval.start, interval.end)
            look = self._late.of_fold(version.id, arrivals_of(source, rows), interval.start, interval.end)
        else:
            told = self._unread(version, source)
            ranges = {place: (begin or 0, end) for place, (begin, end) in told.items()}
            events = stream_events(source, ranges, self._history)
        folded = fold_events(version, source, events, ranges, self._clock.now(), self._log.largest)
        dead = [*folded.dead, *self._misfits([source], self._clock.now())]
        self._write(version, interval, folded.records, dead, told)
        return self._noted(Ran(interval, folded.keys, len(dead), folded.skipped), look)

    def _noted(self, ran: Ran, look: Look | None) -> Ran:
        """A run that is over, with the rows of tables that came too late for the one before."""
        if look is None:
            return ran
        self._late.keep(look)
        return replace(ran, skipped={**ran.skipped, "late": look.since.late}) if look.since.late else ran

    def _unread(self, version: BatchGroupVersion, stream: Source) -> dict[str, tuple[int | None, int]]:
        """By "stream/partition", where a fold of a stream is (None: it has not begun), and where the stream ends."""
        folded = self._schedules.standing(version).positions
        ends = {f"{stream.name}/{p}": following for p, (_, following) in enumerate(self._log.ends(stream.name))}
        return {place: (folded.get(place), following) for place, following in ends.items()}

    def _write(
        self,
        version: BatchGroupVersion,
        interval: Interval,
        records: Sequence[Sequence[bytes]],
        dead: Sequence[DeadLetter],
        positions: Mapping[str, tuple[int | None, int]],
    ) -> None:
        """Append to each partition the payloads of one record, and move the schedule."""
        topic = topic_of(version)
        self._log.create(topic, len(records))
        standing = self._schedules.standing(version)
        if not interval.past:
            self._check_next(version, interval, standing, positions)
        for name in {letter.stream for letter in dead}:
            widen(self._log, dead_topic(name), 1)
        appends = [
            Append(dead_topic(name), 0, batch)
            for name in {letter.stream: None for letter in dead}
            for batch in dead_batches([one for one in dead if one.stream == name], self._log.largest)
        ]
        appends += [
            Append(topic, number, Batch(payload, "bytes", 1))
            for number, payloads in reversed(list(enumerate(records)))
            for payload in payloads
        ]
        until_there(partial(self._appended, topic, None if interval.past else standing, appends), topic)
        if not interval.past:
            self._schedules.move(version, standing, interval.end, {place: to for place, (_, to) in positions.items()})

    def _appended(self, topic: str, standing: Standing | None, appends: Sequence[Append]) -> bool:
        """Append the dead letters and a run in one transaction, unless a schedule has moved on from its standing.

        On a log that is not atomic some of it may stay without the rest. By the first partition, which comes last, a
        schedule knows its runs: until the record is there the run is not made, and it is appended again.
        """
        try:
            with self._log.transaction() as work:
                if standing is not None and (end := self._log.ends(topic)[0][1]) != standing.counted:
                    raise Fenced.moved(f"the end of topic '{topic}'", standing.counted, end)
                for append in appends:
                    work.append(*append)
        except Fenced:
            if self._log.atomic or (standing is not None and self._log.ends(topic)[0][1] != standing.counted):
                raise
            return False
        return True

    def _check_next(
        self,
        version: BatchGroupVersion,
        interval: Interval,
        standing: Standing,
        positions: Mapping[str, tuple[int | None, int]],
    ) -> None:
        """Refuse an interval that is not the next one, and a fold that was read from where it is no more."""
        ahead = interval.again and standing.end is not None and standing.end > self._clock.now()
        if not ahead and standing.end not in (None, interval.start):
            raise Fenced.moved(f"the schedule of '{version.id}'", interval.start, standing.end)
        for place, (begin, _) in positions.items():
            if standing.positions.get(place) != begin:
                raise Fenced.moved(f"the fold of '{place}' by '{version.id}'", begin, standing.positions.get(place))

    def _sources(self, group: BatchFeatureGroup) -> list[Source]:
        return [self._current.get(source.name, source) for source in group.sources]

    def _version(self, gv: str) -> BatchGroupVersion:
        if gv not in self._versions:
            raise NotFound.named("batch group version", gv, self._versions)
        return self._versions[gv]


def _together(version: BatchGroupVersion, due: list[Interval], begun: int | None) -> list[Interval]:
    """Late intervals as one, where the runs before the last would say nothing that it does not; cut where one has begun."""
    if not due or looks(version.group):
        return due
    first, last = due[0].start, due[-1].end
    if begun is not None and first < begun < last:
        return [Interval(version.id, first, begun), Interval(version.id, begun, last)]
    return due if len(due) == 1 else [Interval(version.id, first, last)]


def _before(moments: np.ndarray, start: int, inclusive: bool) -> np.ndarray:
    return moments <= start if inclusive else moments < start


def _schema(version: BatchGroupVersion, result: pa.Table) -> Mapping[str, str]:
    return version.schema or features_of(version.group, result)


def _thing(version: BatchGroupVersion) -> str:
    return f"Group version '{version.id}'"
