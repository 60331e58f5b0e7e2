"""Requests as events: the lanes of one more row at the instant of each read, from a table of many or from a few.

Training makes them by the query that prepares events, the online read by the compiled form of the same expressions, which
is held to the query when a view is built.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.definitions.data_types import ARROW_TYPES, where
from millstream.definitions.request_row import compiled, source_columns
from millstream.engines.engine import FIRST
from millstream.fold.prepare import lanes_of_rows, lanes_of_table

if TYPE_CHECKING:
    from millstream.definitions import StreamFeatureGroup


def request_lanes(
    group: StreamFeatureGroup, fields: Mapping[str, str], given: Mapping[str, pa.Array], at: np.ndarray
) -> np.ndarray:
    """Return for each of many requests the lanes that it adds to the group, which may be none.

    Args:
        group: the group that is read.
        fields: by columns of its source, the fields that give them; the others are null.
        given: those fields, one value for each request.
        at: the instants (µs); a request without one (`FIRST`) adds nothing.
    """
    dated = at != FIRST
    times = pa.array(np.where(dated, at, 0)).cast(ARROW_TYPES["timestamp"])
    columns: dict[str, Any] = {}
    for name, kind in source_columns(group).items():
        column = given[fields[name]] if name in fields else pa.nulls(len(at), ARROW_TYPES[kind])
        column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if pa.types.is_integer(column.type) and kind == "timestamp":
            column = column.cast(pa.int64())
        column = column.cast(ARROW_TYPES[kind])
        keep = pa.array(dated)
        if kind == "float64":
            keep = pc.and_(keep, pc.fill_null(pc.is_finite(column), False))
        columns[name] = where(keep, column)
    columns |= {source.time: times for source in group.sources}
    return lanes_of_table(group, pa.table(columns), at)


class RequestRows:
    """Makes the lanes of few requests at a time, without a query: what the online read of a group adds.

    Args:
        group: the group that is read.
        fields: by columns of its source, the fields that give them; the others are null.
    """

    def __init__(self, group: StreamFeatureGroup, fields: Mapping[str, str]) -> None:
        self._group = group
        self._expressions = compiled(f"StreamFeatureGroup '{group.name}'", group)
        kinds = source_columns(group)
        self._given = tuple(
            (name.lower(), field, kinds[name] == "float64") for name, field in fields.items() if name in kinds
        )
        self._nulls = dict.fromkeys((name.lower() for name in kinds), None)
        self._times = tuple(source.time.lower() for source in group.sources)

    def lanes(self, values: Mapping[str, Sequence[Any]], at: np.ndarray) -> np.ndarray:
        """Return for each request, by its fields (None for null) and instant (µs), the lanes that it adds."""
        rows = [self._row(values, i, instant) for i, instant in enumerate(at.tolist())]
        columns: dict[str, pa.ChunkedArray] = {}
        failed: dict[str, dict[int, str]] = {}
        for sql, expression in self._expressions.items():
            found: list[Any] = []
            for i, row in enumerate(rows):
                try:
                    found.append(expression.value(row))
                except ArithmeticError as error:
                    failed.setdefault(sql, {})[i] = str(error)
                    found.append(None)
            columns[sql] = pa.chunked_array([pa.array(found, ARROW_TYPES[expression.kind])])
        return lanes_of_rows(self._group, columns, failed, at)

    def _row(self, values: Mapping[str, Sequence[Any]], i: int, at: int) -> dict[str, Any]:
        row = dict(self._nulls)
        for name, field, number in self._given:
            value = values[field][i]
            if number and value is not None:
                value = float(value)
                value = value if math.isfinite(value) else None
            row[name] = value
        for name in self._times:
            row[name] = at
        return row
