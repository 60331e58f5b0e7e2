"""The fold on a schedule: the rows of a table, or the events of a stream, that became known in an interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa

from millstream.buffer.codec.events import DeadLetter
from millstream.computing.deltas import delta_records, fold_keys
from millstream.computing.start_markers import NO_ARRIVAL
from millstream.definitions.data_types import arrow_type
from millstream.definitions.group_version import BatchGroupVersion
from millstream.definitions.source import EventStream, Source, Table
from millstream.engines.instants import micros
from millstream.errors import MillstreamError
from millstream.fold import prepare

if TYPE_CHECKING:
    from millstream.computing.tables import EventReader


@dataclass(frozen=True)
class Folded:
    """The payloads of the delta record of each feature partition, of one run, and what was left out."""

    records: list[list[bytes]]
    keys: int
    dead: list[DeadLetter]
    skipped: Mapping[str, int]


def fold_events(
    version: BatchGroupVersion,
    source: Source,
    events: pa.Table,
    ranges: Mapping[str, tuple[int, int]],
    now: int,
    largest: int,
) -> Folded:
    """Fold events that cover `ranges` of positions by "source/partition".

    Args:
        version: the group version.
        source: what the events are of.
        events: the events.
        ranges: what they cover.
        now: stamps the records (µs).
        largest: the most bytes of a payload.
    """
    (prepared,) = prepare([version.group], source, events) if events.num_rows else (None,)
    keys, states = fold_keys(version, prepared)  # type: ignore[arg-type]
    newest = int(np.max(np.asarray(events["_arrival"]))) if events.num_rows else NO_ARRIVAL
    records = delta_records(keys, states, version.shards, ranges, now, newest, largest)
    dead = [] if prepared is None else [_letter(version.id, source, events, row, why) for row, why in prepared.dead]
    return Folded(records, len(keys), dead, {} if prepared is None else prepared.skipped)


def table_events(table: Table, rows: pa.Table, start: int, end: int) -> pa.Table:
    """The rows of a table that became known in `(start, end]`, as events: arrived then, at their row's position.

    Each row counts in the one interval in which it became known, so the instants stand for positions.

    Args:
        table: the table as it is declared.
        rows: all its rows, as they are stored now.
        start: rows that were known by then (µs) are left out.
        end: those that are known by then (µs) are taken.

    Raises:
        MillstreamError: when a column does not have its declared type.
    """
    columns: dict[str, Any] = {name: _typed(table, rows, name, kind) for name, kind in (table.schema or {}).items()}
    arrivals = arrivals_of(table, columns)
    chosen = pa.array(np.flatnonzero((arrivals > start) & (arrivals <= end)))
    places = {
        "_partition": np.zeros(rows.num_rows, np.int32), "_position": np.arange(rows.num_rows, dtype=np.int64),
        "_arrival": arrivals,
    }  # fmt: skip
    return pa.table(columns | places).take(chosen).combine_chunks()


def arrivals_of(table: Table, rows: Any) -> np.ndarray:
    """Return when each row of a table could be known (µs); `NO_ARRIVAL` for one without a time, which is no event.

    Args:
        table: the table.
        rows: its rows by the names of the columns, of the types that it declares.
    """
    known, dated = micros(rows[table.available or table.time or ""]), rows[table.time or ""].is_valid()
    told = np.asarray(dated).astype(bool) & np.asarray(known.is_valid()).astype(bool)
    instants = np.asarray(known.fill_null(0)).astype(np.int64) + (0 if table.available else table.delay)
    return np.where(told, instants, NO_ARRIVAL)


def _typed(table: Table, rows: pa.Table, name: str, kind: str) -> pa.ChunkedArray:
    try:
        if kind == "timestamp":
            return micros(rows[name]).cast(arrow_type(kind))
        return rows[name].cast(arrow_type(kind))
    except (KeyError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        found = rows[name].type if name in rows.column_names else "no such column"
        raise MillstreamError(
            f"Table '{table.name}': column '{name}' is declared {kind}, found {found}.",
            "mend its schema=, or the file.",
        ) from error


def stream_events(stream: EventStream, ranges: Mapping[str, tuple[int, int]], history: EventReader | None) -> pa.Table:
    """The events of a stream in ranges of positions.

    Args:
        stream: the stream.
        ranges: by "stream/partition", the position to read from and the one to stop before.
        history: where they are read; None where the batch computer was given none.

    Raises:
        MillstreamError: when there is no history to read from.
    """
    if history is None:
        raise MillstreamError(
            f"Stream '{stream.name}': a batch group folds it, but there is no history to read it from.",
            "give the batch computer the project's history.",
        )
    spans = {int(place.rpartition("/")[2]): span for place, span in ranges.items()}
    since = {partition: begin for partition, (begin, _) in spans.items()}
    return history.read(stream, since=since, upto={partition: end for partition, (_, end) in spans.items()})


def _letter(gv: str, source: Source, events: pa.Table, row: int, reason: str) -> DeadLetter:
    values = events.slice(row, 1).to_pylist()[0]
    place = (int(values["_partition"]), int(values["_position"]))
    payload = msgspec.json.encode({k: v for k, v in values.items() if k[0] != "_"}, enc_hook=str).decode()
    return DeadLetter(source.name, *place, f"{gv}: {reason}", payload, int(values["_arrival"]))
