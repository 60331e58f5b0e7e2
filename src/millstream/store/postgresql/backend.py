"""The online store in PostgreSQL as settings choose it."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from millstream.clock import Clock
from millstream.errors import ProjectError
from millstream.settings import Settings, Span, Text
from millstream.store.passwords import online_password
from millstream.store.postgresql.access import Access
from millstream.store.postgresql.server import Server
from millstream.store.postgresql.store import PostgresqlOnlineStore

PASSWORD = "MILLSTREAM_POSTGRESQL_PASSWORD"
LONGEST = 63
Schema = Annotated[str, Meta(pattern=r"^[^\x00]*$", description="text without NUL")]


class Postgresql(Struct, frozen=True, kw_only=True):
    """`[online] kind = "postgresql"`: a database of a server, or of several of which one takes writes.

    Args:
        url: where it is, such as "postgresql://millstream@db.example.com/features"; what follows a "?" are parameters of
            libpq, such as "sslmode=verify-full". Several hosts are tried one after the other.
        password_env: the variable of the environment that holds the password; where it is not set, libpq looks for one.
        password_file: a file that holds it, relative to the project's folder; it goes before the variable.
        schema: the schema of the store's tables; "millstream_" and the project's name unless set.
        timeout: how long a write or any other call may wait for the server (10 s); reads of scoring by `online_read_ms`.
    """

    url: Text = "postgresql://127.0.0.1/"
    password_env: Text = PASSWORD
    password_file: Text = ""
    schema: Schema = ""
    timeout: Span = 10_000_000

    def open(self, settings: Settings, clock: Clock) -> PostgresqlOnlineStore:
        """Open the store; its server is asked when it is first used."""
        schema = self.schema or f"millstream_{settings.name}"
        if len(schema.encode()) > LONGEST:
            raise ProjectError(
                f"Settings: the online store's schema '{schema}' is longer than {LONGEST} bytes, the most of a name there.",
                "set `schema` in [online] to a shorter one.",
            )
        seconds = self.timeout / 1e6
        server = Server(
            Access.of(self.url, online_password(settings, self.password_env, self.password_file)), schema, seconds
        )
        return PostgresqlOnlineStore(server, seconds)
