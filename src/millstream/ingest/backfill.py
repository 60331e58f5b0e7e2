"""Backfill: the history before a group version's start markers, folded into the online store.

It is the one place that computes and stores at once. Each shard carries the number of the attempt that fills it, so
two attempts cannot mix; ingestion leaves the shards alone until all are complete, then goes on from the first delta.
Killed anywhere, it starts over with empty shards, or only opens what was complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import msgspec
import pyarrow as pa

from millstream.buffer.computed import computed_positions
from millstream.buffer.lag import records_before
from millstream.buffer.log import OwnLog
from millstream.buffer.marks import Marks
from millstream.buffer.topics import attempts_mark, feature_topic, goal_mark
from millstream.clock import Clock
from millstream.computing.deltas import by_shard, fold_keys
from millstream.computing.micro_batch import group_letters
from millstream.computing.start_markers import start_markers
from millstream.definitions.group_version import StreamGroupVersion
from millstream.definitions.source import EventStream
from millstream.errors import Fenced, StoreError
from millstream.fold import States, layout_of, merge, prepare
from millstream.ingest.combine import combine
from millstream.ingest.history_letters import HistoryLetters
from millstream.ingest.writing import FILLING, write_all
from millstream.store.online import BulkLoad, OnlineStore, ShardMeta, read_shard, readable_metas, shard_metas

_FILLING = -(1 << 62)  # positions of shards that are being filled are above this, and negative
_KEY = 64  # bytes that a key takes in memory beside its own
_ATTEMPTS = "attempts"  # the place of the mark that counts them
_FOLDED = "folded"  # a fact of a shard that holds the whole history, while others may not yet


class History(Protocol):
    """What backfill asks of the past."""

    def chunks(self, stream: EventStream, upto: Mapping[int, int], rows: int) -> Iterator[pa.Table]:
        """The valid events of a stream before a position of each partition, without repeats, some rows at a time.

        Args:
            stream: the stream, as the group version declares it.
            upto: by partition, the position before which to read; nothing is read of a partition that is not named.
            rows: the most rows of a table, about.
        """
        ...


class Lifecycle(Protocol):
    """What backfill asks of the registry."""

    def set_state(self, gv: str, state: str) -> None:
        """Note where a group version is: "new", "backfilling", "live" or "retired"."""
        ...

    def go_live(self, gv: str) -> bool:
        """Say that a group version can be read, and read it where none is pinned if it is the declared one."""
        ...


@dataclass(frozen=True)
class Backfilled:
    """What a backfill did: events folded and those it could not fold, which are dead letters now."""

    events: int = 0
    dead: int = 0


@dataclass(frozen=True)
class Handover:
    """Where backfill ends and ingestion begins: source positions, and the feature positions that continue them.

    Computing began at the `markers`, which lie before that when states are built anew.
    """

    applied: dict[str, int]
    positions: tuple[int, ...]
    markers: dict[str, int]

    def before(self, stream: str) -> dict[int, int]:
        """By partition of a stream, the position before which everything is backfill's."""
        places = {tuple(place.rsplit("/", 1)): position for place, position in self.applied.items()}
        return {int(partition): position for (name, partition), position in places.items() if name == stream}


def fold_history(
    version: StreamGroupVersion,
    history: History,
    online: OnlineStore,
    log: OwnLog,
    marks: Marks,
    registry: Lifecycle,
    clock: Clock,
    progress: Callable[[int, int], None] | None = None,
    *,
    anew: bool = False,
    rows: int = 200_000,
    held: int = 64 << 20,
) -> Backfilled:
    """Fold all history before a version's start markers into its online states, so that ingestion can go on from there.

    Called for every new version; calling it again continues what a dead process left, and does nothing once it is
    complete. `go_live` makes the version the default when ingestion has caught up.

    Args:
        version: the group version; it has been started.
        history: the events of its streams.
        online: the store to fill.
        log: the project's log.
        marks: the project's marks.
        registry: is told the state of the version.
        clock: stamps what is written.
        progress: is called with the events folded so far and about how many there are.
        anew: whether it is a build beside one that is read: of all history, up to where computing is now.
        rows: events to fold at once.
        held: bytes of keys and states to gather in memory before they are written (64 MiB): keys come in any order,
            so a write meets nearly every page that a shard has, and few large ones keep the time per key the same.

    Returns:
        Backfilled: what was done by this call.

    Raises:
        StoreError: when the version has not been started.
        Fenced: when another backfill of the version has begun meanwhile.
        DiskFull: when there is no room.
    """
    handover = _handover(log, marks, version, anew)
    if not anew and not any(handover.applied.values()):
        return Backfilled()  # nothing came before: ingestion begins with the first delta
    shards = _filled(version, online, log)
    if all(meta is not None and meta.backfilled for meta in shards):
        return Backfilled()
    if not anew:
        registry.set_state(version.id, "backfilling")
    if all(meta is not None and (meta.backfilled or _FOLDED in meta.extra) for meta in shards):
        _open_shards(version, online)
        return Backfilled()
    filler = _Filler(version, online, log, marks, clock, handover, held)
    events = dead = 0
    total = sum(records_before(log, one.name, handover.before(one.name)) for one in _streams(version))
    for stream in _streams(version):
        for chunk in history.chunks(stream, handover.before(stream.name), rows=rows):
            dead += filler.add(stream, chunk)
            events += chunk.num_rows
            if progress:
                progress(events, max(events, total))
    filler.close()
    _open_shards(version, online)
    return Backfilled(events, dead)


