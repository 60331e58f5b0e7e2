"""What the groups of one source make of the same rows, each thing once, whatever the number of groups."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from threading import Lock
from typing import TypeVar

import numpy as np
import pyarrow as pa

_T = TypeVar("_T")


class Once:
    """Things that are made when they are first asked for, by whichever thread comes first."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Future[object]] = {}
        self._lock = Lock()

    def once(self, what: Hashable, make: Callable[[], _T]) -> _T:
        """The thing of that name, made if it is not there yet; what is made of a name is of one type.

        Others wait for a thing that is being made, and for nothing else.
        """
        with self._lock:
            made = self._made.get(what)
            mine = made is None
            made = self._made.setdefault(what, Future())
        if mine:
            try:
                made.set_result(make())
            except BaseException as error:
                made.set_exception(error)
        return made.result()  # type: ignore[return-value]


class SharedRows(Once):
    """The rows of a source, with the values of the expressions that its groups read.

    Args:
        table: validated rows with `_partition`, `_position` and `_arrival`.
        time: the column of their times.
        columns: by SQL, the values of the expressions.
    """

    def __init__(self, table: pa.Table, time: str, columns: Mapping[str, pa.ChunkedArray]) -> None:
        super().__init__()
        self.columns = dict(columns)
        self.times, self.arrivals = _int64(table[time]), _int64(table["_arrival"])
        self.partitions, self.positions = _int64(table["_partition"]), _int64(table["_position"])
        self._kept: list[tuple[np.ndarray, KeptRows]] = []

    def __len__(self) -> int:
        return len(self.times)

    def kept(self, keep: np.ndarray) -> KeptRows:
        """The rows that are marked, the same object for all groups that keep the same ones."""
        with self._lock:
            for mask, known in self._kept:
                if np.array_equal(mask, keep):
                    return known
            self._kept.append((keep, KeptRows(self, keep)))
            return self._kept[-1][1]


class KeptRows(Once):
    """The rows that count for a group, and their places; `everything` says whether all of them do."""

    def __init__(self, rows: SharedRows, keep: np.ndarray) -> None:
        super().__init__()
        self.places, self.everything = np.flatnonzero(keep), bool(keep.all())
        self.times, self.arrivals = self._of(rows.times), self._of(rows.arrivals)
        self.partitions, self.positions = self._of(rows.partitions), self._of(rows.positions)

    def __len__(self) -> int:
        return len(self.times)

    def _of(self, column: np.ndarray) -> np.ndarray:
        return column if self.everything else column[self.places]


def _int64(column: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    return np.array(column.to_numpy(), np.int64)  # a copy, for kernels are compiled for arrays that may be written
