"""Moving rows through a project in one process: append, compute, ingest, archive, read back."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa

from millstream.definitions.source import EventStream
from millstream.errors import DiskFull, MillstreamError, NotFound, RequestError, StoreError
from millstream.project import apply
from millstream.project.alone import alone
from millstream.project.parts import Parts
from millstream.project.refused import looked_at, warn
from millstream.project.retire import drop_unused
from millstream.project.upkeep import tend

if TYPE_CHECKING:
    from millstream.definitions.feature_view import GroupRead
    from millstream.definitions.group_version import GroupVersion
    from millstream.project.apply import Advance
    from millstream.serve.reader import FeatureReader, Read
    from millstream.serve.request import Rows

T = TypeVar("T")
FEW = 1_000
"""Steps without an end to the buffer after which draining gives up: somebody else keeps filling it."""
THROTTLED = 0.05
"""Seconds that draining waits where a foreign source is throttled."""


def append(parts: Parts, stream: str, rows: Any, *, history: bool) -> int:
    """Append rows to a stream in one transaction.

    Args:
        parts: the project.
        stream: the name of the stream.
        rows: dicts, or a table; one dict is one row.
        history: whether they are of the past, and arrived when they say; a stream that is bound to a foreign source
            takes them too.

    Returns:
        How many were appended; of history an `Appended`, which says how many of them will be dead letters.

    Raises:
        NotFound: when there is no such stream.
        RequestError: when the stream is bound to a foreign source, unless it is history.
        LogError: when the rows cannot be read, or none of them has a column that is needed.
        DiskFull: when there is no room; nothing was appended.
    """
    from millstream.buffer.codec.events import encode, encode_history, partition_of
    from millstream.buffer.codec.frames import check_columns, taken
    from millstream.serve.catalogue import needed_columns

    definition = parts.registry.stream(stream)
    if stream in parts.settings.streams and not history:
        raise RequestError.of_bound_stream(stream)
    if stream not in parts.log.topics():
        apply.settle(parts)  # an `apply` has died before the log followed
    given = taken(f"Stream '{stream}'", rows)

    def needed() -> set[str]:
        return needed_columns(definition, parts.registry.groups())

    check_columns(f"Stream '{stream}'", given, definition.schema, needed)
    encoded = encode_history if history else encode
    placed = [
        (partition, batch)
        for partition, part in partition_of(definition, given, len(parts.log.ends(stream)))
        for batch in encoded(definition, part, parts.log.largest)
    ]
    with parts.log.transaction() as work:
        for partition, batch in placed:
            work.append(stream, partition, batch)
    if history:
        return looked_at(definition, placed, parts.clock.now())
    return sum(batch.count for _, batch in placed)


def features(parts: Parts, view: str, keys: Any, at: int | None) -> pa.Table:
    """The columns of a view for rows of keys, now or at an instant.

    Args:
        parts: the project.
        view: the name of the view.
        keys: rows of entity keys, as dicts or a table; request fields may be left out and are null then.
        at: the instant (µs); now unless given.

    Returns:
        A row of the view's columns, of their declared types, for each of `keys`.

    Raises:
        NotFound: when there is no such view.
        RequestError: when a key is absent or of another type.
        StoreError: when a state cannot be read.
    """
    from millstream.buffer.codec.frames import as_dicts
    from millstream.serve.catalogue import versions_of
    from millstream.serve.reader import FeatureReader
    from millstream.serve.request import RequestSchema
    from millstream.store.online import PAST
    from millstream.train.encoding import typed

    definition = parts.registry.view(view)
    reader = FeatureReader(
        parts.served.store, definition, versions_of(definition, parts.registry.groups(), ()), parts.clock
    )
    instant = parts.clock.now() if at is None else at
    given = as_dicts(f"View '{view}'", keys, MillstreamError)
    rows = RequestSchema(definition, lenient=True).parse(given, instant)
    read = reader.read(rows.values, rows.at)
    _refuse_unread(read)
    found = pa.table({name: typed(read.columns[name], kind) for name, kind in definition.dtypes.items()})
    newest = parts.clock.now()
    past = {
        row
        for one in definition.groups
        for row, fact in enumerate(read.facts[one.name])
        if fact.fallback in PAST
        or (fact.age is not None and rows.at[row] < newest - fact.age and _declares(reader, one))
    }
    return _looked_back(parts, reader, rows, found, sorted(past)) if past else found


def _declares(reader: FeatureReader, read: GroupRead) -> bool:
    """Whether a group counts history that declares when it was known: a state does not tell which of it was known by when."""
    sources = reader.versions[read.group.name].group.sources
    return any(isinstance(source, EventStream) and (source.delay or source.available) for source in sources)


def _looked_back(parts: Parts, reader: FeatureReader, rows: Rows, found: pa.Table, past: list[int]) -> pa.Table:
    """What was read online, with the rows that only history tells read from there."""
    from millstream.definitions.data_types import arrow_type
    from millstream.train.point_in_time import AT, join
    from millstream.train.stored_history import LookedBack, needed

    view, versions = reader.view, reader.versions
    kinds = {**view.entity_keys, **view.request}
    examples = pa.table({name: pa.array(rows.values[name], arrow_type(kind)) for name, kind in kinds.items()})
    examples = examples.append_column(AT, pa.array(rows.at)).take(past)
    wanted = needed(((versions[one.group.name].group, [one]) for one in view.groups), examples)
    stored = LookedBack(
        parts.histories.events(), parts.offline, versions, scheduled=parts.histories.scheduled(), wanted=wanted
    )
    told = join(view, examples, stored).select(found.column_names).cast(found.schema)
    places = np.arange(found.num_rows)
    places[past] = found.num_rows + np.arange(len(past))
    return pa.concat_tables([found, told]).take(places)


def _refuse_unread(read: Read) -> None:
    """Raise for what could not be read: in a table of features, null would mean that there is nothing."""
    from millstream.serve.found import CORRUPT, UNREADABLE

    for fact in (fact for facts in read.facts.values() for fact in facts):
        if fact.fallback is not None and fact.fallback.startswith((UNREADABLE, CORRUPT)):
            group = fact.version.partition("@")[0]
            raise StoreError(
                f"Group version '{fact.version}', shard {fact.shard}: {fact.fallback}.",
                f"run `millstream doctor`; `millstream backfill {group}` builds damaged states again from history.",
            )


def synced(parts: Parts, group: str, start: int | None, end: int | None) -> pa.Table:
    """What sync wrote of a group's default version, between two instants.

    Args:
        parts: the project.
        group: the name of the group.
        start: from this instant (µs) on; None: from the first.
        end: before this instant (µs); None: to the last.

    Raises:
        NotFound: when there is no such group, it is none of a stream, or it has not been synced yet.
    """
    from millstream.buffer.topics import feature_table
    from millstream.definitions.feature_group import StreamFeatureGroup

    version = parts.registry.group(group)
    if not isinstance(version.group, StreamFeatureGroup):
        raise NotFound(
            f"Group '{group}' is not synced: only the values of stream groups are.",
            field="group",
            given=group,
            expected="a StreamFeatureGroup",
            hint=f"what a query returned is in the offline table 'batch.{version.id}'.",
        )
    table = feature_table(version.id)
    if parts.offline.snapshot(table) is None:
        raise _not_synced(parts, group)
    bounds = [("at", sign, bound) for sign, bound in ((">=", start), ("<", end)) if bound is not None]
    return parts.offline.scan(table, where=bounds)


def _not_synced(parts: Parts, group: str) -> NotFound:
    from millstream.buffer.topics import feature_table

    names = dict.fromkeys(one.group.name for one in parts.registry.groups())
    known = [name for name in names if parts.offline.snapshot(feature_table(parts.registry.group(name).id))]
    return NotFound(
        f"Group '{group}' has not been synced yet, so nothing is in its history.",
        field="group",
        given=group,
        expected=f"a synced group: {', '.join(known)}" if known else "a synced group; there is none yet",
        hint="wait for the next sync, or call `project.sync()`"
        + (f"; synced are {', '.join(known)}." if known else "."),
    )


class Drainer:
    """Computes and ingests in this process, with the parts made anew when the registry has changed.

    Args:
        parts: the project.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._revision: int | None = None

    def drain(self) -> Mapping[str, int]:
        """Compute and ingest until nothing is left.

        Raises:
            MillstreamError: the first failure of a batch group or a shard, once all that can be done is done.
        """
        self._renew()
        total: Counter[str] = Counter()
        failed: dict[str, MillstreamError] = {}
        for _ in range(FEW):
            before = self._ingested() if failed else None
            done, left = self._step(failed)
            total.update(done)
            if not left and not any(done.values()) and (not failed or before == self._ingested()):
                break
        else:
            raise MillstreamError(
                "The buffer is not empty after a thousand steps: it is being filled, or the log keeps back what it has.",
                "stop what sends, or use `up`.",
            )
        if total["dead"]:
            warn(self._parts)
        for error in failed.values():
            raise error
        return dict(total)

    def _take(self, failed: dict[str, MillstreamError]) -> tuple[int, int]:
        """Take foreign sources in: how many events, and how many sources may have more; one that fails has its turn over."""
        taken = more = 0
        for place, taking in enumerate(self._takings):
            name = f"taken {place}"
            done = self._tried(failed, name, taking.step) if name not in failed else None
            if done is not None:
                taken, more = taken + done.records, more + done.more
                if done.busy and not done.records:
                    threading.Event().wait(THROTTLED)
        return taken, more

    def _step(self, failed: dict[str, MillstreamError]) -> tuple[dict[str, int], int]:
        """Let each part do what there is; of one that fails the error is kept, and the others go on.

        Returns what was done, and about how much is left: a read may give nothing though there is something.

        Batch computing that failed is not tried again: its other groups have had their turn.
        """
        taken, more = self._take(failed)
        computed = self._computer.step()
        runs = self._tried(failed, "runs", self._batch_computer.step) if "runs" not in failed else None
        ingested = self._tried(failed, "deltas", self._ingester.step)
        stored = self._tried(failed, "restated", self._batch_ingester.step)
        left = more + computed.lag + (ingested.lag - ingested.held if ingested else 0) + (stored.lag if stored else 0)
        done = {
            "events": computed.records,
            "dead": computed.dead,
            "fenced": computed.fenced + (ingested.fenced if ingested else 0) + (stored.fenced if stored else 0),
            "runs": len(runs or []),
            "deltas": ingested.records if ingested else 0,
            "restated": stored.runs + stored.written if stored else 0,
        }
        return done | ({"taken": taken} if self._takings else {}), left

    def _tried(self, failed: dict[str, MillstreamError], name: str, step: Callable[[], T]) -> T | None:
        try:
            return step()
        except DiskFull:
            raise
        except MillstreamError as error:
            failed.setdefault(name, error)
            return None

    def _ingested(self) -> list[list[int | None]]:
        """How far ingestion is, as it told the log: a step that fails has moved it where it could."""
        from millstream.buffer.topics import feature_topic, ingestion_consumer, staging_topic

        log, versions = self._parts.log, self._parts.registry.groups()
        topics = log.topics()
        return [
            log.committed(ingestion_consumer(one.id), topic)
            for one in versions
            for topic in (feature_topic(one.id), staging_topic(one.id))
            if topic in topics
        ]

    def sync(self) -> Mapping[str, int]:
        """Archive everything that has come, sync, drop what nobody reads any more, and see to the offline files."""
        self._renew()
        archived = 0
        for _ in range(FEW):
            step = self._archiver.step()
            archived += step.rows
            if not (step.rows or step.fenced or step.lag):
                break
        reports = self._syncer.step()
        dropped = drop_unused(self._parts)
        tend(self._parts)
        return {"archived": archived, "synced": sum(report.rows for report in reports), "dropped": dropped}

    def backfill(self, group: str | None, progress: Advance | None = None, *, every: bool = False) -> list[str]:
        """Backfill one group anew, or all that are not live or whose states are being built anew; returns their ids.

        Args:
            group: the group to compute anew: its default version, and others whose states are damaged. None: all of
                those.
            progress: called with how much is done and how much there is.
            every: whether all versions of the group are computed anew.

        Raises:
            NotFound: when there is no such group.
        """
        parts = self._parts
        parts.identity.revision()
        apply.start(parts)
        versions = apply.unfinished(parts) if group is None else apply.anew(parts, group, every=every)
        for version in versions:
            with alone(parts, f"backfill {version.id}", wait=True):
                apply.backfill(parts, apply.again(parts, version), progress=progress)
        with suppress(StoreError):  # a damaged shard is an error until the build beside it is read
            self.drain()
        done = [version.id for version in versions if self._finished(version)]
        self.drain()
        if done:
            warn(self._parts)
        return done

    def _finished(self, version: GroupVersion) -> bool:
        done = apply.finish(self._parts, version)
        if not done:
            with suppress(StoreError):
                self.drain()
            done = apply.finish(self._parts, version)
        return done

    def close(self) -> None:
        """Let go of what is open."""
        if self._revision is not None:
            self._computer.close()
            for taking in self._takings:
                taking.close()
            self._revision = None

    def _renew(self) -> None:
        revision = self._parts.identity.revision()
        if revision == self._revision:
            return
        self.close()
        parts = self._parts
        apply.settle(parts)
        self._computer, self._ingester = parts.layers.computer(), parts.layers.ingester()
        self._batch_computer, self._batch_ingester = parts.layers.batch_computer(), parts.layers.batch_ingester()
        self._archiver, self._syncer = parts.layers.archiver(), parts.layers.syncer()
        self._takings = parts.layers.takings()
        self._revision = revision
