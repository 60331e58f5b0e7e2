"""What a layer does while its log is quiet: nothing, until the log has moved."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from millstream.buffer.log import Log, Watched

T = TypeVar("T")
WATCHED = 0.25
"""Seconds that a log is watched at once, so that a layer that is told to stop stops soon."""
SURE = 30.0
"""Seconds after which a quiet log is read nevertheless, for what else may have changed: a store that was restored, say."""


class Quiet:
    """Leaves a log alone that has been read to its end, until something has come.

    A log that does not tell is read each time, and so is one of which something is left.

    Args:
        log: the log.
    """

    def __init__(self, log: Log) -> None:
        self._log = log if isinstance(log, Watched) else None
        self._seen: int | None = None
        self._until, self._calm = 0.0, True

    def read(self, work: Callable[[], T], read_all: Callable[[T], bool]) -> T | None:
        """Do what reads the log, or nothing when there is nothing to read.

        Args:
            work: reads the log.
            read_all: whether, by what it returned, nothing is left, nor will be before something comes.

        Returns:
            What `work` returned; None when it was not called.

        Raises:
            MillstreamError: what `work` raises; it is called again the next time.
        """
        # While there is something to read each time, the log is not asked in vain whether there is.
        seen = self._log.wait(None, 0.0) if self._log is not None and self._calm else None
        if seen is not None and seen == self._seen and time.monotonic() < self._until:
            return None
        self._seen, self._calm = None, False
        done = work()
        self._calm = read_all(done)
        if seen is not None and self._calm:
            self._seen, self._until = seen, time.monotonic() + SURE
        return done

    def rest(self, stop: threading.Event, seconds: float) -> None:
        """Wait until something has come, or a while; where something is left, for so many seconds.

        Args:
            stop: ends the wait when it is set, at once or soon.
            seconds: how long to wait where the log does not tell, or something is left.
        """
        if self._log is None or self._seen is None:
            stop.wait(seconds)
        else:
            self._log.wait(self._seen, WATCHED)
