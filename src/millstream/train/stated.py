"""What queries have stated, read some rows at a time: of each piece stays what is the newest at an instant asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from millstream.definitions.data_types import arrow_type
from millstream.fold.rows import latest_visible, with_keys
from millstream.store.offline import Where

Instants = NDArray[np.int64]

LOOKED_AT = 200_000
"""Rows that are looked at together, or as many as there are instants, if these are more."""
FEW = 1_000
"""Keys up to which a store is asked for theirs alone."""


class Newest:
    """Of rows that come some at a time, those that are the newest visible of some key at its instant.

    In memory are some rows that came last, and no more of the others than there are instants: what is the newest of all
    rows is that of those it came with.

    Args:
        types: the entity's join keys.
        keys: the encoded keys.
        at: for each key the instant (µs).
        most: about how many rows to look at together; more where there are more instants.
    """

    def __init__(self, types: Mapping[str, str], keys: pa.Array, at: Instants, most: int = LOOKED_AT) -> None:
        self._types, self._keys, self._at = types, keys, at
        self._most, self._fresh = max(most, len(keys)), 0
        self._kept: list[pa.Table] = []

    def add(self, rows: pa.Table) -> None:
        """Take some rows."""
        self._kept.append(with_keys(self._types, rows))
        self._fresh += rows.num_rows
        if self._fresh >= self._most:
            self._kept, self._fresh = [self.rows()], 0

    def rows(self) -> pa.Table:
        """Return them in the order in which they came, with their encoded keys."""
        every = pa.concat_tables(self._kept, promote_options="default")
        places = np.unique(latest_visible(every, self._keys, self._at))
        return every.take(pa.array(places[places >= 0]))


def newest_of(types: Mapping[str, str], pieces: Iterable[pa.Table], keys: pa.Array, at: Instants) -> pa.Table:
    """Return the rows that are the newest visible of some key at its instant; see `Newest`.

    Args:
        types: the entity's join keys.
        pieces: rows, some at a time; at least one piece, which may be empty.
        keys: the encoded keys.
        at: for each key the instant (µs).
    """
    newest = Newest(types, keys, at)
    for piece in pieces:
        newest.add(piece)
    return newest.rows()


def of_keys(types: Mapping[str, str], columns: Sequence[pa.Array]) -> Where:
    """Return which rows to ask a store for, where a read is of few keys; every row where it is of many.

    A column of another type than "int64" and "string" says nothing: not every store compares those alike.

    >>> of_keys({"user_id": "int64"}, [pa.array([7, 7, None])])
    [('user_id', 'in', [7])]
    """
    where = []
    for (name, kind), column in zip(types.items(), columns, strict=True):
        if kind not in ("int64", "string"):
            continue
        values = pc.drop_null(pc.unique(column.cast(arrow_type(kind))))
        if 0 < len(values) <= FEW:
            where.append((name, "in", values.to_pylist()))
    return where
