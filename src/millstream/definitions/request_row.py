"""The request as one more row of a group: which fields its columns are given by, and the expressions it goes through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from millstream.definitions.inlining import inlined
from millstream.definitions.row_expression import RowExpression, compile_expression
from millstream.definitions.windows import folded
from millstream.errors import DefinitionError

if TYPE_CHECKING:
    from millstream.definitions.group_version import Group


def check_fields(thing: str, group: Group, fields: Mapping[str, str]) -> dict[str, str]:
    """Return which request field each column of a stream group is given by, as asked for, and its time by `at`.

    Args:
        thing: what was asked for, for errors.
        group: the group that reads the request as one more row.
        fields: the request field of each column that is named, by the column.

    Raises:
        DefinitionError: for what is no stream group, no column of its source or no name of a field.
    """
    from millstream.definitions.feature_group import StreamFeatureGroup

    if not isinstance(group, StreamFeatureGroup):
        hint = "a table has no row of the request; read it as it is, or make a stream of what it holds."
        raise DefinitionError.expected(thing, "group", group.name, "a StreamFeatureGroup", hint)
    columns, times = source_columns(group), {source.time for source in group.sources}
    for column, field in fields.items():
        if column in times:
            hint = f"leave '{column}' out: it is the moment of the read, `at`."
            raise DefinitionError.expected(thing, column, field, "no field for the time of its events", hint)
        if column not in columns:
            raise DefinitionError.unknown_column(thing, column, columns)
        if not isinstance(field, str) or not field.isidentifier():
            raise DefinitionError.expected(thing, column, field, "the name of a field of the request")
    return {**dict.fromkeys(sorted(times), "at"), **fields}


def resolve_fields(
    thing: str, group: Group, keys: Mapping[str, str], fields: Mapping[str, str], request: Mapping[str, str]
) -> dict[str, str]:
    """Return the field that gives each column of the group's source, for those that a field does.

    A column that `fields` does not name is given by the field of its own name, if the view has one; the columns of the
    keys always by the request keys that the group is read by.

    Args:
        thing: the view, for errors.
        group: the group that reads the request as one more row.
        keys: by join key of the group, the request key that it is read by.
        fields: what `check_fields` returned: by column, the request field.
        request: the types of all fields and keys of the view.

    Raises:
        DefinitionError: for a field that the view does not have or of another type, and for a key that is derived.
    """
    what = f"with_request() of group '{group.name}'"
    columns = source_columns(group)
    given = {group.keys[join_key]: request_key for join_key, request_key in keys.items()}
    found: dict[str, str] = {}
    for column in given:
        if column not in columns:
            hint = "send the key as a column of the stream, so that a request says the same key."
            raise DefinitionError(f"{thing}: {what}: its key '{column}' is derived.", hint)
        if fields.get(column, given[column]) != given[column]:
            hint = f'it is the key that the group is read by; read it by another: .on(...="{fields[column]}").'
            raise DefinitionError.expected(thing, f"{what}: {column}", fields[column], f"'{given[column]}'", hint)
    for column, kind in columns.items():
        field = given.get(column) or fields.get(column) or (column if column in request else None)
        if field is None or fields.get(column) == "at":
            continue
        if field not in request:
            raise DefinitionError.unknown_choice(thing, f"{what}: {column}", field, request)
        if request[field] != kind:
            hint = f"declare '{field}' as {kind}, or give '{column}' by another field."
            raise DefinitionError.wrong_type(
                thing, f"{what}: '{field}', which gives '{column}',", request[field], kind, hint
            )
        found[column] = field
    return found


def source_columns(group: Group) -> dict[str, str]:
    """Return the columns of the group's sources with their types."""
    return {name: kind for source in group.sources for name, kind in (source.schema or {}).items()}


def compiled(thing: str, group: Group) -> dict[str, RowExpression]:
    """Return by its text, with derived columns written out, the compiled form of everything a group evaluates of a row.

    Raises `DefinitionError` for what has none.
    """
    columns, derive = source_columns(group), tuple(group.derive.items())
    parts = folded(group.columns)
    conditions: list[tuple[str, str | None]] = [(f"where of group '{group.name}'", group.where)]
    conditions += [(f"key '{name}' of group '{group.name}'", column) for name, column in group.keys.items()]
    conditions += [(f"where of {part.kind} of group '{group.name}'", part.where) for part in parts]
    values = [(f"{part.kind} of group '{group.name}'", sql) for part in parts for sql in part.read]
    found: dict[str, RowExpression] = {}
    for said, aggregated in ((conditions, False), (values, True)):
        for place, sql in said:
            if sql is not None:
                text = inlined(sql, derive, columns, aggregated=aggregated)
                found[text] = compile_expression(thing, place, text, tuple(columns.items()), sql)
    return found
