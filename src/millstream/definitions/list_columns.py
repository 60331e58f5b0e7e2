"""Columns of lists and maps as views carry them: the elements of all rows one after another, and where each row's begin.

They take the place of an array of objects: rows are picked, made null and read by the same words, as lists, or dicts, of
Python's. A map is a list of its entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from millstream.definitions.data_types import carried
from millstream.definitions.schema import is_object
from millstream.errors import TrainingError

_OBJECT = np.dtype(object)
#: Elements that an Arrow array of lists holds at most.
_MOST = 2**31 - 1


class Elements(Protocol):
    """Elements that are not an array of Arrow's, and become one, or Python's values, once they are asked for."""

    def to_arrow(self) -> pa.Array:
        """Return all of them as Arrow's, whole numbers and instants (µs) as int64."""

    def to_pylist(self) -> list[Any]:
        """Return all of them as Python's, the same values as Arrow's are."""


class Lists:
    """A column of lists, of which a row may be null; no element is.

    Args:
        offsets: where each row's elements begin (int64), and where the last row's end.
        elements: those of all rows, whole numbers and instants (µs) as int64; or what becomes that.
        there: which rows are not null; None: none is.

    >>> lists = Lists(np.array([0, 2, 2]), pa.array([1.5, 2.5]))
    >>> lists.tolist(), lists[np.array([1])].tolist(), lists.item(0)
    ([[1.5, 2.5], []], [[]], [1.5, 2.5])
    """

    dtype = _OBJECT

    def __init__(
        self, offsets: NDArray[np.int64], elements: pa.Array | Elements, there: NDArray[np.bool_] | None = None
    ) -> None:
        self._offsets, self._given, self._there = offsets, elements, there

    @property
    def _elements(self) -> pa.Array:
        """The elements as Arrow's."""
        if not isinstance(self._given, pa.Array):
            self._given = self._given.to_arrow()
        return self._given

    @classmethod
    def nulls(cls, rows: int) -> Lists:
        """Return as many rows of null."""
        return cls(np.zeros(rows + 1, np.int64), pa.nulls(0), np.zeros(rows, np.bool_))

    @classmethod
    def of_values(cls, lists: Sequence[Sequence[Any] | None], kind: str) -> Lists:
        """Return lists of numbers, instants (µs) or truths of a type as a view carries them; None is null."""
        kinds = {"float64": pa.float64(), "bool": pa.bool_()}
        return cls.of_arrow(pa.array(lists, pa.list_(kinds.get(kind, pa.int64()))))

    @classmethod
    def of_equal(cls, elements: pa.Array, rows: int, there: NDArray[np.bool_] | None = None) -> Lists:
        """Return rows of equally many elements as lists.

        Args:
            elements: those of all rows, row by row.
            rows: how many rows there are.
            there: which rows are not null (bool); all unless given. A null row has its elements too.
        """
        return cls(np.arange(rows + 1) * (len(elements) // max(rows, 1)), elements, there)

    @classmethod
    def of_arrow(cls, column: pa.Array) -> Lists:
        """Return an array of Arrow's lists as a view carries it."""
        there = np.asarray(column.is_valid()).astype(np.bool_) if column.null_count else None
        sizes = np.asarray(column.value_lengths().fill_null(0)).astype(np.int64)
        return cls(np.concatenate([[0], np.cumsum(sizes)]), _carried(column.flatten()), there)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __iter__(self) -> Iterator[list[Any] | None]:
        return iter(self.tolist())

    def __getitem__(self, rows: Any) -> Any:
        """Return the list of one row, or the rows at some places, or those that a mask says."""
        if isinstance(rows, int | np.integer):
            return self.item(int(rows))
        if isinstance(rows, slice):
            rows = np.arange(len(self))[rows]
        places = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        sizes = np.diff(self._offsets)[places]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        within = np.arange(offsets[-1]) + np.repeat(self._offsets[:-1][places] - offsets[:-1], sizes)
        there = None if self._there is None else self._there[places]
        return type(self)(offsets, self._elements.take(pa.array(within)), there)

    def __setitem__(self, places: Any, lists: Lists | None) -> None:
        """Put other lists at some places, or make these null."""
        if lists is not None:
            order = np.arange(len(self))
            order[places] = len(self) + np.arange(len(lists))
            both = self._and(lists)[order]
            self._offsets, self._given, self._there = both._offsets, both._given, both._there
            return
        if self._there is None:
            self._there = np.ones(len(self), np.bool_)
        self._there[places] = False

    def _and(self, others: Lists) -> Lists:
        """These rows, and then others."""
        both = (self, others)
        kind = next((one._elements.type for one in both if len(one._elements)), self._elements.type)
        elements = pa.concat_arrays([_cast(one._elements, kind) for one in both])
        there = np.concatenate([np.ones(len(one), np.bool_) if one._there is None else one._there for one in both])
        return type(self)(np.concatenate([self._offsets, self._offsets[-1] + others._offsets[1:]]), elements, there)

    def copy(self) -> Lists:
        """Return a column whose rows can be made null without a change of this one."""
        return type(self)(self._offsets, self._given, None if self._there is None else self._there.copy())

    def item(self, row: int = 0) -> Any:
        """Return the list of one row, None for null."""
        return self.entries_of(row)

    def entries_of(self, row: int) -> list[Any] | None:
        """Return the elements of one row, None for null: of a map dicts of a key and a value."""
        if self._there is not None and not self._there[row]:
            return None
        if len(self._offsets) == 2:  # the only row has all of them
            only: list[Any] = self._given.to_pylist()
            return only
        first, last = self._offsets[row : row + 2].tolist()
        found: list[Any] = self._elements.slice(first, last - first).to_pylist()
        return found

    def tolist(self) -> list[Any]:
        """Return every row's list, None for null."""
        return self.entries()

    def entries(self) -> list[list[Any] | None]:
        """Return every row's elements, None for null: of a map dicts of a key and a value."""
        if len(self._offsets) == 2:
            return [self.entries_of(0)]
        elements, cuts = self._given.to_pylist(), self._offsets.tolist()
        lists: list[list[Any] | None] = [elements[a:b] for a, b in pairwise(cuts)]
        if self._there is not None:
            for row in np.flatnonzero(~self._there).tolist():
                lists[row] = None
        return lists

    def arrays(self) -> list[NDArray[Any] | None]:
        """Return every row's numbers as an array, None for null."""
        elements = self._elements.to_numpy(zero_copy_only=False)
        cuts = self._offsets.tolist()
        there = [True] * len(self) if self._there is None else self._there.tolist()
        rows = zip(cuts[:-1], cuts[1:], there, strict=True)
        return [elements[first:last] if known else None for first, last, known in rows]

    def nth(self, place: int, kind: str, name: str = "") -> NDArray[Any]:
        """Return each row's element at a place as a view carries it; null where there is none.

        Args:
            place: which element, counted from 0.
            kind: the type of what is returned ("int64" ...).
            name: of elements that have fields, which of them; "" for the element itself.
        """
        starts = self._offsets[:-1] + place
        missing = starts >= self._offsets[1:]
        if self._there is not None:
            missing |= ~self._there
        if missing.all():
            return np.full(len(self), None if is_object(kind) else np.nan, object if is_object(kind) else np.float64)
        elements = self._elements.field(name) if name else self._elements
        return carried(elements.take(pa.array(starts, mask=missing)))

    def padded(self, size: int, pad: Any, name: str = "") -> Lists:
        """Return lists of one length; null stays null.

        Args:
            size: how many elements each has; what a list has beyond them is left out.
            pad: what stands where a list has no element.
            name: of elements that have fields, which of them; "" for the element itself.

        >>> Lists(np.array([0, 2, 2]), pa.array([1.5, 2.5])).padded(3, 0.0).tolist()
        [[1.5, 2.5, 0.0], [0.0, 0.0, 0.0]]
        """
        elements = self._elements.field(name) if name else self._elements
        if pa.types.is_null(elements.type):
            elements = elements.cast(pa.scalar(pad).type)
        there = np.ones(len(self), np.bool_) if self._there is None else self._there
        places = self._offsets[:-1][there, None] + np.arange(size)
        missing = places >= self._offsets[1:][there, None]
        filled = elements.take(pa.array(places.ravel(), mask=missing.ravel())).fill_null(pad)
        return Lists(np.concatenate([[0], np.cumsum(there * size)]), filled, self._there)

    def to_arrow(self, kind: pa.ListType | pa.MapType) -> pa.Array:
        """Return the column as Arrow's lists, or maps, of a type.

        Raises `TrainingError` where these have more elements than Arrow counts.
        """
        if self._offsets[-1] > _MOST:
            what = f"Lists: {len(self):,} rows have {self._offsets[-1]:,} elements, Arrow's lists at most {_MOST:,}."
            raise TrainingError(what, "ask for fewer rows at a time, or for a smaller k.")
        mask = None if self._there is None else pa.array(~self._there)
        offsets = pa.array(self._offsets.astype(np.int32))
        return self._to_arrow(offsets, kind, mask)

    def _to_arrow(self, offsets: pa.Array, kind: Any, mask: pa.Array | None) -> pa.Array:
        return pa.ListArray.from_arrays(offsets, _cast(self._elements, kind.value_type), type=kind, mask=mask)


class Maps(Lists):
    """A column of maps, each of which is a list of its entries, structs of a key and a value; its order is theirs.

    >>> entries = pa.array([{"key": "DE", "value": 2}, {"key": "FR", "value": 1}])
    >>> maps = Maps(np.array([0, 2, 2]), entries)
    >>> maps.tolist(), maps.item(0), maps.nth(0, "string", "key").tolist()
    ([{'DE': 2, 'FR': 1}, {}], {'DE': 2, 'FR': 1}, ['DE', None])
    """

    @classmethod
    def of_arrow(cls, column: pa.Array) -> Lists:
        """Return an array of Arrow's maps as a view carries it."""
        kind = column.type
        return super().of_arrow(column.cast(pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)]))))

    def lists(self) -> Lists:
        """Return the entries of each map as a list."""
        return Lists(self._offsets, self._given, self._there)

    def item(self, row: int = 0) -> dict[Any, Any] | None:
        """Return the map of one row, None for null."""
        return _dict(self.entries_of(row))

    def tolist(self) -> list[dict[Any, Any] | None]:
        """Return every row's map, None for null."""
        return [_dict(one) for one in self.entries()]

    def _to_arrow(self, offsets: pa.Array, kind: Any, mask: pa.Array | None) -> pa.Array:
        entries = _cast(self._elements, pa.struct([("key", kind.key_type), ("value", kind.item_type)]))
        return pa.MapArray.from_arrays(offsets, entries.field("key"), entries.field("value"), type=kind, mask=mask)


def lists_of_arrow(column: pa.Array | pa.ChunkedArray) -> Lists:
    """Return a column of Arrow's lists, or maps, as a view carries it."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return (Maps if pa.types.is_map(array.type) else Lists).of_arrow(array)


def _dict(entries: list[Any] | None) -> dict[Any, Any] | None:
    return None if entries is None else {entry["key"]: entry["value"] for entry in entries}


def _carried(elements: pa.Array) -> pa.Array:
    """Elements, or the fields of structs, with instants as int64 (µs)."""
    if pa.types.is_struct(elements.type):
        fields = [field.name for field in elements.type]
        return pa.StructArray.from_arrays([_carried(elements.field(name)) for name in fields], fields)
    return elements.cast(pa.int64()) if pa.types.is_timestamp(elements.type) else elements


def _cast(elements: pa.Array, kind: pa.DataType) -> pa.Array:
    """Elements as those of another type; structs field by field."""
    if pa.types.is_null(elements.type):
        return pa.nulls(len(elements), kind)
    if not pa.types.is_struct(kind):
        return elements.cast(kind)
    return pa.StructArray.from_arrays([_cast(elements.field(one.name), one.type) for one in kind], fields=list(kind))
