"""A schema registry as a source asks it: the schema of an id, over HTTP, once."""

from __future__ import annotations

import base64
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import quote

import msgspec

from millstream.errors import SourceError, first_line

AGAIN = 2.0
"""Seconds for which a registry is not asked again for what it has refused."""
_ACCEPT = "application/vnd.schemaregistry.v1+json, application/json"


class Reference(msgspec.Struct, frozen=True):
    """A schema that another one names: under which name, and which version of which subject it is."""

    name: str
    subject: str
    version: int


class Schema(msgspec.Struct, frozen=True):
    """A schema as a registry has it: its text, of which kind it is ("AVRO" unless said), and what it refers to."""

    schema: str
    kind: str = msgspec.field(default="AVRO", name="schemaType")
    references: list[Reference] = []


@dataclass(frozen=True, slots=True)
class _Refusal:
    """That a registry has refused something, and when."""

    at: float
    error: SourceError


class SchemaRegistry:
    """Asks a registry that has the HTTP interface of Confluent's; what it has answered is kept, for it never changes.

    Args:
        url: where it is, such as "https://registry.example.org"; with the path of the interface where it has one.
        seconds: how long an answer is waited for.
        stream: the stream whose messages are read, for errors.
        user: who asks, and the password; nobody unless given.
    """

    def __init__(self, url: str, seconds: float, stream: str, user: tuple[str, str] | None = None) -> None:
        self._url, self._seconds, self._stream = url.rstrip("/"), seconds, stream
        self._headers = {"Accept": _ACCEPT}
        if user is not None:
            self._headers["Authorization"] = "Basic " + base64.b64encode(":".join(user).encode()).decode()
        self._known: dict[str, Schema] = {}
        self._refused: dict[str, _Refusal] = {}

    def schema(self, number: int) -> Schema:
        """Return the schema that has an id.

        Args:
            number: the id.

        Raises:
            SourceError: when the registry does not know it, does not let us in, or does not answer.
        """
        return self._asked(f"/schemas/ids/{number}", f"schema {number}")

    def referred(self, to: Reference) -> Schema:
        """Return the schema that another one refers to.

        Args:
            to: the reference.

        Raises:
            SourceError: as `schema`.
        """
        path = f"/subjects/{quote(to.subject, safe='')}/versions/{to.version}"
        return self._asked(path, f"schema '{to.subject}', version {to.version}")

    def _asked(self, path: str, what: str) -> Schema:
        known = self._known.get(path)
        if known is not None:
            return known
        refused = self._refused.get(path)
        if refused is not None and time.monotonic() - refused.at < AGAIN:
            raise refused.error
        try:
            self._known[path] = found = msgspec.json.decode(self._get(path), type=Schema)
        except (urllib.error.URLError, HTTPException, OSError, msgspec.DecodeError) as error:
            failure = self._failure(what, error)
            self._refused[path] = _Refusal(time.monotonic(), failure)
            raise failure from None
        return found

    def _get(self, path: str) -> bytes:
        request = urllib.request.Request(self._url + path, headers=self._headers)
        with urllib.request.urlopen(request, timeout=self._seconds) as answer:
            body: bytes = answer.read()
        return body

    def _failure(self, what: str, error: Exception) -> SourceError:
        """What went wrong, as an error of ours."""
        begin = f"Stream '{self._stream}': {what}"
        status: Any = getattr(error, "code", None)
        if status == 404:
            return SourceError(
                f"{begin} is not in the registry at '{self._url}'.",
                "what is written by it waits; register the schema under its id again, or name the right registry.",
            )
        if status in (401, 403):
            return SourceError(
                f"{begin}: the registry at '{self._url}' does not let us in ({status}).",
                "check 'registry_user' and its password, and what this user may read.",
            )
        reason = getattr(error, "reason", None) or error
        return SourceError(
            f"{begin}: the registry at '{self._url}' has not answered as one: {first_line(reason).rstrip('.')}.",
            "check that it runs and can be reached from here; it is asked again.",
        )
