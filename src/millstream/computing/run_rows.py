"""From what a query returned to the rows of a run: keyed, dated, typed, and one row for each key and event time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.buffer.codec.events import DeadLetter
from millstream.buffer.codec.types import from_arrow
from millstream.buffer.codec.values import TEXTS
from millstream.computing.interval_runs import Result
from millstream.computing.table_rows import payload, shown
from millstream.definitions.data_types import arrow_type, comparable
from millstream.definitions.feature_group import BatchFeatureGroup
from millstream.definitions.schema import digits_of
from millstream.engines.instants import micros
from millstream.errors import MillstreamError, PlanError, nearest
from millstream.fold.keys import encode_keys
from millstream.fold.row_errors import halved

_RANK = "_rank"  # when a row of the result could be known


@dataclass(frozen=True, eq=False)
class Staged:
    """The rows of a run, how many of the query's rows are not in it, by reason, and dead letters of those that failed."""

    rows: pa.Table
    skipped: dict[str, int]
    dead: list[DeadLetter]


def stage(
    thing: str,
    group: BatchFeatureGroup,
    schema: Mapping[str, str],
    result: Result,
    end: int,
    available: int | np.ndarray,
) -> Staged:
    """Bring a query's result to the columns of a run.

    A row with a null key or no time is left out and counted, and one with a value that its column's type does not take
    is a dead letter. Of rows with equal key and time, and available at once, the one stays that could be known last,
    else the greatest by value, so that the order in which an engine returns them never matters.

    Args:
        thing: whose rows they are, for messages.
        group: the group; its `time` column, if it has one, dates the rows.
        schema: the type of each feature by name.
        result: what the query returned.
        end: the end of the interval (µs), which dates rows that have no time of their own.
        available: when the rows became available (µs): one instant, or one for each row of the result (int64).

    Raises:
        MillstreamError: when the result lacks a column.
    """
    types, skipped, rows, wrong = group.entity.keys, Counter[str](), result.rows, dict[int, str]()
    columns = {name: _cast(thing, rows, group.keys[name], kind, wrong) for name, kind in types.items()}
    dated = _cast(thing, rows, group.time, "timestamp", wrong) if group.time else _all(end, rows.num_rows)
    known = pa.array(available) if isinstance(available, np.ndarray) else _all(available, rows.num_rows)
    columns |= {"event_time": dated.cast(pa.int64()), "available_time": known}
    columns |= {name: _cast(thing, rows, name, kind, wrong) for name, kind in schema.items()}
    rank = np.zeros(rows.num_rows, np.int64) if result.known is None else result.known
    table = pa.table(columns).append_column(_RANK, pa.array(rank))
    if wrong:
        table = table.take(pa.array(sorted(set(range(rows.num_rows)) - set(wrong)), pa.int64()))
    table = _without(table, list(types), "null_key", skipped)
    table = _without(table, ["event_time"], "null_time", skipped)
    single = _newest_known(table, types, list(schema))
    skipped["repeated"] += table.num_rows - single.num_rows
    dead = [*result.dead, *(_letter(group, rows, row, wrong[row], end) for row in sorted(wrong))]
    return Staged(single.drop_columns([_RANK]).combine_chunks(), dict(+skipped), dead)


def features_of(group: BatchFeatureGroup, result: pa.Table) -> dict[str, str]:
    """The features of a group whose tables declare no schema, as the result of its query shows them.

    Raises:
        PlanError: a column has no type, because it has no value yet.
    """
    apart = {*group.keys.values(), group.time}
    for field in result.schema:
        if field.name not in apart and pa.types.is_null(field.type):
            raise PlanError(
                f"Feature group '{group.name}': column '{field.name}' of its query has no value yet, so its type is not "
                "known.",
                f'declare it: schema={{"{field.name}": "float64", ...}} on the group or its table.',
            )
    return {field.name: _kind(field.type) for field in result.schema if field.name not in apart}


