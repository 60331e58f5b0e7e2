"""Stored history as training reads it: pinned to group versions, log positions and offline snapshots.

What was read is noted, so a training set can name it, and can be made again from it whatever has arrived since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.buffer.topics import batch_table, capture_topic
from millstream.definitions.data_types import arrow_type
from millstream.definitions.feature_group import BatchFeatureGroup
from millstream.definitions.feature_view import GroupRead
from millstream.definitions.group_version import Group, GroupVersion
from millstream.definitions.source import EventStream, Source, Table
from millstream.definitions.windows import folded
from millstream.engines.engine import FIRST
from millstream.errors import TrainingError
from millstream.fold import Prepared
from millstream.history.selection import Wanted, union_of
from millstream.store.offline import STATED, OfflineStore, Where, batches_of
from millstream.train.point_in_time import AT, Instants


class EventHistory(Protocol):
    """What training asks of history."""

    def ends(self, stream: str) -> dict[int, int]:
        """Return, by partition of a stream, the position before which all that has come lies."""
        ...

    def read(self, stream: str | EventStream, *, upto: Mapping[int, int] | None = None) -> pa.Table:
        """Return the events of a stream below a position per partition, without repeats and dead letters.

        A stream is named to be read as it is declared now, else as its definition says.
        """
        ...

    def select(
        self, stream: str | EventStream, wanted: Sequence[Wanted], *, upto: Mapping[int, int] | None = None
    ) -> pa.Table:
        """Return those events of `read` that are wanted, without holding the others in memory.

        Args:
            stream: its name, or a definition of it; see `read`.
            wanted: what is looked for; an event that any of these means is found.
            upto: by partition, the position before which to look; see `read`.
        """
        ...


class Scheduled(Protocol):
    """What training asks about groups that fold on a schedule, which batch computing knows."""

    def events(self, table: Table) -> pa.Table:
        """Return all rows of a table as events, with `_partition`, `_position` and `_arrival`."""
        ...

    def ran(self, group: BatchFeatureGroup, arrivals: Instants) -> Instants:
        """Return the end (µs) of the run that took in what arrived at those instants."""
        ...


@dataclass
class Pins:
    """What a training set was made from, enough to make it again.

    Attributes:
        versions: by group name, the group version.
        positions: by stream, by partition, the position below which events were read.
        snapshots: by offline table, the snapshot that was read.
        delays: by group version, the time (µs) from an event's arrival to its being served that was assumed.
    """

    versions: dict[str, str] = field(default_factory=dict)
    positions: dict[str, dict[int, int]] = field(default_factory=dict)
    snapshots: dict[str, int] = field(default_factory=dict)
    delays: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the pins as JSON-able data."""
        places = {name: {str(p): end for p, end in ends.items()} for name, ends in self.positions.items()}
        snapshots, delays = dict(self.snapshots), dict(self.delays)
        return {"versions": dict(self.versions), "positions": places, "snapshots": snapshots, "delays": delays}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Pins:
        """Return the pins that `to_dict` described."""
        places = {name: {int(p): end for p, end in ends.items()} for name, ends in value["positions"].items()}
        return cls(dict(value["versions"]), places, dict(value["snapshots"]), dict(value["delays"]))


