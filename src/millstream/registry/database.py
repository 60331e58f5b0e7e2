"""The registry's database, and the transactions that keep its tables right."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from millstream.errors import CorruptState, DiskFull, MillstreamError, StoreError
from millstream.forks import forks, leave_alone
from millstream.registry import tables
from millstream.registry.idle import Idle, Kept
from millstream.registry.secrets import shown_text, shown_url, without_secrets

Found = TypeVar("Found")
Given = TypeVarTuple("Given")
FORMAT = 3
_BEFORE = (1, 2)  # formats that `migrations` brings to this one when a registry of them is opened
_ROOM = 1 << 20  # with less than this left on the disk, a failed write is a full disk
_PATIENCE = 10  # seconds to wait for a server that does not answer; libpq alone waits for minutes
#: A server whose host is gone without a word is waited for so long (s; the last one ms), and not for a quarter of an hour.
_HEARD = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20_000}
_DISK_FULL, _NO_SUCH = "53100", ("42P01", "42703", "XX")  # PostgreSQL's names of errors: no such table, column; damage
_VALUE = tables.facts.c.value
_FORMAT_OF = sa.select(_VALUE).where(tables.facts.c.name == "format")
_BUSY = 30_000  # milliseconds for which who writes to a file waits for another that does


class Database:
    """The registry's database: reads that see nothing where nothing was made yet, and writes one at a time.

    Safe for any number of threads and processes; what is open is not carried across a fork.

    Args:
        url: an SQLAlchemy URL, such as "sqlite:///registry.db" or "postgresql://host/millstream".
    """

    def __init__(self, url: str) -> None:
        try:
            self._url = sa.make_url(url)
        except (sa.exc.ArgumentError, ValueError):
            # What does not parse may hold a password anywhere, and so may the error that says so.
            raise _no_url(shown_text(url)) from None
        self._made = False
        self._idle = Idle(self._file) if self._file else None
        self._opened: tuple[int, sa.Engine] | None = None

    @property
    def name(self) -> str:
        """The database as a message names it, without a password."""
        return self._file or shown_url(self._url)

    def rows(self, query: sa.Select[Any], **given: Any) -> Sequence[sa.Row[Any]]:
        """The rows that a query finds; none when the registry has not been made.

        Args:
            query: the same object for the same question, so that what a file was asked before need not be asked again.
            given: the values of its parameters.
        """
        return self.read(_rows, query, tuple(given.items()), single=True) or []

    def read(self, ask: Callable[[sa.Connection, *Given], Found], *given: *Given, single: bool = False) -> Found | None:
        """What is found in one state; None when the registry has not been made.

        Args:
            ask: asks on a connection. What it finds in a file is kept until somebody writes, so nobody may change it.
            given: what else it is given, which can be hashed.
            single: whether it makes a single query, which sees one state without a transaction.
        """
        if self._idle is None:
            with self.reading() as connection:
                return None if connection is None else ask(connection, *given)
        with self.naming():
            if not self._exists():
                return None
            with self._on_file(self._idle) as kept:
                return kept.remembered((ask, given), lambda connection: ask(connection, *given), single=single)

    @contextmanager
    def reading(self) -> Iterator[sa.Connection | None]:
        """A connection that sees one state; None when the registry has not been made."""
        with self.naming():
            if not self._exists():
                yield None
                return
            if self._idle is not None:
                with self._on_file(self._idle) as kept:
                    kept.begin()
                    yield kept.connection
                return
            with self._engine.connect() as connection:
                if self.backend == "postgresql":
                    connection.execution_options(isolation_level="REPEATABLE READ")
                yield connection

    @contextmanager
    def writing(self, *, counted: bool = True) -> Iterator[sa.Connection]:
        """A transaction that no other writer is in; one that is `counted` makes readers of the registry read again."""
        with self.naming():
            if not self._exists():
                self._make()
            with self._connection(written=True) as connection:
                with connection.begin():
                    # The row is locked from here on, so what is read below is what every writer before has left.
                    connection.execute(_NEXT if counted else _SAME)
                    yield connection
                if self._file:
                    _take_in(connection)

    @contextmanager
    def connected(self) -> Iterator[sa.Connection]:
        """A connection without a transaction, of which each statement counts by itself; the registry is made if need be."""
        with self.naming():
            if not self._exists():
                self._make()
            connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        with connection:
            yield connection

    def close(self) -> None:
        """Let go of the connections; what is asked next opens its own."""
        if self._idle is not None:
            self._idle.close()
        if self._opened is not None and self._opened[0] == os.getpid():
            if not self._file:  # the engine of a file is shared with others, and keeps nothing open
                self._opened[1].dispose()
            self._opened = None

    def make(self) -> None:
        """Make the tables that are not there yet, whatever other processes make at the same moment."""
        with self.naming():
            if not self._exists():
                self._make()

    @contextmanager
    def _connection(self, *, written: bool = False) -> Iterator[sa.Connection]:
        """A connection, in a file the one that is kept; `written` says that it is written on."""
        if self._idle is None:
            with self._engine.connect() as connection:
                yield connection
            return
        with self._on_file(self._idle, written=written) as kept:
            yield kept.connection

    @contextmanager
    def _on_file(self, idle: Idle, *, written: bool = False) -> Iterator[Kept]:
        """The connection to a file that is kept; after an error it is kept no longer."""
        kept = idle.take(self._engine)
        try:
            yield kept
        except BaseException:
            kept.connection.close()
            raise
        idle.give_back(kept, written=written)

    @property
    def backend(self) -> str:
        """The kind of database, such as "sqlite" or "postgresql"."""
        return self._url.get_backend_name()

    @property
    def _file(self) -> str | None:
        """The path of a SQLite file."""
        return self._url.database if self.backend == "sqlite" else None

    @property
    def _engine(self) -> sa.Engine:
        pid = os.getpid()
        if self._opened is None or self._opened[0] != pid:
            if self._opened is not None:
                self._opened[1].dispose(close=False)  # its connections are the parent's
            self._opened = (pid, _shared(self._url, pid) if self._file else _engine(self._url))
        return self._opened[1]

    def _exists(self) -> bool:
        if not self._made and not (self._file and not Path(self._file).exists()):
            found = self._format()
            if found in _BEFORE:
                self._migrate()
                found = self._format()
            self._made = found == FORMAT
        return self._made

    def _migrate(self) -> None:
        """Bring the tables of a format before to this one; of many processes that find them, one does."""
        from millstream.registry.migrate import migrate

        with self._engine.begin() as connection:
            # The row is locked from here on: whoever else has found an old format waits, and then finds this one.
            connection.execute(_of("format").values(value=_VALUE))
            found = connection.execute(_FORMAT_OF).scalar()
            if found in _BEFORE:
                migrate(connection, found)
                connection.execute(_of("format").values(value=FORMAT))

    def _format(self) -> int | None:
        """The format of what is there; None where nothing was made yet."""
        with self._connection() as connection:
            if not connection.dialect.has_table(connection, tables.facts.name):
                return None
            found = connection.execute(_FORMAT_OF).scalar()
        if found not in (None, FORMAT, *_BEFORE):
            raise CorruptState(
                f"Registry '{self.name}': its format {found} is not the one read here, {FORMAT}.",
                "use the Millstream version that wrote it.",
            )
        return found

    def _make(self) -> None:
        if self._file:
            Path(self._file).parent.mkdir(parents=True, exist_ok=True)
        _create_all(self._engine)
        for name, value in (("revision", 0), ("format", FORMAT), ("identity", _identity())):
            with suppress(sa.exc.IntegrityError), self._engine.begin() as connection:
                connection.execute(sa.insert(tables.facts).values(name=name, value=value))
        self._made = True

    def identify(self) -> int:
        """Give an identity to a registry that was made before there were any, and return it."""
        with self.naming():
            with suppress(sa.exc.IntegrityError), self._engine.begin() as connection:
                connection.execute(sa.insert(tables.facts).values(name="identity", value=_identity()))
            with self._engine.connect() as connection:
                return int(connection.execute(sa.select(_VALUE).where(tables.facts.c.name == "identity")).scalar_one())

    def _no_room(self, error: sa.exc.DBAPIError) -> bool:
        """Whether the disk is full, which SQLite may call an I/O error."""
        if self._file is None:
            return _code(error) == _DISK_FULL
        folder = Path(self._file).parent
        return "full" in str(error.orig) or (folder.exists() and shutil.disk_usage(folder).free < _ROOM)

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Whatever goes wrong in the block comes out as one sentence about the registry."""
        try:
            yield
        except MillstreamError:
            raise
        except sa.exc.ArgumentError:
            raise _no_url(self.name) from None  # it may show the URL
        except ImportError as error:
            library = error.name or "psycopg"
            hint = f"pip install {library if self.backend != 'postgresql' else repr('millstream[postgresql]')}"
            raise StoreError(f"Registry '{self.name}' needs the library '{library}'.", hint) from error
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise DiskFull.writing(self.name) from error
            hint = "the project's data folder must be a folder that can be written."
            raise StoreError(f"Registry '{self.name}' cannot be opened: {error.strerror}.", hint) from error
        except sa.exc.DBAPIError as error:
            plain = without_secrets(str(error), self._url) == str(error)
            raise self._failed(error) from (error if plain else None)

    def _failed(self, error: sa.exc.DBAPIError) -> MillstreamError:
        if self._no_room(error):
            return DiskFull.writing(self.name)
        if isinstance(error, sa.exc.DatabaseError) and _damaged(error, self.backend):
            hint = f"restore '{self.name}' from a copy; nothing in it was changed."
            message = f"Registry '{self.name}' does not read as what was written: {self._said(error)}."
            return CorruptState(message, hint)
        hint = "check that its database runs and its folder can be written."
        if self._file is None:
            hint = "check that its server runs and lets this user in; PGPASSWORD or ~/.pgpass can hold the password."
        return StoreError(f"Registry '{self.name}' cannot be used: {self._said(error)}.", hint)

    def _said(self, error: sa.exc.DBAPIError) -> str:
        return without_secrets(_brief(error), self._url)


