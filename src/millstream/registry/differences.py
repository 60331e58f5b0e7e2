"""What a definition says, and how it differs from the one before it, in lines a person reads before agreeing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from millstream.definitions.durations import text
from millstream.definitions.entity import Entity
from millstream.definitions.feature_group import BatchFeatureGroup, StreamFeatureGroup
from millstream.definitions.feature_view import FeatureView, ViewColumn
from millstream.definitions.group_version import Group
from millstream.definitions.model import Model
from millstream.definitions.schema import element_of, is_object
from millstream.definitions.serialise import data_of
from millstream.definitions.source import EventStream, Table

Definition = Entity | EventStream | Table | StreamFeatureGroup | BatchFeatureGroup | FeatureView | Model

_ABOUT = ("owner", "description", "tags")
_DURATIONS = ("within", "delay", "future", "retention", "ttl", "after", "every", "window", "hop", "gap", "late")
_LISTED = 8
_EXPECTED = 10  # events a day of a key, for which a plan says what its state takes


def describe(definition: Definition) -> tuple[str, ...]:
    """The lines that introduce a new definition."""
    return tuple(_INTRODUCTIONS[type(definition)](definition))


def differences(before: Definition, after: Definition) -> tuple[str, ...]:
    """One line for each thing that is not as it was; none when the two are the same."""
    if isinstance(before, StreamFeatureGroup | BatchFeatureGroup) and type(before) is type(after):
        return (*own_differences(before, after), *_of_sources(before, after))
    if isinstance(before, FeatureView) and isinstance(after, FeatureView):
        return tuple(_of_views(before, after))
    if type(before) is not type(after):
        return (f"{type(before).__name__} -> {type(after).__name__}",)
    return tuple(_compared("", data_of(before), data_of(after)))


def own_differences(before: Group, after: Group) -> tuple[str, ...]:
    """The differences of two feature groups, without those of the sources and the entity that they share."""
    return tuple(_of_groups(before, after))


def incompatible(before: Definition, after: Definition) -> tuple[str, ...]:
    """Why events that were sent, or producers that send them, do not fit the new definition of their stream."""
    if not (isinstance(before, EventStream) and isinstance(after, EventStream)):
        return ()
    found = []
    for column, kind in before.schema.items():
        if column not in after.schema:
            found.append(f"column '{column}' is gone: events that have it were sent")
        elif after.schema[column] != kind:
            found.append(f"column '{column}' is {after.schema[column]}: events that have it as {kind} were sent")
    if before.time != after.time:
        found.append(f"its time is '{after.time}': events sent before were dated by '{before.time}'")
    if before.partitions and after.partitions and before.partitions > after.partitions:
        found.append(f"partitions: a topic may get more of them, and never has fewer than it had, {before.partitions}")
    return tuple(found)


def changed_inputs(before: FeatureView, after: FeatureView) -> Mapping[str, str]:
    """The inputs of a view that are no longer what a model trained on it has learnt from, each with why."""
    now = {entry.column: entry for entry in after.entries}
    found: dict[str, str] = {}
    for entry in before.entries:
        one = now.get(entry.column)
        if one is None:
            found[entry.column] = f"{entry.column} is gone"
        elif one.dtype != entry.dtype and entry.dtype and one.dtype:
            found[entry.column] = f"{entry.column} is {one.dtype}, not {entry.dtype}"
        elif (one.size, one.pad) != (entry.size, entry.pad):
            found[entry.column] = f"{entry.column} is filled up otherwise"
        elif one.default != entry.default:
            found[entry.column] = f"{entry.column} has another default"
        elif dict(one.fields) != dict(entry.fields):
            found[entry.column] = f"{entry.column} counts the request otherwise"
        elif one.on_demand is not None and entry.on_demand is not None and one.on_demand.hash != entry.on_demand.hash:
            found[entry.column] = f"{entry.column} is another function"
    return found


def retyped(before: FeatureView, after: FeatureView) -> tuple[str, ...]:
    """The columns of a view that captures could not keep beside what they hold already, because of their types."""
    old, new = _captured(before), _captured(after)
    return tuple(f"{name} is {kind}, not {old[name]}" for name, kind in new.items() if old.get(name, kind) != kind)


def _captured(view: FeatureView) -> dict[str, str]:
    """The type under which captures keep each column of a view: what is computed, as a number or as it is."""
    computed = {entry.column: entry.dtype for entry in view.entries if entry.kind != "request" and entry.dtype}
    kinds = {name: kind if is_object(kind) or element_of(kind) else "a number" for name, kind in computed.items()}
    return {**kinds, **view.request, **view.entity_keys}


def sources_of(group: Group) -> str:
    """The names of a group's sources, as a list in a sentence."""
    return " and ".join(source.name for source in group.sources)


