"""What is behind each part of a project: by section of the settings and its `kind`, the class that opens it.

So for the foreign sources that streams are bound to. A new backend is one file, with a msgspec struct of its settings that
can `open` it, one line here, and one extra of the package that is named after its kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from msgspec import Struct

from millstream.clock import Clock
from millstream.errors import ProjectError, nearest
from millstream.settings import FILE, Settings, checked
from millstream.sources.source import Source

if TYPE_CHECKING:
    from millstream.store.s3 import ObjectFolder

BACKENDS: dict[str, dict[str, str]] = {
    "log": {
        "embedded": "millstream.buffer.embedded.backend:Embedded",
        "kafka": "millstream.buffer.kafka.backend:Kafka",
    },
    "online": {
        "lmdb": "millstream.store.lmdb.backend:Lmdb",
        "redis": "millstream.store.redis.backend:Redis",
        "postgresql": "millstream.store.postgresql.backend:Postgresql",
    },
    "offline": {"iceberg": "millstream.store.iceberg.backend:Iceberg"},
    "registry": {"sql": "millstream.registry.backend:Sql"},
    "batch": {"duckdb": "millstream.engines.duckdb.backend:Embedded"},
}
"""By section and kind, "module:class"; the first kind of a section is the default."""
SOURCES = {
    "files": "millstream.sources.files:Files",
    "kafka": "millstream.sources.kafka.backend:Kafka",
    "kinesis": "millstream.sources.kinesis.backend:Kinesis",
    "project": "millstream.sources.another_project:AnotherProject",
}
"""By kind, "module:class" of what a stream may be bound to; there is no default."""


class Backend(Protocol):
    """The settings of one kind of part, a msgspec struct that was made of a section of millstream.toml."""

    def open(self, settings: Settings, clock: Clock) -> Any:
        """Open the part, which has the methods of its protocol and `close`; asked when it is first used.

        Args:
            settings: the project.
            clock: the project's clock.

        Raises:
            MillstreamError: when it cannot be opened.
        """
        ...


@runtime_checkable
class Artefacts(Protocol):
    """The settings of an offline store beside which the artefacts of model versions lie."""

    def artefacts(self, settings: Settings) -> Path | ObjectFolder:
        """Where they lie.

        Args:
            settings: the project.

        Raises:
            MillstreamError: when what lets us in there cannot be read.
        """
        ...


def artefacts_of(settings: Settings) -> Path | ObjectFolder:
    """Where the artefacts of a project's model versions lie: beside the offline store, or in the data folder.

    Args:
        settings: the project.
    """
    offline = backend(settings, "offline")
    return offline.artefacts(settings) if isinstance(offline, Artefacts) else settings.data / "models"


def backend(settings: Settings, section: str) -> Backend:
    """The backend that a section of the settings chooses, with its settings checked.

    Args:
        settings: the project.
        section: "log", "online", "offline", "registry" or "batch".

    Raises:
        ProjectError: when the kind is not known, its library is not installed, or a setting is not one of its own.
    """
    given: Mapping[str, Any] = getattr(settings, section)
    kinds = BACKENDS[section]
    made: Backend = _chosen(settings, section, {"kind": next(iter(kinds)), **given}, kinds)
    return made


class SourceBackend(Protocol):
    """The settings of one kind of foreign source, a msgspec struct that was made of a section [streams.NAME]."""

    def open(self, settings: Settings, clock: Clock, stream: str) -> Source:
        """Open the source of a stream.

        Args:
            settings: the project.
            clock: the project's clock.
            stream: the stream's name.

        Raises:
            MillstreamError: when it cannot be opened.
        """
        ...


def source_backend(settings: Settings, stream: str) -> SourceBackend:
    """What a stream is bound to, with its settings checked.

    Args:
        settings: the project.
        stream: a stream of which the settings say where its events come from.

    Raises:
        ProjectError: when the kind is not said or not known, its library is not installed, or a setting is not its own.
    """
    made: SourceBackend = _chosen(settings, f"streams.{stream}", settings.streams[stream], SOURCES)
    return made


def _chosen(settings: Settings, section: str, given: Mapping[str, Any], kinds: Mapping[str, str]) -> Any:
    """The backend that a section chooses by its `kind`, made of what else the section says."""
    file, kind = settings.folder / FILE, given.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        close = nearest(kind, kinds) if isinstance(kind, str) else None
        found = f"is {kind!r}; it" if "kind" in given else "is missing; it"
        default = f'leave it out to take the default, "{next(iter(kinds))}".' if section in BACKENDS else "write it."
        raise ProjectError(
            f"Settings '{file}': '{section}.kind' {found} must be one of {', '.join(kinds)}.",
            f'did you mean "{close}"?' if close else default,
        )
    struct = _loaded(section, kind, kinds[kind])
    own = {name: value for name, value in given.items() if name != "kind"}
    return struct(**checked(struct, own, file, f"{section}."))


def _loaded(section: str, kind: str, place: str) -> type[Any]:
    """The class of a backend; its library is loaded with it."""
    module, _, name = place.partition(":")
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
