"""A consumer that is registered with a stream: what each of its shards is subscribed to for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from millstream.errors import SourceBusy, SourceError
from millstream.sources.kinesis.service import GoneShard, Invalid, Service

PATIENCE = 60.0
"""Seconds in which a consumer has to become active."""


class Consumer:
    """A consumer by its name, registered when it is asked for and not there; it is never deregistered.

    Args:
        service: the stream.
        name: its name.
        seconds: what is measured with how long it takes to become active.
    """

    def __init__(self, service: Service, name: str, seconds: Callable[[], float] = time.monotonic) -> None:
        self._service, self.name, self._seconds = service, name, seconds
        self._arn: str | None = None
        self._since: float | None = None

    def arn(self) -> str:
        """Return its ARN, without waiting until it is active.

        Raises:
            SourceBusy: as long as it is not active yet.
            SourceError: when it cannot be registered, does not become active, or nobody answers.
        """
        if self._arn is None:
            stream = self._service.described().arn
            self._arn = self._active(self._found(stream) or self._registered(stream))
        return self._arn

    def forget(self) -> None:
        """Ask anew, the next time, whether it is there."""
        self._arn = None

    def _found(self, stream: str) -> Any:
        try:
            found = self._service.ask("describe_stream_consumer", StreamARN=stream, ConsumerName=self.name)
        except GoneShard:
            return None
        except Invalid as error:
            raise self._refused(error) from None
        return found["ConsumerDescription"]

    def _registered(self, stream: str) -> Any:
        try:
            return self._service.ask("register_stream_consumer", StreamARN=stream, ConsumerName=self.name)["Consumer"]
        except SourceBusy as error:
            if "LimitExceeded" in error.message:  # of consumers: it does not pass by itself, as others do
                raise self._refused("it has as many as it may have, or many are being made") from None
            raise
        except (GoneShard, Invalid) as error:
            raise self._refused(error) from None

    def _active(self, found: Any) -> str:
        if found["ConsumerStatus"] == "ACTIVE":
            self._since = None
            return str(found["ConsumerARN"])
        now = self._seconds()
        if self._since is None:
            self._since = now
        said = f"{self._service.named}: consumer '{self.name}' is {found['ConsumerStatus']}"
        if now - self._since > PATIENCE:
            raise SourceError(f"{said} for more than {PATIENCE:g} s.", "wait, or set another name as `consumer`.")
        raise SourceBusy(f"{said}.")

    def _refused(self, why: object) -> SourceError:
        return SourceError(
            f"{self._service.named} takes no consumer '{self.name}': {why}.",
            "set a name of 1 to 128 letters, digits, '_', '.' and '-', deregister one that is used no more, or leave "
            "`consumer` out to poll.",
        )
