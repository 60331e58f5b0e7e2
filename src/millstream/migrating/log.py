"""The log in another place: the same topics, which go on beyond where they ended, and begin with nothing.

All that a log holds is in the stores and the archive by then. They know its positions, and so do the marks. Positions only
have to increase. So each partition of the new log goes on beyond the end of the old one, and nobody else need know.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from millstream.buffer.log import Batch, Continuing, OwnLog
from millstream.buffer.reading import through
from millstream.buffer.topics import (
    ARCHIVE,
    CHECK,
    INTAKE,
    REGISTRY,
    computing_consumer,
    feature_topic,
    ingestion_consumer,
    intake_topic,
    left_mark,
    moved_mark,
)
from millstream.definitions.feature_group import StreamFeatureGroup
from millstream.definitions.source import EventStream
from millstream.errors import ProjectError
from millstream.history.registered import note_registry
from millstream.store.online import metas_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from millstream.buffer.marks import Marks
    from millstream.definitions.group_version import GroupVersion
    from millstream.project.parts import Parts
    from millstream.store.online import ShardMeta


def move_log(source: Parts, target: Parts, moved: Callable[[int], None]) -> dict[str, int]:
    """Let the log of a project go on in another place.

    What is there is an earlier attempt's, and is dropped.

    Args:
        source: the project as it is, of whose log nothing is left to be taken.
        target: the project as it shall be.
        moved: called with how many more partitions are there.

    Returns:
        How many topics, partitions and notes there are.

    Raises:
        ProjectError: when a foreign source is half taken in.
    """
    old, new = source.log, target.log
    for topic in new.topics():
        new.drop(topic)
    bases: dict[str, int] = {}
    topics = old.topics()
    intakes = {intake_topic(stream.name): stream.name for stream in source.registry.streams()}
    kept = {topic: partitions for topic, partitions in topics.items() if topic != REGISTRY and topic not in intakes}
    for topic, partitions in kept.items():
        new.create(topic, partitions)
        for partition, (_, following) in enumerate(old.ends(topic)):
            assert isinstance(new, Continuing)
            bases[f"{topic}/{partition}"] = new.begin_beyond(topic, partition, following)
            moved(1)
    _commit(source, new, bases)
    notes = sum(_begun(source, new, version, metas, bases) for version, metas in _folded(source, kept))
    notes += sum(_taken(old, new, stream) for topic, stream in intakes.items() if topic in topics)
    _mark(source, bases)
    note_registry(new, source.registry, anew=True)
    return {"topics": len(kept), "partitions": len(bases), "notes": notes}


def partitions_of(parts: Parts) -> int:
    """How many partitions the topics of a project's log have."""
    return sum(partitions for topic, partitions in parts.log.topics().items() if topic != REGISTRY)


def _folded(source: Parts, topics: dict[str, int]) -> Iterator[tuple[GroupVersion, list[ShardMeta | None]]]:
    """The group versions that have a feature topic, with what their shards have applied."""
    versions = [one for one in source.registry.groups() if feature_topic(one.id) in topics]
    yield from zip(versions, metas_of(source.online, versions), strict=True)


def _begun(
    source: Parts, log: OwnLog, version: GroupVersion, metas: list[ShardMeta | None], bases: dict[str, int]
) -> int:
    """Write into each partition of a feature topic that nothing came between the end of one log and the beginning of the other.

    Where computing stands is read off that record, and each shard moves on by it. A fold on a schedule stays where it is: what
    it has not folded yet is in the archive.
    """
    from millstream.computing.start_markers import NO_ARRIVAL, no_states
    from millstream.fold import encode_deltas

    live = isinstance(version.group, StreamFeatureGroup)
    streams = [one.name for one in version.group.sources if live and isinstance(one, EventStream)]
    places = {place: base for place, base in bases.items() if place.rpartition("/")[0] in streams}
    for shard, meta in enumerate(metas):
        applied = {} if meta is None else meta.applied
        ranges = {place: (at, at) for place, at in applied.items() if place not in places}
        ranges |= {place: (applied.get(place, 0), base) for place, base in places.items()}
        if not ranges:
            continue
        newest = NO_ARRIVAL if meta is None else meta.newest_arrival
        record = encode_deltas(ranges, source.clock.now(), [], no_states(), newest)
        log.append(feature_topic(version.id), shard, Batch(record, "bytes", 1))
    return len(metas)


def _commit(source: Parts, new: OwnLog, bases: dict[str, int]) -> None:
    """Let every reader that has begun stand where the new log begins."""
    versions = [one.id for one in source.registry.groups()]
    readers = [ARCHIVE, CHECK, *map(computing_consumer, versions), *map(ingestion_consumer, versions)]
    topics = dict.fromkeys(place.rpartition("/")[0] for place in bases)
    with new.transaction() as work:
        for topic in topics:
            for reader in readers:
                for partition, at in enumerate(source.log.committed(reader, topic)):
                    if at is not None:
                        work.commit(reader, topic, partition, None, bases[f"{topic}/{partition}"])


def _taken(old: OwnLog, new: OwnLog, stream: str) -> int:
    """Write how far the foreign source of a stream was taken in, in one record that says all."""
    from millstream.sources.checkpoint import Record, load

    known = load(old, stream)
    if known.intent is not None:
        raise ProjectError(
            f"Stream '{stream}': its source was being taken in when that was interrupted.",
            "run `millstream up` until it goes on, stop it, and do it again.",
        )
    topic = intake_topic(stream)
    new.create(topic, 1)
    record = Record(shards=known.shards, losses=known.losses, whole=True, lost=known.lost)
    for batch in record.batches(new.largest):
        new.append(topic, 0, batch)
    with new.transaction() as work:
        work.commit(INTAKE, topic, 0, None, new.ends(topic)[0][1])
    return 1


def _mark(source: Parts, bases: dict[str, int]) -> None:
    """Keep where each stream has ended, and where it goes on."""
    for stream in source.registry.streams():
        if stream.name not in source.log.topics():
            continue
        ends = {f"{stream.name}/{p}": following for p, (_, following) in enumerate(source.log.ends(stream.name))}
        _set(source.marks, left_mark(stream.name), ends)
        _set(source.marks, moved_mark(stream.name), {place: bases[place] for place in ends})


def _set(marks: Marks, mark: str, numbers: dict[str, int]) -> None:
    marks.move(mark, marks.read(mark), numbers)


def send_again(source: Parts, target: Parts) -> int:
    """Append to a new log what somebody has sent to the old one after it was left; each record once.

    Args:
        source: the project as it was.
        target: the project as it is.

    Returns:
        How many events.
    """
    sent = 0
    for stream in target.registry.streams():
        left, begun = target.marks.read(left_mark(stream.name)), target.marks.read(moved_mark(stream.name))
        if stream.name not in source.log.topics():
            continue
        for partition, (first, following) in enumerate(source.log.ends(stream.name)):
            place = f"{stream.name}/{partition}"
            if place not in left or following <= left[place]:
                continue
            end = target.log.ends(stream.name)[partition][1]
            known = {
                one
                for records in through(target.log, stream.name, partition, begun[place], end)
                for one in zip(records.payloads, records.appended.tolist(), strict=True)
            }
            for records in through(source.log, stream.name, partition, max(first, left[place]), following):
                columns = zip(
                    records.payloads, records.encodings, records.counts.tolist(), records.appended.tolist(), strict=True
                )
                for payload, encoding, count, appended in columns:
                    if (payload, appended) not in known:
                        target.log.append(stream.name, partition, Batch(payload, encoding, count), appended)
                        sent += count
    return sent
