"""`compute`: the values of features for some rows, from data frames alone, without a project."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.buffer.codec.events import decode, encode_history
from millstream.buffer.codec.frames import check_columns, taken
from millstream.buffer.codec.read import plain_value
from millstream.buffer.codec.types import from_arrow
from millstream.buffer.codec.values import Unfit, fit, is_missing, reason
from millstream.buffer.log import Records
from millstream.buffer.repeats import repeats
from millstream.calls import checked
from millstream.computing.past_runs import ScheduledRuns
from millstream.definitions.data_types import INSTANT, arrow_type
from millstream.definitions.expressions import bind_interval
from millstream.definitions.feature_group import BatchFeatureGroup
from millstream.definitions.feature_view import FeatureView
from millstream.definitions.group_version import Group
from millstream.definitions.reference import FeatureRef, Readable
from millstream.definitions.source import EventStream, Source, Table
from millstream.engines.engine import LAST
from millstream.errors import MillstreamError, RequestError, TrainingError, first_line, nearest, shown
from millstream.fold import Prepared
from millstream.store.offline import Where
from millstream.train.point_in_time import AT, Instants, join
from millstream.train.stored_history import no_rows

Frame = Any  # a list of dicts, an Arrow table, a pandas or Polars frame


@checked
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
    _check(wanted, sources)
    groups = [read.group for read in wanted.groups] if isinstance(wanted, FeatureView) else [_group(wanted)]
    with tempfile.TemporaryDirectory() as folder:
        past = _Frames(_given(groups, sources), _needed(groups), Path(folder))
        view = wanted if isinstance(wanted, FeatureView) else past.view(wanted)
        examples = _examples(view, rows)
        past.asked = np.asarray(examples[AT]).astype(np.int64)
        found = join(view, examples, past)
    place = found.schema.get_field_index(AT)
    return found.set_column(place, "at", found[AT].cast(INSTANT))


class _Frames:
    """Data frames as the past that a join reads; tables are written to `folder`, where queries find them."""

    def __init__(self, given: Mapping[Source, Frame], needed: Mapping[str, set[str]], folder: Path) -> None:
        self._needed = needed
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
        return FeatureView("compute", features=[part])

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
            self._events[name] = _decoded(source, frame, self._needed[name])  # type: ignore[arg-type]
        return self._events[name]

    def rows(self, group: BatchFeatureGroup, where: Where = ()) -> Iterable[pa.Table]:
        if not len(self.asked):
            return [no_rows(group)]
        first = int(self.asked.min())
        if bind_interval(group.query or "")[1]:  # a run says what its own interval holds, so all of them count
            first = min([first, *(self._earliest(source) for source in group.sources)])
        return [self._runs.rows(group, first, int(self.asked.max()))]

    def available(self, group: Group, events: Prepared) -> Instants:
        for row, why in events.dead:
            raise MillstreamError(
                f"Feature group '{group.name}': row {row} cannot be computed: {why}.",
                "mend the row or the expression; in a project the row would be a dead letter.",
            )
        return self._runs.ran(group, events.arrivals) if isinstance(group, BatchFeatureGroup) else events.arrivals

    def _earliest(self, source: Source) -> int:
        if isinstance(source, Table) and not source.time:
            return int(self.asked.min())
        arrivals = self.events(source)["_arrival"] if source.schema else pa.array([], pa.int64())
        return int(pc.min(arrivals).as_py() or self.asked.min())


def _check(wanted: object, sources: object) -> None:
    """Refuse what is nothing to compute, and sources that are not by their name or definition."""
    if not isinstance(wanted, FeatureView | FeatureRef | Readable):
        hint = 'give a FeatureView, a feature group, or a part of one as group["feature"].'
        raise MillstreamError(f"compute: {shown(wanted)} is given; expected a view or a feature group.", hint)
    if not isinstance(sources, Mapping) or not all(isinstance(one, str | EventStream | Table) for one in sources):
        hint = "pass {stream: rows}, with an entry for each stream and table."
        raise MillstreamError(f"compute: {shown(sources)} is given; expected the rows of each source.", hint)


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


def _needed(groups: Sequence[Group]) -> dict[str, set[str]]:
    """For each source the columns without which none of its rows counts: its time, and the keys taken from it."""
    found: dict[str, set[str]] = {}
    for group in groups:
        for source in group.sources:
            keys = () if isinstance(group, BatchFeatureGroup) and group.query is not None else group.keys.values()
            found.setdefault(source.name, set()).update(filter(None, [source.time, *keys]))
    return found


def _decoded(stream: EventStream, frame: Frame, needed: set[str]) -> pa.Table:
    """The frame as events of one partition, in the order of their arrival, repeats removed.

    All time is over when they are loaded, so that any may have arrived.
    """
    given = taken(f"Stream '{stream.name}'", frame, MillstreamError)
    check_columns(f"Stream '{stream.name}'", given, stream.schema, lambda: needed, MillstreamError)
    batches = encode_history(stream, given, largest=None)
    ends = np.cumsum([batch.count for batch in batches])
    places = np.split(np.arange(ends[-1] if batches else 0), ends)
    records = [Records.of(stream.name, 0, batch, at, LAST) for batch, at in zip(batches, places, strict=False)]
    decoded = decode(stream, records)
    for letter in decoded.dead:
        event = letter.payload if len(letter.payload) <= 300 else f"{letter.payload[:300]}..."
        raise MillstreamError(
            f"Stream '{stream.name}': the event {event} cannot be taken. {letter.reason}",
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

    thing = f"Table '{table.name}'"
    schema = dict(table.schema or {})
    given = taken(thing, frame, MillstreamError)
    check_columns(thing, given, schema, lambda: filter(None, (table.time, table.available)), MillstreamError)
    rows = _columns(thing, given, schema)
    for name, kind in schema.items():
        if name not in rows.column_names:
            continue  # whoever reads it says so
        place, column = rows.schema.get_field_index(name), _typed(thing, rows, name, kind)
        rows = rows.set_column(place, name, column)
    pq.write_table(rows, folder / f"{table.name}.parquet")
    return Table(
        table.name,
        path=f"{table.name}.parquet",
        time=table.time,
        available=table.available,
        delay=timedelta(microseconds=table.delay),
        schema=table.schema,
    )


def _columns(thing: str, given: pa.Table | Sequence[Any], kinds: Mapping[str, str]) -> pa.Table:
    """The rows as a table: of dicts, the columns of `kinds` with their types and any others as Arrow finds them."""
    given = _dicts(thing, given)
    if isinstance(given, pa.Table):
        return given
    found = {}
    for name in dict.fromkeys([*kinds, *chain.from_iterable(given)]):
        values = [None if is_missing(value) else value for value in (row.get(name) for row in given)]
        if name in kinds:
            found[name] = _fitted(thing, name, kinds[name], values)
            continue
        try:
            found[str(name)] = pa.array(values)
        except (pa.ArrowException, OverflowError, UnicodeError, ValueError, TypeError) as error:
            hint = "give its values one type, or leave the column out."
            raise MillstreamError(
                f"{thing}: the values of '{name}' are no column: {first_line(error)[:200]}.", hint
            ) from error
    return pa.table(found)


def _dicts(thing: str, given: pa.Table | Sequence[Any]) -> pa.Table | Sequence[Mapping[str, Any]]:
    for row, one in enumerate(() if isinstance(given, pa.Table) else given):
        if not isinstance(one, Mapping):
            raise MillstreamError(f"{thing}: row {row} is {shown(one)}; expected a dict.", "pass a list of dicts.")
    return given


def _fitted(thing: str, name: str, kind: str, values: Sequence[Any]) -> pa.Array:
    found = []
    for row, value in enumerate(values):
        try:
            found.append(fit(value, kind))
        except Unfit:
            raise _misfit(thing, name, kind, value, row) from None
    array = pa.array(found, pa.int64() if kind == "timestamp" else arrow_type(kind))
    return array.cast(arrow_type(kind))


def _typed(thing: str, rows: pa.Table, name: str, kind: str) -> pa.Array:
    given = rows[name].combine_chunks()
    column, wrong = from_arrow(given, kind)
    if wrong is not None and wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise _misfit(thing, name, kind, plain_value(given[row]), row)
    return column


def _misfit(thing: str, name: str, kind: str, value: Any, row: int) -> TrainingError:
    return TrainingError(
        f"{thing}: '{name}' is {shown(value)} in row {row}; expected {kind}. {reason(name, kind, value)}",
        "mend the row; null where it is not known.",
    )


def _examples(view: FeatureView, rows: Frame) -> pa.Table:
    """The rows wanted, with `at` as µs in the column a join reads."""
    needed = {**view.entity_keys, **view.request, "at": "timestamp"}
    given = _dicts("compute", taken("compute", rows, MillstreamError))
    for name, kind in needed.items():
        there = name in given.column_names if isinstance(given, pa.Table) else all(name in row for row in given)
        if not there:
            raise RequestError.absent("compute", name, kind)
    table = _columns("compute", given, needed)
    columns = {name: _typed("compute", table, name, kind) for name, kind in needed.items()}
    at = columns.pop("at")
    if at.null_count:
        row = int(np.flatnonzero(np.asarray(at.is_null()))[0])
        raise RequestError.wrong_type("compute", "at", None, f"an instant in row {row}")
    return pa.table({**columns, AT: at.cast(pa.int64())})
