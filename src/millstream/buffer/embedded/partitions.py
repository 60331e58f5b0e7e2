"""Where topics, partitions and consumers are in the embedded log's table."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from millstream.buffer.embedded import rows as stored
from millstream.buffer.embedded.rows import Damaged
from millstream.errors import LogError, nearest

if TYPE_CHECKING:
    import lmdb

_LONGEST_NAME = 400  # bytes; LMDB's keys end at 511
FREE = bytes(16)
"""Who owns what nobody owns."""


def find_topic(rows: lmdb.Transaction, topic: str) -> tuple[int, int] | None:
    """The number and the partitions of a topic, or None."""
    key = b"t" + name_of(topic, "Topic")
    value = rows.get(key)
    if value is None:
        return None
    read = stored.opened(key, value, stored.TOPIC.size, f"topic '{topic}'")
    return cast("tuple[int, int]", stored.TOPIC.unpack(read))


def topic_of(rows: lmdb.Transaction, topic: str) -> tuple[int, int]:
    """The number and the partitions of a topic that must be there."""
    found = find_topic(rows, topic)
    if found is None:
        close = nearest(topic, [name for name, _ in stored.topic_rows(rows)])
        raise LogError(
            f"Topic '{topic}' is not in the log.",
            f"did you mean '{close}'?" if close else "apply the definitions first.",
        )
    return found


def ends_of(rows: lmdb.Transaction, topic: str, number: int, partitions: int, partition: int) -> tuple[int, int]:
    """Return the first position kept of a partition and the next one.

    Args:
        rows: a transaction of the table.
        topic: the topic's name, for messages.
        number: the number that its rows have in their keys.
        partitions: how many it has; both as `topic_of` returns them.
        partition: which of them.

    Raises:
        LogError: when the topic has no such partition.
        Damaged: when what is stored is not what was written.
    """
    if not 0 <= partition < partitions:
        raise LogError(f"Topic '{topic}' has no partition {partition}.", f"its partitions are 0 to {partitions - 1}.")
    what = f"topic '{topic}', partition {partition}, its ends"
    key = stored.PARTITION_KEY.pack(b"p", number, partition)
    value = rows.get(key)
    if value is None:
        raise Damaged(what)
    first, following = stored.ENDS.unpack(stored.opened(key, value, stored.ENDS.size, what))
    if first > following:
        raise Damaged(what)
    return first, following


def put_ends(rows: lmdb.Transaction, number: int, partition: int, first: int, following: int) -> None:
    """Write where a partition begins and ends.

    Args:
        rows: a write transaction of the table.
        number: the number of the topic.
        partition: the partition.
        first: the first position kept.
        following: the position that the next record gets, not before `first`.
    """
    key = stored.PARTITION_KEY.pack(b"p", number, partition)
    rows.put(key, stored.seal(key, stored.ENDS.pack(first, following)))


def commit_key(number: int, partition: int, consumer: str) -> bytes:
    """Return the key of a consumer's position.

    Args:
        number: the number of the topic.
        partition: the partition.
        consumer: the consumer's name, of 1 to 400 bytes.

    Raises:
        LogError: when the name is longer, or empty.
    """
    return stored.PARTITION_KEY.pack(b"c", number, partition) + name_of(consumer, "Consumer")


def committed_by(rows: lmdb.Transaction, consumer: str, topic: str, number: int, partition: int) -> int | None:
    """Return the position that a consumer has committed in a partition, or None.

    Args:
        rows: a transaction of the table.
        consumer: the consumer's name.
        topic: the topic's name, for messages.
        number: the number that its rows have in their keys.
        partition: which of its partitions.

    Raises:
        LogError: when the consumer's name is too long, or empty.
        Damaged: when what is stored is not what was written.
    """
    key = commit_key(number, partition, consumer)
    value = rows.get(key)
    if value is None:
        return None
    what = f"topic '{topic}', partition {partition}, the position of '{consumer}'"
    return int(stored.POSITION.unpack(stored.opened(key, value, stored.POSITION.size, what))[0])


def owned_by(rows: lmdb.Transaction, group: str, number: int, place: tuple[str, int]) -> tuple[int, bytes]:
    """Return the epoch of a partition for a group of workers, and who owns it; 0 and `FREE` at first.

    Args:
        rows: a transaction of the table.
        group: the name of the group.
        number: the number of the topic.
        place: the topic's name, for messages, and the partition.

    Raises:
        LogError: when the group's name is too long, or empty.
        Damaged: when what is stored is not what was written.
    """
    key = stored.PARTITION_KEY.pack(b"w", number, place[1]) + name_of(group, "Group")
    value = rows.get(key)
    if value is None:
        return 0, FREE
    what = f"topic '{place[0]}', partition {place[1]}, its owner in '{group}'"
    epoch, owner = stored.OWNER.unpack(stored.opened(key, value, stored.OWNER.size, what))
    return int(epoch), bytes(owner)


def put_owned(rows: lmdb.Transaction, group: str, place: tuple[int, int], epoch: int, owner: bytes) -> None:
    """Write who owns a partition, and since which epoch.

    Args:
        rows: a write transaction of the table.
        group: the name of the group.
        place: the number of the topic, and the partition.
        epoch: the epoch of this ownership, greater than any before.
        owner: the owner's 16 bytes, or `FREE`.
    """
    key = stored.PARTITION_KEY.pack(b"w", *place) + name_of(group, "Group")
    rows.put(key, stored.seal(key, stored.OWNER.pack(epoch, owner)))


def name_of(name: str, kind: str) -> bytes:
    """The name of a topic or a consumer as it stands in a key."""
    encoded = name.encode()
    if not 0 < len(encoded) <= _LONGEST_NAME:
        raise LogError(f"{kind} '{name[:40]}' has a name of {len(encoded)} bytes.", f"use 1 to {_LONGEST_NAME} bytes.")
    return encoded
