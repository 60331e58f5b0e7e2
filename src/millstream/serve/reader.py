"""Reading a view's features for keys at instants: the states of its groups, valued now, with what they have applied.

A group that cannot be read does not fail the request: its features are null, defaults hold, and the facts say why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from millstream.definitions.schema import is_object
from millstream.definitions.whole_numbers import as_column, objects
from millstream.errors import CorruptState, StoreError
from millstream.fold import HEAD_SPAN, Probes, RequestRows, encode_key, layout_of, probes_of_few, shard_of
from millstream.fold.rows import forgotten, row_at, rows_at, split_rows
from millstream.fold.views import Vector, readable
from millstream.store.online import (
    EARLY,
    LET_GO,
    Answer,
    Ask,
    OnlineStore,
    ShardMeta,
    forgotten_by,
    pruned_by,
    reads_locally,
)

if TYPE_CHECKING:
    from millstream.clock import Clock
    from millstream.definitions.feature_group import StreamFeatureGroup
    from millstream.definitions.feature_view import FeatureView, ViewColumn
    from millstream.definitions.group_version import GroupVersion

Columns = dict[str, NDArray[Any]]
UNREADABLE, CORRUPT = "the store cannot be read", "the state of the key is corrupt"
"""How the reasons begin for which a value is not read that the store has."""
_Keys = Sequence[bytes | None]
_Shards = Mapping[int, tuple[list[int], list[bytes]]]
_logger = logging.getLogger("millstream.serve")


class GroupFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one group's values of one row were read from.

    `version` is the group version, `shard` the shard that holds the key (None for a null key), `positions` the
    source positions applied when it was read, as JSON by "stream/partition". `age` is the time (µs) since the newest
    arrival applied and `applied` that since the last write, both None when nothing is applied. `fallback` says why the
    values are nulls and defaults rather than read.
    """

    version: str
    shard: int | None
    positions: msgspec.Raw
    age: int | None = None
    applied: int | None = None
    fallback: str | None = None


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
class _Lookup:
    """One read of a group.

    `key` is the place of its keys among the reader's, `columns` are those of the view that are taken from it, `absent`
    those whose features its version does not have, `probes` the request fields that it reads, `fields`, where the
    request counts as one more event, those of its columns. `null` are the facts of a null key.
    """

    name: str
    version: GroupVersion
    gv: str
    states: str
    null: GroupFacts
    key: int
    columns: tuple[ViewColumn, ...]
    absent: tuple[ViewColumn, ...]
    folded: bool
    schema: Mapping[str, str]
    probes: tuple[str, ...]
    fields: Mapping[str, str] | None


@dataclass(frozen=True)
class _Key:
    """Request keys that together are the key of a group."""

    types: Mapping[str, str]
    fields: tuple[str, ...]
    shards: int