def go_live(version: StreamGroupVersion, online: OnlineStore, log: OwnLog, marks: Marks, registry: Lifecycle) -> bool:
    """Make a new version live, once the store holds all that had arrived when this was first asked.

    Called again and again after `fold_history`, while computing and ingestion go on.

    Args:
        version: the group version, whose history is being folded or has been.
        online: the store that is filled.
        log: the project's log, which says where the streams end when this is first asked.
        marks: the project's marks, which keep that.
        registry: makes it live.

    Returns:
        bool: whether the version is live now.
    """
    shards = shard_metas(online, version.states, version.shards)
    if not all(meta is not None and meta.backfilled for meta in shards):
        return False
    goal = _goal(log, marks, version)
    if any(meta is None or meta.applied.get(place, 0) < at for meta in shards for place, at in goal.items()):
        return False
    return registry.go_live(version.id)


def caught_up(version: StreamGroupVersion, read: StreamGroupVersion, online: OnlineStore, log: OwnLog) -> bool:
    """Whether a build made beside the one that is read holds all that that one holds, or all there is if it is damaged.

    Called again and again after `fold_history`, while computing and ingestion go on.

    Args:
        version: the group version with the states of the build.
        read: the same group version with the states that are read.
        online: the store of both.
        log: the project's log, which says where the feature topic ends.
    """
    ends = [following for _, following in log.ends(feature_topic(version.id))]
    mine, theirs = shard_metas(online, version.states, version.shards), readable_metas(online, read.states, read.shards)
    for meta, known, end in zip(mine, theirs, ends, strict=True):
        if meta is None or not meta.backfilled or meta.position < (end if known is None else known.position):
            return False
    return True


def _filled(version: StreamGroupVersion, online: OnlineStore, log: OwnLog) -> list[ShardMeta | None]:
    """What the shards hold, None for one that has to be filled anew: it cannot be read, or its next deltas are gone."""
    metas, ends = readable_metas(online, version.states, version.shards), log.ends(feature_topic(version.id))
    return [
        None if meta is not None and 0 <= meta.position < first else meta
        for meta, (first, _) in zip(metas, ends, strict=True)
    ]


def _streams(version: StreamGroupVersion) -> list[EventStream]:
    return [source for source in version.group.sources if isinstance(source, EventStream)]


def _handover(log: OwnLog, marks: Marks, version: StreamGroupVersion, anew: bool) -> Handover:
    """The start markers with the beginning of the feature topic; anew, or once that is trimmed, where computing is."""
    names = [stream.name for stream in _streams(version)]
    markers = start_markers(marks, version.id)
    if markers is None:
        raise StoreError(
            f"Group version '{version.id}' has no start markers; backfill does not know where to stop.",
            "apply the group, which starts it.",
        )
    ends = log.ends(feature_topic(version.id))
    if not anew and all(first == 0 for first, _ in ends):
        return Handover(markers, (0,) * version.shards, markers)
    while True:
        before = computed_positions(log, version.id, names)
        ends = log.ends(feature_topic(version.id))
        if before is not None and before == computed_positions(log, version.id, names):
            return Handover(before, tuple(following for _, following in ends), markers)


def _goal(log: OwnLog, marks: Marks, version: StreamGroupVersion) -> dict[str, int]:
    """The ends of the sources when this was first asked, or now where the log is a shorter one since."""
    kept = marks.read(goal_mark(version.id))
    ends = {
        f"{stream.name}/{partition}": following
        for stream in _streams(version)
        for partition, (_, following) in enumerate(log.ends(stream.name))
    }
    unmarked = {place: at for place, at in ends.items() if place not in kept}
    if unmarked:
        try:
            marks.move(goal_mark(version.id), kept, unmarked)
        except Fenced:  # whoever asked meanwhile was first
            return _goal(log, marks, version)
    return {place: min(kept.get(place, at), at) for place, at in ends.items()}


