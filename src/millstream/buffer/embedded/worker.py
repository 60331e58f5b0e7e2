"""A worker of the embedded log: the processes of one machine share partitions by rows of the log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING

from millstream.buffer.embedded.membership import Membership, member_of
from millstream.buffer.embedded.partitions import FREE, find_topic, owned_by, put_owned
from millstream.buffer.embedded.sharing import Place, share
from millstream.buffer.embedded.writer import Writer
from millstream.buffer.log import Batch
from millstream.buffer.worker import Owned
from millstream.errors import Fenced, MillstreamError

if TYPE_CHECKING:
    import lmdb

LOOK = 0.25
"""Seconds between two looks at who is there, so that asking what is assigned costs nothing."""
_Beginning = Callable[[bool], AbstractContextManager["lmdb.Transaction"]]
_Rows = dict[Place, tuple[int, bytes]]


class EmbeddedWorker:
    """See the protocol `Worker`; the log makes it.

    Who is alive says `Membership`; who owns what stands in the log, where it is compared in the transaction itself. There
    is nobody who decides: every worker computes the same shares, gives up what is too much, and takes what is free.

    Args:
        begin: opens a transaction of the log's rows, a write if it is told so.
        transaction: opens a transaction of the log.
        group: the group's name.
        membership: this worker's place in the group.
    """

    def __init__(
        self,
        begin: _Beginning,
        transaction: Callable[[], AbstractContextManager[Writer]],
        group: str,
        membership: Membership,
    ) -> None:
        self._begin, self._transaction, self._group = begin, transaction, group
        self._membership, self._me = membership, member_of(membership.owner)
        self._owned: dict[Place, int] = {}
        self._look_at = 0.0
        self._seen: tuple[int, Mapping[bytes, Iterable[str]]] | None = None
        self._open = True

    def assigned(self) -> Owned:
        """Return what this worker owns now, after it has given and taken what is to move."""
        self._membership.beat()
        if time.monotonic() >= self._look_at:
            self._look()
            self._look_at = time.monotonic() + LOOK
        told: dict[str, dict[int, int]] = {}
        for (topic, partition), epoch in sorted(self._owned.items()):
            told.setdefault(topic, {})[partition] = epoch
        return told

    @contextmanager
    def transaction(self) -> Iterator[_OwnedWork]:
        """Open a transaction of the log that is fenced by the epochs of what this worker owns."""
        self._membership.beat()
        try:
            with self._transaction() as work:
                yield _OwnedWork(work, self._check)
        except Fenced:
            self._look_at = 0.0
            raise

    def close(self) -> None:
        """Give up all partitions; one that could not be given up is free once the lock of this worker is."""
        if not self._open:
            return
        self._open = False
        with suppress(MillstreamError):
            if self._owned:
                with self._begin(True) as rows:
                    self._move(rows, set(self._owned), set(), set())
        self._owned = {}
        self._membership.close()

    def _look(self) -> None:
        """See who is there and who has what, and do this worker's part of the sharing."""
        members = self._membership.alive()
        with self._begin(False) as rows:
            seen = rows.id(), members
            if seen == self._seen:  # nothing was written since, and nobody has come or gone
                return
            self._seen = seen
            found = _owners(rows, self._group, members)
        holders = {place: None if holder == FREE else holder for place, (_, holder) in found.items()}
        shares = share(holders, members)
        mine = {place for place, member in shares.items() if member == self._me}
        held = {place for place, (_, holder) in found.items() if holder == self._me}
        kept, others = held & self._owned.keys(), set(members) - {self._me}
        taken = {place for place in mine - kept if found[place][1] not in others}
        if held - mine or taken:
            with self._begin(True) as rows:
                found |= self._move(rows, held - mine, taken, others)
        self._owned = {place: epoch for place, (epoch, holder) in found.items() if holder == self._me}

    def _move(self, rows: lmdb.Transaction, given: set[Place], taken: set[Place], others: set[bytes]) -> _Rows:
        """Give up and take partitions, as far as nobody else was first; return how it is then.

        What is this worker's by its name though it does not know of it was that of one before it, so its epoch ends too.
        """
        after: _Rows = {}
        for place in given | taken:
            topic = find_topic(rows, place[0])
            if topic is None or place[1] >= topic[1]:
                continue
            epoch, holder = owned_by(rows, self._group, topic[0], place)
            if place in given and holder == self._me:
                after[place] = epoch, FREE
            elif place in taken and holder not in others:
                after[place] = epoch + 1, self._me
            else:
                after[place] = epoch, holder
                continue
            put_owned(rows, self._group, (topic[0], place[1]), *after[place])
        return after

    def _check(self, work: Writer, topic: str, partition: int) -> None:
        """Refuse where this worker does not own a partition under the epoch that it knows."""
        epoch, holder = work.owner(self._group, topic, partition)
        known = self._owned.get((topic, partition))
        if holder != self._me or epoch != known:
            raise Fenced(
                f"Worker '{self._membership.owner}' of group '{self._group}' does not own topic '{topic}', partition "
                f"{partition}" + (", now" if known is None else f", under epoch {known}: it is now") + f" at {epoch}.",
                "discard this batch, and ask again what is assigned.",
            )


class _OwnedWork:
    """A transaction whose commits are those of an owner."""

    def __init__(self, work: Writer, check: Callable[[Writer, str, int], None]) -> None:
        self._work, self._check = work, check

    def append(self, topic: str, partition: int, batch: Batch, arrival: int | None = None) -> int:
        """Append a batch and return the position of its first record."""
        return self._work.append(topic, partition, batch, arrival)

    def commit(self, consumer: str, topic: str, partition: int, expected: int | None, position: int) -> None:
        """Move a consumer's position in a partition that this worker owns."""
        self._check(self._work, topic, partition)
        self._work.commit(consumer, topic, partition, expected, position)


def _owners(rows: lmdb.Transaction, group: str, members: Mapping[bytes, Iterable[str]]) -> _Rows:
    """The epoch and the holder of each partition of the topics that somebody wants."""
    found: _Rows = {}
    for topic in sorted({topic for topics in members.values() for topic in topics}):
        there = find_topic(rows, topic)
        for partition in range(0 if there is None else there[1]):
            assert there is not None
            found[topic, partition] = owned_by(rows, group, there[0], (topic, partition))
    return found
