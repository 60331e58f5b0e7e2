"""Feature groups: what one pipeline writes, from a stream by windows or from tables by a query."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from millstream.calls import by_name, checked_class, text
from millstream.definitions.aggregation import Aggregation
from millstream.definitions.durations import Duration, micros
from millstream.definitions.entity import Entity
from millstream.definitions.expressions import query_schema, type_of
from millstream.definitions.frozen import FrozenMapping, check_about, check_name, freeze
from millstream.definitions.reference import Readable
from millstream.definitions.schedule import check_every
from millstream.definitions.schema import LIST_TYPES, TYPES, Schema, check_schema, require_column
from millstream.definitions.source import EventStream, Source, Table
from millstream.definitions.windows import (
    WindowedFeature,
    check_condition,
    folded,
    is_typed,
    undated,
    untyped,
    windowed_features,
)
from millstream.errors import DefinitionError


@checked_class
@dataclass(frozen=True, init=False)
class StreamFeatureGroup(Readable):
    """Windowed aggregates of events, per entity: counts, sums, extremes, latest values.

    Reach for it when a feature is about what happened lately. `columns` holds the features that result; their windows
    empty by themselves. Expressions are DuckDB's SQL over one event.

    Args:
        name: its name; a column is read as `name__feature`.
        entity: what the features are about.
        source: a stream, or a list of streams whose events count alike (a union).
        features: the aggregations.
        where: a condition: events for which it is not true are left out.
        derive: further columns by name: expressions over the source's columns and those derived before them.
        keys: join keys of `entity` that are taken from another column, such as `{"user_id": "payee_id"}`.
        owner: who answers for it.
        description: what it is.
        tags: words to find it by.

    Raises:
        DefinitionError: for an unknown column, a wrong type, two features of one name, or hops that do not nest.

    >>> from millstream import Count, Entity, EventStream, StreamFeatureGroup
    >>> user = Entity("user", keys={"user_id": "int64"})
    >>> clicks = EventStream("clicks", time="at", schema={"user_id": "int64", "at": "timestamp"})
    >>> pace = StreamFeatureGroup("pace", entity=user, source=clicks, features=[Count(over=["5m", "1h"])])
    >>> [column.name for column in pace.columns]
    ['count_5m', 'count_1h']
    """

    name: str
    entity: Entity
    source: EventStream | tuple[EventStream, ...]
    features: tuple[Aggregation, ...]
    where: str | None
    derive: FrozenMapping[str, str]
    keys: FrozenMapping[str, str]
    owner: str
    description: str
    tags: tuple[str, ...]
    columns: tuple[WindowedFeature, ...] = field(init=False, repr=False, compare=False)

    def __init__(
        self,
        name: str,
        *,
        entity: Entity,
        source: EventStream | Sequence[EventStream],
        features: Sequence[Aggregation],
        where: str | None = None,
        derive: Mapping[str, str] | None = None,
        keys: Mapping[str, str] | None = None,
        owner: str = "",
        description: str = "",
        tags: Iterable[str] = (),
    ) -> None:
        thing = f"StreamFeatureGroup '{check_name('StreamFeatureGroup', name)}'"
        sources = _check_streams(thing, source)
        one = sources[0] if isinstance(source, EventStream) else sources
        freeze(self, name=name, entity=_check_entity(thing, entity), source=one)
        fold = _check_fold(thing, entity, sources, features, where, derive, keys)
        freeze(self, features=tuple(features), where=where, **fold)
        freeze(self, **check_about(thing, owner, description, tags))

    @property
    def sources(self) -> tuple[EventStream, ...]:
        """The streams the group folds, one or several."""
        return self.source if isinstance(self.source, tuple) else (self.source,)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the group's features, in order."""
        return tuple(column.name for column in self.columns)

    @property
    def schema_of_features(self) -> Schema:
        """The type of each feature, in order."""
        return FrozenMapping({column.name: column.dtype for column in self.columns})

    def in_format(self, number: int) -> StreamFeatureGroup:
        """Return the same group in the format of states that an earlier release had, see `format_of`."""
        columns = _in_format(self.columns, number)
        if columns == self.columns:
            return self
        before = copy(self)
        freeze(before, columns=columns)
        return before


