"""How servers are reached: their addresses, and what lets us in, which no message shows."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from millstream.errors import ProjectError

PORT = 6379
SCHEMES = ("redis", "rediss", "unix")
#: The host and the port of a server, or the path of its socket and 0.
Address = tuple[str, int]


@dataclass(frozen=True)
class Access:
    """What lets a client in.

    Args:
        user: the user's name; that of the server's default unless given.
        password: the password, if one is needed.
        database: the number of the database; clusters have only 0.
        tls: how connections are encrypted, if they are.
    """

    user: str = ""
    password: str = field(default="", repr=False)
    database: int = 0
    tls: ssl.SSLContext | None = None

    def handshake(self) -> list[tuple[bytes, ...]]:
        """Return the commands that a connection begins with."""
        commands: list[tuple[bytes, ...]] = []
        if self.password:
            user = (self.user.encode(),) if self.user else ()
            commands.append((b"AUTH", *user, self.password.encode()))
        if self.database:
            commands.append((b"SELECT", b"%d" % self.database))
        return commands


@dataclass(frozen=True)
class ServerUrl:
    """What the URL of a server says; a cluster, or the sentinels of one, may be several hosts.

    >>> url = ServerUrl.of("rediss://ada@a.example.com:7000,b.example.com/2")
    >>> url.addresses, url.user, url.database, url.tls
    ((('a.example.com', 7000), ('b.example.com', 6379)), 'ada', 2, True)
    >>> ServerUrl.of("unix:///run/redis.sock").addresses
    (('/run/redis.sock', 0),)
    """

    addresses: tuple[Address, ...]
    user: str
    password: str = field(repr=False)
    database: int
    tls: bool

    @classmethod
    def of(cls, text: str) -> ServerUrl:
        """Read a URL. Raises `ProjectError`, which does not show it: it may hold a password."""
        try:
            found = urlsplit(text)
            return cls(*_parts(found))
        except ValueError as error:
            raise ProjectError(
                f"Settings: 'online.url' is no URL of a Redis server: {error}.",
                'write it like "redis://cache.example.com:6379/0", "rediss://..." for TLS, or "unix:///run/redis.sock".',
            ) from error

    @property
    def shown(self) -> str:
        """The URL as messages name it."""
        if self.addresses[0][1] == 0:
            return f"unix://{self.addresses[0][0]}"
        hosts = ",".join(f"{host}:{port}" for host, port in self.addresses)
        return f"redis{'s' if self.tls else ''}://{hosts}/{self.database}"


def _parts(url: SplitResult) -> tuple[tuple[Address, ...], str, str, int, bool]:
    if url.scheme not in SCHEMES:
        raise ValueError(f"its scheme must be one of {', '.join(SCHEMES)}")
    if url.query or url.fragment:
        raise ValueError("it may have no parameters; timeouts and the like are settings of their own")
    login, _, hosts = url.netloc.rpartition("@")
    user, _, password = login.partition(":")
    if url.scheme == "unix":
        if not url.path:
            raise ValueError("it names no socket")
        return ((unquote(url.path), 0),), unquote(user), unquote(password), 0, False
    database = url.path.strip("/")
    if database and not database.isdecimal():
        raise ValueError("what follows the host must be the number of a database")
    addresses = tuple(_address(host) for host in hosts.split(","))
    return addresses, unquote(user), unquote(password), int(database or 0), url.scheme == "rediss"


def _address(text: str) -> Address:
    host = urlsplit(f"//{text}")
    if not host.hostname:
        raise ValueError("it names no host")
    return host.hostname, PORT if host.port is None else host.port
