"""Reading a view's features for keys at instants: the states of its groups, valued now, with what they have applied.

A group that cannot be read does not fail the request: its features are null, defaults hold, and the facts say why.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from millstream.errors import StoreError
from millstream.fold import Probes, RequestRows, encode_key, layout_of, probes_of_few, shard_of
from millstream.fold.views import Vector, readable
from millstream.serve.found import NO_POSITIONS, UNREADABLE, Found, GroupFacts, Lookup, column_of
from millstream.store.online import EARLY, Answer, Ask, OnlineStore, ShardMeta, reads_locally

if TYPE_CHECKING:
    from millstream.clock import Clock
    from millstream.definitions.feature_group import StreamFeatureGroup
    from millstream.definitions.feature_view import FeatureView
    from millstream.definitions.group_version import GroupVersion

Columns = dict[str, NDArray[Any]]
_Keys = Sequence[bytes | None]
_Shards = Mapping[int, tuple[list[int], list[bytes]]]
_logger = logging.getLogger("millstream.serve")


@dataclass(frozen=True, slots=True)
class Read:
    """Feature values, with what they come from.

    Attributes:
        columns: every column of the view, defaults and on-demand features included.
        facts: for each read of a group, by name (with its prefix, if it has one), the facts of each row.
    """

    columns: Columns
    facts: dict[str, list[GroupFacts]]


@dataclass(frozen=True)
class _Key:
    """Request keys that together are the key of a group."""

    types: Mapping[str, str]
    fields: tuple[str, ...]
    shards: int


class FeatureReader:
    """Reads the features of one view from the online store, each group in the version given for it.

    `versions` maps group names to group versions: a model's pins, or the defaults. All that the rows need of the store is
    asked in one call, and all folded groups are valued in one call. `absent` names the view's columns that these versions
    do not have yet, because the view has moved on; they read as null. `local` says whether a read takes microseconds, so
    that it need not be made in another thread. Safe for any number of threads.
    """

    def __init__(
        self, online: OnlineStore, view: FeatureView, versions: Mapping[str, GroupVersion], clock: Clock
    ) -> None:
        self._online, self._clock = online, clock
        self.local = reads_locally(online)
        self.versions = dict(versions)
        self.view = view.resolved({name: version.schema for name, version in versions.items() if version.schema})
        self.view.compile()  # so that no request waits for it
        self._keys: list[_Key] = []
        lookups = _lookups(self.view, versions, self._keys)
        self._folded = [lookup for lookup in lookups if lookup.folded]
        self._dated = [lookup for lookup in lookups if not lookup.folded]
        self._lookups = (*self._folded, *self._dated)
        self._layouts = [layout_of(lookup.version.group) for lookup in self._folded]
        self._vector = Vector(self._layouts)
        self._requests = _request_rows(self._folded)
        self._probing = any(lookup.probes for lookup in self._folded)
        self.absent = _absent(self.view, lookups)
        self._request = tuple(self.view.request.items())
        self._positions: dict[tuple[str, int], tuple[ShardMeta, msgspec.Raw]] = {}

    @property
    def group_versions(self) -> tuple[str, ...]:
        """The group versions that are read."""
        return tuple(dict.fromkeys(lookup.gv for lookup in self._lookups))

    def read(self, values: Mapping[str, Sequence[Any]], at: NDArray[np.int64]) -> Read:
        """Return the view's columns for rows of keys and request fields (columns of equal length) at instants (µs).

        A null key reads as empty history. An absent shard, or a store that cannot be read, gives nulls and a fallback.
        """
        now = self._clock.now()
        keys = [_encoded(key, values) for key in self._keys]
        raw: Columns = {name: column_of(values[name], kind) for name, kind in self._request}
        facts: dict[str, list[GroupFacts]] = {}
        found = self._fetch(keys, [_by_shard(some, key) for some, key in zip(keys, self._keys, strict=True)], now)
        folded = found[: len(self._folded)]
        for one in folded:
            one.leave_out(readable)
        added = None if self._requests is None else self._requests.added(values, at)
        valued, early = self._vector.read([one.states for one in folded], at, self._probes(values, len(at)), added)
        for group, (lookup, one, columns) in enumerate(zip(self._folded, folded, valued, strict=True)):
            if early is not None:
                one.give_up(np.flatnonzero(early[group]).tolist(), EARLY)
            one.refuse_forgotten(at)
            _take(lookup, one, columns, raw, facts)
        for lookup, one in zip(self._dated, found[len(folded) :], strict=True):
            _take(lookup, one, one.dated(at), raw, facts)
        return Read(self.view.assemble(raw, at), facts)

    def _probes(self, values: Mapping[str, Sequence[Any]], rows: int) -> Sequence[Probes | None] | None:
        """The request fields that each folded group reads; None where none reads any."""
        if not self._probing:
            return None
        pairs = zip(self._folded, self._layouts, strict=True)
        return [probes_of_few(layout, {name: values[name] for name in lookup.probes}, rows) for lookup, layout in pairs]

    def _fetch(self, keys: Sequence[_Keys], shards: Sequence[_Shards], now: int) -> list[Found]:
        """What the store gives for every lookup, by one call."""
        asks = [
            Ask(lookup.states, shard, asked)
            for lookup in self._lookups
            for shard, (_, asked) in shards[lookup.key].items()
        ]
        answers = iter(self._answers(asks) if asks else ())
        every: list[Found] = []
        for lookup in self._lookups:
            count = len(keys[lookup.key])
            found = None
            for shard, (rows, _) in shards[lookup.key].items():
                answer = next(answers)
                fact = self._facts(lookup, shard, answer, now)
                values, meta = answer.values, answer.meta
                failed: list[int] = []
                if fact.fallback:
                    values, meta, failed = [None] * len(rows), None, list(rows)
                if len(rows) == count:  # all of them are in one shard
                    found = Found(lookup, values, [fact] * count, [meta] * count, failed)
                else:
                    found = found or Found.nothing(lookup, count)
                    found.put(rows, values, fact, meta, failed)
                if answer.positions and not failed:
                    self._look_ahead(found, lookup, shard, rows, answer, now)
            every.append(found or Found.nothing(lookup, count))
        return every

    def _look_ahead(self, found: Found, lookup: Lookup, shard: int, rows: list[int], answer: Answer, now: int) -> None:
        """Say of values that hold more than their shard does, while it is being written, what they hold."""
        for i, meta in zip(rows, answer.metas(), strict=True):
            if meta is None:
                found.states[i] = None
                found.give_up([i], f"{UNREADABLE}: the value is ahead of all that its shard has announced")
            elif meta is not answer.meta:
                found.facts[i], found.metas[i] = self._held(lookup, shard, meta, now), meta

    def _answers(self, asks: Sequence[Ask]) -> list[Answer]:
        try:
            return self._online.read(asks)
        except (StoreError, OSError) as error:
            failure = error if isinstance(error, StoreError) else StoreError(str(error))
            return [Answer([None] * len(ask.keys), failure=failure) for ask in asks]

    def _facts(self, lookup: Lookup, shard: int, answer: Answer, now: int) -> GroupFacts:
        """What the values that a shard gave were read from, or why there are none."""
        gv, meta = lookup.gv, answer.meta
        if answer.failure is not None:
            _logger.warning("Group version '%s', shard %d cannot be read: %s", gv, shard, answer.failure)
            return GroupFacts(gv, shard, NO_POSITIONS, fallback=f"{UNREADABLE}: {type(answer.failure).__name__}")
        if meta is None:
            return GroupFacts(gv, shard, NO_POSITIONS, fallback="nothing is ingested yet")
        if meta.position < 0:  # what is there so far is a part of history
            return GroupFacts(gv, shard, NO_POSITIONS, fallback="its history is being computed")
        return self._held(lookup, shard, meta, now)

    def _held(self, lookup: Lookup, shard: int, meta: ShardMeta, now: int) -> GroupFacts:
        """What values hold by a meta, which most reads see again."""
        gv = lookup.gv
        known = self._positions.get((gv, shard))
        if known is None or known[0] is not meta:
            known = self._positions[gv, shard] = (meta, msgspec.Raw(msgspec.json.encode(meta.applied)))
        age = now - meta.newest_arrival if meta.newest_arrival else None
        return GroupFacts(gv, shard, known[1], age, max(0, now - meta.applied_at))


def _lookups(view: FeatureView, versions: Mapping[str, GroupVersion], keys: list[_Key]) -> list[Lookup]:
    """The view's reads of groups; their distinct keys are added to `keys`."""
    lookups: list[Lookup] = []
    for read in view.groups:
        version = versions[read.group.name]
        key = _Key(dict(version.group.entity.keys), tuple(request for _, request in read.keys), version.shards)
        if key not in keys:
            keys.append(key)
        folded = bool(getattr(version.group, "columns", ()))
        schema = dict(version.schema)
        columns = tuple(column for column in read.columns if column.is_in(schema))
        absent = tuple(column for column in read.columns if not column.is_in(schema))
        lookups.append(
            Lookup(
                read.name,
                version,
                version.id,
                version.states,
                GroupFacts(version.id, None, NO_POSITIONS),
                keys.index(key),
                columns,
                absent,
                folded,
                schema,
                read.probes,
                read.fields,
            )
        )
    return lookups


