"""Who may call: a web page that a browser shows can reach loopback, so Host and Origin are checked on every request."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

from millstream.errors import RequestError

_KNOWN = 1_000
_READS = ("GET", "HEAD")


class Callers:
    """Which names the service answers to, and which pages may call it.

    A page of another site reaches a service on loopback in two ways: by a name of its own that leads here, which shows
    in Host, or by a request across sites, which shows in Origin. Addresses, `localhost` and names without a dot cannot
    be another site's; any other name must be among `hosts`.

    Args:
        hosts: names by which callers reach the service, such as "scores.example.com"; "*" is any.

    >>> Callers(["scores.example.com"]).check("GET", [(b"host", b"scores.example.com:8787")])
    >>> Callers().check("POST", [(b"host", b"localhost"), (b"origin", b"https://attacker.example")])
    Traceback (most recent call last):
    millstream.errors.RequestError: A page of 'https://attacker.example' may not call this service...
    """

    def __init__(self, hosts: Iterable[str] = ()) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self._known: set[bytes] = set()

    def check(self, method: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Refuse a request that a page of another site has made.

        Raises:
            RequestError: (421) the host is no name of this service; (403) the request comes from another site.
        """
        host = origin = site = b""
        for name, value in headers:
            if name == b"host":
                host = value
            elif name == b"origin":
                origin = value
            elif name == b"sec-fetch-site":
                site = value
        if host not in self._known:
            self._check_host(host)
        if origin and (origin == b"null" or origin.partition(b"://")[2].lower() != host.lower()):
            raise _from_elsewhere(origin.decode("latin-1"))
        if site == b"cross-site" and method not in _READS:
            raise _from_elsewhere("another site")

    def _check_host(self, host: bytes) -> None:
        text = host.decode("latin-1")
        if host and not self._is_ours(text):
            raise RequestError(
                f"This service does not answer to the name '{text}'.",
                field="host",
                given=text,
                expected="an address, localhost, or one of the `hosts` in millstream.toml",
                hint=f'add the name to millstream.toml: hosts = ["{_name_of(text)}"].',
                status=421,
            )
        if len(self._known) < _KNOWN:
            self._known.add(host)

    def _is_ours(self, host: str) -> bool:
        name = _name_of(host)
        if "*" in self._hosts or name in self._hosts or name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            ip_address(name)
        except ValueError:
            return bool(name) and "." not in name
        return True


def _name_of(host: str) -> str:
    """The name in a Host header, without port, brackets and the dot of the root."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _from_elsewhere(origin: str) -> RequestError:
    return RequestError(
        f"A page of '{origin}' may not call this service.",
        field="origin",
        given=origin,
        expected="a program, or a page of this service",
        hint="call it from a program of yours; a page reaches it through one.",
        status=403,
    )
