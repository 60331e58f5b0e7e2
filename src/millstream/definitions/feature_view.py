"""Feature view: the features one model reads, and how a vector is put together from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from millstream.calls import checked_class
from millstream.definitions.feature_group import BatchFeatureGroup, StreamFeatureGroup
from millstream.definitions.frozen import EMPTY, FrozenMapping, check_about, check_name, freeze
from millstream.definitions.on_demand import OnDemandFeature, is_null
from millstream.definitions.padding import Value
from millstream.definitions.reference import FeatureRef, as_reference
from millstream.definitions.row_function import RowFunction
from millstream.definitions.schema import Schema, check_schema, element_of, fields_of, is_map, is_object, list_of
from millstream.definitions.windows import fields_read
from millstream.errors import DefinitionError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class ViewColumn:
    """One input of a model: where it comes from, and its type ("" until `plan` has read the tables).

    `kind` is "request", "group" or "on_demand". `keys` maps join keys to request keys. With
    `fields`, the request counts as one more event: see `FeatureRef`. `element` is which one of a list it is, counted from
    1, or 0 where it is the feature itself; `field` which field of that element, where it is a struct. With `size`, it is
    the whole list, filled up to so many elements with `pad`.
    """

    column: str
    kind: str
    dtype: str
    group: StreamFeatureGroup | BatchFeatureGroup | None = None
    feature: str = ""
    keys: FrozenMapping[str, str] = EMPTY
    default: Value | None = None
    on_demand: OnDemandFeature | None = None
    fields: FrozenMapping[str, str] = EMPTY
    element: int = 0
    field: str = ""
    size: int = 0
    pad: Value | None = None

    @property
    def of_list(self) -> bool:
        """Whether it is made of a feature that is a list, and is not that list."""
        return bool(self.element or self.size)

    def is_in(self, schema: Mapping[str, str]) -> bool:
        """Whether a group whose features have these types gives this column: a version may not have it, or no list."""
        return self.feature in schema and (not self.of_list or element_of(schema[self.feature]) is not None)

    def of(self, values: Any) -> np.ndarray:
        """Return this column, from the values of its feature."""
        found: np.ndarray = values
        if self.element:
            found = values.nth(self.element - 1, self.dtype, self.field)
        elif self.size:
            found = values.padded(self.size, self.pad, self.field)
        return found

    def nulls(self, n: int) -> np.ndarray:
        """Return `n` nulls as views assemble this column: None in objects for what is no number, else NaN; or `Lists`."""
        import numpy as np

        if element_of(self.dtype):
            from millstream.definitions.list_columns import Lists, Maps

            return (Maps if is_map(self.dtype) else Lists).nulls(n)  # type: ignore[return-value]
        return np.full(n, None, object) if is_object(self.dtype) else np.full(n, np.nan)


@dataclass(frozen=True)
class GroupRead:
    """One read of a group: by which request key for each join key, and the columns that come of it."""

    group: StreamFeatureGroup | BatchFeatureGroup
    keys: tuple[tuple[str, str], ...]
    prefix: str
    columns: tuple[ViewColumn, ...]
    name: str  # the group's, with the read's prefix; a second read of that name also says by which keys
    probes: tuple[str, ...] = ()  # the request fields that its columns read
    fields: FrozenMapping[str, str] | None = (
        None  # where the request counts as one more event: the field of each column
    )


@checked_class
@dataclass(frozen=True, init=False)
class FeatureView:
    """The features one model reads: request fields, features of groups, and on-demand features.

    Declare one for every model; what `features` and `score` return is in its order.

    Args:
        name: its name.
        request: the type of each field that a caller sends; they are model inputs, first in order. None unless given.
        features: groups (all their features), `group["feature"]`, `.on(...)` and `.default(...)` of these, and
            on-demand features.
        owner: who answers for it.
        description: what it is.
        tags: words to find it by.

    Raises:
        DefinitionError: for two columns of one name, an argument that is no column, on-demand features that need each
            other, and a request key of two types.

    >>> from millstream import Count, Entity, EventStream, FeatureView, StreamFeatureGroup
    >>> user = Entity("user", keys={"user_id": "int64"})
    >>> clicks = EventStream("clicks", time="at", schema={"user_id": "int64", "at": "timestamp"})
    >>> pace = StreamFeatureGroup("pace", entity=user, source=clicks, features=[Count(over="5m")])
    >>> view = FeatureView("offers", request={"price": "float64"}, features=[pace])
    >>> view.columns, dict(view.entity_keys)
    (('price', 'pace__count_5m'), {'user_id': 'int64'})
    """

    name: str
    request: Schema
    features: tuple[FeatureRef | OnDemandFeature, ...]
    owner: str
    description: str
    tags: tuple[str, ...]
    entries: tuple[ViewColumn, ...] = field(init=False, repr=False, compare=False)
    groups: tuple[GroupRead, ...] = field(init=False, repr=False, compare=False)
    entity_keys: Schema = field(init=False, repr=False, compare=False)
    columns: tuple[str, ...] = field(init=False, repr=False, compare=False)
    on_demand: tuple[OnDemandFeature, ...] = field(init=False, repr=False, compare=False)
    _defaulted: tuple[ViewColumn, ...] = field(init=False, repr=False, compare=False)
    _functions: tuple[tuple[str, RowFunction], ...] = field(init=False, repr=False, compare=False)

    def __init__(
        self,
        name: str,
        *,
        features: Sequence[StreamFeatureGroup | BatchFeatureGroup | FeatureRef | OnDemandFeature],
        request: Mapping[str, str] = EMPTY,
        owner: str = "",
        description: str = "",
        tags: Iterable[str] = (),
    ) -> None:
        thing = f"FeatureView '{check_name('FeatureView', name)}'"
        fields = check_schema(thing, request, "request") if request else EMPTY
        if "at" in fields:
            raise DefinitionError.bad_name(thing, "at", "'at' is the moment of a read", "requested_at")
        if not isinstance(features, Iterable) or isinstance(features, str | bytes | Mapping):
            raise DefinitionError.expected(thing, "features", features, "a list of features", "write features=[group].")
        items = tuple(_check_item(thing, item) for item in features)
        freeze(self, name=name, request=fields, features=items, **check_about(thing, owner, description, tags))
        freeze(self, entries=_entries(thing, fields, items))
        freeze(self, groups=_reads(thing, self.entries), on_demand=_on_demand_order(thing, self.entries))
        freeze(self, _functions=_functions(self.on_demand, self.dtypes))
        freeze(self, entity_keys=_entity_keys(thing, fields, self.groups))
        _check_probes(thing, fields, self.entity_keys, self.groups)
        freeze(self, groups=tuple(_with_fields(thing, read, {**self.entity_keys, **fields}) for read in self.groups))
        freeze(self, _defaulted=tuple(entry for entry in self.entries if entry.default is not None))
        freeze(self, columns=tuple(entry.column for entry in self.entries))

    @property
    def dtypes(self) -> Schema:
        """The type of each input, in order; "" until `plan` has read the tables of a batch group."""
        return FrozenMapping({entry.column: entry.dtype for entry in self.entries})

    @property
    def inputs(self) -> Schema:
        """The type of each input of a model, in order: a list is none, it is read by on-demand features alone."""
        return FrozenMapping({name: kind for name, kind in self.dtypes.items() if not element_of(kind)})

    def resolved(self, schemas: Mapping[str, Mapping[str, str]]) -> FeatureView:
        """Return the same view with the types of its batch groups' features, by group name, as `plan` read them."""

        def known(item: FeatureRef | OnDemandFeature) -> FeatureRef | OnDemandFeature:
            if (
                isinstance(item, FeatureRef)
                and isinstance(item.group, BatchFeatureGroup)
                and item.group.name in schemas
            ):
                group = item.group.resolved(schemas[item.group.name])
                return item if group is item.group else replace(item, group=group)
            return item

        features = [known(item) for item in self.features]
        if all(one is item for one, item in zip(features, self.features, strict=True)):
            return self
        return FeatureView(
            self.name,
            request=self.request,
            features=features,
            owner=self.owner,
            description=self.description,
            tags=self.tags,
        )

    def compile(self) -> None:
        """Compile the on-demand functions now rather than when the first row asks for them."""
        for _, function in self._functions:
            _ = function.compiled

    def assemble(self, columns: Mapping[str, np.ndarray], at: np.ndarray) -> dict[str, np.ndarray]:
        """Return the model's inputs for some rows: defaults applied, on-demand features computed.

        Training and serving both end here.

        Args:
            columns: every request field and every column of a group by its name in the view: numbers as float64 with
                NaN for null, what is no number as Python's values, with None, and lists as
                `millstream.definitions.list_columns.Lists`.
            at: the instant of each row (int64 µs).

        Returns:
            dict[str, np.ndarray]: by name, the view's columns in its order.

        """
        ready = {**columns, "at": at}
        for entry in self._defaulted:
            ready[entry.column] = _with_default(columns[entry.column], entry)
        for name, function in self._functions:
            ready[name] = function.call(ready)
        return {name: ready[name] for name in self.columns}


