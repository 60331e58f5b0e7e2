"""Counting what the states hold against what was sent, without the pipeline in between."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from millstream.definitions.feature_group import StreamFeatureGroup
from millstream.fold import States, as_of, layout_of, prepare, value
from millstream.store.online import pages

if TYPE_CHECKING:
    from millstream.project.parts import Parts


def state_gaps(parts: Parts, sent: Mapping[str, pa.Table], now: int) -> Iterator[int]:
    """For each count of each key, how many events its state lacks (negative: has too many).

    What should be there is counted from the tables that the sources sent, by the fold over history.

    Args:
        parts: the project.
        sent: by stream, the events that its source sent.
        now: the instant (µs) at which states and events are read.
    """
    for version in parts.registry.groups("live"):
        group = version.group
        if not isinstance(group, StreamFeatureGroup):
            continue
        (source,) = group.sources
        (events,) = prepare([group], source, _as_history(sent[source.name], source.time))
        for shard in range(version.shards):
            pairs = dict(pair for page in pages(parts.online, version.states, shard) for pair in page.items)
            keys, states = list(pairs), States.from_bytes(list(pairs.values()))
            at = np.full(len(keys), now, np.int64)
            held = value(layout_of(group), states, at).columns
            wanted = as_of(layout_of(group), events, events.times, keys, at, at).columns
            for name, dtype in zip(layout_of(group).columns, layout_of(group).dtypes, strict=True):
                if dtype == "int64":
                    yield from (wanted[name] - held[name]).astype(int).tolist()
            yield from [1] * (len(set(events.keys)) - len(keys)) if version.shards == 1 else []


def _as_history(table: pa.Table, time: str) -> pa.Table:
    size = np.arange(table.num_rows)
    columns = {"_arrival": table[time].cast(pa.int64()), "_partition": np.zeros_like(size), "_position": size}
    for name, column in columns.items():
        table = table.append_column(name, column if isinstance(column, pa.ChunkedArray) else pa.array(column))
    return table
