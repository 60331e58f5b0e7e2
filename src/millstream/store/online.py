"""The online store: the newest state of every key, and the log positions that it holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from statistics import median
from typing import Protocol, runtime_checkable

import msgspec

from millstream.errors import StoreError

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


FORGOTTEN_BY = "forgotten_by"
"""The fact of a shard of folds that tells from which instant (µs) on its states hold what a read needs: it may have
forgotten keys that no read from then on has anything of."""


_PATIENCE = 1_000  # empty pages in a row that may go on from where they are
BEGUN = -1
"""The position of a shard that does not exist yet while its first write is pending."""


class ShardMeta(msgspec.Struct, frozen=True, kw_only=True):
    """What a shard of a group version has applied, all its states together.

    Args:
        position: the next position of the shard's feature topic partition to apply; negative while history is filled in.
        applied: by "stream/partition", the next source position: every event below it is in the states.
        newest_arrival: the newest arrival among the events applied, in µs since the epoch.
        applied_at: the latest time of a write, in µs since the epoch by the project's clock, which may be set back.
        backfilled: whether the history before the start markers is in.
        epoch: counts the times the shard was begun anew.
        delays: of the newest writes, the time (µs) from the arrival of the events to the write.
        extra: facts of one kind of group, such as the run that last confirmed a batch group.
        pending: what it will say once a write is complete that is being made in pieces: the values that are ahead of
            `position` hold this already, all others do not yet.

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
    pending: ShardMeta | None = None


def pruned_by(meta: ShardMeta) -> int:
    """Return the instant (µs) by which the states of a shard of a batch group were pruned.

    >>> pruned_by(ShardMeta(applied_at=7)), pruned_by(ShardMeta(applied_at=7, extra={PRUNED_BY: "5"}))
    (7, 5)
    """
    return int(meta.extra.get(PRUNED_BY, meta.applied_at))


def forgotten_by(meta: ShardMeta | None) -> int | None:
    """Return the instant (µs) from which on the states of a shard of folds hold what a read needs; None: whichever.

    >>> forgotten_by(ShardMeta()), forgotten_by(ShardMeta(extra={FORGOTTEN_BY: "5"}))
    (None, 5)
    """
    found = None if meta is None else meta.extra.get(FORGOTTEN_BY)
    return None if found is None else int(found)


def typical_delay(shards: Iterable[ShardMeta | None]) -> int:
    """Return the median time (µs) from an event's arrival to its being served, 0 where nothing was measured.

    >>> typical_delay([ShardMeta(delays=(40, 90)), ShardMeta(delays=(50,)), None])
    50
    """
    delays = [delay for meta in shards if meta is not None for delay in meta.delays]
    return int(median(delays)) if delays else 0


class Ask(msgspec.Struct, frozen=True):
    """What is asked of one shard: the values of some keys, and what they hold.

    Args:
        states: a group version such as "user_velocity@1", or one of its builds, such as "user_velocity@1.2".
        shard: the number of the shard that the keys belong to.
        keys: the encoded keys; without any, only the meta is asked for.
    """

    states: str
    shard: int
    keys: Sequence[bytes] = ()


class Answer(msgspec.Struct):
    """What a shard answers to an `Ask`, all of one instant.

    Args:
        values: for each key the value, None where there is none.
        meta: what the shard has applied; None when it does not exist.
        positions: the position that each value was written with, any number for one that is not there; empty where none
            is ahead of the meta.
        failure: why the shard could not be read; the values and the meta are None then.

    >>> Answer([b"state"], ShardMeta(position=3)).sound().values
    [b'state']
    """

    values: list[bytes | None]
    meta: ShardMeta | None = None
    positions: Sequence[int] = ()
    failure: StoreError | None = None

    def ahead(self, position: int | None) -> set[int]:
        """Return the places of the values that hold more than a position (None: than nothing).

        >>> Answer([b"new", b"old", None], ShardMeta(position=3), positions=[4, 2, 0]).ahead(3)
        {0}
        """
        places = zip(count(), self.values, self.positions, strict=False)
        return {n for n, value, at in places if value is not None and (position is None or at > position)}

    def metas(self) -> list[ShardMeta | None]:
        """Return for each value the meta that says what it holds: the pending one for those that are ahead."""
        found = [self.meta] * len(self.values)
        if self.positions and self.meta is not None:
            for place in self.ahead(self.meta.position):
                found[place] = self.meta.pending
        return found

    def sound(self) -> Answer:
        """Return the answer itself. Raises the `StoreError` for which there is none."""
        if self.failure is not None:
            raise self.failure
        return self


