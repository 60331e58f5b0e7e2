"""The rows of a table as it declares them: one conversion for every file, frame and database they may come from.

A row with a value that its column's type does not take is no row of the table. What is small is read into memory and
converted there; what is not stays where it is, and the engine converts it as it reads, to the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from millstream.buffer.codec.events import DeadLetter
from millstream.buffer.codec.types import from_arrow
from millstream.definitions.data_types import arrow_type
from millstream.definitions.source import Table
from millstream.engines.instants import micros

#: Parquet files up to this many bytes are kept in memory between runs.
IN_MEMORY = 32 << 20
#: How many rows that do not fit are told of one by one.
_TOLD = 10_000


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a table that are what it declares, and by row number why others are not, with their values."""

    table: pa.Table
    wrong: Mapping[int, tuple[str, str]]
    _sorted: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def instants(self, column: str) -> np.ndarray:
        """The instants of a column (µs), sorted once; those that are null are left out."""
        if column not in self._sorted:
            self._sorted[column] = np.sort(np.asarray(micros(self.table[column]).drop_null()).astype(np.int64))
        return self._sorted[column]

    def letters(self, name: str, now: int) -> list[DeadLetter]:
        """A dead letter (stamped `now`, µs) for each row that is not what the table declares."""
        found = [DeadLetter(name, 0, row, *told, now) for row, told in list(self.wrong.items())[:_TOLD]]
        if len(self.wrong) > _TOLD:
            more = f"Table '{name}': {len(self.wrong) - _TOLD:,} further rows do not fit either."
            found.append(DeadLetter(name, 0, max(self.wrong), more, "{}", now))
        return found


def declared(table: Table) -> dict[str, str]:
    """The types of a table's columns, its times among them even where it has no schema."""
    times = {name: "timestamp" for name in (table.time, table.available) if name}
    return {**times, **(table.schema or {})}


def typed(table: Table, rows: pa.Table) -> Rows:
    """Bring rows to the types that a table declares.

    Columns are found by their names without case; those that are not declared stay as they are.
    """
    reasons: dict[int, str] = {}
    found, places = rows, {name.lower(): place for place, name in enumerate(rows.column_names)}
    for name, kind in declared(table).items():
        place = places.get(name.lower())
        if place is None:
            continue  # whoever reads it says so
        column, wrong = _column(rows.column(place), kind)
        for row in [] if wrong is None else np.flatnonzero(wrong).tolist():
            given = rows.column(place)[row]
            reasons.setdefault(row, f"Table '{table.name}': '{name}' is {shown(given)}; expected {kind}.")
        found = found.set_column(place, name, column)
    if not reasons:
        return Rows(found, {})
    keep = np.ones(rows.num_rows, bool)
    keep[list(reasons)] = False
    told = {row: (reasons[row], payload(rows, row)) for row in sorted(reasons)}
    return Rows(found.filter(pa.array(keep)), told)


def payload(rows: pa.Table, row: int) -> str:
    """A row as the text of a dead letter."""
    values = {name: _plain(rows[name][row]) for name in rows.column_names}
    return msgspec.json.encode(values, enc_hook=str).decode(errors="replace")


def in_file(table: Table, path: Path) -> Rows:
    """The rows of a small Parquet file, read again when it has changed: a scheduled query asks for it at every run."""
    facts = path.stat()
    return _in_file(table, path, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=16)
def _in_file(table: Table, path: Path, changed: int, size: int) -> Rows:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:  # not `read_table`, which loads the library of datasets and pandas
            rows = file.read()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"'{path}': {error}") from error
    return typed(table, rows)


def _column(column: pa.ChunkedArray, kind: str) -> tuple[pa.ChunkedArray, np.ndarray | None]:
    pieces, masks = [], []
    for chunk in column.chunks:
        array, wrong = from_arrow(_without_nan(chunk, kind), kind)
        pieces.append(array)
        masks.append(np.zeros(len(chunk), bool) if wrong is None else wrong)
    wrong = np.concatenate(masks) if masks else np.zeros(0, bool)
    return pa.chunked_array(pieces, arrow_type(kind)), wrong if wrong.any() else None


def _without_nan(array: pa.Array, kind: str) -> pa.Array:
    """NaN is null: whole numbers with gaps are often written as floats."""
    import pyarrow.compute as pc

    if kind == "float64" or not pa.types.is_floating(array.type):
        return array
    return pc.if_else(pc.is_nan(array.cast(pa.float64())), pa.scalar(None, array.type), array)


def shown(value: pa.Scalar) -> str:
    """A value as an error shows it, whatever it is."""
    return repr(_plain(value))[:80]


def _plain(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except (ValueError, OverflowError):  # an instant that Python cannot hold, or bytes that are no text
        counted = pa.types.is_temporal(value.type)
        return value.cast(pa.int64()).as_py() if counted else f"{value.type} of other bytes"
