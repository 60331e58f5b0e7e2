"""Where the stores of a project have read more of its log, or of another log, than there is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from millstream.buffer.agreement import disagreement
from millstream.buffer.log import Log
from millstream.buffer.topics import event_table, feature_topic
from millstream.definitions.group_version import GroupVersion
from millstream.definitions.source import EventStream
from millstream.errors import MillstreamError
from millstream.history.events import marks_of, positions_of
from millstream.store.offline import OfflineStore
from millstream.store.online import MARK, OnlineStore


class ListedLog(Log, Protocol):
    """A log whose topics can be listed."""

    def topics(self) -> dict[str, int]:
        """Return all topics with their numbers of partitions."""
        ...


def online_ahead(log: ListedLog, online: OnlineStore, versions: Iterable[GroupVersion]) -> list[str]:
    """Return, for each group version whose online states are of a later or another log, how the log differs."""
    topics = log.topics()
    found = []
    for version in versions:
        for what in _shards(log, online, version, topics):
            found.append(f"Group version '{version.id}': {what}.")
            break
    return found


def archive_ahead(log: ListedLog, offline: OfflineStore, streams: Iterable[EventStream]) -> list[str]:
    """Return, for each stream whose archive is of a later or another log, how the log differs."""
    topics, found = log.topics(), []
    for stream in streams:
        snapshot = offline.snapshot(event_table(stream.name))
        if snapshot is None:
            continue
        marks = marks_of(snapshot.properties)
        for partition, position in positions_of(snapshot.properties).items():
            if position and stream.name not in topics:
                what: str | None = f"topic '{stream.name}' is not in the log"
            else:
                what = (
                    disagreement(log, stream.name, partition, position, marks.get(partition, "")) if position else None
                )
            if what is not None:
                found.append(f"Archive of '{stream.name}': {what}.")
                break
    return found


def _differs(log: ListedLog, topic: str, partition: int, position: int, kept: str) -> str | None:
    """How a log differs from the one that an archive was filled from, or what neither of them holds."""
    first = log.ends(topic)[partition][0]
    if position < first:
        return f"it ends at {position} and topic '{topic}', partition {partition} begins at {first}: what is between is lost"
    return disagreement(log, topic, partition, position, kept) if position else None


def _shards(log: ListedLog, online: OnlineStore, version: GroupVersion, topics: dict[str, int]) -> Iterator[str]:
    topic = feature_topic(version.id)
    for shard in range(version.shards):
        try:
            meta = online.meta(version.states, shard)
        except MillstreamError:
            continue  # a shard that cannot be read is told of elsewhere
        if meta is None or not meta.backfilled or meta.position < 0:
            continue
        if topic in topics and shard < topics[topic]:
            what = disagreement(log, topic, shard, meta.position, meta.extra.get(MARK, ""))
            if what is not None:
                yield what
        streams = {one.name for one in version.group.sources if isinstance(one, EventStream)}
        for place, position in meta.applied.items():
            stream, _, partition = place.rpartition("/")
            if stream not in streams:
                continue  # a table, whose positions are instants
            if stream in topics and int(partition) < topics[stream]:
                what = disagreement(log, stream, int(partition), position)
            else:
                what = f"topic '{stream}' is not in the log" if position else None
            if what is not None:
                yield what
