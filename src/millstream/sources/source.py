"""What is asked of a foreign source of events: someone's topic or stream, or files, that we read and do not own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from millstream.buffer.log import Encoding, Ints

NO_STAMP = -1
"""The stamp of a payload that its source has not stamped: it arrives when it is taken in."""
TOGETHER = 10_000
"""Microseconds to which stamps are rounded up: what came together is computed together, not each millisecond by itself."""


def rounded(stamps: Ints) -> Ints:
    """Round the instants at which a source took payloads up to `TOGETHER`.

    >>> rounded(np.array([0, 1, 10_000, 10_001])).tolist()
    [0, 10000, 10000, 20000]
    """
    return -(-stamps // TOGETHER) * TOGETHER


class Shard(NamedTuple):
    """A part of a source that has an order of its own: a partition of a topic, a Kinesis shard, a file.

    Attributes:
        name: its name, which no other shard of the source ever has, and which it keeps as long as it lasts.
        parents: the shards that it goes on from: one after a split, two after a merge, none otherwise. It is read once
            each of them has been read to its end; one that is neither listed nor was ever read holds up nobody.
    """

    name: str
    parents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Events:
    """Some events of one shard in columns, as a read gives them, in the shard's order; there may be none.

    A payload is what the source keeps in one piece. Every column has a value for each payload.

    Args:
        payloads: the bytes as they are, also of what does not parse; None for a tombstone, a record without a value.
        encodings: "json" (as many lines as `counts` says; one event may be of several lines), "arrow" (an IPC stream).
        counts: how many events each payload holds; 1 for a tombstone.
        stamps: when the source took each payload, in microseconds; `NO_STAMP` where it does not say.
        keys: the source's own key of each payload, by which a stream without `partition_by` keeps order; or None.
        next: the position to go on from, whatever text that is, None before anything was read; it may have moved on though
            nothing came.
        closed: whether the shard is read to its end, and nothing will ever come after it.
        lost: one sentence, when something that was after the position is not kept any more, and never will come.
    """

    payloads: list[bytes | None]
    encodings: list[Encoding]
    counts: Ints
    stamps: Ints
    keys: list[bytes | None]
    next: str | None
    closed: bool = False
    lost: str | None = None

    @classmethod
    def of(
        cls,
        payloads: list[bytes | None],
        next: str | None,
        *,
        stamps: list[int] | None = None,
        keys: list[bytes | None] | None = None,
        closed: bool = False,
        lost: str | None = None,
    ) -> Events:
        """Make what a read gives whose payloads are one event of JSON each.

        Args:
            payloads: the events.
            next: the position to go on from.
            stamps: when the source took each, in microseconds; it does not say unless given.
            keys: the source's own key of each; none unless given.
            closed: whether the shard is read to its end.
            lost: what is not kept any more.

        Returns:
            Events: with a value for each payload in every column.
        """
        count = len(payloads)
        taken = np.full(count, NO_STAMP, np.int64) if stamps is None else np.array(stamps, np.int64)
        ones = np.ones(count, np.int64)
        return cls(payloads, ["json"] * count, ones, taken, keys or [None] * count, next, closed, lost)

    def __len__(self) -> int:
        return int(self.counts.sum())


class Behind(NamedTuple):
    """What a reader of a shard has still before it.

    Attributes:
        records: about how many events, at least 1 when there is any; 0 exactly when there is none.
        since: when the oldest of them was taken by the source, in microseconds; None where nobody can tell.
    """

    records: int
    since: int | None


class Source(Protocol):
    """A foreign source of events: shards, each with an order of its own, and positions that are text.

    Nothing is assumed of positions: they do not sort, do not count, and mean something to the source alone. They are
    kept in our log, with the events that were read, and given back after any restart, in another process: what a source
    keeps in memory is a cache. One reader at a time reads a source, from one thread.

    Whatever a source cannot do now raises `SourceBusy` (throttled: it is asked again later, ever more seldom) or
    `SourceError` (anything else: it is said, and asked again). No other error leaves it.
    """

    def shards(self, read: Mapping[str, str | None]) -> list[Shard]:
        """Return the shards there are, in any order; called before every round of reading.

        Closed ones are listed as long as they are kept. A shard may be missing now and then though it is there, but not a
        parent while one is listed that goes on from it. A new one may come at any time, and is read from its beginning.

        Args:
            read: by name, how far each shard was read, those too that are read to their ends as long as they are
                remembered. A source whose shards have no names of their own recognises them by it; others need not look.

        Raises:
            SourceBusy: when it is throttled.
            SourceError: when it cannot be reached, or what it is to read is not there.
        """
        ...

    def read(self, shard: str, position: str | None, limit: int, until: str | None = None) -> Events:
        """Return events of a shard from a position on, and where to go on; called over and over.

        About `limit` events are returned, or fewer, or none, whatever is there. The same position may be read again,
        and gives the same events in the same order then, cut in another way maybe. A position that has expired, or
        that the source does not know any more, is no error: the read goes on with the oldest event that is kept, and
        `lost` says what was there. So does a shard that is gone: it is closed.

        Args:
            shard: the shard's name, one that was listed at some time.
            position: where to begin, the `next` of an earlier read; None for the shard's beginning, the oldest event
                that is kept.
            limit: about how many events are wanted.
            until: where to stop, the `next` of an earlier read that went beyond `position`: what comes, in one read or
                in several, is what came then, and the last read's `next` is `until`.

        Raises:
            SourceBusy: when it is throttled.
            SourceError: when it cannot be reached or read.
        """
        ...

    def behind(self, shard: str, position: str | None) -> Behind:
        """Return what a reader at a position has still before it; called where lag is shown, once a second at most.

        Args:
            shard: the shard's name, one that was listed at some time.
            position: the next position it will read; None for the shard's beginning.

        Raises:
            SourceBusy: when it is throttled.
            SourceError: when it cannot be reached or read.
        """
        ...

    def close(self) -> None:
        """Let go of what is open."""
        ...


@runtime_checkable
class Expiring(Protocol):
    """A source that keeps what it has for a time only, and says for how long."""

    def kept(self) -> int | None:
        """Return for how many microseconds what has come is kept, taken in or not; called where lag is shown.

        Returns:
            int | None: microseconds; None where it is kept for ever, or nobody can tell.

        Raises:
            SourceBusy: when it is throttled.
            SourceError: when it cannot be reached.
        """
        ...