def _of(fact: str) -> sa.Update:
    """A change of one of the facts."""
    return sa.update(tables.facts).where(tables.facts.c.name == fact)


_NEXT, _SAME = (_of("revision").values(value=_VALUE + step) for step in (1, 0))


def _rows(
    connection: sa.Connection, query: sa.Select[Any], given: tuple[tuple[str, Any], ...]
) -> Sequence[sa.Row[Any]]:
    return connection.execute(query, dict(given)).all()


def _identity() -> int:
    """A number by chance, as large as an integer of any database may be."""
    return secrets.randbelow(2**31 - 1) + 1


def _create_all(engine: sa.Engine) -> None:
    """Make the tables that are not there yet, whatever other processes make the same ones at the same moment."""
    for _ in tables.metadata.tables:  # each failure means that another process has made one more of them
        try:
            return tables.metadata.create_all(engine)
        except (sa.exc.OperationalError, sa.exc.ProgrammingError, sa.exc.IntegrityError):
            continue
    tables.metadata.create_all(engine)


def _take_in(connection: sa.Connection) -> None:
    """Bring what was written into the file itself, as far as nobody reads: a log of writes left beside a file is taken for
    part of it, also where the file was put back from a copy meanwhile."""
    with suppress(sa.exc.DBAPIError):  # what was written is there, wherever it lies
        connection.exec_driver_sql("pragma busy_timeout = 0")
        try:
            connection.exec_driver_sql("pragma wal_checkpoint(truncate)").close()
        finally:
            connection.exec_driver_sql(f"pragma busy_timeout = {_BUSY}")  # who uses the connection next waits


