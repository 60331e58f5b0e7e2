"""Whole numbers beyond 2**53 in columns that are float64 otherwise: kept as Python's, since a float would round them.

Views carry numbers as float64 with NaN for null. A column of a whole type (int64, or instants as µs) that holds a number
which float64 cannot is carried as objects with None for null instead; what reads it as numbers gets the nearest float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

WHOLE = ("int64", "timestamp")  # the types of columns that hold whole numbers
_EXACT = 2**53  # up to here every whole number is a float64


def as_column(values: Sequence[Any], kind: str) -> NDArray[Any]:
    """Return numbers, None for null, as a view carries them.

    >>> as_column([1, None], "int64").tolist(), as_column([2**53 + 1, None], "int64").tolist()
    ([1.0, nan], [9007199254740993, None])
    """
    if kind in WHOLE and any(value is not None and not -_EXACT <= value <= _EXACT for value in values):
        return objects(values)
    return np.array([np.nan if value is None else value for value in values], np.float64)


def of_arrow(column: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    """Return an int64 column of Arrow's as a view carries it."""
    found = pc.min_max(column)
    if found["min"].is_valid and (found["min"].as_py() < -_EXACT or found["max"].as_py() > _EXACT):
        return objects(column.to_pylist())
    floats = pc.cast(column, pa.float64(), safe=False)
    return np.array(floats.to_numpy(zero_copy_only=False) if isinstance(floats, pa.Array) else floats.to_numpy())


def of_lanes(lanes: NDArray[np.int64], present: NDArray[np.bool_]) -> NDArray[Any]:
    """Return whole numbers, null where they are not present, as a view carries them.

    >>> of_lanes(np.array([1, 2**53 + 1]), np.array([True, False])).tolist()
    [1.0, nan]
    """
    beyond = present & ((lanes > _EXACT) | (lanes < -_EXACT))
    if beyond.any():
        wide = objects(lanes.tolist())
        wide[~present] = None
        return wide
    return np.where(present, lanes, np.nan)


def objects(values: Sequence[Any]) -> NDArray[Any]:
    """Return values as an array of objects, which stay what they are."""
    column = np.empty(len(values), object)
    column[:] = values
    return column


def put(into: NDArray[Any], places: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
    """Return a column with other values at some places, carried as the two together must be.

    Args:
        into: the column; it is changed itself where it is carried as the values are.
        places: the numbers of the rows to change (int64).
        values: the new value of each of them, or one for all.
    """
    if into.dtype == values.dtype:
        into[places] = values
        return into
    wide = objects([None if value != value else value for value in into.tolist()])
    wide[places] = objects([None if value != value else value for value in values.tolist()])
    return wide


def floats(column: NDArray[Any]) -> NDArray[np.float64]:
    """Return a column of numbers as float64, NaN for null."""
    return column.astype(np.float64)