def _open_shards(version: StreamGroupVersion, online: OnlineStore) -> None:
    """Let ingestion have the shards, all of which are complete."""
    for shard, meta in enumerate(shard_metas(online, version.states, version.shards)):
        if meta is not None and not meta.backfilled:
            extra = {name: fact for name, fact in meta.extra.items() if name != _FOLDED}
            opened = msgspec.structs.replace(meta, backfilled=True, extra=extra)
            online.write(version.states, shard, [], opened, meta.position)


class _Part(NamedTuple):
    """What a chunk adds to the states of some keys of a shard."""

    keys: list[bytes]
    states: States

    @property
    def size(self) -> int:
        """About how many bytes it takes in memory."""
        return 8 * int(self.states.offsets[-1]) + sum(map(len, self.keys)) + _KEY * len(self.keys)


class _Filler:
    """One attempt: empties the shards, then adds chunk after chunk, many in one write.

    Until the end a shard's position is negative and tells the attempt and the write, so whoever else writes is refused;
    it grows from each to the next.
    """

    def __init__(
        self,
        version: StreamGroupVersion,
        online: OnlineStore,
        log: OwnLog,
        marks: Marks,
        clock: Clock,
        handover: Handover,
        most: int,
    ) -> None:
        self._version, self._online, self._marks, self._clock, self._handover = version, online, marks, clock, handover
        self._attempt = self._next_attempt()
        self._writes = 0
        self._newest = 0
        self._parts: list[list[_Part]] = [[] for _ in range(version.shards)]
        self._held, self._most = 0, most
        online.drop(version.states)
        self._at: list[int | None] = [None] * version.shards
        for shard in range(version.shards):
            self._put(shard, [])
        self._letters = HistoryLetters(log, marks, version.id, _streams(version), handover.markers)

    def add(self, stream: EventStream, chunk: pa.Table) -> int:
        """Fold the events of a chunk and merge them in; returns how many are dead letters."""
        if not chunk.num_rows:
            return 0
        (prepared,) = prepare([self._version.group], stream, chunk)
        self._newest = max(self._newest, int(chunk["_arrival"].to_numpy().max()))
        keys, states = fold_keys(self._version, prepared, self._clock.now())
        for shard, (mine, part) in enumerate(by_shard(keys, states, self._version.shards)):
            if mine:
                self._parts[shard].append(_Part(mine, part))
                self._held += self._parts[shard][-1].size
        if self._held >= self._most:
            self._flush()
        letters = group_letters(stream, chunk, self._version.id, prepared.dead)
        self._letters.write(stream.name, letters)
        return len(letters)

    def close(self) -> None:
        """Say of every shard that it is complete and where its deltas continue."""
        self._flush()
        for shard, position in enumerate(self._handover.positions):
            meta = ShardMeta(
                position=position, applied=self._handover.applied, newest_arrival=self._newest,
                applied_at=self._clock.now(), epoch=self._attempt, extra={_FOLDED: "yes"},
            )  # fmt: skip
            self._online.write(self._version.states, shard, [], meta, self._at[shard])

    def _next_attempt(self) -> int:
        """The number of this attempt; a mark counts them, and gives each once."""
        mark = attempts_mark(self._version.id)
        known = self._marks.read(mark)
        number = known.get(_ATTEMPTS, 0) + 1
        self._marks.move(mark, known, {_ATTEMPTS: number})
        return number

    def _flush(self) -> None:
        """Merge what was gathered into the shards."""
        layout = layout_of(self._version.group)
        for shard, parts in enumerate(self._parts):
            if not parts:
                continue
            keys, added = combine(layout, parts)
            parts.clear()
            before = read_shard(self._online, self._version.states, shard, keys).values
            states = merge(layout, States.from_bytes(before), added)
            self._put(shard, list(zip(keys, states.to_bytes(), strict=True)))
        self._held = 0

    def _put(self, shard: int, items: list[tuple[bytes, bytes]]) -> None:
        position = _FILLING + (self._attempt << 32 | self._writes)
        meta = ShardMeta(position=position, applied_at=self._clock.now(), epoch=self._attempt)
        before = self._at[shard]
        if isinstance(self._online, BulkLoad) and before is not None:
            self._online.load(self._version.states, shard, items, meta, before)
        else:
            write_all(self._online, self._version.states, shard, items, meta, before, FILLING)
        self._at[shard] = position
        self._writes += 1
