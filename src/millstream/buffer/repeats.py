"""Repeats: events whose id occurred before.

An event is a repeat if its id (the stream's `deduplicate` column) occurred in a valid event before it in the same
partition, not longer ago than the stream's `within`, by append time; whether that one was a repeat itself does not
matter. An event without an id is none. `repeats` applies the rule to a history; `mark` to the next events of a log,
with an index.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Protocol

import lmdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millstream.buffer.codec.events import decode
from millstream.buffer.codec.types import Mask
from millstream.buffer.embedded.environment import open_environment
from millstream.buffer.embedded.gate import boot
from millstream.buffer.log import Log
from millstream.buffer.reading import position_since, through
from millstream.definitions.data_types import comparable
from millstream.definitions.source import EventStream
from millstream.errors import CorruptLog

_Ints = npt.NDArray[np.int64]
_OCCURRENCE = struct.Struct("<qq")  # position, append time
_COVERED = struct.Struct("<qq")  # next position, append time from which on nothing is missing
_LONGEST_ID = 200  # bytes; longer ones are kept as their hash
_CATCH_UP = 50_000  # records read at once
_NEVER = -(2**62)  # µs; before any append


def repeats(table: pa.Table, stream: EventStream) -> Mask:
    """Say which events of a whole history are repeats.

    Args:
        table: decoded events (see `event_schema`) sorted by partition and position, from the first one on.
        stream: the stream they are of.

    Returns:
        np.ndarray: True for a repeat, one per row.

    Example:
        >>> import pyarrow as pa
        >>> from millstream.buffer.repeats import repeats
        >>> from millstream.definitions.source import EventStream
        >>> columns = {"id": "string", "at": "timestamp"}
        >>> clicks = EventStream("clicks", time="at", schema=columns, deduplicate="id", within="1s")
        >>> events = pa.table({"id": ["a"] * 3, "_partition": [0] * 3, "_appended": [0, 900_000, 2_000_000]})
        >>> repeats(events, clicks)
        array([False,  True, False])
    """
    return _near(table, _before(table, stream), stream)


def mark(table: pa.Table, stream: EventStream, index: RepeatIndex, spans: Mapping[int, tuple[int, int]]) -> Mask:
    """Say which of the next events of a log are repeats, and remember them in the index.

    The answer is the same however the log is cut into calls, and for events that were marked before.

    Args:
        table: decoded events (see `event_schema`) that follow each other in each partition, in the order of their
            positions.
        stream: the stream they are of.
        index: what occurred before; it catches up from the log by itself.
        spans: by partition, where reading them began and where it goes on.

    Returns:
        np.ndarray: True for a repeat, one per row.
    """
    if stream.deduplicate is None or len(table) == 0:
        return np.zeros(len(table), np.bool_)
    marked = repeats(table, stream)
    partitions = table["_partition"].to_numpy()
    for partition in np.unique(partitions).tolist():
        rows = np.flatnonzero(partitions == partition)
        part = table if len(rows) == len(table) else table.take(pa.array(rows))
        marked[rows] |= index.mark(part, stream, partition, spans[partition])
    return marked


class Earlier(Protocol):
    """What tells of events that came before the first one that the log holds, though not too long ago to be repeated."""

    def occurred(self, stream: EventStream, partition: int, before: int, since: int) -> pa.Table | None:
        """Return the ids of valid events before a position, with `_partition`, `_position` and `_appended`.

        Args:
            stream: the stream they are of, which has a `deduplicate`.
            partition: the partition.
            before: the position from which on the log is read.
            since: the append time (µs) from which on they matter.

        Returns:
            pa.Table | None: None where the log itself goes back so far.
        """
        ...


class RepeatIndex:
    """The ids that occurred lately, on disk: a cache of the log, shared by processes, that may be deleted at any time.

    It remembers positions with the ids, so reading some events a second time gives the same answer. It forgets what is
    older than the newest events by one and a half to two and a half spans: give a reader that is further behind a path
    of its own.

    Args:
        path: its folder.
        log: the log it is a cache of.
        map_gib: most it may grow to, in GiB.
        earlier: tells of what came before the log began, where it was begun in the place of another one.
    """

    def __init__(self, path: Path, log: Log, map_gib: float = 64, earlier: Earlier | None = None) -> None:
        self._log, self._earlier = log, earlier
        now = boot()
        for stale in Path(path).glob("boot-*") if now else ():
            if stale.name != f"boot-{now}":
                shutil.rmtree(stale, ignore_errors=True)
        # Without fsync a process may die at any moment, but not the machine: then the folder of the last boot is not
        # used again.
        self._folder, self._map_gib, self._durable = Path(path) / f"boot-{now or 'any'}", map_gib, not now
        try:
            self._env = open_environment(self._folder, map_gib, durable=self._durable)
        except CorruptLog:
            shutil.rmtree(self._folder)
            self._env = open_environment(self._folder, map_gib, durable=self._durable)
        self._sweeps: dict[bytes, tuple[bytes, int]] = {}

    def mark(self, table: pa.Table, stream: EventStream, partition: int, span: tuple[int, int]) -> Mask:
        """Say which events of one partition have an id that occurred before the table; then remember the table's.

        An index that is damaged is begun anew, from the log.

        Args:
            table: decoded events of the partition, at least one, in the order of their positions.
            stream: the stream they are of, which has a `deduplicate`.
            partition: the partition.
            span: the position where reading the table began, and the one where it goes on.

        Returns:
            np.ndarray: True for a repeat, one per row; those of rows of the same table are not told.
        """
        try:
            return self._mark(table, stream, partition, span)
        except (CorruptLog, struct.error) as error:
            if isinstance(error, CorruptLog) and str(self._folder) not in error.message:
                raise  # it is the log itself
        self._env.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._env = open_environment(self._folder, self._map_gib, durable=self._durable)
        self._sweeps.clear()
        return self._mark(table, stream, partition, span)

    def _mark(self, table: pa.Table, stream: EventStream, partition: int, span: tuple[int, int]) -> Mask:
        appended = table["_appended"].to_numpy()
        oldest = int(appended.min()) - stream.within
        prefix = f"{stream.name}\0{stream.deduplicate} {stream.within}\0{partition}\0".encode()
        start, end = span
        while True:
            self._catch_up(stream, partition, prefix, start, oldest)
            with self._env.begin(write=True) as rows:
                covered = _covered(rows, prefix)
                if covered is None or covered[0] < start or covered[1] > oldest:
                    continue  # another process, reading elsewhere, has begun the index anew meanwhile
                before = _remember(rows, prefix, stream, table)
                since = self._sweep(rows, prefix, covered[1], oldest, stream.within, len(table))
                rows.put(b"c" + prefix, _COVERED.pack(max(end, covered[0]), since))
            return _near(table, before, stream)

    def close(self) -> None:
        """Let go of the index."""
        self._env.close()

    def _catch_up(self, stream: EventStream, partition: int, prefix: bytes, upto: int, oldest: int) -> None:
        """Read what the index lacks of the events before a position, back to an append time."""
        with self._env.begin() as rows:
            covered = _covered(rows, prefix)
        if covered is not None and covered[1] <= oldest:
            if covered[0] >= upto:
                return
            position = max(covered[0], self._log.ends(stream.name)[partition][0])
        else:
            position = position_since(self._log, stream.name, partition, oldest, upto)
            known = self._earlier and self._earlier.occurred(stream, partition, position, oldest)
            with self._env.begin(write=True) as rows:
                _forget(rows, prefix)
                rows.put(b"c" + prefix, _COVERED.pack(position, oldest))
                if known:
                    _remember(rows, prefix, stream, known)
            self._sweeps.pop(prefix, None)
        for found in through(self._log, stream.name, partition, position, upto, _CATCH_UP):
            table = decode(stream, [found]).table
            with self._env.begin(write=True) as rows:
                _remember(rows, prefix, stream, table.filter(pc.less(table["_position"], upto)))
                _cover(rows, prefix, min(found.next, upto), oldest)
        with self._env.begin(write=True) as rows:
            _cover(rows, prefix, upto, oldest)  # where the log now begins at `upto`, nothing was left to read

    def _sweep(self, rows: lmdb.Transaction, prefix: bytes, since: int, oldest: int, within: int, steps: int) -> int:
        """Look at some more ids and drop those that no event can repeat any more; return what `since` is now."""
        key, bound = self._sweeps.get(prefix, (b"", 0))
        if not key:
            bound = oldest - within // 2
            if bound - since < max(1, within // 2):
                return since
            key, since = b"i" + prefix, bound
        with rows.cursor() as cursor:
            more = cursor.set_range(key)
            for _ in range(max(steps, 1_000)):
                if not more or not bytes(cursor.key()).startswith(b"i" + prefix):
                    self._sweeps.pop(prefix, None)
                    return since
                newest = max(time for _, time in _OCCURRENCE.iter_unpack(cursor.value()))
                more = cursor.delete() if newest < bound else cursor.next()
            self._sweeps[prefix] = (bytes(cursor.key()) if more else b"", bound)
        return since


def _near(table: pa.Table, before: _Ints, stream: EventStream) -> Mask:
    """Which rows were appended within the span of repeats after an instant of each."""
    near: Mask = table["_appended"].to_numpy() - before <= stream.within
    return near


def _before(table: pa.Table, stream: EventStream) -> _Ints:
    """For each row the newest append time of the events before it with its id in its partition, or `_NEVER`."""
    before = np.full(len(table), _NEVER, np.int64)
    if stream.deduplicate is None or len(table) == 0:
        return before
    encoded = comparable(table[stream.deduplicate].combine_chunks()).dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy().astype(np.int64)
    groups = table["_partition"].to_numpy().astype(np.int64) * len(encoded.dictionary) + codes
    rows = np.flatnonzero(codes >= 0)
    order = rows[np.argsort(groups[rows], kind="stable")]
    same = groups[order[1:]] == groups[order[:-1]]
    times = table["_appended"].to_numpy()[order]
    if (times[1:] < times[:-1])[same].any():  # the clock was set back
        known, ranks = np.unique(times, return_inverse=True)
        lifted = np.concatenate([[0], np.cumsum(~same)]) * len(known)
        times = known[np.maximum.accumulate(ranks + lifted) - lifted]
    before[order[1:][same]] = times[:-1][same]
    return before


def _remember(rows: lmdb.Transaction, prefix: bytes, stream: EventStream, table: pa.Table) -> _Ints:
    """Add a table's occurrences; return the newest append time of each row's id before the table, or `_NEVER`."""
    before = np.full(len(table), _NEVER, np.int64)
    encoded = comparable(table[stream.deduplicate].combine_chunks()).dictionary_encode()
    if len(encoded.dictionary) == 0:
        return before
    order = pc.sort_indices(encoded.dictionary).to_numpy()  # LMDB reads and writes neighbours several times faster
    codes = encoded.indices.fill_null(-1).to_numpy().astype(np.int64)
    first = np.empty(len(order), np.int64)
    valid = np.flatnonzero(codes >= 0)
    first[codes[valid[::-1]]] = valid[::-1]
    keys = _keys(prefix, encoded.dictionary.take(pa.array(order)))
    positions, appended = table["_position"].to_numpy(), table["_appended"].to_numpy()
    places = first[order]
    packed = np.column_stack([positions[places], appended[places]]).astype("<i8").tobytes()
    size = _OCCURRENCE.size
    fresh = {key: packed[at : at + size] for key, at in zip(keys, range(0, len(packed), size), strict=True)}
    row_of = dict(zip(keys, places.tolist(), strict=True))
    slot = {int(code): place for place, code in enumerate(order)} if len(valid) > len(order) else {}
    again: dict[bytes, dict[int, int]] = {}
    for row in np.setdiff1d(valid, places).tolist():  # an id that occurs more than once here
        again.setdefault(keys[slot[int(codes[row])]], {})[int(positions[row])] = int(appended[row])
    for key, value in _found(rows, keys):
        occurred = dict(_OCCURRENCE.iter_unpack(value))
        row = row_of[key]
        before[row] = max((time for position, time in occurred.items() if position < positions[row]), default=_NEVER)
        again[key] = occurred | again.get(key, {})
    _, since = _covered(rows, prefix) or (0, 0)
    for key, more in again.items():
        occurred = more | dict(_OCCURRENCE.iter_unpack(fresh[key]))
        kept = _needed(sorted(occurred.items()), stream.within, since)
        fresh[key] = b"".join(_OCCURRENCE.pack(*pair) for pair in kept)
    with rows.cursor() as cursor:
        cursor.putmulti(fresh.items())
    before[valid] = before[first[codes[valid]]]
    return before


def _needed(occurred: list[tuple[int, int]], within: int, since: int) -> list[tuple[int, int]]:
    """The occurrences (position, append time) of one id without which some answer would be another.

    What lies before `since` repeats nothing any more, nor does what was appended, by a clock that was set back, before
    an earlier one. One between two others is not needed where the later one repeats the earlier one as well, so an id
    that never stops keeps about two occurrences for each `within`.
    """
    newest = accumulate((time for _, time in occurred), max, initial=since - 1)
    recent = [pair for pair, before in zip(occurred, newest, strict=False) if pair[1] > before]
    kept = recent[:1]
    for (position, time), (_, later) in pairwise(recent[1:]):
        if later - time > within or later - kept[-1][1] > within:
            kept.append((position, time))
    return kept + recent[1:][-1:]


def _found(rows: lmdb.Transaction, keys: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    with rows.cursor() as cursor:
        for key, value in cursor.getmulti(keys):
            yield bytes(key), bytes(value)


def _keys(prefix: bytes, ids: pa.Array) -> list[bytes]:
    """The keys of ids, in their order."""
    prefix = b"i" + prefix
    texts = ids.cast(pa.binary()) if ids.type == pa.binary(16) else pc.cast(pc.cast(ids, pa.string()), pa.binary())
    if pc.max(pc.binary_length(texts)).as_py() <= _LONGEST_ID:
        return [prefix + text for text in texts.to_pylist()]
    short = (
        text if len(text) <= _LONGEST_ID else b"\xff" + blake2b(text, digest_size=32).digest()
        for text in texts.to_pylist()
    )
    return [prefix + text for text in short]


def _cover(rows: lmdb.Transaction, prefix: bytes, position: int, oldest: int) -> None:
    """Say that the index holds what lies before a position, if it does not hold more."""
    reached, since = _covered(rows, prefix) or (0, oldest)
    rows.put(b"c" + prefix, _COVERED.pack(max(position, reached), since))


def _covered(rows: lmdb.Transaction, prefix: bytes) -> tuple[int, int] | None:
    stored = rows.get(b"c" + prefix)
    if stored is None:
        return None
    position, since = _COVERED.unpack(stored)
    return position, since


def _forget(rows: lmdb.Transaction, prefix: bytes) -> None:
    with rows.cursor() as cursor:
        more = cursor.set_range(b"i" + prefix)
        while more and bytes(cursor.key()).startswith(b"i" + prefix):
            more = cursor.delete()
