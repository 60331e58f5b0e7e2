"""What a store in a server keeps of a shard: values and facts, each with a checksum of itself and of its place.

So a reply that is another query's is never taken for an answer, whatever a connection, a proxy or a damaged copy makes of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from xxhash import xxh3_64_digest, xxh3_64_intdigest

from millstream.errors import CorruptState
from millstream.store.online import BEGUN, ShardMeta

SUM = 8
"""Bytes of a record's checksum, before what it is of."""
_FORMAT = b"1"
_DECODE, _ENCODE = msgspec.msgpack.Decoder(ShardMeta).decode, msgspec.msgpack.Encoder().encode


class ShardRecords:
    """The records of a shard.

    Args:
        states: the name of the states, such as "velocity@1".
        shard: the number of the shard.

    >>> records = ShardRecords("velocity@1", 0)
    >>> records.opened([b"user-1"], records.sealed([(b"user-1", b"state")]))
    [b'state']
    """

    __slots__ = ("_known", "_seed", "name")

    def __init__(self, states: str, shard: int) -> None:
        self.name = f"shard {shard} of '{states}'"
        self._seed = xxh3_64_intdigest(f"{states}/{shard}".encode())
        self._known: tuple[tuple[bytes | None, bytes | None], ShardMeta | None] = ((None, None), None)

    def sealed(self, changes: Sequence[tuple[bytes, bytes]], head: bytes = b"") -> list[bytes]:
        """Return the records of keys and values, one for each pair.

        Args:
            changes: keys and values.
            head: what stands before each value, under the checksum too.
        """
        seed, records = self._seed, list[bytes]()
        for key, value in changes:
            value = head + value
            records.append(xxh3_64_digest(value, xxh3_64_intdigest(key, seed)) + value)
        return records

    def opened(self, keys: Sequence[bytes], records: Sequence[bytes | None], head: int = 0) -> list[bytes | None]:
        """Return the values of records found under some keys, None where there is no record.

        Args:
            keys: the keys they were found under.
            records: the records, one for each key.
            head: how many bytes each record has before its value that are no part of it, beside the checksum.

        Raises:
            CorruptState: when one is not what was stored.
        """
        seed, values, begin = self._seed, list[bytes | None](), SUM + head
        for key, record in zip(keys, records, strict=True):
            if record is None:
                values.append(None)
                continue
            if record[:SUM] != xxh3_64_digest(record[SUM:], xxh3_64_intdigest(key, seed)):
                raise self.damaged(f"the value of key {key!r}")
            values.append(record[begin:])
        return values

    def meta_record(self, meta: ShardMeta) -> bytes:
        """Return a meta as it is stored."""
        raw = _ENCODE(meta)
        return _FORMAT + xxh3_64_digest(raw, self._seed) + raw

    def meta(self, record: bytes | None, pending: bytes | None = None) -> ShardMeta | None:
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

    def damaged(self, what: str) -> CorruptState:
        """Return the error that something in the shard is not what was stored."""
        return CorruptState(
            f"Online store, {self.name}: {what} does not read as what was written.",
            "`millstream backfill` builds the states of the group again.",
        )
