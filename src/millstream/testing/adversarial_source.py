"""A foreign source that keeps the text of the protocol and nothing more, to find who relies on more than that."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

from millstream.errors import SourceBusy
from millstream.sources.source import NO_STAMP, Behind, Events, Shard


@dataclass
class ForeignShard:
    """What a shard of a made source holds.

    Args:
        parents: the shards that it goes on from.
        events: payload, key and stamp of each event ever put there.
        kept: how many of the first are not kept any more.
        closed: whether nothing more will come.
        listed: whether it is still among the shards.
    """

    parents: tuple[str, ...] = ()
    events: list[tuple[bytes | None, bytes | None, int]] = field(default_factory=list)
    kept: int = 0
    closed: bool = False
    listed: bool = True


class AdversarialSource:
    """Any protocol of a source, as badly as it may be: for the tests of whatever takes events in.

    Positions do not sort, and several stand for one place. A read gives fewer events than were asked for, or none at
    all though there are some, and moves on in spite of it; a shard is closed in a read of its own. Shards are listed in
    any order, and now and then one is missing. It is throttled at random. What expires is said to be lost.

    Args:
        seed: what it draws from: the same seed gives the same reads.
        patience: how often in a row it may give nothing, or be throttled, though there is something.

    Example:
        >>> source = AdversarialSource(seed=3, patience=0)
        >>> source.put("a", b'{"n": 1}')
        >>> source.split("a")
        ['a.0', 'a.1']
        >>> sorted((shard.name, shard.parents) for shard in source.shards({}))
        [('a', ()), ('a.0', ('a',)), ('a.1', ('a',))]
        >>> found = source.read("a", None, 10)
        >>> found.payloads, found.closed, source.read("a", found.next, 10).closed
        ([b'{"n": 1}'], False, True)
    """

    def __init__(self, seed: int, patience: int = 2) -> None:
        self.held: dict[str, ForeignShard] = {}
        self._chance, self._patience = random.Random(seed), patience
        self._places: dict[str, tuple[str, int]] = {}
        self._silent: Counter[str] = Counter()

    def put(self, shard: str, payload: bytes | None, key: bytes | None = None, stamp: int = NO_STAMP) -> None:
        """Put an event at the end of a shard, which is made if there is none.

        Args:
            shard: the shard's name.
            payload: the event; None for a tombstone.
            key: the source's own key.
            stamp: when the source takes it, in microseconds.
        """
        self.held.setdefault(shard, ForeignShard()).events.append((payload, key, stamp))

    def split(self, shard: str) -> list[str]:
        """Close a shard, and go on in two that have it as their parent; returns their names."""
        self.held[shard].closed = True
        children = [f"{shard}.0", f"{shard}.1"]
        self.held |= {child: ForeignShard((shard,)) for child in children}
        return children

    def merge(self, first: str, second: str) -> str:
        """Close two shards, and go on in one that has both as its parents; returns its name."""
        self.held[first].closed = self.held[second].closed = True
        child = f"{first}+{second}"
        self.held[child] = ForeignShard((first, second))
        return child

    def expire(self, shard: str, count: int) -> None:
        """Keep so many of the oldest events no longer."""
        held = self.held[shard]
        held.kept = min(len(held.events), held.kept + count)

    def shards(self, read: Mapping[str, str | None]) -> list[Shard]:
        """Return the shards in any order, now and then without one."""
        self._throttle("shards")
        found = [Shard(name, held.parents) for name, held in self.held.items() if held.listed]
        self._chance.shuffle(found)
        parents = {parent for shard in found for parent in shard.parents}
        if self._patience and found and found[-1].name not in parents and self._chance.random() < 0.1:
            found.pop()
        return found

    def read(self, shard: str, position: str | None, limit: int, until: str | None = None) -> Events:
        """Return some events of a shard, or none; see `Source.read`."""
        self._throttle(shard)
        held, lost = self.held[shard], None
        begin = 0 if position is None else self._places[position][1]
        if begin < held.kept:
            if position is not None:
                lost = f"Shard '{shard}': {held.kept - begin} events are not kept any more."
            begin = held.kept
        end = len(held.events) if until is None else max(begin, self._places[until][1])
        if end > begin and self._is_silent(shard):
            return Events.of([], self._position(shard, begin), lost=lost)
        shown = min(end, begin + self._chance.randint(1, max(1, limit)))
        some = held.events[begin:shown]
        following = until if until is not None and shown == end else self._position(shard, shown)
        columns = zip(*some, strict=True) if some else ([], [], [])
        payloads, keys, stamps = map(list, columns)
        closed = held.closed and not some and until is None
        return Events.of(payloads, following, stamps=stamps, keys=keys, closed=closed, lost=lost)

    def behind(self, shard: str, position: str | None) -> Behind:
        """Return what lies after a position."""
        held = self.held[shard]
        begin = 0 if position is None else self._places[position][1]
        left = held.events[max(begin, held.kept) :]
        stamps = [stamp for _, _, stamp in left if stamp != NO_STAMP]
        return Behind(len(left), min(stamps, default=None))

    def close(self) -> None:
        """Nothing is open."""

    def _position(self, shard: str, place: int) -> str:
        """One of several texts that stand for a place."""
        salt = self._chance.randint(0, 3)
        text = blake2b(f"{shard} {place} {salt}".encode(), digest_size=9).hexdigest()
        self._places[text] = shard, place
        return text

    def _is_silent(self, shard: str) -> bool:
        if self._silent[shard] < self._patience and self._chance.random() < 0.4:
            self._silent[shard] += 1
            return True
        self._silent[shard] = 0
        return False

    def _throttle(self, place: str) -> None:
        busy = f"busy {place}"
        if self._silent[busy] < self._patience and self._chance.random() < 0.15:
            self._silent[busy] += 1
            raise SourceBusy("The made source is throttled.")
        self._silent[busy] = 0
