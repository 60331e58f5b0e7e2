"""The embedded log: every topic in one LMDB environment, shared by all processes of a machine.

Rows of the one table, by the first byte of their key (numbers big-endian, so that keys sort by them):

    f                                format of the table
    n                                number of the next topic
    t name                           topic: number, partitions
    p topic partition                partition: first position kept, next position
    r topic partition position       a batch: count, append time, encoding, payload
    c topic partition consumer       the consumer's position
    d topic                          a dropped topic, rows of which are left
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from millstream.buffer.environment import open_environment
from millstream.buffer.log import Batch, Encoding, Records
from millstream.clock import Clock
from millstream.errors import Fenced, LogError, MillstreamError, nearest

if TYPE_CHECKING:
    import lmdb

_FORMAT, _FORMAT_BEFORE = b"2", b"1"  # before: LMDB itself waited for the disk, and would leave steady roots stale
_AT_ONCE = 5_000  # rows removed in one write, so that producers wait for milliseconds at most
_TOPIC = struct.Struct(">II")
_PARTITION_KEY = struct.Struct(">cII")
_ENDS = struct.Struct(">QQ")
_RECORD_KEY = struct.Struct(">cIIQ")
_HEADER = struct.Struct("<IqI")
_POSITION = struct.Struct(">Q")
_ENCODINGS: tuple[Encoding, ...] = ("json", "arrow", "bytes")
_LONGEST_NAME = 400  # bytes; LMDB's keys end at 511


class EmbeddedLog:
    """A durable log in one LMDB environment; see the protocols `Log` and `TopicAdmin`.

    Any number of processes append and read at once; appends are on disk when acknowledged, many by one wait for it (see
    `millstream.buffer.durability`). Open it once in each process and never use it across a fork.

    Args:
        path: the log's folder; made if it is missing.
        clock: what appends are stamped with.
        map_gib: most it may grow to, in GiB; disk is taken as it is used.
        fsync: whether an acknowledgement waits for the disk; without, it outlives any process but not the machine.

    Raises:
        LogError: when the folder holds something else.
        DiskFull: when there is no room for a new log.

    Example:
        >>> import pathlib, tempfile
        >>> from millstream.buffer.embedded import EmbeddedLog
        >>> from millstream.buffer.log import Batch
        >>> from millstream.clock import SimulatedClock
        >>> log = EmbeddedLog(pathlib.Path(tempfile.mkdtemp()), SimulatedClock(7), map_gib=1)
        >>> log.create("payments", 2)
        >>> log.append("payments", 1, Batch(b'{"amount": 5}', "json", 1))
        0
        >>> [(r.position, r.appended, r.payload) for r in log.read("payments", 1, 0, 10)]
        [(0, 7, b'{"amount": 5}')]
        >>> log.ends("payments")
        [(0, 0), (0, 1)]
        >>> with log.transaction() as work:
        ...     work.commit("compute", "payments", 1, None, 1)
        >>> log.committed("compute", "payments")
        [None, 1]
        >>> log.close()
    """

    def __init__(self, path: Path | str, clock: Clock, map_gib: float = 64, *, fsync: bool = True) -> None:
        self._clock = clock
        self._env = open_environment(Path(path), map_gib, durable=fsync)
        self._open = True
        try:
            self._check_format()
        except MillstreamError:
            self.close()
            raise

    def append(self, topic: str, partition: int, batch: Batch, arrival: int | None = None) -> int:
        """Append a batch, durably, and return the position of its first record."""
        with self._env.begin(write=True) as rows:
            return _Writer(rows, self._clock).append(topic, partition, batch, arrival)

    def read(self, topic: str, partition: int, position: int, limit: int) -> list[Records]:
        """Return whole stored batches from a position on, until they hold `limit` records."""
        found: list[Records] = []
        with self._env.begin() as rows:
            number = _topic(rows, topic)[0]
            first, _ = _ends(rows, topic, number, partition)
            if position < first:
                raise _trimmed(topic, partition, position, first)
            held = 0
            for start, value in _stored(rows, number, partition, position):
                count, appended, encoding = _HEADER.unpack_from(value)
                payload = bytes(value[_HEADER.size :])  # the one copy: the map's pages are used again after the block
                skip = max(0, position - start)
                found.append(Records(topic, partition, start, count, appended, _ENCODINGS[encoding], payload, skip))
                held += count - skip
                if held >= limit:
                    break
            seen = rows.id()
        if found:
            self._env.settle(seen)
        return found

    def ends(self, topic: str) -> list[tuple[int, int]]:
        """Return each partition's first position kept and next position."""
        with self._env.begin() as rows:
            number, partitions = _topic(rows, topic)
            return [_ends(rows, topic, number, partition) for partition in range(partitions)]

    def committed(self, consumer: str, topic: str) -> list[int | None]:
        """Return each partition's committed position of a consumer."""
        with self._env.begin() as rows:
            number, partitions = _topic(rows, topic)
            return [_committed(rows, _commit_key(number, partition, consumer)) for partition in range(partitions)]

    @contextmanager
    def transaction(self) -> Iterator[_Writer]:
        """Open a transaction of appends and commits: one LMDB transaction; other writers wait until it ends."""
        with self._env.begin(write=True) as rows:
            yield _Writer(rows, self._clock)

    def create(self, topic: str, partitions: int) -> None:
        """Make a topic unless it is there with as many partitions."""
        key = b"t" + _name(topic, "Topic")
        with self._env.begin(write=True) as rows:
            stored = rows.get(key)
            if stored is not None:
                _same_partitions(topic, _TOPIC.unpack(stored)[1], partitions)
                return
            if partitions < 1:
                raise LogError(
                    f"Topic '{topic}': {partitions} partitions; expected at least 1.", "use 4 unless you know better."
                )
            number = int.from_bytes(rows.get(b"n") or b"\0", "big")
            rows.put(
                b"n", (number + 1).to_bytes(4, "big")
            )  # numbers are never used again, so nothing of a dropped topic revives
            rows.put(key, _TOPIC.pack(number, partitions))
            for partition in range(partitions):
                rows.put(_PARTITION_KEY.pack(b"p", number, partition), _ENDS.pack(0, 0))

    def topics(self) -> dict[str, int]:
        """Return all topics with their numbers of partitions."""
        with self._env.begin() as rows:
            return {name: partitions for name, (_, partitions) in _topics(rows)}

    def trim(self, topic: str, partition: int, before: int) -> int:
        """Drop whole batches that end at or before a position and return the first position kept."""
        while True:
            with self._env.begin(write=True) as rows:
                number = _topic(rows, topic)[0]
                first, following = _ends(rows, topic, number, partition)
                kept, more = _trim(rows, number, partition, first, before)
                if kept != first:
                    rows.put(_PARTITION_KEY.pack(b"p", number, partition), _ENDS.pack(kept, following))
            if not more:
                return kept

    def drop(self, topic: str) -> None:
        """Drop a topic, its records and the positions committed in it."""
        key = b"t" + _name(topic, "Topic")
        with self._env.begin(write=True) as rows:
            stored = rows.get(key)
            if stored is not None:
                rows.put(b"d" + _TOPIC.pack(*_TOPIC.unpack(stored))[:4], b"")
                rows.delete(key)
        self._remove_dropped()

    def _remove_dropped(self) -> None:
        """Remove the rows of dropped topics, those too whose dropper died; their numbers are never used again."""
        more = True
        while more:
            with self._env.begin() as rows:
                more = any(_prefixed(rows, b"d", 1))
            if not more:
                return
            with self._env.begin(write=True) as rows:
                for key in _prefixed(rows, b"d", 1):
                    kinds = (b"p", b"r", b"c")
                    if not any(_delete_some(rows, kind + key[1:], _AT_ONCE) for kind in kinds):
                        rows.delete(key)

    def close(self) -> None:
        """Let go of the log; what was acknowledged is on disk already. A second call does nothing."""
        if self._open:
            self._open = False
            self._env.close()

    def _check_format(self) -> None:
        with self._env.begin() as rows:
            stored = rows.get(b"f")
            stored = None if stored is None else bytes(stored)
        if stored in (None, _FORMAT_BEFORE):
            with self._env.begin(write=True) as rows:
                rows.put(b"f", _FORMAT)
        elif stored is not None and stored != _FORMAT:
            raise LogError(
                f"Log '{self._env.path}' is in format {stored.decode(errors='replace')}, not {_FORMAT.decode()}.",
                "open it with the version of Millstream that wrote it.",
            )