def _kind(arrow: pa.DataType) -> str:
    if pa.types.is_boolean(arrow):
        return "bool"
    if pa.types.is_integer(arrow):
        return "int64"
    if pa.types.is_floating(arrow) or pa.types.is_decimal(arrow):
        return "float64"
    if pa.types.is_temporal(arrow):
        return "date" if pa.types.is_date(arrow) else "timestamp"
    if pa.types.is_binary(arrow) or pa.types.is_large_binary(arrow):
        return "bytes"
    return "uuid" if arrow == pa.uuid() else "string"


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


def _cast(thing: str, result: pa.Table, name: str, kind: str, wrong: dict[int, str]) -> pa.ChunkedArray:
    """A column of the result as a type; the rows whose value it does not take, null here, are added to `wrong`."""
    column, wanted = _column(thing, result, name), arrow_type(kind)

    def cast(first: int, size: int) -> pa.ChunkedArray:
        part = column.slice(first, size)
        if kind == "timestamp":
            return micros(part).cast(wanted)
        if kind in TEXTS or digits_of(kind):
            found, misfit = from_arrow(part.combine_chunks(), kind)
            if misfit is not None and misfit.any():
                raise pa.ArrowInvalid(f"a value is no {kind}")
            return pa.chunked_array([found])
        if pa.types.is_floating(part.type):  # NaN is null: whole numbers with gaps are often written so
            part = pc.if_else(pc.is_nan(part), pa.scalar(None, part.type), part)
        return part.cast(wanted, safe=kind != "float64" or not pa.types.is_integer(part.type))

    if not len(column):
        return pa.chunked_array([], wanted)
    found, guilty = halved(len(column), cast)
    for row in guilty:
        hint = f"{column[row].type}, which is no {kind}; cast it in the query: {name}::{_SQL.get(kind, kind)}"
        wrong.setdefault(row, f"{thing}: column '{name}' of its query is {shown(column[row])}, a {hint}.")
    pieces = {first: part.chunks for first, _, part in found} | {row: [pa.nulls(1, wanted)] for row in guilty}
    return pa.chunked_array([chunk for first in sorted(pieces) for chunk in pieces[first]], wanted)


def _letter(group: BatchFeatureGroup, rows: pa.Table, row: int, reason: str, now: int) -> DeadLetter:
    return DeadLetter(group.sources[0].name, 0, row, reason, payload(rows, row), now)


_SQL = {"int64": "bigint", "float64": "double", "string": "varchar", "bool": "boolean", "timestamp": "timestamptz",
        "date": "date", "uuid": "uuid", "bytes": "blob"}  # fmt: skip


def _without(table: pa.Table, columns: list[str], reason: str, skipped: Counter[str]) -> pa.Table:
    """The rows without a null in some columns; the others are counted."""
    missing = np.zeros(table.num_rows, bool)
    for name in columns:
        missing |= np.asarray(table[name].is_null()).astype(bool)
    skipped[reason] += int(missing.sum())
    return table.filter(pa.array(~missing)) if missing.any() else table


def _newest_known(table: pa.Table, types: Mapping[str, str], features: list[str]) -> pa.Table:
    keys = encode_keys(types, [table[name] for name in types]).dictionary_encode()
    codes = np.asarray(keys.indices).astype(np.int64)
    times, available = (np.asarray(table[name]) for name in ("event_time", "available_time"))
    order = np.lexsort((available, times, codes))
    if not len(order) or not _same_as_before(codes[order], times[order], available[order]).any():
        return table
    ranked = pa.table({name: comparable(table[name]) for name in (_RANK, *features)})
    by = {"_code": codes, "_time": times, "_available": available}
    for name, values in by.items():
        ranked = ranked.append_column(name, pa.array(values))
    sorting = [*((name, "ascending") for name in by), (_RANK, "descending")]
    sorting += [(name, "descending") for name in features]
    chosen = np.asarray(pc.sort_indices(ranked, sorting)).astype(np.int64)
    again = _same_as_before(codes[chosen], times[chosen], available[chosen])
    return table.take(pa.array(np.sort(chosen[~again])))


def _same_as_before(*columns: np.ndarray) -> np.ndarray:
    same = np.logical_and.reduce([column[1:] == column[:-1] for column in columns])
    return np.concatenate([np.zeros(min(1, len(columns[0])), bool), same])
