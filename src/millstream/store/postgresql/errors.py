"""What a server refuses, said once: the thing, what it said, and what to do."""

from __future__ import annotations

from millstream.errors import DiskFull, MillstreamError, StoreError

OLDEST = 13
"""The oldest version of PostgreSQL."""
_AGAIN = "layers try again by themselves, and scoring goes on from what can be read."
_FULL = {
    "53100": "free space on its disk.",
    "53200": "it has no memory left: give it more, or less else to do.",
}
_HINTS = {
    "25006": "it is a standby: name the primary in 'online.url', or all of them and `target_session_attrs=read-write`.",
    "42501": "let the user make a schema in the database, or make it (`schema` in [online]) and let the user own it.",
    "42P01": "look at the schema that `schema` in [online] names: tables of the store are missing in it.",
    "42703": "another program keeps tables under these names: set `schema` in [online].",
    "53300": "raise its `max_connections`: each thread of scoring and each layer takes one.",
    "57014": f"it has taken longer than `timeout` in [online] allows; {_AGAIN}",
}
AWAY = ("08", "57P")
"""What the codes begin with of a server that stops, starts or hangs up."""
MISSING = ("3F000", "42P01")
"""The codes of a schema and a table that are not there."""


class Refused(Exception):
    """A server has answered a statement with an error.

    Args:
        code: the five characters by which it names the error.
        said: what it said.
    """

    def __init__(self, code: str, said: str) -> None:
        super().__init__(said)
        self.code, self.said = code, said


def unreachable(where: str, why: str) -> StoreError:
    """Return the error that a server cannot be reached, or lets nobody in, and why."""
    return StoreError(
        f"Online store '{where}' cannot be reached: {why}.",
        "look at its server, and at the user and the database in 'online.url'; `password_env` in [online] names the "
        f"variable of the environment that holds the password, or `password_file` a file. {_AGAIN.capitalize()}",
    )


def refusal(where: str, error: Refused) -> MillstreamError:
    """Return what a server's error means.

    >>> refusal("postgresql://a/b", Refused("53100", "no space left on device")).code
    'MS701'
    """
    said = error.said.rstrip(".")
    if error.code in _FULL:
        return DiskFull(f"Online store '{where}' takes no more: {said}.", _FULL[error.code])
    return StoreError(
        f"Online store '{where}' refuses: {said} ({error.code}).",
        _HINTS.get(error.code, f"look at its server; {_AGAIN}"),
    )


def too_old(where: str, version: int) -> StoreError:
    """Return the error that a server is too old.

    >>> print(too_old("postgresql://a/b", 90624))
    Online store 'postgresql://a/b' is PostgreSQL 9; it must be 13 or newer.
    <BLANKLINE>
    Hint: update its server.
    """
    return StoreError(
        f"Online store '{where}' is PostgreSQL {version // 10_000}; it must be {OLDEST} or newer.", "update its server."
    )
