"""The rows of the embedded log's table: how each is written, and checked whenever it is read.

Rows of the one table, by the first byte of their key (numbers big-endian, so that keys sort by them):

    f                                format of the table
    n                                number of the next topic
    t name                           topic: number, partitions
    p topic partition                partition: first position kept, next position
    r topic partition position       a batch: count, append time, encoding, checksum of the payload; the payload
    s topic partition position part  a part of a large payload; the batch holds its size instead
    b topic partition position       here begins a batch that was appended, by the clock, before the one before it
    c topic partition consumer       the consumer's position
    w topic partition group          the worker that owns it in a group, and its epoch
    d topic                          a dropped topic, rows of which are left
    i                                the log's identity and its epoch

No value is larger than a page, so that any free page will do for it: a log that is nearly full is not kept from what
is free by being in pieces.

What stands before the payload is *sealed*: a checksum of it and of the row's key follows it, so that a row that is
found under another key than it was written under does not pass either. Rows of format 1 have no seal and no checksum;
they are read as they are.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import xxhash

from millstream.buffer.embedded.columns import CHECKED, Columns, intact, read_columns
from millstream.buffer.log import Batch, Encoding, Records

if TYPE_CHECKING:
    import lmdb
import numpy as np

TOPIC = struct.Struct(">II")
PARTITION_KEY = struct.Struct(">cII")
ENDS = struct.Struct(">QQ")
RECORD_KEY = struct.Struct(">cIIQ")
POSITION = struct.Struct(">Q")
OWNER = struct.Struct(">Q16s")
PART_KEY = struct.Struct(">cIIQI")
PART = 4080
"""Bytes of a payload in one row: what fits into a page of 4 KiB beside its header."""
NUMBER = struct.Struct(">I")
IDENTITY = 40
"""Bytes of the log's identity and epoch."""
_BEFORE = struct.Struct("<IqI")  # a batch in format 1: count, append time, encoding
_HEAD = struct.Struct("<IqII")  # a batch: count, append time, encoding, checksum of the payload
_FULL = struct.Struct("<IqIII")  # the same and its seal
_SEAL = struct.Struct("<I")
_IN_PARTS = 0x10  # added to the encoding as well
_SIZE = struct.Struct("<Q")
_ENCODINGS: tuple[Encoding, ...] = ("json", "arrow", "bytes")
_SHORT = 0xFFFFFFFF
_FEW, _MANY = 16, 1024
"""Rows to look at at once: at first, and once they have turned out to be small."""
_digest = xxhash.xxh3_64_intdigest


class Damaged(Exception):
    """A row does not read as what was written; says which."""


def seal(key: bytes, value: bytes) -> bytes:
    """A value as it is stored under a key."""
    return value + _SEAL.pack(_digest(key + value) & _SHORT)


def opened(key: bytes, stored: bytes | memoryview, size: int, what: str) -> bytes:
    """Return the value of a stored row.

    Args:
        key: the key it was found under.
        stored: the row, sealed or of format 1, which has no seal.
        size: how many bytes the value has.
        what: what the row is, for the message, such as "topic 'clicks'".

    Raises:
        Damaged: when it is not what was written under that key.
    """
    value = bytes(stored[:size])
    if len(stored) == size:
        return value  # of format 1
    if len(stored) != size + _SEAL.size or seal(key, value) != bytes(stored):
        raise Damaged(what)
    return value


def record_key(number: int, partition: int, position: int) -> bytes:
    """Return the key of the batch that begins at a position.

    Args:
        number: the number of the topic.
        partition: the partition.
        position: the position of the batch's first record.
    """
    return RECORD_KEY.pack(b"r", number, partition, position)


def put_batch(rows: lmdb.Transaction, place: tuple[int, int, int], batch: Batch, stamp: int) -> None:
    """Write a batch, in parts where its payload does not fit into one row.

    Args:
        rows: a write transaction of the table.
        place: the number of its topic, its partition and the position of its first record.
        batch: the batch.
        stamp: when it is appended (µs).
    """
    key, payload = record_key(*place), batch.payload
    encoding = CHECKED + _ENCODINGS.index(batch.encoding)
    whole = len(payload) + _FULL.size <= PART
    head = _HEAD.pack(batch.count, stamp, encoding if whole else encoding + _IN_PARTS, _digest(payload) & _SHORT)
    sealed = head + _SEAL.pack(_digest(key + head) & _SHORT)
    rows.put(key, sealed + (payload if whole else _SIZE.pack(len(payload))))
    if not whole:
        parts = range(0, len(payload), PART)
        with rows.cursor() as cursor:
            cursor.putmulti([(PART_KEY.pack(b"s", *place, n), payload[at : at + PART]) for n, at in enumerate(parts)])


