"""Runs of a batch group as ingestion takes them from the buffer: keys and values as the bytes that states hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa

from millstream.buffer.log import Log
from millstream.buffer.parts import Assembly, digest_of
from millstream.buffer.reading import through
from millstream.buffer.staging import Run, decode_run
from millstream.buffer.topics import staging_topic
from millstream.definitions.group_version import BatchGroupVersion
from millstream.errors import CorruptState, LogError, StoreError
from millstream.fold.keys import encode_keys, key_codes, shards_of
from millstream.fold.rows import pack_columns

_ROWS = 1_000_000  # rows taken in one step, unless one run alone has more
_RUNS = 512
_PATIENCE = 60_000_000  # µs that the rest of a run in parts may take


@dataclass(frozen=True, eq=False)
class KeyedRun:
    """A run at the position of its first part in the staging topic, with the key and the packed values of each of its rows.

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


def read_runs(log: Log, version: BatchGroupVersion, position: int, now: int) -> list[KeyedRun]:
    """Some runs from a position on, as many as fit in memory well, in the order of their first parts.

    A run of which parts are missing is waited for, and what comes after it waits too, until it counts as given up: a run
    that covers its interval has come, or its parts have had a minute. A run that comes twice is read once, unless another
    of its interval lies between, which it then takes the place of.

    Args:
        log: the project's log.
        version: the group version.
        position: where to begin.
        now: the clock's time, in microseconds.

    Raises:
        StoreError: when the position has been trimmed: runs that a store needs are gone.
    """
    topic = staging_topic(version.id)
    first, following = log.ends(topic)[0]
    if position < first:
        raise StoreError(
            f"Group version '{version.id}': the store is at run {position}, but the buffer begins at {first}.",
            f"run `millstream backfill {version.group.name}` to state its rows anew.",
        )
    assembly, found, appended = Assembly(), dict[int, Run](), dict[int, int]()
    size, newest, end = 0, dict[tuple[int, int], bytes](), position
    for read in through(log, topic, 0, position, following, 1):
        end = read.next
        for payload, place, stamp in zip(read.payloads, read.firsts.tolist(), read.appended.tolist(), strict=True):
            appended[place] = stamp
            whole = assembly.add(payload, place)
            if whole is None:
                continue
            run, digest = decode_run(whole.record), digest_of(whole.record)
            if newest.get((run.end, run.available)) != digest:
                newest[run.end, run.available] = digest
                found[whole.place] = run
                size += run.rows.num_rows
        if (size >= _ROWS or len(found) >= _RUNS) and not any(one.begun for one in assembly.unfinished):
            break
    awaited = [
        one.place
        for one in assembly.unfinished
        if one.begun and now - appended[one.place] < _PATIENCE and not _covered(decode_run(one.head), found.values())
    ]
    until = min([*awaited, end])
    places = [*sorted(place for place in found if place < until), until]
    return [_keyed(version, found[place], place, beyond) for place, beyond in pairwise(places)]


def run_at(log: Log, version: BatchGroupVersion, position: int) -> KeyedRun | None:
    """The run at a position that has been taken in.

    Args:
        log: the project's log.
        version: the group version.
        position: that of the first part of the run in the staging topic.

    Returns:
        KeyedRun | None: None when the log holds it no more.
    """
    topic, assembly = staging_topic(version.id), Assembly()
    try:
        following = log.ends(topic)[0][1]
        for records in through(log, topic, 0, position, following, 1):
            for payload, place in zip(records.payloads, records.firsts.tolist(), strict=True):
                whole = assembly.add(payload, place)
                if whole is not None and whole.place == position:
                    return _keyed(version, decode_run(whole.record), position, records.next)
            if position not in {one.place for one in assembly.unfinished}:
                return None
    except (LogError, CorruptState):  # trimmed, or damaged: what it said is in the states too
        return None
    return None


def _covered(run: Run, others: Iterable[Run]) -> bool:
    """Whether another run is for all of the interval of one."""
    return any(
        other.scheduled == run.scheduled
        and other.start <= run.start
        and other.end >= run.end
        and other.end > other.start
        for other in others
    )


def _keyed(version: BatchGroupVersion, run: Run, position: int, following: int) -> KeyedRun:
    types = version.group.entity.keys
    keys = encode_keys(types, [run.rows[name] for name in types])
    values = pa.array(pack_columns(schema_of(version, run.rows), run.rows), pa.large_binary())
    return KeyedRun(
        position, following, run, keys, values, key_codes(keys), shards_of(keys.to_pylist(), version.shards)
    )


def schema_of(version: BatchGroupVersion, rows: pa.Table) -> Mapping[str, str]:
    """The types of the features: those the registry knows, else those of the rows."""
    if version.schema:
        return version.schema
    apart = {*version.group.entity.keys, "event_time", "available_time", "_deleted", "_run"}
    return {field.name: _kind(field.type) for field in rows.schema if field.name not in apart}


def _kind(arrow: pa.DataType) -> str:
    return f"decimal({arrow.precision}, {arrow.scale})" if pa.types.is_decimal(arrow) else _TYPES[str(arrow)]


_TYPES = {
    "int64": "int64", "double": "float64", "string": "string", "large_string": "string", "bool": "bool",
    "timestamp[us, tz=UTC]": "timestamp", "date32[day]": "date", "extension<arrow.uuid>": "uuid", "binary": "bytes",
    "large_binary": "bytes",
}  # fmt: skip