class Page(msgspec.Struct):
    """Some of the keys and values of a shard.

    Args:
        items: keys and values.
        cursor: where the next page begins; None after the last.
        positions: the position that each value was written with; empty where none is ahead of the shard's meta.
    """

    items: list[tuple[bytes, bytes]]
    cursor: bytes | None = None
    positions: Sequence[int] = ()

    def behind(self, position: int) -> list[tuple[bytes, bytes]]:
        """Return the pairs whose value holds no more than a position.

        >>> Page([(b"a", b"1"), (b"b", b"2")], positions=[3, 4]).behind(3)
        [(b'a', b'1')]
        """
        if not self.positions:
            return self.items
        return [pair for pair, at in zip(self.items, self.positions, strict=True) if at <= position]


def pages(
    online: OnlineStore, states: str, shard: int, cursor: bytes | None = None, limit: int = 10_000
) -> Iterator[Page]:
    """Scan a shard from a cursor to its end, some keys at a time; pages without any are left out.

    Args:
        online: the online store.
        states: the name of the states, such as "user_velocity@1".
        shard: the number of the shard.
        cursor: where to begin, the `cursor` of an earlier page; None for the beginning.
        limit: about how many keys a page is to have.

    Yields:
        Page: never without keys.

    Raises:
        StoreError: when page after page is empty and goes on from where it is.
    """
    stuck = 0
    while True:
        page = online.scan(states, shard, cursor, limit)
        if page.items:
            yield page
        if page.cursor is None:
            return
        stuck = 0 if page.items or page.cursor != cursor else stuck + 1
        if stuck == _PATIENCE:
            raise StoreError(
                f"Online store, shard {shard} of '{states}': a scan gives nothing more from cursor {cursor!r} on, nor its end.",
                "look at the store's server; what scans tries again.",
            )
        cursor = page.cursor


Fact = ShardMeta | StoreError | None
"""What a shard has applied, None when it does not exist, or why it cannot be read."""


class Stored(Protocol):
    """A version whose states are stored: their name, and how many shards they have."""

    @property
    def states(self) -> str:
        """Such as "velocity@1"."""
        ...

    @property
    def shards(self) -> int:
        """How many there are."""
        ...


def metas_of(online: OnlineStore, versions: Sequence[Stored]) -> list[list[ShardMeta | None]]:
    """Return what each shard of some versions has applied, asked for at once.

    Args:
        online: the online store.
        versions: the versions.

    Returns:
        list[list[ShardMeta | None]]: by version, in their order, and by shard; None for one that does not exist.

    Raises:
        StoreError: when one cannot be read.
    """
    facts = online.facts({version.states: version.shards for version in versions})
    return [[sound(fact) for fact in facts[version.states]] for version in versions]


def shard_metas(online: OnlineStore, states: str, shards: int) -> list[ShardMeta | None]:
    """Return what each shard of a version has applied, None for one that does not exist.

    Args:
        online: the online store.
        states: the name of the version's states, such as "user_velocity@1".
        shards: how many shards it has.

    Raises:
        StoreError: when one cannot be read.
    """
    return [sound(fact) for fact in online.facts({states: shards})[states]]


def sound(fact: Fact) -> ShardMeta | None:
    """Return what a shard has applied. Raises the error where it cannot be read."""
    if isinstance(fact, StoreError):
        raise fact
    return fact


def readable_metas(online: OnlineStore, states: str, shards: int) -> list[ShardMeta | None]:
    """Return what each shard of a version has applied, None for one that does not exist or cannot be read.

    Args:
        online: the online store.
        states: the name of the version's states, such as "user_velocity@1".
        shards: how many shards it has.

    Raises:
        StoreError: when the store itself cannot be reached.
    """
    return [None if isinstance(fact, StoreError) else fact for fact in online.facts({states: shards})[states]]


