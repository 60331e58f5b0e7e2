"""The online store: the newest state of every key, with the log positions it holds, in one atomic unit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Protocol, runtime_checkable

import msgspec

EARLY = "the state of the key is exact only from a later instant on"
"""Why a fold is not read from a state whose key has newer events: they may be merged with those before the instant."""
LET_GO = "the store no longer holds what was in force so long ago"
"""Why the row of a query is not read at an instant of long ago."""
PAST = frozenset({EARLY, LET_GO})
"""The reasons for which a value is not read online that history can tell."""


MARK = "log"
"""The fact of a shard that tells which log it was filled from: see `millstream.buffer.agreement`."""


PRUNED_BY = "pruned_by"
"""The fact of a shard of a batch group that tells from which instant (µs) on its states hold what a read needs."""


class ShardMeta(msgspec.Struct, frozen=True, kw_only=True):
    """What a shard of a group version has applied; written in the same transaction as the states it describes.

    Args:
        position: the next position of the shard's feature topic partition to apply.
        applied: by "stream/partition", the next source position: every event below it is in the states.
        newest_arrival: the newest arrival among the events applied, in µs since the epoch.
        applied_at: the latest time of a write, in µs since the epoch by the project's clock, which may be set back.
        backfilled: whether the history before the start markers is in.
        epoch: counts the times the shard was begun anew.
        delays: of the newest writes, the time (µs) from the arrival of the events to the write.
        extra: facts of one kind of group, such as the run that last confirmed a batch group.

    >>> msgspec.structs.replace(ShardMeta(position=3), position=4).position
    4
    """

    position: int = 0
    applied: dict[str, int] = {}
    newest_arrival: int = 0
    applied_at: int = 0
    backfilled: bool = False
    epoch: int = 0
    delays: tuple[int, ...] = ()
    extra: dict[str, str] = {}


def pruned_by(meta: ShardMeta) -> int:
    """Return the instant (µs) by which the states of a shard of a batch group were pruned.

    >>> pruned_by(ShardMeta(applied_at=7)), pruned_by(ShardMeta(applied_at=7, extra={PRUNED_BY: "5"}))
    (7, 5)
    """
    return int(meta.extra.get(PRUNED_BY, meta.applied_at))


def typical_delay(shards: Iterable[ShardMeta | None]) -> int:
    """Return the median time (µs) from an event's arrival to its being served, 0 where nothing was measured.

    >>> typical_delay([ShardMeta(delays=(40, 90)), ShardMeta(delays=(50,)), None])
    50
    """
    delays = [delay for meta in shards if meta is not None for delay in meta.delays]
    return int(median(delays)) if delays else 0


@runtime_checkable
class OnlineStore(Protocol):
    """Key-value states of group versions, sharded; safe for any number of processes and threads.

    A shard exists from its first write. `gv` is a group version such as "user_velocity@1", or, for states that were
    built anew, that version and the number of the build ("user_velocity@1.2").
    """

    def read(self, gv: str, shard: int, keys: Sequence[bytes]) -> tuple[list[bytes | None], ShardMeta | None]:
        """The states of the keys, in their order, and the shard's meta, all from one snapshot.

        Called for every scored row. A key or a shard that does not exist reads as None.
        Raises `CorruptState` when the shard cannot be read.
        """
        ...

    def write(
        self,
        gv: str,
        shard: int,
        items: Sequence[tuple[bytes, bytes | None]],
        meta: ShardMeta,
        expected: int | None,
    ) -> None:
        """Write states and meta together, or nothing; a value of None deletes its key.

        Called once per applied batch. `expected` is the `position` the writer read (None: the shard did not exist).
        Acknowledged writes survive the death of the process.
        Raises `Fenced` when another writer has moved the position since, `DiskFull` when there is no room left.
        """
        ...

    def scan(self, gv: str, shard: int, after: bytes | None = None, limit: int = 10_000) -> list[tuple[bytes, bytes]]:
        """Up to `limit` pairs in the store's order of keys, beginning after the key `after` (None: from the first).

        Called by sync. The next page begins after the last key of this one; a short page is the last.
        """
        ...

    def meta(self, gv: str, shard: int) -> ShardMeta | None:
        """What the shard has applied, or None when it does not exist."""
        ...

    def drop(self, gv: str) -> None:
        """Remove every shard of a group version; other processes see it gone at their next read."""
        ...
