"""From a micro-batch to delta records: one per feature partition and group version, by key hash."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from millstream.buffer.parts import cut
from millstream.computing.start_markers import no_states
from millstream.definitions.group_version import StreamGroupVersion
from millstream.definitions.source import EventStream
from millstream.fold import Prepared, States, encode_deltas, fold, layout_of, prepare, shard_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pyarrow as pa


def prepare_all(versions: Sequence[StreamGroupVersion], stream: EventStream, table: pa.Table) -> list[Prepared | None]:
    """What each group version folds of the events, from one query for all; None where there is no event."""
    if not table.num_rows or not versions:
        return [None] * len(versions)
    return list(prepare([version.group for version in versions], stream, table))


def fold_keys(
    version: StreamGroupVersion, prepared: Prepared | None, now: int | None = None
) -> tuple[list[bytes], States]:
    """The keys of some prepared events and the state that the events add to each; see `fold` for `now`."""
    if prepared is None or not len(prepared.times):
        return [], no_states()
    return prepared.keys, fold(layout_of(version.group), prepared, now)


def by_shard(keys: list[bytes], states: States, shards: int) -> Iterator[tuple[list[bytes], States]]:
    """The keys of each shard, from the first to the last, with their states; sorted, which stores write fastest."""
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
    homes = np.fromiter((shard_of(key, shards) for key in keys), np.int64, len(keys))[order]
    for shard in range(shards):
        mine = order[homes == shard]
        yield [keys[i] for i in mine.tolist()], states.take(mine)


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
