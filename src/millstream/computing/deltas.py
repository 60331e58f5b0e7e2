"""From a micro-batch to delta records: one per feature partition and group version, by key hash."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

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
) -> list[bytes]:
    """One record per feature partition, an empty one where no key of it changed, so that its position moves on too."""
    parts = by_shard(keys, states, shards)
    return [encode_deltas(ranges, computed_at, mine, part, newest_arrival) for mine, part in parts]
