"""The online store in Redis or Valkey as settings choose it."""

from __future__ import annotations

import ssl
from typing import Annotated

from msgspec import Meta, Struct

from millstream.clock import Clock
from millstream.errors import ProjectError
from millstream.settings import Settings, Span, Switch, Text
from millstream.store.passwords import online_password
from millstream.store.redis.access import Access, ServerUrl
from millstream.store.redis.servers import Servers
from millstream.store.redis.store import RedisOnlineStore

PASSWORD = "MILLSTREAM_REDIS_PASSWORD"
Prefix = Annotated[str, Meta(pattern=r"^[^\x00{}/]+$", description="text without NUL, '{', '}' and '/'")]


class Redis(Struct, frozen=True, kw_only=True):
    """`[online] kind = "redis"`: a server, a primary that sentinels name, or a cluster.

    Args:
        url: where it is, such as "redis://millstream@cache.example.com:6379/0"; "rediss://" for TLS; some nodes of a
            cluster, or the sentinels, as "redis://a:7000,b:7000". Whether it is a cluster the server says.
        password_env: the variable of the environment that holds the password.
        password_file: a file that holds it, relative to the project's folder; it goes before the variable.
        prefix: what the project's keys begin with; "millstream:" and its name unless set.
        service: the name by which sentinels know the primary; the URL names sentinels then.
        replicas: whether scoring reads replicas, which may be a moment behind.
        timeout: how long a write or any other call may wait for the server (10 s); reads of scoring by `online_read_ms`.
        tls_ca: a file with the certificates to trust instead of the system's, relative to the folder; and so
        tls_cert: a certificate that shows who we are, and
        tls_key: its key.
    """

    url: Text = "redis://127.0.0.1:6379/0"
    password_env: Text = PASSWORD
    password_file: Text = ""
    prefix: Prefix = ""
    service: Text = ""
    replicas: Switch = False
    timeout: Span = 10_000_000
    tls_ca: Text = ""
    tls_cert: Text = ""
    tls_key: Text = ""

    def open(self, settings: Settings, clock: Clock) -> RedisOnlineStore:
        """Open the store; its server is asked when it is first used."""
        url = ServerUrl.of(self.url)
        if url.password:
            raise ProjectError(
                "Settings: 'online.url' holds a password.",
                f"take it out, and put it into the environment as {self.password_env}, or into a file that "
                "`password_file` in [online] names.",
            )
        access = Access(
            url.user,
            online_password(settings, self.password_env, self.password_file),
            url.database,
            self._tls(settings, url.tls),
        )
        servers = Servers(url, access, self.service, self.replicas)
        prefix = self.prefix or f"millstream:{settings.name}".translate(_APART)
        return RedisOnlineStore(servers, prefix, self.timeout / 1e6)

    def _tls(self, settings: Settings, wanted: bool) -> ssl.SSLContext | None:
        if not wanted:
            return None
        folder = settings.folder
        try:
            context = ssl.create_default_context(cafile=str(folder / self.tls_ca) if self.tls_ca else None)
            if self.tls_cert:
                context.load_cert_chain(folder / self.tls_cert, folder / self.tls_key if self.tls_key else None)
        except (OSError, ssl.SSLError) as error:
            raise ProjectError(
                f"Settings: a certificate that [online] names cannot be used: {error.strerror or error}.",
                "`tls_ca`, `tls_cert` and `tls_key` are files in PEM format, relative to the project's folder.",
            ) from error
        return context


_APART = str.maketrans("{}/", "---")
