"""Reading dead letters back: what is archived, then what the log holds beyond it, each letter once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from millstream.buffer.codec.events import dead_letters
from millstream.buffer.topics import dead_topic
from millstream.definitions.data_types import INSTANT
from millstream.errors import LogError
from millstream.history.captures import spans
from millstream.history.events import held
from millstream.store.offline import batches_of

if TYPE_CHECKING:
    from millstream.buffer.log import OwnLog, Records
    from millstream.store.offline import OfflineStore, Snapshot

_ORDER = [("arrival", "ascending"), ("partition", "ascending"), ("position", "ascending")]


def letters(log: OwnLog, offline: OfflineStore, stream: str, newest: int | None = None) -> pa.Table:
    """Return the dead letters of a stream, each once, in the order in which their events arrived.

    The archive says up to where it holds them, and the log is read from there. A letter names the event it is about, by
    its partition and position, so one that was written again is left out.

    Args:
        log: where dead letters go first.
        offline: where they are archived.
        stream: the stream's name.
        newest: how many of the newest are enough; all unless given.

    Returns:
        A table of partition, position, arrived, reason and payload.
    """
    topic = dead_topic(stream)
    while True:
        snapshot = offline.snapshot(topic)
        try:
            found = _from_log(log, topic, snapshot, newest)
            break
        except LogError:
            # Archived and trimmed since the archive was looked at: then it has moved on, and both are read again.
            if offline.snapshot(topic) == snapshot:
                raise
    if snapshot is not None:
        enough = newest and found.num_rows >= newest
        since = [("arrival", ">=", found["arrival"][0].as_py())] if enough else []
        for batch in batches_of(offline, topic, found.column_names, since, snapshot.id):
            pieces = [found, pa.Table.from_batches([batch]).cast(found.schema)]
            found = pa.concat_tables(pieces) if newest is None else _newest(pa.concat_tables(pieces), newest)
        found = _newest(found, newest)
    arrived = found["arrival"].cast(INSTANT)
    columns = {"partition": found["partition"], "position": found["position"], "arrived": arrived}
    return pa.table(columns | {"reason": found["reason"], "payload": found["payload"]})


def _from_log(log: OwnLog, topic: str, snapshot: Snapshot | None, newest: int | None) -> pa.Table:
    """The letters that a snapshot of the archive does not hold, oldest first."""
    found = letter_table([])
    for piece in _pieces(log, topic, snapshot):
        found = pa.concat_tables([found, piece])
        if newest is not None:
            found = _newest(found, newest)  # as it is read: a broken producer leaves more than fits into memory
    return _newest(found, newest)


def _pieces(log: OwnLog, topic: str, snapshot: Snapshot | None) -> Iterator[pa.Table]:
    if topic in log.topics():
        starts = held(topic, snapshot)
        yield from (letter_table([records]) for records in spans(log, topic, starts))


def _newest(found: pa.Table, newest: int | None) -> pa.Table:
    found = found.group_by(found.column_names, use_threads=False).aggregate([])
    places = pc.sort_indices(found, _ORDER)
    return found.take(places if newest is None else places.slice(max(0, len(places) - newest)))


def letter_table(records: Sequence[Records]) -> pa.Table:
    """Return dead letters, from the records of their topic, as the archive keeps them: `arrival` is in microseconds."""
    rows = [msgspec.structs.asdict(letter) for letter in dead_letters(records)]
    kinds = {"stream": pa.string(), "partition": pa.int32(), "position": pa.int64(), "reason": pa.string(),
             "payload": pa.string(), "arrival": pa.int64()}  # fmt: skip
    return pa.Table.from_pylist(rows, schema=pa.schema(kinds))