def _request_rows(folded: Sequence[Lookup]) -> RequestRows | None:
    """What makes the request one more event of each group, or None where it is one of none."""
    reads = [
        None if lookup.fields is None else (cast("StreamFeatureGroup", lookup.version.group), lookup.fields)
        for lookup in folded
    ]
    return RequestRows(reads) if any(reads) else None


def _absent(view: FeatureView, lookups: Sequence[Lookup]) -> tuple[str, ...]:
    """Columns whose features the versions do not have, and on-demand features that need them."""
    absent = {column.column: None for lookup in lookups for column in lookup.absent}
    rounds = [entry for entry in view.entries if entry.on_demand] if absent else []
    for _ in rounds:
        for entry in rounds:
            if entry.on_demand and any(argument in absent for argument in entry.on_demand.arguments):
                absent[entry.column] = None
    return tuple(absent)


def _encoded(key: _Key, values: Mapping[str, Sequence[Any]]) -> list[bytes | None]:
    if len(key.fields) == 1:
        return [None if value is None else encode_key(key.types, (value,)) for value in values[key.fields[0]]]
    rows = zip(*[values[field] for field in key.fields], strict=True)
    return [None if None in row else encode_key(key.types, row) for row in rows]


def _by_shard(keys: _Keys, key: _Key) -> _Shards:
    """By shard, which of the keys are there, and the keys; null keys are nowhere."""
    found: dict[int, tuple[list[int], list[bytes]]] = {}
    for i, one in enumerate(keys):
        if one is not None:
            shard = shard_of(one, key.shards)
            if shard not in found:
                found[shard] = ([], [])
            rows, asked = found[shard]
            rows.append(i)
            asked.append(one)
    return found


def _take(
    lookup: Lookup,
    found: Found,
    columns: Mapping[str, NDArray[Any]],
    raw: Columns,
    facts: dict[str, list[GroupFacts]],
) -> None:
    """Add a lookup's features and facts, with null where the store gave nothing to value."""
    facts[lookup.name] = found.facts
    for one in lookup.columns:
        raw[one.column] = column = one.of(columns[one.feature])
        if found.failed:
            raw[one.column] = column = column.copy()
            column[found.failed] = None if column.dtype == object else np.nan
    for absent in lookup.absent:
        raw[absent.column] = absent.nulls(len(found.facts))
