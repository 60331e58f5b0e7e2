"""What the types of columns are outside of definitions: in Arrow, and as Python's values in a row."""

from __future__ import annotations

import pyarrow as pa

from millstream.definitions.schema import element_of

INSTANT = pa.timestamp("us", tz="UTC")
#: The Arrow type of each type that a column can have.
ARROW_TYPES: dict[str, pa.DataType] = {
    "int64": pa.int64(),
    "float64": pa.float64(),
    "string": pa.string(),
    "bool": pa.bool_(),
    "timestamp": INSTANT,
}


def arrow_type(kind: str) -> pa.DataType:
    """Return the Arrow type of a column, or of a feature that is a list.

    >>> str(arrow_type("float64")), str(arrow_type("list<int64>"))
    ('double', 'list<item: int64>')
    """
    element = element_of(kind)
    return ARROW_TYPES[kind] if element is None else pa.list_(arrow_type(element))