@checked_class
@dataclass(frozen=True, init=False)
class BatchFeatureGroup(Readable):
    """Features from tables on a schedule: by an SQL query, or by the same fold as a stream group's.

    Reach for it when a feature is a fact that somebody else keeps in a table. A query sees its interval as `:start` and
    `:end`. The types of its features follow from the tables' schemas, else from `schema`, else from `plan`.

    Args:
        name: its name; a column is read as `name__feature`.
        entity: what the features are about.
        every: a duration such as "24h", or a cron line such as "0 2 * * *".
        zone: the time zone of a cron line, "UTC" unless given.
        sources: the tables and streams that the query reads, by their names.
        query: the query, one row for each key.
        time: the column of the query that dates its rows; without one a run is a snapshot at `:end`, and a key that
            vanished becomes null.
        ttl: how long after the last run that confirmed a row it is read; null then. For ever unless given.
        source: instead of a query, the table or stream whose rows are folded.
        features: the aggregations of such a fold.
        where: as in a stream group.
        derive: as in a stream group.
        keys: as in a stream group.
        schema: the types of the query's features, where tables do not say.
        owner: who answers for it.
        description: what it is.
        tags: words to find it by.

    Raises:
        DefinitionError: for a query DuckDB refuses, an unknown table or column, or a bad schedule.

    >>> from millstream import BatchFeatureGroup, Entity, Table
    >>> accounts = Table("accounts", path="accounts.parquet", schema={"user_id": "int64", "tier": "string"})
    >>> kyc = BatchFeatureGroup("kyc", entity=Entity("user", keys={"user_id": "int64"}), sources=[accounts],
    ...     every="24h", query="select user_id, tier from accounts")
    >>> kyc.schema_of_features
    {'tier': 'string'}
    """

    name: str
    entity: Entity
    every: int | None
    cron: str | None = field(init=False)
    sources: tuple[Source, ...]
    query: str | None
    zone: str
    time: str | None
    ttl: int | None
    source: Source | None
    features: tuple[Aggregation, ...]
    where: str | None
    derive: FrozenMapping[str, str]
    keys: FrozenMapping[str, str]
    schema: Schema | None
    owner: str
    description: str
    tags: tuple[str, ...]
    columns: tuple[WindowedFeature, ...] = field(init=False, repr=False, compare=False)
    schema_of_features: Schema = field(init=False, repr=False, compare=False)
    _names: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __init__(
        self,
        name: str,
        *,
        entity: Entity,
        every: Duration,
        sources: Sequence[Source] = (),
        query: str | None = None,
        zone: str = "UTC",
        time: str | None = None,
        ttl: Duration | None = None,
        source: Source | None = None,
        features: Sequence[Aggregation] | None = None,
        where: str | None = None,
        derive: Mapping[str, str] | None = None,
        keys: Mapping[str, str] | None = None,
        schema: Mapping[str, str] | None = None,
        owner: str = "",
        description: str = "",
        tags: Iterable[str] = (),
    ) -> None:
        thing = f"BatchFeatureGroup '{check_name('BatchFeatureGroup', name)}'"
        interval, cron = check_every(thing, every, zone)
        freeze(self, name=name, entity=_check_entity(thing, entity), every=interval, cron=cron, zone=zone)
        freeze(self, query=query, time=time, ttl=_check_ttl(thing, ttl), source=source, where=where)
        freeze(self, schema=None if schema is None else check_schema(thing, schema), features=tuple(features or ()))
        freeze(self, **check_about(thing, owner, description, tags))
        if time is not None:
            text(thing, "time", time, "the name of a column")
        if query is not None:
            text(thing, "query", query, "an SQL query", 'write query="select user_id, tier from accounts".')
            _refuse(thing, "query", source=source, features=features, where=where, derive=derive)
            self._read_query(thing, tuple(sources), query, keys)
        else:
            _refuse(thing, "source", sources=sources, time=time, schema=schema)
            self._read_fold(thing, derive, keys)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the group's features; empty for `select *` from tables whose columns are not known yet."""
        return self._names

    def resolved(self, schema: Mapping[str, str]) -> BatchFeatureGroup:
        """Return the same group with the types of its features, as `plan` read them from the tables."""
        checked = check_schema(f"BatchFeatureGroup '{self.name}'", schema)
        if checked == self.schema_of_features and tuple(checked) == self._names:
            return self
        known = copy(self)
        freeze(known, schema_of_features=checked, _names=tuple(checked))
        return known

    def in_format(self, number: int) -> BatchFeatureGroup:
        """Return the same group in the format of states that an earlier release had, see `format_of`."""
        columns = _in_format(self.columns, number)
        if columns == self.columns:
            return self
        before = copy(self)
        freeze(before, columns=columns, schema_of_features=FrozenMapping({one.name: one.dtype for one in columns}))
        return before

    def _read_query(self, thing: str, sources: tuple[Source, ...], query: str, keys: Mapping[str, str] | None) -> None:
        if not sources or not all(isinstance(one, EventStream | Table) for one in sources):
            hint = "list every table the query reads: sources=[accounts]."
            raise DefinitionError.expected(thing, "sources", list(sources), "the tables of the query", hint)
        types, names = query_schema(thing, query, {one.name: one.schema for one in sources})
        mapping = _key_mapping(thing, self.entity, keys)
        dated = [*mapping.values(), *([self.time] if self.time else [])]
        for column in dated if names else ():
            if column not in names:
                raise DefinitionError.unknown_column(thing, column, names, "the columns of the query")
        if types is not None:
            _check_key_types(thing, self.entity, mapping, types)
            if self.time:
                require_column(thing, types, self.time, "time", ("timestamp", "date"))
        features = tuple(name for name in names if name not in dated)
        for name in features:
            if name.lower() in ("event_time", "available_time"):
                rule = "a row's own times are kept under that name"
                raise DefinitionError.bad_name(thing, name, rule, f"{name}_of_row")
        if names and not features:
            raise DefinitionError.expected(thing, "query", query, "columns beside the keys and the time")
        freeze(self, sources=sources, keys=mapping, derive=FrozenMapping(), columns=(), _names=features)
        found = None if types is None else {name: types[name] for name in features}
        freeze(self, schema_of_features=self._declared(thing, found, features))

    def _declared(self, thing: str, found: Mapping[str, str] | None, names: tuple[str, ...]) -> Schema:
        """The features' types: as found, or as declared where the tables' schemas do not say."""
        if self.schema is None:
            return FrozenMapping(found or {})
        days = [name for name, kind in (found or {}).items() if kind == "date" and self.schema.get(name) == "timestamp"]
        if found is not None and {**found, **dict.fromkeys(days, "timestamp")} != dict(self.schema):
            raise DefinitionError.expected(thing, "schema", self.schema, f"what the query gives, {dict(found)}")
        if names and set(names) != set(self.schema):
            raise DefinitionError.expected(thing, "schema", self.schema, f"the query's features, {list(names)}")
        freeze(self, _names=names or tuple(self.schema))
        return FrozenMapping({name: self.schema[name] for name in self._names})

    def _read_fold(self, thing: str, derive: Mapping[str, str] | None, keys: Mapping[str, str] | None) -> None:
        source = self.source
        if not isinstance(source, EventStream | Table):
            hint = "write sources=[...] with query=, or source=table with features=[...]."
            raise DefinitionError.expected(thing, "source", source, "a query, or a source with features", hint)
        if source.schema is None or source.time is None:
            hint = f'declare Table("{source.name}", ..., time="...", schema={{...}}).'
            raise DefinitionError.expected(thing, "source", source.name, "a table with time= and schema=", hint)
        fold = _check_fold(thing, self.entity, (source,), self.features, self.where, derive, keys)
        names = {column.name: column.dtype for column in fold["columns"]}
        freeze(self, sources=(source,), schema_of_features=FrozenMapping(names), _names=tuple(names), **fold)


