"""What a shard of an online store holds, as tests ask for it: one shard, and an error instead of a failure."""

from __future__ import annotations

from collections.abc import Sequence

from millstream.ingest.writing import write_all
from millstream.store.online import OnlineStore, ShardMeta, pages, read_shard

_PATIENCE = 1_000


def held(
    online: OnlineStore, states: str, shard: int, keys: Sequence[bytes]
) -> tuple[list[bytes | None], ShardMeta | None]:
    """Return the values of some keys of a shard and its meta, of one instant.

    Args:
        online: the store.
        states: the name of the states, such as "user_velocity@1".
        shard: the number of the shard.
        keys: the encoded keys.

    Returns:
        tuple: for each key its value or None, and the meta, None for a shard that does not exist.

    Raises:
        StoreError: when the shard cannot be read.

    >>> import tempfile
    >>> from millstream.store.lmdb.store import LmdbOnlineStore
    >>> held(LmdbOnlineStore(tempfile.mkdtemp()), "velocity@1", 0, [b"user-1"])
    ([None], None)
    """
    answer = read_shard(online, states, shard, keys)
    return answer.values, answer.meta


def put(
    online: OnlineStore,
    states: str,
    shard: int,
    changes: Sequence[tuple[bytes, bytes]],
    meta: ShardMeta,
    expected: int | None,
) -> None:
    """Write values until the store holds all of them.

    Args:
        online: the store.
        states: the name of the states, such as "user_velocity@1".
        shard: the number of the shard.
        changes: encoded keys and their new values.
        meta: what the shard says of itself afterwards.
        expected: the position that the shard is at; None: it does not exist.

    Raises:
        Fenced: when another writer has moved the shard.
    """
    write_all(online, states, shard, changes, meta, expected, _PATIENCE)


def meta_of(online: OnlineStore, states: str, shard: int) -> ShardMeta | None:
    """Return what a shard has applied, None when it does not exist.

    Args:
        online: the store.
        states: the name of the states.
        shard: the number of the shard.

    Raises:
        StoreError: when it cannot be read.
    """
    return read_shard(online, states, shard).meta


def pairs(online: OnlineStore, states: str, shard: int) -> list[tuple[bytes, bytes]]:
    """Return all keys of a shard with their values, in the order of the keys.

    Args:
        online: the store.
        states: the name of the states.
        shard: the number of the shard.

    Raises:
        StoreError: when it cannot be read.
    """
    return sorted({pair for page in pages(online, states, shard) for pair in page.items})
