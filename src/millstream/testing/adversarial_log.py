"""A log that keeps the text of the protocol and nothing more, to find who relies on more than that."""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import numpy as np

from millstream.buffer.embedded.log import EmbeddedLog
from millstream.buffer.log import Batch, Behind, Ints, Records, Transaction
from millstream.buffer.parts import LARGEST
from millstream.buffer.topics import CAPTURES, DEAD, REGISTRY, feature_topic, intake_topic, staging_topic
from millstream.errors import LogError
from millstream.testing.adversarial_worker import AdversarialWorker
from millstream.testing.torn import Faults, TornWork

GAP = 11
"""Positions of which a record is at one."""
KEPT = (feature_topic(""), staging_topic(""), intake_topic(""), CAPTURES, DEAD, REGISTRY)
"""What the topics begin with that are no streams', and grow by nobody's hand but ours."""


class Upright:
    """What no log has to do badly: its topics, its room and its identity, at the positions that it shows.

    Args:
        log: the log that holds the records.
    """

    def __init__(self, log: EmbeddedLog) -> None:
        self.embedded = log

    def create(self, topic: str, partitions: int) -> None:
        """Make a topic unless it is there."""
        self.embedded.create(topic, partitions)

    def grow(self, topic: str, partitions: int) -> None:
        """Add partitions to a topic until it has so many."""
        self.embedded.grow(topic, partitions)

    def topics(self) -> dict[str, int]:
        """Return all topics with their numbers of partitions."""
        return self.embedded.topics()

    def trim(self, topic: str, partition: int, before: int) -> int:
        """Drop whole batches that end at or before a position; see `TopicAdmin.trim`."""
        return _begin(topic, partition, self.embedded.trim(topic, partition, _inner(topic, partition, before)))

    def drop(self, topic: str) -> None:
        """Drop a topic."""
        self.embedded.drop(topic)

    def filled(self) -> float:
        """Return how full the log is."""
        return self.embedded.filled()

    def identity(self) -> str:
        """Return what tells this log from any other, and its epoch."""
        return self.embedded.identity()

    def fingerprint(self, topic: str, partition: int, position: int) -> int | None:
        """Return the checksum of the batch before a position; see `Identified.fingerprint`."""
        return self.embedded.fingerprint(topic, partition, _inner(topic, partition, position))

    def close(self) -> None:
        """Let go of the log."""
        self.embedded.close()


