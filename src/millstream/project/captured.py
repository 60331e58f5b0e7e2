"""Reading captures back: what is archived, then what is still in the log, each request once."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from millstream.serve.capture import FIXED

if TYPE_CHECKING:
    from millstream.buffer.embedded import EmbeddedLog
    from millstream.buffer.log import Log, Records
    from millstream.store.offline import OfflineStore

ID = "_request_id"
_ARROW = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_(), "json": pa.string()}


def captured(log: EmbeddedLog, offline: OfflineStore, model: str, newest: int | None = None) -> pa.Table:
    """Return the captures of a model, each request once, oldest first.

    A capture reaches the log at least once, and the archive may already hold what the log still does.

    Args:
        log: Where captures go first.
        offline: Where they are archived.
        model: The model's name.
        newest: How many of the newest are enough; all unless given.

    Returns:
        A table with the fixed columns of a capture and those of the views it was served by; empty without captures.
    """
    name = f"captures.{model}"
    found = _from_log(log, name, newest)
    if newest is None or found.num_rows < newest or _repeats(found):
        archived = _archived(offline, name)
        found = found if archived is None else _joined([archived, found])
    found = _once(found).sort_by([("_received_at", "ascending"), (ID, "ascending")])
    return found if newest is None else found.slice(max(0, found.num_rows - newest))


def _from_log(log: EmbeddedLog, topic: str, newest: int | None) -> pa.Table:
    if topic not in log.topics():
        return _none()
    ends = log.ends(topic)
    starts = {p: first if newest is None else max(first, end - newest) for p, (first, end) in enumerate(ends)}
    pieces = [
        pa.ipc.open_stream(io.BytesIO(record.payload)).read_all().slice(record.skip)
        for records in spans(log, topic, starts)
        for record in records
    ]
    return _joined(pieces) if pieces else _none()


def spans(log: Log, topic: str, starts: Mapping[int, int]) -> Iterator[list[Records]]:
    """The records of a topic from a position of each partition (0 unless named) to its end now, a bounded number at once.

    Raises `LogError` when the log no longer holds a position.
    """
    for partition, (_, following) in enumerate(log.ends(topic)):
        position = starts.get(partition, 0)
        while position < following:
            records = log.read(topic, partition, position, 100_000)
            if not records:
                break
            yield records
            position = records[-1].end


def _none() -> pa.Table:
    return pa.table({column: pa.array([], _ARROW[kind]) for column, kind in FIXED.items()})


def _archived(offline: OfflineStore, table: str) -> pa.Table | None:
    if offline.snapshot(table) is None:
        return None
    found = offline.scan(table)
    places = [column for column in ("_partition", "_position", "_arrival", "_appended") if column in found.column_names]
    return found.drop_columns(places)


def _joined(pieces: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(pieces, promote_options="permissive")


def _repeats(table: pa.Table) -> bool:
    return bool(pc.count_distinct(table[ID]).as_py() < table.num_rows)


def _once(table: pa.Table) -> pa.Table:
    if not _repeats(table):
        return table
    numbered = table.append_column("_place", pa.array(range(table.num_rows)))
    places = numbered.group_by(ID).aggregate([("_place", "min")])["_place_min"]
    return table.take(places.combine_chunks())
