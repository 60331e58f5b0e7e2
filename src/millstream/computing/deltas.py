"""From a micro-batch to delta records: one per feature partition and group version, by key hash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.buffer.parts import cut
from millstream.computing.start_markers import no_states
from millstream.definitions.group_version import StreamGroupVersion
from millstream.definitions.source import EventStream
from millstream.fold import Prepared, States, encode_deltas, fold, layout_of, prepare
from millstream.fold.keys import shards_of
from millstream.fold.shares import side_by_side

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def prepare_all(versions: Sequence[StreamGroupVersion], stream: EventStream, table: pa.Table) -> list[Prepared | None]:
    """What each group version folds of the events, from one query for all.

    Args:
        versions: the group versions, all of groups that read this stream.
        stream: the stream as it is declared.
        table: its valid events.

    Returns:
        list[Prepared | None]: one for each version, in their order; None where there is no event.
    """
    if not table.num_rows or not versions:
        return [None] * len(versions)
    return list(prepare([version.group for version in versions], stream, table))


def fold_keys(
    version: StreamGroupVersion, prepared: Prepared | None, now: int | None = None
) -> tuple[list[bytes], States]:
    """The keys of some prepared events and the state that the events add to each.

    Args:
        version: the group version that the events were prepared for.
        prepared: the events; None for none.
        now: the clock's time (µs), which bounds what the states prune; None where it is not known.
    """
    if prepared is None or not len(prepared.times):
        return [], no_states()
    return prepared.keys, fold(layout_of(version.group), prepared, now)


@dataclass(frozen=True, eq=False)
class Folded:
    """What a micro-batch adds to the keys of one group version: how many keys, what found no room, the records by shard."""

    keys: int
    overflow: int
    records: list[list[bytes]]


def fold_all(
    versions: Sequence[StreamGroupVersion],
    prepared: Sequence[Prepared | None],
    ranges: Sequence[Mapping[str, tuple[int, int]]],
    now: int,
    newest_arrival: int,
    largest: int,
) -> list[Folded]:
    """Fold the prepared events of each group version to delta records, several versions at a time; see `delta_records`.

    Args:
        versions: the group versions.
        prepared: what each folds.
        ranges: by "stream/partition", what the records of each hold.
        now: the clock's time, in microseconds.
        newest_arrival: when the newest of the events arrived, in microseconds.
        largest: the most bytes of a payload.
    """

    def one(version: StreamGroupVersion, events: Prepared | None, held: Mapping[str, tuple[int, int]]) -> Folded:
        keys, states = fold_keys(version, events, now)
        records = delta_records(keys, states, version.shards, held, now, newest_arrival, largest)
        return Folded(len(keys), states.overflow, records)

    tasks = [partial(one, *each) for each in zip(versions, prepared, ranges, strict=True)]
    return side_by_side(tasks, sum(len(events.times) for events in prepared if events))


def by_shard(keys: list[bytes], states: States, shards: int) -> Iterator[tuple[list[bytes], States]]:
    """The keys of each shard, from the first to the last, with their states; sorted, which stores write fastest.

    Args:
        keys: encoded keys, each once, in any order.
        states: the state of each key, in the same order.
        shards: how many shards the group version has.

    Returns:
        Iterator[tuple[list[bytes], States]]: one pair for each shard, empty for a shard that has none of the keys.
    """
    coded = pa.array(keys, pa.binary())
    order = pc.sort_indices(coded)
    ascending, places = coded.take(order).to_pylist(), np.asarray(order).astype(np.int64)
    homes = shards_of(ascending, shards)
    for shard in range(shards):
        mine = np.flatnonzero(homes == shard)
        yield [ascending[i] for i in mine.tolist()], states.take(places[mine])


def delta_records(
    keys: list[bytes],
    states: States,
    shards: int,
    ranges: Mapping[str, tuple[int, int]],
    computed_at: int,
    newest_arrival: int,
    largest: int,
) -> list[list[bytes]]:
    """The payloads of one record per feature partition, an empty one where no key of it changed, so that its position moves.

    Args:
        keys: the keys that changed.
        states: what is added to each.
        shards: how many feature partitions there are.
        ranges: by "stream/partition", what the record holds.
        computed_at: the clock's time, in microseconds.
        newest_arrival: when the newest of its events arrived, in microseconds.
        largest: the most bytes of a payload; a record with more is in parts.
    """
    head = encode_deltas(ranges, computed_at, [], no_states(), newest_arrival)
    records = (
        encode_deltas(ranges, computed_at, mine, part, newest_arrival) for mine, part in by_shard(keys, states, shards)
    )
    return [cut(record, head, largest) for record in records]
