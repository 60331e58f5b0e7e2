"""The states of group versions in another online store: every key as it is, and what tells that they are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

import msgspec

from millstream.errors import StoreError
from millstream.store.online import BulkLoad, OnlineStore, ShardMeta, pages, shard_metas

_FILLING = -(1 << 61)
"""The position of a shard that is being filled: whoever else writes it is refused."""
_PAGE = 5_000
_TRIES = 100
"""How often a write is made again for keys that the store refuses."""


@dataclass(frozen=True)
class States:
    """What a shard holds.

    Attributes:
        keys: how many keys.
        size: how many bytes they and their values have.
        sum: a checksum of them, whatever their order.
    """

    keys: int = 0
    size: int = 0
    sum: int = 0

    def __add__(self, other: States) -> States:
        return States(self.keys + other.keys, self.size + other.size, (self.sum + other.sum) % 2**128)


def held(items: Iterable[tuple[bytes, bytes]]) -> States:
    """What some keys and values come to.

    >>> held([(b"a", b"1"), (b"b", b"2")]) == held([(b"b", b"2"), (b"a", b"1")])
    True
    >>> held([(b"a", b"1")]).sum == held([(b"", b"a1")]).sum
    False
    """
    keys = size = total = 0
    for key, value in items:
        keys, size = keys + 1, size + len(key) + len(value)
        total += int.from_bytes(blake2b(b"%d " % len(key) + key + value, digest_size=16).digest())
    return States(keys, size, total % 2**128)


def states_in(online: OnlineStore, states: str, shard: int) -> States:
    """What a shard holds, by a scan of it.

    Args:
        online: the store.
        states: the name of the states.
        shard: the number of the shard.
    """
    return held(item for items in _in_pages(online, states, shard) for item in items)


def copy_states(
    source: OnlineStore, target: OnlineStore, states: str, shards: int, moved: Callable[[int], None] = lambda keys: None
) -> States:
    """Let a store hold the states of a version as another one holds them, with what they have applied.

    What it held of that version is dropped. Until a shard is whole its position is negative, so nobody reads it. Nobody
    writes to the source meanwhile.

    Args:
        source: the store that has them, which is only read.
        target: the store that is to have them.
        states: the name of the states, such as "user_velocity@1".
        shards: how many shards they have.
        moved: called with how many more keys are there.

    Returns:
        What was copied.

    Raises:
        StoreError: when a store cannot be reached, a shard cannot be read, or the copy is not what was written.
        DiskFull: when there is no room.
    """
    target.drop(states)
    total = States()
    for shard, meta in enumerate(shard_metas(source, states, shards)):
        if meta is None:
            continue
        if meta.pending is not None or meta.position < 0:
            raise StoreError(
                f"States '{states}', shard {shard}: a write to them is not complete.",
                "run `millstream up` until it is, then stop it.",
            )
        copied = _copy_shard(source, target, states, shard, meta, moved)
        found = states_in(target, states, shard)
        if found != copied or shard_metas(target, states, shards)[shard] != meta:
            raise StoreError(
                f"States '{states}', shard {shard}: the copy holds {found.keys:,} keys that are not the {copied.keys:,} of "
                "the store that it was made of.",
                "see that nothing else writes to either store, and do it again.",
            )
        total += copied
    return total


def _copy_shard(
    source: OnlineStore,
    target: OnlineStore,
    states: str,
    shard: int,
    meta: ShardMeta,
    moved: Callable[[int], None],
) -> States:
    at, total = _FILLING, States()
    filling = ShardMeta(position=at, applied_at=meta.applied_at, epoch=meta.epoch)
    target.write(states, shard, [], filling, None)
    for items in _in_pages(source, states, shard):
        filling = msgspec.structs.replace(filling, position=at + 1)
        if isinstance(target, BulkLoad):
            target.load(states, shard, items, filling, at)
        else:
            _written(target, states, shard, items, filling, at)
        at, total = at + 1, total + held(items)
        moved(len(items))
    target.write(states, shard, [], meta, at)
    return total


def _in_pages(online: OnlineStore, states: str, shard: int) -> Iterator[list[tuple[bytes, bytes]]]:
    """The keys of a shard that nobody writes to, each once, though a scan may give some of them twice."""
    known = set[bytes]()
    for page in pages(online, states, shard, None, _PAGE):
        items = {key: value for key, value in page.items if key not in known}
        known.update(items)
        if items:
            yield list(items.items())


def _written(
    target: OnlineStore, states: str, shard: int, items: list[tuple[bytes, bytes]], meta: ShardMeta, expected: int
) -> None:
    left = dict(items)
    for _ in range(_TRIES):
        refused = target.write(states, shard, list(left.items()), meta, expected)
        if not refused:
            return
        left = {key: left[key] for key in refused}
    raise StoreError(f"States '{states}', shard {shard}: the store has refused {len(left)} keys {_TRIES} times.")
