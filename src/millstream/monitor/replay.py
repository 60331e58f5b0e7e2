"""Recomputing what was served, from history, with exactly the events that the serving store had applied.

A capture says for each group which version, shard and source positions its values were read from. The events below
those positions are folded again through the states that serving held, so the result must be the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.definitions.feature_group import BatchFeatureGroup
from millstream.fold import Prepared, as_of, encode_keys, exact, layout_of, prepare, shard_of
from millstream.fold.rows import instants, rows_as_of, with_keys
from millstream.train.point_in_time import union

if TYPE_CHECKING:
    from millstream.definitions import FeatureView
    from millstream.definitions.feature_view import GroupRead
    from millstream.definitions.source import Source
    from millstream.store.registry import GroupVersion

Columns = dict[str, np.ndarray]
_NEVER = np.iinfo(np.int64).max


class Applied(msgspec.Struct, frozen=True):
    """What a capture says of one group's values: their version, shard, and the source positions applied."""

    version: str
    shard: int | None
    positions: msgspec.Raw
    fallback: str | None = None


_FACTS = msgspec.json.Decoder(dict[str, Applied])


@dataclass(frozen=True)
class Pasts:
    """Where a replay reads: the events of a source, every row a batch group version stated, and group versions by id."""

    events: Callable[[Source], pa.Table]
    rows: Callable[[str], pa.Table]
    versions: Mapping[str, GroupVersion]


@dataclass(frozen=True)
class Reading:
    """The captured rows whose values of one group were read from one version of it.

    `rows` are places in the captures; `ordinals` rank, within each shard, the positions applied when they were read.
    """

    read: GroupRead
    name: str
    version: GroupVersion
    rows: np.ndarray
    shards: np.ndarray
    ordinals: np.ndarray
    positions: Mapping[int, list[dict[str, int]]]


