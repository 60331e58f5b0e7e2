"""The types that a column can have, and the check of a schema."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from millstream.definitions.frozen import FrozenMapping
from millstream.errors import DefinitionError

#: Stands for every "decimal(10, 2)": numbers of at most p digits, s of them behind the point.
DECIMAL = "decimal(p, s)"
TYPES = ("int64", "float64", "string", "bool", "timestamp", "date", "uuid", "bytes", DECIMAL)
KEY_TYPES = ("int64", "string", "bool", "date", "uuid", "bytes", DECIMAL)
#: Types that a column of events or of a table can have beside those: they are stored and read, and counted.
LIST_TYPES = ("list<float32>", "list<float64>", "list<int64>", "list<string>")
#: The types that tell one event from another.
ID_TYPES = ("int64", "string", "uuid")
#: The types that are no numbers to a view, which carries their values as Python's; so it does decimals.
_OBJECTS = ("string", "date", "uuid", "bytes")
#: Those of them of which a model reads which one it is, by a dictionary of their texts.
CATEGORIES = ("string", "uuid", "bytes")
Schema = FrozenMapping[str, str]

_DECIMAL = re.compile(r"decimal\((\d+), (\d+)\)")
_FIELD = re.compile(r"(\w+): (decimal\(\d+, \d+\)|\w+)")
#: What other names of types mean, those of Python and of SQL.
_MEANT = {
    "datetime": "timestamp",
    "float": "float64",
    "double": "float64",
    "int": "int64",
    "bigint": "int64",
    "str": "string",
    "varchar": "string",
    "boolean": "bool",
    "UUID": "uuid",
    "Decimal": "decimal(p, s)",
}
_COLUMN = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def list_of(kind: str) -> str:
    """Return the type of a list of values of a type.

    >>> list_of("float64")
    'list<float64>'
    """
    return f"list<{kind}>"


def struct_of(fields: Mapping[str, str]) -> str:
    """Return the type of a struct, by the types of its fields.

    >>> struct_of({"amount": "float64", "country": "string"})
    'struct<amount: float64, country: string>'
    """
    return f"struct<{', '.join(f'{name}: {kind}' for name, kind in fields.items())}>"


def map_of(key: str, value: str) -> str:
    """Return the type of a map from values of one type to those of another.

    >>> map_of("string", "int64")
    'map<string, int64>'
    """
    return f"map<{key}, {value}>"


def is_map(kind: str) -> bool:
    """Say whether a type is a map.

    >>> is_map("map<string, int64>"), is_map("list<int64>")
    (True, False)
    """
    return kind.startswith("map<")


@lru_cache(maxsize=1_024)
def element_of(kind: str) -> str | None:
    """Return the type of a list's elements, of a map's entries, or None for a type that is neither.

    >>> element_of("list<float64>"), element_of("float64"), element_of("map<string, int64>")
    ('float64', None, 'struct<key: string, value: int64>')
    """
    if is_map(kind):
        key, value = kind[4:-1].split(", ", 1)
        return struct_of({"key": key, "value": value})
    return kind[5:-1] if kind.startswith("list<") else None


@lru_cache(maxsize=256)
def fields_of(kind: str) -> Mapping[str, str] | None:
    """Return the types of a struct's fields, by name and in order, or None for another type.

    >>> dict(fields_of("struct<amount: float64, price: decimal(10, 2)>")), fields_of("float64")
    ({'amount': 'float64', 'price': 'decimal(10, 2)'}, None)
    """
    if not kind.startswith("struct<"):
        return None
    return FrozenMapping(_FIELD.findall(kind[7:-1]))


@lru_cache(maxsize=256)
def digits_of(kind: str) -> tuple[int, int] | None:
    """Return how many digits a decimal has at most, and how many of them behind the point; None for another type.

    >>> digits_of("decimal(10, 2)"), digits_of("float64")
    ((10, 2), None)
    """
    found = _DECIMAL.fullmatch(kind)
    return (int(found[1]), int(found[2])) if found else None


def is_object(kind: str) -> bool:
    """Say whether views carry values of a type as Python's, None for null; those of others are float64, NaN for null.

    >>> is_object("date"), is_object("decimal(10, 2)"), is_object("timestamp")
    (True, True, False)
    """
    return kind in _OBJECTS or digits_of(kind) is not None or kind.startswith("struct<")


def is_one_of(kind: str, types: tuple[str, ...]) -> bool:
    """Say whether a type is among some, of which "decimal(p, s)" stands for every decimal."""
    return kind in types or (DECIMAL in types and digits_of(kind) is not None)


def _checked_type(thing: str, name: str, kind: object, types: tuple[str, ...]) -> str:
    """The type of a column, written as it is compared."""
    what = f"type of column '{name}'"
    if isinstance(kind, str) and (found := re.fullmatch(r"decimal\( *(\d{1,3}) *, *(\d{1,3}) *\)", kind)):
        precision, scale = int(found[1]), int(found[2])
        if not (1 <= precision <= 38 and scale <= precision):
            rule = "1 to 38 digits, no more of them behind the point"
            raise DefinitionError.expected(thing, what, kind, rule, 'write "decimal(18, 2)".')
        kind = f"decimal({precision}, {scale})"
    if isinstance(kind, str) and kind != DECIMAL and is_one_of(kind, types):
        return kind
    error = DefinitionError.unknown_choice(thing, what, kind, types)
    meant = _MEANT.get(kind.__name__ if isinstance(kind, type) else str(kind))
    raise DefinitionError(error.message, f"did you mean '{meant}'?") if meant in types else error


def check_schema(thing: str, schema: object, argument: str = "schema", types: tuple[str, ...] = TYPES) -> Schema:
    """Return a schema frozen, its types written the way they are kept.

    Names are compared without case, as SQL does; `rest` and names that begin with an underscore are Millstream's own.

    Args:
        thing: whose schema it is, for errors.
        schema: a mapping of column names to types.
        argument: the argument that it was given as, for errors.
        types: the types that a column may have; those of single values unless given.

    Raises:
        DefinitionError: for what is no such mapping or empty, a bad name, two names that are alike, and another type.
    """
    if not isinstance(schema, Mapping) or not schema:
        example = '{"user_id": "int64"}' if argument == "keys" else '{"amount": "float64"}'
        what = "a mapping of column names to types"
        raise DefinitionError.expected(thing, argument, schema, what, f"write {argument}={example}.")
    seen: set[str] = set()
    for name in schema:
        _check_column(thing, name, seen)
    return FrozenMapping({name: _checked_type(thing, name, kind, types) for name, kind in schema.items()})


def _check_column(thing: str, name: object, seen: set[str]) -> None:
    if not isinstance(name, str) or not _COLUMN.fullmatch(name):
        rule = "a column name is letters, digits and underscores and begins with a letter"
        like = re.sub(r"\W+", "_", name).strip("_0123456789") if isinstance(name, str) else ""
        raise DefinitionError.bad_name(thing, name, rule, like or None)
    if name.lower() == "rest":
        raise DefinitionError.bad_name(thing, name, "that column keeps the unknown fields of events", "remainder")
    if name.lower() in seen:
        raise DefinitionError.same_name(thing, "columns", name, "SQL compares names without case; rename one of them.")
    seen.add(name.lower())


def require_column(thing: str, schema: Mapping[str, str], column: object, argument: str, types: tuple[str, ...]) -> str:
    """Return `column` when a schema has it with one of some types.

    Args:
        thing: whose column it is, for errors.
        schema: the type of each column that there is.
        column: the name that was given.
        argument: the argument that it was given as, for errors.
        types: the types that it may have.

    Raises:
        DefinitionError: for an unknown column, or one of another type.
    """
    if not isinstance(column, str) or column not in schema:
        raise DefinitionError.unknown_column(thing, str(column), schema, argument)
    if not is_one_of(schema[column], types):
        wanted = " or ".join(types)
        raise DefinitionError.wrong_type(thing, f"{argument} '{column}'", schema[column], wanted)
    return column
