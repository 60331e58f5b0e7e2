"""Reading features from a view: one feature of a group, under another key, with a default."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from millstream.definitions.frozen import EMPTY, FrozenMapping, check_name
from millstream.errors import DefinitionError

if TYPE_CHECKING:
    from millstream.definitions.entity import Entity
    from millstream.definitions.feature_group import BatchFeatureGroup, StreamFeatureGroup

Value = str | float | int | bool


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

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.feature_names)


@dataclass(frozen=True)
class FeatureRef:
    """One feature of a group, or all of them, as a view reads it; made by `group["feature"]` or `group.on(...)`.

    `keys` maps join keys to the request keys they are taken from, where these differ.
    """

    group: StreamFeatureGroup | BatchFeatureGroup
    feature: str | None
    keys: FrozenMapping[str, str] = EMPTY
    prefix: str = ""
    default_value: Value | None = None

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
        return replace(self, keys=FrozenMapping(keys), prefix=prefix)

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
