"""Runs of a batch group as ingestion takes them from the buffer: keys and values as the bytes that states hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa

from millstream.buffer.log import Log, Records
from millstream.buffer.reading import through
from millstream.buffer.staging import Run, decode_run
from millstream.buffer.topics import staging_topic
from millstream.definitions.group_version import BatchGroupVersion
from millstream.errors import CorruptState, LogError, StoreError
from millstream.fold.keys import encode_keys, key_codes, shards_of
from millstream.fold.rows import pack_columns

_ROWS = 1_000_000  # rows taken in one step, unless one run alone has more
_RUNS = 512


@dataclass(frozen=True, eq=False)
class KeyedRun:
    """A run at its position in the staging topic, with the key and the packed values of each of its rows.

    `next` is the position from which the run after it is read. Equal keys have equal `codes`, and no others; `shards`
    says which shard holds a key.
    """

    position: int
    next: int
    run: Run
    keys: pa.Array
    values: pa.Array
    codes: np.ndarray
    shards: np.ndarray


def read_runs(log: Log, version: BatchGroupVersion, position: int) -> list[KeyedRun]:
    """Some runs from a position on, as many as fit in memory well.

    Raises `StoreError` when the position has been trimmed: runs that a store needs are gone.
    """
    topic = staging_topic(version.id)
    first, following = log.ends(topic)[0]
    if position < first:
        raise StoreError(
            f"Group version '{version.id}': the store is at run {position}, but the buffer begins at {first}.",
            f"run `millstream backfill {version.group.name}` to state its rows anew.",
        )
    found: list[KeyedRun] = []
    rows = 0
    for records in through(log, topic, 0, position, following, 1):
        found += _keyed(version, records)
        rows += sum(run.run.rows.num_rows for run in found[-len(records) :])
        if rows >= _ROWS or len(found) >= _RUNS:
            break
    return found


def run_at(log: Log, version: BatchGroupVersion, position: int) -> KeyedRun | None:
    """The run at a position that has been taken in, or None when the log holds it no more."""
    topic = staging_topic(version.id)
    try:
        following = log.ends(topic)[0][1]
        records = next(through(log, topic, 0, position, following, 1), None)
    except (LogError, CorruptState):  # trimmed, or damaged: what it said is in the states too
        return None
    if records is None or records.positions[0] != position:
        return None
    return _keyed(version, records)[0]


def _keyed(version: BatchGroupVersion, records: Records) -> list[KeyedRun]:
    """The runs of a read, of which each goes on where the next one is."""
    found = []
    places = [*records.positions.tolist(), records.next]
    for payload, (position, following) in zip(records.payloads, pairwise(places), strict=True):
        run, types = decode_run(payload), version.group.entity.keys
        keys = encode_keys(types, [run.rows[name] for name in types])
        values = pa.array(pack_columns(schema_of(version, run.rows), run.rows), pa.large_binary())
        shards = shards_of(keys, version.shards)
        found.append(KeyedRun(position, following, run, keys, values, key_codes(keys), shards))
    return found


def schema_of(version: BatchGroupVersion, rows: pa.Table) -> Mapping[str, str]:
    """The types of the features: those the registry knows, else those of the rows."""
    if version.schema:
        return version.schema
    apart = {*version.group.entity.keys, "event_time", "available_time", "_deleted", "_run"}
    return {field.name: _TYPES[str(field.type)] for field in rows.schema if field.name not in apart}


_TYPES = {
    "int64": "int64", "double": "float64", "string": "string", "large_string": "string", "bool": "bool",
    "timestamp[us, tz=UTC]": "timestamp",
}  # fmt: skip
