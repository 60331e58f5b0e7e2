"""From what a query returned to the rows of a run: keyed, dated, typed, and one row for each key and event time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.buffer.columns import ARROW_TYPES
from millstream.definitions.feature_group import BatchFeatureGroup
from millstream.errors import MillstreamError, nearest
from millstream.fold.keys import encode_keys
from millstream.instants import micros


@dataclass(frozen=True, eq=False)
class Staged:
    """The rows of a run, and how many of the query's rows are not in it, by reason."""

    rows: pa.Table
    skipped: dict[str, int]


def stage(
    thing: str,
    group: BatchFeatureGroup,
    schema: Mapping[str, str],
    result: pa.Table,
    end: int,
    available: int | np.ndarray,
) -> Staged:
    """Bring a query's result to the columns of a run.

    Rows are dated by the group's `time` column, else by `end` (µs); `available` (µs) is one instant or one per row. A
    row with a null key or no time is left out and counted. Of rows with equal key and time the greatest by value stays,
    so that the order in which an engine returns them never matters.

    Raises:
        MillstreamError: when the result lacks a column or has one of another type.
    """
    types, skipped = group.entity.keys, Counter[str]()
    columns = {name: _cast(thing, result, group.keys[name], kind) for name, kind in types.items()}
    dated = _cast(thing, result, group.time, "timestamp") if group.time else _all(end, result.num_rows)
    known = pa.array(available) if isinstance(available, np.ndarray) else _all(available, result.num_rows)
    columns |= {"event_time": dated.cast(pa.int64()), "available_time": known}
    columns |= {name: _cast(thing, result, name, kind) for name, kind in schema.items()}
    table = pa.table(columns)
    table = _without(table, list(types), "null_key", skipped)
    table = _without(table, ["event_time"], "null_time", skipped)
    single = _greatest(table, types, list(schema))
    skipped["repeated"] += table.num_rows - single.num_rows
    return Staged(single.combine_chunks(), dict(+skipped))


def features_of(group: BatchFeatureGroup, result: pa.Table) -> dict[str, str]:
    """The features of a group whose tables declare no schema, as the result of its query shows them."""
    apart = {*group.keys.values(), group.time}
    return {field.name: _kind(field.type) for field in result.schema if field.name not in apart}


def _kind(arrow: pa.DataType) -> str:
    if pa.types.is_boolean(arrow):
        return "bool"
    if pa.types.is_integer(arrow):
        return "int64"
    if pa.types.is_floating(arrow) or pa.types.is_decimal(arrow):
        return "float64"
    return "timestamp" if pa.types.is_temporal(arrow) else "string"


def _all(instant: int, rows: int) -> pa.Array:
    return pa.array(np.full(rows, instant, np.int64))


def _column(thing: str, result: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in result.column_names:
        guess = nearest(name, result.column_names)
        raise MillstreamError(
            f"{thing}: its query gives no column '{name}'.",
            f"did you mean '{guess}'?" if guess else f"the columns are {', '.join(result.column_names)}.",
        )
    if result.column_names.count(name) > 1:
        raise MillstreamError(
            f"{thing}: its query gives {result.column_names.count(name)} columns named '{name}'; expected one.",
            f"name one of them otherwise: `{name} as {name}_2`, or list the columns instead of `*`.",
        )
    return result[name]


def _cast(thing: str, result: pa.Table, name: str, kind: str) -> pa.ChunkedArray:
    column = _column(thing, result, name)
    try:
        if kind == "timestamp":
            return micros(column).cast(ARROW_TYPES[kind])
        return column.cast(ARROW_TYPES[kind])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise MillstreamError(
            f"{thing}: column '{name}' of its query has type {column.type}; expected {kind} ({error}).",
            f"cast it in the query: {name}::{_SQL[kind]}.",
        ) from error


_SQL = {"int64": "bigint", "float64": "double", "string": "varchar", "bool": "boolean", "timestamp": "timestamptz"}


def _without(table: pa.Table, columns: list[str], reason: str, skipped: Counter[str]) -> pa.Table:
    """The rows without a null in some columns; the others are counted."""
    missing = np.zeros(table.num_rows, bool)
    for name in columns:
        missing |= np.asarray(table[name].is_null()).astype(bool)
    skipped[reason] += int(missing.sum())
    return table.filter(pa.array(~missing)) if missing.any() else table


def _greatest(table: pa.Table, types: Mapping[str, str], features: list[str]) -> pa.Table:
    keys = encode_keys(types, [table[name] for name in types]).dictionary_encode()
    codes = np.asarray(keys.indices).astype(np.int64)
    times = np.asarray(table["event_time"])
    order = np.lexsort((times, codes))
    if not len(order) or not _same_as_before(codes[order], times[order]).any():
        return table
    by_value = [("code", "ascending"), ("time", "ascending"), *((name, "descending") for name in features)]
    ranked = table.select(features).append_column("code", pa.array(codes)).append_column("time", pa.array(times))
    chosen = np.asarray(pc.sort_indices(ranked, by_value)).astype(np.int64)
    return table.take(pa.array(np.sort(chosen[~_same_as_before(codes[chosen], times[chosen])])))


def _same_as_before(codes: np.ndarray, times: np.ndarray) -> np.ndarray:
    same = (codes[1:] == codes[:-1]) & (times[1:] == times[:-1])
    return np.concatenate([np.zeros(min(1, len(codes)), bool), same])
