"""The states of a query group built anew from the rows that its offline table states.

A query that ran is not run again: its tables may say something else by now. What its runs stated is offline, with a
mark for each run, up to a position in the staging topic, from which ingestion goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.buffer.log import Log
from millstream.buffer.staging import Run
from millstream.buffer.topics import batch_table, staging_topic
from millstream.clock import Clock
from millstream.definitions.group_version import BatchGroupVersion
from millstream.errors import Fenced, StoreError
from millstream.fold.keys import encode_keys, key_codes, shards_of
from millstream.fold.rows import ACTIVE, join_rows, pack_columns, union
from millstream.history.events import held
from millstream.ingest.batch_offline import Shape
from millstream.ingest.batch_online import Confirmed, Items, fresh_rows
from millstream.ingest.staged_runs import KeyedRun, schema_of
from millstream.ingest.writing import FILLING, write_all
from millstream.store.offline import STATED, OfflineStore, batches_of
from millstream.store.online import PRUNED_BY, OnlineStore, ShardMeta, readable_metas

_MARKS = 10_000  # of the newest runs: those before them are hidden by others


@dataclass(frozen=True)
class _Run:
    """A run as its mark tells it: its position, and its end and when it became available (µs)."""

    position: int
    end: int
    available: int

    def keyed(self, snapshot: bool) -> KeyedRun:
        nothing = pa.array([], pa.binary())
        run = Run(0, self.end, self.available, snapshot, pa.table({}))
        return KeyedRun(
            self.position, self.position, run, nothing, nothing, np.empty(0, np.int64), np.empty(0, np.int64)
        )


def rebuild_states(
    version: BatchGroupVersion, online: OnlineStore, offline: OfflineStore, log: Log, clock: Clock
) -> int:
    """Fill the states of a version that nobody reads yet from its offline table, and return how many they are.

    Called again it does nothing once they are complete; what a dead process left is begun anew.

    Args:
        version: the group version, with the states to fill.
        online: the store to fill.
        offline: the store with what its runs stated.
        log: the project's log, from which ingestion goes on.
        clock: says by which instant the states are pruned, and stamps what is written.

    Raises:
        StoreError: when runs that the offline table does not hold are not in the log any more.
    """
    first = log.ends(staging_topic(version.id))[0][0]
    if all(
        meta is not None and meta.position >= first for meta in readable_metas(online, version.states, version.shards)
    ):
        return 0
    table = batch_table(version.id)
    snapshot = offline.snapshot(table)
    position = held(table, snapshot).get(0, 0)
    if position < first:
        raise StoreError(
            f"Group version '{version.id}': its offline table is at run {position}, but the buffer begins at {first}.",
            "apply the group under another name, which computes it from its tables.",
        )
    online.drop(version.states)
    stated = _Stated(version, offline, table, snapshot.id if snapshot else None)
    return sum(_fill(version, online, shard, stated, position, clock.now()) for shard in range(version.shards))


def runs_stated(version: BatchGroupVersion, offline: OfflineStore) -> dict[int, tuple[int, int]]:
    """Return the newest runs that the offline table of a version states: by position, end and available time (µs)."""
    table = batch_table(version.id)
    snapshot = offline.snapshot(table)
    found = _Stated(version, offline, table, snapshot.id if snapshot else None).runs()
    return {run.position: (run.end, run.available) for run in found}


def states_caught_up(version: BatchGroupVersion, read: BatchGroupVersion, online: OnlineStore, log: Log) -> bool:
    """Whether states built beside those that are read hold all that those hold, or all there is where they are damaged.

    Args:
        version: the group version with the states that are built.
        read: the same group version with the states that are read.
        online: the store of both.
        log: the project's log, which says where the staging topic ends.
    """
    following = log.ends(staging_topic(version.id))[0][1]
    mine = readable_metas(online, version.states, version.shards)
    theirs = readable_metas(online, read.states, read.shards)
    goals = [following if meta is None else meta.position for meta in theirs]
    return all(meta is not None and meta.position >= goal for meta, goal in zip(mine, goals, strict=True))


def _fill(version: BatchGroupVersion, online: OnlineStore, shard: int, stated: _Stated, position: int, now: int) -> int:
    """Write a shard, whole."""
    facts: dict[str, str] = {}
    runs = stated.runs()
    for run in runs:
        facts |= Confirmed.of(facts).after(run.keyed(version.group.time is None), now, now)
    items = stated.states(shard, int(facts.get("confirmed", 0)), now)
    meta = ShardMeta(
        position=position,
        applied={f"{staging_topic(version.id)}/0": position},
        newest_arrival=max((run.available for run in runs), default=0),
        applied_at=now,
        backfilled=True,
        epoch=1,
        extra=facts | {PRUNED_BY: str(now)},
    )
    try:
        write_all(online, version.states, shard, sorted(items), meta, None, FILLING)
    except Fenced:
        return 0  # somebody else was at it, too
    return len(items)


class _Stated:
    """What the offline table of a version says."""

    def __init__(self, version: BatchGroupVersion, offline: OfflineStore, table: str, snapshot: int | None) -> None:
        self._version, self._offline, self._table, self._snapshot = version, offline, table, snapshot
        self._keys: Mapping[str, str] = version.group.entity.keys
        self._runs: list[_Run] | None = None

    def runs(self) -> list[_Run]:
        """The newest runs by their marks, in the order of their positions."""
        if self._runs is None:
            key = next(iter(self._keys))
            marks = [
                rows.filter(pc.is_null(rows[key])).to_pylist()
                for rows in self._batches([key, "event_time", "available_time", "_run"])
            ]
            found = {_Run(row["_run"], row["event_time"], row["available_time"]) for some in marks for row in some}
            self._runs = sorted(found, key=lambda run: run.position)[-_MARKS:]
        return self._runs

    def states(self, shard: int, confirmed: int, now: int) -> Items:
        """The states of the keys of a shard; rows that the run which became available at `confirmed` stated count by it."""
        pieces = [rows.filter(pa.array(self._of(rows, shard))) for rows in self._batches(None)]
        if not sum(map(len, pieces)):
            return []
        rows = pa.concat_tables(pieces).sort_by("_run").combine_chunks()
        keys = encode_keys(self._keys, [rows[name] for name in self._keys])
        schema = schema_of(self._version, rows)
        values = pa.array(pack_columns(schema, rows), pa.large_binary())
        deleted = rows["_deleted"].combine_chunks().fill_null(False)
        values = pc.if_else(deleted, pa.scalar(b"", pa.large_binary()), values)
        codes = key_codes(keys)
        told = KeyedRun(0, 0, Run(0, 0, 0, False, rows), keys, values, codes, np.zeros(len(codes), np.int64))
        fresh = fresh_rows(told, np.arange(len(codes)), now, self._confirmations(rows, confirmed))
        lone = list(zip(fresh.keys, fresh.lone.states(), strict=False))
        return lone + [(key, join_rows(union([], some, now))) for key, some in fresh.several.items()]

    def _confirmations(self, rows: pa.Table, confirmed: int) -> np.ndarray | None:
        """When each row was last confirmed, if that counts: by its own run, or by all those that were like the newest."""
        if self._version.group.ttl is None:
            return None
        newest = [run.position for run in self.runs() if run.available == confirmed]
        active = np.isin(np.asarray(rows["_run"]), newest[-1:]) & ~np.asarray(rows["_deleted"].fill_null(False))
        return np.where(active | np.asarray(rows["_deleted"].fill_null(False)), ACTIVE, rows["available_time"])

    def _of(self, rows: pa.Table, shard: int) -> np.ndarray:
        keys = encode_keys(self._keys, [rows[name] for name in self._keys])
        mine = np.zeros(len(rows), np.bool_)
        known = np.asarray(keys.is_valid())
        mine[known] = shards_of(keys.drop_null().to_pylist(), self._version.shards) == shard
        return mine

    def _batches(self, names: list[str] | None) -> Iterator[pa.Table]:
        if self._snapshot is None:
            return
        if names is None:
            known = self._offline.scan(self._table, None, [("_run", "<", -1)], self._snapshot)
            names = Shape(self._keys, schema_of(self._version, known)).nothing.schema.names
        asked = (self._table, names, list(STATED), self._snapshot)
        for batch in batches_of(self._offline, *asked):
            yield pa.Table.from_batches([batch])
