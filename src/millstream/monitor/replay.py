"""Recomputing what was served, from history, with exactly the events that the serving store had applied.

A capture says for each group which version, shard and source positions its values were read from. The events below
those positions are folded again through the states that serving held, so the result must be the same bits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np
import pyarrow as pa

from millstream.definitions.data_types import carried
from millstream.definitions.feature_group import BatchFeatureGroup
from millstream.definitions.list_columns import Lists
from millstream.definitions.source import EventStream, Table
from millstream.definitions.whole_numbers import floats, put
from millstream.engines.engine import FIRST
from millstream.fold import Prepared, as_of, encode_keys, exact, layout_of, prepare, probes_of, request_lanes, shard_of
from millstream.fold.kernels import by_key
from millstream.fold.layout import HEAD_SPAN
from millstream.fold.states import settled
from millstream.monitor.applied_rows import applied_as_of
from millstream.store.online import EARLY
from millstream.train.point_in_time import columns_of, union
from millstream.train.stated import of_keys
from millstream.train.stored_history import needed

if TYPE_CHECKING:
    from millstream.definitions import FeatureView
    from millstream.definitions.feature_view import GroupRead
    from millstream.definitions.group_version import BatchGroupVersion, GroupVersion
    from millstream.definitions.source import Source
    from millstream.history.selection import Wanted
    from millstream.store.offline import Where

PIECE = 20_000
"""How many captures are recomputed at once."""
Columns = dict[str, np.ndarray]
_NEVER = np.iinfo(np.int64).max


class Applied(msgspec.Struct, frozen=True):
    """What a capture says of one group's values: their version, shard, and the source positions applied."""

    version: str
    shard: int | None
    positions: msgspec.Raw
    fallback: str | None = None


Facts = Mapping[str, Applied]
_FACTS = msgspec.json.Decoder(dict[str, Applied])


@dataclass(frozen=True)
class Pasts:
    """Where a replay reads.

    Attributes:
        events: the events of a stream that are wanted, below a position by partition; all rows of a table. Asked for
            once by each cohort of captures.
        rows: the rows that a batch group version stated, some at a time; those not meant by a filter may be left out.
        versions: every group version there ever was, by id.
        view: a view, by its name, as one of its revisions had it.
    """

    events: Callable[[Source, Sequence[Wanted], Mapping[int, int]], pa.Table]
    rows: Callable[[str, Where], Iterable[pa.Table]]
    versions: Mapping[str, GroupVersion]
    view: Callable[[str, str], FeatureView]


@dataclass(frozen=True)
class Reading:
    """One read of a group: `ordinals` rank, within each shard, the positions applied when each capture was served."""

    read: GroupRead
    version: GroupVersion
    shards: np.ndarray
    ordinals: np.ndarray
    positions: Mapping[int, list[dict[str, int]]]


