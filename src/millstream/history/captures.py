"""Reading captures back: what is archived, then what is still in the log, each request once."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.buffer.reading import position_of_last, through
from millstream.buffer.topics import capture_topic
from millstream.errors import LogError
from millstream.store.offline import batches_of

if TYPE_CHECKING:
    from millstream.buffer.log import Log, OwnLog, Records
    from millstream.store.offline import OfflineStore, Where

ID = "_request_id"
FIXED = {
    "_groups": "json", "_request_id": "string", "_model": "string", "_version": "string", "_view": "string",
    "_revision": "string", "_at": "int64", "_received_at": "int64", "_score": "float64", "_degraded": "bool", "_rest": "string",
}  # fmt: skip
"""Columns of every capture: instants in µs; `_groups` says, as JSON, which versions, positions and ages were read;
`_revision` is that of the view;
`_rest` holds, as JSON, the fields of the request that the view does not declare."""

_ARROW = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_(), "json": pa.string()}


def captured(log: OwnLog, offline: OfflineStore, model: str, newest: int | None = None) -> pa.Table:
    """Return the captures of a model, each request once, oldest first.

    A capture reaches the log at least once, and the archive may already hold what the log still does.

    Args:
        log: where captures go first.
        offline: where they are archived.
        model: the model's name.
        newest: how many of the newest are enough; all unless given. No more than a few times as many are in memory.

    Returns:
        A table with the fixed columns of a capture and those of the views it was served by; empty without captures.
    """
    name = capture_topic(model)
    logged = _untrimmed(log, name, lambda: _from_log(log, name, newest))
    found, archived = _once(logged), 0
    while newest is None or found.num_rows < newest:
        wanted = None if newest is None else max(2 * archived, newest)
        rows = _archived(offline, name, wanted)
        found, archived = _once(_joined([rows, logged])), rows.num_rows
        if wanted is None or archived < wanted:
            break
    found = found.sort_by([("_received_at", "ascending"), (ID, "ascending")])
    return found if newest is None else found.slice(max(0, found.num_rows - newest))


def capture_of(log: OwnLog, offline: OfflineStore, model: str, request_id: str) -> pa.Table:
    """Return the captures of one request to a model: one, or none. What is looked through is not kept.

    Args:
        log: where captures go first.
        offline: where they are archived.
        model: the model's name.
        request_id: the request's id, from its answer.
    """
    name = capture_topic(model)

    def logged() -> pa.Table:
        starts = {partition: first for partition, (first, _) in enumerate(_ends(log, name))}
        pieces = (piece for records in _spans(log, name, starts) for piece in capture_tables(records))
        return _joined([no_captures(), *(piece.filter(pc.equal(piece[ID], request_id)) for piece in pieces)])

    found = _untrimmed(log, name, logged)
    if not found.num_rows and offline.snapshot(name) is not None:
        found = _placeless(offline.scan(name, where=[(ID, "=", request_id)]))
    return found.slice(0, 1)


def _untrimmed(log: OwnLog, topic: str, read: Callable[[], pa.Table]) -> pa.Table:
    """What a read of the log gives. What it trims meanwhile is archived, and found there afterwards."""
    while True:
        ends = _ends(log, topic)
        try:
            return read()
        except LogError:
            if _ends(log, topic) == ends:
                raise


def _ends(log: OwnLog, topic: str) -> list[tuple[int, int]]:
    return log.ends(topic) if topic in log.topics() else []


def _from_log(log: OwnLog, topic: str, newest: int | None) -> pa.Table:
    starts = {
        partition: first if newest is None else position_of_last(log, topic, partition, newest)
        for partition, (first, _) in enumerate(_ends(log, topic))
    }
    return _joined(
        [no_captures(), *(piece for records in _spans(log, topic, starts) for piece in capture_tables(records))]
    )


def capture_tables(records: Records) -> Iterator[pa.Table]:
    """The captures of each payload of a read."""
    skip = records.skip
    for payload in records.payloads:
        yield pa.ipc.open_stream(io.BytesIO(payload)).read_all().slice(skip)
        skip = 0


def _spans(log: OwnLog, topic: str, starts: Mapping[int, int]) -> Iterator[Records]:
    return spans(log, topic, starts) if starts else iter(())


def spans(log: Log, topic: str, starts: Mapping[int, int]) -> Iterator[Records]:
    """The records of a topic from a position of each partition to its end now, a bounded number at once.

    Args:
        log: the log.
        topic: the topic.
        starts: by partition, the position to begin at; 0 for one that is not in it.

    Raises:
        LogError: when the log no longer holds a position.
    """
    for partition, (_, following) in enumerate(log.ends(topic)):
        yield from through(log, topic, partition, starts.get(partition, 0), following)


def no_captures() -> pa.Table:
    """A table of captures without any."""
    return pa.table({column: pa.array([], _ARROW[kind]) for column, kind in FIXED.items()})


def _archived(offline: OfflineStore, table: str, newest: int | None) -> pa.Table:
    """What is archived; where the newest are enough, those and what was received at the same instant as the oldest."""
    snapshot = offline.snapshot(table)
    if snapshot is None:
        return no_captures()
    since: Where = ()
    if newest is not None:
        times = np.empty(0, np.int64)
        for batch in batches_of(offline, table, ["_received_at"], snapshot=snapshot.id):
            times = np.concatenate([times, batch.column(0).drop_null().to_numpy(zero_copy_only=False)])
            times = np.partition(times, len(times) - newest)[-newest:] if len(times) > newest else times
        since = [("_received_at", ">=", int(times.min()))] if len(times) else ()
    batches = batches_of(offline, table, where=since, snapshot=snapshot.id)
    return _joined([_placeless(pa.Table.from_batches([batch])) for batch in batches] or [no_captures()])


def _placeless(found: pa.Table) -> pa.Table:
    places = [column for column in ("_partition", "_position", "_arrival", "_appended") if column in found.column_names]
    return found.drop_columns(places)


def _joined(pieces: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(pieces, promote_options="permissive")


def _repeats(table: pa.Table) -> bool:
    return bool(pc.count_distinct(table[ID]).as_py() < table.num_rows)


def _once(table: pa.Table) -> pa.Table:
    if not _repeats(table):
        return table
    numbered = table.append_column("_place", pa.array(np.arange(table.num_rows)))
    places = numbered.group_by(ID).aggregate([("_place", "min")])["_place_min"]
    return table.take(places.combine_chunks())
