"""Rows from outside, whatever library they come from: as an Arrow table of plain columns, or as dicts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import chain
from typing import Any

import pyarrow as pa

from millstream.buffer.codec.types import plain
from millstream.errors import LogError, MillstreamError

Rows = Any  # a sequence of dicts, or any data frame that speaks Arrow
_ALIKE = 0.8  # from here on a column is taken for another one, misspelt


def taken(thing: str, rows: Rows, error: type[MillstreamError] = LogError) -> pa.Table | Sequence[Any]:
    """Return rows as Arrow if they are a frame; as dicts if they are dicts, or a frame of values that Arrow has not.

    Args:
        thing: what they are given to, for an error: "Stream 'clicks'".
        rows: a list of dicts, one dict, an Arrow table or batch, a pandas or Polars frame, or anything else with
            `__arrow_c_stream__`.
        error: what is raised when they are none of these, or two columns bear one name.

    >>> taken("Stream 'clicks'", pa.table({"id": pa.array(["a"]).dictionary_encode()})).schema.field("id").type
    DataType(string)
    """
    if isinstance(rows, Mapping):
        return [_one_row(thing, rows, error)]
    if isinstance(rows, Sequence) and not isinstance(rows, str | bytes | bytearray | memoryview):
        return rows
    table = _table(thing, rows, error)
    if not isinstance(table, pa.Table):
        return table
    _check_names(thing, table.column_names, error)
    return _plain(table)


def as_dicts(thing: str, rows: Rows, error: type[MillstreamError] = LogError) -> Sequence[Any]:
    """Return rows as dicts, whatever form they come in: for requests, which are judged row by row.

    Args:
        thing: what they are given to, for an error: "View 'v'".
        rows: what `taken` takes; a list is returned as it is.
        error: what is raised when they are nothing of that, or hold a value that Python has not.

    >>> as_dicts("View 'v'", pa.table({"user_id": [1, 2]}))
    [{'user_id': 1}, {'user_id': 2}]
    """
    given = taken(thing, rows, error)
    if not isinstance(given, pa.Table):
        return given
    try:
        found: list[dict[str, Any]] = given.to_pylist()
    except (OverflowError, ValueError) as failure:  # an instant, or text, that Python has not
        raise error(f"{thing} was given a value that cannot be read: {failure}.", "mend the frame.") from failure
    return found


def check_columns(
    thing: str,
    given: pa.Table | Sequence[Any],
    schema: Mapping[str, str],
    needed: Callable[[], Iterable[str]],
    error: type[MillstreamError] = LogError,
    *,
    warn: bool = True,
) -> None:
    """Refuse rows of which none has a column that is needed: it is misspelt, or was left out of the frame.

    An absent field is null, so dicts may leave out what they do not know; they are refused where an unknown field
    looks like the one that is needed. For other columns of the schema such a field is warned of.

    Args:
        thing: what the rows are given to.
        given: the rows, as `taken` returned them.
        schema: the columns that they may have.
        needed: gives those of them without which a row counts for nothing: its time, and the keys that are made of it.
        error: what is raised, naming the column.
        warn: whether to warn of what is only suspected.
    """
    framed = isinstance(given, pa.Table)
    if not len(given) or not (framed or all(isinstance(row, Mapping) for row in given)):
        return
    names = set(given.column_names if isinstance(given, pa.Table) else chain.from_iterable(given))
    absent = [name for name in schema if name not in names]
    unknown = sorted(str(name) for name in names if name not in schema) if absent else []
    must = set(needed()) if absent else ()
    for name in absent:
        close = max(unknown, key=lambda other, name=name: _likeness(name, other), default=None)  # type: ignore[misc]
        if close is not None and _likeness(name, close) < _ALIKE:
            close = None
        if name in must and (framed or close is not None):
            hint = f"did you mean '{close}' to be '{name}'?" if close else f"add '{name}'; null where it is not known."
            raise error(f"{thing}: no row has the column '{name}', which is needed; nothing was taken.", hint)
        if warn and close is not None:
            said = f"{thing}: no row has the column '{name}'; is '{close}' meant to be '{name}'?"
            warnings.warn(said, UserWarning, stacklevel=2)


def _likeness(name: str, other: str) -> float:
    return SequenceMatcher(None, name.casefold(), other.casefold()).ratio()


def _one_row(thing: str, row: Mapping[Any, Any], error: type[MillstreamError]) -> Mapping[Any, Any]:
    """The dict as one row, unless it is a dict of columns."""
    if row and all(
        hasattr(value, "__len__") and not isinstance(value, str | bytes | Mapping) for value in row.values()
    ):
        raise error(
            f"{thing} was given a dict of columns; one dict is one row.",
            "pass a list of dicts, or make a table of it: pa.table(columns), pd.DataFrame(columns).",
        )
    return row


def _table(thing: str, rows: Rows, error: type[MillstreamError]) -> pa.Table | Sequence[Any]:
    if isinstance(rows, pa.Table):
        return rows
    if isinstance(rows, pa.RecordBatch):
        return pa.Table.from_batches([rows])
    if type(rows).__module__.partition(".")[0] == "pandas" and hasattr(rows, "columns"):
        return _from_pandas(thing, rows, error)
    if hasattr(rows, "to_dicts") and "Object" in map(str, rows.dtypes):  # of which Polars hands out addresses
        objects: Sequence[Any] = rows.to_dicts()
        return objects
    try:
        if hasattr(rows, "__arrow_c_stream__"):
            return pa.table(rows)
        if hasattr(rows, "__arrow_c_array__"):
            return pa.Table.from_batches([pa.record_batch(rows)])
    except BaseException as failure:  # a library of Rust panics, and a panic is no Exception
        if isinstance(failure, KeyboardInterrupt | SystemExit):
            raise
        if hasattr(rows, "to_dicts"):  # Polars, with values that Arrow has no type for
            dicts: Sequence[Any] = rows.to_dicts()
            return dicts
        raise error(f"{thing} was given a {_named(rows)} that Arrow cannot read: {failure}.", _HINT) from failure
    raise error(f"{thing} was given rows of type '{_named(rows)}'; expected dicts or a data frame.", _HINT)


_HINT = "pass a list of dicts, or an Arrow table, pandas or Polars frame."


def _from_pandas(thing: str, rows: Any, error: type[MillstreamError]) -> pa.Table | Sequence[Any]:
    """A pandas frame as Arrow or, where a column holds values of several types, as dicts."""
    names = list(map(str, rows.columns))
    _check_names(thing, names, error)
    if not names and len(rows):
        raise error(f"{thing} was given {len(rows)} rows without a column.", "is what you look for in the index?")
    if names != list(rows.columns):
        rows = rows.set_axis(names, axis=1)
    try:
        return pa.Table.from_pandas(rows, preserve_index=False)
    except Exception:  # pyarrow and pandas raise many types for what they cannot convert
        dicts: Sequence[Any] = rows.to_dict("records")
        return dicts


def _named(rows: Any) -> str:
    return type(rows).__name__


def _check_names(thing: str, names: Sequence[str], error: type[MillstreamError]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise error(
            f"{thing} was given two columns named '{twice}'; expected each name once.",
            "rename or drop one of them; nothing was sent.",
        )


def _plain(table: pa.Table) -> pa.Table:
    """The table without encodings that Arrow's own functions do not take, in nested columns either."""
    for place, field in enumerate(table.schema):
        encoded = pa.types.is_dictionary(field.type) or pa.types.is_run_end_encoded(field.type)
        if encoded or "view" in str(field.type):
            chunks = [_plain_column(chunk) for chunk in table.column(place).chunks]
            kind = chunks[0].type if chunks else plain(pa.nulls(0, field.type)).type
            table = table.set_column(place, field.name, pa.chunked_array(chunks, kind))
    return table


def _plain_column(array: pa.Array) -> pa.Array:
    return pa.array(array.to_pylist()) if pa.types.is_nested(array.type) else plain(array)