def _check_item(thing: str, item: Any) -> FeatureRef | OnDemandFeature:
    found = item if isinstance(item, OnDemandFeature) else as_reference(item)
    if found is None:
        hint = 'list groups, group["feature"], or functions decorated with @ms.on_demand(returns=...).'
        raise DefinitionError.expected(thing, "an item of features", item, "a feature", hint)
    return found


def _entries(thing: str, request: Schema, items: Sequence[FeatureRef | OnDemandFeature]) -> tuple[ViewColumn, ...]:
    entries = [ViewColumn(name, "request", kind) for name, kind in request.items()]
    for item in items:
        if isinstance(item, OnDemandFeature):
            entries.append(ViewColumn(item.name, "on_demand", item.returns, on_demand=item))
        else:
            entries += _of_reference(thing, item)
    seen: set[str] = set()
    for entry in entries:
        if entry.column in seen:
            hint = 'read it once, or tell the two apart by .on(..., prefix="...").'
            raise DefinitionError.same_name(thing, "columns", entry.column, hint)
        seen.add(entry.column)
    return tuple(entries)


def _of_reference(thing: str, item: FeatureRef) -> list[ViewColumn]:
    group = item.group
    names = (item.feature,) if item.feature is not None else group.feature_names
    if not names:
        hint = f'name the columns in its query, or list {group.name}["..."] one by one.'
        raise DefinitionError(f"{thing}: the columns of '{group.name}' are not known before plan.", hint)
    prefix = f"{item.prefix}__" if item.prefix else ""
    keys = FrozenMapping(item.request_keys())
    found = []
    for name in names:
        dtype = group.schema_of_features.get(name, "")
        column = f"{prefix}{group.name}__{name}"
        whole = ViewColumn(column, "group", dtype, group, name, keys, fields=item.fields)
        parts = _parts(whole, item)
        value = item.default_value
        found += [replace(one, default=_check_default(thing, one.column, one.dtype, value)) for one in parts]
    return found