class Stored:
    """The history a project has stored, for `join` and `training_set`.

    Args:
        history: the events of streams.
        offline: the rows of batch groups.
        versions: by group name, the version to compute; the registry's defaults, or those a model pins.
        delays: by group version, the measured delay (µs) between an event's arrival and its being served.
        scheduled: needed when a group folds on a schedule.
        pins: read exactly this again, instead of what there is now.
        keep: called with an offline table and the snapshot of it that is about to be read, so that it stays readable.
        wanted: by stream, the events that are needed, see `needed`; every event unless given.
    """

    def __init__(
        self,
        history: EventHistory,
        offline: OfflineStore,
        versions: Mapping[str, GroupVersion[Group]],
        *,
        delays: Mapping[str, int] | None = None,
        scheduled: Scheduled | None = None,
        pins: Pins | None = None,
        keep: Callable[[str, int], None] | None = None,
        wanted: Mapping[EventStream, Sequence[Wanted]] | None = None,
    ) -> None:
        self._history, self._offline, self._versions = history, offline, versions
        self._delays, self._scheduled, self._pinned = dict(delays or {}), scheduled, pins or Pins()
        self._keep, self._wanted = keep, wanted
        self.read = Pins()
        self._events: dict[EventStream | str, pa.Table] = {}

    def group(self, group: Group) -> Group:
        """Return the definition of the group's version, with the types of its features.

        Raises:
            TrainingError: the group has no version, or not the pinned one.
        """
        version = self._versions.get(group.name)
        if version is None:
            raise TrainingError(
                f"Feature group '{group.name}' has no version to train on.", "run `millstream apply`, then backfill it."
            )
        pinned = self._pinned.versions.get(group.name, version.id)
        if pinned != version.id:
            raise TrainingError(
                f"Feature group '{group.name}': version '{version.id}' was given, but '{pinned}' is pinned.",
                f"give the version that '{pinned}' names, or no pins.",
            )
        self.read.versions[group.name] = version.id
        found = version.group
        return found.resolved(version.schema) if isinstance(found, BatchFeatureGroup) and version.schema else found

    def events(self, source: Source | str) -> pa.Table:
        """Return the events of a stream, by its definition or (named) as it is declared now, or the rows of a table."""
        if isinstance(source, Table):
            return self._schedule(source.name).events(source)
        if source not in self._events:
            name = source if isinstance(source, str) else source.name
            pinned = self._pinned.positions.get(name)
            upto = self.read.positions.get(name) or self._history.ends(name) if pinned is None else pinned
            if self._wanted is None or isinstance(source, str):
                self._events[source] = self._history.read(source, upto=upto)
            else:
                self._events[source] = self._history.select(source, self._wanted.get(source, ()), upto=upto)
            self.read.positions[name] = upto
        return self._events[source]

    def rows(self, group: BatchFeatureGroup, where: Where = ()) -> Iterator[pa.Table]:
        """Return the rows of the batch group's version some at a time; a piece without any when it never ran."""
        table = batch_table(self.read.versions[group.name])
        found = self.snapshot(table)
        return iter([no_rows(group)]) if found is None else stated_rows(self._offline, table, where, found)

    def snapshot(self, table: str) -> int | None:
        """Return the snapshot of an offline table to read, and note it; None when it was never written."""
        found = self._pinned.snapshots.get(table)
        if found is None and not self._pinned.versions:
            newest = self._offline.snapshot(table)
            found = None if newest is None else newest.id
            if found is not None and self._keep is not None and table not in self.read.snapshots:
                self._keep(table, found)
        if found is not None:
            self.read.snapshots[table] = found
        return found

    def captures(self, model: str, columns: Sequence[str], now: int) -> pa.Table | None:
        """Return what was captured of a model by an instant.

        Args:
            model: the model's name.
            columns: the columns wanted; those that there are come back.
            now: captures that came later (µs) are left out.

        Returns:
            pa.Table | None: None when nothing was archived yet.
        """
        table = capture_topic(model)
        found = self.snapshot(table)
        if found is None:
            return None
        nothing = self._offline.scan(table, where=[("_received_at", "<", FIRST)], snapshot=found)
        nothing = nothing.select([name for name in dict.fromkeys(columns) if name in nothing.column_names])
        batches = batches_of(self._offline, table, nothing.column_names, [("_received_at", "<=", now)], found)
        return pa.concat_tables([nothing, *(pa.Table.from_batches([batch]) for batch in batches)])

    def available(self, group: Group, events: Prepared) -> Instants:
        """Return when serving had the events: the group's delay after they arrived, or after the run that took them."""
        version = self.read.versions[group.name]
        delay = self._pinned.delays.get(version, 0) if self._pinned.versions else self._delays.get(version, 0)
        self.read.delays[version] = delay
        if isinstance(group, BatchFeatureGroup):
            return self._schedule(group.name).ran(group, events.arrivals) + delay
        return events.arrivals + delay

    def _schedule(self, thing: str) -> Scheduled:
        if self._scheduled is None:
            raise TrainingError(
                f"'{thing}' is folded on a schedule, and nothing was given that knows it.", "pass scheduled=."
            )
        return self._scheduled


