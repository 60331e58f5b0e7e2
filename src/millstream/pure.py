"""`compute`: the values of features for some rows, from data frames alone, without a project."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.buffer.columns import INSTANT, from_arrow
from millstream.buffer.events import decode, encode_history
from millstream.buffer.log import Records
from millstream.buffer.repeats import repeats
from millstream.clock import to_micros
from millstream.definitions.expressions import bind_interval
from millstream.definitions.feature_group import BatchFeatureGroup
from millstream.definitions.feature_view import FeatureView
from millstream.definitions.reference import FeatureRef
from millstream.definitions.source import EventStream, Source, Table
from millstream.errors import MillstreamError, RequestError, nearest
from millstream.fold import Prepared
from millstream.instants import LAST
from millstream.scheduled import ScheduledRuns
from millstream.train.past import no_rows
from millstream.train.point_in_time import AT, Group, Instants, join

Frame = Any  # a list of dicts, an Arrow table, a pandas or Polars frame


def compute(wanted: FeatureView | Group | FeatureRef, sources: Mapping[Source | str, Frame], rows: Frame) -> pa.Table:
    """Return the features of some keys at some instants, as they would have been served.

    The pure function behind everything: for tests of definitions, notebooks and docs. An event counts for a row when it
    happened before the row's `at` and was known by then: by the stream's `available` column, else `delay` after it
    happened. Queries of batch groups are run on their schedule, each as if it had finished at once.

    Args:
        wanted: a view, a feature group, or a part of one.
        sources: for each stream and table it reads, by definition or name, its rows as dicts or any data frame.
        rows: for each row wanted its entity keys, the view's request fields and `at`: an aware datetime, ISO-8601 text
            or int64 microseconds since the epoch (UTC).

    Returns:
        pa.Table: the keys, `at`, and the columns (`group__feature`), one row for each of `rows`, in order.

    Raises:
        MillstreamError: a source is absent, or an event does not fit its schema or fails in an expression.
        RequestError: a row lacks a key, a request field or `at`.
        TrainingError: a row holds a value of another type.

    >>> from millstream import Count, Entity, EventStream, StreamFeatureGroup, compute
    >>> user = Entity("user", keys={"user_id": "int64"})
    >>> clicks = EventStream("clicks", time="at", schema={"user_id": "int64", "at": "timestamp"})
    >>> pace = StreamFeatureGroup("pace", entity=user, source=clicks, features=[Count(over=["1m", "1h"])])
    >>> events = [{"user_id": 1, "at": f"2026-01-01T12:{minute}:00Z"} for minute in ("00", "10", "11")]
    >>> found = compute(pace, {clicks: events}, [{"user_id": 1, "at": "2026-01-01T12:11:30Z"}])
    >>> found.select(["pace__count_1m", "pace__count_1h"]).to_pylist()
    [{'pace__count_1m': 1, 'pace__count_1h': 3}]
    """
    groups = [read.group for read in wanted.groups] if isinstance(wanted, FeatureView) else [_group(wanted)]
    with tempfile.TemporaryDirectory() as folder:
        past = _Frames(_given(groups, sources), Path(folder))
        view = wanted if isinstance(wanted, FeatureView) else past.view(wanted)
        examples = _examples(view, rows)
        past.asked = np.asarray(examples[AT]).astype(np.int64)
        found = join(view, examples, past)
    place = found.schema.get_field_index(AT)
    return found.set_column(place, "at", found[AT].cast(INSTANT))


class _Frames:
    """Data frames as the past that a join reads; tables are written to `folder`, where queries find them."""

    def __init__(self, given: Mapping[Source, Frame], folder: Path) -> None:
        self._given = {source.name: (source, frame) for source, frame in given.items()}
        self._events: dict[str, pa.Table] = {}
        tables = [(source, frame) for source, frame in given.items() if isinstance(source, Table)]
        self._runs = ScheduledRuns(
            folder, self, {table.name: _written(table, frame, folder) for table, frame in tables}
        )
        self.asked: Instants = np.empty(0, np.int64)

    def view(self, wanted: Group | FeatureRef) -> FeatureView:
        """Return a view of the group alone."""
        group = self.group(_group(wanted))
        part = replace(wanted, group=group) if isinstance(wanted, FeatureRef) else group
        return FeatureView("compute", request={}, features=[part])

    def group(self, group: Group) -> Group:
        if isinstance(group, BatchFeatureGroup) and group.query is not None:
            return group.resolved(self._runs.schema(group, int(self.asked.max(initial=0))))
        return group

    def events(self, source: Source) -> pa.Table:
        if isinstance(source, Table):
            return self._runs.events(source)
        return self.read(source.name)

    def read(self, stream: str | EventStream, **_: object) -> pa.Table:
        """Return the events of a stream, all of them; batch queries ask so."""
        name = stream if isinstance(stream, str) else stream.name
        if name not in self._events:
            source, frame = self._given[name]
            self._events[name] = _decoded(source, frame)  # type: ignore[arg-type]
        return self._events[name]

    def rows(self, group: BatchFeatureGroup) -> pa.Table:
        if not len(self.asked):
            return no_rows(group)
        first = int(self.asked.min())
        if bind_interval(group.query or "")[1]:  # a run says what its own interval holds, so all of them count
            first = min([first, *(self._earliest(source) for source in group.sources)])
        return self._runs.rows(group, first, int(self.asked.max()))

    def available(self, group: Group, events: Prepared) -> Instants:
        for row, reason in events.dead:
            raise MillstreamError(
                f"Feature group '{group.name}': row {row} cannot be computed: {reason}.",
                "mend the row or the expression; in a project the row would be a dead letter.",
            )
        return self._runs.ran(group, events.arrivals) if isinstance(group, BatchFeatureGroup) else events.arrivals

    def _earliest(self, source: Source) -> int:
        if isinstance(source, Table) and not source.time:
            return int(self.asked.min())
        arrivals = self.events(source)["_arrival"] if source.schema else pa.array([], pa.int64())
        return int(pc.min(arrivals).as_py() or self.asked.min())


def _group(wanted: Group | FeatureRef) -> Group:
    return wanted.group if isinstance(wanted, FeatureRef) else wanted


def _given(groups: Sequence[Group], sources: Mapping[Source | str, Frame]) -> dict[Source, Frame]:
    """Each source that the groups read, with its rows."""
    named = {key if isinstance(key, str) else key.name: frame for key, frame in sources.items()}
    found = {}
    for group in groups:
        for source in group.sources:
            if source.name not in named:
                close = nearest(source.name, named)
                raise MillstreamError(
                    f"compute: feature group '{group.name}' reads '{source.name}', which was not given.",
                    f"'{close}' was given; is it that?" if close else f'pass {{"{source.name}": rows}}; [] for none.',
                )
            found[source] = named[source.name]
    return found


def _decoded(stream: EventStream, frame: Frame) -> pa.Table:
    """The frame as events of one partition, in the order of their arrival, repeats removed.

    All time is over when they are loaded, so that any may have arrived.
    """
    records, position = [], 0
    for batch in encode_history(stream, frame):
        records.append(Records(stream.name, 0, position, batch.count, LAST, batch.encoding, batch.payload))
        position += batch.count
    decoded = decode(stream, records)
    for letter in decoded.dead:
        raise MillstreamError(
            f"Stream '{stream.name}': the event {letter.payload} cannot be taken. {letter.reason}",
            "mend the event; in a project it would be a dead letter.",
        )
    table = decoded.table.sort_by([("_arrival", "ascending"), ("_position", "ascending")])
    for name, column in (("_appended", table["_arrival"]), ("_position", pa.array(np.arange(table.num_rows)))):
        table = table.set_column(table.schema.get_field_index(name), name, column)
    if stream.deduplicate is None:
        return table
    return table.filter(pa.array(~repeats(table, stream)))


def _written(table: Table, frame: Frame, folder: Path) -> Table:
    """The table with its rows in a Parquet file in `folder`, its declared columns of their declared types."""
    import pyarrow.parquet as pq

    rows = _arrow(frame, list(table.schema or {}))
    for name, kind in (table.schema or {}).items():
        if name not in rows.column_names:
            continue  # whoever reads it says so
        place, (column, wrong) = rows.schema.get_field_index(name), from_arrow(rows[name].combine_chunks(), kind)
        if wrong is not None and wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise MillstreamError(
                f"Table '{table.name}': '{name}' is {rows[name][row].as_py()!r} in row {row}; expected {kind}.",
                "mend the row, or the table's schema.",
            )
        rows = rows.set_column(place, name, column)
    pq.write_table(rows, folder / f"{table.name}.parquet")
    return Table(
        table.name,
        path=f"{table.name}.parquet",
        time=table.time,
        available=table.available,
        delay=table.delay,
        schema=table.schema,
    )


def _arrow(frame: Frame, columns: Sequence[str]) -> pa.Table:
    """Any data frame, or a list of dicts, as Arrow."""
    if isinstance(frame, pa.Table):
        return frame
    if hasattr(frame, "__arrow_c_stream__"):
        return pa.table(frame)
    if isinstance(frame, Sequence) and all(isinstance(row, Mapping) for row in frame):
        names = dict.fromkeys([*columns, *(name for row in frame for name in row)])
        return pa.table({name: [row.get(name) for row in frame] for name in names})
    raise MillstreamError(
        f"compute was given rows of type '{type(frame).__name__}'; expected dicts or a data frame.",
        "pass a list of dicts, or an Arrow table, pandas or Polars frame.",
    )


def _examples(view: FeatureView, rows: Frame) -> pa.Table:
    """The rows wanted, with `at` as µs in the column a join reads."""
    needed = {**view.entity_keys, **view.request, "at": "timestamp"}
    if isinstance(rows, Sequence):
        for name, kind in needed.items():
            if any(name not in row for row in rows):
                raise RequestError.absent("compute", name, kind)
        rows = [{**row, "at": to_micros(row["at"])} for row in rows]
    table = _arrow(rows, list(needed))
    for name, kind in needed.items():
        if name not in table.column_names:
            raise RequestError.absent("compute", name, kind)
    at, wrong = from_arrow(table["at"].combine_chunks(), "timestamp")
    if at.null_count or wrong is not None:
        row = int(np.flatnonzero(np.asarray(at.is_null()))[0])
        raise RequestError.wrong_type("compute", "at", table["at"][row].as_py(), "an instant")
    return table.drop_columns(["at"]).append_column(AT, at.cast(pa.int64()))
