"""Explain: one served vector, and the very events behind one of its values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.definitions.feature_group import BatchFeatureGroup
from millstream.definitions.schema import is_map
from millstream.definitions.windows import fields_read, folded
from millstream.engines.instants import micros
from millstream.errors import RequestError, nearest
from millstream.fold import aggregated, encode_keys, prepare
from millstream.fold.requests import request_table
from millstream.fold.rows import KEY, in_force
from millstream.monitor.replay import Pasts, Reading, Replay, cohorts
from millstream.monitor.verify import served_columns
from millstream.train.encoding import typed_value
from millstream.train.stated import newest_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from millstream.definitions import FeatureView
    from millstream.definitions.feature_view import ViewColumn
    from millstream.definitions.windows import WindowedFeature
    from millstream.fold import Prepared

_TIME = "_event_time"


@dataclass(frozen=True)
class Explanation:
    """A served vector and where it came from.

    Attributes:
        request_id: the request.
        model: the model and its version.
        at: the instant (µs) as of which it was read.
        score: what was answered.
        vector: every input by name.
        groups: for each group, its version, shard and the source positions applied.
        feature: the value that is explained in full, if one was asked for.
        events: the events it was folded from, in order of time; for the feature of a query, the row that states it. A
            feature that looks the request's value up is of the events with that value. Where the request counts as one more
            event it is the last row, which has no `_position`.
    """

    request_id: str
    model: str
    at: int
    score: float
    vector: Mapping[str, Any]
    groups: Mapping[str, Mapping[str, Any]]
    feature: str | None = None
    events: pa.Table | None = None


def explain(captures: pa.Table, request_id: str, past: Pasts, feature: str | None = None) -> Explanation:
    """Say what was served for a request, and from which events one of its values was folded.

    Args:
        captures: captures to look in.
        request_id: the id that the answer carried.
        past: history to find the events in.
        feature: a column of the view; its events are listed.

    Raises:
        RequestError: the request was not captured, or the view has no such column of a group.
    """
    found = captures.filter(pc.equal(captures["_request_id"], request_id)).slice(0, 1)
    if not found.num_rows:
        raise RequestError(
            f"Request '{request_id}' is not among the captures.", field="request_id",
            given=request_id, expected="the request_id of a captured answer",
            hint="captures reach history within seconds; ask again, or check the id.", status=404,
        )  # fmt: skip
    row, (replay,) = found.to_pylist()[0], cohorts(found, past)
    view = replay.view
    groups = {
        name: {
            "version": f.version,
            "shard": f.shard,
            "positions": str(bytes(f.positions), "utf-8"),
            "fallback": f.fallback,
        }
        for name, f in replay.facts[0].items()
    }
    return Explanation(
        request_id, f"{row['_model']}@{row['_version']}", row["_at"], row["_score"],
        {name: _value(row[name], view.dtypes[name]) for name in (*view.request, *served_columns(view))}, groups, feature,
        None if feature is None else _events(view, replay, feature),
    )  # fmt: skip


def _value(captured: Any, kind: str) -> Any:
    """A captured value as its declared type: numbers are captured as the model read them, maps as lists of entries."""
    if is_map(kind) and captured is not None:
        return {entry["key"]: entry["value"] for entry in captured}
    return typed_value(captured, kind) if isinstance(captured, float) else captured


def _events(view: FeatureView, replay: Replay, feature: str) -> pa.Table:
    """The events that one value of the only capture was folded from."""
    entries = {entry.column: entry for entry in view.entries if entry.kind == "group"}
    if feature not in entries:
        raise RequestError(
            f"'{feature}' is no feature of a group in view '{view.name}'.", field="feature", given=feature,
            expected="a column of a feature group", hint=_instead(view, feature, list(entries)),
        )  # fmt: skip
    for reading in replay.readings:
        if any(column.column == feature for column in reading.read.columns):
            return _of_reading(replay, reading, entries[feature])
    return pa.table({})


def _instead(view: FeatureView, feature: str, known: list[str]) -> str:
    """What to ask for in place of a column that no events are behind."""
    for entry in view.entries:
        if entry.column == feature and entry.on_demand is not None:
            return f"it is computed of {' and '.join(entry.on_demand.arguments)}: ask for one of these."
        if entry.column == feature:
            return "it is what the caller sent; the vector has it."
    close = nearest(feature, known)
    return f"did you mean '{close}'?" if close else "see the view's columns."


def _of_reading(replay: Replay, reading: Reading, entry: ViewColumn) -> pa.Table:
    group = reading.version.group
    keys = encode_keys(group.entity.keys, [replay.captures[name] for _, name in reading.read.keys])
    if isinstance(group, BatchFeatureGroup) and group.query is not None:
        return _stated(replay, reading, keys, group.ttl)
    (column,) = [c for c in group.columns if c.name == entry.feature]
    own = _request(replay, reading, column)
    spans = [_span(part, int(replay.at[0])) for part in folded([column])]
    until = max(last for _, last in spans)
    available, start, known = replay.available(reading), 0, []
    for source in group.sources:
        table = replay.table(source)
        piece = prepare([group], source, table)[0]
        used = available[start : start + len(piece.times)] <= reading.ordinals[0]
        start += len(piece.times)
        used &= piece.times < until
        used &= np.array([k == keys[0].as_py() for k in piece.keys], bool)[piece.codes] if piece.keys else False
        known.append((piece, used))
    since = min(
        max(first, _since(part, known, int(replay.at[0]), own is not None))
        for part, (first, _) in zip(folded([column]), spans, strict=True)
    )
    asked = {field: replay.captures[field][0] for field, _ in fields_read(column)}
    pieces = []
    for source, (piece, used) in zip(group.sources, known, strict=True):
        table = replay.table(source)
        places = np.flatnonzero(used & (piece.times >= since))
        found = _rows(table, piece.partitions[places], piece.positions[places])
        found = found.filter(pa.array(aggregated(group, column, found, asked)))
        pieces.append(found.append_column(_TIME, micros(found[source.time or ""])))
    if own is not None:
        own = own.filter(pa.array(aggregated(group, column, own, asked)))
        pieces.append(own.append_column(_TIME, pa.array(replay.at[: own.num_rows])))
    return _concatenated(pieces).sort_by(_TIME).drop_columns([_TIME])


def _request(replay: Replay, reading: Reading, column: WindowedFeature) -> pa.Table | None:
    """The request as one more event, where the windows of a feature hold it and its group counts it."""
    group, fields, at = reading.version.group, reading.read.fields, replay.at[:1]
    if fields is None or isinstance(group, BatchFeatureGroup) or all(part.delay for part in folded([column])):
        return None
    row = request_table(group, fields, {name: replay.captures[name] for name in fields.values()}, at)
    placed = row
    for name in ("_partition", "_position", "_arrival"):
        placed = placed.append_column(name, pa.array(at))
    return row if len(prepare([group], group.sources[0], placed)[0].times) else None


def _stated(replay: Replay, reading: Reading, keys: pa.Array, ttl: int | None) -> pa.Table:
    """The row that the value is of: the newest that was applied and visible, if any is in force."""
    applied = int(replay.runs_applied(reading)[0])
    pieces = replay.past.rows(reading.version.id, replay.of_keys(reading, np.arange(1)))
    known = (piece.filter(pc.less(piece["_run"], applied)) if piece.num_rows else piece for piece in pieces)
    rows = newest_of(reading.version.group.entity.keys, known, keys, replay.at)
    return rows.take(in_force(rows, keys, replay.at, ttl).drop_null()).drop_columns([KEY])


def _span(column: WindowedFeature, at: int) -> tuple[int, int]:
    """The event times from which and before which a feature aggregates when it is read at `at` (µs)."""
    since, hop = int(np.iinfo(np.int64).min), column.hop or 1
    if column.window is not None:
        since = (at - column.delay - column.window) // hop * hop
    return since, (at - column.delay) // hop * hop if column.delay else at


def _since(column: WindowedFeature, known: Sequence[tuple[Prepared, np.ndarray]], at: int, own: bool) -> int:
    """The instant of the oldest event that a window of events, or a session, holds; for windows of time the least number.

    With `own`, the request is the newest of them.
    """
    if not column.rows and not column.gap:
        return int(np.iinfo(np.int64).min)
    every = [at] if own and not column.delay else []
    for piece, used in known:
        counts = used & (piece.arrivals - piece.times <= column.late) if column.gap else used
        every += piece.times[counts].tolist()
    times, begin = sorted(every, reverse=True), at
    if column.rows:
        return times[min(column.rows, len(times)) - 1] if times else at
    for time in times:
        if begin - time > column.gap:
            break
        begin = time
    return begin


def _rows(table: pa.Table, partitions: np.ndarray, positions: np.ndarray) -> pa.Table:
    """The rows of a source at the given places."""
    wanted = set(zip(partitions.tolist(), positions.tolist(), strict=True))
    here = zip(table["_partition"].to_pylist(), table["_position"].to_pylist(), strict=True)
    return table.filter(pa.array([place in wanted for place in here], pa.bool_()))


def _concatenated(pieces: Sequence[pa.Table]) -> pa.Table:
    """The events of several sources; columns of one name but of different types become text."""
    types: dict[str, set[pa.DataType]] = {}
    for field in (field for piece in pieces for field in piece.schema):
        types.setdefault(field.name, set()).add(field.type)
    mixed = {name for name, kinds in types.items() if len(kinds) > 1}
    alike = [
        pa.table({name: piece[name].cast(pa.string()) if name in mixed else piece[name] for name in piece.column_names})
        for piece in pieces
    ]
    return pa.concat_tables(alike, promote_options="default")
