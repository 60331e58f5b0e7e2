"""Showing how far long work is, to whoever wants to see it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

Advance = Callable[[int, int | None], None]
"""Called with how much is done and how much there is, where that is known."""
Watch = Callable[[str], AbstractContextManager[Advance]]
"""Called with what is done now; gives what is called as it goes on."""


def unwatched(what: str) -> AbstractContextManager[Advance]:
    """Show nothing."""
    return nullcontext(lambda done, total: None)


def counter(advance: Advance, total: int | None) -> Callable[[int], None]:
    """What is called with how much more is done.

    Args:
        advance: called with how much is done in all.
        total: how much there is; None where that is not known.

    >>> count = counter(lambda done, total: print(done, "of", total), 7)
    >>> count(3), count(4)
    3 of 7
    7 of 7
    (None, None)
    """
    done = 0

    def more(some: int) -> None:
        nonlocal done
        done += some
        advance(done, total)

    return more
