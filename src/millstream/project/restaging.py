"""Mending the runs of queries after the log has stepped back: a new beginning of their staging topics.

What the offline table states stays, and runs that it does not state are kept, at positions that nobody knows yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from millstream.buffer.agreement import disagreement, mendable
from millstream.buffer.parts import Assembly
from millstream.buffer.reading import through
from millstream.buffer.staging import decode_run
from millstream.buffer.topics import batch_table, staging_topic
from millstream.history.events import MARKS, POSITIONS, held, marks_of
from millstream.ingest.rebuilt import rebuild_states, runs_stated
from millstream.store.online import MARK

if TYPE_CHECKING:
    from millstream.definitions.group_version import BatchGroupVersion
    from millstream.project.parts import Parts
    from millstream.store.offline import Snapshot
    from millstream.store.online import ShardMeta


def restage(parts: Parts, version: BatchGroupVersion) -> tuple[int, bool]:
    """Let the runs of a query, and both stores, go on at positions that nobody knows yet.

    Nothing else may run on the project meanwhile.

    Args:
        parts: the project.
        version: the version of the query.

    Returns:
        How many runs of the log were kept that the offline table does not state, and whether the states were built anew
        because they held less than it does.
    """
    from millstream.store.online import readable_metas

    topic, table = staging_topic(version.id), batch_table(version.id)
    parts.log.create(topic, 1)
    snapshot: Snapshot | None = parts.offline.snapshot(table)
    stated = held(table, snapshot).get(0, 0)
    metas = readable_metas(parts.online, version.states, version.shards)
    behind = bool(stated) and any(meta is None or meta.position < stated for meta in metas)
    if any(meta is not None and meta.pending is not None for meta in metas):  # nobody can complete that write
        parts.online.drop(version.states)
        metas, behind = [None] * version.shards, True
    following = parts.log.ends(topic)[0][1]
    begin = _apart(parts, version, stated, marks_of(snapshot.properties).get(0, "") if snapshot else "")
    kept = list(through(parts.log, topic, 0, begin, following))
    base = max(stated, following, *(meta.position for meta in metas if meta is not None), 0)
    mendable(parts.log).rebase(topic, 0, base, kept)
    parts.registry.marks.rebase({f"{topic}/0": base})
    if snapshot is not None:
        nothing = parts.offline.scan(table, where=[("_run", "<", -1)])
        properties = {POSITIONS: msgspec.json.encode({"0": base}).decode(), MARKS: "{}"}
        parts.offline.append(table, nothing, properties, expected=snapshot.id)
    for shard, meta in enumerate(metas):
        if meta is not None:
            parts.online.write(version.states, shard, [], _moved(meta, topic, base), meta.position)
    if behind:
        _built_anew(parts, version)
    return sum(map(len, kept)), behind


def _apart(parts: Parts, version: BatchGroupVersion, stated: int, kept: str) -> int:
    """The position from which on the log holds runs that the offline table does not state."""
    topic = staging_topic(version.id)
    first, following = parts.log.ends(topic)[0]
    if disagreement(parts.log, topic, 0, stated, kept) is None:
        return max(first, stated)
    known, assembly = runs_stated(version, parts.offline), Assembly()
    for records in through(parts.log, topic, 0, first, following):
        for position, payload in zip(records.positions.tolist(), records.payloads, strict=True):
            whole = assembly.add(payload, position)
            run = None if whole is None else decode_run(whole.record)
            if whole and run and known.get(whole.place) != (run.end, run.available):
                return whole.place
    return following


def _moved(meta: ShardMeta, topic: str, base: int) -> ShardMeta:
    """The meta of a shard that goes on elsewhere; which run confirmed what is not to be found there any more."""
    extra = {name: fact for name, fact in meta.extra.items() if name not in (MARK, "confirmed_by")}
    return msgspec.structs.replace(meta, position=base, applied={f"{topic}/0": base}, extra=extra)


def _built_anew(parts: Parts, version: BatchGroupVersion) -> None:
    from millstream.project.apply import again

    parts.registry.builds.begin(version.id)
    beside = again(parts, version).beside
    assert beside is not None
    rebuild_states(beside, parts.online, parts.offline, parts.log, parts.clock)
    parts.registry.builds.cut_over(version.id, beside.build)