def _joined(rows: lmdb.Transaction, place: tuple[int, int, int], size: int, what: str) -> bytes:
    """A payload from its parts."""
    first, found, missing = PART_KEY.pack(b"s", *place, 0), list[memoryview](), size
    with rows.cursor() as cursor:
        if cursor.set_range(first) and bytes(cursor.key()) == first:
            for part in cursor.iternext(keys=False, values=True):
                found.append(cast("memoryview", part))
                missing -= len(part)
                if missing <= 0 or len(part) != PART:
                    break
        if missing != 0:
            raise Damaged(f"{what}, position {place[2]}")
        return b"".join(found)


def _head(key: bytes, value: memoryview, what: str) -> tuple[int, int, int, int, int]:
    """Of a stored batch: its count, append time, encoding, where its payload begins and its checksum, -1 in format 1."""
    if len(value) >= _FULL.size:
        count, appended, encoding, check, sealed = _FULL.unpack_from(value)
        if encoding >= len(_ENCODINGS):
            if sealed != _digest(key + bytes(value[: _HEAD.size])) & _SHORT:
                raise _damaged(key, what)
            encoding -= CHECKED
            if not 0 <= encoding & ~_IN_PARTS < len(_ENCODINGS):
                raise _damaged(key, what)
            return count, appended, encoding, _FULL.size, check
    if len(value) < _BEFORE.size:
        raise _damaged(key, what)
    count, appended, encoding = _BEFORE.unpack_from(value)
    if encoding >= len(_ENCODINGS):
        raise _damaged(key, what)
    return count, appended, encoding, _BEFORE.size, -1


def _damaged(key: bytes, what: str) -> Damaged:
    return Damaged(f"{what}, position {RECORD_KEY.unpack(key)[3]}" if len(key) == RECORD_KEY.size else what)


def _found(cursor: lmdb.Cursor, wanted: bytes) -> bool:
    """Move a cursor to the row with a key, or to the one before where it would be; whether there is any."""
    more = cursor.set_range(wanted)
    if more and bytes(cursor.key()) == wanted:
        return True
    return cursor.prev() if more else cursor.last()


def _stored(
    rows: lmdb.Transaction, number: int, partition: int, position: int, following: int, what: str
) -> Iterator[tuple[int, tuple[int, int, int, int, int], memoryview]]:
    """Position, head and value of each batch from the one that holds a position to the last, which ends at `following`.

    Raises:
        Damaged: when one of them is not what was written, or is not there.
    """
    wanted, expected = record_key(number, partition, position), position
    with rows.cursor() as cursor:
        for name, raw in cursor.iternext() if _found(cursor, wanted) else ():
            key, value = bytes(name), cast("memoryview", raw)
            if key[:9] != wanted[:9] or len(key) != len(wanted):
                break
            at = int.from_bytes(key[9:], "big")
            head = _head(key, value, what)
            if at > expected or (at < expected and (expected != position or at + head[0] <= position)):
                break
            expected = at + head[0]
            yield at, head, value
            if expected >= following:
                break
    if expected != following:
        raise Damaged(f"{what}, position {expected}")


def read_batches(
    rows: lmdb.Transaction, place: tuple[str, int, int], position: int, limit: int, following: int
) -> Records:
    """Return whole batches from a position on, until they hold `limit` records.

    Args:
        rows: a transaction of the table.
        place: the topic, its number and the partition.
        position: where to begin, within the partition's ends; the batch that holds it comes first.
        limit: how many records to return at least, if there are as many; at least one batch comes.
        following: where the partition ends.

    Raises:
        Damaged: when one of them is not what was written, or is not there.
    """
    topic, number, partition = place
    what = f"topic '{topic}', partition {partition}"
    read, next_, few, wanted = list[Columns](), position, _FEW, max(1, limit)
    with rows.cursor() as cursor:
        while next_ < following and next_ - position < wanted:
            key, left = record_key(number, partition, next_), wanted - (next_ - position)
            plain = None
            if _found(cursor, key):
                most = min(few, left)
                plain = read_columns(cursor, key[:9], next_, following, len(_ENCODINGS), most, left)
            if plain is None:
                plain = _lone(rows, (number, partition, next_), following, what)
                few = 1
            read.append(plain)
            next_, few = plain.next, min(2 * few, _MANY)
    return _records(topic, partition, position, read)