def read_shard(online: OnlineStore, states: str, shard: int, keys: Sequence[bytes] = ()) -> Answer:
    """Return what one shard answers.

    Args:
        online: the online store.
        states: the name of the states, such as "user_velocity@1".
        shard: the number of the shard.
        keys: the encoded keys whose values are wanted; without any, only the meta is.

    Raises:
        StoreError: when it cannot be read.
    """
    [answer] = online.read([Ask(states, shard, keys)])
    return answer.sound()


@runtime_checkable
class OnlineStore(Protocol):
    """Key-value states of group versions, sharded; safe for any number of processes and threads.

    A shard exists from its first write. `states` names a group version such as "user_velocity@1", or, for states that
    were built anew, that version and the number of the build ("user_velocity@1.2"). The position of a shard only grows
    until it is dropped. A read that begins after a write was acknowledged sees it.
    """

    def read(self, asks: Sequence[Ask]) -> list[Answer]:
        """What each shard answers, in the order of the asks; one ask's values, positions and meta are of one instant.

        Called once for every scored request, with all the groups that it needs, so one round trip should do. A key or a
        shard that does not exist reads as None. A shard that cannot be read costs its own answers only, which say so.

        Args:
            asks: what is asked; several may be of one shard, and a key may be asked for twice.

        Raises:
            StoreError: when the store itself cannot be reached.
        """
        ...

    def write(
        self, states: str, shard: int, changes: Sequence[tuple[bytes, bytes]], meta: ShardMeta, expected: int | None
    ) -> Sequence[bytes]:
        """Write values, then the meta that says what they hold; return the keys that were refused.

        Called once per applied batch. A store that takes all in one transaction does so, refuses nobody, and never has
        anything pending. Another one

        1. announces the write: by compare-and-set it puts `meta` into the shard's meta as `pending`, which leaves all
           else as it is; a shard that does not exist yet is at position `BEGUN` from then on;
        2. writes the changes in chunks, each with the position of `meta`, and each only while the shard's meta is still
           the announced one. A key whose value holds more than `expected` is refused, as another writer of the same
           announcement was faster; any other key may be, too, for a reason of the store's own, such as contention;
        3. unless a key was refused, makes `meta` the shard's meta, with nothing pending.

        After a refusal, or when a writer has died, the announcement stays. Then the values that are ahead hold what it
        says, and the same writer or another one goes on, with the same position, until no key is refused. Without
        changes there is nothing to announce. Acknowledged writes survive the death of the process.

        Args:
            states: the name of the states, such as "user_velocity@1".
            shard: the number of the shard; it is made if it does not exist.
            changes: keys and the values that take the place of theirs; other keys keep what they have.
            meta: what the shard holds once these are in, with the position that it moves to.
            expected: the `position` of the shard that the writer has read; None: it did not exist.

        Returns:
            Sequence[bytes]: keys of the changes whose values were not written; empty when the write is complete.

        Raises:
            Fenced: when the position is not the expected one, or a write to another position is pending.
            DiskFull: when there is no room left.
            StoreError: when the store cannot be reached, or the shard does not read as what was written.
        """
        ...

    def scan(self, states: str, shard: int, cursor: bytes | None = None, limit: int = 10_000) -> Page:
        """Some of the keys of a shard with their values, in no order, and where to go on.

        Called by sync, and by runs of queries for the keys that they left out. A key that is there all the time comes
        at least once; one may come twice, and one that is written meanwhile with its value of before or after.

        Args:
            states: the name of the states, such as "user_velocity@1".
            shard: the number of the shard; one that does not exist has no keys.
            cursor: that of the page before, None for the first; it means something to the store alone, and is good
                until the shard is dropped.
            limit: about how many pairs to return: there may be fewer, or none though there are more.

        Raises:
            StoreError: when the store cannot be reached, or the shard does not read as what was written.
        """
        ...

    def facts(self, shards: Mapping[str, int]) -> dict[str, list[Fact]]:
        """By states, what each of their shards has applied, in the order of the shards.

        Called by what looks on, and by ingestion once for all that it has: never for a scored request. One call asks
        for every version there is, so one round trip should do.

        Args:
            shards: by the name of states, how many shards they have.

        Raises:
            StoreError: when the store cannot be reached.
        """
        ...

    def drop(self, states: str) -> None:
        """Remove every shard of a group version; other processes see it gone at their next read.

        Args:
            states: the name of its states, such as "user_velocity@1"; none of that name is no error.
        """
        ...


