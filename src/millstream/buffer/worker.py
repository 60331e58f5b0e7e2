"""Who reads which partitions, where several workers share the topics of a log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from millstream.buffer.log import OwnLog, Transaction

Owned = Mapping[str, Mapping[int, int]]
"""By topic and partition, the epoch of an ownership."""


class Worker(Protocol):
    """One of a group of workers that share some topics: each partition has one owner, under an epoch that only grows.

    What a worker may rely on: no epoch of a partition is given out twice; between two calls of `assigned` it is told of
    nothing, and gives up nothing by itself; the partitions of one that is gone go to the others soon.

    What it must not rely on: that it owns a partition because it was told so. Ownership may be lost in the midst of a
    batch, and two workers may both believe that they own a partition. On an atomic log the transaction of the one that is
    wrong does not happen. On any other it may: one that was stopped and goes on may write for seconds as if nothing had
    happened, and positions that were committed under an old epoch may come late, so records name where they come from.

    Between two calls a partition may have gone to another and come back: its epoch tells (with a broker, the generation in
    which it was assigned, not the newest one). Whatever is cached for a partition is then dropped (`changed`) and begun
    from the log, never from where this worker, or its client library, remembers to have been. Used by one thread.
    """

    def assigned(self) -> Owned:
        """Return what this worker owns now, by topic and partition the epoch; called before each round of reading.

        It gives up what is to go to others, takes what is free, and shows that this worker is alive: one that does not
        call it for minutes loses its partitions, and so does one whose process stands still for seconds, but not one that
        is busy with a batch. So nothing that was read before may be unfinished when it is called. A topic of which it owns
        nothing may be missing. It is cheap: where nothing happened nothing is written.

        Raises:
            LogError: when the log cannot be read; what is owned is then unknown, and to be asked again.
        """
        ...

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Open a transaction of the log in the name of this worker; see `Log.transaction`.

        Where the log is atomic it is fenced unless the worker owns each partition in which it commits, under the epoch
        that `assigned` told last.

        Raises:
            Fenced: when a partition has gone to another worker, or its position was moved; ask `assigned` again.
            DiskFull: when there is no room.
        """
        ...

    def close(self) -> None:
        """Give up all partitions at once, for the others to take; a second call does nothing."""
        ...


class Shareable(Protocol):
    """A log whose topics can be read by a group of workers."""

    def worker(self, group: str, topics: Iterable[str], owner: str | None = None) -> Worker:
        """Join a group of workers that share the partitions of some topics; called where a layer starts.

        Members of a group may ask for different topics, as those do that know other definitions; a partition goes to one
        that has asked for its topic.

        Args:
            group: the group's name.
            topics: what this worker reads; one that is not there has no partitions yet.
            owner: a name by which a worker that comes back gets what it had; a new one unless given.

        Raises:
            LogError: when a worker of that name is at work.
            DiskFull: when there is no room.
        """
        ...


@runtime_checkable
class Attended(Protocol):
    """A log that knows which workers of its groups are alive. Called before what must be alone on it."""

    def at_work(self) -> list[str]:
        """The names of the workers that are alive, of whatever group."""
        ...


class EveryPartition:
    """A worker that takes every partition without asking, for what runs alone or fills in for all others.

    Others may believe that they own the same; where the log is atomic whoever is first has done it, and the other is
    fenced by the positions.

    Args:
        log: the log.
        topics: what it reads; one that is not there has no partitions yet.

    Example:
        >>> import pathlib, tempfile
        >>> from millstream.buffer.embedded.log import EmbeddedLog
        >>> from millstream.clock import SimulatedClock
        >>> log = EmbeddedLog(pathlib.Path(tempfile.mkdtemp()), SimulatedClock(7), map_gib=1)
        >>> log.create("payments", 2)
        >>> EveryPartition(log, ["payments"]).assigned()
        {'payments': {0: 0, 1: 0}}
        >>> log.close()
    """

    def __init__(self, log: OwnLog, topics: Iterable[str]) -> None:
        self._log, self._topics = log, tuple(topics)

    def assigned(self) -> Owned:
        """Return every partition there is, always under the epoch 0."""
        there = self._log.topics()
        return {topic: dict.fromkeys(range(there[topic]), 0) for topic in self._topics if topic in there}

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Open a transaction of the log."""
        return self._log.transaction()

    def close(self) -> None:
        """There is nothing to give up."""


def changed(before: Owned, now: Owned) -> set[tuple[str, int]]:
    """The partitions whose ownership was lost, gained, or both in turn, between two answers of `Worker.assigned`.

    What was remembered of them is of no use any more.

    >>> sorted(changed({"payments": {0: 3, 1: 3}}, {"payments": {1: 5, 2: 1}}))
    [('payments', 0), ('payments', 1), ('payments', 2)]
    """
    return {(topic, partition) for topic, partition, _ in _pairs(before) ^ _pairs(now)}


def _pairs(owned: Owned) -> set[tuple[str, int, int]]:
    return {(topic, partition, epoch) for topic, row in owned.items() for partition, epoch in row.items()}
