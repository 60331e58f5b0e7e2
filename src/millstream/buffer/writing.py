"""Writing what was made of some records, and how far they were read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple

from millstream.buffer.log import Batch, Log, TopicAdmin
from millstream.buffer.worker import Worker
from millstream.errors import Fenced, LogError

PATIENCE = 100
"""How often in a row a write may be lost before a log counts as one that takes none."""


class Append(NamedTuple):
    """A batch, where it goes, and when its foreign source has taken it (µs); None: it arrives as it is appended."""

    topic: str
    partition: int
    batch: Batch
    arrival: int | None = None


class Commit(NamedTuple):
    """A consumer's step from the position that it had read from to the one that it reads next."""

    consumer: str
    topic: str
    partition: int
    expected: int | None
    position: int


def append_and_commit(
    log: Log, appends: Iterable[Append], commits: Iterable[Commit], worker: Worker | None = None
) -> None:
    """Append some batches and move consumers past what they were made of.

    On an atomic log that is one transaction. On any other the batches come first, in their order, and the positions
    follow once they are durable, so that no position is ever ahead of what it stands for; one that is lost, or that
    another worker has moved meanwhile, is left so.

    Args:
        log: the log.
        appends: what to append.
        commits: what to commit.
        worker: the owner of the partitions that are committed in, if they are shared among workers.

    Raises:
        Fenced: when another worker has gone on, or owns a partition; on a log that is not atomic some batches may stay.
        DiskFull: when there is no room.
    """
    transaction = log.transaction if worker is None else worker.transaction
    if log.atomic:
        with transaction() as work:
            for commit in commits:
                work.commit(*commit)
            for append in appends:
                work.append(*append)
        return
    with transaction() as work:
        for append in appends:
            work.append(*append)
    with suppress(Fenced), transaction() as work:
        for commit in commits:
            work.commit(*commit)


def widen(log: TopicAdmin, topic: str, partitions: int) -> None:
    """Let a topic be there with at least so many partitions, whoever else makes it or widens it meanwhile.

    Args:
        log: the log.
        topic: the topic.
        partitions: how many at least.

    Raises:
        LogError: when it cannot be made.
    """
    if topic not in log.topics():
        try:
            log.create(topic, partitions)
        except LogError:
            if topic not in log.topics():
                raise
    if log.topics()[topic] < partitions:
        log.grow(topic, partitions)


def until_there(write: Callable[[], bool], topic: str) -> None:
    """Write again until all of it is there, as of a log that is not atomic some may be lost.

    Args:
        write: writes, and says whether all is there.
        topic: where it writes.

    Raises:
        LogError: when it never is.
    """
    for _ in range(PATIENCE):
        if write():
            return
    raise LogError(
        f"Topic '{topic}': what was written {PATIENCE} times in a row is not there.",
        "look at the log's server; the same is written again when this is tried again.",
    )
