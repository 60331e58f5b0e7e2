"""What one request was answered from, in full: its vector, what each group had applied, the events behind a value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.clock import to_datetime
from millstream.definitions.feature_group import StreamFeatureGroup
from millstream.errors import NotFound
from millstream.fold import encode_keys
from millstream.monitor.replay import Pasts, Reading, Replay

if TYPE_CHECKING:
    from millstream.definitions.feature_view import FeatureView
    from millstream.definitions.windows import WindowedFeature

SHOWN = 100
"""How many of the newest events behind a value are listed."""


def explained(view: FeatureView, capture: pa.Table, past: Pasts, column: str | None) -> dict[str, Any]:
    """Say what a captured request was answered from.

    Args:
        view: The view that was served.
        capture: The one captured row.
        past: History, to find events in.
        column: The column whose events to list, if any.

    Raises:
        NotFound: When the view has no such column.
    """
    row = capture.to_pylist()[0]
    found = {
        "request_id": row["_request_id"],
        "model": row["_model"],
        "version": int(row["_version"]),
        "at": to_datetime(row["_at"]),
        "score": row["_score"],
        "degraded": row["_degraded"],
        "keys": {name: row[name] for name in view.entity_keys},
        "vector": {name: row.get(name) for name in view.columns},
        "groups": [_group(name, facts) for name, facts in json.loads(row["_groups"]).items()],
        "events": [],
    }
    if column is not None:
        found["events"] = _events(view, capture, past, column)
    return found


def _group(name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    age = facts.get("age")
    return {
        "group": name,
        "gv": facts["version"],
        "shard": facts["shard"],
        "positions": facts["positions"],
        "age_s": None if age is None else age / 1e6,
        "fallback": facts.get("fallback"),
    }


def _events(view: FeatureView, capture: pa.Table, past: Pasts, column: str) -> list[dict[str, Any]]:
    """The events that a column's value was folded from, newest first; none for what is not folded from a stream."""
    if column not in view.columns:
        raise NotFound.named("column", column, view.columns)
    replay = Replay(view, capture, past)
    for reading in replay.readings():
        names = {one.column: one.feature for one in reading.read.columns}
        if column in names and isinstance(reading.version.group, StreamFeatureGroup):
            feature = next(one for one in reading.version.group.columns if one.name == names[column])
            return _behind(replay, reading, reading.version.group, feature)
    return []


def _behind(
    replay: Replay, reading: Reading, group: StreamFeatureGroup, feature: WindowedFeature
) -> list[dict[str, Any]]:
    events = replay.events(reading.version)
    keys = [replay.captures[name].combine_chunks() for _, name in reading.read.keys]
    key = encode_keys(group.entity.keys, keys)[0].as_py()
    if key is None or key not in events.keys:
        return []
    begin, end = _window(feature, int(replay.at[0]))
    applied = replay.available(reading) <= reading.ordinals[0]
    mine = (events.codes == events.keys.index(key)) & applied & (events.times >= begin) & (events.times < end)
    places = set(zip(events.partitions[mine].tolist(), events.positions[mine].tolist(), strict=True))
    rows = []
    for source in group.sources:
        table = replay.table(source)
        near = table.filter(pc.is_in(table["_position"], pa.array([position for _, position in places], pa.int64())))
        where = [condition for condition in (group.where, feature.where) if condition]
        for row in _matching(near, group, where).to_pylist():
            if (row.pop("_partition"), row.pop("_position")) in places:
                shown = {name: value for name, value in row.items() if not name.startswith("_") and name != "rest"}
                rows.append({"stream": source.name, **shown, "_time": row[source.time]})
    rows.sort(key=lambda row: row["_time"], reverse=True)
    return [{name: value for name, value in row.items() if name != "_time"} for row in rows[:SHOWN]]


def _window(feature: WindowedFeature, at: int) -> tuple[int, int]:
    """The span of event times that counts at an instant (µs), as the semantics say."""
    lowest = np.iinfo(np.int64).min
    hop = feature.hop or 1
    end = (at - feature.delay) // hop * hop if feature.delay else at
    if feature.window is None:
        return int(lowest), end
    return (at - feature.delay - feature.window) // hop * hop, end


def _matching(table: pa.Table, group: StreamFeatureGroup, conditions: list[str]) -> pa.Table:
    """The rows for which all conditions are true, which may use the group's derived columns."""
    import duckdb

    if not conditions or not table.num_rows:
        return table
    names = ", ".join(f'"{name}"' for name in table.column_names)
    derived = "".join(f', {sql} as "{name}"' for name, sql in group.derive.items())
    chosen = " and ".join(f"({condition})" for condition in conditions)
    with duckdb.connect() as connection:
        connection.register("events", table)
        found = connection.sql(f"select {names} from (select *{derived} from events) where {chosen}")
        return found.to_arrow_table()
