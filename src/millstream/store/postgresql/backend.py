"""The online store in PostgreSQL as settings choose it."""

from __future__ import annotations

import os
from typing import Annotated

from msgspec import Meta, Struct

from millstream.clock import Clock
from millstream.errors import ProjectError
from millstream.settings import Settings, Span, Text
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
        server = Server(Access.of(self.url, self._password(settings)), schema, seconds)
        return PostgresqlOnlineStore(server, seconds)

    def _password(self, settings: Settings) -> str:
        if not self.password_file:
            return os.environ.get(self.password_env, "")
        path = settings.folder / self.password_file
        try:
            return path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ProjectError(
                f"Settings: 'online.password_file' is '{path}', which cannot be read.",
                f"put the password there, readable by this user, or into the environment as {self.password_env}.",
            ) from error
