"""Reading a stretch of a log whole, however it is cut and however often a read gives nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from millstream.buffer.log import EndsAtOnce, Log, Records, Tail, TimeIndex
from millstream.errors import LogError

PATIENCE = 1_000
"""Reads in a row that may come back without having moved on before a log counts as stuck."""
AT_ONCE = 100_000
"""Records read at once, unless told otherwise."""


class Readable(Protocol):
    """The part of a log that is read."""

    def read(self, topic: str, partition: int, position: int, limit: int) -> Records:
        """Return records from a position on, and where to go on; see `Log.read` for the arguments too."""
        ...


def ends_of(log: Log, topics: Sequence[str]) -> dict[str, list[tuple[int, int]]]:
    """Return where each partition of some topics begins and ends, by topic; by one request where the log can.

    Args:
        log: the log.
        topics: the topics, which are there.

    Raises:
        LogError: when one of them is not, or the log cannot be read.
    """
    if isinstance(log, EndsAtOnce):
        return log.ends_of(topics)
    return {topic: log.ends(topic) for topic in topics}


def through(
    log: Readable, topic: str, partition: int, position: int, until: int, limit: int = AT_ONCE
) -> Iterator[Records]:
    """Read from a position up to another, some records at a time, in whole payloads; empty reads are left out.

    Use it where all of a stretch is needed, up to an end that the log has named: nothing of it is missing afterwards.

    Args:
        log: the log.
        topic: the topic.
        partition: the partition.
        position: where to begin.
        until: the position before which to stop; a payload that begins before it comes whole.
        limit: about how many records to read at once.

    Yields:
        Records: never none; `next` of the last one is where the next stretch begins.

    Raises:
        LogError: when something has been trimmed, or the log does not give what it has.

    Example:
        >>> import pathlib, tempfile
        >>> from millstream.buffer.embedded.log import EmbeddedLog
        >>> from millstream.buffer.log import Batch
        >>> from millstream.clock import SimulatedClock
        >>> log = EmbeddedLog(pathlib.Path(tempfile.mkdtemp()), SimulatedClock(0), map_gib=1)
        >>> log.create("clicks", 1)
        >>> for payload in (b"a", b"b", b"c"):
        ...     _ = log.append("clicks", 0, Batch(payload, "bytes", 1))
        >>> [records.payloads for records in through(log, "clicks", 0, 0, 3, limit=2)]
        [[b'a', b'b'], [b'c']]
        >>> log.close()
    """
    patience = PATIENCE
    while position < until:
        found = log.read(topic, partition, position, limit).before(until)
        patience = PATIENCE if found.next > position else patience - 1
        if not patience:
            raise LogError(
                f"Topic '{topic}', partition {partition}: nothing came from position {position} on, though the log ends "
                f"at {until} or later.",
                "look at the log's server; the same is read again when this is tried again.",
            )
        position = found.next
        if len(found):
            yield found


def still_kept(
    log: Log, topic: str, partition: int, position: int, until: int, limit: int = AT_ONCE
) -> Iterator[Records]:
    """Read as `through` does, without what another process trims meanwhile.

    Use it where whoever trims has said elsewhere, before, what the trimmed records said.

    Args:
        log: the log.
        topic: the topic.
        partition: the partition.
        position: where to begin.
        until: the position before which to stop; a payload that begins before it comes whole.
        limit: about how many records to read at once.

    Yields:
        Records: never none.

    Raises:
        LogError: when the log does not give what it has.
    """
    while True:
        position = max(position, log.ends(topic)[partition][0])
        try:
            for records in through(log, topic, partition, position, until, limit):
                position = records.next
                yield records
            return
        except LogError:
            if log.ends(topic)[partition][0] <= position:
                raise


def position_since(log: Log, topic: str, partition: int, instant: int, until: int) -> int:
    """Return a position, not beyond `until`, from which on all is found that was appended at an instant or later.

    Args:
        log: the log; one that finds no instants is read from its first record on.
        topic: the topic.
        partition: the partition.
        instant: the instant, in microseconds.
        until: the position to look before.

    Raises:
        LogError: when something is trimmed meanwhile.
    """
    if isinstance(log, TimeIndex):
        return min(log.position_at(topic, partition, instant), until)
    first = log.ends(topic)[partition][0]
    for found in through(log, topic, partition, first, until):
        for position, appended in zip(found.firsts.tolist(), found.appended.tolist(), strict=True):
            if appended >= instant:
                return int(min(position, until))
    return max(first, until)


def position_of_last(log: Log, topic: str, partition: int, count: int) -> int:
    """Return a position with the last `count` records at or after it: the first one kept where the log finds no nearer.

    Args:
        log: the log.
        topic: the topic.
        partition: the partition.
        count: how many records.
    """
    if isinstance(log, Tail):
        return log.position_of_last(topic, partition, count)
    return log.ends(topic)[partition][0]