class Replay:
    """Captures that one revision of a view served from one set of group versions, ready to be recomputed.

    Args:
        view: the view that was served.
        captures: rows as the capture topic holds them.
        facts: what each capture says of its groups, by the name of the read.
        past: history and definitions to recompute from.
    """

    def __init__(self, view: FeatureView, captures: pa.Table, facts: Sequence[Facts], past: Pasts) -> None:
        self.versions = {read.name: past.versions[facts[0][read.name].version] for read in view.groups}
        self.view = view.resolved({one.group.name: one.schema for one in self.versions.values() if one.schema})
        self.captures, self.facts, self.past = captures, facts, past
        self.at = np.asarray(captures["_at"]).astype(np.int64)
        self._tables: dict[Source, pa.Table] = {}
        self._events: dict[str, Prepared] = {}
        self._sources: dict[str, np.ndarray] = {}

    @cached_property
    def whole(self) -> np.ndarray:
        """Which captures had every group read from the store, so that they can be recomputed."""
        return np.array([all(f.fallback is None for f in facts.values()) for facts in self.facts], bool)

    @cached_property
    def behind(self) -> np.ndarray:
        """Which captures are whole but for folds that were asked for at instants which only history tells."""
        reasons = [{f.fallback for f in facts.values()} - {None} for facts in self.facts]
        return np.array([said == {EARLY} for said in reasons], bool)

    @cached_property
    def readings(self) -> list[Reading]:
        """The view's reads of groups."""
        return [self._reading(read, [row[read.name] for row in self.facts]) for read in self.view.groups]

    def _reading(self, read: GroupRead, facts: Sequence[Applied]) -> Reading:
        shards = np.array([-1 if fact.shard is None else fact.shard for fact in facts], np.int64)
        raw = [bytes(fact.positions) for fact in facts]
        ordinals, positions = np.zeros(len(facts), np.int64), {}
        for shard in sorted(set(shards.tolist()) - {-1}):
            mine = np.flatnonzero(shards == shard)
            known = {text: msgspec.json.decode(text, type=dict[str, int]) for text in {raw[i] for i in mine}}
            ranked = sorted(known, key=lambda text: sum(known[text].values()))
            rank = {text: i for i, text in enumerate(ranked)}
            ordinals[mine] = [rank[raw[i]] for i in mine]
            positions[shard] = [known[text] for text in ranked]
        return Reading(read, self.versions[read.name], shards, ordinals, positions)

    def recompute(self) -> Columns:
        """The view's columns for every capture, as serving must have seen them."""
        found: Columns = {}
        for reading in self.readings:
            found |= self._told(reading, columns_of(reading.read, self.values(reading), len(self.at)))
        found |= {name: carried(self.captures[name]) for name in self.view.request}
        return self.view.assemble(found, self.at)

    def _told(self, reading: Reading, found: Columns) -> Columns:
        """A group's columns, by the plain rule where they are not what was served.

        Ingestion holds back what would prune a state by an arrival that nothing corroborates: such a state tells what
        happened before it, while the states made of the events alone have merged that.
        """
        group = reading.version.group
        if isinstance(group, BatchFeatureGroup) and group.query is not None:
            return found
        others = np.zeros(len(self.at), bool)
        for column in reading.read.columns:
            served = carried(self.captures[column.column])
            others |= differs(served, defaulted(found[column.column], column.default))
        only = np.flatnonzero(others & self.whole)
        if not len(only):
            return found
        rule = columns_of(reading.read, self.values(reading, by_rule=True, only=only), len(only))
        # All of a row comes from one state: it tells the whole row by the rule, or none of it.
        right = np.ones(len(only), bool)
        for column in reading.read.columns:
            served = carried(self.captures[column.column])[only]
            right &= ~differs(served, defaulted(rule[column.column], column.default))
        return {name: put(values, only[right], rule[name][right]) for name, values in found.items()}

    def values(self, reading: Reading, *, by_rule: bool = False, only: np.ndarray | None = None) -> Columns:
        """The group's features for the captures, through states, or by the plain rule.

        Args:
            reading: the read of the group.
            by_rule: whether the window rule is followed over the events alone. Else they go through the states that
                serving held.
            only: the numbers of the captures wanted; all unless given.
        """
        pick = np.arange(len(self.at)) if only is None else only
        group = reading.version.group
        keys = encode_keys(group.entity.keys, [self._key(name, pick) for _, name in reading.read.keys])
        if isinstance(group, BatchFeatureGroup) and group.query is not None:
            return self._stated(reading, pick, keys)
        events = self.events(reading.version)
        available = self.available(reading)
        run, layout = exact if by_rule else as_of, layout_of(group)
        options = {} if by_rule else {"sweep": True}
        probes = probes_of(layout, {name: self._key(name, pick) for name in reading.read.probes}, len(pick))
        fields, added = reading.read.fields, None
        if fields is not None:
            added = request_lanes(
                group, fields, {name: self._key(name, pick) for name in fields.values()}, self.at[pick]
            )
        return run(
            layout, events, available, keys, reading.ordinals[pick], self.at[pick], probes, added, **options
        ).columns  # fmt: skip

    def _stated(self, reading: Reading, pick: np.ndarray, keys: pa.Array) -> Columns:
        """A query's features, from the runs that were applied when each row was read."""
        version, at = cast("BatchGroupVersion", reading.version), self.at[pick]
        where, applied = self.of_keys(reading, pick), self.runs_applied(reading)[pick]
        return applied_as_of(version, partial(self.past.rows, version.id, where), keys, at, applied)

    def of_keys(self, reading: Reading, rows: np.ndarray) -> Where:
        """Which rows of a query to ask the offline store for, where the captures numbered `rows` are of few keys."""
        return of_keys(reading.version.group.entity.keys, [self._key(name, rows) for _, name in reading.read.keys])

    def runs_applied(self, reading: Reading) -> np.ndarray:
        """For each capture, the position of the first run that was not applied."""
        result = np.zeros(len(self.at), np.int64)
        for shard, ranked in reading.positions.items():
            ends = np.array([max(vector.values(), default=0) for vector in ranked], np.int64)
            mine = reading.shards == shard
            result[mine] = ends[reading.ordinals[mine]]
        return result

    def _key(self, name: str, rows: np.ndarray) -> pa.Array:
        return self.captures[name].combine_chunks().take(pa.array(rows))

    @cached_property
    def wanted(self) -> dict[EventStream, list[Wanted]]:
        """By stream, the events that the captured values can have been folded from."""
        return needed(((self.versions[read.name].group, [read]) for read in self.view.groups), self.captures)

    def table(self, source: Source) -> pa.Table:
        """The events of a source that the captured values can have been folded from, read once."""
        if source not in self._tables:
            applied: dict[int, int] = {}
            for vector in (vector for one in self.readings for ranked in one.positions.values() for vector in ranked):
                for (name, _, partition), end in ((place.rpartition("/"), end) for place, end in vector.items()):
                    if name == source.name:
                        applied[int(partition)] = max(applied.get(int(partition), 0), end)
            wanted = self.wanted[source] if isinstance(source, EventStream) else ()
            self._tables[source] = self.past.events(source, wanted, applied)
        return self._tables[source]

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
                    place, nothing = f"{source.name}/{partition}", FIRST if isinstance(source, Table) else 0
                    ends = np.array([vector.get(place, nothing) for vector in ranked], np.int64)
                    places = _first_with(source, events, chosen, ends)
                    result[chosen] = np.where(places < len(ends), places, _NEVER)
        return result

    def early(self, reading: Reading, only: np.ndarray) -> np.ndarray:
        """Which of the captures numbered `only` were read before what the state that served them was exact for.

        Of those that a full head makes so nothing is said here.
        """
        group, events, available = reading.version.group, self.events(reading.version), self.available(reading)
        keys = encode_keys(group.entity.keys, [self._key(name, only) for _, name in reading.read.keys])
        order, begins = by_key(events.codes, len(events.keys))
        settling = settled(events)
        places = {key: place for place, key in enumerate(events.keys)}
        result = np.zeros(len(only), bool)
        for row, key in enumerate(keys.to_pylist()):
            if key in places:
                mine = order[begins[places[key]] : begins[places[key] + 1]]
                held = settling[mine[available[mine] <= reading.ordinals[only[row]]]]
                result[row] = len(held) > 0 and self.at[only[row]] < held.max() - HEAD_SPAN
        return result


