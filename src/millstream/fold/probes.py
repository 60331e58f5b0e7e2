"""Probes: the fields of requests that features read, as numbers, or as what they are looked up by among entries.

What is looked up has the form of the events' entries (see `entry_inputs`), whether it comes from a table of many requests or
from a few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from millstream.definitions.data_types import arrow_type, carried
from millstream.definitions.whole_numbers import as_column, floats
from millstream.fold.entry_inputs import hashed
from millstream.fold.requests import hash_of

if TYPE_CHECKING:
    from millstream.fold.layout import Layout


@dataclass(frozen=True, eq=False)
class Probes:
    """What the features of a layout read of requests, a row for each.

    Attributes:
        numbers: a column for each of the layout's `probes`, NaN for null.
        lanes: two for each of its `lookups`: whether there is a value (1 or 0), and the bits by which it is told apart.
    """

    numbers: np.ndarray
    lanes: np.ndarray

    def take(self, rows: slice) -> Probes:
        """What some of the requests have."""
        return Probes(self.numbers[rows], self.lanes[rows])


def no_probes(layout: Layout, rows: int) -> Probes:
    """Nulls for so many requests."""
    return Probes(np.full((rows, len(layout.probes)), np.nan), np.zeros((rows, 2 * len(layout.lookups)), np.int64))


def probes_of(layout: Layout, given: Mapping[str, pa.Array | pa.ChunkedArray], rows: int) -> Probes | None:
    """Return what a layout reads of many requests, None where none of the fields that it reads is given.

    Args:
        layout: the group's layout.
        given: fields of the requests, one value for each request; one that is not given is null. Give those alone that
            the view reads the group with: another one of such a name may be of any type.
        rows: how many requests there are.
    """
    if not any(name in given for name in layout.fields_read):
        return None
    found = no_probes(layout, rows)
    for place, name in enumerate(layout.probes):
        if name in given:
            found.numbers[:, place] = floats(carried(given[name]))
    for place, (name, kind) in enumerate(layout.lookups):
        if name in given:
            column = given[name]
            if kind == "timestamp" and pa.types.is_integer(column.type):
                column = column.cast(pa.int64()).cast(arrow_type(kind))
            told = hashed(
                name, pa.chunked_array([column] if isinstance(column, pa.Array) else column.chunks), kind, None
            )
            found.lanes[:, 2 * place] = told.valid
            found.lanes[:, 2 * place + 1] = told.lanes[:, 0]
    return found


def probes_of_few(layout: Layout, values: Mapping[str, Sequence[Any]], rows: int) -> Probes | None:
    """Return what `probes_of` does for few requests, without a column of Arrow's.

    Args:
        layout: the group's layout.
        values: fields of the requests, as Python's values, one for each request; one that is not given is null.
        rows: how many requests there are.
    """
    if not any(name in values for name in layout.fields_read):
        return None
    found = no_probes(layout, rows)
    for place, name in enumerate(layout.probes):
        if name in values:
            found.numbers[:, place] = as_column(values[name], "float64")
    for place, (name, kind) in enumerate(layout.lookups):
        if name in values:
            found.lanes[:, 2 * place : 2 * place + 2] = [hash_of(value, kind) for value in values[name]]
    return found
