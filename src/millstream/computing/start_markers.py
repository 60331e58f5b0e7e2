"""Start markers: where a new group version begins in its source streams, and what comes before is backfill's."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

import numpy as np

from millstream.buffer.computed import computed_positions
from millstream.buffer.log import Batch, OwnLog
from millstream.buffer.marks import Marks
from millstream.buffer.reading import through
from millstream.buffer.topics import computing_consumer, feature_topic, start_mark
from millstream.buffer.writing import Append, Commit, append_and_commit, until_there
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
    marks: Marks,
    version: StreamGroupVersion,
    streams: Iterable[EventStream],
    clock: Clock,
    at: Literal["end", "committed", "zero"] = "end",
) -> dict[str, int]:
    """Write the start markers of a new group version, so that computing takes it up and backfill knows where to stop.

    Called when a definition is applied, and again when that died half-way; a version that has started keeps its
    markers. They are marked first; then the positions of computing and the start record of each feature partition
    follow from them, in one transaction.

    Args:
        log: the project's log; the source topics are there.
        marks: where the markers are kept.
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
    while True:
        known = marks.read(start_mark(version.id))
        computed = computed_positions(log, version.id, names)
        markers = _markers(log, version, names, known, computed, at)
        if markers == known:
            break
        try:
            marks.move(start_mark(version.id), known, markers)
            break
        except Fenced:  # another process has marked it meanwhile, and its markers hold
            continue

    def written() -> bool:
        _write_start(log, version, markers, computed or {}, clock)
        return log.atomic or _recorded(log, version)  # on an atomic log it is there, whoever has written it

    if not _recorded(log, version):
        until_there(written, feature_topic(version.id))
    return markers


def _markers(
    log: OwnLog,
    version: StreamGroupVersion,
    names: list[str],
    known: dict[str, int],
    computed: dict[str, int] | None,
    at: str,
) -> dict[str, int]:
    """The markers that hold: those that are known, unless they are of another log than the one there is.

    A partition that a stream has got since has none: all of it is computing's.
    """
    ends = {f"{name}/{p}": ends for name in names for p, ends in enumerate(log.ends(name))}
    whole = _names_streams(known, names) and known.keys() <= ends.keys()
    fits = whole and all(ends[place][0] <= at <= ends[place][1] for place, at in known.items())
    if computed is None:  # no process has computed anything of it
        return known if fits else {f"{name}/{p}": to for name in names for p, to in enumerate(_places(log, name, at))}
    if not _recorded(log, version):  # its deltas were dropped with the topic, so what came before is for backfill
        return computed
    if whole:
        return known
    recorded = _first_record(log, version)
    return recorded if _names_streams(recorded, names) and recorded.keys() <= ends.keys() else computed


def _names_streams(markers: Iterable[str], names: Iterable[str]) -> bool:
    """Whether markers were made of these streams, each of which has at least one partition."""
    return {f"{name}/0" for name in names} <= set(markers)


def _recorded(log: OwnLog, version: StreamGroupVersion) -> bool:
    """Whether anything was ever appended to every partition of the feature topic, whose first is the start record."""
    return all(following for _, following in log.ends(feature_topic(version.id)))


def _first_record(log: OwnLog, version: StreamGroupVersion) -> dict[str, int]:
    """The markers as the start record has them, none where it was trimmed."""
    from millstream.fold import decode_deltas

    topic = feature_topic(version.id)
    first, following = log.ends(topic)[0]
    records = None if first else next(through(log, topic, 0, first, following, 1), None)
    ranges = {} if records is None else decode_deltas(records.payloads[0]).ranges
    return {place: at for place, (at, to) in ranges.items() if at == to}


def _write_start(
    log: OwnLog, version: StreamGroupVersion, markers: dict[str, int], computed: dict[str, int], clock: Clock
) -> None:
    """Let computing go on from the markers, and write the start record; nothing when another process has done it."""
    topic, record = feature_topic(version.id), Batch(_start_record(markers, clock), "bytes", 1)
    consumer, commits = computing_consumer(version.id), []
    told = {name: log.committed(consumer, name) for name in {place.rpartition("/")[0] for place in markers}}
    for place, position in markers.items():
        name, partition = place.rpartition("/")[0], int(place.rpartition("/")[2])
        expected = None if told[name][partition] is None else computed.get(place)
        commits.append(Commit(consumer, name, partition, expected, position))
    empty = [shard for shard, (_, following) in enumerate(log.ends(topic)) if not following]
    with suppress(Fenced):
        append_and_commit(log, [Append(topic, shard, record) for shard in empty], commits)


def start_markers(marks: Marks, version: str) -> dict[str, int] | None:
    """The start markers of a group version by "stream/partition", or None when it has not started."""
    return marks.read(start_mark(version)) or None


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