def pieces(captures: pa.Table) -> Iterator[pa.Table]:
    """Return captures some at a time: the history of those of one piece is in memory at once."""
    return (captures.slice(start, PIECE) for start in range(0, captures.num_rows, PIECE))


def cohorts(captures: pa.Table, past: Pasts) -> list[Replay]:
    """Return the captures by what served them: the revision of the view, and the group versions it was read from."""
    facts = [_FACTS.decode(text) for text in captures["_groups"].to_pylist()]
    revisions = zip(captures["_view"].to_pylist(), captures["_revision"].to_pylist(), strict=True)
    served: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for place, (revision, groups) in enumerate(zip(revisions, facts, strict=True)):
        served[(*revision, *[(name, fact.version) for name, fact in groups.items()])].append(place)
    found = []
    for (view, revision, *_), places in served.items():
        rows = captures if len(places) == len(facts) else captures.take(pa.array(places))
        found.append(Replay(past.view(view, revision), rows, [facts[place] for place in places], past))
    return found


def _first_with(source: Source, events: Prepared, chosen: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """For each of the chosen events, the first of the ascending `ends` that includes it.

    A stream is applied to before a position, a table to the instant, inclusive, at which its rows became known.
    """
    if isinstance(source, Table):
        return np.asarray(np.searchsorted(ends, events.arrivals[chosen], side="left"))
    return np.asarray(np.searchsorted(ends, events.positions[chosen], side="right"))


def defaulted(values: np.ndarray, default: object) -> np.ndarray:
    """A column of a group with its default where it is null."""
    if default is None:
        return values
    missing = np.array([v is None for v in values]) if values.dtype == object else np.isnan(values)
    return np.where(missing, np.array(default, values.dtype), values)


def differs(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Where two columns are not the same bits (all nulls are one)."""
    if isinstance(left, Lists) or isinstance(right, Lists):
        entries = (one.entries() if isinstance(one, Lists) else one.tolist() for one in (left, right))
        return np.array([a != b for a, b in zip(*entries, strict=True)], bool)
    objects = [value for one in (left, right) if one.dtype == object for value in one]
    numbers = all(value is None or isinstance(value, int | float) for value in objects)
    if left.dtype != right.dtype and numbers:  # captures round a feature beyond 2**53, which they keep as float64
        left, right = floats(left), floats(right)
    if left.dtype == object or right.dtype == object:
        return np.array([a != b for a, b in zip(left.tolist(), right.tolist(), strict=True)], bool)
    bits = (np.where(np.isnan(a), np.nan, a).astype(np.float64).view(np.int64) for a in (left, right))
    return np.not_equal(*bits)
