"""Runs of a batch group as ingestion takes them from the buffer: keys and values as the bytes that states hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from millstream.buffer.log import Log
from millstream.buffer.staging import Run, decode_run, staging_topic
from millstream.definitions.feature_group import BatchFeatureGroup
from millstream.errors import StoreError
from millstream.fold.keys import encode_keys, shard_of
from millstream.fold.rows import pack_columns

_ROWS = 1_000_000  # rows taken in one step, unless one run alone has more
_RUNS = 512


class Version(Protocol):
    """What batch ingestion asks of a group version."""

    @property
    def id(self) -> str:
        """The name of the group version, such as "kyc@1"."""
        ...

    @property
    def states(self) -> str:
        """The name of its states in the online store."""
        ...

    @property
    def group(self) -> BatchFeatureGroup:
        """What the rows are of."""
        ...

    @property
    def shards(self) -> int:
        """How many shards its online store has."""
        ...

    @property
    def schema(self) -> Mapping[str, str]:
        """The type of each feature."""
        ...


@dataclass(frozen=True, eq=False)
class KeyedRun:
    """A run at its position in the staging topic; `keys`, `values` and `shards` are those of its rows."""

    position: int
    run: Run
    keys: list[bytes]
    values: list[bytes]
    shards: np.ndarray


def read_runs(log: Log, version: Version, position: int) -> list[KeyedRun]:
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
    while position < following and rows < _ROWS and len(found) < _RUNS:
        for record in log.read(topic, 0, position, 1):
            found.append(_keyed(version, record.position, decode_run(record.payload)))
            rows += found[-1].run.rows.num_rows
            position = record.end
    return found


def _keyed(version: Version, position: int, run: Run) -> KeyedRun:
    types = version.group.entity.keys
    keys = encode_keys(types, [run.rows[name] for name in types]).to_pylist()
    shards = np.fromiter((shard_of(key, version.shards) for key in keys), np.int64, len(keys))
    return KeyedRun(position, run, keys, pack_columns(schema_of(version, run.rows), run.rows), shards)


def schema_of(version: Version, rows: pa.Table) -> Mapping[str, str]:
    """The types of the features: those the registry knows, else those of the rows."""
    if version.schema:
        return version.schema
    apart = {*version.group.entity.keys, "event_time", "available_time", "_deleted", "_run"}
    return {field.name: _TYPES[str(field.type)] for field in rows.schema if field.name not in apart}


_TYPES = {
    "int64": "int64", "double": "float64", "string": "string", "large_string": "string", "bool": "bool",
    "timestamp[us, tz=UTC]": "timestamp",
}  # fmt: skip
