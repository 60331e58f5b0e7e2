"""The embedded log: every topic in one LMDB environment, shared by all processes of a machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from millstream.buffer.embedded import rows as stored
from millstream.buffer.embedded.identity import EmbeddedIdentity
from millstream.buffer.embedded.membership import Membership, at_work, member_of
from millstream.buffer.embedded.partitions import committed_by, ends_of, topic_of
from millstream.buffer.embedded.room import Room
from millstream.buffer.embedded.topics import EmbeddedTopics
from millstream.buffer.embedded.worker import EmbeddedWorker
from millstream.buffer.embedded.writer import Writer
from millstream.buffer.log import Batch, Behind, Records
from millstream.buffer.parts import LARGEST
from millstream.clock import Clock
from millstream.errors import LogError, MillstreamError


class EmbeddedLog(EmbeddedTopics, EmbeddedIdentity):
    """A durable log in one LMDB environment; see the protocols `OwnLog`, `Watched`, `TimeIndex` and `Tail`.

    Any number of processes append and read at once; appends are on disk when acknowledged, many by one wait for it (see
    `millstream.buffer.embedded.durability`). Open it once in each process and never use it across a fork.

    Args:
        path: the log's folder; made if it is missing.
        clock: what appends are stamped with.
        map_gib: most it may grow to, in GiB; disk is taken as it is used.
        fsync: whether an acknowledgement waits for the disk; without, it outlives any process but not the machine.
        look_every: seconds between two looks whether something has come, for those who wait.
        lease: seconds after which a worker whose process stands still loses what it owns.
        patience: seconds after which it does so though its process runs, when it has not asked what it owns.
        largest: the most bytes of one batch (1 MB); what was larger when it was appended is read as ever.

    Raises:
        LogError: when the folder holds something else.
        DiskFull: when there is no room for a new log.

    Example:
        >>> import pathlib, tempfile
        >>> from millstream.buffer.embedded.log import EmbeddedLog
        >>> from millstream.buffer.log import Batch
        >>> from millstream.clock import SimulatedClock
        >>> log = EmbeddedLog(pathlib.Path(tempfile.mkdtemp()), SimulatedClock(7), map_gib=1)
        >>> log.create("payments", 2)
        >>> log.append("payments", 1, Batch(b'{"amount": 5}', "json", 1))
        0
        >>> found = log.read("payments", 1, 0, 10)
        >>> found.payloads, found.positions.tolist(), found.appended.tolist(), found.next
        ([b'{"amount": 5}'], [0], [7], 1)
        >>> log.ends("payments")
        [(0, 0), (0, 1)]
        >>> with log.transaction() as work:
        ...     work.commit("compute", "payments", 1, None, 1)
        >>> log.committed("compute", "payments")
        [None, 1]
        >>> log.close()
    """

    #: A transaction is one of LMDB.
    atomic = True

    def __init__(
        self,
        path: Path | str,
        clock: Clock,
        map_gib: float = 64,
        *,
        fsync: bool = True,
        look_every: float = 0.02,
        lease: float = 30.0,
        patience: float = 900.0,
        largest: int = LARGEST,
    ) -> None:
        super().__init__(Path(path), clock, map_gib, fsync=fsync)
        self._look_every, self.largest = look_every, largest
        self._alive, self._room = (lease, patience), Room(self._env)
        try:
            self._check_format()
        except MillstreamError:
            self.close()
            raise

    def append(self, topic: str, partition: int, batch: Batch, arrival: int | None = None) -> int:
        """Append a batch, durably, and return the position of its first record; see `Log.append`."""
        with self.transaction() as work:
            return work.append(topic, partition, batch, arrival)

    def read(self, topic: str, partition: int, position: int, limit: int) -> Records:
        """Return whole stored batches from a position on, until they hold `limit` records; see `Log.read`."""
        with self._begin() as rows:
            number, partitions = topic_of(rows, topic)
            first, following = ends_of(rows, topic, number, partitions, partition)
            if position < first:
                raise _trimmed(topic, partition, position, first)
            if position >= following:
                return Records.none(topic, partition, position)
            found = stored.read_batches(rows, (topic, number, partition), position, limit, following)
            seen = rows.id()
        self._env.settle(seen)
        return found

    def wait(self, seen: int | None, seconds: float) -> int:
        """Return a number that is another once something was written, or after so many seconds; see `Watched.wait`."""
        until, pause = time.monotonic() + seconds, threading.Event()
        while (now := self._env.last_write()) == seen and (left := until - time.monotonic()) > 0:
            pause.wait(min(self._look_every, left))
        return now

    def behind(self, topic: str, partition: int, position: int) -> Behind:
        """Return how many records lie after a position, and when the oldest of them was appended; see `Log.behind`."""
        with self._begin() as rows:
            number, partitions = topic_of(rows, topic)
            first, following = ends_of(rows, topic, number, partitions, partition)
            place = topic, number, partition
            since = stored.oldest(rows, place, max(first, position), following) if position < following else None
            return Behind(max(0, following - position), since)

    def position_at(self, topic: str, partition: int, instant: int) -> int:
        """Return the first position that was appended at an instant or later; see `TimeIndex.position_at`."""
        with self._begin() as rows:
            number, partitions = topic_of(rows, topic)
            ends = ends_of(rows, topic, number, partitions, partition)
            return stored.find_instant(rows, (topic, number, partition), ends, instant)

    def position_of_last(self, topic: str, partition: int, count: int) -> int:
        """Return the position of the first of the last `count` records; see `Tail.position_of_last`."""
        first, following = self.ends(topic)[partition]
        return max(first, following - count)

    def ends(self, topic: str) -> list[tuple[int, int]]:
        """Return each partition's first position kept and next position; see `Log.ends`."""
        with self._begin() as rows:
            number, partitions = topic_of(rows, topic)
            return [ends_of(rows, topic, number, partitions, partition) for partition in range(partitions)]

    def committed(self, consumer: str, topic: str) -> list[int | None]:
        """Return each partition's committed position of a consumer; see `Log.committed`."""
        with self._begin() as rows:
            number, partitions = topic_of(rows, topic)
            return [committed_by(rows, consumer, topic, number, partition) for partition in range(partitions)]

    @contextmanager
    def transaction(self) -> Iterator[Writer]:
        """Open a transaction of appends and commits: one LMDB transaction; other writers wait until it ends."""
        with self._begin(write=True) as rows:
            work = Writer(rows, self._clock, self.largest)
            yield work
            work.finish()
            if work.appended:
                self._room.check(rows, consumer=work.committed, size=work.appended)

    def at_work(self) -> list[str]:
        """The names of the workers of all groups that are alive; see `Attended.at_work`."""
        return sorted(owner for folder in (self._env.path / "workers").glob("*") for owner in at_work(folder))

    def worker(self, group: str, topics: Iterable[str], owner: str | None = None) -> EmbeddedWorker:
        """Join a group of workers, of any processes of this machine, that share some topics; see `Shareable.worker`."""
        folder = self._env.path / "workers" / member_of(group).hex()
        return EmbeddedWorker(self._begin, self.transaction, group, Membership(folder, topics, owner, *self._alive))

    def filled(self) -> float:
        """Return how full the log is for producers, from 0 to 1: the map, or the disk where that has less room."""
        with self._begin() as rows:
            return self._room.filled(rows)


def _trimmed(topic: str, partition: int, position: int, first: int) -> LogError:
    return LogError(
        f"Topic '{topic}', partition {partition}: position {position} has been trimmed; the first kept is {first}.",
        f"read from {first} on, and what comes before it from the archive.",
    )
