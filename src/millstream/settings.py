"""The settings of a project: what `millstream.toml` says, checked, with a default for everything else."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from os.path import normpath
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import msgspec
from msgspec import NODEFAULT, Meta, Struct
from msgspec.structs import FieldInfo, fields, force_setattr

from millstream.definitions.durations import micros, text
from millstream.errors import MillstreamError, ProjectError, nearest

FILE = "millstream.toml"
_OWNER = "project"  # the file in a data folder outside its project that names the project's folder
_SECRET = {"catalog", "registry_url"}

Text = Annotated[str, Meta(pattern=r"^[^\x00]+$", description="text, not empty and without NUL")]
Place = Annotated[Path, Meta(description="text, not empty and without NUL")]
Switch = Annotated[bool, Meta(description="true or false")]
Names = Annotated[tuple[Text, ...], Meta(description='a list of text, such as ["scores.example.com"]')]
Parts = Annotated[int, Meta(ge=1, le=4096, description="a whole number from 1 to 4096")]
Span = Annotated[int, Meta(ge=0, description='a duration such as "10m"', extra={"duration": True})]
Section = Annotated[dict[str, Any], Meta(description="a table")]


class Generator(Struct, frozen=True, kw_only=True):
    """Whether `millstream up` feeds the project with made events, and how: `rate` events a second from a `seed`."""

    enabled: Switch = False
    rate: Annotated[float, Meta(ge=0.001, le=1_000_000, description="a number from 0.001 to 1e+06")] = 50.0
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1, description=f"a whole number from 0 to {2**63 - 1}")] = 7


class TablePlace(Struct, frozen=True, kw_only=True):
    """Where a table is: Parquet files, a folder of them, or `bank.duckdb#accounts`, relative to the project's folder."""

    path: Text


class Settings(Struct, frozen=True, kw_only=True):
    """What a project runs with; built by `Settings.load`, or by hand in tests.

    Args:
        folder: the project's folder.
        name: the project's name; the folder's unless set.
        data: where everything the project keeps lies; `.millstream` in the folder unless set. Data outside the folder
            belong to one project: a copy of the folder that names the same data is refused.
        definitions: the Python file that declares the features.
        partitions: partitions of a new stream that does not say.
        shards: shards of a feature group in the online store, and partitions of its feature topic.
        micro_batch: most events computed in one transaction.
        poll_ms: milliseconds a layer waits when it found nothing to do; one that has read all there is in the embedded
            log is awake within a quarter of that when something comes.
        fsync: whether a commit survives the loss of power; without, it survives the death of any process, not that of
            the machine, and costs no wait for the disk.
        log_gib: most the log may grow to, in GiB; the space is taken as it is used.
        largest_record: most bytes of one record of the log; what is larger is kept in parts, one event is refused.
        sync_every: microseconds between two syncs of the stores.
        forget_after: microseconds that a key whose windows are all empty stays in the online store; instants that are
            longer ago than that may be asked for in vain.
        files_kept: microseconds that files of the offline store stay which no table names any more, for those who have
            begun to read them.
        frozen_after: microseconds that a layer may give no sign of life before `millstream up` ends it and starts it again.
        host: the address the service listens on; loopback unless set.
        port: the port the service listens on.
        hosts: names by which callers reach the service, beside addresses, localhost and names without a dot; "*" is any.
        online_read_ms: milliseconds that a read of an online store that is elsewhere may take while features are served;
            then its groups are answered as those that cannot be read. The embedded store takes microseconds.
        capture_sample: share of the scored requests that are captured, from 0 to 1.
        registry_url: the registry's database, as an SQLAlchemy URL; a SQLite file in `data` unless set. The path of a
            SQLite file is relative to the folder.
        generator: made events, for trying a project out.
        log: `kind` of the log, and the settings of that kind; the embedded one unless set. So for `online`, `offline`,
            `registry` and `batch`; what they may say is checked when the project is opened.
        online: the online store; LMDB in this process unless set.
        offline: the offline store; Iceberg tables in `data` unless set.
        registry: the registry; SQL unless set.
        batch: the engine that runs the queries of batch groups; DuckDB unless set.
        tables: by name, where a table is; where its definition says unless set.
        streams: by name, the foreign source of a stream: its `kind`, and the settings of that kind. What is sent to any
            other stream comes by `send` and over HTTP.

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
    name: Text = ""
    data: Place = Path(".millstream")
    definitions: Text = "features.py"
    partitions: Parts = 4
    shards: Parts = 4
    micro_batch: Annotated[int, Meta(ge=1, le=10_000_000, description="a whole number from 1 to 10000000")] = 50_000
    poll_ms: Annotated[int, Meta(ge=1, le=60_000, description="a whole number from 1 to 60000")] = 20
    fsync: Switch = True
    log_gib: Annotated[float, Meta(ge=0.001, le=65_536, description="a number from 0.001 to 65536")] = 64.0
    largest_record: Annotated[
        int, Meta(ge=10_000, le=1_000_000_000, description="a whole number of bytes from 10000 to 1000000000")
    ] = 1_000_000
    sync_every: Span = 600_000_000
    forget_after: Annotated[
        int, Meta(ge=3_600_000_000, description='a duration of 1 h or more, such as "1d"', extra={"duration": True})
    ] = 86_400_000_000
    files_kept: Span = 600_000_000
    frozen_after: Annotated[
        int, Meta(ge=2_000_000, description='a duration of 2 s or more, such as "30s"', extra={"duration": True})
    ] = 30_000_000
    host: Text = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535, description="a whole number from 0 to 65535")] = 8787
    hosts: Names = ()
    online_read_ms: Annotated[int, Meta(ge=1, le=600_000, description="a whole number from 1 to 600000")] = 1_000
    capture_sample: Annotated[float, Meta(ge=0, le=1, description="a number from 0 to 1")] = 1.0
    registry_url: Text = ""
    generator: Annotated[Generator, Meta(description="a table")] = Generator()
    tables: Annotated[
        dict[str, TablePlace],
        Meta(description='tables such as [tables.accounts], with path = "accounts.parquet"'),
    ] = {}
    streams: Annotated[
        dict[str, dict[str, Any]],
        Meta(description='tables such as [streams.payments], with kind = "files" and path = "incoming/*.jsonl"'),
    ] = {}
    log: Section = {}
    online: Section = {}
    offline: Section = {}
    registry: Section = {}
    batch: Section = {}

    def __post_init__(self) -> None:
        folder = Path(self.folder).resolve()
        data = Path(normpath(folder / self.data))
        force_setattr(self, "folder", folder)
        force_setattr(self, "data", data)
        force_setattr(self, "name", self.name or folder.name)
        force_setattr(self, "registry_url", _within(folder, self.registry_url or sqlite_url(data / "registry.db")))

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

    @classmethod
    def of(cls, folder: str | Path, file: Path) -> Settings:
        """Read the settings that a project in a folder would have by another file; its paths start from the folder.

        Raises:
            ProjectError: when the file cannot be read, or holds something that is not a setting.
        """
        return cls(folder=Path(folder), **cls._said(file))

    def __repr__(self) -> str:
        return f"Settings(folder={str(self.folder)!r}, name={self.name!r})"  # the others may hold passwords

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
        if not path.exists():
            raise ProjectError(
                f"Folder '{Path(folder).resolve()}' is not a Millstream project: it has no {FILE}.",
                "run `millstream init NAME` to make one, or go to the project's folder.",
            )
        return Settings._said(path)

    @staticmethod
    def _said(path: Path) -> dict[str, Any]:
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ProjectError(f"Settings '{path}': there is no such file.", "give the path of a TOML file.") from error
        except (OSError, ValueError) as error:
            raise ProjectError(f"Settings '{path}' cannot be read: {error}.", "the file is TOML, in UTF-8.") from error
        return checked(Settings, document, path, ours=("folder",))


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


def checked(
    struct: type[Struct], given: Mapping[str, Any], file: Path, within: str = "", ours: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The settings of a struct, each checked by its type; what its type's description says is what is expected.

    Args:
        struct: whose fields are the settings.
        given: what the file says.
        file: the file.
        within: what stands before a setting's name, such as "generator.".
        ours: fields that are no settings.

    Raises:
        ProjectError: for what is not a setting, with the nearest that is, for a value that does not fit, and for a
            setting that is missing.
    """
    known = {field.name: field for field in fields(struct) if field.name not in ours}
    types = get_type_hints(struct, include_extras=True)
    settings = {}
    for key, value in given.items():
        if key not in known:
            close = nearest(key, list(known))
            raise ProjectError(
                f"Settings '{file}': '{within}{key}' is not a setting.",
                f"did you mean '{within}{close}'?" if close else f"the settings are {', '.join(sorted(known))}.",
            )
        settings[key] = _checked(known[key], types[key], value, file, within)
    for key, field in known.items():
        if field.required and key not in settings:
            raise ProjectError(
                f"Settings '{file}': '{within}{key}' is missing; it must be {_expected(types[key])}.",
                f"write it below [{within.rstrip('.')}]." if within else "write it.",
            )
    return settings