@dataclass(slots=True)
class _Found:
    """What the store gave for one lookup: a state, facts and a meta for each row, and the rows that it did not give."""

    states: list[bytes | None]
    facts: list[GroupFacts]
    metas: list[ShardMeta | None]
    failed: list[int]

    @classmethod
    def nothing(cls, lookup: _Lookup, count: int) -> _Found:
        """What there is for null keys."""
        return cls([None] * count, [lookup.null] * count, [None] * count, [])

    def put(
        self,
        rows: Sequence[int],
        values: Sequence[bytes | None],
        fact: GroupFacts,
        meta: ShardMeta | None,
        failed: Sequence[int],
    ) -> None:
        """Add what one shard gave for some rows."""
        for i, value in zip(rows, values, strict=True):
            self.states[i], self.facts[i], self.metas[i] = value, fact, meta
        self.failed += failed


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
        for lookup, one in zip(self._folded, folded, strict=True):
            _leave_out(lookup, one, readable)
        added = None if self._requests is None else self._requests.added(values, at)
        valued, early = self._vector.read([one.states for one in folded], at, self._probes(values, len(at)), added)
        for group, (lookup, one, columns) in enumerate(zip(self._folded, folded, valued, strict=True)):
            if early is not None:
                _give_up(lookup, one, np.flatnonzero(early[group]).tolist(), EARLY)
            _forgotten(lookup, one, at)
            _take(lookup, one, columns, raw, facts)
        for lookup, one in zip(self._dated, found[len(folded) :], strict=True):
            _take(lookup, one, _dated(lookup, one, at), raw, facts)
        return Read(self.view.assemble(raw, at), facts)

    def _probes(self, values: Mapping[str, Sequence[Any]], rows: int) -> Sequence[Probes | None] | None:
        """The request fields that each folded group reads; None where none reads any."""
        if not self._probing:
            return None
        pairs = zip(self._folded, self._layouts, strict=True)
        return [probes_of_few(layout, {name: values[name] for name in lookup.probes}, rows) for lookup, layout in pairs]

    def _fetch(self, keys: Sequence[_Keys], shards: Sequence[_Shards], now: int) -> list[_Found]:
        """What the store gives for every lookup, by one call."""
        asks = [
            Ask(lookup.states, shard, asked)
            for lookup in self._lookups
            for shard, (_, asked) in shards[lookup.key].items()
        ]
        answers = iter(self._answers(asks) if asks else ())
        every: list[_Found] = []
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
                    found = _Found(values, [fact] * count, [meta] * count, failed)
                else:
                    found = found or _Found.nothing(lookup, count)
                    found.put(rows, values, fact, meta, failed)
                if answer.positions and not failed:
                    self._look_ahead(found, lookup, shard, rows, answer, now)
            every.append(found or _Found.nothing(lookup, count))
        return every

    def _look_ahead(
        self, found: _Found, lookup: _Lookup, shard: int, rows: list[int], answer: Answer, now: int
    ) -> None:
        """Say of values that hold more than their shard does, while it is being written, what they hold."""
        for i, meta in zip(rows, answer.metas(), strict=True):
            if meta is None:
                found.states[i] = None
                _give_up(lookup, found, [i], f"{UNREADABLE}: the value is ahead of all that its shard has announced")
            elif meta is not answer.meta:
                found.facts[i], found.metas[i] = self._held(lookup, shard, meta, now), meta

    def _answers(self, asks: Sequence[Ask]) -> list[Answer]:
        try:
            return self._online.read(asks)
        except (StoreError, OSError) as error:
            failure = error if isinstance(error, StoreError) else StoreError(str(error))
            return [Answer([None] * len(ask.keys), failure=failure) for ask in asks]

    def _facts(self, lookup: _Lookup, shard: int, answer: Answer, now: int) -> GroupFacts:
        """What the values that a shard gave were read from, or why there are none."""
        gv, meta = lookup.gv, answer.meta
        if answer.failure is not None:
            _logger.warning("Group version '%s', shard %d cannot be read: %s", gv, shard, answer.failure)
            return GroupFacts(gv, shard, _NOTHING, fallback=f"{UNREADABLE}: {type(answer.failure).__name__}")
        if meta is None:
            return GroupFacts(gv, shard, _NOTHING, fallback="nothing is ingested yet")
        if meta.position < 0:  # what is there so far is a part of history
            return GroupFacts(gv, shard, _NOTHING, fallback="its history is being computed")
        return self._held(lookup, shard, meta, now)

    def _held(self, lookup: _Lookup, shard: int, meta: ShardMeta, now: int) -> GroupFacts:
        """What values hold by a meta, which most reads see again."""
        gv = lookup.gv
        known = self._positions.get((gv, shard))
        if known is None or known[0] is not meta:
            known = self._positions[gv, shard] = (meta, msgspec.Raw(msgspec.json.encode(meta.applied)))
        age = now - meta.newest_arrival if meta.newest_arrival else None
        return GroupFacts(gv, shard, known[1], age, max(0, now - meta.applied_at))


_NOTHING = msgspec.Raw(b"{}")


def column_of(values: Sequence[Any], kind: str) -> NDArray[Any]:
    """Return values of a schema type as a view takes them: numbers as float64 with NaN, else as objects with None.

    A column with a whole number that float64 has not keeps its numbers as objects too; see
    `millstream.definitions.whole_numbers`.
    """
    return objects(values) if is_object(kind) else as_column(values, kind)


