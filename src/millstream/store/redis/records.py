"""How a shard lies in a server: one hash, with the values of its keys and what it has applied as fields.

All of a shard is one key of the server. So one command reads values and what they hold of one instant, one script compares
and writes, one command drops it, and in a cluster it lies on one node without further ado.
"""

from __future__ import annotations

from collections.abc import Sequence

from millstream.store.online import BEGUN, Answer
from millstream.store.records import SUM, ShardRecords

META, PENDING, POSITION, WRITER = b"m", b"n", b"p", b"w"
"""Fields of a shard: its meta, the one that is pending, its position in digits, and who writes what is pending."""
KEY = b"k"
"""What the field of a key begins with."""
HEAD = 8
"""Bytes of the position that a value was written with, before the value."""


def head_of(position: int) -> bytes:
    """Return a position as it stands in a value.

    >>> head_of(258)
    b'\\x00\\x00\\x00\\x00\\x00\\x00\\x01\\x02'
    """
    return position.to_bytes(HEAD, "big", signed=True)


class Place(ShardRecords):
    """A shard in a server: its key there, and its records.

    Args:
        prefix: what the project's keys begin with.
        states: the name of the states, such as "velocity@1".
        shard: the number of the shard.

    >>> place = Place("fraud", "velocity@1", 0)
    >>> place.key
    b'fraud:velocity@1/0'
    >>> field, record = place.fields([(b"user-1", b"state")], head_of(7))
    >>> field, place.opened([b"user-1"], [record], HEAD)
    (b'kuser-1', [b'state'])
    """

    __slots__ = ("key",)

    def __init__(self, prefix: str, states: str, shard: int) -> None:
        super().__init__(states, shard)
        self.key = f"{prefix}:{states}/{shard}".encode()

    def fields(self, changes: Sequence[tuple[bytes, bytes]], head: bytes) -> list[bytes]:
        """Return fields and records of some values, in turns, as a script takes them."""
        fields = [b""] * (2 * len(changes))
        fields[::2] = [KEY + key for key, _ in changes]
        fields[1::2] = self.sealed(changes, head)
        return fields

    def answer(self, keys: Sequence[bytes], found: Sequence[bytes | None]) -> Answer:
        """Return the answer that the fields META, PENDING and those of some keys are. Raises `CorruptState`."""
        meta, records = self.meta(found[0], found[1]), found[2:]
        if meta is None and any(record is not None for record in records):
            raise self.damaged("what it has applied")
        values = self.opened(keys, records, HEAD)
        if meta is None or meta.pending is None:
            return Answer(values, meta)
        return Answer(values, meta, [BEGUN if record is None else position_of(record) for record in records])


def position_of(record: bytes) -> int:
    """Return the position that a record's value was written with."""
    return int.from_bytes(record[SUM : SUM + HEAD], "big", signed=True)


def asked(place: Place, keys: Sequence[bytes] = ()) -> tuple[bytes, ...]:
    """Return the command that reads some keys of a shard and what it has applied.

    >>> asked(Place("fraud", "velocity@1", 0), [b"user-1"])
    (b'HMGET', b'fraud:velocity@1/0', b'm', b'n', b'kuser-1')
    """
    return (b"HMGET", place.key, META, PENDING, *[KEY + key for key in keys])
