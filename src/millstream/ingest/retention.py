"""What the log forgets: events, deltas, dead letters and captures that are old, and that nobody needs any more."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Protocol

from millstream.buffer.log import Limited
from millstream.errors import StoreError

if TYPE_CHECKING:
    from millstream.buffer.log import OwnLog
    from millstream.clock import Clock
    from millstream.definitions.group_version import GroupVersion
    from millstream.definitions.source import EventStream
    from millstream.registry.definitions import Registry
    from millstream.settings import Settings
    from millstream.store.offline import OfflineStore
    from millstream.store.online import OnlineStore

DAY = 86_400_000_000
"""How long (µs) deltas and runs stay in the buffer at least."""
WEEK = 7 * DAY
"""How long (µs) dead letters and captures stay in the buffer at least."""
PRESSED = 0.8
"""How full the log is when it counts as nearly full: then what is archived and used goes before its time."""


class Pipeline(Protocol):
    """What retention looks at."""

    @property
    def log(self) -> OwnLog:
        """What forgets."""
        ...

    @property
    def registry(self) -> Registry:
        """Which streams and group versions there are."""
        ...

    @property
    def online(self) -> OnlineStore:
        """Where deltas and runs go."""
        ...

    @property
    def offline(self) -> OfflineStore:
        """Where everything is kept that the log forgets."""
        ...

    @property
    def clock(self) -> Clock:
        """What old means."""
        ...

    @property
    def settings(self) -> Settings:
        """How often stores are synced."""
        ...


def trim(parts: Pipeline) -> int:
    """Let the log forget what is old and nobody needs any more; returns how many positions.

    Events go when they are older than their retention, archived and computed. Deltas and runs go when they are
    ingested and, for deltas, an earlier sync has seen them; not before a day or two syncs have passed, so that a store
    which lost its last minutes finds them still there. Dead letters and captures go a week after they came, archived.
    When the log is nearly full all of that goes at once, rather than that producers are refused.
    """
    from millstream.buffer.retention import reached, trim_consumed, trim_older
    from millstream.buffer.topics import ARCHIVE, CAPTURES, DEAD, event_table

    log, clock, versions = parts.log, parts.clock, parts.registry.groups()
    trimmed, full = 0, pressed(parts)
    for stream in parts.registry.streams():
        consumers = [ARCHIVE, *computing_consumers(stream, versions)]
        held = _archived(parts, stream.name, event_table(stream.name))
        trimmed += trim_consumed(log, stream, consumers, clock, early=full, archived=held)
    topics = log.topics()
    for version in versions:
        for topic, needed in _ingested(parts, version, topics):
            trimmed += trim_older(log, topic, needed, -1 if full else max(DAY, 2 * parts.settings.sync_every), clock)
    for topic in topics:
        if topic.startswith((DEAD, CAPTURES)):
            needed = reached(log, topic, [ARCHIVE], _archived(parts, topic, topic))
            trimmed += trim_older(log, topic, needed, -1 if full else WEEK, clock)
    return trimmed


def pressed(parts: Pipeline) -> bool:
    """Whether the log is nearly full."""
    return isinstance(parts.log, Limited) and parts.log.filled() >= PRESSED


def computing_consumers(stream: EventStream, versions: Collection[GroupVersion]) -> list[str]:
    """The consumers that compute a stream."""
    from millstream.buffer.topics import CHECK, computing_consumer
    from millstream.definitions.feature_group import StreamFeatureGroup

    of_groups = [
        computing_consumer(one.id)
        for one in versions
        if isinstance(one.group, StreamFeatureGroup) and stream.name in {source.name for source in one.group.sources}
    ]
    return [CHECK, *of_groups]


def _archived(parts: Pipeline, topic: str, table: str) -> list[int | None] | None:
    """By partition of a topic, how far its archive is; None on an atomic log, which the archiver tells that as well."""
    from millstream.history.events import held

    if parts.log.atomic:
        return None
    positions = held(table, parts.offline.snapshot(table))
    return [positions.get(partition) for partition in range(len(parts.log.ends(topic)))]


def _ingested(
    parts: Pipeline, version: GroupVersion, topics: Collection[str]
) -> Iterator[tuple[str, list[int | None]]]:
    """The topics of a group version, each with the positions that both stores are past; None while one is built."""
    from millstream.buffer.topics import feature_topic, ingestion_consumer, staging_topic
    from millstream.definitions.feature_group import StreamFeatureGroup

    stored = _stored(parts, version)
    beside = stored if version.beside is None else _stored(parts, version.beside)
    if stored is None or beside is None:
        return
    stored = [min(both) for both in zip(stored, beside, strict=True)]
    told = ingestion_consumer(version.id)
    if (topic := staging_topic(version.id)) in topics:
        yield topic, [_least(parts.log.committed(told, topic)[0], *stored)]
    if (topic := feature_topic(version.id)) in topics:
        rows = [parts.log.committed(told, topic), stored]
        if isinstance(version.group, StreamFeatureGroup):
            rows.append(_synced(parts, version))
        yield topic, [_least(*row) for row in zip(*rows, strict=True)]


def _stored(parts: Pipeline, version: GroupVersion) -> list[int] | None:
    """By shard, the feature position that is applied; None while one is built or cannot be read."""
    from millstream.store.online import shard_metas

    try:
        metas = shard_metas(parts.online, version.states, version.shards)
    except StoreError:
        return None  # a shard that cannot be read will need what the buffer holds
    stored = [meta.position for meta in metas if meta is not None and meta.backfilled]
    return stored if len(stored) == version.shards else None


def _synced(parts: Pipeline, version: GroupVersion) -> list[int | None]:
    """By shard, the feature position that the last sync has seen."""
    from millstream.buffer.topics import feature_table
    from millstream.history.events import positions_of

    snapshot = parts.offline.snapshot(feature_table(version.id))
    synced = positions_of(snapshot.properties) if snapshot else {}
    return [synced.get(shard) for shard in range(version.shards)]


def _least(*positions: int | None) -> int | None:
    return None if None in positions else min(at for at in positions if at is not None)