def format_of(columns: Iterable[WindowedFeature]) -> int:
    """Return in which format a group keeps some columns: the earliest that has their types.

    In the first every number was a float64, in the second a date was its first instant.
    """
    kept = list(columns)
    return 3 if any(one.dtype == "date" for one in kept) else 2 if any(map(is_typed, kept)) else 1


def _in_format(columns: tuple[WindowedFeature, ...], number: int) -> tuple[WindowedFeature, ...]:
    dated = columns if number >= 3 else tuple(map(undated, columns))
    return dated if number >= 2 else tuple(map(untyped, dated))


def _check_entity(thing: str, entity: object) -> Entity:
    if not isinstance(entity, Entity):
        hint = 'write entity=ms.Entity("user", keys={"user_id": "int64"}).'
        raise DefinitionError.expected(thing, "entity", entity, "an Entity", hint)
    return entity


def _check_streams(thing: str, source: object) -> tuple[EventStream, ...]:
    sources = tuple(source) if isinstance(source, Sequence) else (source,)
    if not sources or not all(isinstance(one, EventStream) for one in sources):
        hint = "a table is folded by BatchFeatureGroup(source=table, features=[...])."
        raise DefinitionError.expected(thing, "source", source, "an EventStream or a list of them", hint)
    if len({one.name for one in sources}) != len(sources):
        raise DefinitionError.same_name(thing, "sources", sources[0].name, "list each stream once.")
    return sources