def _parts(column: ViewColumn, item: FeatureRef) -> list[ViewColumn]:
    """The columns that a reference makes of a feature: itself; or each element that a list may hold; or an array of it."""
    if not item.form:
        return [column]
    [most] = [one.k for one in column.group.columns if one.name == column.feature]  # type: ignore[union-attr]
    element = element_of(column.dtype) or ""
    fields = fields_of(element) or {"": element}
    if item.form == "array":
        return [
            replace(
                column,
                column=column.column + (f"_{name}" if name else ""),
                dtype=list_of(kind),
                field=name,
                size=most,
                pad=pad,
            )
            for (name, kind), pad in zip(fields.items(), item.pad, strict=True)
        ]
    return [
        replace(column, column=f"{column.column}_{n}" + (f"_{name}" if name else ""), dtype=kind, element=n, field=name)
        for n in range(1, most + 1)
        for name, kind in fields.items()
    ]


def _check_default(thing: str, column: str, dtype: str, value: Value | None) -> Value | None:
    if value is not None and element_of(dtype):
        hint = "a list of nothing is empty; leave the default out, or give one to the columns of `.spread()`."
        raise DefinitionError.wrong_type(thing, f"'{column}', which has a default,", dtype, "a single value", hint)
    if value is not None and is_object(dtype) and dtype != "string":
        hint = "write coalesce(...) in derive= or in the query."
        raise DefinitionError.expected(thing, f"default of '{column}'", value, f"none, for one of type {dtype}", hint)
    if value is not None and dtype and isinstance(value, str) != (dtype == "string"):
        raise DefinitionError.expected(thing, f"default of '{column}'", value, f"a value of type {dtype}")
    return value


