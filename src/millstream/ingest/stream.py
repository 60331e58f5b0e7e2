"""Stream ingestion: from the feature topics into the online store, exactly once.

A shard of the store says in its own meta what it has applied, and takes the next deltas together with the new positions
in one write. So a restart goes on from the store, never from what the log was told, and a replay adds nothing. Where a
store takes a write in pieces, the meta says beforehand what is being written, and whoever finds it so completes it.

Workers share the shards as the log says who owns the partitions of the feature topics. That saves work, and decides
nothing: one that has lost a shard may not know it, and what keeps its write out is the position that it has read, which
the store compares with that of the shard, whether it has locks or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import msgspec

from millstream.buffer.agreement import mark, refuse_stepped_back
from millstream.buffer.log import OwnLog
from millstream.buffer.parts import head_of
from millstream.buffer.reading import ends_of, through
from millstream.buffer.topics import feature_topic, ingestion_consumer
from millstream.buffer.worker import EveryPartition, Owned, Worker, changed
from millstream.clock import Clock
from millstream.definitions.feature_group import StreamFeatureGroup
from millstream.definitions.group_version import Group, GroupVersion
from millstream.errors import Fenced, MillstreamError, SteppedBack, StoreError
from millstream.fold import Deltas, States, decode_deltas, layout_of, merge
from millstream.fold.deltas import ranges_of
from millstream.fold.layout import AHEAD
from millstream.ingest.combine import combine
from millstream.ingest.delta_reads import DeltaRead, DeltaReader
from millstream.ingest.forgetting import Forgetting
from millstream.ingest.ranges import Events, Lacking, lacking
from millstream.ingest.writing import read_unmoved, write_all
from millstream.store.online import BEGUN, MARK, OnlineStore, ShardMeta

_DELAYS = 15  # writes whose delay a shard remembers
_QUIET = 3_600_000_000  # µs; a shard that was quiet for longer waits for a second arrival before it prunes by the first
_LIVE = 60_000_000  # µs; what arrived longer ago was loaded, or waited for a process that was down: not the usual delay


@dataclass(frozen=True)
class Applied:
    """What one step did.

    Args:
        records: delta records applied.
        keys: states merged into.
        written: states that changed and were written.
        waiting: group versions whose history has not been backfilled; their deltas stay in the buffer.
        fenced: writes given up because another writer had moved the shard; the next step reads it again.
        lag: about how many delta records are still in the buffer, those of waiting versions included.
        held: about how many those are.
        repeated: delta records left out because all that they hold had been applied before.
        refolded: delta records that were missing, or held in part what had been applied: the rest was folded again.
        forgotten: keys removed that no read needs any more.
    """

    records: int = 0
    keys: int = 0
    written: int = 0
    waiting: tuple[str, ...] = ()
    fenced: int = 0
    lag: int = 0
    held: int = 0
    repeated: int = 0
    refolded: int = 0
    forgotten: int = 0

    def __add__(self, other: Applied) -> Applied:
        return Applied(
            self.records + other.records,
            self.keys + other.keys,
            self.written + other.written,
            self.waiting + tuple(name for name in other.waiting if name not in self.waiting),
            self.fenced + other.fenced,
            self.lag + other.lag,
            self.held + other.held,
            self.repeated + other.repeated,
            self.refolded + other.refolded,
            self.forgotten + other.forgotten,
        )


class StreamIngester:
    """Applies the deltas of group versions to their online states; any number of workers share the shards.

    A version that began in the middle of its streams waits until backfill has brought what comes before.

    Args:
        log: the project's log.
        online: the store.
        group_versions: the versions to ingest; those without windowed features are left alone.
        clock: stamps what is written.
        beside: the builds that backfill makes beside versions that are read; it begins each, ingestion goes on.
        worker: says which shards are its own, by the partitions of the feature topics; who made it closes it. Every shard
            unless given, whoever else takes them.
        events: where events are read again that no delta brings, the project's history; without it they are an error.
        forget_after: how long (µs) a key whose windows are empty stays in the store.
    """

    def __init__(
        self,
        log: OwnLog,
        online: OnlineStore,
        group_versions: Iterable[GroupVersion[Group]],
        clock: Clock,
        *,
        beside: Iterable[GroupVersion[Group]] = (),
        worker: Worker | None = None,
        events: Events | None = None,
        forget_after: int = 86_400_000_000,
    ) -> None:
        self._log, self._online, self._clock, self._events = log, online, clock, events
        self._forgetting = Forgetting(online, clock, forget_after)
        self._beside = [version for version in beside if version.group.columns]
        self._versions = [version for version in group_versions if version.group.columns] + self._beside
        self._worker = worker or EveryPartition(log, [feature_topic(version.id) for version in self._versions])
        self._owned: Owned = {}
        self._reader = DeltaReader(log, clock)
        self._agreed: set[tuple[str, int]] = set()
        self._untold: dict[tuple[str, int], int] = {}

    def step(self) -> Applied:
        """Apply what the buffer holds, one write for each shard at most, and tell the log how far the store is.

        One damaged shard does not keep the others waiting: its error is raised after they are done.

        Raises:
            CorruptState: when a shard or a delta cannot be read; nothing of it was overwritten.
            StoreError: when deltas that the store needs are not in the log any more.
            SteppedBack: when the log is older than what the store has taken from it, or another one.
            DiskFull: when there is no room; nothing was written.
        """
        total, moved, failures = Applied(), dict[tuple[str, int], int](), list[MillstreamError]()
        owned = self._mine()
        versions = [version for version in self._versions if owned.get(feature_topic(version.id))]
        facts = self._online.facts({version.states: version.shards for version in versions}) if versions else {}
        ends = ends_of(self._log, [feature_topic(version.id) for version in versions])
        for version in versions:
            shards = zip(ends[feature_topic(version.id)], facts[version.states], strict=True)
            for shard, (end, fact) in enumerate(shards):
                if shard not in owned[feature_topic(version.id)]:
                    continue
                try:
                    if isinstance(fact, StoreError):
                        raise fact
                    applied, position = self._advance(version, shard, end, fact)
                except (StoreError, SteppedBack) as error:
                    failures.append(error)
                    continue
                total += applied
                if position is not None:
                    moved[version.id, shard] = min(position, moved.get((version.id, shard), position))
        self._untold |= moved
        self._tell()
        pairs = ((version, shard) for version in versions for shard in owned[feature_topic(version.id)])
        try:
            total += Applied(forgotten=self._forgetting.step((one, facts[one[0].states][one[1]]) for one in pairs))
        except StoreError as error:
            failures.append(error)
        if failures:
            raise failures[0]
        return total

    @property
    def forgetting(self) -> bool:
        """Whether keys that no read needs any more are still being looked for."""
        return self._forgetting.under_way

    def _mine(self) -> Owned:
        """What is this worker's now; of shards that come or go nothing is remembered."""
        owned = self._worker.assigned()
        gone = changed(self._owned, owned)
        for version in self._versions if gone else ():
            for shard in range(version.shards):
                if (feature_topic(version.id), shard) in gone:
                    self._reader.forget(version.id, shard)
                    self._agreed.discard((version.states, shard))
                    self._forgetting.leave(version.states, shard)
                    self._untold.pop((version.id, shard), None)
        self._owned = owned
        return owned

    def _advance(
        self, version: GroupVersion[Group], shard: int, ends: tuple[int, int], known: ShardMeta | None
    ) -> tuple[Applied, int | None]:
        """Apply some records to one shard; also its position after that, None where it has not moved."""
        first, following = ends
        topic = feature_topic(version.id)
        meta = None if known is None or known.position == BEGUN else known
        if following == first and meta is None:
            return Applied(), None
        if version in self._beside and (meta is None or not meta.backfilled):
            return Applied(), None
        begun = meta or self._first_meta(version, shard, ends)
        if begun is None or not begun.backfilled:
            held = self._log.behind(topic, shard, first).records
            return Applied(waiting=(version.id,), lag=held, held=held), None
        if begun.position < first:
            raise _lost(version.id, shard, begun.position, first)
        pending = None if known is None else known.pending
        self._refuse_stepped_back(version, shard, pending or begun, following)
        if begun.position == following:
            return Applied(), None
        if pending is None:
            read = self._reader.next(version.id, shard, begun.position, following, begun.applied)
        else:
            read = self._reader.up_to(version.id, shard, begun.position, pending.position)
        if read.reached == begun.position:
            return Applied(lag=self._lag(topic, shard, begun.position, following)), None
        try:
            applied = self._apply(version, shard, read, msgspec.structs.replace(begun, pending=pending), known)
        except Fenced:
            return Applied(fenced=1, lag=self._lag(topic, shard, begun.position, following)), None
        return applied + Applied(lag=self._lag(topic, shard, read.reached, following)), read.reached

    def _lag(self, topic: str, shard: int, position: int, following: int) -> int:
        """About how many records a shard has before it; 0 exactly when it stands at the end."""
        return max(1, self._log.behind(topic, shard, position).records) if position < following else 0

    def _refuse_stepped_back(self, version: GroupVersion[Group], shard: int, meta: ShardMeta, following: int) -> None:
        """At the first look at a shard, and whenever the log ends before what the shard has taken from it."""
        if meta.position <= following and (version.states, shard) in self._agreed:
            return
        who = f"Group version '{version.id}', shard {shard}"
        refuse_stepped_back(who, self._log, feature_topic(version.id), shard, meta.position, meta.extra.get(MARK, ""))
        for place, position in meta.applied.items():
            stream, _, partition = place.rpartition("/")
            if stream in self._log.topics():
                refuse_stepped_back(who, self._log, stream, int(partition), position)
        self._agreed.add((version.states, shard))

    def _first_meta(self, version: GroupVersion[Group], shard: int, ends: tuple[int, int]) -> ShardMeta | None:
        """Where a shard that does not exist yet begins, or None when its history has to come first."""
        first, following = ends
        if first > 0:
            return None
        begun = next(through(self._log, feature_topic(version.id), shard, first, following, 1), None)
        if begun is None:
            return None
        starts = ranges_of(head_of(begun.payloads[0])).values()
        if isinstance(version.group, StreamFeatureGroup) and any(start > 0 for start, _ in starts):
            return None
        return ShardMeta(position=first, backfilled=True, epoch=1)

    def _apply(
        self,
        version: GroupVersion[Group],
        shard: int,
        read: DeltaRead,
        meta: ShardMeta,
        known: ShardMeta | None,
    ) -> Applied:
        """Merge some delta records into the states and write what changed, with the positions.

        What another writer has begun to write is made again as that one made it, as of its time.
        """
        now = self._clock.now() if meta.pending is None else meta.pending.applied_at
        found = [decode_deltas(record) for record in read.records]
        lacks = lacking(version, shard, meta.applied, found, self._events, now, read.torn)
        done = Applied(records=len(read.records), repeated=lacks.repeated, refolded=lacks.refolded)
        after = meta.pending or self._after(version, shard, read.reached, meta, lacks, now)
        if after.applied != lacks.applied:
            raise _not_pending(version.id, shard, after)
        expected = None if known is None else known.position
        if not lacks.deltas:  # a gap, or repeats
            write_all(self._online, version.states, shard, [], after, expected)
            return done
        layout = layout_of(version.group)
        limit, to = _corroborated(meta, lacks.deltas, now)
        bounded = [replace(delta, states=delta.states.held_back(limit, to)) for delta in lacks.deltas]
        keys, added = combine(layout, bounded)
        answer = read_unmoved(self._online, version.states, shard, keys, expected)
        before, ahead = answer.values, answer.ahead(expected)
        states = merge(layout, States.from_bytes(before).held_back(limit, to), added, whole=True).to_bytes()
        changed = [(key, new) for key, old, new in zip(keys, before, states, strict=True) if new != old]
        if ahead:
            held = {keys[place] for place in ahead}
            changed = [change for change in changed if change[0] not in held]
        write_all(self._online, version.states, shard, changed, after, expected)
        return done + Applied(keys=len(keys), written=len(changed))

    def _after(
        self, version: GroupVersion[Group], shard: int, reached: int, meta: ShardMeta, lacks: Lacking, now: int
    ) -> ShardMeta:
        """The meta of a shard once what it lacks is in."""
        kept = mark(self._log, feature_topic(version.id), shard, reached)
        extra = {**meta.extra, MARK: kept} if kept else meta.extra
        moved = msgspec.structs.replace(meta, position=reached, applied=lacks.applied, extra=extra)
        if not lacks.deltas:
            return moved
        newest = max(int(delta.states.newest.max(initial=0)) for delta in lacks.deltas)
        return self._forgetting.noted(version, _after(moved, lacks.deltas, now), newest, now)

    def _tell(self) -> None:
        """Tell the log how far the store is, after the fact; what another worker hinders is told after the next step."""
        if not self._untold:
            return
        told = {gv: self._log.committed(ingestion_consumer(gv), feature_topic(gv)) for gv, _ in self._untold}
        try:
            with self._worker.transaction() as work:
                for (gv, shard), position in self._untold.items():
                    if (told[gv][shard] or 0) < position:
                        work.commit(ingestion_consumer(gv), feature_topic(gv), shard, told[gv][shard], position)
        except Fenced:
            return
        self._untold.clear()


