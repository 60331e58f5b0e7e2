"""Writing what a shard takes in, until the store holds all of it."""

from __future__ import annotations

from collections.abc import Sequence

from millstream.errors import Fenced
from millstream.store.online import BEGUN, Answer, OnlineStore, ShardMeta, read_shard

TRIES = 8
"""How often a write is made again for the keys that the store refused, where the next step goes on with it."""
FILLING = 100
"""How often where giving up means to begin anew."""


def read_unmoved(online: OnlineStore, states: str, shard: int, keys: Sequence[bytes], expected: int | None) -> Answer:
    """Return what a shard answers that its writer has found at a position.

    Where a store gives way to a copy of itself that lags, a shard goes back for a while. Values of then must not be
    written when it has come up again to where it is expected: the write would not be refused.

    Args:
        online: the store.
        states: the name of the states, `version.states`.
        shard: the shard.
        keys: the encoded keys whose states are wanted.
        expected: the position at which it was found; None: the shard was not there.

    Raises:
        Fenced: when the shard is elsewhere.
        StoreError: when it cannot be read.
    """
    answer = read_shard(online, states, shard, keys)
    found = None if answer.meta is None else answer.meta.position
    if found != expected:
        raise Fenced.moved(f"shard {shard} of '{states}'", expected, found)
    return answer


def write_all(
    online: OnlineStore,
    states: str,
    shard: int,
    changes: Sequence[tuple[bytes, bytes]],
    meta: ShardMeta,
    expected: int | None,
    tries: int = TRIES,
) -> None:
    """Write values and what they hold, and again those that the store refuses.

    While the position of a shard stays, a value changes once at most: to what is pending, whoever writes it. So a refused
    value that is not ahead is what it was when it was read, and what was made of it is right still.

    Args:
        online: the store.
        states: the name of the states.
        shard: the number of the shard.
        changes: keys and their new values, made of values that were not ahead of `expected`.
        meta: what the shard has applied once they are in.
        expected: the position of the shard that the writer has read; None if it did not exist.
        tries: how often to write before giving up.

    Raises:
        Fenced: when another writer has moved the shard, or the store has refused keys again and again. Those that it took
            are ahead then, and the next write to the same position goes on from there.
        DiskFull: when there is no room.
    """
    left = changes
    for _ in range(tries):
        refused = online.write(states, shard, left, meta, expected)
        if not refused:
            return
        if expected is None:
            expected = BEGUN
        ahead = read_shard(online, states, shard, refused).ahead(expected)
        again = {key for place, key in enumerate(refused) if place not in ahead}
        left = [change for change in left if change[0] in again]
    raise Fenced(
        f"Shard {shard} of '{states}': the store has refused {len(left)} keys {tries} times.",
        "the next step tries them again; if it goes on, look at the store's server.",
    )
