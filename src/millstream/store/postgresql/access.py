"""How a server is reached: what its URL says, and what lets us in, which no message shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from millstream.errors import ProjectError
from millstream.store.connections import Unreachable, resolved, said

SCHEMES = ("postgresql", "postgres")


@dataclass(frozen=True)
class Access:
    """A server, or several of which one takes writes, and what lets us in.

    Args:
        parameters: those of libpq, PostgreSQL's own library, that the URL states.
        password: the password; where it is empty, libpq looks for one as it does anywhere.

    >>> access = Access.of("postgresql://ada@a.example.com,b.example.com:5433/features?sslmode=require")
    >>> access.shown, access.parameters["sslmode"]
    ('postgresql://a.example.com,b.example.com:5433/features', 'require')
    """

    parameters: Mapping[str, str]
    password: str = field(default="", repr=False)

    @classmethod
    def of(cls, url: str, password: str = "") -> Access:
        """Read a URL. Raises `ProjectError`, which does not show it: it may hold a password."""
        hint = 'write it like "postgresql://millstream@db.example.com/features", with parameters of libpq after a "?".'
        try:
            if urlsplit(url).scheme not in SCHEMES:
                raise ProjectError(
                    f"Settings: 'online.url' is no URL of a PostgreSQL server: its scheme must be one of "
                    f"{', '.join(SCHEMES)}.",
                    hint,
                )
            told = {name: str(value) for name, value in conninfo_to_dict(url).items() if value is not None}
        except (ProgrammingError, ValueError):  # both may show the URL
            raise ProjectError("Settings: 'online.url' cannot be read as a URL of a PostgreSQL server.", hint) from None
        if "password" in told:
            raise ProjectError(
                "Settings: 'online.url' holds a password.",
                "take it out, and put it into the environment or a file: `password_env` and `password_file` in [online].",
            )
        return cls(told, password)

    @property
    def shown(self) -> str:
        """The server as messages name it."""
        hosts = self.parameters.get("host") or self.parameters.get("hostaddr", "")
        ports = self.parameters.get("port", "").split(",")
        named = hosts.split(",")
        every = ports if len(ports) == len(named) else ports * len(named)
        places = [f"{host}:{port}" if port else host for host, port in zip(named, every, strict=False)]
        return f"postgresql://{','.join(places)}/{self.parameters.get('dbname', '')}"

    def candidates(self, end: float) -> Iterator[bytes]:
        """What libpq is to connect to, one address after the other, found until a moment by `time.monotonic`.

        Hosts are looked up here, because libpq would make all of the process wait for that.
        Raises `Unreachable` where none has an address.
        """
        failure: Unreachable | None = None
        hosts = self.parameters.get("host", "").split(",")
        ports = self.parameters.get("port", "").split(",")
        found = False
        for number, host in enumerate(hosts):
            port = ports[number] if len(ports) == len(hosts) else ports[0]
            try:
                addresses = self._addresses(host, end)
            except OSError as error:
                failure = Unreachable(f"host '{host}': {said(error)}")
                continue
            for address in addresses:
                found = True
                yield self._to(host, port, address)
        if failure is not None and not found:
            raise failure

    def _addresses(self, host: str, end: float) -> list[str]:
        """The addresses of a host; of a socket, or where the URL states them, nothing is to be found."""
        if not host or host[0] in "/@" or "hostaddr" in self.parameters:
            return [""]
        return resolved(host, end)

    def _to(self, host: str, port: str, address: str) -> bytes:
        own = {"host": host, "port": port, "hostaddr": address, "password": self.password}
        given = {"application_name": "millstream", **self.parameters}
        return make_conninfo(**{**given, **{name: value for name, value in own.items() if value}}).encode()
