"""Where the stores of a project have read more of its log, or of another log, than there is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from millstream.buffer.agreement import disagreement
from millstream.buffer.log import OwnLog
from millstream.buffer.topics import batch_table, event_table, feature_topic, staging_topic
from millstream.definitions.feature_group import BatchFeatureGroup
from millstream.definitions.group_version import GroupVersion
from millstream.definitions.source import EventStream
from millstream.history.events import marks_of, positions_of
from millstream.store.offline import OfflineStore
from millstream.store.online import MARK, Fact, OnlineStore, ShardMeta


def online_ahead(log: OwnLog, online: OnlineStore, versions: Iterable[GroupVersion]) -> list[str]:
    """Return, for each group version whose online states are of a later or another log, how the log differs.

    Args:
        log: the project's log.
        online: the online store.
        versions: the group versions to look at, all asked for at once.

    Raises:
        StoreError: when the store cannot be reached.
    """
    topics, every, found = log.topics(), list(versions), list[str]()
    facts = online.facts({version.states: version.shards for version in every})
    for version in every:
        for what in _shards(log, facts[version.states], version, topics):
            found.append(f"Group version '{version.id}': {what}.")
            break
    return found


def archive_ahead(log: OwnLog, offline: OfflineStore, streams: Iterable[EventStream]) -> list[str]:
    """Return, for each stream whose archive is of a later or another log, how the log differs.

    Args:
        log: the project's log.
        offline: where the archive is.
        streams: the streams to look at; one that nothing is archived of does not differ.
    """
    topics, found = log.topics(), []
    for stream in streams:
        snapshot = offline.snapshot(event_table(stream.name))
        if snapshot is None:
            continue
        marks = marks_of(snapshot.properties)
        for partition, position in positions_of(snapshot.properties).items():
            kept = marks.get(partition, "")
            what = _kept(log, topics, stream.name, partition, position, kept) if position else None
            if what is not None:
                found.append(f"Archive of '{stream.name}': {what}.")
                break
    return found


def stated_ahead(log: OwnLog, offline: OfflineStore, versions: Iterable[GroupVersion]) -> list[str]:
    """Return, for each version of a query whose offline table is of a later or another log, how the log differs.

    Args:
        log: the project's log.
        offline: the offline store.
        versions: the versions to look at, those of queries; one without a table does not differ.
    """
    topics, found = log.topics(), []
    for version in versions:
        snapshot = offline.snapshot(batch_table(version.id))
        position = positions_of(snapshot.properties).get(0, 0) if snapshot else 0
        if snapshot is None or not position:
            continue
        topic = staging_topic(version.id)
        what = _kept(log, topics, topic, 0, position, marks_of(snapshot.properties).get(0, ""))
        if what is not None:
            found.append(f"Offline table of '{version.id}': {what}.")
    return found


def _kept(log: OwnLog, topics: dict[str, int], topic: str, partition: int, position: int, kept: str = "") -> str | None:
    """How a log differs from the one that a position was kept of, where the topic may be gone altogether."""
    if topic in topics:
        return disagreement(log, topic, partition, position, kept)
    return f"topic '{topic}' is not in the log" if position else None


def _shards(log: OwnLog, facts: Sequence[Fact], version: GroupVersion, topics: dict[str, int]) -> Iterator[str]:
    stated = isinstance(version.group, BatchFeatureGroup) and version.group.query is not None
    streams = {one.name for one in version.group.sources if isinstance(one, EventStream)}
    for shard, meta in enumerate(facts):
        if not isinstance(meta, ShardMeta):  # it is not there yet, or damaged, which is told of elsewhere
            continue
        if not meta.backfilled or meta.position < 0:
            continue
        meta = meta.pending or meta
        place = (staging_topic(version.id), 0) if stated else (feature_topic(version.id), shard)
        looks = [_kept(log, topics, *place, meta.position, meta.extra.get(MARK, ""))]
        for applied, position in meta.applied.items():
            stream, _, partition = applied.rpartition("/")
            if stream in streams and not stated:  # else a table, whose positions are instants
                looks.append(_kept(log, topics, stream, int(partition), position))
        yield from (what for what in looks if what is not None)
