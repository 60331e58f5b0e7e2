"""Whether a log is still the one that a store or an archive was filled from, and no older than it was then.

A log that was restored from a copy, emptied or replaced has other records at positions that a store knows, or none. So
whoever keeps a position keeps a *mark* with it: the log's identity and the checksum of the record before the position.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from millstream.buffer.log import Log, Records
from millstream.errors import SteppedBack, StoreError


@runtime_checkable
class Identified(Protocol):
    """A log that can say which one it is."""

    def identity(self) -> str:
        """Return what tells this log from any other, and its epoch; the same at every call until it is repaired."""
        ...

    def fingerprint(self, topic: str, partition: int, position: int) -> int | None:
        """Return the checksum of the batch that ends at a position: None where that is unknown, -1 where none ends.

        Called where a position is kept, and where one that was kept is compared with the log.

        Args:
            topic: the topic the position is of.
            partition: its partition.
            position: the next position to read, which is where the batch before it ends.
        """
        ...


@runtime_checkable
class Mendable(Protocol):
    """A log that can go on where nobody has been, after it has stepped back; nothing else runs on it meanwhile."""

    def rebase(self, topic: str, partition: int, base: int, kept: Sequence[Records]) -> None:
        """Begin a partition anew at a position beyond all that anybody knows, with some records of it.

        Every consumer of it is moved there. Called by repair.

        Args:
            topic: the topic, one that is there.
            partition: the partition; what it holds is dropped.
            base: the position it is to begin at.
            kept: the records it holds then, from `base` on: they are appended anew, with the stamps that they have.
        """
        ...

    def renew(self, name: str | None = None) -> str:
        """Begin a new epoch, and return the identity. Called by repair.

        Args:
            name: the name by which the stores know the log, which it takes; None to keep its own.
        """
        ...


def mendable(log: Log) -> Mendable:
    """Return a log as one that can be mended.

    Raises:
        StoreError: when it is none.
    """
    if isinstance(log, Mendable):
        return log
    raise StoreError(
        f"Log: a {type(log).__name__} cannot go on at positions that nobody knows; it has no `rebase` and `renew`.",
        "restore all parts of the project from one copy.",
    )


def identity_of(log: Log) -> str:
    """Return what tells a log from any other, and its epoch; empty where it cannot tell."""
    return log.identity() if isinstance(log, Identified) else ""


def mark(log: Log, topic: str, partition: int, position: int) -> str:
    """Return what to keep with a position; empty where the log cannot tell.

    Args:
        log: the log.
        topic: the topic the position is of.
        partition: its partition.
        position: the next position to read.
    """
    if not isinstance(log, Identified):
        return ""
    check = log.fingerprint(topic, partition, position)
    return log.identity().partition("@")[0] + ("" if check is None else f" {position} {check}")


def disagreement(log: Log, topic: str, partition: int, position: int, kept: str = "") -> str | None:
    """Return how a log differs from the one that a position was kept of, or None when it does not.

    Args:
        log: the log.
        topic: the topic the position is of.
        partition: its partition.
        position: the next position to read.
        kept: the mark that was kept with it; without one only the end of the log is looked at.
    """
    place, ends = f"topic '{topic}', partition {partition}", log.ends(topic)
    if partition >= len(ends):
        return f"topic '{topic}' has {len(ends)} partitions, and partition {partition} was read" if position else None
    following = ends[partition][1]
    if position > following:
        return f"{place} ends at {following}, before position {position}, which was read"
    if not kept or not isinstance(log, Identified):
        return None
    known, _, rest = kept.partition(" ")
    if known != log.identity().partition("@")[0]:
        return f"{place} is in log '{log.identity()}', not in the one that was read, '{known}'"
    at, _, check = rest.partition(" ")
    if check and int(at) == position and log.fingerprint(topic, partition, position) not in (None, int(check)):
        return f"{place} has another record before position {position} than the one that was read"
    return None


def refuse_stepped_back(who: str, log: Log, topic: str, partition: int, position: int, kept: str = "") -> None:
    """Raise when a log is not the one that a position was kept of.

    Args:
        who: who has kept it, as it begins the message, such as "Group version 'velocity@1'".
        log: the log.
        topic: the topic the position is of.
        partition: its partition.
        position: the next position to read.
        kept: the mark that was kept with it; without one only the end of the log is looked at.

    Raises:
        SteppedBack: when it is older, or another one.
    """
    found = disagreement(log, topic, partition, position, kept)
    if found is not None:
        raise SteppedBack.found(who, found)