def _lone(rows: lmdb.Transaction, place: tuple[int, int, int], following: int, what: str) -> Columns:
    """The one batch that holds a position, however it is written; `place`: number of the topic, partition, position.

    Raises:
        Damaged: when it is not what was written, or is not there.
    """
    number, partition, position = place
    at, (count, appended, encoding, begin, check), value = next(
        _stored(rows, number, partition, position, following, what)
    )
    if encoding < _IN_PARTS:
        payload = bytes(value[begin:])  # the one copy: the map's pages are used again after the transaction
    else:
        encoding -= _IN_PARTS
        payload = _joined(rows, (number, partition, at), _SIZE.unpack_from(value, begin)[0], what)
    if check >= 0 and not intact([payload], np.array([check], np.uint32)):
        raise Damaged(f"{what}, position {at}")
    kinds, counts, stamps = (np.array([one], np.int64) for one in (encoding, count, appended))
    return Columns([payload], kinds, counts, stamps, at, at + count)


def _records(topic: str, partition: int, position: int, read: list[Columns]) -> Records:
    """What was read from a position on."""
    if not read:
        return Records.none(topic, partition, position)
    payloads = [payload for some in read for payload in some.payloads]
    encodings = [_ENCODINGS[kind] for some in read for kind in some.encodings.tolist()]
    counts, stamps = np.concatenate([some.counts for some in read]), np.concatenate([some.appended for some in read])
    next_, skip = read[-1].next, max(0, position - read[0].first)
    positions = np.arange(position, next_, dtype=np.int64)
    return Records(topic, partition, payloads, encodings, counts, stamps, positions, next_, skip)


def oldest(rows: lmdb.Transaction, place: tuple[str, int, int], position: int, following: int) -> int | None:
    """Return when the batch that holds a position was appended (µs), or None at the end.

    Args:
        rows: a transaction of the table.
        place: the topic, its number and the partition.
        position: the position, not before the first one kept.
        following: where the partition ends.

    Raises:
        Damaged: when the batch is not what was written, or is not there.
    """
    topic, number, partition = place
    what = f"topic '{topic}', partition {partition}"
    for _, head, _ in _stored(rows, number, partition, position, following, what):
        return head[1]
    return None


def find_instant(rows: lmdb.Transaction, place: tuple[str, int, int], ends: tuple[int, int], instant: int) -> int:
    """Return the first position whose batch was appended at an instant or later, or else where the partition ends.

    Found by halving, in each stretch in which the clock did not step back.

    Args:
        rows: a transaction of the table.
        place: the topic, its number and the partition.
        ends: the first position kept and the next one.
        instant: the instant (µs).

    Raises:
        Damaged: when a batch that is looked at is not what was written, or is not there.
    """
    topic, number, partition = place
    what = f"topic '{topic}', partition {partition}"
    first, following = ends
    steps = [at for at in _steps_back(rows, number, partition, what) if first < at < following]
    for low, high in pairwise([first, *steps, following]):
        end = high
        while low < high:
            middle = (low + high) // 2
            at, head, _ = next(_stored(rows, number, partition, middle, following, what))
            if head[1] < instant:
                low = at + head[0]
            else:
                high = middle
        if low < end:
            return low
    return following


def put_step_back(rows: lmdb.Transaction, place: tuple[int, int, int]) -> None:
    """Note that the clock has stepped back before a batch; `place` as of `put_batch`."""
    key = RECORD_KEY.pack(b"b", *place)
    rows.put(key, seal(key, b""))


def _steps_back(rows: lmdb.Transaction, number: int, partition: int, what: str) -> list[int]:
    """Where batches begin before which the clock stepped back."""
    found = []
    for key in prefixed(rows, PARTITION_KEY.pack(b"b", number, partition), None):
        opened(key, rows.get(key) or b"", 0, f"{what}, where its clock stepped back")
        found.append(int.from_bytes(key[PARTITION_KEY.size :], "big"))
    return found


