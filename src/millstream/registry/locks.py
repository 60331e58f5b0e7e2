"""What one process at a time does, on whatever host: locks in the registry's database, where that is a server's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import sqlalchemy as sa

from millstream.registry.database import Database

AGAIN = 0.2
"""Seconds between two tries to get a lock that another process holds."""
#: A host that is gone without a word is noticed by the server within half a minute, and not within its own two hours.
_NOTICED = {"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}


class Locks:
    """The locks of a project in PostgreSQL: advisory ones, which are gone with the connection of who holds them.

    So the death of a process, or of its host, lets go. A server that starts anew has forgotten all of them: who holds one for
    long asks `Lock.held`, and nobody's work may rest on a lock alone.

    Args:
        database: the registry's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._identity: int | None = None

    @property
    def shared(self) -> bool:
        """Whether the registry has locks; one in a file has none, and those who share it share a disk."""
        return self._database.backend == "postgresql"

    @contextmanager
    def alone(self, what: str, *, wait: bool) -> Iterator[Lock | None]:
        """Hold a lock as long as the block lasts.

        Args:
            what: what is done meanwhile, such as "backfill habits@1".
            wait: whether to wait for another one that does it.

        Yields:
            Lock | None: the lock; None when another process holds it.

        Raises:
            StoreError: when the database cannot be asked.
        """
        key = self._key(what)
        with self._database.connected() as connection:
            lock = Lock(self._database, connection, key)
            taken = lock.take()
            while wait and not taken:
                threading.Event().wait(AGAIN)
                taken = lock.take()
            try:
                yield lock if taken else None
            finally:
                if taken:
                    lock.release()

    def _key(self, what: str) -> int:
        """Projects may share a database, in schemas of their own; its locks know of no schemas."""
        if self._identity is None:
            self._database.make()
            self._identity = self._database.identify()
        digest = blake2b(f"millstream/{self._identity}/{what}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big", signed=True)


class Lock:
    """A lock that this process holds, or asks for, by a connection of its own.

    Args:
        database: the registry's.
        connection: the connection, without a transaction.
        key: which lock.
    """

    def __init__(self, database: Database, connection: sa.Connection, key: int) -> None:
        self._database, self._connection, self._key = database, connection, key
        with database.naming():
            connection.execute(sa.select(*(sa.func.set_config(name, to, False) for name, to in _NOTICED.items())))

    def take(self) -> bool:
        """Take it, unless another process holds it; says whether it was taken."""
        with self._database.naming():
            return bool(self._connection.execute(sa.select(sa.func.pg_try_advisory_lock(self._key))).scalar())

    @property
    def held(self) -> bool:
        """Whether it is still held: the connection that took it is still the same."""
        try:
            self._connection.execute(sa.select(1))
        except sa.exc.SQLAlchemyError:
            return False
        return True

    def release(self) -> None:
        """Let go of it; where the connection is lost, it is let go of already."""
        try:
            self._connection.execute(sa.select(sa.func.pg_advisory_unlock(self._key)))
        except sa.exc.SQLAlchemyError:
            self._connection.invalidate()  # else whoever gets the connection next might hold the lock
