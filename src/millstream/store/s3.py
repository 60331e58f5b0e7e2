"""S3-compatible storage: who we are there, what its library says when something is wrong, and a folder of whole objects."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from millstream.errors import StoreError

if TYPE_CHECKING:
    from pyarrow.fs import S3FileSystem

CONNECT_SECONDS = 3.0
"""Seconds that a connection may take, which is tried three times."""
_REGION = "us-east-1"  # what servers that are not Amazon's take for granted
_SAID = re.compile(r"AWS Error (\w+)")
_BUCKET = re.compile(r"bucket '([^']*)'")
_DETAIL = re.compile(r"curlCode: \d+, ([^;]*)")
_REFUSED = {
    "ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "INVALID_CLIENT_TOKEN_ID", "INVALID_SIGNATURE", "MISSING_AUTHENTICATION_TOKEN",
    "REQUEST_EXPIRED", "SIGNATURE_DOES_NOT_MATCH", "UNRECOGNIZED_CLIENT",
}  # fmt: skip
_AWAY = {"NETWORK_CONNECTION", "INTERNAL_FAILURE", "SERVICE_UNAVAILABLE", "SLOW_DOWN", "REQUEST_TIMEOUT", "THROTTLING"}


@dataclass(frozen=True)
class S3:
    """Access to S3-compatible storage.

    Args:
        endpoint: where it is, such as "https://s3.example.com"; Amazon's unless given.
        region: its region; "us-east-1" at an endpoint, the one that the environment names at Amazon, unless given.
        access_key: the name of the key; without one AWS's own ways of finding one are tried.
        secret: the key itself.
        seconds: how long it may be silent within one request, each of which is tried three times.

    >>> S3("http://127.0.0.1:8333", access_key="miller", secret="grist")
    S3(endpoint='http://127.0.0.1:8333', region='', access_key='miller', seconds=10.0)
    """

    endpoint: str = ""
    region: str = ""
    access_key: str = ""
    secret: str = field(default="", repr=False)
    seconds: float = 10.0

    @property
    def properties(self) -> dict[str, str]:
        """The same as properties of PyIceberg."""
        given = {
            "s3.endpoint": self.endpoint,
            "s3.region": self._region,
            "s3.access-key-id": self.access_key,
            "s3.secret-access-key": self.secret,
            "s3.connect-timeout": str(CONNECT_SECONDS),
            "s3.request-timeout": str(self.seconds),
        }
        return {name: value for name, value in given.items() if value}

    @cached_property
    def files(self) -> S3FileSystem:
        """All that it holds, by "bucket/key"; nothing is asked before something is read or written."""
        from pyarrow.fs import S3FileSystem

        return S3FileSystem(
            endpoint_override=self.endpoint or None,
            region=self._region or None,
            access_key=self.access_key or None,
            secret_key=self.secret or None,
            connect_timeout=CONNECT_SECONDS,
            request_timeout=self.seconds,
            allow_delayed_open=True,  # a small object takes one request
        )

    @property
    def _region(self) -> str:
        return self.region or (_REGION if self.endpoint else "")

    def explained(self, what: str, error: OSError) -> StoreError | None:
        """What to say of an error of the storage; None for one that is not the storage's.

        Args:
            what: what could not be done, such as "Offline table 'events.payments'".
            error: what the library has raised.
        """
        said, told = str(error), _SAID.search(str(error))
        if told is None:
            return None
        place, kind = self.endpoint or "Amazon S3", told[1]
        named = _BUCKET.search(said)
        bucket = named[1] if named else ""
        if kind == "NO_SUCH_BUCKET":
            return StoreError(
                f"{what}: '{place}' has no bucket '{bucket}'.", "make the bucket, or mend `path` in [offline]."
            )
        if kind in _REFUSED:
            return StoreError(
                f"{what}: '{place}' refuses access to bucket '{bucket}' ({kind}).",
                "look at `access_key` in [offline] and at its secret; the key needs the right to list the bucket and to "
                "read, write and delete what is in it.",
            )
        if kind in _AWAY:
            detail = _DETAIL.search(said)
            return StoreError(
                f"{what}: '{place}' cannot be reached ({detail[1] if detail else kind}).",
                "look at the server, and at `endpoint` in [offline]; what waits for it tries again.",
            )
        return StoreError(
            f"{what}: '{place}' answers {kind}, which S3 does not.",
            "look at `endpoint` in [offline], which is where S3 is served.",
        )


@dataclass(frozen=True)
class ObjectFolder:
    """Objects whose names begin the same; each is there whole or not at all.

    Args:
        s3: the storage.
        path: the bucket, and what the names begin with: "lake/shop/models".
    """

    s3: S3
    path: str

    def __truediv__(self, name: str) -> ObjectFolder:
        return ObjectFolder(self.s3, f"{self.path}/{name}")

    def __str__(self) -> str:
        return f"s3://{self.path}"

    def write(self, name: str, content: bytes) -> None:
        """Put an object, in place of the one that there is.

        Raises:
            StoreError: the storage refuses it, or cannot be reached.
        """
        try:
            with self.s3.files.open_output_stream(f"{self.path}/{name}") as file:
                file.write(content)
        except OSError as error:
            raise self._explained(name, error) from error

    def read(self, name: str) -> bytes | None:
        """An object; None where there is none.

        Raises:
            StoreError: the storage refuses it, or cannot be reached.
        """
        try:
            with self.s3.files.open_input_stream(f"{self.path}/{name}") as file:
                return bytes(file.read())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._explained(name, error) from error

    def _explained(self, name: str, error: OSError) -> StoreError:
        what = f"'{self}/{name}'"
        return self.s3.explained(what, error) or StoreError(f"{what} cannot be used: {str(error).splitlines()[0]}.")
