"""Batch ingestion: runs from the staging topics into both stores, exactly once from each store's own position.

Online keeps the newest row of a key and those not yet visible, and is written only where it changes; offline keeps
every restatement. Neither store is asked what the other knows, so either may be behind, lost or built anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
import pyarrow as pa

from millstream.buffer.agreement import mark, refuse_stepped_back
from millstream.buffer.log import OwnLog
from millstream.buffer.reading import ends_of
from millstream.buffer.topics import batch_table, ingestion_consumer, staging_topic
from millstream.buffer.worker import EveryPartition, Owned, Worker, changed
from millstream.clock import Clock
from millstream.definitions.feature_group import BatchFeatureGroup
from millstream.definitions.group_version import BatchGroupVersion
from millstream.errors import Fenced, MillstreamError, SteppedBack, StoreError
from millstream.fold.rows import ACTIVE, Row
from millstream.history.events import MARKS, POSITIONS, held, marks_of
from millstream.ingest.batch_offline import restatements
from millstream.ingest.batch_online import (
    Confirmed,
    Fresh,
    Items,
    Times,
    dated_changes,
    fresh_rows,
    shard_after,
    snapshot_changes,
    times_of,
)
from millstream.ingest.late_snapshot import late_snapshot_changes
from millstream.ingest.pruning import pruning
from millstream.ingest.staged_runs import KeyedRun, read_runs, run_at
from millstream.ingest.writing import read_unmoved, write_all
from millstream.store.offline import OfflineStore
from millstream.store.online import (
    BEGUN,
    MARK,
    OnlineStore,
    ShardMeta,
    pages,
    pruned_by,
    read_shard,
    shard_metas,
    sound,
)

_PAGE = 10_000


@dataclass(frozen=True)
class BatchApplied:
    """What one step did: runs taken in offline, rows added there, states written online, runs left about."""

    runs: int = 0
    rows: int = 0
    written: int = 0
    fenced: int = 0
    lag: int = 0

    def __add__(self, other: BatchApplied) -> BatchApplied:
        return BatchApplied(
            self.runs + other.runs,
            self.rows + other.rows,
            self.written + other.written,
            self.fenced + other.fenced,
            self.lag + other.lag,
        )


class BatchIngester:
    """Applies the runs of batch groups to the stores; any number of workers share the groups.

    As with the shards of streams (`millstream.ingest.stream`), what keeps one out that has lost a group and does not know
    it is the position that it has read, which each store compares with its own.

    Args:
        log: the project's log.
        online: the online store.
        offline: the offline store.
        group_versions: the versions to ingest; those that fold (`StreamIngester` has them) are left alone.
        clock: stamps what is written.
        beside: the builds of states that are made beside those of versions that are read; who makes each begins it.
        bite: runs of a group that wait before the offline store takes them in, in one commit; more than one makes
            fewer files where runs are frequent. `flush` does not wait.
        worker: says which groups are its own, by the partitions of the staging topics; who made it closes it. All unless
            given.
    """

    def __init__(
        self,
        log: OwnLog,
        online: OnlineStore,
        offline: OfflineStore,
        group_versions: Iterable[BatchGroupVersion],
        clock: Clock,
        *,
        beside: Iterable[BatchGroupVersion] = (),
        bite: int = 1,
        worker: Worker | None = None,
    ) -> None:
        self._bite = bite
        self._log, self._online, self._offline, self._clock = log, online, offline, clock
        self._versions, self._beside = (
            [v for v in some if isinstance(v.group, BatchFeatureGroup) and not v.group.columns]
            for some in (group_versions, beside)
        )
        self._worker = worker or EveryPartition(log, [staging_topic(version.id) for version in self._versions])
        self._owned: Owned = {}
        self._stored: dict[str, int] = {}
        self._agreed: set[str] = set()

    def flush(self) -> BatchApplied:
        """Apply all that the buffer holds to both stores, however few runs wait."""
        total = BatchApplied()
        while (done := self.step(bite=1)).runs or done.written or done.fenced:
            total += done
        return total

    def step(self, *, bite: int | None = None) -> BatchApplied:
        """Apply what the buffer holds, some runs of each group, and tell the log how far both stores are.

        Raises:
            StoreError: the first failure, after all groups had their turn; nothing of it was written.
            SteppedBack: when the log is older than what the stores have taken from it, or another one.
        """
        total, failures, owned = BatchApplied(), list[MillstreamError](), self._mine()
        due = self._bite if bite is None else bite
        work: list[tuple[BatchGroupVersion, Callable[..., BatchApplied]]]
        work = [(one, partial(self._advance, bite=due)) for one in self._versions]
        work += [(one, self._advance_beside) for one in self._beside]
        work = [(one, advance) for one, advance in work if owned.get(staging_topic(one.id))]
        facts = self._online.facts({one.states: one.shards for one, _ in work}) if work else {}
        ends = ends_of(self._log, list({staging_topic(one.id): None for one, _ in work}))
        for version, advance in work:
            try:
                metas = [sound(fact) for fact in facts[version.states]]
                total += advance(version, metas, ends[staging_topic(version.id)][0][1])
            except (StoreError, SteppedBack) as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return total

    def _mine(self) -> Owned:
        """What is this worker's now; of groups that come or go nothing is remembered."""
        owned = self._worker.assigned()
        gone = {topic for topic, _ in changed(self._owned, owned)}
        for version in (version for version in self._versions if staging_topic(version.id) in gone):
            self._stored.pop(version.id, None)
            self._agreed.discard(version.id)
        self._owned = owned
        return owned

    def _advance(
        self, version: BatchGroupVersion, metas: Sequence[ShardMeta | None], following: int, *, bite: int
    ) -> BatchApplied:
        """Bring a version to where its staging topic ends, in both stores."""
        topic = staging_topic(version.id)
        if version.id not in self._stored:
            self._stored[version.id] = self._offline_position(version)[0]
        positions = [0 if meta is None else max(0, meta.position) for meta in metas]
        done, stored = BatchApplied(), self._stored[version.id]
        if version.id not in self._agreed or max(*positions, stored) > following:
            self._refuse_stepped_back(version, metas)
        due = stored < following and self._log.behind(topic, 0, stored).records >= bite
        behind = min([*positions, stored] if due else positions)
        if behind >= following:
            return done
        runs = read_runs(self._log, version, behind, self._clock.now())
        if not runs:
            return done
        if due:
            done += self._state_offline(version, [run for run in runs if run.position >= stored])
        at_hand = {run.position: run for run in runs}
        for shard, position in enumerate(positions):
            done += self._apply_online(version, shard, position, runs, at_hand)
        self._tell(version, runs[-1].next)
        return done + BatchApplied(lag=self._log.behind(topic, 0, runs[-1].next).records)

    def _refuse_stepped_back(self, version: BatchGroupVersion, metas: Sequence[ShardMeta | None]) -> None:
        """At the first look at a version, and whenever the log ends before what a store has taken from it."""
        who, topic = f"Group version '{version.id}'", staging_topic(version.id)
        found = self._offline.snapshot(batch_table(version.id))
        if found is not None:
            kept = marks_of(found.properties).get(0, "")
            refuse_stepped_back(who, self._log, topic, 0, held(batch_table(version.id), found).get(0, 0), kept)
        for meta in metas:
            if meta is not None and (meta := meta.pending or meta).position >= 0:
                refuse_stepped_back(who, self._log, topic, 0, meta.position, meta.extra.get(MARK, ""))
        self._agreed.add(version.id)

    def _advance_beside(
        self, version: BatchGroupVersion, metas: Sequence[ShardMeta | None], following: int
    ) -> BatchApplied:
        """Bring states that nobody reads yet, once they are whole, to where the others are."""
        positions = [meta.position for meta in metas if meta is not None and meta.backfilled]
        if len(positions) < version.shards or min(positions) >= following:
            return BatchApplied()
        done, runs = BatchApplied(), read_runs(self._log, version, min(positions), self._clock.now())
        if not runs:
            return done
        at_hand = {run.position: run for run in runs}
        for shard, position in enumerate(positions):
            done += self._apply_online(version, shard, position, runs, at_hand)
        return done + BatchApplied(lag=self._log.behind(staging_topic(version.id), 0, runs[-1].next).records)

    def _offline_position(self, version: BatchGroupVersion) -> tuple[int, int | None]:
        """The next run the offline table takes in, and the snapshot that says so."""
        table = batch_table(version.id)
        found = self._offline.snapshot(table)
        return held(table, found).get(0, 0), found.id if found else None

    def _state_offline(self, version: BatchGroupVersion, runs: Sequence[KeyedRun]) -> BatchApplied:
        """Append what some runs add offline, in one commit that also says which run comes next."""
        if not runs:
            return BatchApplied()
        position, snapshot = self._offline_position(version)
        runs = [run for run in runs if run.position >= position]
        self._stored[version.id] = position
        if not runs:
            return BatchApplied()
        added = restatements(self._offline, version, runs, snapshot)
        kept = mark(self._log, staging_topic(version.id), 0, runs[-1].next)
        properties = {POSITIONS: json.dumps({"0": runs[-1].next}), MARKS: json.dumps({"0": kept} if kept else {})}
        try:
            self._offline.append(batch_table(version.id), added, properties, snapshot)
        except Fenced:
            return BatchApplied(fenced=1)
        self._stored[version.id] = runs[-1].next
        return BatchApplied(runs=len(runs), rows=added.num_rows - len(runs))

    def _apply_online(
        self,
        version: BatchGroupVersion,
        shard: int,
        position: int,
        runs: Sequence[KeyedRun],
        at_hand: dict[int, KeyedRun],
    ) -> BatchApplied:
        """Apply the runs from a position on, where the shard must be."""
        done = BatchApplied()
        for run in (run for run in runs if run.position >= position):
            try:
                done += BatchApplied(written=self._apply_run(version, shard, position, run, at_hand))
            except Fenced:
                return done + BatchApplied(fenced=1)
            position = run.next
        return done

    def _apply_run(
        self, version: BatchGroupVersion, shard: int, position: int, run: KeyedRun, at_hand: dict[int, KeyedRun]
    ) -> int:
        """Write the states of one shard that one run changes, with the position of the next; it must be at `position`."""
        known = read_shard(self._online, version.states, shard).meta
        expected = None if known is None else known.position
        pending = None if known is None else known.pending
        meta = None if expected == BEGUN else known
        if meta is not None and meta.position != position:
            raise Fenced.moved(f"shard {shard} of '{version.id}'", position, meta.position)
        now = self._clock.now() if pending is None else pending.applied_at
        by, pruned = pruning(meta, now) if pending is None else (pruned_by(pending), {})
        fresh = fresh_rows(run, np.flatnonzero(run.shards == shard), by)
        answer = read_unmoved(self._online, version.states, shard, fresh.keys, expected)
        before, ahead = answer.values, {fresh.keys[place] for place in answer.ahead(expected)}
        confirmed = Confirmed.of({} if meta is None else meta.extra)
        if run.run.snapshot and (following := confirmed.following(run)) is not None:
            own = version.group.ttl is not None and confirmed.supersedes(run, now)
            hidden = confirmed.hides(run, by)
            changed: Items = [] if hidden else self._late_snapshot(version, shard, position, run, own, following, by)
        elif run.run.snapshot:
            others = self._others(version, shard, position, fresh.keys) if meta is not None else iter(())
            changed = snapshot_changes(run, fresh, before, others, by)
        else:
            others = (
                self._confirmed_before(version, shard, position, fresh, confirmed, at_hand)
                if meta is not None
                else iter(())
            )
            changed = dated_changes(fresh, before, others, confirmed, run.run.available, version.group.ttl, by)
        kept = mark(self._log, staging_topic(version.id), 0, run.next)
        facts = {**confirmed.after(run, now, by), **pruned, MARK: kept or None}
        after = pending or shard_after(version, meta or ShardMeta(epoch=1), run, facts, now)
        told = {key: state for key, state in changed if key not in ahead}  # a scan may give a key twice
        write_all(self._online, version.states, shard, list(told.items()), after, expected)
        return len(told)

    def _late_snapshot(
        self, version: BatchGroupVersion, shard: int, position: int, run: KeyedRun, own: bool, following: Times, by: int
    ) -> Items:
        """The states of a shard that a snapshot changes which comes after one that ranks before it.

        `own` says that its rows were confirmed by nothing but itself, `by` by which instant (µs) states are pruned.
        """
        gone = Row(*times_of(run), run.run.available if own else ACTIVE, b"")
        places = np.flatnonzero(run.shards == shard)
        values = run.values.take(places).to_pylist()
        rows = zip(run.keys.take(places).to_pylist(), values, strict=True)
        said = {key: gone._replace(values=value) for key, value in rows}
        states = chain.from_iterable(self._others(version, shard, position, ()))
        return late_snapshot_changes(said, gone, states, following, by)

    def _others(
        self, version: BatchGroupVersion, shard: int, position: int, without: Iterable[bytes]
    ) -> Iterator[Items]:
        """The states of a shard at a position, page by page, but for those of some keys."""
        present = set(without)
        for page in pages(self._online, version.states, shard, None, _PAGE):
            yield [item for item in page.behind(position) if item[0] not in present]

    def _confirmed_before(
        self,
        version: BatchGroupVersion,
        shard: int,
        position: int,
        fresh: Fresh,
        confirmed: Confirmed,
        at_hand: dict[int, KeyedRun],
    ) -> Iterator[Items]:
        """States of a shard at a position, but for those of fresh rows: at least all that the run before this one returned.

        Those are the keys of that run, if the log still has it; a shard that does not say which it was is read whole.
        """
        run = None if confirmed.by is None else self._run_at(version, confirmed.by, at_hand)
        if run is None:
            yield from self._others(version, shard, position, fresh.keys)
            return
        keys = run.keys.filter(pa.array(run.shards == shard)).unique().to_pylist()
        present = set(fresh.keys)
        keys = sorted(key for key in keys if key not in present)
        for begin in range(0, len(keys), _PAGE):
            page = keys[begin : begin + _PAGE]
            answer = read_unmoved(self._online, version.states, shard, page, position)
            ahead = answer.ahead(position)
            found = enumerate(zip(page, answer.values, strict=True))
            yield [(key, state) for place, (key, state) in found if state is not None and place not in ahead]

    def _run_at(self, version: BatchGroupVersion, position: int, at_hand: dict[int, KeyedRun]) -> KeyedRun | None:
        """The run at a position, read once for all shards, or None when the log has it no more."""
        if position not in at_hand and (run := run_at(self._log, version, position)) is not None:
            at_hand[position] = run
        return at_hand.get(position)

    def _tell(self, version: BatchGroupVersion, position: int) -> None:
        """Tell the log how far both stores are: information, and a bound for retention."""
        metas = shard_metas(self._online, version.states, version.shards)
        reached = min([self._stored[version.id], *(0 if meta is None else meta.position for meta in metas)])
        consumer, topic = ingestion_consumer(version.id), staging_topic(version.id)
        told = self._log.committed(consumer, topic)[0]
        if (told or 0) >= min(reached, position):
            return
        try:
            with self._worker.transaction() as work:
                work.commit(consumer, topic, 0, told, min(reached, position))
        except Fenced:
            return
