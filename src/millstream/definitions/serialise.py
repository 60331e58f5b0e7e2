"""Definitions as plain data and back, and the fingerprint of what changes values."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from datetime import timedelta
from functools import lru_cache
from typing import Any

from millstream.definitions.aggregation import AGGREGATIONS, Aggregation
from millstream.definitions.combined import COMBINED
from millstream.definitions.decayed import DECAYED
from millstream.definitions.entity import Entity
from millstream.definitions.expressions import references
from millstream.definitions.feature_group import BatchFeatureGroup, StreamFeatureGroup, format_of
from millstream.definitions.feature_view import FeatureView
from millstream.definitions.frozen import FrozenMapping
from millstream.definitions.mapped import MAPPED
from millstream.definitions.model import TRAINERS, Label, Model, Retrain
from millstream.definitions.on_demand import OnDemandFeature
from millstream.definitions.over import Session
from millstream.definitions.probes import PROBES
from millstream.definitions.reference import FeatureRef
from millstream.definitions.source import EventStream, Source, Table
from millstream.definitions.statistics import STATISTICS
from millstream.definitions.values import VALUES
from millstream.definitions.vectors import VECTORS
from millstream.errors import DefinitionError

_GROUPS = (BatchFeatureGroup, StreamFeatureGroup)
_KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        *AGGREGATIONS, *COMBINED, *DECAYED, *MAPPED, *PROBES, *STATISTICS, *VALUES, *VECTORS, *_GROUPS, Entity, EventStream,
        FeatureRef,
        FeatureView, Label, Model, OnDemandFeature, Retrain, Session, Table, *TRAINERS,
    )
}  # fmt: skip
_ABOUT = ("owner", "description", "tags")
_DURATIONS = {
    "after",
    "delay",
    "every",
    "future",
    "gap",
    "hop",
    "late",
    "per",
    "retention",
    "ttl",
    "within",
}  # as microseconds
_KIND, _RESOLVED = "$kind", "$resolved"
#: In which format a group keeps its states, where that is not the first; written, so that an older version stays itself.
_FORMAT = "$format"
_NOTHING: tuple[Any, ...] = (None, "", (), {})
#: Of this an empty text is something: it stands where a feature is null.
_VALUE = "default_value"


def to_dict(definition: Any) -> dict[str, Any]:
    """Return a definition as JSON-able data, with all that it refers to inside it.

    Durations are microseconds; what was left out is left out.

    >>> to_dict(Entity("user", keys={"user_id": "int64"}))
    {'$kind': 'Entity', 'name': 'user', 'keys': {'user_id': 'int64'}}
    """
    plain: dict[str, Any] = _plain(definition)
    return plain


def data_of(definition: Any) -> Mapping[str, Any]:
    """Return what `to_dict` does, made once for each definition, which never changes: nor may what is returned.

    What several definitions refer to is in what is returned for each of them, and is made once as well.
    """
    known: Mapping[str, Any] = _once(definition, "_data", lambda one: _plain(one, _known))
    return known


def _known(value: Any) -> Any:
    return data_of(value) if type(value).__name__ in _KINDS else _plain(value, _known)


def from_dict(data: Mapping[str, Any]) -> Any:
    """Return the definition that `to_dict` made `data` of; what this process has not built before is checked again.

    >>> from_dict({"$kind": "Entity", "name": "user", "keys": {"user_id": "int64"}}).name
    'user'
    """
    kind = data.get(_KIND)
    if kind not in _KINDS:
        raise DefinitionError.unknown_choice("Definition", "kind", kind, _KINDS)
    return _built(data)


def fingerprint(definition: Any) -> str:
    """Return a hash of what changes the values of a definition, as hexadecimal text.

    Owner, description and tags do not count, nor do columns of a source that a group does not read, nor how long and in
    how many partitions the log keeps a stream, nor where a table is.

    >>> user = Entity("user", keys={"user_id": "int64"})
    >>> fingerprint(user) == fingerprint(Entity("user", keys={"user_id": "int64"}, owner="risk"))
    True
    """
    known: str = _once(definition, "_fingerprint", _hashed)
    return known


def _hashed(definition: Any) -> str:
    text = json.dumps(_essence(definition), separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _once(definition: Any, name: str, make: Callable[[Any], Any]) -> Any:
    """What is made of a definition, kept with it: it never changes. What a copy, which may, has taken over is not its."""
    whose, known = definition.__dict__.get(name, (None, None))
    if whose is not definition:  # the object itself, as the number of one that is gone may come again
        known = make(definition)
        object.__setattr__(definition, name, (definition, known))
    return known


def revision_of(view: FeatureView) -> str:
    """Return the mark (16 hexadecimal digits) that a view has as long as nothing changes that its values depend on."""
    return fingerprint(view)[:16]


def _plain(value: Any, inner: Callable[[Any], Any] | None = None) -> Any:
    """A value as data; what is in it is made by `inner`, which is this function unless given."""
    part = inner or _plain
    if type(value).__name__ in _KINDS:
        return {_KIND: type(value).__name__, **{name: part(given) for name, given in _arguments(value).items()}}
    if isinstance(value, Mapping):
        return {name: part(one) for name, one in value.items()}
    return [part(one) for one in value] if isinstance(value, tuple | list) else value


def _arguments(definition: Any) -> dict[str, Any]:
    """The arguments that build an equal definition, without those that are as good as left out."""
    given = {part.name: getattr(definition, part.name) for part in fields(definition) if part.init}
    if isinstance(definition, BatchFeatureGroup | Retrain):
        given["every"] = definition.cron or definition.every
    if isinstance(definition, BatchFeatureGroup):
        if definition.query is None:
            given["sources"] = ()
        else:
            given[_RESOLVED] = definition.schema_of_features
    if isinstance(definition, _GROUPS) and (number := format_of(definition.columns)) > 1:
        given[_FORMAT] = number
    optional = _accepted(type(definition).__name__)
    nothing = {name for name, value in given.items() if optional.get(name, True) and value in _NOTHING}
    return {name: value for name, value in given.items() if name not in nothing or (name == _VALUE and value == "")}


@lru_cache(maxsize=64)
def _accepted(kind: str) -> dict[str, bool]:
    """Each argument of a kind of definition, and whether leaving it out means nothing."""
    parameters = inspect.signature(_KINDS[kind]).parameters.values()
    return {one.name: one.default in (*_NOTHING, FrozenMapping()) for one in parameters}


def _built(value: Any) -> Any:
    if isinstance(value, list):
        return [_built(one) for one in value]
    if not isinstance(value, Mapping):
        return value
    return _definition(_Written(value)) if _KIND in value else FrozenMapping(_inner(value))


class _Written:
    """Data of a definition, equal to what is written alike."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = data
        self._text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
        self._hash = hash(self._text)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Written) and self._text == other._text


