"""Tables that are put in order with no more than one column in memory twice."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def ordered(pieces: Iterable[pa.Table], by: str) -> pa.Table:
    """Return pieces of one schema, at least one, as one table in the order of a column of integers.

    Where the pieces are in order, and follow each other, nothing is copied.

    >>> ordered([pa.table({"at": [7, 8]}), pa.table({"at": [3, 1]})], "at")["at"].to_pylist()
    [1, 3, 7, 8]
    """
    schema, columns = _columns(pieces, by)
    values = columns[schema.get_field_index(by)].to_numpy()
    if (values[1:] < values[:-1]).any():
        places = pa.array(np.argsort(values, kind="stable"))
        del values
        columns = [columns.pop(0).take(places) for _ in range(len(columns))]
    return pa.Table.from_arrays(columns, schema=schema)


def has_repeats(values: list[pa.Array]) -> bool:
    """Return whether an integer is there twice.

    >>> has_repeats([pa.array([1, 3]), pa.array([2])]), has_repeats([pa.array([1, 3]), pa.array([3])])
    (False, True)
    """
    every = np.concatenate([np.empty(0, np.int64), *(np.asarray(some) for some in values)])
    every.sort()
    return bool((every[1:] == every[:-1]).any())


def _columns(pieces: Iterable[pa.Table], by: str) -> tuple[pa.Schema, list[pa.ChunkedArray]]:
    """The schema and the columns of pieces, in the order of what each begins with."""
    every = list(pieces)
    filled = sorted((piece for piece in every if piece.num_rows), key=lambda piece: pc.min(piece[by]).as_py())
    whole = pa.concat_tables(filled or every[:1])
    return whole.schema, whole.columns
