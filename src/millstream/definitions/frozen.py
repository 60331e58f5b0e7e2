"""The two means by which definitions are frozen: an immutable ordered mapping, and checks of names."""

from __future__ import annotations

import re
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from typing import Any, Generic, TypeVar

from millstream.calls import text
from millstream.errors import DefinitionError

K = TypeVar("K")
V = TypeVar("V", covariant=True)


class FrozenMapping(Mapping[K, V], Generic[K, V]):
    """An ordered mapping that cannot change and can be hashed.

    >>> FrozenMapping({"user_id": "int64"})
    {'user_id': 'int64'}
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[K, V] | Iterable[tuple[K, V]] = ()) -> None:
        self._values: dict[K, V] = dict(values)

    def __getitem__(self, key: K) -> V:
        return self._values[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __eq__(self, other: object) -> bool:
        return self._values == (other._values if isinstance(other, FrozenMapping) else other)

    def keys(self) -> KeysView[K]:
        """The keys, in order."""
        return self._values.keys()

    def values(self) -> ValuesView[V]:
        """The values, in order."""
        return self._values.values()

    def items(self) -> ItemsView[K, V]:
        """The keys with their values, in order."""
        return self._values.items()

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        return repr(self._values)


#: The mapping of nothing.
EMPTY: FrozenMapping[str, str] = FrozenMapping()


def freeze(definition: object, **values: Any) -> None:
    """Set fields of a frozen dataclass from within its own constructor."""
    for name, value in values.items():
        object.__setattr__(definition, name, value)


_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*")
_RULE = "a name is letters, digits and single underscores, begins with a letter and has at most 64 characters"


def check_name(thing: str, name: object) -> str:
    """Return `name` when it can be part of a column, topic and table name, or raise `DefinitionError`.

    Two underscores together are kept for the columns of views, `group__feature`.
    """
    if isinstance(name, str) and len(name) <= 64 and _NAME.fullmatch(name):
        return name
    words = re.findall(r"[A-Za-z0-9]+", name) if isinstance(name, str) else []
    suggestion = "_".join(words)[:64].lstrip("0123456789_").rstrip("_")
    raise DefinitionError.bad_name(thing, name, _RULE, suggestion or None)


def check_about(thing: str, owner: object, description: object, tags: Iterable[str]) -> dict[str, Any]:
    """Return what is said about a definition, each by the name of its argument.

    Args:
        thing: the definition, for errors.
        owner: who answers for it, a text or None.
        description: what it is, a text or None.
        tags: words to find it by.

    Raises:
        DefinitionError: for what is of another type.
    """
    about = {"owner": owner, "description": description}
    return {name: text(thing, name, value) for name, value in about.items()} | {"tags": check_tags(thing, tags)}


def check_tags(thing: str, tags: Iterable[str]) -> tuple[str, ...]:
    """Return `tags` as a tuple of strings, or raise `DefinitionError`."""
    found = tuple(tags) if isinstance(tags, Iterable) else ()
    if not isinstance(tags, Iterable) or isinstance(tags, str) or not all(isinstance(tag, str) for tag in found):
        raise DefinitionError.expected(thing, "tags", tags, "a list of strings", 'write tags=["risk"].')
    return found