def _lookups(view: FeatureView, versions: Mapping[str, GroupVersion], keys: list[_Key]) -> list[_Lookup]:
    """The view's reads of groups; their distinct keys are added to `keys`."""
    lookups: list[_Lookup] = []
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
            _Lookup(
                read.name,
                version,
                version.id,
                version.states,
                GroupFacts(version.id, None, _NOTHING),
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


def _request_rows(folded: Sequence[_Lookup]) -> RequestRows | None:
    """What makes the request one more event of each group, or None where it is one of none."""
    reads = [
        None if lookup.fields is None else (cast("StreamFeatureGroup", lookup.version.group), lookup.fields)
        for lookup in folded
    ]
    return RequestRows(reads) if any(reads) else None


def _absent(view: FeatureView, lookups: Sequence[_Lookup]) -> tuple[str, ...]:
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
    lookup: _Lookup,
    found: _Found,
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


def _leave_out(lookup: _Lookup, found: _Found, sound: Callable[[bytes], bool]) -> None:
    """Take out states that cannot be read, so that they cost their own key only."""
    for i, state in enumerate(found.states):
        if state and not sound(state):
            _logger.error("Group version '%s': the state of a key cannot be read; backfill the group.", lookup.gv)
            fact = GroupFacts(lookup.gv, found.facts[i].shard, _NOTHING, fallback=CORRUPT)
            found.states[i], found.facts[i] = None, fact
            found.failed.append(i)


def _dated(lookup: _Lookup, found: _Found, at: NDArray[np.int64]) -> Mapping[str, NDArray[Any]]:
    try:
        return _rows(lookup, found, at)
    except CorruptState:
        _leave_out(lookup, found, _rows_readable)
        return _rows(lookup, found, at)


def _rows(lookup: _Lookup, found: _Found, at: NDArray[np.int64]) -> Mapping[str, NDArray[Any]]:
    schema, ttl = lookup.schema, getattr(lookup.version.group, "ttl", None)
    _let_go(lookup, found, at, ttl)
    if ttl is None:
        return rows_at(schema, found.states, at)
    confirmed = [confirmed_at(meta, instant) for meta, instant in zip(found.metas, at.tolist(), strict=True)]
    if len(set(confirmed)) <= 1:
        return rows_at(schema, found.states, at, ttl, confirmed[0])
    # Shards may have been confirmed at different times.
    rows = zip(found.states, at.tolist(), confirmed, strict=True)
    values = [row_at(schema, state, instant, ttl, when) for state, instant, when in rows]
    return {name: column_of([value[name] for value in values], kind) for name, kind in schema.items()}


def _let_go(lookup: _Lookup, found: _Found, at: NDArray[np.int64], ttl: int | None) -> None:
    """Take out the states of rows asked for at instants of so long ago that they may not hold the answer any more."""
    asked = zip(found.states, found.metas, at.tolist(), strict=True)
    for i, (state, meta, instant) in enumerate(asked):
        if meta and forgotten(state, instant, pruned_by(meta), ttl, confirmed_at(meta, instant)):
            found.states[i] = None
            _give_up(lookup, found, [i], LET_GO)


def _forgotten(lookup: _Lookup, found: _Found, at: NDArray[np.int64]) -> None:
    """Take out the folds asked for at instants of so long ago that the store may have forgotten keys that had values."""
    for i, meta in enumerate(found.metas):
        by = forgotten_by(meta)
        if by is not None and at[i] < by - HEAD_SPAN:
            _give_up(lookup, found, [i], EARLY)


def _give_up(lookup: _Lookup, found: _Found, rows: Sequence[int], reason: str) -> None:
    """Say of some rows that the store does not tell their values, and why."""
    failed = set(found.failed)
    for i in rows:
        if i not in failed:
            found.facts[i] = GroupFacts(lookup.gv, found.facts[i].shard, _NOTHING, fallback=reason)
            found.failed.append(i)


def confirmed_at(meta: ShardMeta | None, at: int) -> int | None:
    """When the newest run that was in by `at` had confirmed what it returned; the newest of all where none was."""
    if meta is None or "confirmed" not in meta.extra:
        return None
    newest, before = int(meta.extra["confirmed"]), int(meta.extra.get("before", 0))
    return before if before <= at < newest and before else newest


def _rows_readable(state: bytes) -> bool:
    try:
        split_rows(state)
    except CorruptState:
        return False
    return True