class LookedBack(Stored):
    """Stored history for a look at an instant of long ago, which the online store does not tell any more.

    An event counts when it had happened by then and, where loaded history declares when it was known, was known by then.
    """

    def available(self, group: Group, events: Prepared) -> Instants:
        """Return when the events were known: as declared; those that the log took live count by their own time."""
        if isinstance(group, BatchFeatureGroup):
            return super().available(group, events)
        declared = {place for source in group.sources for place in _declared(self.events(source))}
        places = zip(events.partitions.tolist(), events.positions.tolist(), events.arrivals.tolist(), strict=True)
        return np.array([place[2] if place in declared else FIRST for place in places], np.int64)


def _declared(events: pa.Table) -> Iterator[tuple[int, int, int]]:
    """Partition, position and arrival of the events that declare their arrival."""
    mine = events.filter(pc.not_equal(events["_arrival"], events["_appended"]))
    return zip(*(mine[name].to_pylist() for name in ("_partition", "_position", "_arrival")), strict=True)


def needed(reads: Iterable[tuple[Group, Sequence[GroupRead]]], examples: pa.Table) -> dict[EventStream, list[Wanted]]:
    """Return, by stream, the events that features of some examples are folded from.

    Args:
        reads: the groups, each with the reads of it.
        examples: the entity keys of their view, and `_at` (µs).
    """
    found: dict[EventStream, list[Wanted]] = {}
    at = pc.min(examples[AT]).as_py()
    for group, mine in reads:
        keys = [union_of([examples[read.keys[place][1]] for read in mine]) for place in range(len(group.entity.keys))]
        if isinstance(group, BatchFeatureGroup) and group.query is not None:
            continue
        for source in group.sources:
            if isinstance(source, EventStream):
                found.setdefault(source, []).append(_wanted(group, source, keys, at))
    return found


def _wanted(group: Group, stream: EventStream, keys: Sequence[pa.Array], at: int | None) -> Wanted:
    """The events of some keys that a read at an instant or later can count, as far as columns of the stream say it."""
    values, mapped = {}, dict(group.keys or {})
    derived = {name.lower() for name in group.derive or {}}
    for (name, kind), known in zip(group.entity.keys.items(), keys, strict=True):
        column = mapped.get(name, name)
        if column.lower() not in derived and stream.schema.get(column) == kind:
            values[column] = known
    spans = [one.window and one.window + one.delay + 2 * (one.hop or 0) for one in folded(group.columns)]
    lasting = at is None or any(span is None for span in spans)
    return Wanted(values, None if lasting else max(FIRST, at - max(spans)))  # type: ignore[operator, type-var]


def stated_rows(
    offline: OfflineStore, table: str, where: Where = (), snapshot: int | None = None
) -> Iterator[pa.Table]:
    """Return the rows that a batch group has stated some at a time; the first piece has none, and all columns.

    Args:
        offline: where they are.
        table: the group version's table, which is there.
        where: which of them, see `Where`.
        snapshot: the snapshot to read; the newest unless given.
    """
    yield offline.scan(table, where=[("event_time", "<", FIRST)], snapshot=snapshot)
    for batch in batches_of(offline, table, None, [*STATED, *where], snapshot):
        yield pa.Table.from_batches([batch])


def no_rows(group: BatchFeatureGroup) -> pa.Table:
    """Return what a batch group that never ran has stated: the columns of its rows, and none of them."""
    kinds = {**group.entity.keys, "event_time": "int64", "available_time": "int64", **group.schema_of_features}
    return pa.schema([(name, arrow_type(kind)) for name, kind in kinds.items()]).empty_table()
