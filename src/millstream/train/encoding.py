"""From view columns to the float64 matrix a model reads, by dictionaries frozen in the model version.

Training and serving encode by the same frozen object: a string, a UUID and bytes are the number of their place in a
dictionary of texts, and what the dictionary does not hold, null included, is NaN: missing. So a value first seen after
training cannot shift codes. A date is its days since 1970.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from functools import cached_property
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from millstream.clock import to_datetime
from millstream.definitions.data_types import EPOCH, arrow_type, as_text
from millstream.definitions.list_columns import Lists
from millstream.definitions.schema import CATEGORIES, element_of, fields_of, is_object
from millstream.engines.engine import FIRST, LAST
from millstream.errors import TrainingError, nearest

Floats = NDArray[np.float64]
Values = Any  # a NumPy array, an Arrow array or a chunked one

MAX_CATEGORIES = 1024  # of each string column the most frequent ones; a rarer one is missing, as an unseen one is


@dataclass(frozen=True)
class Encoder:
    """How one model version turns named columns into its matrix.

    Attributes:
        dtypes: the model's input columns in order, each with its type ("float64", "string", ...).
        dictionaries: for each column of categories the texts of its values; a value's code is its place.
    """

    dtypes: Mapping[str, str]
    dictionaries: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def learn(cls, table: pa.Table, dtypes: Mapping[str, str]) -> Encoder:
        """Return the encoder of a training table: the most frequent values of each column of categories, ties by value."""
        coded = [name for name, dtype in dtypes.items() if dtype in CATEGORIES]
        return cls(dict(dtypes), {name: _frequent(_column(table, name)) for name in coded})

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Encoder:
        """Return the encoder that `to_dict` described."""
        return cls(
            {name: dtype for name, dtype in value["columns"]},
            {name: tuple(words) for name, words in value["dictionaries"].items()},
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the encoder as JSON-able data; columns as pairs, because their order matters."""
        return {
            "columns": [list(pair) for pair in self.dtypes.items()],
            "dictionaries": {name: list(words) for name, words in self.dictionaries.items()},
        }

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The model's input columns in order."""
        return tuple(self.dtypes)

    @cached_property
    def categorical(self) -> tuple[int, ...]:
        """The places of the columns that hold codes rather than amounts."""
        return tuple(i for i, dtype in enumerate(self.dtypes.values()) if dtype in CATEGORIES)

    def matrix(self, columns: Mapping[str, Values] | pa.Table) -> Floats:
        """Return rows by columns, C-ordered, NaN for null or unseen.

        Args:
            columns: an Arrow table, or a mapping to Arrow or NumPy arrays (float64 with NaN, object with None).

        Raises:
            TrainingError: a column of the model is absent.

        >>> encoder = Encoder({"amount": "float64", "country": "string"}, {"country": ("de", "fr")})
        >>> encoder.matrix({"amount": np.array([1.5, 2.0]), "country": np.array(["fr", "xx"], dtype=object)})
        array([[1.5, 1. ],
               [2. , nan]])
        """
        encoded = [self._encode(name, _column(columns, name)) for name in self.columns]
        return np.column_stack(encoded) if encoded else np.empty((0, 0))

    def fill(self, row: Floats, columns: Mapping[str, NDArray[Any]]) -> None:
        """Write the only row of `columns` (NumPy arrays of one value) into `row`: what `matrix` would hold, sooner."""
        for place, (name, codes) in enumerate(self._codes):
            value = columns[name][0]
            if codes is not None:
                row[place] = codes.get(value if isinstance(value, str) else as_text(value), np.nan)
            elif value is None:
                row[place] = np.nan
            else:
                row[place] = value.toordinal() - EPOCH if isinstance(value, date) else value

    @cached_property
    def _codes(self) -> list[tuple[str, dict[str | None, float] | None]]:
        return [
            (name, {word: float(i) for i, word in enumerate(self.dictionaries[name])} if dtype in CATEGORIES else None)
            for name, dtype in self.dtypes.items()
        ]

    @cached_property
    def _value_sets(self) -> dict[str, pa.Array]:
        return {name: pa.array(words, pa.string()) for name, words in self.dictionaries.items()}

    def _encode(self, name: str, values: Values) -> Floats:
        if self.dtypes[name] not in CATEGORIES:
            return numbers(values)
        return numbers(pc.index_in(_words(values), value_set=self._value_sets[name]))


def _words(values: Values) -> pa.Array | pa.ChunkedArray:
    """The texts of a column of categories."""
    if isinstance(values, np.ndarray):
        texts = any(isinstance(value, UUID | bytes) for value in values)
        words = list(map(as_text, values)) if texts else values
        return pa.array(words, pa.string(), from_pandas=True)
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        return values.cast(pa.string())
    return pa.array(list(map(as_text, values.to_pylist())), pa.string())


