"""Sync: the online store's values in the offline store, with lag and agreement measured.

The keys that changed since the last sync are those of the deltas in between. Their states are evaluated at one instant
and appended, with the feature positions that they stand at in the same commit. Some keys are also folded anew from
history at equal positions: their states must be the same bytes. That reads the history, so a long one is read only
once an hour.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.buffer.lag import records_ever
from millstream.buffer.log import Log
from millstream.buffer.parts import Assembly
from millstream.buffer.reading import through
from millstream.buffer.topics import feature_table, feature_topic
from millstream.clock import Clock
from millstream.definitions.data_types import INSTANT, arrow_type, comparable
from millstream.definitions.feature_group import StreamFeatureGroup
from millstream.definitions.group_version import GroupVersion
from millstream.definitions.list_columns import Lists
from millstream.errors import Fenced, LogError, StoreError
from millstream.fold import States, decode_deltas, decode_key, fold, layout_of, merge, prepare, pruned, value
from millstream.history.events import POSITIONS, History, positions_of
from millstream.store.offline import OfflineStore
from millstream.store.online import OnlineStore, ShardMeta, forgotten_by, pages, read_shard, shard_metas

_PAGE = 10_000
_RECORDS = 1_000
_SYNCED_AT, _AGREED_AT = "millstream.synced_at", "millstream.agreed_at"
AGREE_EVERY = 3_600_000_000
"""How long (µs) a group version whose history is long is not held to it again."""


@dataclass(frozen=True)
class SyncReport:
    """What one sync did for one group version.

    Attributes:
        gv: the group version.
        rows: keys whose values were appended.
        lag: how far (µs) the offline values stood behind the online ones before this sync.
        compared: keys folded anew from history by this sync.
        disagreeing: those whose state was not the same bytes; anything but 0 is a fault.
        agreed_at: when keys were last folded anew, by this sync or an earlier one (µs); None if never.
        fenced: whether another sync was first, so that this one appended nothing.
    """

    gv: str
    rows: int = 0
    lag: int = 0
    compared: int = 0
    disagreeing: int = 0
    agreed_at: int | None = None
    fenced: bool = False


@dataclass
class _Turn:
    """Which keys of a group version are compared next, and when some last were, by the project's clock (µs)."""

    number: int = 0
    at: int | None = None
    took: int = 0
    after: dict[int, bytes] = field(default_factory=dict)


