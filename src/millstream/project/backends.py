"""What is behind each part of a project: by section of the settings and its `kind`, the class that opens it.

A new backend is one file, with a msgspec struct of its settings that can `open` it, one line here, and one extra of the
package that is named after its kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol

from msgspec import Struct

from millstream.clock import Clock
from millstream.errors import ProjectError, nearest
from millstream.settings import FILE, Settings, checked

BACKENDS: dict[str, dict[str, str]] = {
    "log": {"embedded": "millstream.buffer.embedded.backend:Embedded"},
    "online": {"lmdb": "millstream.store.lmdb.backend:Lmdb"},
    "offline": {"iceberg": "millstream.store.iceberg.backend:Iceberg"},
    "registry": {"sql": "millstream.registry.backend:Sql"},
    "batch": {"duckdb": "millstream.engines.duckdb.backend:Embedded"},
}
"""By section and kind, "module:class"; the first kind of a section is the default."""


class Backend(Protocol):
    """The settings of one kind of part, a msgspec struct that was made of a section of millstream.toml."""

    def open(self, settings: Settings, clock: Clock) -> Any:
        """Open the part, which has the methods of its protocol and `close`; asked when it is first used.

        Args:
            settings: The project.
            clock: The project's clock.

        Raises:
            MillstreamError: When it cannot be opened.
        """
        ...


def backend(settings: Settings, section: str) -> Backend:
    """The backend that a section of the settings chooses, with its settings checked.

    Args:
        settings: The project.
        section: "log", "online", "offline", "registry" or "batch".

    Raises:
        ProjectError: When the kind is not known, its library is not installed, or a setting is not one of its own.
    """
    given: Mapping[str, Any] = getattr(settings, section)
    file, kinds = settings.folder / FILE, BACKENDS[section]
    kind = given.get("kind", next(iter(kinds)))
    if kind not in kinds:
        close = nearest(kind, kinds) if isinstance(kind, str) else None
        raise ProjectError(
            f"Settings '{file}': '{section}.kind' is {kind!r}; it must be one of {', '.join(kinds)}.",
            f'did you mean "{close}"?' if close else f'leave it out to take the default, "{next(iter(kinds))}".',
        )
    struct = _loaded(section, kind)
    own = {name: value for name, value in given.items() if name != "kind"}
    made: Backend = struct(**checked(struct, own, file, f"{section}."))
    return made


def _loaded(section: str, kind: str) -> type[Any]:
    """The class of a backend; its library is loaded with it."""
    module, _, name = BACKENDS[section][kind].partition(":")
    try:
        found: type[Struct] = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "millstream":
            raise
        raise ProjectError(
            f"Settings: [{section}] kind = '{kind}' needs the package '{error.name}', which is not installed.",
            f"pip install 'millstream[{kind}]'",
        ) from error
    return found
