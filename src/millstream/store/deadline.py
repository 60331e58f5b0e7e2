"""Reads of an online store that is elsewhere, each with a deadline: a server that hangs costs values, not who reads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

from millstream.errors import StoreError
from millstream.store.online import Answer, Ask, Fact, OnlineStore, Page, ReadsInTime, ShardMeta, reads_locally

AT_ONCE = 32
"""Reads that are under way at once; others wait for one of them to end, as long as they may."""
LOOKS_AT_ONCE = 4
"""Looks at the facts that are under way at once, beside the reads."""
LOOK_SECONDS = 5.0
"""Seconds that a look at the facts of all versions may take: no request waits for it."""
Found = TypeVar("Found")


def with_deadline(online: OnlineStore, seconds: float) -> OnlineStore:
    """Give the reads of a store a deadline, unless they take microseconds anyway, or the store sees to it itself.

    Args:
        online: the store.
        seconds: how long a read may take.

    Returns:
        OnlineStore: the store itself where it is local.

    Example:
        >>> import tempfile
        >>> from millstream.store.lmdb.store import LmdbOnlineStore
        >>> store = LmdbOnlineStore(tempfile.mkdtemp())
        >>> with_deadline(store, 1.0) is store
        True
    """
    if isinstance(online, ReadsInTime):
        return online.served(seconds)
    return online if reads_locally(online) else DeadlineStore(online, seconds)


class DeadlineStore:
    """An online store of which a read that takes too long is given up; see the protocol `OnlineStore`.

    The shards of a read that was given up are as those that cannot be read: the answer says so, and the request goes on
    without them; of the facts it says that the store cannot be reached. The read itself goes on in its thread, for nothing
    can end it, and takes one of the places until it ends. While all places are taken by reads that were given up, the next
    one is not begun, and fails at once.

    Args:
        online: the store.
        seconds: how long a read may take, the wait for a place included.
        at_once: how many reads may be under way.
        look_seconds: how long a look at the facts may take.
    """

    def __init__(
        self, online: OnlineStore, seconds: float, at_once: int = AT_ONCE, *, look_seconds: float = LOOK_SECONDS
    ) -> None:
        self._online = online
        self._reads, self._looks = _Places(at_once, seconds), _Places(LOOKS_AT_ONCE, look_seconds)

    def read(self, asks: Sequence[Ask]) -> list[Answer]:
        """What each shard answers; that it cannot be read, where the store has not answered in time."""
        read = self._reads.call(lambda: self._online.read(asks))
        if read is None:
            late = _unanswered(self._reads.seconds)
            return [Answer([None] * len(ask.keys), failure=late) for ask in asks]
        return read.value()

    def write(
        self, states: str, shard: int, changes: Sequence[tuple[bytes, bytes]], meta: ShardMeta, expected: int | None
    ) -> Sequence[bytes]:
        """Write values, then the meta that says what they hold, without a deadline; see `OnlineStore.write`."""
        return self._online.write(states, shard, changes, meta, expected)

    def scan(self, states: str, shard: int, cursor: bytes | None = None, limit: int = 10_000) -> Page:
        """Some of the keys of a shard with their values, without a deadline; see `OnlineStore.scan`."""
        return self._online.scan(states, shard, cursor, limit)

    def facts(self, shards: Mapping[str, int]) -> dict[str, list[Fact]]:
        """By states, what each of their shards has applied. Raises `StoreError` where the store has not answered in time."""
        look = self._looks.call(lambda: self._online.facts(shards))
        if look is None:
            raise _unanswered(self._looks.seconds)
        return look.value()

    def drop(self, states: str) -> None:
        """Remove every shard of a group version."""
        self._online.drop(states)


def _unanswered(seconds: float) -> StoreError:
    return StoreError(
        f"The online store has not answered within {seconds * 1_000:.0f} ms.",
        "look at its server; `online_read_ms` in millstream.toml says how long a request waits.",
    )


class _Places:
    """The calls that are under way at once, each in a thread of its own.

    Args:
        at_once: how many there are at most.
        seconds: how long one may take.
    """

    def __init__(self, at_once: int, seconds: float) -> None:
        self.seconds, self._at_once = seconds, at_once
        self._free, self._guard = threading.Semaphore(at_once), threading.Lock()
        self.given_up = 0

    def call(self, function: Callable[[], Found]) -> _Call[Found] | None:
        """Call a function, and return the call when it has ended; None where it has not in time."""
        end = time.monotonic() + self.seconds
        if not self._free.acquire(timeout=0 if self.given_up >= self._at_once else self.seconds):
            return None
        call = _Call(function)
        threading.Thread(target=self._carry_out, args=(call,), name="store-read", daemon=True).start()
        if not call.over.wait(max(0.0, end - time.monotonic())) and self._give_up(call):
            return None
        return call

    def _carry_out(self, call: _Call[Found]) -> None:
        """Make a call, and free the place whenever that ends."""
        try:
            call.found = call.function()
        except Exception as error:
            call.error = error
        with self._guard:
            call.over.set()
            self.given_up -= call.given_up
        self._free.release()

    def _give_up(self, call: _Call[Found]) -> bool:
        """Count a call among those that nobody waits for any more, unless it has ended this moment."""
        with self._guard:
            call.given_up = not call.over.is_set()
            self.given_up += call.given_up
        return call.given_up


class _Call(Generic[Found]):
    """One call, in a thread of its own."""

    def __init__(self, function: Callable[[], Found]) -> None:
        self.function = function
        self.over = threading.Event()
        self.given_up = False
        self.found: Found | None = None
        self.error: Exception | None = None

    def value(self) -> Found:
        """What it returned, or raised."""
        if self.error is not None:
            raise self.error
        return self.found  # type: ignore[return-value]
