"""What a shard lacks of the deltas in the buffer, told by the source ranges that each of them names.

No delta is trusted to come once, whole and in turn: one whose ranges are applied is left out, and where one is missing, or
parts of it are, or it was cut differently when it was written again, the events that the shard lacks are folded again
from their source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from millstream.definitions.feature_group import StreamFeatureGroup
from millstream.definitions.group_version import Group, GroupVersion
from millstream.definitions.source import EventStream
from millstream.errors import CorruptLog, LogError, StoreError
from millstream.fold import Deltas, fold, layout_of, prepare, shard_of

Ranges = Mapping[str, tuple[int, int]]


class Events(Protocol):
    """The events of streams, as they are read again."""

    def read(
        self, stream: EventStream, *, upto: Mapping[int, int] | None = None, since: Mapping[int, int] | None = None
    ) -> pa.Table:
        """Return the valid events of a stream between two positions of the partitions named, without repeats.

        Args:
            stream: the stream, as the group version declares it.
            upto: by partition, the position before which to read, and nothing of a partition that is not named;
                everything to its end when left out.
            since: by partition, the first position to read; from the beginning where it names none.
        """
        ...


@dataclass(frozen=True)
class Lacking:
    """What a shard lacks of some deltas.

    Attributes:
        deltas: what to merge into its states.
        applied: by source, the position that it will have applied then.
        repeated: how many deltas it had applied before.
        refolded: how many were missing or held what it had applied in part, and were folded again.
    """

    deltas: list[Deltas]
    applied: dict[str, int]
    repeated: int
    refolded: int


def lacking(
    version: GroupVersion[Group],
    shard: int,
    applied: Mapping[str, int],
    deltas: Sequence[Deltas],
    events: Events | None,
    now: int,
    torn: Sequence[Ranges] = (),
) -> Lacking:
    """Return what a shard lacks of some deltas that follow each other in the buffer.

    Args:
        version: the group version.
        shard: its shard.
        applied: by "stream/partition", the position that the shard has applied; nothing of a partition that is not
            named, which has come since the shard began.
        deltas: the deltas, in their order.
        events: where missing events are read again; without them what is missing is an error.
        now: the clock's time, in microseconds.
        torn: what those were to hold of which parts are missing.

    Raises:
        StoreError: when events that the shard lacks are neither in a delta nor in the log or the archive any more.
    """
    reached, kept = dict(applied), list[Deltas]()
    streams = {source.name for source in version.group.sources if isinstance(source, EventStream)}
    repeated = refolded = 0
    for delta, ranges in [*((delta, delta.ranges) for delta in deltas), *((None, ranges) for ranges in torn)]:
        starts = {place: 0 if place.rpartition("/")[0] in streams else begin for place, (begin, _) in ranges.items()}
        spans = {place: (reached.get(place, starts[place]), end) for place, (_, end) in ranges.items()}
        missing = {place: (begin, end) for place, (begin, end) in spans.items() if begin < end}
        if delta and missing == {place: (begin, end) for place, (begin, end) in ranges.items() if begin < end}:
            kept.append(delta)
        elif missing:
            kept += _folded_again(version, shard, missing, ranges, events, now)
            refolded += 1
        else:
            repeated += 1
        reached |= {place: max(begin, end) for place, (begin, end) in spans.items()}
    return Lacking(kept, reached, repeated, refolded)


def _folded_again(
    version: GroupVersion[Group], shard: int, missing: Ranges, found: Ranges, events: Events | None, now: int
) -> list[Deltas]:
    """What the missing events of each stream add to the keys of a shard."""
    streams = {source.name for source in version.group.sources if isinstance(source, EventStream)}
    if events is None or not {place.rpartition("/")[0] for place in missing} <= streams:
        raise _gap(version.id, shard, missing, found)
    deltas = []
    for stream in version.group.sources:
        places = {tuple(place.rsplit("/", 1)): span for place, span in missing.items()}
        spans = {int(partition): span for (name, partition), span in places.items() if name == stream.name}
        if not isinstance(stream, EventStream) or not spans:
            continue
        upto = {partition: end for partition, (_, end) in spans.items()}
        try:
            table = events.read(stream, upto=upto, since={partition: begin for partition, (begin, _) in spans.items()})
        except CorruptLog:
            raise
        except LogError as error:
            raise _gap(version.id, shard, missing, found) from error
        if table.num_rows:
            deltas.append(_delta(version, shard, stream, table, now))
    return deltas


def _delta(version: GroupVersion[Group], shard: int, stream: EventStream, table: pa.Table, now: int) -> Deltas:
    (prepared,) = prepare([version.group], stream, table)
    states = fold(layout_of(version.group), prepared, now if isinstance(version.group, StreamFeatureGroup) else None)
    numbers = (n for n, key in enumerate(prepared.keys) if shard_of(key, version.shards) == shard)
    mine = sorted(numbers, key=prepared.keys.__getitem__)
    newest = int(np.asarray(table["_arrival"]).max())
    return Deltas({}, now, newest, [prepared.keys[n] for n in mine], states.take(np.array(mine, np.int64)))


def _gap(gv: str, shard: int, missing: Ranges, found: Ranges) -> StoreError:
    place, (begin, end) = next(iter(missing.items()))
    return StoreError(
        f"Group version '{gv}', shard {shard}: the events of '{place}' from {begin} to {end} are in no delta that it can "
        f"take (the next one begins at {found[place][0]}, expected {begin}), nor can they be read again.",
        f"run `millstream backfill {gv.partition('@')[0]}` to build the store anew from what there is.",
    )