def numbers(values: Values) -> Floats:
    """Return any column of numbers, booleans, instants or dates as float64, NaN for null; in microseconds, or in days."""
    if isinstance(values, np.ndarray) and values.dtype.kind != "M":
        if values.dtype != object or not any(isinstance(value, date) for value in values):
            return values.astype(np.float64)
        values = pa.array(values, pa.date32())
    elif isinstance(values, np.ndarray):
        values = pa.array(values.astype("datetime64[us]"))
    if pa.types.is_date32(values.type):
        values = values.cast(pa.int32())
    if pa.types.is_timestamp(values.type):
        values = values.cast(pa.timestamp("us", values.type.tz)).cast(pa.int64())
    elif pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    floats = values.cast(pa.float64(), safe=False)
    return np.asarray(floats.fill_null(float("nan")).to_numpy(zero_copy_only=False), dtype=np.float64)


def typed(values: NDArray[Any], kind: str) -> pa.Array:
    """Return a view's column as its declared type, null for NaN: the way back from `numbers`.

    A column in which a value is beyond its type, such as an on-demand int64 of 1.5 or a bool of 2, stays float64: a
    model reads what was computed, and no rounded stand-in for it.

    >>> typed(np.array([67.0, np.nan]), "int64").to_pylist()
    [67, None]
    """
    if isinstance(values, Lists):
        return values.to_arrow(arrow_type(kind))
    if values.dtype == object:
        if kind == "timestamp":
            return pa.array(values, pa.int64()).cast(pa.timestamp("us", "UTC"))
        return pa.array(values, arrow_type(kind) if is_object(kind) else pa.int64() if kind == "int64" else pa.string())
    floats = pa.array(values, pa.float64(), mask=np.isnan(values))
    try:
        if kind == "bool":
            truth = pc.not_equal(floats, 0.0)
            return truth if truth.cast(pa.float64()).equals(floats) else floats
        if kind in ("int64", "timestamp"):
            whole = floats.cast(pa.int64())
            return whole if kind == "int64" else whole.cast(pa.timestamp("us", "UTC"))
    except pa.ArrowInvalid:
        return floats
    return floats


def typed_value(value: Any, kind: str) -> Any:
    """Return one value of a view's column as its declared type: `typed` for a single row, at a tenth of its cost.

    >>> typed_value(67.0, "int64"), typed_value(1.5, "int64"), typed_value(float("nan"), "int64")
    (67, 1.5, None)
    """
    if value is None or isinstance(value, str | UUID | bytes | date | Decimal):
        return value
    if isinstance(value, list):
        element = element_of(kind) or ""
        return [typed_value(one, element) for one in value] if "timestamp" in element else value
    if isinstance(value, dict):
        return _typed_fields(value, kind) if "timestamp" in kind else value
    if value != value:
        return None
    if isinstance(value, int):  # beyond 2**53, see `millstream.definitions.whole_numbers`
        return to_datetime(value) if kind == "timestamp" and FIRST <= value <= LAST else value
    if kind == "bool" and value in (0.0, 1.0):
        return bool(value)
    if kind == "int64" and value.is_integer() and -(2.0**63) <= value < 2.0**63:
        return int(value)
    if kind == "timestamp" and value.is_integer() and FIRST <= value <= LAST:
        return to_datetime(int(value))
    return value


def _typed_fields(value: dict[Any, Any], kind: str) -> dict[Any, Any]:
    """A map, or a struct, with its values of their types."""
    if fields := fields_of(kind):
        return {name: typed_value(one, fields[name]) for name, one in value.items()}
    key, item = (fields_of(element_of(kind) or "") or {}).values()
    return {typed_value(one, key): typed_value(other, item) for one, other in value.items()}


def strings(words: Sequence[str | None]) -> NDArray[Any]:
    """Return strings as an object array with None for null, as views carry them."""
    column = np.empty(len(words), dtype=object)
    column[:] = words
    return column


def _column(columns: Mapping[str, Values] | pa.Table, name: str) -> Values:
    names = columns.column_names if isinstance(columns, pa.Table) else columns
    if name in names:
        return columns[name]
    close = nearest(name, names)
    raise TrainingError(
        f"Column '{name}' of the model is not among the {len(names)} columns given.",
        hint=f"did you mean '{close}'?" if close else "give every column of the model's view.",
    )


def _frequent(values: Values) -> tuple[str, ...]:
    counted = pc.value_counts(pc.drop_null(_words(values)))
    found = pa.table({"word": counted.field("values").cast(pa.string()), "count": counted.field("counts")})
    ranked = found.sort_by([("count", "descending"), ("word", "ascending")])
    return tuple(ranked["word"].slice(0, MAX_CATEGORIES).to_pylist())
