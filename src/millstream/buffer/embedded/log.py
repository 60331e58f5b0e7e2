"""The embedded log: every topic in one LMDB environment, shared by all processes of a machine."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from millstream.buffer.embedded import rows as stored
from millstream.buffer.embedded.environment import open_environment
from millstream.buffer.embedded.membership import Membership, member_of
from millstream.buffer.embedded.partitions import (
    committed_by,
    ends_of,
    find_topic,
    name_of,
    put_ends,
    topic_of,
)
from millstream.buffer.embedded.room import Room
from millstream.buffer.embedded.rows import Damaged
from millstream.buffer.embedded.worker import EmbeddedWorker
from millstream.buffer.embedded.writer import Writer
from millstream.buffer.log import Batch, Behind, Records
from millstream.buffer.parts import LARGEST
from millstream.clock import Clock
from millstream.errors import CorruptLog, LogError, MillstreamError

if TYPE_CHECKING:
    import lmdb

_FORMAT, _FORMAT_BEFORE = b"2", b"1"  # before: nothing was sealed, and LMDB itself waited for the disk
_AT_ONCE = 500  # rows removed in one write: others wait for milliseconds, and a page holds what has become free


class EmbeddedLog:
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
        self._clock, self._look_every, self.largest = clock, look_every, largest
        self._alive = lease, patience
        self._env = open_environment(Path(path), map_gib, durable=fsync)
        self._room = Room(self._env)
        self._open = True
        try:
            self._check_format()
        except MillstreamError:
            self.close()
            raise

    def append(self, topic: str, partition: int, batch: Batch, arrival: int | None = None) -> int:
        """Append a batch, durably, and return the position of its first record."""
        with self.transaction() as work:
            return work.append(topic, partition, batch, arrival)

    def read(self, topic: str, partition: int, position: int, limit: int) -> Records:
        """Return whole stored batches from a position on, until they hold `limit` records."""
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
        """Return a number that is another once something was written, then, or after so many seconds."""
        until, pause = time.monotonic() + seconds, threading.Event()
        while (now := self._env.last_write()) == seen and (left := until - time.monotonic()) > 0:
            pause.wait(min(self._look_every, left))
        return now

    def behind(self, topic: str, partition: int, position: int) -> Behind:
        """Return how many records lie after a position, and when the oldest of them was appended."""
        with self._begin() as rows:
            number, partitions = topic_of(rows, topic)
            first, following = ends_of(rows, topic, number, partitions, partition)
            place = topic, number, partition
            since = stored.oldest(rows, place, max(first, position), following) if position < following else None
            return Behind(max(0, following - position), since)

    def position_at(self, topic: str, partition: int, instant: int) -> int:
        """Return the first position that was appended at an instant (µs) or later."""
        with self._begin() as rows:
            number, partitions = topic_of(rows, topic)
            ends = ends_of(rows, topic, number, partitions, partition)
            return stored.find_instant(rows, (topic, number, partition), ends, instant)

    def position_of_last(self, topic: str, partition: int, count: int) -> int:
        """Return the position of the first of the last `count` records."""
        first, following = self.ends(topic)[partition]
        return max(first, following - count)

    def ends(self, topic: str) -> list[tuple[int, int]]:
        """Return each partition's first position kept and next position."""
        with self._begin() as rows:
            number, partitions = topic_of(rows, topic)
            return [ends_of(rows, topic, number, partitions, partition) for partition in range(partitions)]

    def committed(self, consumer: str, topic: str) -> list[int | None]:
        """Return each partition's committed position of a consumer."""
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

    def worker(self, group: str, topics: Iterable[str], owner: str | None = None) -> EmbeddedWorker:
        """Join a group of workers, of any processes of this machine, that share the partitions of some topics."""
        folder = self._env.path / "workers" / member_of(group).hex()
        return EmbeddedWorker(self._begin, self.transaction, group, Membership(folder, topics, owner, *self._alive))

    def filled(self) -> float:
        """Return how full the log is for producers, from 0 to 1: the map, or the disk where that has less room."""
        with self._begin() as rows:
            return self._room.filled(rows)

    def identity(self) -> str:
        """Return what tells this log from any other, and its epoch, such as "5f0c1a77e2b94d03@1"."""
        with self._begin() as rows:
            value = rows.get(b"i")
            if value is None:
                raise Damaged("its identity")
            return stored.opened(b"i", value, stored.IDENTITY, "its identity").decode().strip()

    def fingerprint(self, topic: str, partition: int, position: int) -> int | None:
        """Return the checksum of the batch that ends at a position: None where it was trimmed, -1 where none ends there."""
        with self._begin() as rows:
            number, partitions = topic_of(rows, topic)
            ends = ends_of(rows, topic, number, partitions, partition)
            return stored.check_before(rows, (topic, number, partition), ends, position)

    def rebase(self, topic: str, partition: int, base: int, kept: Sequence[Records]) -> None:
        """Begin a partition anew at a position beyond all that anybody knows, with some records of it.

        Every consumer of it is moved there.
        """
        with self._begin(write=True) as rows:
            number, partitions = topic_of(rows, topic)
            ends_of(rows, topic, number, partitions, partition)
            for kind in (b"r", b"s", b"b"):
                while stored.delete_some(rows, stored.PARTITION_KEY.pack(kind, number, partition), _AT_ONCE):
                    pass
            put_ends(rows, number, partition, base, base)
            for key in stored.prefixed(rows, stored.PARTITION_KEY.pack(b"c", number, partition), None):
                rows.put(key, stored.seal(key, stored.POSITION.pack(base)))
            work = Writer(rows, self._clock)
            for some in kept:
                columns = zip(some.payloads, some.encodings, some.counts.tolist(), some.appended.tolist(), strict=True)
                for payload, encoding, count, appended in columns:
                    work.append(topic, partition, Batch(payload, encoding, count), appended)
            work.finish()

    def renew(self, name: str | None = None) -> str:
        """Begin a new epoch, under the name by which the stores know the log, and return the identity."""
        with self._begin(write=True) as rows:
            known, _, epoch = (
                stored.opened(b"i", rows.get(b"i") or b"", stored.IDENTITY, "its identity").decode().partition("@")
            )
            _put_identity(rows, name or known, int(epoch) + 1)
        return self.identity()

    def create(self, topic: str, partitions: int) -> None:
        """Make a topic unless it is there with as many partitions."""
        key = b"t" + name_of(topic, "Topic")
        with self._begin() as rows:  # most often it is there, and nobody has to wait
            there = find_topic(rows, topic)
        if there is not None:
            _same_partitions(topic, there[1], partitions)
            return
        with self._begin(write=True) as rows:
            there = find_topic(rows, topic)
            if there is not None:
                _same_partitions(topic, there[1], partitions)
                return
            if partitions < 1:
                raise LogError(
                    f"Topic '{topic}': {partitions} partitions; expected at least 1.", "use 4 unless you know better."
                )
            next_ = rows.get(b"n")
            number = 0 if next_ is None else stored.NUMBER.unpack(stored.opened(b"n", next_, 4, "its topics"))[0]
            # numbers are never used again, so nothing of a dropped topic revives
            rows.put(b"n", stored.seal(b"n", stored.NUMBER.pack(number + 1)))
            rows.put(key, stored.seal(key, stored.TOPIC.pack(number, partitions)))
            for partition in range(partitions):
                put_ends(rows, number, partition, 0, 0)

    def grow(self, topic: str, partitions: int) -> None:
        """Add partitions to a topic until it has so many."""
        with self._begin(write=True) as rows:
            number, there = topic_of(rows, topic)
            if there < partitions:
                key = b"t" + name_of(topic, "Topic")
                rows.put(key, stored.seal(key, stored.TOPIC.pack(number, partitions)))
                for partition in range(there, partitions):
                    put_ends(rows, number, partition, 0, 0)

    def topics(self) -> dict[str, int]:
        """Return all topics with their numbers of partitions."""
        with self._begin() as rows:
            return {name: partitions for name, (_, partitions) in stored.topic_rows(rows)}

    def trim(self, topic: str, partition: int, before: int) -> int:
        """Drop whole batches that end at or before a position and return the first position kept."""
        while True:
            with self._begin(write=True, wait=False) as rows:
                number, partitions = topic_of(rows, topic)
                first, following = ends_of(rows, topic, number, partitions, partition)
                place = topic, number, partition
                kept, more = stored.trim_batches(rows, place, (first, following), before, _AT_ONCE)
                if kept != first:
                    put_ends(rows, number, partition, kept, following)
            if not more:
                break
        self._settle()
        return kept

    def drop(self, topic: str) -> None:
        """Drop a topic, its records and the positions committed in it."""
        with self._begin(write=True) as rows:
            there = find_topic(rows, topic)
            if there is not None:
                rows.put(b"d" + stored.NUMBER.pack(there[0]), b"")
                rows.delete(b"t" + name_of(topic, "Topic"))
        self._remove_dropped()

    def _remove_dropped(self) -> None:
        """Remove the rows of dropped topics, those too whose dropper died; their numbers are never used again."""
        while True:
            with self._begin() as rows:
                if not stored.prefixed(rows, b"d", 1):
                    break
            with self._begin(write=True, wait=False) as rows:
                for key in stored.prefixed(rows, b"d", 1):
                    if not any(stored.delete_some(rows, kind + key[1:], _AT_ONCE) for kind in _OF_A_TOPIC):
                        rows.delete(key)
        self._settle()

    def _settle(self) -> None:
        """Return when all that was committed before is durable."""
        with self._begin() as rows:
            seen = rows.id()
        self._env.settle(seen)

    def close(self) -> None:
        """Let go of the log; what was acknowledged is on disk already. A second call does nothing."""
        if self._open:
            self._open = False
            self._env.close()

    @contextmanager
    def _begin(self, write: bool = False, *, wait: bool = True) -> Iterator[lmdb.Transaction]:
        """Open a transaction of the environment; what is damaged is named."""
        try:
            with self._env.begin(write, wait=wait) as rows:
                yield rows
        except Damaged as error:
            raise CorruptLog.at(self._env.path / "data.mdb", str(error)) from None

    def _check_format(self) -> None:
        with self._begin() as rows:
            found, known = rows.get(b"f"), rows.get(b"i") is not None
            found = None if found is None else bytes(found)
        if found in (None, _FORMAT_BEFORE) or (found == _FORMAT and not known):
            with self._begin(write=True) as rows:
                rows.put(b"f", _FORMAT)
                if rows.get(b"i") is None:
                    _put_identity(rows, secrets.token_hex(8), 1)
        elif found is not None and found != _FORMAT:
            raise LogError(
                f"Log '{self._env.path}' is in format {found.decode(errors='replace')}, not {_FORMAT.decode()}.",
                "open it with the version of Millstream that wrote it.",
            )


_OF_A_TOPIC = (b"p", b"r", b"s", b"b", b"c", b"w")
"""The kinds of rows that a topic has beside its own."""


def _put_identity(rows: lmdb.Transaction, name: str, epoch: int) -> None:
    rows.put(b"i", stored.seal(b"i", f"{name}@{epoch}".encode().ljust(stored.IDENTITY)))


def _same_partitions(topic: str, stored: int, wanted: int) -> None:
    if stored != wanted:
        raise LogError(
            f"Topic '{topic}' has {stored} partitions, not {wanted}.",
            f"keep partitions={stored}; the topic of a stream grows where its definition says more.",
        )


def _trimmed(topic: str, partition: int, position: int, first: int) -> LogError:
    return LogError(
        f"Topic '{topic}', partition {partition}: position {position} has been trimmed; the first kept is {first}.",
        f"read from {first} on, and what comes before it from the archive.",
    )