class AdversarialLog(Upright):
    """Any protocol of a log over the embedded one, as badly as it may be: for the tests of whatever uses a log.

    There are gaps between positions and at the end of a partition, as after control markers and compaction. A read gives
    fewer records than were asked for, or none at all, several times in a row, though there are some; where to go on lies
    anywhere in a gap. What was appended shows late. Each topic has its own gaps, the same in every process. Workers lose
    at any time what they own. Topics of streams get more partitions while they are read, if it is told to let them.

    One that is not atomic lets transactions come apart, as Kafka's do from Python: data is there without its offset, or
    an offset without its data; of several batches there are some; others come when their writer is long taken for
    dead; an offset comes late, and steps back; nobody is fenced. What producers append it keeps as they were told.

    Args:
        log: the log that holds the records.
        seed: what it draws from: the same seed gives the same reads.
        patience: how often in a row a read of a partition may give nothing though there is something.
        atomic: whether a transaction happens wholly or not at all.
        torn: the share of transactions that come apart if it is not, from 0 to 1.
        largest: the most bytes of one batch.
        widest: up to how many partitions the topics of streams grow; as many as they have when it is left out.

    Example:
        >>> import pathlib, tempfile
        >>> from millstream.clock import SimulatedClock
        >>> log = AdversarialLog(EmbeddedLog(pathlib.Path(tempfile.mkdtemp()), SimulatedClock(0), map_gib=1), seed=4)
        >>> log.create("clicks", 1)
        >>> [log.append("clicks", 0, Batch(b"{}", "json", 1)) for _ in range(3)]
        [6, 16, 26]
        >>> log.ends("clicks")
        [(0, 33)]
        >>> from millstream.buffer.reading import through
        >>> [records.positions.tolist() for records in through(log, "clicks", 0, 0, 33)]
        [[6, 16], [26]]
        >>> log.close()
    """

    def __init__(
        self,
        log: EmbeddedLog,
        seed: int,
        patience: int = 2,
        *,
        atomic: bool = True,
        torn: float = 0.4,
        largest: int = LARGEST,
        widest: int = 0,
    ) -> None:
        super().__init__(log)
        self.atomic, self.largest = atomic, largest
        self._chance, self._patience, self._widest = random.Random(seed), patience, widest
        self._faults = Faults(self._chance, torn)
        self._silent: Counter[tuple[str, int]] = Counter()

    def append(self, topic: str, partition: int, batch: Batch, arrival: int | None = None) -> int:
        """Append a batch and return the position of its first record; see `Log.append`."""
        self._refuse_larger(topic, batch)
        return _outer(topic, partition, self.embedded.append(topic, partition, batch, arrival))

    def read(self, topic: str, partition: int, position: int, limit: int) -> Records:
        """Return some records, or none, and some place to go on from; see `Log.read`."""
        self._widen(topic)
        place, number = (topic, partition), _inner(topic, partition, position)
        found = self.embedded.read(topic, partition, number, limit)
        following = self.embedded.ends(topic)[partition][1]
        if len(found) and self._silent[place] < self._patience and self._chance.random() < 0.4:
            self._silent[place] += 1
            moved = self._chance.randint(position, max(position, _outer(*place, number)))
            return Records.none(topic, partition, moved)
        self._silent[place] = 0
        if not len(found):
            return Records.none(topic, partition, max(position, following * GAP))
        shown = self._chance.randint(1, len(found.payloads))
        if shown < len(found.payloads):
            found = found.before(int(found.firsts[shown]))
        positions = _outer_all(*place, found.positions)
        end = following * GAP if found.next >= following else _outer(*place, found.next)
        return replace(found, positions=positions, next=self._chance.randint(int(positions[-1]) + 1, end))

    def wait(self, seen: int | None, seconds: float) -> int:
        """Return a number that is another once something was written, and now and then without that."""
        told = self.embedded.wait(None if seen is None else seen // 2, seconds)
        return 2 * told + (self._chance.random() < 0.2)

    def ends(self, topic: str) -> list[tuple[int, int]]:
        """Return where each partition begins and ends, which is in a gap."""
        ends = enumerate(self.embedded.ends(topic))
        return [(_begin(topic, partition, first), following * GAP) for partition, (first, following) in ends]

    def behind(self, topic: str, partition: int, position: int) -> Behind:
        """Return what lies after a position; see `Log.behind`."""
        return self.embedded.behind(topic, partition, _inner(topic, partition, position))

    def committed(self, consumer: str, topic: str) -> list[int | None]:
        """Return each partition's committed position of a consumer."""
        return self.embedded.committed(consumer, topic)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Open a transaction."""
        if self.atomic:
            with self.embedded.transaction() as work:
                yield _Work(work, self._refuse_larger)
            return
        torn = TornWork(self.embedded, self._faults)
        try:
            yield _Work(torn, self._refuse_larger)
        except BaseException:
            torn.end(failed=True)
            raise
        torn.end()

    def worker(self, group: str, topics: Iterable[str], owner: str | None = None) -> AdversarialWorker:
        """Join a group of workers, in which ownership is lost at any time; see `Shareable.worker`."""
        worker = self.embedded.worker(group, topics, owner)
        opening = self._owned if self.atomic else self.transaction
        return AdversarialWorker(worker, self._chance, opening, atomic=self.atomic)

    @contextmanager
    def _owned(self, transaction: AbstractContextManager[Transaction]) -> Iterator[Transaction]:
        with transaction as work:
            yield _Work(work, self._refuse_larger)

    def _widen(self, topic: str) -> None:
        """Now and then let a stream's topic have one more partition, as whoever runs a broker may."""
        if self._widest and not topic.startswith(KEPT) and self._chance.random() < 0.05:
            partitions = self.embedded.topics().get(topic, self._widest)
            if partitions < self._widest:
                self.embedded.grow(topic, partitions + 1)

    def _refuse_larger(self, topic: str, batch: Batch) -> None:
        if len(batch.payload) > self.largest:
            raise LogError.too_large(f"Topic '{topic}': a batch", len(batch.payload), self.largest)


class _Work:
    """A transaction whose appends have places with gaps."""

    def __init__(self, work: Transaction, refuse_larger: Callable[[str, Batch], None]) -> None:
        self._work, self._refuse_larger = work, refuse_larger

    def append(self, topic: str, partition: int, batch: Batch, arrival: int | None = None) -> int:
        """Append a batch and return the position of its first record."""
        self._refuse_larger(topic, batch)
        return _outer(topic, partition, self._work.append(topic, partition, batch, arrival))

    def commit(self, consumer: str, topic: str, partition: int, expected: int | None, position: int) -> None:
        """Move a consumer's position."""
        self._work.commit(consumer, topic, partition, expected, position)


def _outer(topic: str, partition: int, number: int) -> int:
    """The position of the record with a number."""
    return int(_outer_all(topic, partition, np.array([number], np.int64))[0])


def _outer_all(topic: str, partition: int, numbers: Ints) -> Ints:
    salt = zlib.crc32(f"{topic}/{partition}".encode())
    return numbers * GAP + 1 + (numbers * 7_919 + salt) % (GAP - 1)


def _begin(topic: str, partition: int, first: int) -> int:
    """Where a partition begins whose first record has a number: right after what was trimmed."""
    return _outer(topic, partition, first - 1) + 1 if first else 0


def _inner(topic: str, partition: int, position: int) -> int:
    """The number of the first record at or after a position."""
    number = max(0, position) // GAP
    return number if position <= _outer(topic, partition, number) else number + 1
