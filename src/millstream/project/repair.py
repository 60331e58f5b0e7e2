"""Mending a project whose log or registry is older than its stores, or another one: a new epoch, and states built anew.

What the archive holds stays, and what the log holds beyond it is kept: it goes to positions that nobody knows yet, so
that no position ever means two things. Done again after a crash it comes to the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa

from millstream.buffer.agreement import disagreement, identity_of, mendable
from millstream.buffer.reading import through
from millstream.project.parts import Parts

if TYPE_CHECKING:
    from millstream.buffer.log import Records
    from millstream.definitions.group_version import BatchGroupVersion
    from millstream.project.project import Project
    from millstream.store.offline import Snapshot
    from millstream.store.online import ShardMeta


@dataclass(frozen=True)
class Repaired:
    """What was done.

    Args:
        identity: the log's identity with its new epoch; empty when there was nothing to mend.
        found: what was found.
        kept: by topic, how many records of the log the archive did not hold, and were kept.
        rebuilt: the group versions whose states were built anew from history.
        dropped: the group versions that the registry does not know, and whose states were dropped.
    """

    identity: str
    found: list[str]
    kept: dict[str, int]
    rebuilt: list[str]
    dropped: list[str] = field(default_factory=list)


def repair(project: Project) -> Repaired:
    """Mend a project whose log or registry is older than its stores, or another one; nothing else may run meanwhile.

    Args:
        project: the project.

    Returns:
        Repaired: what was done.
    """
    from millstream.definitions.feature_group import StreamFeatureGroup
    from millstream.project import apply
    from millstream.project.drain import Drainer
    from millstream.project.reregistering import go_on

    parts = project.parts
    apply.start(parts)
    found = parts.identity.stepped_back()
    if not found:
        return Repaired("", [], {}, [])
    kept, rebuilt = dict[str, int](), list[str]()
    if any(not one.startswith("Registry: ") for one in found):
        kept, rebuilt = _log_mended(parts)
    dropped = go_on(parts)
    apply.start(parts)
    groups = [one for one in parts.registry.groups() if isinstance(one.group, StreamFeatureGroup)]
    with closing(Drainer(parts)) as drainer:  # a version that a model pins is read as well as the default one
        for name in dict.fromkeys(one.group.name for one in groups if one.default):
            rebuilt += drainer.backfill(name, every=True)
    identity = identity_of(parts.log)
    return Repaired(identity, found, {topic: count for topic, count in kept.items() if count}, rebuilt, dropped)


def _log_mended(parts: Parts) -> tuple[dict[str, int], list[str]]:
    """Let the log go on where nobody has been; what was kept of it, and the states of queries that were built anew."""
    from millstream.buffer.topics import staging_topic
    from millstream.definitions.feature_group import StreamFeatureGroup
    from millstream.project.restaging import restage

    log, name = mendable(parts.log), _known_name(parts)
    kept: dict[str, int] = {}
    bases: dict[str, int] = {}
    for topic, table, empty in _archived(parts):
        for partition, base, records in _places(parts, topic, table):
            log.rebase(topic, partition, base, records)
            bases[f"{topic}/{partition}"] = base
            kept[topic] = kept.get(topic, 0) + sum(map(len, records))
        _move_archive(parts, topic, table, empty, bases)
    for version in parts.registry.groups():
        if isinstance(version.group, StreamFeatureGroup):
            _move_states(parts, version.id, version.states, version.shards, bases)
    rebuilt = []
    for version in _queries(parts):
        kept[staging_topic(version.id)], built = restage(parts, version)
        rebuilt += [version.id] if built else []
    parts.registry.marks.rebase(bases)
    log.renew(name)
    return kept, rebuilt


def _queries(parts: Parts) -> list[BatchGroupVersion]:
    from millstream.definitions.feature_group import BatchFeatureGroup

    versions = parts.registry.groups()
    return [one for one in versions if isinstance(one.group, BatchFeatureGroup) and one.group.query is not None]


def _archived(parts: Parts) -> Iterator[tuple[str, str, pa.Table | None]]:
    """The topics that have an archive: with its table, and what it is when it is empty, where that is known."""
    from millstream.buffer.codec.types import event_schema
    from millstream.buffer.topics import CAPTURES, DEAD, event_table
    from millstream.history.dead_letters import letter_table

    topics = parts.log.topics()
    for stream in parts.registry.streams():
        if stream.name in topics:
            yield stream.name, event_table(stream.name), event_schema(stream).empty_table()
    for topic in topics:
        if topic.startswith(DEAD):
            yield topic, topic, letter_table([])
        elif topic.startswith(CAPTURES):
            yield topic, topic, None


def _places(parts: Parts, topic: str, table: str) -> Iterator[tuple[int, int, list[Records]]]:
    """Each partition, the position at which it begins anew, and the records of it that the archive does not hold."""
    from millstream.history.events import marks_of, positions_of

    snapshot = parts.offline.snapshot(table)
    positions = positions_of(snapshot.properties) if snapshot else {}
    marks = marks_of(snapshot.properties) if snapshot else {}
    applied = [meta.applied for meta in _metas(parts)]
    known = (place.rpartition("/") for one in applied for place in one)
    partitions = [*positions, *(int(partition) for name, _, partition in known if name == topic)]
    parts.log.grow(topic, max(partitions, default=-1) + 1)  # the log may be of a time when there were fewer
    for partition, (first, following) in enumerate(parts.log.ends(topic)):
        archived, mark = positions.get(partition, 0), marks.get(partition, "")
        base = max(archived, following, *(one.get(f"{topic}/{partition}", 0) for one in applied), 0)
        if disagreement(parts.log, topic, partition, archived, mark) is None:
            begin = max(first, archived)
        elif mark.partition(" ")[0] == identity_of(parts.log).partition("@")[0]:
            begin = _parted(parts, topic, table, partition)
        else:
            begin = first
        yield partition, base, list(through(parts.log, topic, partition, begin, following))


def _parted(parts: Parts, topic: str, table: str, partition: int) -> int:
    """The position from which on a log that was restored holds other records than the archive."""
    from millstream.buffer.codec.events import decode

    first, following = parts.log.ends(topic)[partition]
    streams = {stream.name: stream for stream in parts.registry.streams()}
    if topic not in streams:
        return first  # a letter or a capture may be kept twice, but none is lost
    where = [("_partition", "=", partition), ("_position", ">=", first), ("_position", "<", following)]
    archive = parts.offline.scan(table, where=where)
    known = {row["_position"]: row for row in archive.to_pylist()}
    for records in through(parts.log, topic, partition, first, following, 1):
        for row in decode(streams[topic], [records]).table.to_pylist():
            there = known.get(row["_position"])
            if there is None or any(there.get(name) != value for name, value in row.items() if name in there):
                return int(records.positions[0])
    return following


def _move_archive(parts: Parts, topic: str, table: str, empty: pa.Table | None, bases: dict[str, int]) -> None:
    """Let an archive go on where its topic begins anew."""
    from millstream.history.events import MARKS, POSITIONS

    snapshot: Snapshot | None = parts.offline.snapshot(table)
    if snapshot is None and empty is None:
        return
    rows = empty if empty is not None else parts.offline.scan(table).slice(0, 0)
    positions = {place.rpartition("/")[2]: base for place, base in bases.items() if place.rpartition("/")[0] == topic}
    properties = {POSITIONS: msgspec.json.encode(positions).decode(), MARKS: "{}"}
    parts.offline.append(table, rows, properties, expected=snapshot.id if snapshot else None)


def _move_states(parts: Parts, gv: str, states: str, shards: int, bases: dict[str, int]) -> None:
    """Let the states of a version go on where its deltas will, until they are built anew."""
    from millstream.buffer.topics import feature_topic
    from millstream.store.online import MARK, readable_metas

    topic, metas = feature_topic(gv), readable_metas(parts.online, states, shards)
    halfway = any(meta is not None and meta.pending is not None for meta in metas)
    if halfway:  # nobody can complete a write whose deltas are gone
        parts.online.drop(states)
    for shard, meta in enumerate(metas):
        base = max(parts.log.ends(topic)[shard][1], (meta.pending or meta).position if meta else 0)
        mendable(parts.log).rebase(topic, shard, base, [])
        if meta is None or halfway:
            continue
        applied = {place: bases.get(place, position) for place, position in meta.applied.items()}
        extra = {name: fact for name, fact in meta.extra.items() if name != MARK}
        moved = msgspec.structs.replace(meta, position=base, applied=applied, extra=extra)
        parts.online.write(states, shard, [], moved, meta.position)


def _metas(parts: Parts) -> list[ShardMeta]:
    from millstream.store.online import ShardMeta

    facts = parts.online.facts({version.states: version.shards for version in parts.registry.groups()})
    found = [fact.pending or fact for some in facts.values() for fact in some if isinstance(fact, ShardMeta)]
    return found


def _known_name(parts: Parts) -> str | None:
    """The name by which the stores know the log, if one of them does."""
    from millstream.store.online import MARK

    names = [meta.extra[MARK].partition(" ")[0] for meta in _metas(parts) if meta.extra.get(MARK)]
    return names[0] if names else None
