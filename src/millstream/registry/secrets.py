"""What a database's URL may say in a message: where it is, and nothing that lets anybody in."""

from __future__ import annotations

import re
from urllib.parse import quote, quote_plus

import sqlalchemy as sa

_PLAIN = re.compile(r"[\w.+-]*", re.ASCII)
_SHORT = 4
_UNSAID = "the reason it gave is not shown, because it may hold a password"


def shown_url(url: sa.URL) -> str:
    """Return a URL as a message names it: without password and parameters, and without any part that may hold one.

    >>> shown_url(sa.make_url("postgresql://ada:lovelace@db.internal/risk?sslpassword=babbage"))
    'postgresql://ada:***@db.internal/risk'
    """
    parts = {"username": url.username, "host": url.host, "database": url.database}
    plain = {name: part if part is None or _PLAIN.fullmatch(part) else "..." for name, part in parts.items()}
    return url.set(query={}, **plain).render_as_string(hide_password=True)  # type: ignore[arg-type]


def shown_text(text: str) -> str:
    """Return what of a text that is no URL may be said: its scheme.

    >>> shown_text("postgres//ada:lovelace@db"), shown_text("mysql://ada:love/lace@db")
    ('...', 'mysql:...')
    """
    scheme = re.match(r"([A-Za-z][\w+.-]*):", text, re.ASCII)
    return f"{scheme[1]}:..." if scheme and f"{scheme[1]}://" == text[: len(scheme[1]) + 3] else "..."


def without_secrets(said: str, url: sa.URL) -> str:
    """Return what a driver said, without the password and the parameters of the URL it was given."""
    values = [str(url.password or "")]
    for value in url.query.values():
        values += [value] if isinstance(value, str) else list(value)
    secrets = {form for value in values if value for form in (value, quote(value, safe=""), quote_plus(value))}
    found = [secret for secret in sorted(secrets, key=len, reverse=True) if secret in said]
    if any(len(secret) < _SHORT for secret in found):
        return _UNSAID
    for secret in found:
        said = said.replace(secret, "***")
    return said