def listed(names: Iterable[str]) -> str:
    """Names in a line, the first few of many."""
    known = list(names)
    return ", ".join(known[:_LISTED]) + (f" and {len(known) - _LISTED} more" if len(known) > _LISTED else "")


def _entity(entity: Entity) -> Iterator[str]:
    yield "keys: " + ", ".join(f"{key} {kind}" for key, kind in entity.keys.items())


def _stream(stream: EventStream) -> Iterator[str]:
    yield f"columns: {listed(stream.schema)}"
    again = f", without repeats of {stream.deduplicate} within {text(stream.within)}" if stream.deduplicate else ""
    yield f"time: {stream.time}{again}"


def _table(table: Table) -> Iterator[str]:
    yield f"path: {table.path or 'as the settings say'}"


def _group(group: Group) -> Iterator[str]:
    where = f", where {group.where}" if group.where else ""
    yield f"{group.entity.name} by {', '.join(group.entity.keys)}, from {sources_of(group)}{where}"
    yield f"features: {listed(group.feature_names) or 'known when its tables are read'}"
    if isinstance(group, BatchFeatureGroup):
        yield f"runs: {_schedule(group)}"
    if group.columns:
        from millstream.fold.layout import layout_of

        layout = layout_of(group)
        expected = f"about {layout.state_bytes_at(_EXPECTED):,} bytes per key at {_EXPECTED} events a day"
        yield f"{expected}, at most {layout.state_bytes_max:,}"


def _schedule(group: BatchFeatureGroup) -> str:
    return f"{group.cron} ({group.zone})" if group.cron else f"every {text(group.every or 0)}"


def _view(view: FeatureView) -> Iterator[str]:
    groups = dict.fromkeys(read.group.name for read in view.groups)
    yield f"{len(view.columns)} columns by {', '.join(view.entity_keys) or 'no key'}"
    yield f"request: {listed(view.request) or 'nothing'}"
    yield f"reads: {listed(groups) or 'no group'}"


def _model(model: Model) -> Iterator[str]:
    examples = model.examples if isinstance(model.examples, str) else model.examples.name
    yield f"view: {model.view.name}, examples: {examples}"
    yield f"label: {model.label.stream.name}.{model.label.column}, on {model.label.on}"


_INTRODUCTIONS: dict[type, Any] = {
    Entity: _entity,
    EventStream: _stream,
    Table: _table,
    StreamFeatureGroup: _group,
    BatchFeatureGroup: _group,
    FeatureView: _view,
    Model: _model,
}


def _of_groups(before: Group, after: Group) -> Iterator[str]:
    old = {column.name: column for column in before.columns} or dict.fromkeys(before.feature_names)
    new = {column.name: column for column in after.columns} or dict.fromkeys(after.feature_names)
    yield from (f"feature - {name}" for name in old if name not in new)
    yield from (f"feature + {name}" for name in new if name not in old)
    for name, column in old.items():
        if column is not None and new.get(name) is not None and new[name] != column:
            yield from _compared(f"feature {name}", vars(column), vars(new[name]))
    kinds = dict(before.schema_of_features), dict(after.schema_of_features)
    if not before.columns:
        yield from (f"feature {name}: {kinds[0][name]} -> {kind}" for name, kind in kinds[1].items()
                    if kinds[0].get(name, kind) != kind)  # fmt: skip
    apart = ("features", "source", "sources", "entity", "$resolved", "$format")
    yield from _compared("", _without(before, apart), _without(after, apart))