def _after(meta: ShardMeta, deltas: Sequence[Deltas], now: int) -> ShardMeta:
    """The meta once some deltas are in."""
    newest = max(meta.newest_arrival, *(delta.newest_arrival for delta in deltas))
    delay = max(0, now - sum(delta.newest_arrival for delta in deltas) // len(deltas))
    delays = (*meta.delays, delay)[-_DELAYS:] if delay <= _LIVE else meta.delays
    return msgspec.structs.replace(meta, newest_arrival=newest, delays=delays, applied_at=max(meta.applied_at, now))


def _corroborated(meta: ShardMeta, deltas: Sequence[Deltas], now: int) -> tuple[int, int]:
    """The instant (µs) beyond which nothing may prune states in this write, and the one to prune by instead.

    The clock may have been ahead when an event was taken. So it takes a second record of deltas, or a write before, that
    arrived as late less an hour; and what the clock has not reached now prunes by now.
    """
    *before, last = sorted(delta.newest_arrival for delta in deltas)
    known = max([meta.newest_arrival, *before]) or last
    limit, to = known + _QUIET, known
    return (now + AHEAD, min(now, to)) if limit > now + AHEAD else (limit, to)


def _lost(gv: str, shard: int, position: int, first: int) -> StoreError:
    return StoreError(
        f"Group version '{gv}', shard {shard}: the store is at {position}, but the buffer begins at {first}; "
        "the deltas between are gone.",
        f"run `millstream backfill {gv.partition('@')[0]}` to build the store anew.",
    )


def _not_pending(gv: str, shard: int, pending: ShardMeta) -> StoreError:
    return StoreError(
        f"Group version '{gv}', shard {shard}: its values are being written up to position {pending.position}, but the "
        "deltas up to there are not those that the writer had.",
        f"run `millstream backfill {gv.partition('@')[0]}` to build the store anew.",
    )