@runtime_checkable
class Examined(Protocol):
    """An online store that finds damage in what it keeps, and says which states have to be built anew."""

    def states(self) -> list[str]:
        """The names of all states that there are, whether anybody knows them or not. Called by repair."""
        ...

    def damaged(self) -> list[str]:
        """The states of which somebody has read damage, until they are dropped. Called to build them anew."""
        ...

    def examine(self, states: str, shard: int) -> int:
        """Look at every value of a shard, and return how many there are. Called by doctor.

        Args:
            states: the name of the states.
            shard: the number of the shard.

        Raises:
            CorruptState: at the first damage.
        """
        ...


@runtime_checkable
class LocalReads(Protocol):
    """An online store that is in this process or on its disk: a read takes microseconds, and waits for nobody.

    Serving makes such a read between two requests, for to hand it to another thread would cost more than the read. The
    reads of any other store are made in threads, and requests are answered meanwhile.
    """

    @property
    def local(self) -> bool:
        """Whether it is so."""
        ...


def reads_locally(online: OnlineStore) -> bool:
    """Return whether a read of a store takes microseconds; a store that does not say is taken to be elsewhere."""
    return isinstance(online, LocalReads) and online.local


@runtime_checkable
class ReadsInTime(Protocol):
    """An online store that is elsewhere, and ends its reads in time by itself: no thread has to be given up for it."""

    def served(self, seconds: float) -> OnlineStore:
        """The store as scoring reads it: every read answers or fails in time.

        It may be a moment behind what was written, where the settings allow that: what it answers says what it holds.

        Args:
            seconds: how long a read may take.
        """
        ...


class Memory(msgspec.Struct, frozen=True):
    """How many keys a shard has, and about how many bytes of memory it takes."""

    keys: int
    size: int


@runtime_checkable
class Forgets(Protocol):
    """An online store that can let go of single keys. Called by ingestion for those that no read needs any more."""

    def forget(self, states: str, shard: int, keys: Sequence[bytes], expected: int) -> None:
        """Remove keys of a shard, which read as None from then on; nothing else of it changes.

        Some of them may be gone when this fails half way: nobody needs them.

        Args:
            states: the name of the states, such as "user_velocity@1".
            shard: the number of the shard.
            keys: the keys; one that is not there is no error.
            expected: the `position` of the shard at which they had nothing that is needed.

        Raises:
            Fenced: when the shard is at another position, or a write is pending: then it may have something again.
            StoreError: when the store cannot be reached.
        """
        ...


@runtime_checkable
class InMemory(Protocol):
    """An online store that keeps everything in memory, and knows how much of it. Called by doctor."""

    def memory(self, states: str, shard: int) -> Memory:
        """What a shard takes.

        Args:
            states: the name of the states.
            shard: the number of the shard.

        Raises:
            StoreError: when it cannot be told.
        """
        ...


@runtime_checkable
class BulkLoad(Protocol):
    """An online store that takes many values faster where nobody reads them yet.

    Backfill uses it where it is there. While a shard is filled its position is negative, so readers leave its values
    alone, and an attempt that fails begins with a `drop`.
    """

    def load(
        self, states: str, shard: int, changes: Sequence[tuple[bytes, bytes]], meta: ShardMeta, expected: int
    ) -> None:
        """Write values in any order and any pieces, then the meta, which has a negative position too.

        Nothing is announced, and no key is refused. What was written before is replaced; it was read by this attempt.

        Args:
            states: the name of the states, such as "user_velocity@1".
            shard: the number of the shard, which exists: its position is negative.
            changes: keys and the values that take the place of theirs.
            meta: what the shard holds once these are in.
            expected: the position of the shard that the writer has read.

        Raises:
            Fenced: when the position is not the expected one: then what was written of it must not be seen after the
                `drop` of another attempt.
            DiskFull: when there is no room left.
            StoreError: when the store cannot be reached.
        """
        ...