def _check_ttl(thing: str, ttl: Duration | None) -> int | None:
    span = None if ttl is None else micros(ttl, thing, "ttl")
    if span == 0:
        raise DefinitionError.expected(thing, "ttl", ttl, "a positive duration", 'write ttl="90d", or leave it out.')
    return span


def _refuse(thing: str, beside: str, **arguments: object) -> None:
    for name, value in arguments.items():
        if value is not None and value != () and value != []:
            hint = "give query= with sources=, or source= with features=, not both."
            raise DefinitionError.expected(thing, name, value, f"nothing beside {beside}=", hint)


def _check_fold(
    thing: str,
    entity: Entity,
    sources: Sequence[Source],
    features: object,
    where: str | None,
    derive: Mapping[str, str] | None,
    keys: Mapping[str, str] | None,
) -> dict[str, Any]:
    """The checked `columns`, `keys` and `derive` of a group that folds `sources`."""
    for name, sql in by_name(thing, "derive", derive, 'write derive={"k": "amount / 1000"}.').items():
        text(thing, f"derive '{name}'", sql, "an SQL expression")
    if where is not None:
        text(thing, "where", where, "a condition in SQL", 'write where="amount > 0".')
    columns = _common_columns(thing, sources, [where, *(derive or {}).values(), *_texts(features)])
    for name, sql in (derive or {}).items():
        if str(name).lower() in {column.lower() for column in columns}:
            raise DefinitionError.same_name(thing, "columns", name, "give the derived column another name.")
        kind = type_of(thing, f"derive '{name}'", sql, columns)
        columns |= check_schema(thing, {name: kind}, "derive", (*TYPES, *LIST_TYPES))
    if where is not None:
        check_condition(thing, "where", where, columns)
    mapping = _key_mapping(thing, entity, keys)
    _check_key_types(thing, entity, mapping, columns)
    found = windowed_features(thing, features, columns)
    if len(sources) > 1 and any(part.gap for part in folded(found)):
        hint = "fold one stream with sessions, or send the events of all to one stream."
        what = f"{len(sources)} streams"
        raise DefinitionError.expected(thing, "source", what, "one stream for sessions, whose rows come in order", hint)
    return {"columns": found, "keys": mapping, "derive": FrozenMapping(derive or {})}


def _texts(features: object) -> list[str | None]:
    given = features if isinstance(features, Sequence) else ()
    return [sql for one in given if isinstance(one, Aggregation) for sql in (*one.values, one.where)]


def _common_columns(thing: str, sources: Sequence[Source], expressions: Iterable[str | None]) -> dict[str, str]:
    """The columns every source has with one type; an expression that reads another one would join the sources."""
    schemas = [dict(source.schema or {}) for source in sources]
    common = {name: kind for name, kind in schemas[0].items() if all(other.get(name) == kind for other in schemas)}
    partial = {name.lower() for schema in schemas for name in schema} - {name.lower() for name in common}
    for sql in filter(None, expressions if partial else ()):
        for column in sorted(partial & set(re.findall(r"\w+", re.sub(r"'[^']*'", "", sql.lower())))):
            raise DefinitionError.joins_streams(thing, column)
    return common


def _key_mapping(thing: str, entity: Entity, keys: Mapping[str, str] | None) -> FrozenMapping[str, str]:
    for key, column in by_name(thing, "keys", keys, 'write keys={"user_id": "payee_id"}.').items():
        if key not in entity.keys:
            raise DefinitionError.unknown_choice(thing, "keys", key, entity.keys)
        text(thing, f"keys['{key}']", column, "the name of a column")
    return FrozenMapping({key: (keys or {}).get(key, key) for key in entity.keys})


def _check_key_types(thing: str, entity: Entity, mapping: Mapping[str, str], columns: Mapping[str, str]) -> None:
    for key, column in mapping.items():
        require_column(thing, columns, column, f"join key '{key}'", (entity.keys[key],))
