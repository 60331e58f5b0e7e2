"""The settings of a project: what `millstream.toml` says, checked, with a default for everything else."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from os.path import normpath
from pathlib import Path
from typing import Any

from millstream.definitions.durations import micros
from millstream.errors import MillstreamError, ProjectError, nearest

FILE = "millstream.toml"
_OWNER = "project"  # the file in a data folder outside its project that names the project's folder


@dataclass(frozen=True, kw_only=True)
class Generator:
    """Whether `millstream up` feeds the project with made events, and how: `rate` events a second from a `seed`."""

    enabled: bool = False
    rate: float = 50.0
    seed: int = 7


@dataclass(frozen=True, kw_only=True)
class TablePlace:
    """Where a table is: Parquet files, a folder of them, or `bank.duckdb#accounts`, relative to the project's folder."""

    path: str


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a project runs with; built by `Settings.load`, or by hand in tests.

    Args:
        folder: the project's folder.
        name: the project's name; the folder's unless set.
        data: where everything the project keeps lies; `.millstream` in the folder unless set. Data outside the folder
            belong to one project: a copy of the folder that names the same data is refused.
        definitions: the Python file that declares the features.
        partitions: partitions of a stream that does not say.
        shards: shards of a feature group in the online store, and partitions of its feature topic.
        micro_batch: most events computed in one transaction.
        poll_ms: milliseconds a layer waits when it found nothing to do.
        fsync: whether a commit survives the loss of power; without, it survives the death of any process, not that of
            the machine, and costs no wait for the disk.
        log_gib: most the log may grow to, in GiB; the space is taken as it is used.
        sync_every: microseconds between two syncs of the stores.
        files_kept: microseconds that files of the offline store stay which no table names any more, for those who have
            begun to read them.
        frozen_after: microseconds that a layer may give no sign of life before `millstream up` ends it and starts it again.
        host: the address the service listens on; loopback unless set.
        port: the port the service listens on.
        hosts: names by which callers reach the service, beside addresses, localhost and names without a dot; "*" is any.
        capture_sample: share of the scored requests that are captured, from 0 to 1.
        registry_url: the registry's database, as an SQLAlchemy URL; a SQLite file in `data` unless set. The path of a
            SQLite file is relative to the folder.
        generator: made events, for trying a project out.
        tables: by name, where a table is; where its definition says unless set.

    Example:
        >>> import tempfile, pathlib
        >>> from millstream.settings import Settings
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "millstream.toml").write_text('name = "fraud"')
        >>> settings = Settings.load(folder)
        >>> settings.name, settings.partitions, settings.sync_every
        ('fraud', 4, 600000000)
    """

    folder: Path
    name: str = ""
    data: Path = Path(".millstream")
    definitions: str = "features.py"
    partitions: int = 4
    shards: int = 4
    micro_batch: int = 50_000
    poll_ms: int = 20
    fsync: bool = True
    log_gib: float = 64.0
    sync_every: int = 600_000_000
    files_kept: int = 600_000_000
    frozen_after: int = 30_000_000
    host: str = "127.0.0.1"
    port: int = 8787
    hosts: tuple[str, ...] = ()
    capture_sample: float = 1.0
    registry_url: str = field(default="", repr=False)  # it may hold a password
    generator: Generator = field(default_factory=Generator)
    tables: Mapping[str, TablePlace] = field(default_factory=dict)

    def __post_init__(self) -> None:
        folder = Path(self.folder).resolve()
        data = Path(normpath(folder / self.data))
        object.__setattr__(self, "folder", folder)
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "name", self.name or folder.name)
        object.__setattr__(self, "registry_url", _within(folder, self.registry_url or sqlite_url(data / "registry.db")))

    @classmethod
    def load(cls, folder: str | Path) -> Settings:
        """Read the settings of the project in a folder.

        Raises:
            ProjectError: when the folder has no `millstream.toml`, the file holds something that is not a setting, or its
                data are those of another project.
        """
        settings = cls(folder=Path(folder), **cls._written(folder))
        owner = settings._owner()
        if owner is not None and owner != settings.folder and cls._data_of(owner) == settings.data:
            raise ProjectError(
                f"Project '{settings.folder}': its data folder '{settings.data}' belongs to the project '{owner}'.",
                f"set `data` in '{settings.folder / FILE}' to a folder of its own, and copy the data there.",
            )
        return settings

    @property
    def table_paths(self) -> dict[str, str]:
        """By name, where the tables are of which the settings say it."""
        return {name: place.path for name, place in self.tables.items()}

    def own(self) -> None:
        """Note in a data folder outside the project's own that it belongs to this project, wherever that has moved."""
        if not self._outside or self._owner() == self.folder:
            return
        fresh = self.data / f"{_OWNER}.new"
        try:
            self.data.mkdir(parents=True, exist_ok=True)
            fresh.write_text(str(self.folder), encoding="utf-8")
            fresh.replace(self.data / _OWNER)
        except OSError as error:
            raise ProjectError(
                f"Project '{self.folder}': its data folder '{self.data}' cannot be written to: {error.strerror}.",
                "give it room and the right to write there, or set `data` to another folder.",
            ) from error

    @property
    def _outside(self) -> bool:
        """Whether the data lie outside the project's folder, where another project may name them too."""
        return not self.data.is_relative_to(self.folder)

    def _owner(self) -> Path | None:
        """The project that a data folder outside this one was last used by."""
        if not self._outside:
            return None
        try:
            return Path((self.data / _OWNER).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    @classmethod
    def _data_of(cls, folder: Path) -> Path | None:
        """The data folder of a project, None where there is no project any more."""
        try:
            return cls(folder=folder, **cls._written(folder)).data
        except ProjectError:
            return None

    @staticmethod
    def _written(folder: str | Path) -> dict[str, Any]:
        path = Path(folder) / FILE
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ProjectError(
                f"Folder '{Path(folder).resolve()}' is not a Millstream project: it has no {FILE}.",
                "run `millstream init NAME` to make one, or go to the project's folder.",
            ) from error
        except (OSError, ValueError) as error:
            raise ProjectError(f"Settings '{path}' cannot be read: {error}.", "the file is TOML, in UTF-8.") from error
        return _known(document, _ROOT, path, "")


def sqlite_url(path: Path) -> str:
    """The SQLAlchemy URL of a SQLite file, whatever characters its path has.

    >>> sqlite_url(Path("/what?/100%/registry.db"))
    'sqlite:////what%3F/100%25/registry.db'
    """
    return f"sqlite:///{quoted(path)}"


def quoted(path: Path) -> str:
    """A path as part of a URL that names a file: what would end it, or stand for another character, is written out."""
    return str(path).replace("%", "%25").replace("?", "%3F").replace("#", "%23")


def _within(folder: Path, url: str) -> str:
    """The URL of a database with the path of a SQLite file made absolute."""
    found = re.fullmatch(r"(sqlite(?:\+\w+)?:///)([^/:?].*)", url, re.DOTALL)
    return url if found is None else f"{found[1]}{quoted(folder)}/{found[2]}"


def _number(low: float, high: float) -> Callable[[Any], Any]:
    """A check that a value is a number within bounds."""

    def check(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"a number from {low:g} to {high:g}")
        return value

    return check


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _whole(low: int, high: int) -> Callable[[Any], int]:
    """A check that a value is a whole number within bounds."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return check


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("text, not empty and without NUL")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise ValueError('a list of text, such as ["scores.example.com"]')
    return tuple(value)


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _duration(value: Any) -> int:
    try:
        return micros(_text(value))
    except (MillstreamError, ValueError) as error:
        raise ValueError('a duration such as "10m"') from error


def _frozen_after(value: Any) -> int:
    given = _duration(value)
    if given < 2_000_000:
        raise ValueError('a duration of 2 s or more, such as "30s"')
    return given


def _section(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError("a table")
    return value


def _sections(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(one, Mapping) for one in value.values()):
        raise ValueError('tables such as [tables.accounts], with path = "accounts.parquet"')
    return value


_GENERATOR: dict[str, Callable[[Any], Any]] = {
    "enabled": _switch,
    "rate": _number(0.001, 1_000_000),
    "seed": _whole(0, 2**63 - 1),
}
_ROOT: dict[str, Callable[[Any], Any]] = {
    "name": _text,
    "data": lambda value: Path(_text(value)),
    "definitions": _text,
    "partitions": _whole(1, 4096),
    "shards": _whole(1, 4096),
    "micro_batch": _whole(1, 10_000_000),
    "poll_ms": _whole(1, 60_000),
    "fsync": _flag,
    "log_gib": _number(0.001, 65_536),
    "sync_every": _duration,
    "files_kept": _duration,
    "frozen_after": _frozen_after,
    "host": _text,
    "port": _whole(0, 65_535),
    "hosts": _texts,
    "capture_sample": _number(0, 1),
    "registry_url": _text,
    "generator": _section,
    "tables": _sections,
}
_TABLE: dict[str, Callable[[Any], Any]] = {"path": _text}


def _known(
    document: Mapping[str, Any], checks: Mapping[str, Callable[[Any], Any]], path: Path, within: str
) -> dict[str, Any]:
    """Check every value of a table; refuse what is not a setting."""
    settings: dict[str, Any] = {}
    for key, value in document.items():
        if key not in checks:
            close = nearest(key, list(checks))
            raise ProjectError(
                f"Settings '{path}': '{within}{key}' is not a setting.",
                f"did you mean '{within}{close}'?" if close else f"the settings are {', '.join(sorted(checks))}.",
            )
        try:
            settings[key] = checks[key](value)
        except ValueError as error:
            raise ProjectError(
                f"Settings '{path}': '{within}{key}' is {_shown(key, value)}; it must be {error}.",
                _default_hint(key, within),
            ) from error
    if "generator" in settings:
        settings["generator"] = Generator(**_known(settings["generator"], _GENERATOR, path, "generator."))
    if "tables" in settings:
        settings["tables"] = {name: _place(name, given, path) for name, given in settings["tables"].items()}
    return settings


def _place(name: str, given: Mapping[str, Any], path: Path) -> TablePlace:
    checked = _known(given, _TABLE, path, f"tables.{name}.")
    if "path" not in checked:
        raise ProjectError(
            f"Settings '{path}': 'tables.{name}' does not say where the table is.",
            f'write path = "{name}.parquet" below [tables.{name}].',
        )
    return TablePlace(**checked)


def _shown(key: str, value: Any) -> str:
    return "not shown" if key == "registry_url" else repr(value)  # whatever it is, it may hold a password


def _default_hint(key: str, within: str) -> str:
    """Say what a setting is when it is left out."""
    owner: list[Field[Any]] = list(fields(Generator if within else Settings))
    default = next((item.default for item in owner if item.name == key), MISSING)
    if default is MISSING or default == "" or key in ("sync_every", "frozen_after"):
        return "leave it out to take the default."
    return f"leave it out to take the default, {default}."
