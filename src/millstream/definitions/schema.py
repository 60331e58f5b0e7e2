"""The types that a column can have, and the check of a schema."""

from __future__ import annotations

import re
from collections.abc import Mapping

from millstream.definitions.frozen import FrozenMapping
from millstream.errors import DefinitionError

TYPES = ("int64", "float64", "string", "bool", "timestamp", "date", "uuid", "bytes")
KEY_TYPES = ("int64", "string", "bool", "date", "uuid", "bytes")
#: The types that tell one event from another.
ID_TYPES = ("int64", "string", "uuid")
#: The types whose values views carry as Python's, None for null; those of the others are float64, NaN for null.
OBJECTS = ("string", "date", "uuid", "bytes")
#: Those of them of which a model reads which one it is, by a dictionary of their texts.
CATEGORIES = ("string", "uuid", "bytes")
Schema = FrozenMapping[str, str]

_COLUMN = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def list_of(kind: str) -> str:
    """Return the type of a list of values of a type.

    >>> list_of("float64")
    'list<float64>'
    """
    return f"list<{kind}>"


def element_of(kind: str) -> str | None:
    """Return the type of a list's elements, or None for a type that is no list.

    >>> element_of("list<float64>"), element_of("float64")
    ('float64', None)
    """
    return kind[5:-1] if kind.startswith("list<") else None


def check_schema(thing: str, schema: object, argument: str = "schema", types: tuple[str, ...] = TYPES) -> Schema:
    """Return `schema` (column name to type) frozen, or raise `DefinitionError`.

    Names are compared without case, as SQL does; `rest` and names that begin with an underscore are Millstream's own.
    """
    if not isinstance(schema, Mapping) or not schema:
        raise DefinitionError.expected(
            thing, argument, schema, "a mapping of column names to types", f'write {argument}={{"amount": "float64"}}.'
        )
    seen: set[str] = set()
    for name, kind in schema.items():
        _check_column(thing, name, seen)
        if not isinstance(kind, str) or kind not in types:
            error = DefinitionError.unknown_choice(thing, f"type of column '{name}'", kind, types)
            raise DefinitionError(error.message, "did you mean 'timestamp'?") if kind == "datetime" else error
    return FrozenMapping(schema)


def _check_column(thing: str, name: object, seen: set[str]) -> None:
    if not isinstance(name, str) or not _COLUMN.fullmatch(name):
        rule = "a column name is letters, digits and underscores and begins with a letter"
        raise DefinitionError.bad_name(thing, name, rule, re.sub(r"\W+", "_", str(name)).strip("_0123456789") or None)
    if name.lower() == "rest":
        raise DefinitionError.bad_name(thing, name, "that column keeps the unknown fields of events", "remainder")
    if name.lower() in seen:
        raise DefinitionError.same_name(thing, "columns", name, "SQL compares names without case; rename one of them.")
    seen.add(name.lower())


def require_column(thing: str, schema: Mapping[str, str], column: object, argument: str, types: tuple[str, ...]) -> str:
    """Return `column` when `schema` has it with one of `types`, or raise `DefinitionError`."""
    if not isinstance(column, str) or column not in schema:
        raise DefinitionError.unknown_column(thing, str(column), schema, argument)
    if schema[column] not in types:
        wanted = " or ".join(types)
        raise DefinitionError.wrong_type(thing, f"{argument} '{column}'", schema[column], wanted)
    return column