class Syncer:
    """Brings the values of stream groups offline, and holds samples of states to history.

    Args:
        log: the project's log.
        online: the store to read.
        offline: the store to append to.
        history: what samples are folded from.
        group_versions: the versions in use; those of queries reach the offline store by ingestion.
        clock: says the common instant of the values.
        sample: keys of each group version that one step folds anew.
        most: events that each step may read for that. Where there are more, they are read once in `AGREE_EVERY`, and
            for no more than a tenth of the time.
    """

    def __init__(
        self,
        log: Log,
        online: OnlineStore,
        offline: OfflineStore,
        history: History,
        group_versions: Sequence[GroupVersion],
        clock: Clock,
        *,
        sample: int = 50,
        most: int = 200_000,
    ) -> None:
        self._log, self._online, self._offline, self._history = log, online, offline, history
        self._versions = [one for one in group_versions if isinstance(one.group, StreamFeatureGroup)]
        self._clock, self._sample, self._most = clock, sample, most
        self._turns = {one.id: _Turn() for one in self._versions}

    def step(self, *, agree: bool = True) -> list[SyncReport]:
        """Sync every group version once; `agree` says whether samples are held to history too.

        One whose shards cannot be read does not keep the others waiting: its error is raised after they are done.

        Raises:
            StoreError: the first failure.
        """
        reports: list[SyncReport] = []
        failures: list[StoreError] = []
        for version in self._versions:
            try:
                reports += self._step(version, agree)
            except StoreError as error:
                failures.append(error)
        for failure in failures:
            raise failure
        return reports

    def _step(self, version: GroupVersion, agree: bool) -> list[SyncReport]:
        """What syncing one group version did; nothing while its history is being computed."""
        metas = shard_metas(self._online, version.states, version.shards)
        ready = {shard: meta for shard, meta in enumerate(metas) if meta is not None and meta.backfilled}
        if len(ready) < version.shards:
            return []
        report = self._sync(version, ready)
        compared, wrong = self._agreement(version) if agree and self._due(version) else (0, 0)
        return [replace(report, compared=compared, disagreeing=wrong, agreed_at=self._turns[version.id].at)]

    def _sync(self, version: GroupVersion, metas: dict[int, ShardMeta]) -> SyncReport:
        table, now = feature_table(version.id), self._clock.now()
        snapshot = self._offline.snapshot(table)
        told = snapshot.properties if snapshot else {}
        before, turn = positions_of(told), self._turns[version.id]
        if turn.at is None and _AGREED_AT in told:
            turn.at = int(told[_AGREED_AT])
        pieces = [
            self._values(version, states, now, applied)
            for shard, meta in metas.items()
            for states, applied in self._changed(version, shard, before.get(shard), meta)
        ]
        rows = pa.concat_tables(pieces) if pieces else None
        if rows is None or not rows.num_rows:
            return SyncReport(version.id)
        keys = pa.table({name: comparable(rows[name]) for name in version.group.entity.keys})
        rows = rows.take(pc.sort_indices(keys, [(name, "ascending") for name in keys.column_names]))  # as they are read
        ends = {str(shard): meta.position for shard, meta in metas.items()}
        properties = {POSITIONS: msgspec.json.encode(ends).decode(), _SYNCED_AT: str(now)}
        if turn.at is not None:
            properties[_AGREED_AT] = str(turn.at)
        try:
            self._offline.append(table, rows, properties, expected=snapshot.id if snapshot else None)
        except Fenced:
            return SyncReport(version.id, fenced=True)
        return SyncReport(version.id, rows.num_rows, max(0, now - int(told.get(_SYNCED_AT, now))))

    def _changed(
        self, version: GroupVersion, shard: int, since: int | None, meta: ShardMeta
    ) -> Iterator[tuple[dict[bytes, bytes], ShardMeta]]:
        """Pages of the states that changed from feature position `since` on; all of them where that is not known.

        Ingestion goes on meanwhile, so each page comes with what it holds, as the store answered it.
        """
        touched = None if since is None else self._touched(version, shard, since, meta.position)
        for keys in self._pages(version, shard) if touched is None else _batched(touched):
            answer = read_shard(self._online, version.states, shard, keys)
            found: dict[int, tuple[dict[bytes, bytes], ShardMeta]] = {}
            for key, state, held in zip(keys, answer.values, answer.metas(), strict=True):
                if held is not None and (state is not None or forgotten_by(held) is not None):
                    found.setdefault(held.position, ({}, held))[0][key] = state or b""  # forgotten, so it has no event
            yield from found.values()

    def _pages(self, version: GroupVersion, shard: int) -> Iterator[list[bytes]]:
        """All keys of a shard, a page at a time."""
        for page in pages(self._online, version.states, shard, None, _PAGE):
            yield [key for key, _ in page.items]

    def _touched(self, version: GroupVersion, shard: int, since: int, until: int) -> list[bytes] | None:
        """The keys of the deltas between two feature positions, or None when the log does not have all of them."""
        keys, assembly = set[bytes](), Assembly()
        try:
            for records in through(self._log, feature_topic(version.id), shard, since, until, _RECORDS):
                for payload in records.payloads:
                    if (whole := assembly.add(payload)) is not None:
                        keys.update(decode_deltas(whole.record).keys)
        except LogError:
            return None
        return None if assembly.unfinished else sorted(keys)  # what is torn was folded again, whatever its keys are

    def _values(self, version: GroupVersion, states: dict[bytes, bytes], now: int, meta: ShardMeta) -> pa.Table:
        """Rows of keys, the instant, values, version and positions."""
        layout, types = layout_of(version.group), version.group.entity.keys
        keys = list(zip(*(decode_key(types, key) for key in states), strict=True)) or [()] * len(types)
        found = value(layout, States.from_bytes(list(states.values())), np.full(len(states), now, np.int64)).columns
        pairs = zip(types.items(), keys, strict=True)
        columns = {name: pa.array(part, arrow_type(kind)) for (name, kind), part in pairs}
        columns["at"] = pa.array(np.full(len(states), now), pa.int64()).cast(INSTANT)
        for name, dtype in zip(layout.columns, layout.dtypes, strict=True):
            columns[name] = _column(found[name], dtype)
        columns["version"] = pa.array([version.version] * len(states), pa.int64())
        columns["positions"] = pa.array([msgspec.json.encode(meta.applied).decode()] * len(states), pa.string())
        return pa.table(columns)

    def _due(self, version: GroupVersion) -> bool:
        """Whether to compare now: always where history is short, else once in a while."""
        turn = self._turns[version.id]
        if turn.at is None or sum(records_ever(self._log, one.name) for one in version.group.sources) <= self._most:
            return True
        return self._clock.now() >= turn.at + max(AGREE_EVERY, 10 * turn.took)

    def _agreement(self, version: GroupVersion) -> tuple[int, int]:
        """How many states of one shard were folded anew from history at equal positions, and how many differ."""
        turn, began = self._turns[version.id], self._clock.now()
        keys = self._next_keys(version, turn)
        answer = read_shard(self._online, version.states, turn.number % version.shards, keys)
        meta = answer.meta
        ahead = set() if meta is None else answer.ahead(meta.position)
        states = [state for place, state in enumerate(answer.values) if place not in ahead]
        keys = [key for place, key in enumerate(keys) if place not in ahead]
        if meta is None or not keys:
            return 0, 0
        wanted = self._folded(version, keys, meta)
        turn.at, turn.took = began, self._clock.now() - began
        # Ingestion may prune later than the fold of history: by a second arrival, or when the clock gets there.
        # What a key had before the store forgot it is not in what it has now.
        layout, newest = layout_of(version.group), np.maximum(wanted.newest, forgotten_by(meta) or 0)
        kept, wanted = pruned(layout, States.from_bytes(states), newest), pruned(layout, wanted, newest)
        return len(keys), sum(one != other for one, other in zip(kept.to_bytes(), wanted.to_bytes(), strict=True))

    def _next_keys(self, version: GroupVersion, turn: _Turn) -> list[bytes]:
        """Some keys of the next shard that has any, from another page of it each time."""
        for _ in range(version.shards):
            turn.number += 1
            shard = turn.number % version.shards
            keys = self._next_page(version, shard, turn)
            if keys:
                chosen = np.random.default_rng(turn.number).permutation(len(keys))[: self._sample]
                return sorted(keys[i] for i in chosen.tolist())
        return []

    def _next_page(self, version: GroupVersion, shard: int, turn: _Turn) -> list[bytes]:
        """The keys of the page of a shard that comes after the one before; after the last one the first."""
        for cursor in dict.fromkeys((turn.after.pop(shard, None), None)):
            for page in pages(self._online, version.states, shard, cursor, _PAGE):
                if page.cursor is not None:
                    turn.after[shard] = page.cursor
                return list(dict(page.items))
        return []

    def _folded(self, version: GroupVersion, keys: list[bytes], meta: ShardMeta) -> States:
        """The states of keys by one fold of the events that the shard has applied."""
        layout = layout_of(version.group)
        total = States.from_bytes([b""] * len(keys))
        for source in version.group.sources:
            places = {tuple(place.rsplit("/", 1)): end for place, end in meta.applied.items()}
            upto = {int(partition): end for (name, partition), end in places.items() if name == source.name}
            for chunk in self._history.chunks(source, upto):
                (events,) = prepare([version.group], source, chunk)
                found = dict(zip(events.keys, fold(layout, events).to_bytes(), strict=True))
                total = merge(layout, total, States.from_bytes([found.get(key) for key in keys]))
        return total


def _batched(keys: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Keys a page at a time."""
    return (list(keys[first : first + _PAGE]) for first in range(0, len(keys), _PAGE))


def _column(values: np.ndarray, dtype: str) -> pa.Array:
    kind = arrow_type(dtype)
    if isinstance(values, Lists):
        return values.to_arrow(kind)
    if values.dtype == object:
        return pa.array(values, pa.int64() if pa.types.is_timestamp(kind) else kind).cast(kind)
    missing = np.isnan(values)
    floats = pa.array(np.where(missing, 0, values), pa.float64(), mask=missing)
    return floats.cast(pa.int64()).cast(kind) if pa.types.is_timestamp(kind) else floats.cast(kind)
