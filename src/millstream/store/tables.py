"""The registry's tables, in any database SQLAlchemy reaches, and the transactions that keep them right."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from millstream.errors import CorruptState, DiskFull, MillstreamError, StoreError

FORMAT = 1
_ROOM = 1 << 20  # with less than this left on the disk, a failed write is a full disk
_metadata = sa.MetaData()
definitions = sa.Table(
    "registry_definitions",
    _metadata,
    sa.Column("thing", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("version", sa.Integer),  # of a feature group: the version that was last asked for
)
group_versions = sa.Table(
    "registry_group_versions",
    _metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("is_default", sa.Boolean, nullable=False),
    sa.Column("shards", sa.Integer, nullable=False),
)
view_revisions = sa.Table(
    "registry_view_revisions",
    _metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("revision", sa.String(16), primary_key=True),
    sa.Column("body", sa.Text, nullable=False),
)
pins = sa.Table(
    "registry_pins",
    _metadata,
    sa.Column("model_version", sa.String(128), primary_key=True),
    sa.Column("group_name", sa.String(64), primary_key=True),
    sa.Column("group_version", sa.Integer, primary_key=True),
)
facts = sa.Table(
    "registry_facts",
    _metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", sa.Integer, nullable=False),
)


def create_all(metadata: sa.MetaData, engine: sa.Engine) -> None:
    """Make the tables that are not there yet, whatever other processes make the same ones at the same moment."""
    for _ in metadata.tables:  # each failure means that another process has made one more of them
        try:
            return metadata.create_all(engine)
        except (sa.exc.OperationalError, sa.exc.ProgrammingError, sa.exc.IntegrityError):
            continue
    metadata.create_all(engine)


class Database:
    """The registry's database: reads that see nothing where nothing was made yet, and writes one at a time.

    Args:
        url: an SQLAlchemy URL, such as "sqlite:///registry.db" or "postgresql+psycopg://host/millstream".
    """

    def __init__(self, url: str) -> None:
        with self._named(url):
            self._url = sa.make_url(url)
        self._made = False

    @property
    def name(self) -> str:
        """The database as a message names it, without a password."""
        return self._file or self._url.render_as_string(hide_password=True)

    @contextmanager
    def reading(self) -> Iterator[sa.Connection | None]:
        """A connection that sees one state; None when the registry has not been made."""
        with self._named(self.name):
            if not self._exists():
                yield None
                return
            with self._engine.connect() as connection:
                yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that no other writer is in; every one counts the revision up."""
        with self._named(self.name):
            if not self._exists():
                self._make()
            with self._engine.begin() as connection:
                step = sa.update(facts).where(facts.c.name == "revision").values(value=facts.c.value + 1)
                connection.execute(step)
                yield connection

    @property
    def _file(self) -> str | None:
        """The path of a SQLite file."""
        return self._url.database if self._url.get_backend_name() == "sqlite" else None

    @property
    def _engine(self) -> sa.Engine:
        engine = self.__dict__.get("_opened")
        if engine is None:
            engine = self.__dict__["_opened"] = _engine(self._url)
        return engine

    def _exists(self) -> bool:
        if not self._made and not (self._file and not Path(self._file).exists()):
            self._made = sa.inspect(self._engine).has_table(facts.name) and self._format() == FORMAT
        return self._made

    def _format(self) -> int | None:
        with self._engine.connect() as connection:
            found = connection.execute(sa.select(facts.c.value).where(facts.c.name == "format")).scalar()
        if found not in (None, FORMAT):
            raise CorruptState(
                f"Registry '{self.name}': its format {found} is not the one read here, {FORMAT}.",
                "use the Millstream version that wrote it.",
            )
        return found

    def _make(self) -> None:
        """Make the tables; another process may be making them at the same moment."""
        if self._file:
            Path(self._file).parent.mkdir(parents=True, exist_ok=True)
        create_all(_metadata, self._engine)
        for name, value in (("revision", 0), ("format", FORMAT)):
            with suppress(sa.exc.IntegrityError), self._engine.begin() as connection:
                connection.execute(sa.insert(facts).values(name=name, value=value))
        self._made = True

    def _no_room(self) -> bool:
        """Whether the disk is full, which SQLite may call an I/O error."""
        folder = Path(self._file).parent if self._file else None
        return folder is not None and folder.exists() and shutil.disk_usage(folder).free < _ROOM

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        """Whatever goes wrong below comes out as one sentence about the registry."""
        try:
            yield
        except MillstreamError:
            raise
        except sa.exc.ArgumentError as error:
            hint = "set `registry_url` to a URL such as 'sqlite:///registry.db'."
            raise StoreError(f"Registry '{name}' is not an SQLAlchemy URL.", hint) from error
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise DiskFull.writing(name) from error
            hint = "the project's data folder must be a folder that can be written."
            raise StoreError(f"Registry '{name}' cannot be opened: {error.strerror}.", hint) from error
        except sa.exc.OperationalError as error:
            if "full" in str(error.orig) or self._no_room():
                raise DiskFull.writing(name) from error
            hint = "check that its database runs and its folder can be written."
            raise StoreError(f"Registry '{name}' cannot be used: {_brief(error)}.", hint) from error
        except sa.exc.DatabaseError as error:
            hint = f"restore '{name}' from a copy; nothing in it was changed."
            message = f"Registry '{name}' does not read as what was written: {_brief(error)}."
            raise CorruptState(message, hint) from error


def _engine(url: sa.URL) -> sa.Engine:
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(url, pool_pre_ping=True)
    engine = sa.create_engine(url, poolclass=NullPool)  # nothing stays open, so nothing is carried across a fork

    @sa.event.listens_for(engine, "connect")
    def _many_processes(connection: Any, _record: object) -> None:
        connection.execute("pragma busy_timeout = 30000")
        connection.execute("pragma journal_mode = wal")

    return engine


def _brief(error: sa.exc.DBAPIError) -> str:
    return (str(error.orig).strip() or "no reason given").splitlines()[0].rstrip(".")
