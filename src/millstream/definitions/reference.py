"""Reading features from a view: one feature of a group, under another key, with a default."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from millstream.calls import checked_definition
from millstream.definitions.frozen import EMPTY, FrozenMapping, check_name, freeze
from millstream.definitions.padding import Pad, Value, pads
from millstream.definitions.schema import element_of, fields_of, is_map
from millstream.errors import DefinitionError

if TYPE_CHECKING:
    from millstream.definitions.entity import Entity
    from millstream.definitions.feature_group import BatchFeatureGroup, StreamFeatureGroup


@checked_definition
class Readable(ABC):
    """What a view can read: `group["feature"]` one feature, `group.on(...)` all of them under another key."""

    name: str
    entity: Entity

    @property
    @abstractmethod
    def feature_names(self) -> tuple[str, ...]:
        """The names of the group's features, in order; empty while a query's columns are not known yet."""

    def __getitem__(self, feature: str) -> FeatureRef:
        thing = f"{type(self).__name__} '{self.name}'"
        if not isinstance(feature, str):
            raise DefinitionError.expected(thing, "feature", feature, "the name of a feature")
        if self.feature_names and feature not in self.feature_names:
            raise DefinitionError.unknown_choice(thing, "feature", feature, self.feature_names)
        return FeatureRef(self, feature)  # type: ignore[arg-type]

    def on(self, *, prefix: str = "", **keys: str) -> FeatureRef:
        """Read the whole group under other request keys; see `FeatureRef.on`."""
        return FeatureRef(self, None).on(prefix=prefix, **keys)  # type: ignore[arg-type]

    def with_request(self, *, prefix: str = "", **fields: str) -> FeatureRef:
        """Read the whole group as if the request were one more event; see `FeatureRef.with_request`."""
        return FeatureRef(self, None).with_request(prefix=prefix, **fields)  # type: ignore[arg-type]

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.feature_names)


@checked_definition
@dataclass(frozen=True)
class FeatureRef:
    """One feature of a group, or all of them, as a view reads it; made by `group["feature"]` or `group.on(...)`.

    `keys` maps join keys to the request keys they are taken from, where these differ. `fields` maps columns of the group's
    source to the request fields that give them, where the request counts as one more event; empty where it does not.
    `form` is "columns" where each element of a list is a column of its own, and "array" where the list is filled up to its
    greatest length with `pad`, which has a value for each field of its elements.
    """

    group: StreamFeatureGroup | BatchFeatureGroup
    feature: str | None
    keys: FrozenMapping[str, str] = EMPTY
    prefix: str = ""
    default_value: Value | None = None
    fields: FrozenMapping[str, str] = EMPTY
    form: str = ""
    pad: tuple[Value, ...] = ()

    def __post_init__(self) -> None:
        freeze(self, pad=tuple(self.pad))

    def spread(self) -> FeatureRef:
        """Read each element of a list or a map as a column of its own, null where it has no such element.

        A model reads numbers and strings, so this is how it reads a list. The columns are named after the feature, `_1`
        being the first element, and are as many as the list holds at most. An element of several fields is as many columns,
        `_1_amount` and so on; so is an entry of a map, `_1_key` and `_1_value` being those of its most frequent category.

        Raises:
            DefinitionError: the feature is no list and no map.

        >>> from millstream import Entity, EventStream, FeatureView, LastK, StreamFeatureGroup
        >>> paid = EventStream("paid", time="at", schema={"user_id": "int64", "amount": "float64", "at": "timestamp"})
        >>> spend = StreamFeatureGroup("spend", entity=Entity("user", keys={"user_id": "int64"}), source=paid,
        ...     features=[LastK("amount", k=2)])
        >>> FeatureView("v", features=[spend["amount_last_2"].spread()]).columns
        ('spend__amount_last_2_1', 'spend__amount_last_2_2')
        """
        self._element("spread")
        return replace(self, form="columns", pad=())

    def to_array(self, *, pad: Pad) -> FeatureRef:
        """Read a list filled up to the most elements that it may hold, for a model of sequences.

        All rows are of one length, so that those of a training set stack to a matrix. What a list lacks stands at its end;
        what is null, as beyond `categories`, stays null. The column keeps the feature's name. Elements of several fields
        give a column for each field, `_amount` and so on, in which a null is filled too. LightGBM reads no arrays: the
        column is in online reads, training sets, captures and `verify`, and an argument of on-demand features.

        Args:
            pad: what stands where the list has no element, of its type (an instant as `datetime`, in UTC without a zone);
                of several fields a mapping with a value for each.

        Raises:
            DefinitionError: the feature is no list, or `pad` is not of its elements' type.

        >>> from millstream import Entity, EventStream, FeatureView, LastK, StreamFeatureGroup, compute
        >>> paid = EventStream("paid", time="at", schema={"user_id": "int64", "amount": "float64", "at": "timestamp"})
        >>> spend = StreamFeatureGroup("spend", entity=Entity("user", keys={"user_id": "int64"}), source=paid,
        ...     features=[LastK("amount", k=3)])
        >>> view = FeatureView("v", features=[spend["amount_last_3"].to_array(pad=0.0)])
        >>> rows = [{"user_id": 1, "amount": 5.0, "at": "2026-01-01T12:00:00Z"}]
        >>> compute(view, {paid: rows}, [{"user_id": 1, "at": "2026-01-01T13:00:00Z"}])["spend__amount_last_3"].to_pylist()
        [[5.0, 0.0, 0.0]]
        """
        kind = self._element("to_array", "pad=...")
        thing = f"to_array() of '{self.label}'"
        if is_map(self.group.schema_of_features[self.feature or ""]):
            raise DefinitionError.wrong_type(thing, f"'{self.feature}'", "a map", "a list", "read it by .spread().")
        return replace(self, form="array", pad=pads(thing, fields_of(kind) or {"": kind}, pad))

    def _element(self, method: str, arguments: str = "") -> str:
        """The type of the list's elements, for a method that reads these."""
        thing = f"{method}() of '{self.label}'"
        if self.feature is None:
            lists = [name for name, kind in self.group.schema_of_features.items() if element_of(kind)]
            shown = lists[0] if lists else "..."
            hint = f'write {self.group.name}["{shown}"].{method}({arguments}).'
            raise DefinitionError.expected(thing, "feature", None, "one feature, not a whole group", hint)
        kind = self.group.schema_of_features.get(self.feature, "")
        element = element_of(kind)
        if element is None:
            raise DefinitionError.wrong_type(thing, f"'{self.feature}'", kind, "a list or a map", "list it as it is.")
        return element

    def default(self, value: Value) -> FeatureRef:
        """Read `value` where the feature is null, in training and serving alike.

        >>> from millstream import BatchFeatureGroup, Entity, Table
        >>> kyc = BatchFeatureGroup("kyc", entity=Entity("user", keys={"user_id": "int64"}), every="24h",
        ...     sources=[Table("accounts", path="a.parquet")], query="select user_id, tier from accounts")
        >>> kyc["tier"].default("none").default_value
        'none'
        """
        thing = f"default of '{self.label}'"
        if self.feature is None:
            hint = f'write {self.group.name}["..."].default({value!r}).'
            raise DefinitionError.expected(thing, "feature", None, "one feature, not a whole group", hint)
        if isinstance(value, Integral | Real) and not isinstance(value, bool | int | float):
            value = value.item() if hasattr(value, "item") else float(value)  # NumPy's numbers are numbers
        if not isinstance(value, Value) or (isinstance(value, float) and not isfinite(value)):
            raise DefinitionError.expected(thing, "value", value, "a string, a number or a boolean")
        return replace(self, default_value=value)

    def on(self, *, prefix: str = "", **keys: str) -> FeatureRef:
        """Read under other request keys: `.on(user_id="payee_id", prefix="payee")` gives `payee__kyc__tier`.

        Each keyword is a join key of the group's entity and its value the request key to take it from. Raises
        `DefinitionError` for a join key that the entity does not have.
        """
        thing = f"on() of '{self.label}'"
        for join_key, request_key in keys.items():
            if join_key not in self.group.entity.keys:
                raise DefinitionError.unknown_choice(thing, "join key", join_key, self.group.entity.keys)
            if not isinstance(request_key, str) or not request_key.isidentifier():
                raise DefinitionError.expected(thing, join_key, request_key, "the name of a request key")
        if prefix != "":
            check_name(thing, prefix)
        return replace(self, keys=FrozenMapping(keys), prefix=prefix or (self.prefix if self.fields else ""))

    def with_request(self, *, prefix: str = "", **fields: str) -> FeatureRef:
        """Read as if the request were one more event at the moment of the read.

        A payment that is scored counts itself so before it is published, and one that is published already does not count
        twice: other events of that very moment stay out. Each keyword is a column of the group's source, and its value the
        field of the view's request that gives it. A field of a column's own name may be left out; a column that no field
        gives is null. The request goes through the group's filters and expressions; what they drop is not added, and
        windows with a delay do not hold it.

        Args:
            prefix: what the columns' names begin with, so that a view can read a group both ways.
            fields: the request field of each column.

        Raises:
            DefinitionError: the group is none of a stream, or has no such column. Whether the view has the fields, and
                whether all expressions of the group have a compiled form, is checked when the view is built.

        >>> from millstream import Entity, EventStream, FeatureView, StreamFeatureGroup, Sum
        >>> paid = EventStream("paid", time="at", schema={"user_id": "int64", "amount": "float64", "at": "timestamp"})
        >>> spend = StreamFeatureGroup("spend", entity=Entity("user", keys={"user_id": "int64"}), source=paid,
        ...     features=[Sum("amount", over="1h")])
        >>> FeatureView("v", request={"amount": "float64"}, features=[spend.with_request(prefix="now")]).columns
        ('amount', 'now__spend__amount_sum_1h')
        """
        from millstream.definitions.request_row import check_fields

        thing = f"with_request() of '{self.label}'"
        known = check_fields(thing, self.group, fields)
        if prefix != "":
            check_name(thing, prefix)
        return replace(self, fields=FrozenMapping(known), prefix=prefix or self.prefix)

    @property
    def label(self) -> str:
        """How a message names it: `group` or `group__feature`."""
        return self.group.name if self.feature is None else f"{self.group.name}__{self.feature}"

    def request_keys(self) -> Mapping[str, str]:
        """Each join key of the entity with the request key it is taken from."""
        return FrozenMapping({key: self.keys.get(key, key) for key in self.group.entity.keys})


def as_reference(item: Any) -> FeatureRef | None:
    """Return a group or a reference as a reference, or None for anything else."""
    if isinstance(item, Readable):
        return FeatureRef(item, None)  # type: ignore[arg-type]
    return item if isinstance(item, FeatureRef) else None