def _reads(thing: str, entries: Iterable[ViewColumn]) -> tuple[GroupRead, ...]:
    reads: dict[tuple[str, FrozenMapping[str, str], str, FrozenMapping[str, str]], list[ViewColumn]] = {}
    groups: dict[str, StreamFeatureGroup | BatchFeatureGroup] = {}
    for entry in entries:
        if entry.group is None:
            continue
        name = entry.group.name
        if (first := groups.setdefault(name, entry.group)) is not entry.group and first != entry.group:
            raise DefinitionError.same_name(thing, "feature groups", name, "rename one of them.")
        own = f"{name}__{entry.feature}" + (f"_{entry.element}" if entry.element else "")
        own += f"_{entry.field}" if entry.field else ""
        prefix = entry.column.removesuffix(own).removesuffix("__")
        reads.setdefault((name, entry.keys, prefix, entry.fields), []).append(entry)
    found: list[GroupRead] = []
    for (name, keys, prefix, fields), columns in reads.items():
        named = _read_name(f"{prefix}__{name}" if prefix else name, keys, fields, {one.name for one in found})
        probes = _probes(groups[name], columns)
        found.append(
            GroupRead(groups[name], tuple(keys.items()), prefix, tuple(columns), named, probes, fields or None)
        )
    return tuple(found)


def _read_name(name: str, keys: FrozenMapping[str, str], fields: FrozenMapping[str, str], taken: set[str]) -> str:
    """The name of a read that no other one has."""
    by = f"{name} by {', '.join(keys.values())}"
    choices = [name, by, f"{by} with {', '.join(fields.values())}"]
    choices += [f"{choices[-1]}, {number}" for number in range(2, len(taken) + 3)]
    return next(choice for choice in choices if choice not in taken)


def _with_fields(thing: str, read: GroupRead, request: Mapping[str, str]) -> GroupRead:
    """A read with the field of each column, where the request counts as one more event."""
    if read.fields is None:
        return read
    from millstream.definitions.request_row import compiled, resolve_fields

    fields = resolve_fields(thing, read.group, dict(read.keys), read.fields, request)
    compiled(thing, read.group)
    return replace(read, fields=FrozenMapping(fields))


def _probes(group: StreamFeatureGroup | BatchFeatureGroup, columns: Iterable[ViewColumn]) -> tuple[str, ...]:
    """The fields of the request that some columns of a group read."""
    names = {column.feature for column in columns}
    return tuple(dict.fromkeys(field for one in group.columns if one.name in names for field, _ in fields_read(one)))


