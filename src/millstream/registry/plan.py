"""What a set of definitions would change in the registry: compared first, shown, then applied."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from millstream.definitions.entity import Entity
from millstream.definitions.feature_group import BatchFeatureGroup, StreamFeatureGroup
from millstream.definitions.feature_view import FeatureView
from millstream.definitions.group_version import RETIRED, Group, GroupVersion
from millstream.definitions.model import Model
from millstream.definitions.on_demand import OnDemandFeature
from millstream.definitions.serialise import data_of, fingerprint
from millstream.definitions.source import EventStream, Table
from millstream.errors import PlanError, shown
from millstream.registry.differences import (
    Definition,
    changed_inputs,
    describe,
    differences,
    incompatible,
    own_differences,
    retyped,
    sources_of,
)

Kind = Literal["add", "change", "remove", "breaking"]
Key = tuple[str, str]

_THINGS: dict[type, str] = {
    Entity: "entity",
    EventStream: "stream",
    Table: "table",
    StreamFeatureGroup: "group",
    BatchFeatureGroup: "group",
    FeatureView: "view",
    Model: "model",
}
_MARKS: dict[str, str] = {"add": "+", "change": "~", "remove": "-", "breaking": "!"}
_ORDER = ("entity", "stream", "table", "group", "view", "model")


@dataclass(frozen=True)
class Change:
    """One line of a plan.

    Args:
        kind: "add", "change", "remove", or "breaking" for a change or removal that breaks what is in use.
        thing: "entity", "stream", "table", "group", "view" or "model".
        name: its name.
        detail: what it says, or what is different.
        breaks: what would break, if anything.
        recompute: for a feature group, what has to be computed for it, or None.
        version: for a feature group, the version it comes to.
    """

    kind: Kind
    thing: str
    name: str
    detail: tuple[str, ...] = ()
    breaks: tuple[str, ...] = ()
    recompute: str | None = None
    version: int | None = None

    def lines(self) -> list[str]:
        """The change as a person reads it."""
        version = "" if self.version is None else f"@{self.version}"
        found = [f"{_MARKS[self.kind]} {self.thing} {self.name}{version}"]
        found += [f"    {line}" for line in self.detail]
        found += [f"    breaks: {line}" for line in self.breaks]
        return found + ([f"    {self.recompute}"] if self.recompute else [])


@dataclass(frozen=True)
class Plan:
    """What `apply` would do; nothing has been done yet.

    Args:
        changes: in the order in which they are done.
        definitions: what the plan was made from.
        complete: whether they are all there is, so that what is not among them is removed.
    """

    changes: tuple[Change, ...]
    definitions: tuple[Any, ...] = field(default=(), repr=False)
    complete: bool = False

    @property
    def breaking(self) -> tuple[Change, ...]:
        """The changes that are refused unless asked for."""
        return tuple(change for change in self.changes if change.kind == "breaking")

    def text(self) -> str:
        """The plan as a person reads it; empty when nothing would change."""
        if not self.changes:
            return ""
        counts = {kind: sum(change.kind == kind for change in self.changes) for kind in _MARKS}
        verbs = {"add": "to add", "change": "to change", "remove": "to remove", "breaking": "that break what is in use"}
        head = ", ".join(f"{count} {verbs[kind]}" for kind, count in counts.items() if count)
        return "\n".join([head, "", *(line for change in self.changes for line in change.lines())])


@dataclass(frozen=True)
class Known:
    """What the registry holds: definitions, all group versions with their fingerprints, and pins by group version.

    `columns` are those that each model version reads, None where that was not recorded; `floor` is the greatest number
    of a version that is taken without being known here.
    """

    definitions: Mapping[Key, Definition]
    versions: Mapping[str, tuple[tuple[GroupVersion, str], ...]]
    pins: Mapping[str, tuple[str, ...]]
    columns: Mapping[str, tuple[str, ...] | None]
    floor: int = 0

    def current(self, group: Group) -> tuple[int, bool]:
        """The version a definition comes to, and whether it has to be made."""
        mark = fingerprint(group)
        for version, its in reversed(self.versions.get(group.name, ())):
            same = not group.schema_of_features or version.schema in ({}, dict(group.schema_of_features))
            # What an earlier release counted among what changes values, such as where a table is, does not count now.
            if version.state != RETIRED and same and mark in (its, fingerprint(version.group)):
                return version.version, False
        return max((self.floor, *(one.version for one, _ in self.versions.get(group.name, ())))) + 1, True

    def pinned(self, name: str) -> list[str]:
        """Model versions that pin a version of the group, as sentences."""
        return [
            f"model version '{model}' reads {version.id}"
            for version, _ in self.versions.get(name, ())
            for model in self.pins.get(version.id, ())
        ]

    def trained_on(self, view: str) -> list[str]:
        """Model versions of the models that read the view."""
        models = {one.name for one in self.definitions.values() if isinstance(one, Model) and one.view.name == view}
        found = {*self.columns, *(model for pinning in self.pins.values() for model in pinning)}
        return sorted(model for model in found if model.rpartition("@")[0] in models)

    def reading(self, view: FeatureView) -> Iterator[tuple[str, Collection[str]]]:
        """Model versions that were trained on a view, each with the inputs of the view that its scores depend on."""
        arguments = {one.column: one.on_demand.arguments for one in view.entries if one.on_demand is not None}
        for model in self.trained_on(view.name):
            columns = self.columns.get(model)
            found = dict.fromkeys(view.columns if columns is None else columns)
            for name in (waiting := list(found)):
                fresh = [argument for argument in arguments.get(name, ()) if argument not in found]
                found.update(dict.fromkeys(fresh))
                waiting.extend(fresh)
            yield model, found


def closure(definitions: Iterable[Any]) -> dict[Key, Definition]:
    """The definitions and all they refer to, each once, in the order in which they depend on each other.

    Raises `PlanError` for what is no definition, and for two different ones of one name.
    """
    found: dict[Key, Definition] = {}
    for definition in definitions:
        for one in _reached(definition):
            _admit(found, one)
    schemas = {one.name: one.schema_of_features for one in found.values() if isinstance(one, BatchFeatureGroup)}
    known = {key: _resolved(one, schemas) for key, one in found.items()}
    return dict(sorted(known.items(), key=lambda item: _ORDER.index(item[0][0])))


def thing_of(definition: Any) -> str:
    """What kind of thing a definition is; raises `PlanError` for anything else."""
    if type(definition) not in _THINGS:
        hint = "give entities, streams, tables, feature groups, views and models."
        if isinstance(definition, Iterable) and not isinstance(definition, str | bytes):
            hint = "give each definition as an argument of its own, as apply(*definitions) does."
        raise PlanError(f"{shown(definition)} cannot be planned; expected a definition.", hint)
    return _THINGS[type(definition)]


def compare(wanted: Mapping[Key, Definition], known: Known, complete: bool) -> tuple[Change, ...]:
    """The changes that lead from what is known to what is wanted.

    Args:
        wanted: the definitions, by kind and name, in the order in which they depend on each other.
        known: what the registry holds.
        complete: whether they are all there is, so that what is not among them is removed.
    """
    changes = [change for key, one in wanted.items() if (change := _change(key, one, wanted, known)) is not None]
    if complete:
        gone = [key for key in known.definitions if key not in wanted]
        changes += [_removal(key, known) for key in sorted(gone, key=lambda key: -_ORDER.index(key[0]))]
    return tuple(changes)


def _reached(definition: Any) -> Iterator[Definition]:
    """What a definition refers to, then itself."""
    if isinstance(definition, OnDemandFeature):
        return  # a view holds its on-demand features
    thing_of(definition)
    parts: list[Any] = []
    if isinstance(definition, StreamFeatureGroup | BatchFeatureGroup):
        parts = [definition.entity, *definition.sources]
    elif isinstance(definition, FeatureView):
        parts = [read.group for read in definition.groups]
    elif isinstance(definition, Model):
        examples = [] if isinstance(definition.examples, str) else [definition.examples]
        parts = [definition.view, *examples, definition.label.stream]
    for part in parts:
        yield from _reached(part)
    yield definition


def _admit(found: dict[Key, Definition], one: Definition) -> None:
    key = (thing_of(one), one.name)
    there = found.setdefault(key, one)
    if there is one or data_of(there) == data_of(one) or _plain(there) == _plain(one):
        if isinstance(one, BatchFeatureGroup) and one.schema_of_features:
            found[key] = one
        return
    lines = "; ".join(differences(there, one))
    raise PlanError(f"Two different {key[0]}s are named '{one.name}' ({lines}).", "rename one, or define it once.")


def _plain(definition: Any) -> Any:
    """A definition as data, without what was read from tables."""

    def bare(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: bare(one) for name, one in value.items() if name != "$resolved"}
        return [bare(one) for one in value] if isinstance(value, list) else value

    return bare(data_of(definition))


def _resolved(definition: Definition, schemas: Mapping[str, Mapping[str, str]]) -> Definition:
    known = {name: schema for name, schema in schemas.items() if schema}
    if isinstance(definition, FeatureView):
        return definition.resolved(known)
    if isinstance(definition, Model):
        return replace(definition, view=definition.view.resolved(known))
    return definition


def _change(key: Key, one: Definition, wanted: Mapping[Key, Definition], known: Known) -> Change | None:
    before = known.definitions.get(key)
    if isinstance(one, StreamFeatureGroup | BatchFeatureGroup):
        return _group_change(key, one, before, wanted, known)
    if before is None:
        return Change("add", *key, detail=describe(one))
    detail = differences(before, one)
    breaks = incompatible(before, one)
    if isinstance(one, FeatureView) and isinstance(before, FeatureView):
        lost, models = changed_inputs(before, one), list(known.reading(before))
        breaks = tuple(f"model version '{model}': {why}" for model, read in models for why in _of(lost, read))
        if models and (wrong := retyped(before, one)):
            raise PlanError(
                f"View '{one.name}': {wrong[0]}; captures keep a column under one type.",
                "give the column of the new type another name.",
            )
    if not detail:
        return None
    return Change("breaking" if breaks else "change", *key, detail=detail, breaks=breaks)


def _of(lost: Mapping[str, str], read: Collection[str]) -> Iterator[str]:
    """Of the inputs that are not as they were, those that are read."""
    return (why for column, why in lost.items() if column in read)


def _group_change(
    key: Key, group: Group, before: Definition | None, wanted: Mapping[Key, Definition], known: Known
) -> Change | None:
    version, new = known.current(group)
    recompute = _recompute(group) if new else None
    if not isinstance(before, StreamFeatureGroup | BatchFeatureGroup):
        return Change("add", *key, detail=describe(group), recompute=recompute, version=version)
    detail = differences(before, group) if new else own_differences(before, group)
    if not detail and not new:
        return None
    breaks = tuple(_lost(group, wanted, known)) if new else ()
    earlier = [one.id for one, _ in known.versions.get(group.name, ()) if one.default]
    if recompute and earlier:
        recompute += f"; {earlier[0]} is read until that is done"
    kind: Kind = "breaking" if breaks else "change"
    return Change(kind, *key, detail=detail, breaks=breaks, recompute=recompute, version=version)


def _lost(group: Group, wanted: Mapping[Key, Definition], known: Known) -> Iterator[str]:
    """Features that views outside the plan read, and the new version does not have."""
    for key, view in known.definitions.items():
        if not isinstance(view, FeatureView) or key in wanted or not group.feature_names:
            continue
        read = [column.feature for one in view.groups if one.group.name == group.name for column in one.columns]
        for feature in dict.fromkeys(read):
            if feature not in group.feature_names:
                yield f"view '{view.name}' reads {group.name}__{feature}, which is gone"


def _removal(key: Key, known: Known) -> Change:
    breaks: list[str] = known.pinned(key[1]) if key[0] == "group" else []
    if key[0] == "view":
        breaks = [f"model version '{model}' reads it" for model in known.trained_on(key[1])]
    return Change("breaking" if breaks else "remove", *key, breaks=tuple(breaks))


def _recompute(group: Group) -> str:
    if isinstance(group, BatchFeatureGroup):
        return f"runs past intervals over {sources_of(group)}"
    return f"computes all history of {sources_of(group)}"