class _Writer:
    """Appends and commits within one write transaction."""

    def __init__(self, rows: lmdb.Transaction, clock: Clock) -> None:
        self._rows = rows
        self._clock = clock

    def append(self, topic: str, partition: int, batch: Batch, arrival: int | None = None) -> int:
        """Append a batch and return the position of its first record."""
        if batch.count < 1:
            raise LogError(
                f"Topic '{topic}': the batch holds {batch.count} records; expected at least 1.",
                "append nothing instead.",
            )
        number = _topic(self._rows, topic)[0]
        first, position = _ends(self._rows, topic, number, partition)
        stamp = self._clock.now() if arrival is None else arrival
        header = _HEADER.pack(batch.count, stamp, _ENCODINGS.index(batch.encoding))
        self._rows.put(_RECORD_KEY.pack(b"r", number, partition, position), header + batch.payload)
        self._rows.put(_PARTITION_KEY.pack(b"p", number, partition), _ENDS.pack(first, position + batch.count))
        return position

    def commit(self, consumer: str, topic: str, partition: int, expected: int | None, position: int) -> None:
        """Move a consumer's position from `expected` to `position`, or refuse."""
        number = _topic(self._rows, topic)[0]
        _ends(self._rows, topic, number, partition)
        key = _commit_key(number, partition, consumer)
        found = _committed(self._rows, key)
        if found != expected:
            raise _fenced(consumer, topic, partition, expected, found)
        self._rows.put(key, _POSITION.pack(position))


