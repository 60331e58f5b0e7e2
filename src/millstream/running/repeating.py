"""Doing some work now and then, and going on when a part of it fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from millstream.errors import MillstreamError

T = TypeVar("T")


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