def check_before(
    rows: lmdb.Transaction, place: tuple[str, int, int], ends: tuple[int, int], position: int
) -> int | None:
    """Return the checksum of the batch that ends at a position.

    Args:
        rows: a transaction of the table.
        place: the topic, its number and the partition.
        ends: the first position kept and the next one.
        position: where the batch ends.

    Returns:
        int | None: None where it is trimmed or of format 1, -1 where none ends there.

    Raises:
        Damaged: when the batch is not what was written, or is not there.
    """
    topic, number, partition = place
    first, following = ends
    if position <= first:
        return None
    if position > following:
        return -1
    what = f"topic '{topic}', partition {partition}"
    for at, head, value in _stored(rows, number, partition, position - 1, following, what):
        if at + head[0] != position:
            return -1
        return None if head[4] < 0 else int(_FULL.unpack_from(value)[4])
    return -1


def trim_batches(
    rows: lmdb.Transaction, place: tuple[str, int, int], ends: tuple[int, int], before: int, most: int
) -> tuple[int, bool]:
    """Delete batches that end at or before a position, the oldest first.

    Args:
        rows: a write transaction of the table.
        place: the topic, its number and the partition.
        ends: the first position kept and the next one; the caller writes the new ones.
        before: the position up to which batches are to go.
        most: after how many rows to stop, so that other writers need not wait long; a batch in parts goes wholly.

    Returns:
        tuple[int, bool]: the first position kept, and whether `most` were too few.

    Raises:
        Damaged: when a batch is not what was written, or is not there.
    """
    topic, number, partition = place
    kept, following = ends
    what = f"topic '{topic}', partition {partition}"
    gone: list[bytes] = []
    for at, head, value in _stored(rows, number, partition, kept, following, what):
        if at + head[0] > before or len(gone) >= most:
            break
        gone.append(record_key(number, partition, at))
        if head[2] >= _IN_PARTS:
            parts = -(-int(_SIZE.unpack_from(value, head[3])[0]) // PART)
            gone += [PART_KEY.pack(b"s", number, partition, at, part) for part in range(parts)]
        kept = at + head[0]
    full = len(gone) >= most
    gone += [
        RECORD_KEY.pack(b"b", number, partition, at) for at in _steps_back(rows, number, partition, what) if at < kept
    ]
    for key in gone:
        rows.delete(key)
    return kept, full


def topic_rows(rows: lmdb.Transaction) -> Iterator[tuple[str, tuple[int, int]]]:
    """All topics, with their numbers and how many partitions they have."""
    for key in prefixed(rows, b"t", None):
        stored = rows.get(key)
        name = key[1:].decode(errors="replace")
        if stored is None:
            raise Damaged(f"topic '{name}'")
        yield name, cast("tuple[int, int]", TOPIC.unpack(opened(key, stored, TOPIC.size, f"topic '{name}'")))


def prefixed(rows: lmdb.Transaction, prefix: bytes, limit: int | None) -> list[bytes]:
    """Return some of the keys that begin so, in their order.

    Args:
        rows: a transaction of the table.
        prefix: the bytes they begin with.
        limit: how many at most, the first ones; None for all.

    Raises:
        Damaged: when they do not come in order.
    """
    found: list[bytes] = []
    with rows.cursor() as cursor:
        more = cursor.set_range(prefix)
        while more and (limit is None or len(found) < limit) and bytes(cursor.key()[: len(prefix)]) == prefix:
            key = bytes(cursor.key())
            if found and key <= found[-1]:
                raise Damaged("the order of its keys")
            found.append(key)
            more = cursor.next()
    return found


def delete_some(rows: lmdb.Transaction, prefix: bytes, limit: int) -> bool:
    """Delete some of the rows whose keys begin so; return whether there were any.

    Args:
        rows: a write transaction of the table.
        prefix: the bytes that their keys begin with.
        limit: how many at most; call it again until none is left.

    Raises:
        Damaged: when their keys do not come in order.
    """
    keys = prefixed(rows, prefix, limit)
    for key in keys:
        rows.delete(key)
    return bool(keys)
