"""What the online store gave for the reads of a view's groups, and what it does not tell of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from millstream.definitions.schema import is_object
from millstream.definitions.whole_numbers import as_column, objects
from millstream.errors import CorruptState
from millstream.fold import HEAD_SPAN
from millstream.fold.rows import forgotten, row_at, rows_at, split_rows
from millstream.store.online import EARLY, LET_GO, ShardMeta, forgotten_by, pruned_by

if TYPE_CHECKING:
    from millstream.definitions.feature_view import ViewColumn
    from millstream.definitions.group_version import GroupVersion

UNREADABLE, CORRUPT = "the store cannot be read", "the state of the key is corrupt"
"""How the reasons begin for which a value is not read that the store has."""
NO_POSITIONS = msgspec.Raw(b"{}")
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


@dataclass(frozen=True)
class Lookup:
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


@dataclass(slots=True)
class Found:
    """What the store gave for one lookup: a state, facts and a meta for each row, and the rows that it did not give."""

    lookup: Lookup
    states: list[bytes | None]
    facts: list[GroupFacts]
    metas: list[ShardMeta | None]
    failed: list[int]

    @classmethod
    def nothing(cls, lookup: Lookup, count: int) -> Found:
        """What there is for null keys."""
        return cls(lookup, [None] * count, [lookup.null] * count, [None] * count, [])

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

    def give_up(self, rows: Sequence[int], reason: str) -> None:
        """Say of some rows that the store does not tell their values, and why."""
        failed = set(self.failed)
        for i in rows:
            if i not in failed:
                self.facts[i] = GroupFacts(self.lookup.gv, self.facts[i].shard, NO_POSITIONS, fallback=reason)
                self.failed.append(i)

    def leave_out(self, sound: Callable[[bytes], bool]) -> None:
        """Take out states that cannot be read, so that they cost their own key only."""
        for i, state in enumerate(self.states):
            if state and not sound(state):
                gv = self.lookup.gv
                _logger.error("Group version '%s': the state of a key cannot be read; backfill the group.", gv)
                self.states[i] = None
                self.facts[i] = GroupFacts(gv, self.facts[i].shard, NO_POSITIONS, fallback=CORRUPT)
                self.failed.append(i)

    def refuse_forgotten(self, at: NDArray[np.int64]) -> None:
        """Give up the folds asked for at instants of so long ago that the store may have forgotten keys that had values."""
        last, by = None, None
        for i, meta in enumerate(self.metas):
            if meta is not last:  # most rows are of one shard
                last, by = meta, forgotten_by(meta)
            if by is not None and at[i] < by - HEAD_SPAN:
                self.give_up([i], EARLY)

    def dated(self, at: NDArray[np.int64]) -> Mapping[str, NDArray[Any]]:
        """The features of a batch group at instants (µs), of the rows that its queries gave."""
        try:
            return self._rows(at)
        except CorruptState:
            self.leave_out(_rows_readable)
            return self._rows(at)

    def _rows(self, at: NDArray[np.int64]) -> Mapping[str, NDArray[Any]]:
        schema, ttl = self.lookup.schema, getattr(self.lookup.version.group, "ttl", None)
        self._let_go(at, ttl)
        if ttl is None:
            return rows_at(schema, self.states, at)
        confirmed = [confirmed_at(meta, instant) for meta, instant in zip(self.metas, at.tolist(), strict=True)]
        if len(set(confirmed)) <= 1:
            return rows_at(schema, self.states, at, ttl, confirmed[0])
        # Shards may have been confirmed at different times.
        rows = zip(self.states, at.tolist(), confirmed, strict=True)
        values = [row_at(schema, state, instant, ttl, when) for state, instant, when in rows]
        return {name: column_of([value[name] for value in values], kind) for name, kind in schema.items()}

    def _let_go(self, at: NDArray[np.int64], ttl: int | None) -> None:
        """Take out the states of rows asked for at instants of so long ago that they may not hold the answer any more."""
        asked = zip(self.states, self.metas, at.tolist(), strict=True)
        for i, (state, meta, instant) in enumerate(asked):
            if meta and forgotten(state, instant, pruned_by(meta), ttl, confirmed_at(meta, instant)):
                self.states[i] = None
                self.give_up([i], LET_GO)


def column_of(values: Sequence[Any], kind: str) -> NDArray[Any]:
    """Return values of a schema type as a view takes them: numbers as float64 with NaN, else as objects with None.

    A column with a whole number that float64 has not keeps its numbers as objects too; see
    `millstream.definitions.whole_numbers`.
    """
    return objects(values) if is_object(kind) else as_column(values, kind)


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
