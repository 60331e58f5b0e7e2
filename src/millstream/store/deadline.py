"""Reads of an online store that is elsewhere, each with a deadline: a server that hangs costs values, not the service."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

from millstream.errors import StoreError
from millstream.store.online import Answer, Ask, Fact, OnlineStore, Page, ReadsInTime, ShardMeta, reads_locally

AT_ONCE = 32
"""Reads that are under way at once; others wait for one of them to end, as long as they may."""


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
    without them. The read itself goes on in its thread, for nothing can end it, and takes one of the places until it ends.
    While all places are taken by reads that were given up, the next one is not begun, and fails at once.

    Args:
        online: the store.
        seconds: how long a read may take, the wait for a place included.
        at_once: how many reads may be under way.
    """

    def __init__(self, online: OnlineStore, seconds: float, at_once: int = AT_ONCE) -> None:
        self._online, self._seconds, self._at_once = online, seconds, at_once
        self._free, self._guard = threading.Semaphore(at_once), threading.Lock()
        self._given_up = 0

    def read(self, asks: Sequence[Ask]) -> list[Answer]:
        """What each shard answers; that it cannot be read, where the store has not answered in time."""
        end = time.monotonic() + self._seconds
        if not self._free.acquire(timeout=0 if self._given_up >= self._at_once else self._seconds):
            return self._unanswered(asks)
        read = _Read(self._online, asks)
        threading.Thread(target=self._carry_out, args=(read,), name="store-read", daemon=True).start()
        if not read.over.wait(max(0.0, end - time.monotonic())) and self._give_up(read):
            return self._unanswered(asks)
        if read.error is not None:
            raise read.error
        return read.answers

    def write(
        self, states: str, shard: int, changes: Sequence[tuple[bytes, bytes]], meta: ShardMeta, expected: int | None
    ) -> Sequence[bytes]:
        """Write values, then the meta that says what they hold; return the keys that were refused."""
        return self._online.write(states, shard, changes, meta, expected)

    def scan(self, states: str, shard: int, cursor: bytes | None = None, limit: int = 10_000) -> Page:
        """Some of the keys of a shard with their values, and where to go on."""
        return self._online.scan(states, shard, cursor, limit)

    def facts(self, shards: Mapping[str, int]) -> dict[str, list[Fact]]:
        """By states, what each of their shards has applied; off the scoring path, so without a deadline."""
        return self._online.facts(shards)

    def drop(self, states: str) -> None:
        """Remove every shard of a group version."""
        self._online.drop(states)

    def _carry_out(self, read: _Read) -> None:
        """Read, and free the place whenever that ends."""
        try:
            read.answers = read.online.read(read.asks)
        except Exception as error:
            read.error = error
        with self._guard:
            read.over.set()
            self._given_up -= read.given_up
        self._free.release()

    def _give_up(self, read: _Read) -> bool:
        """Count a read among those that nobody waits for any more, unless it has ended this moment."""
        with self._guard:
            read.given_up = not read.over.is_set()
            self._given_up += read.given_up
        return read.given_up

    def _unanswered(self, asks: Sequence[Ask]) -> list[Answer]:
        failure = StoreError(
            f"The online store has not answered within {self._seconds * 1_000:.0f} ms.",
            "look at its server; `online_read_ms` in millstream.toml says how long is waited.",
        )
        return [Answer([None] * len(ask.keys), failure=failure) for ask in asks]


class _Read:
    """One read, in a thread of its own."""

    def __init__(self, online: OnlineStore, asks: Sequence[Ask]) -> None:
        self.online, self.asks = online, asks
        self.over = threading.Event()
        self.given_up = False
        self.answers: list[Answer] = []
        self.error: Exception | None = None
