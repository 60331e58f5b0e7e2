"""Start markers: where a new group version begins in its source streams, and what comes before is backfill's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import numpy as np

from millstream.buffer.log import Batch, Log, OwnLog
from millstream.buffer.topics import computing_consumer, feature_topic, start_consumer
from millstream.clock import Clock
from millstream.definitions.group_version import StreamGroupVersion
from millstream.definitions.source import EventStream
from millstream.errors import Fenced, LogError

if TYPE_CHECKING:
    from millstream.fold import States

#: The newest arrival of a record that covers no event (µs).
NO_ARRIVAL = -(2**63)


def no_states() -> States:
    """The states of no key."""
    from millstream.fold import States

    return States(np.empty(0, np.int64), np.zeros(1, np.int64))


def start_version(
    log: OwnLog,
    version: StreamGroupVersion,
    streams: Iterable[EventStream],
    clock: Clock,
    at: Literal["end", "committed", "zero"] = "end",
) -> dict[str, int]:
    """Write the start markers of a new group version, so that computing takes it up and backfill knows where to stop.

    Called once, when a definition is applied; a version that has started keeps its markers. Positions, markers and the
    start record of each feature partition are written in one transaction.

    Args:
        log: the project's log; the source topics are there.
        version: the group version.
        streams: the current streams, of which the group's sources are used.
        clock: stamps the start record.
        at: "end" of each source partition, where computing of its other versions is ("committed": all go on together,
            or the end where there is none), or the first event the log still has ("zero").

    Returns:
        dict[str, int]: by "stream/partition", the first position that computing folds.

    Raises:
        LogError: when a source or its topic is not there, or `at` is none of these.
    """
    names = _source_names(version, streams)
    log.create(feature_topic(version.id), version.shards)
    begun = start_markers(log, version.id, names)
    if begun is not None:
        return begun
    places = {name: _places(log, name, at) for name in names}
    try:
        return _write_start(log, version, places, clock)
    except Fenced:  # another process has started it meanwhile, and its markers hold
        return start_markers(log, version.id, names) or {}


def _write_start(
    log: OwnLog, version: StreamGroupVersion, places: dict[str, list[int]], clock: Clock
) -> dict[str, int]:
    markers = {f"{name}/{p}": position for name, places_ in places.items() for p, position in enumerate(places_)}
    record = Batch(_start_record(markers, clock), "bytes", 1)
    with log.transaction() as work:
        for name, positions in places.items():
            for partition, position in enumerate(positions):
                for consumer in (computing_consumer(version.id), start_consumer(version.id)):
                    work.commit(consumer, name, partition, None, position)
        for shard in range(version.shards):
            work.append(feature_topic(version.id), shard, record)
    return markers


def start_markers(log: Log, version: str, streams: Iterable[str]) -> dict[str, int] | None:
    """The start markers of a group version by "stream/partition", or None when it has not started."""
    return _all_positions(log, start_consumer(version), streams)


def computed_positions(log: Log, version: str, streams: Iterable[str]) -> dict[str, int] | None:
    """By "stream/partition", the next position computing will fold for a group version, or None before its start."""
    return _all_positions(log, computing_consumer(version), streams)


def _all_positions(log: Log, consumer: str, streams: Iterable[str]) -> dict[str, int] | None:
    found: dict[str, int] = {}
    for stream in streams:
        for partition, position in enumerate(log.committed(consumer, stream)):
            if position is None:
                return None
            found[f"{stream}/{partition}"] = position
    return found


def _source_names(version: StreamGroupVersion, streams: Iterable[EventStream]) -> list[str]:
    known = {stream.name for stream in streams}
    names = [source.name for source in version.group.sources]
    for name in names:
        if name not in known:
            raise LogError(
                f"Group version '{version.id}': its source '{name}' is not one of the streams.",
                "apply the stream together with the group.",
            )
    return names


def _start_record(markers: dict[str, int], clock: Clock) -> bytes:
    """A record of no key whose ranges are empty: what comes before them is not in this topic."""
    from millstream.fold import encode_deltas

    ranges = {place: (position, position) for place, position in markers.items()}
    return encode_deltas(ranges, clock.now(), [], no_states(), NO_ARRIVAL)


def _places(log: OwnLog, stream: str, at: str) -> list[int]:
    ends = log.ends(stream)
    if at == "zero":
        return [first for first, _ in ends]
    if at == "end":
        return [following for _, following in ends]
    if at != "committed":
        raise LogError(f"Start of a group version: at={at!r}; expected 'end', 'committed' or 'zero'.", "use 'end'.")
    prefix = feature_topic("")
    others = [computing_consumer(topic[len(prefix) :]) for topic in log.topics() if topic.startswith(prefix)]
    rows = [log.committed(other, stream) for other in others]
    places = []
    for partition, (_, following) in enumerate(ends):
        known = [row[partition] for row in rows]
        places.append(max((at for at in known if at is not None), default=following))
    return places
