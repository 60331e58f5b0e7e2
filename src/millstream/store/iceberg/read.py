"""What is read from an Iceberg table: the rows that are meant, in the types they were written with."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from millstream.errors import StoreError
from millstream.store.offline import Where

if TYPE_CHECKING:
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.table import Table

Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)

_SIGNS = {
    "=": "EqualTo",
    "<": "LessThan",
    "<=": "LessThanOrEqual",
    ">": "GreaterThan",
    ">=": "GreaterThanOrEqual",
    "in": "In",
}


def chosen(table: str, where: Where, found: Table) -> BooleanExpression:
    """The filter of (column, comparison, value) triples, all of which must hold.

    Raises:
        StoreError: there is no such comparison, or the column cannot be compared with the value.
    """
    from pyiceberg import expressions
    from pyiceberg.expressions.visitors import bind

    conditions: list[BooleanExpression] = []
    for column, sign, given in where:
        if sign not in _SIGNS:
            raise StoreError(
                f"Offline table '{table}': '{column}' cannot be compared by '{sign}'.",
                f"compare by one of {', '.join(_SIGNS)}.",
            )
        try:
            condition = getattr(expressions, _SIGNS[sign])(column, _plain(given))
            bind(found.schema(), condition, case_sensitive=True)
        except (ValueError, TypeError, OverflowError) as error:
            kind = found.schema().find_type(column)
            raise StoreError(
                f"Offline table '{table}': '{column}' is {kind} and cannot be compared with {given!r:.200}.",
                "give a value of the column's type; an instant is given in microseconds.",
            ) from error
        conditions.append(condition)
    return reduce(expressions.And, conditions)


def narrow(rows: Rows) -> Rows:
    """The rows with the small offsets they were written with, which PyIceberg reads as large ones at times."""
    small = {pa.large_string(): pa.string(), pa.large_binary(): pa.binary()}
    wanted = pa.schema([column.with_type(small.get(column.type, column.type)) for column in rows.schema])
    return rows if wanted.equals(rows.schema) else rows.cast(wanted)


def _plain(given: Any) -> Any:
    """A value, or several, as Python has them: NumPy's and Arrow's own are not known to PyIceberg."""
    if hasattr(given, "as_py"):
        return given.as_py()
    if hasattr(given, "tolist"):
        return given.tolist()
    return [_plain(one) for one in given] if isinstance(given, list | tuple | set | frozenset) else given
