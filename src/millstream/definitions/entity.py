"""Entity: what features are about, and its join keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from millstream.calls import checked_class
from millstream.definitions.frozen import check_about, check_name, freeze
from millstream.definitions.schema import KEY_TYPES, Schema, check_schema
from millstream.errors import DefinitionError


@checked_class
@dataclass(frozen=True, init=False)
class Entity:
    """Something features are about: a user, a device, a pair of airports.

    Declare one per kind of thing, and reuse it in every feature group about it.

    Args:
        name: its name.
        keys: the type of each join key, "int64", "string", "bool", "date", "uuid", "bytes" or "decimal(p, s)";
            their order is part of the key.
        owner: who answers for it.
        description: what it is.
        tags: words to find it by.

    Raises:
        DefinitionError: for a bad name or another key type.

    >>> Entity("user", keys={"user_id": "int64"}).keys
    {'user_id': 'int64'}
    """

    name: str
    keys: Schema
    owner: str
    description: str
    tags: tuple[str, ...]

    def __init__(
        self, name: str, *, keys: Mapping[str, str], owner: str = "", description: str = "", tags: Iterable[str] = ()
    ) -> None:
        thing = f"Entity '{check_name('Entity', name)}'"
        checked = check_schema(thing, keys, "keys", KEY_TYPES)
        for key in checked:
            if key == "at":
                raise DefinitionError.bad_name(thing, key, "'at' is the moment of a read", f"{name}_at")
        freeze(self, name=name, keys=checked, **check_about(thing, owner, description, tags))
