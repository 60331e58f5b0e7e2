"""How a shard lies in a server: one hash, with the values of its keys and what it has applied as fields.

All of a shard is one key of the server. So one command reads values and what they hold of one instant, one script compares
and writes, one command drops it, and in a cluster it lies on one node without further ado.

Every record carries a checksum of itself and of its place, so a reply that is another command's is never taken for an
answer, whatever a connection, a proxy or a damaged copy makes of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from xxhash import xxh3_64_digest, xxh3_64_intdigest

from millstream.errors import CorruptState
from millstream.store.online import BEGUN, Answer, ShardMeta

META, PENDING, POSITION, WRITER = b"m", b"n", b"p", b"w"
"""Fields of a shard: its meta, the one that is pending, its position in digits, and who writes what is pending."""
KEY = b"k"
"""What the field of a key begins with."""
SUM, HEAD = 8, 8
"""Bytes of a record's checksum, and of the position that a value was written with, before the value."""
_FORMAT = b"1"
_DECODE, _ENCODE = msgspec.msgpack.Decoder(ShardMeta).decode, msgspec.msgpack.Encoder().encode


def head_of(position: int) -> bytes:
    """Return a position as it stands in a value.

    >>> head_of(258)
    b'\\x00\\x00\\x00\\x00\\x00\\x00\\x01\\x02'
    """
    return position.to_bytes(HEAD, "big", signed=True)


class Place:
    """A shard in a server: its key there, and its records.

    >>> place = Place("fraud", "velocity@1", 0)
    >>> place.key
    b'fraud:velocity@1/0'
    >>> record = place.sealed([(b"user-1", b"state")], head_of(7))[1]
    >>> place.opened([b"user-1"], [record])
    [b'state']
    """

    __slots__ = ("_known", "_seed", "key", "name")

    def __init__(self, prefix: str, states: str, shard: int) -> None:
        self.name = f"shard {shard} of '{states}'"
        self.key = f"{prefix}:{states}/{shard}".encode()
        self._seed = xxh3_64_intdigest(f"{states}/{shard}".encode())
        self._known: tuple[tuple[bytes | None, bytes | None], ShardMeta | None] = ((None, None), None)

    def sealed(self, changes: Sequence[tuple[bytes, bytes]], head: bytes) -> list[bytes]:
        """Return fields and records of some values, in turns, as a script takes them."""
        seed, fields = self._seed, list[bytes]()
        for key, value in changes:
            value = head + value
            fields += (KEY + key, xxh3_64_digest(value, xxh3_64_intdigest(key, seed)) + value)
        return fields

    def opened(self, keys: Sequence[bytes], records: Sequence[bytes | None]) -> list[bytes | None]:
        """Return the values of records found under some keys. Raises `CorruptState` when one is not what was stored."""
        seed, values = self._seed, list[bytes | None]()
        for key, record in zip(keys, records, strict=True):
            if record is None:
                values.append(None)
                continue
            if record[:SUM] != xxh3_64_digest(record[SUM:], xxh3_64_intdigest(key, seed)):
                raise self.damaged(f"the value of key {key!r}")
            values.append(record[SUM + HEAD :])
        return values

    def meta_record(self, meta: ShardMeta) -> bytes:
        """Return a meta as it is stored."""
        raw = _ENCODE(meta)
        return _FORMAT + xxh3_64_digest(raw, self._seed) + raw

    def meta(self, record: bytes | None, pending: bytes | None) -> ShardMeta | None:
        """Return what a shard has applied and what is pending. Raises `CorruptState`."""
        known, meta = self._known
        if (record, pending) == known:  # as most reads find it
            return meta
        meta = None if record is None else self._decoded(record)
        if pending is not None:
            meta = msgspec.structs.replace(meta or ShardMeta(position=BEGUN), pending=self._decoded(pending))
        self._known = ((record, pending), meta)
        return meta

    def _decoded(self, record: bytes) -> ShardMeta:
        if record[:1] != _FORMAT:
            raise CorruptState(
                f"Online store, {self.name}: format {record[:1]!r} is not the one read here, {_FORMAT!r}.",
                "read it with the Millstream version that wrote it; else `millstream backfill` builds the group again.",
            )
        raw = record[1 + SUM :]
        if record[1 : 1 + SUM] != xxh3_64_digest(raw, self._seed):
            raise self.damaged("what it has applied")
        try:
            return _DECODE(raw)
        except msgspec.DecodeError as error:
            raise self.damaged("what it has applied") from error

    def answer(self, keys: Sequence[bytes], found: Sequence[bytes | None]) -> Answer:
        """Return the answer that the fields META, PENDING and those of some keys are. Raises `CorruptState`."""
        meta, records = self.meta(found[0], found[1]), found[2:]
        if meta is None and any(record is not None for record in records):
            raise self.damaged("what it has applied")
        values = self.opened(keys, records)
        if meta is None or meta.pending is None:
            return Answer(values, meta)
        return Answer(values, meta, [BEGUN if record is None else position_of(record) for record in records])

    def damaged(self, what: str) -> CorruptState:
        """Return the error that something in the shard is not what was stored."""
        return CorruptState(
            f"Online store, {self.name}: {what} does not read as what was written.",
            "`millstream backfill` builds the states of the group again.",
        )


def position_of(record: bytes) -> int:
    """Return the position that a record's value was written with."""
    return int.from_bytes(record[SUM : SUM + HEAD], "big", signed=True)


def asked(place: Place, keys: Sequence[bytes] = ()) -> tuple[bytes, ...]:
    """Return the command that reads some keys of a shard and what it has applied.

    >>> asked(Place("fraud", "velocity@1", 0), [b"user-1"])
    (b'HMGET', b'fraud:velocity@1/0', b'm', b'n', b'kuser-1')
    """
    return (b"HMGET", place.key, META, PENDING, *[KEY + key for key in keys])