@lru_cache(maxsize=64)
def _shared(url: sa.URL, pid: int) -> sa.Engine:
    """The engine of a file in a process: it keeps nothing open, and who reads the same file shares its known queries."""
    return _engine(url)


def _engine(url: sa.URL) -> sa.Engine:
    if url.get_backend_name() != "sqlite":
        return _server(url)
    engine = sa.create_engine(url, poolclass=NullPool)  # nothing stays open, so nothing is carried across a fork

    @sa.event.listens_for(engine, "connect")
    def _many_processes(connection: Any, _record: object) -> None:
        connection.execute(f"pragma busy_timeout = {_BUSY}")
        connection.execute("pragma journal_mode = wal")

    return engine


def _server(url: sa.URL) -> sa.Engine:
    """The engine of a server; PostgreSQL is reached by psycopg unless the URL names another driver."""
    given: dict[str, Any] = {}
    if url.get_backend_name() == "postgresql":
        given["isolation_level"] = "READ COMMITTED"  # the server's default may be one that refuses to wait
        url = url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url
        if "psycopg" in url.drivername:
            wanted = _HEARD if "PGCONNECT_TIMEOUT" in os.environ else {"connect_timeout": _PATIENCE, **_HEARD}
            given["connect_args"] = {name: value for name, value in wanted.items() if name not in url.query}
    engine = sa.create_engine(url, pool_pre_ping=True, **given)
    _keep_to_process(engine)
    return engine


def _keep_to_process(engine: sa.Engine) -> None:
    """Let a forked process make connections of its own: what it said on its parent's would end up in both."""

    @sa.event.listens_for(engine, "connect")
    def _opened(_connection: Any, record: Any) -> None:
        record.info["forks"] = forks()

    @sa.event.listens_for(engine, "checkout")
    def _taken(connection: Any, record: Any, proxy: Any) -> None:
        if record.info["forks"] != forks():
            leave_alone(connection)
            record.dbapi_connection = proxy.dbapi_connection = None
            raise sa.exc.DisconnectionError("opened before a fork")


def _no_url(shown: str) -> StoreError:
    hint = "set `registry_url` to a URL such as 'sqlite:///registry.db' or 'postgresql://host/millstream'."
    return StoreError(f"Registry '{shown}' is not an SQLAlchemy URL.", hint)


def _damaged(error: sa.exc.DatabaseError, backend: str) -> bool:
    """Whether what is stored is at fault, rather than the server, its disk or a right that is not given."""
    if backend == "sqlite":
        return not isinstance(error, sa.exc.OperationalError)
    return _code(error).startswith(_NO_SUCH)


def _code(error: sa.exc.DBAPIError) -> str:
    """The five characters by which a server names an error, "" without any."""
    return getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None) or ""


def _brief(error: sa.exc.DBAPIError) -> str:
    return (str(error.orig).strip() or "no reason given").splitlines()[0].rstrip(".")
