"""What is read from an Iceberg table: the rows that are meant, in the types they were written with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from millstream.definitions.data_types import comparable
from millstream.errors import StoreError
from millstream.store.offline import Where

if TYPE_CHECKING:
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.table import Table

Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)

MANY = 100
"""Values of one comparison up to which they are left to PyIceberg."""
_SIGNS = {
    "=": "EqualTo",
    "<": "LessThan",
    "<=": "LessThanOrEqual",
    ">": "GreaterThan",
    ">=": "GreaterThanOrEqual",
    "in": "In",
}


def chosen(table: str, where: Where, found: Table) -> BooleanExpression:
    """Return the filter of (column, comparison, value) triples, all of which must hold.

    Args:
        table: the table's name, for messages.
        where: the triples, at least one.
        found: the table, which has all their columns.

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


def apart(table: str, where: Where, found: Table) -> tuple[Where, list[tuple[str, pa.Array]]]:
    """Return a filter as what files are planned and read by, and the values that their rows are held to afterwards.

    PyIceberg makes a filter anew for every file, and of many values that costs more than to read a file of a day. Of
    UUIDs it makes one that Arrow does not take.

    Args:
        table: the table's name, for messages.
        where: the filter; everything where it is empty.
        found: the table, which has all the filter's columns.

    Returns:
        tuple[Where, list[tuple[str, pa.Array]]]: the first may leave more rows than are meant, the second, by column,
            is for `held`.

    Raises:
        StoreError: there is no such comparison, or a column cannot be compared with a value.
    """
    from pyiceberg.types import LongType, StringType, UUIDType

    if where:
        chosen(table, where, found)
    plan: list[tuple[str, str, Any]] = []
    many: list[tuple[str, pa.Array]] = []
    for column, sign, given in where:
        kind = found.schema().find_type(column)
        if isinstance(kind, UUIDType) and sign in ("=", "in"):
            many.append((column, pa.array(_plain(given) if sign == "in" else [_plain(given)], pa.uuid())))
            continue
        if sign != "in" or len(given) <= MANY or not isinstance(kind, LongType | StringType):
            plan.append((column, sign, given))
            continue
        values = _plain(given)
        plan += [(column, ">=", min(values)), (column, "<=", max(values))]
        many.append((column, pa.array(values, pa.int64() if isinstance(kind, LongType) else pa.string())))
    return plan, many


def held(rows: Rows, many: Sequence[tuple[str, pa.Array]]) -> Rows:
    """The rows whose columns have one of the values that each is held to."""
    for column, values in many:
        if len(rows):
            wanted = comparable(values.cast(rows[column].type))
            rows = rows.filter(pc.is_in(comparable(rows[column]), value_set=wanted))
    return rows


def narrow(rows: Rows) -> Rows:
    """The rows with the small offsets they were written with, which PyIceberg reads as large ones at times."""
    wanted = pa.schema([column.with_type(_small(column.type)) for column in rows.schema])
    return rows if wanted.equals(rows.schema) else rows.cast(wanted)


def _small(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_map(kind):
        return pa.map_(_small(kind.key_type), kind.item_field.with_type(_small(kind.item_type)))
    if pa.types.is_struct(kind):
        return pa.struct([one.with_type(_small(one.type)) for one in kind])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(kind.value_field.with_type(_small(kind.value_type)))
    return {pa.large_string(): pa.string(), pa.large_binary(): pa.binary()}.get(kind, kind)


def _plain(given: Any) -> Any:
    """A value, or several, as Python has them: NumPy's and Arrow's own are not known to PyIceberg."""
    if hasattr(given, "as_py"):
        return given.as_py()
    if hasattr(given, "tolist"):
        return given.tolist()
    return [_plain(one) for one in given] if isinstance(given, list | tuple | set | frozenset) else given