def _of_sources(before: Group, after: Group) -> Iterator[str]:
    if before.entity != after.entity:
        yield from _compared(
            f"entity {after.entity.name}", _without(before.entity, _ABOUT), _without(after.entity, _ABOUT)
        )
    names = [[source.name for source in group.sources] for group in (before, after)]
    if names[0] != names[1]:
        yield f"sources: {', '.join(names[0])} -> {', '.join(names[1])}"
        return
    for old, new in zip(before.sources, after.sources, strict=True):
        yield from _compared(f"source {new.name}", _without(old, _ABOUT), _without(new, _ABOUT))


def _of_views(before: FeatureView, after: FeatureView) -> Iterator[str]:
    yield from (f"column - {name}" for name in before.columns if name not in after.columns)
    yield from (f"column + {name}" for name in after.columns if name not in before.columns)
    now = {entry.column: entry for entry in after.entries}
    for entry in before.entries:
        one = now.get(entry.column)
        if one is None:
            continue
        if one.default != entry.default:
            yield f"column {entry.column}: default {_shown('', entry.default)} -> {_shown('', one.default)}"
        if (one.size, one.pad) != (entry.size, entry.pad):
            yield f"column {entry.column}: {_filled(entry)} -> {_filled(one)}"
        if one.dtype != entry.dtype and entry.dtype:
            yield f"column {entry.column}: {entry.dtype} -> {one.dtype}"
        if dict(one.keys) != dict(entry.keys):
            yield f"column {entry.column}: by {', '.join(entry.keys.values())} -> by {', '.join(one.keys.values())}"
        if dict(one.fields) != dict(entry.fields):
            yield f"column {entry.column}: {_counted(entry)} -> {_counted(one)}"
        if one.on_demand is not None and entry.on_demand is not None and one.on_demand.hash != entry.on_demand.hash:
            yield f"column {entry.column}: its function has changed"
    yield from _compared("", _without(before, ("features", "request")), _without(after, ("features", "request")))
    if set(before.columns) == set(after.columns) and before.columns != after.columns:
        yield "the order of its columns has changed"


def _filled(column: ViewColumn) -> str:
    """How a column holds a list."""
    return f"an array of {column.size}, filled up with {column.pad!r}" if column.size else column.dtype


def _counted(column: ViewColumn) -> str:
    """How a column counts the request."""
    if not column.fields:
        return "without the request"
    return "with the request, " + ", ".join(f"{name} by {field}" for name, field in column.fields.items())


def _without(definition: Any, names: Iterable[str]) -> dict[str, Any]:
    return {name: value for name, value in data_of(definition).items() if name not in names}


def _compared(path: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """A line for each value that differs; what is inside another definition has lines of its own."""
    for name in [*before, *(name for name in after if name not in before)]:
        old, new = before.get(name), after.get(name)
        if old == new or name == "$kind":
            continue
        place = f"{path}: {name}" if path else name
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            named = "name" in old and "name" in new
            if not named:
                yield from _compared(place, old, new)
            elif old["name"] != new["name"]:
                yield f"{place}: {old['name']} -> {new['name']}"
        else:
            yield f"{place}: {_shown(name, old)} -> {_shown(name, new)}"


def _shown(name: str, value: Any) -> str:
    if value is None or value == []:
        return "none"
    if name in _DURATIONS and isinstance(value, int):
        return text(value)
    if isinstance(value, Mapping) and "name" in value:
        return str(value["name"])
    return value if isinstance(value, str) else json.dumps(value, default=str)
