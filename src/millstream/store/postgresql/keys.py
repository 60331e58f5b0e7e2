"""Keys as an index takes them: a long one by its head and hash, and whole beside its value."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

LONGEST = 1_000
"""Bytes up to which a key is in the index as it is: an entry there may have 2,700."""
_HASH = 32
_LENGTH = 4


def stored(key: bytes) -> bytes:
    """Return a key as the index has it: a long one has a length there that no other has.

    >>> stored(b"user-1"), len(stored(bytes(5_000)))
    (b'user-1', 1001)
    """
    if len(key) <= LONGEST:
        return key
    return key[: LONGEST + 1 - _HASH] + hashlib.blake2b(key, digest_size=_HASH).digest()


def with_keys(changes: Sequence[tuple[bytes, bytes]]) -> Sequence[tuple[bytes, bytes]]:
    """Return keys and values, the values of long keys after these."""
    if max((len(key) for key, _ in changes), default=0) <= LONGEST:
        return changes
    return [(key, _wrapped(key, value) if len(key) > LONGEST else value) for key, value in changes]


def _wrapped(key: bytes, value: bytes) -> bytes:
    return len(key).to_bytes(_LENGTH, "big") + key + value


def whole(key: bytes, record: bytes, head: int) -> bytes:
    """Return the key of a record that an index has under another one.

    Args:
        key: the key as the index has it, from `stored`.
        record: the record, in which a long key is whole, before the value.
        head: how many bytes of the record come before that.
    """
    if len(key) <= LONGEST:
        return key
    begin = head + _LENGTH
    return record[begin : begin + int.from_bytes(record[head:begin], "big")]


def without_key(key: bytes, value: bytes) -> bytes:
    """Return a value without the long key before it."""
    return value[_LENGTH + len(key) :] if len(key) > LONGEST else value
