"""Doing some work now and then, and going on when a part of it fails."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from millstream.errors import MillstreamError

T = TypeVar("T")
LOOK = 0.1
"""Seconds between two looks whether something is due that is done beside others."""


def tried(failed: list[MillstreamError], step: Callable[[], T]) -> T | None:
    """What a step returns; when it fails, None, and the error is added to those that failed."""
    try:
        return step()
    except MillstreamError as error:
        failed.append(error)
        return None


class Every:
    """Does something at once and then at most every so many seconds, and for no more than a tenth of the time.

    Args:
        seconds: how many seconds, at least, between two times.
        work: what to do.
    """

    def __init__(self, seconds: float, work: Callable[[], Any]) -> None:
        self._seconds, self._work = seconds, work
        self._due = time.monotonic()

    def step(self) -> Any:
        """Do it if it is time and return its result, else None."""
        began = time.monotonic()
        if began < self._due:
            return None
        try:
            return self._work()
        finally:
            now = time.monotonic()
            self._due = now + max(self._seconds, 10 * (now - began))


class Beside:
    """Does things in a thread of their own, one after another, so that nobody waits for them.

    Args:
        name: the thread's name.
        works: what to do, each when it is due.
    """

    def __init__(self, name: str, works: Sequence[Every]) -> None:
        self._works, self._stop = works, threading.Event()
        self._done: deque[Any] = deque()
        self._failed: deque[Exception] = deque(maxlen=1)
        self._thread = threading.Thread(target=self._go_on, name=name, daemon=True)
        self._thread.start()

    def done(self) -> list[Any]:
        """Return what was done since this was asked last, or raise what failed meanwhile."""
        if self._failed:
            raise self._failed.popleft()
        return [self._done.popleft() for _ in range(len(self._done))]

    def close(self, seconds: float) -> None:
        """Begin nothing more, and wait for what is under way, for so many seconds at most."""
        self._stop.set()
        self._thread.join(seconds)

    def _go_on(self) -> None:
        while not self._stop.wait(LOOK):
            for work in self._works:
                try:
                    found = work.step()
                except Exception as error:  # of any type: raised by whoever asks, as it would have been there
                    self._failed.append(error)
                else:
                    if found is not None:
                        self._done.append(found)