@lru_cache(maxsize=4096)
def _definition(written: _Written) -> Any:
    """The definition, which never changes: what several others have in them is built, and its SQL checked, once."""
    value = written.data
    inner = _inner(value)
    for name in _DURATIONS & inner.keys():
        if isinstance(inner[name], int):
            inner[name] = timedelta(microseconds=inner[name])
    definition = _KINDS[value[_KIND]](**inner)
    if isinstance(definition, _GROUPS):
        definition = definition.in_format(value.get(_FORMAT, 1))
    return definition.resolved(value[_RESOLVED]) if _RESOLVED in value else definition


def _inner(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _built(one) for name, one in value.items() if name not in (_KIND, _RESOLVED, _FORMAT)}


def _essence(value: Any) -> Any:
    """What `_plain` gives, less what changes no value."""
    if isinstance(value, OnDemandFeature):
        return [value.name, value.hash]
    if isinstance(value, Mapping):
        return {name: _essence(one) for name, one in value.items()}
    if isinstance(value, tuple | list):
        return [_essence(one) for one in value]
    return _once(value, "_essence", _essence_of) if type(value).__name__ in _KINDS else value


def _essence_of(value: Any) -> dict[str, Any]:
    given = {name: one for name, one in _arguments(value).items() if name not in (*_ABOUT, _RESOLVED)}
    if isinstance(value, _GROUPS):
        given.pop("source", None)
        given["sources"] = [_source_essence(one, _columns_read(value)) for one in value.sources]
    kept = {name: one if name == "sources" else _essence(one) for name, one in given.items()}
    return {_KIND: type(value).__name__, **kept}


def _source_essence(source: Source, read: frozenset[str]) -> dict[str, Any]:
    columns = sorted((name, kind) for name, kind in (source.schema or {}).items() if name.lower() in read)
    about: tuple[str, ...] = ("name", "time", "deduplicate", "within", "future")
    if isinstance(source, Table):
        about = ("name", "time", "available", "delay")
    return {_KIND: type(source).__name__, **{name: getattr(source, name) for name in about}, "columns": columns}


def _columns_read(group: StreamFeatureGroup | BatchFeatureGroup) -> frozenset[str]:
    """The columns, in lower case, on which the group's values depend; for a query, every word of it."""
    if isinstance(group, BatchFeatureGroup) and group.query is not None:
        names = {name.lower() for source in group.sources for name in source.schema or {}}
        return frozenset(names if "*" in group.query else names & set(re.findall(r"\w+", group.query.lower())))
    expressions = [group.where, *group.derive.values(), *group.keys.values(), *_of(group.features)]
    return frozenset(column for sql in expressions if sql for column in references(sql))


def _of(features: Iterable[Aggregation]) -> list[str | None]:
    return [sql for one in features for sql in (*one.values, one.where)]