class Replay:
    """Captures of one view, ready to be recomputed.

    Args:
        view: the view that was served.
        captures: rows as the capture topic holds them.
        past: history and definitions to recompute from.
    """

    def __init__(self, view: FeatureView, captures: pa.Table, past: Pasts) -> None:
        self.view, self.captures, self.past = view, captures, past
        self.at = np.asarray(captures["_at"]).astype(np.int64)
        self._events: dict[str, Prepared] = {}
        self._sources: dict[str, np.ndarray] = {}
        self._tables: dict[str, pa.Table] = {}

    @cached_property
    def facts(self) -> list[dict[str, Applied]]:
        """What each capture says of its groups, by the name of the read."""
        return [_FACTS.decode(text) for text in self.captures["_groups"].to_pylist()]

    @cached_property
    def whole(self) -> np.ndarray:
        """Which captures had every group read from the store, so that they can be recomputed."""
        return np.array([all(f.fallback is None for f in facts.values()) for facts in self.facts], bool)

    def readings(self) -> Iterator[Reading]:
        """Every (group read, version) among the captures."""
        for read in self.view.groups:
            name = read.name
            facts = [row.get(name) for row in self.facts]
            for gv in sorted({fact.version for fact in facts if fact is not None}):
                if gv in self.past.versions:
                    rows = np.array([i for i, f in enumerate(facts) if f is not None and f.version == gv], np.int64)
                    yield self._reading(read, name, gv, rows, [facts[i] for i in rows])

    def _reading(self, read: GroupRead, name: str, gv: str, rows: np.ndarray, facts: list[Any]) -> Reading:
        shards = np.array([-1 if fact.shard is None else fact.shard for fact in facts], np.int64)
        raw = [bytes(fact.positions) for fact in facts]
        ordinals, positions = np.zeros(len(rows), np.int64), {}
        for shard in sorted(set(shards.tolist()) - {-1}):
            mine = np.flatnonzero(shards == shard)
            known = {text: msgspec.json.decode(text, type=dict[str, int]) for text in {raw[i] for i in mine}}
            ranked = sorted(known, key=lambda text: sum(known[text].values()))
            rank = {text: i for i, text in enumerate(ranked)}
            ordinals[mine] = [rank[raw[i]] for i in mine]
            positions[shard] = [known[text] for text in ranked]
        return Reading(read, name, self.past.versions[gv], rows, shards, ordinals, positions)

    def recompute(self) -> Columns:
        """The view's columns for every capture, as serving must have seen them."""
        found: Columns = {}
        for reading in self.readings():
            for feature, values in self.values(reading).items():
                for column in reading.read.columns:
                    if column.feature == feature:
                        _place(found, column.column, values, reading.rows, len(self.at))
        for column in (c for read in self.view.groups for c in read.columns):
            if column.column not in found:
                _place(found, column.column, np.empty(0, _dtype(column.dtype)), np.empty(0, np.int64), len(self.at))
        found |= {name: self.served(name) for name in self.view.request}
        return self.view.assemble(found, len(self.at), self.at)

    def values(self, reading: Reading, *, by_rule: bool = False, only: np.ndarray | None = None) -> Columns:
        """The group's features for a reading's rows (or those numbered `only`), through states, or by the plain rule."""
        pick = np.arange(len(reading.rows)) if only is None else only
        rows = reading.rows[pick]
        group = reading.version.group
        keys = encode_keys(group.entity.keys, [self._key(name, rows) for _, name in reading.read.keys])
        if isinstance(group, BatchFeatureGroup) and group.query is not None:
            return self._stated(reading, pick, keys)
        events = self.events(reading.version)
        available = self.available(reading)
        run = exact if by_rule else as_of
        options = {} if by_rule else {"sweep": True}
        return run(
            layout_of(group), events, available, keys, reading.ordinals[pick], self.at[rows], **options
        ).columns  # fmt: skip

    def served(self, name: str) -> np.ndarray:
        """A captured column; all null where the view had none by that name yet."""
        if name in self.captures.column_names:
            return column_values(self.captures[name])
        rows, text = len(self.at), self.view.dtypes[name] == "string"
        return np.full(rows, None, object) if text else np.full(rows, np.nan)

    def _stated(self, reading: Reading, pick: np.ndarray, keys: pa.Array) -> Columns:
        """A query's features, from the runs that were applied when each row was read.

        Mostly these are all that had become available; where some were still in the buffer, the rest is read apart.
        """
        version, at = reading.version, self.at[reading.rows[pick]]
        group = cast(BatchFeatureGroup, version.group)
        stated = self.past.rows(version.id)
        table = with_keys(version.group.entity.keys, stated)
        found = rows_as_of(version.schema, table, keys, at, group.ttl)
        applied = self._runs_applied(reading)[pick]
        late = applied < _runs_available(stated, at)
        for following in np.unique(applied[late]).tolist():
            mine = np.flatnonzero(late & (applied == following))
            known = table.filter(pc.less(table["_run"], following))
            part = rows_as_of(version.schema, known, keys.take(pa.array(mine)), at[mine], group.ttl)
            for name, values in part.items():
                found[name][mine] = values
        return found

    def _runs_applied(self, reading: Reading) -> np.ndarray:
        """For each row of a reading, the position of the first run that was not applied."""
        result = np.zeros(len(reading.rows), np.int64)
        for shard, ranked in reading.positions.items():
            ends = np.array([max(vector.values(), default=0) for vector in ranked], np.int64)
            mine = reading.shards == shard
            result[mine] = ends[reading.ordinals[mine]]
        return result

    def _key(self, name: str, rows: np.ndarray) -> pa.Array:
        return self.captures[name].combine_chunks().take(pa.array(rows))

    def table(self, source: Source) -> pa.Table:
        """The events of a source, read once."""
        if source.name not in self._tables:
            self._tables[source.name] = self.past.events(source)
        return self._tables[source.name]

    def events(self, version: GroupVersion) -> Prepared:
        """The prepared events of a group version, read once."""
        if version.id not in self._events:
            pieces = [prepare([version.group], source, self.table(source))[0] for source in version.group.sources]
            origins = [np.full(len(piece.times), i) for i, piece in enumerate(pieces)]
            self._events[version.id] = union(pieces)
            self._sources[version.id] = np.concatenate(origins)
        return self._events[version.id]

    def available(self, reading: Reading) -> np.ndarray:
        """Per event, the first rank of positions, in the shard of its key, that includes it."""
        version, events = reading.version, self.events(reading.version)
        shards = np.array([shard_of(key, version.shards) for key in events.keys], np.int64)[events.codes]
        result = np.full(len(events.times), _NEVER)
        for number, source in enumerate(version.group.sources):
            mine = self._sources[version.id] == number
            for partition in np.unique(events.partitions[mine]).tolist():
                here = mine & (events.partitions == partition)
                for shard, ranked in reading.positions.items():
                    chosen = np.flatnonzero(here & (shards == shard))
                    ends = np.array([vector.get(f"{source.name}/{partition}", 0) for vector in ranked], np.int64)
                    places = np.searchsorted(ends, events.positions[chosen], side="right")
                    result[chosen] = np.where(places < len(ends), places, _NEVER)
        return result


def _runs_available(stated: pa.Table, at: np.ndarray) -> np.ndarray:
    """For each instant, one more than the last run that had become available."""
    if not stated.num_rows:
        return np.zeros(len(at), np.int64)
    available = np.asarray(instants(stated["available_time"])).astype(np.int64)
    runs = np.asarray(stated["_run"]).astype(np.int64)
    order = np.argsort(available, kind="stable")
    following = np.concatenate([[0], np.maximum.accumulate(runs[order]) + 1])
    return following[np.searchsorted(available[order], at, side="right")]


def column_values(column: pa.ChunkedArray) -> np.ndarray:
    """A captured column as views assemble it: float64 with NaN for null, strings as objects with None."""
    if pa.types.is_string(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False), object)
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    return np.array(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def differs(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Where two columns are not the same bits (all nulls are one)."""
    if left.dtype == object or right.dtype == object:
        return np.array([a != b for a, b in zip(left.tolist(), right.tolist(), strict=True)], bool)
    bits = (np.where(np.isnan(a), np.nan, a).astype(np.float64).view(np.int64) for a in (left, right))
    return np.not_equal(*bits)


def _dtype(kind: str) -> Any:
    return object if kind == "string" else np.float64


def _place(found: Columns, name: str, values: np.ndarray, rows: np.ndarray, size: int) -> None:
    if name not in found:
        text = values.dtype == object
        found[name] = np.full(size, None, object) if text else np.full(size, np.nan)
    found[name][rows] = values