def _check_probes(thing: str, request: Schema, keys: Schema, reads: Iterable[GroupRead]) -> None:
    """Refuse a feature that reads a field which is neither of the view's request nor one of its keys, or of another type."""
    for read in reads:
        names = {column.feature for column in read.columns}
        for column in (one for one in read.group.columns if one.name in names):
            for name, kind in fields_read(column):
                what = f"request=\"{name}\" of group '{read.group.name}'"
                if name not in request and name not in keys:
                    raise _no_field(f"{thing}: {what}", request, keys, name, kind)
                _check_field(thing, what, request.get(name) or keys[name], name, kind)


def _no_field(what: str, request: Schema, keys: Schema, name: str, kind: str) -> DefinitionError:
    hint = f'a feature of a request is read through a view: ms.FeatureView(..., request={{"{name}": "{kind or "float64"}"}}).'
    said = f"{what} is no field of its request, which has {_listed(request)}, and none of its keys, {_listed(keys)}."
    return DefinitionError(said, hint)


def _check_field(thing: str, what: str, found: str, name: str, kind: str) -> None:
    """Refuse a field that is not of a type ("" for any number)."""
    if kind and found != kind:
        hint = f'write ms.FeatureView(..., request={{"{name}": "{kind}"}}): it is looked up among values of that type.'
        raise DefinitionError.wrong_type(thing, what, found, kind, hint)
    if not kind and found not in ("int64", "float64"):
        raise DefinitionError.wrong_type(thing, what, found, "a number")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


def _entity_keys(thing: str, request: Schema, reads: Iterable[GroupRead]) -> Schema:
    types: dict[str, str] = {}
    for read in reads:
        for join_key, request_key in read.keys:
            wanted = read.group.entity.keys[join_key]
            for known in (types.get(request_key, wanted), request.get(request_key, wanted)):
                if known != wanted:
                    what = f"request key '{request_key}' of '{read.group.name}'"
                    hint = 'read one of them under another key: .on(..., prefix="...").'
                    raise DefinitionError.wrong_type(thing, what, wanted, f"{known}, as elsewhere in the view", hint)
            types[request_key] = wanted
    return FrozenMapping(types)


def _on_demand_order(thing: str, entries: Sequence[ViewColumn]) -> tuple[OnDemandFeature, ...]:
    """The on-demand features, each after those it needs."""
    dtypes = {entry.column: entry.dtype for entry in entries}
    features = {entry.column: entry.on_demand for entry in entries if entry.on_demand is not None}
    order: dict[str, OnDemandFeature] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise DefinitionError.cycle(thing, [*path[path.index(name) :], name])
        for argument in features[name].arguments:
            if argument in features and argument not in order:
                visit(argument, (*path, name))
        order[name] = features[name]

    for name, feature in features.items():
        for argument in feature.arguments:
            if argument != "at" and argument not in dtypes:
                raise DefinitionError.unknown_column(thing, argument, [*dtypes, "at"], f"the arguments of '{name}'")
        if name not in order:
            visit(name, ())
    return tuple(order.values())


def _functions(features: Iterable[OnDemandFeature], dtypes: Mapping[str, str]) -> tuple[tuple[str, RowFunction], ...]:
    """The functions of which the arguments' types are known, compiled; those of unread tables wait for `plan`."""
    known = [feature for feature in features if all(dtypes.get(argument, "at") for argument in feature.arguments)]
    return tuple((feature.name, feature.bound(dtypes)) for feature in known)


def _with_default(column: np.ndarray, entry: ViewColumn) -> np.ndarray:
    import numpy as np

    from millstream.definitions.whole_numbers import WHOLE, as_column, put

    missing = is_null(column)
    default = as_column([entry.default], entry.dtype) if entry.dtype in WHOLE else None
    if default is not None and default.dtype == object != column.dtype:  # a whole number that float64 has not
        return put(column, np.flatnonzero(missing), default)
    return np.where(missing, np.array(entry.default, column.dtype), column)
