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

WORTH = 200
"""Nothing must have come for so many times as long as it takes to ask the log whether anything has, before that is asked:
microseconds on this machine, a second or so where it is elsewhere."""


class Quiet:
    """Leaves a log alone that has been read to its end, until something has come.

    A log that does not tell is read each time, and so is one of which something is left.

    Args:
        log: the log.
    """

    def __init__(self, log: Log) -> None:
        self._log = log if isinstance(log, Watched) else None
        self._seen: int | None = None
        self._until, self._came, self._cost = 0.0, 0.0, 0.0

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
        seen, began = None, time.monotonic()
        if self._log is not None and began - self._came >= WORTH * self._cost:
            seen, looked = self._log.wait(None, 0.0), time.monotonic()
            self._cost = looked - began
            if seen == self._seen and looked < self._until:
                return None
        self._seen = None
        done = work()
        if not read_all(done):
            self._came = time.monotonic()
        elif seen is not None:
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