def _checked(field: FieldInfo, kind: Any, value: Any, file: Path, within: str) -> Any:
    """A value of a setting; a table of its own by the struct that it is of, and a table of tables by theirs."""
    inner = kind.__origin__ if hasattr(kind, "__metadata__") else kind
    key = field.name
    try:
        if _is_struct(inner) and isinstance(value, Mapping):
            return inner(**checked(inner, value, file, f"{within}{key}."))
        inners = getattr(inner, "__args__", ())
        if inners and _is_struct(inners[-1]) and _all_tables(value):
            place = f"{within}{key}."
            return {
                name: inners[-1](**checked(inners[-1], one, file, f"{place}{name}.")) for name, one in value.items()
            }
        return msgspec.convert(_in_micros(kind, value), kind, dec_hook=_path)
    except (msgspec.ValidationError, ValueError) as error:
        shown = "not shown" if key in _SECRET else repr(value)  # whatever it is, it may hold a password
        raise ProjectError(
            f"Settings '{file}': '{within}{key}' is {shown}; it must be {_expected(kind) or error}.", _default(field)
        ) from error


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def _all_tables(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(one, Mapping) for one in value.values())


def _meta(kind: Any) -> Meta | None:
    return next((one for one in getattr(kind, "__metadata__", ()) if isinstance(one, Meta)), None)


def _is_span(kind: Any) -> bool:
    meta = _meta(kind)
    return meta is not None and bool((meta.extra or {}).get("duration"))


def _expected(kind: Any) -> str:
    meta = _meta(kind)
    return "" if meta is None else meta.description or ""


def _in_micros(kind: Any, value: Any) -> Any:
    """A duration as the file says it, in microseconds; what is no duration is refused."""
    if not _is_span(kind):
        return value
    try:
        return micros(msgspec.convert(value, Text))
    except MillstreamError as error:
        raise ValueError(error.message) from error


def _path(kind: type, value: Any) -> Any:
    return kind(msgspec.convert(value, Text))


def _default(field: FieldInfo) -> str:
    """Say what a setting is when it is left out."""
    if field.required:
        return "write it as it is expected."
    if isinstance(field.default, Struct) or field.default in (NODEFAULT, ""):
        return "leave it out to take the default."
    default = f'"{text(field.default)}"' if _is_span(field.type) else field.default
    return f"leave it out to take the default, {default}."