def _topics(rows: lmdb.Transaction) -> Iterator[tuple[str, tuple[int, int]]]:
    with rows.cursor() as cursor:
        more = cursor.set_range(b"t")
        while more and bytes(cursor.key()[:1]) == b"t":
            yield bytes(cursor.key()[1:]).decode(), cast("tuple[int, int]", _TOPIC.unpack(cursor.value()))
            more = cursor.next()


def _topic(rows: lmdb.Transaction, topic: str) -> tuple[int, int]:
    """The number and the partitions of a topic that must be there."""
    stored = rows.get(b"t" + _name(topic, "Topic"))
    if stored is None:
        close = nearest(topic, [name for name, _ in _topics(rows)])
        raise LogError(
            f"Topic '{topic}' is not in the log.",
            f"did you mean '{close}'?" if close else "apply the definitions first.",
        )
    return cast("tuple[int, int]", _TOPIC.unpack(stored))


def _ends(rows: lmdb.Transaction, topic: str, number: int, partition: int) -> tuple[int, int]:
    stored = None if partition < 0 else rows.get(_PARTITION_KEY.pack(b"p", number, partition))
    if stored is None:
        count = _topic(rows, topic)[1]
        raise LogError(f"Topic '{topic}' has no partition {partition}.", f"its partitions are 0 to {count - 1}.")
    return cast("tuple[int, int]", _ENDS.unpack(stored))


def _stored(rows: lmdb.Transaction, number: int, partition: int, position: int) -> Iterator[tuple[int, memoryview]]:
    """The stored batches of a partition, with their positions, from the one that holds a position on."""
    wanted = _RECORD_KEY.pack(b"r", number, partition, position)
    with rows.cursor() as cursor:
        more = cursor.set_range(wanted)
        if not (more and bytes(cursor.key()) == wanted):
            before = cursor.prev() if more else cursor.last()
            holds = before and bytes(cursor.key()[:9]) == wanted[:9]
            holds = holds and _RECORD_KEY.unpack(cursor.key())[3] + _HEADER.unpack_from(cursor.value())[0] > position
            more = True if holds else cursor.set_range(wanted)
        while more and bytes(cursor.key()[:9]) == wanted[:9]:
            yield _RECORD_KEY.unpack(cursor.key())[3], memoryview(cursor.value())
            more = cursor.next()


def _trim(rows: lmdb.Transaction, number: int, partition: int, first: int, before: int) -> tuple[int, bool]:
    """Drop batches that end at or before a position, not too many; the first position kept, and whether more are left."""
    start = _RECORD_KEY.pack(b"r", number, partition, first)
    with rows.cursor() as cursor:
        more = cursor.set_range(start)
        for _ in range(_AT_ONCE):
            if not more or bytes(cursor.key()[:9]) != start[:9]:
                return first, False
            end = _RECORD_KEY.unpack(cursor.key())[3] + _HEADER.unpack_from(cursor.value())[0]
            if end > before:
                return first, False
            first = end
            more = cursor.delete()
    return first, True


def _prefixed(rows: lmdb.Transaction, prefix: bytes, limit: int) -> list[bytes]:
    """Some of the keys that begin so."""
    found: list[bytes] = []
    with rows.cursor() as cursor:
        more = cursor.set_range(prefix)
        while more and len(found) < limit and bytes(cursor.key()[: len(prefix)]) == prefix:
            found.append(bytes(cursor.key()))
            more = cursor.next()
    return found


def _delete_some(rows: lmdb.Transaction, prefix: bytes, limit: int) -> bool:
    """Delete some of the rows whose keys begin so; whether there were any."""
    keys = _prefixed(rows, prefix, limit)
    for key in keys:
        rows.delete(key)
    return bool(keys)


def _commit_key(number: int, partition: int, consumer: str) -> bytes:
    return _PARTITION_KEY.pack(b"c", number, partition) + _name(consumer, "Consumer")


def _committed(rows: lmdb.Transaction, key: bytes) -> int | None:
    stored = rows.get(key)
    return None if stored is None else _POSITION.unpack(stored)[0]


def _name(name: str, kind: str) -> bytes:
    encoded = name.encode()
    if not 0 < len(encoded) <= _LONGEST_NAME:
        raise LogError(f"{kind} '{name[:40]}' has a name of {len(encoded)} bytes.", f"use 1 to {_LONGEST_NAME} bytes.")
    return encoded


def _same_partitions(topic: str, stored: int, wanted: int) -> None:
    if stored != wanted:
        raise LogError(
            f"Topic '{topic}' has {stored} partitions, not {wanted}; the number is fixed for life.",
            f"keep partitions={stored}, or declare a stream by another name.",
        )


def _trimmed(topic: str, partition: int, position: int, first: int) -> LogError:
    return LogError(
        f"Topic '{topic}', partition {partition}: position {position} has been trimmed; the first kept is {first}.",
        f"read from {first} on, and what comes before it from the archive.",
    )


def _fenced(consumer: str, topic: str, partition: int, expected: int | None, found: int | None) -> Fenced:
    return Fenced(
        f"Consumer '{consumer}' on topic '{topic}', partition {partition}, is at {found}, not at {expected}: "
        "another worker has gone on.",
        "discard this batch and read again from the committed position.",
    )
