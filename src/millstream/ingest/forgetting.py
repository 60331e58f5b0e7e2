"""Keys that no read needs any more leave the online store: the devices, addresses and sessions that are never seen again.

A write notes in a shard's meta the instant from which on reads have to be answered; only what is spent by then is removed
afterwards, page by page, each page only while the shard stands where its states were read. So a worker that was stopped, and
wakes when its successor has given a key something again, removes nothing; and one that reads as of an instant before is told
that the store does not know.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from millstream.clock import Clock
from millstream.definitions.group_version import Group, GroupVersion
from millstream.errors import CorruptState, Fenced
from millstream.fold import States, layout_of, spent
from millstream.store.online import FORGOTTEN_BY, Ask, Fact, Forgets, OnlineStore, ShardMeta, forgotten_by

EVERY = 3_600_000_000
"""Microseconds between two instants that a shard notes."""
PAGE, PAUSE = 2_000, 500_000
"""Keys that are looked at together, and the microseconds until the next ones are: ingestion does not wait for long."""
_LOOKED = "looked"  # the fact of a shard that says what the clock said when an instant was noted last

Shard = tuple[GroupVersion[Group], int]


class Forgetting:
    """Removes from the online store the keys whose windows have been empty for a while.

    Args:
        online: the store; one that cannot let go of single keys keeps all of them.
        clock: says what time it is.
        after: how long (µs) a key whose windows are empty stays.
    """

    def __init__(self, online: OnlineStore, clock: Clock, after: int) -> None:
        self._store, self._clock, self._after = online, clock, after
        self._cursors: dict[tuple[str, int], tuple[int, bytes | None]] = {}
        self._done: dict[tuple[str, int], int] = {}
        self._next = 0

    def noted(self, version: GroupVersion[Group], meta: ShardMeta, newest: int, now: int) -> ShardMeta:
        """Return the meta of a write, with the instant noted from which on the states of a shard are to hold what is read.

        It is what the clock said when one was noted before, and no later than the newest event, less a while. So a clock
        that is ahead for a moment makes nobody forget.

        Args:
            version: the group version.
            meta: the meta that is written otherwise.
            newest: when the newest event that is written happened, or arrived if that was earlier (µs).
            now: what the clock says (µs).
        """
        looked = int(meta.extra.get(_LOOKED, now))
        if not isinstance(self._store, Forgets) or (_LOOKED in meta.extra and 0 <= now - looked < EVERY):
            return meta
        if not layout_of(version.group).runs_out:
            return meta
        facts, by = {**meta.extra, _LOOKED: str(now)}, min(looked, newest) - self._after
        if now > looked and by > (forgotten_by(meta) or 0):
            facts[FORGOTTEN_BY] = str(by)
        return msgspec.structs.replace(meta, extra=facts)

    @property
    def under_way(self) -> bool:
        """Whether there is a shard whose keys have not all been looked at."""
        return bool(self._cursors)

    def leave(self, states: str, shard: int) -> None:
        """Forget what was found out of a shard that another worker has now."""
        self._cursors.pop((states, shard), None)
        self._done.pop((states, shard), None)

    def step(self, facts: Iterable[tuple[Shard, Fact]]) -> int:
        """Look at a page of the keys of one shard, if one is due, and return how many were removed.

        Args:
            facts: the shards that are this worker's, and what they hold.

        Raises:
            CorruptState: a state cannot be read; nothing of its page was removed.
            StoreError: when the store cannot be reached.
        """
        now = self._clock.now()
        if not isinstance(self._store, Forgets) or 0 <= self._next - now <= PAUSE:
            return 0
        for (version, shard), meta in facts:
            place = (version.states, shard)
            if not isinstance(meta, ShardMeta) or (by := forgotten_by(meta)) is None:
                self._cursors.pop(place, None)  # it was built anew meanwhile, or cannot be read
                continue
            if meta.pending is not None or self._done.get(place) == by:
                continue
            self._next = now + PAUSE
            known, cursor = self._cursors.get(place, (by, None))
            return self._page(self._store, version, shard, by, cursor if known == by else None)
        return 0

    def _page(self, store: Forgets, version: GroupVersion[Group], shard: int, by: int, cursor: bytes | None) -> int:
        """Remove what is spent of a page, unless the shard is written meanwhile: then it is looked at again."""
        place = (version.states, shard)
        self._cursors[place] = (by, cursor)
        try:
            meta = self._store.read([Ask(version.states, shard)])[0].sound().meta
            if meta is None or forgotten_by(meta) != by:
                return 0
            page = self._store.scan(version.states, shard, cursor, PAGE)
            pairs = dict(page.items)
            over = spent(layout_of(version.group), States.from_bytes(list(pairs.values())), by)
            keys = [key for key, one in zip(pairs, over.tolist(), strict=True) if one]
            if keys:
                store.forget(version.states, shard, keys, meta.position)
        except Fenced:
            return 0
        except CorruptState:
            self._is_done(place, by)  # it is built anew, with the keys that are needed
            raise
        if page.cursor is None:
            self._is_done(place, by)
        else:
            self._cursors[place] = (by, page.cursor)
        return len(keys)

    def _is_done(self, place: tuple[str, int], by: int) -> None:
        self._cursors.pop(place, None)
        self._done[place] = by
