"""Captures: what was served, kept before it is answered, so that it can be verified, watched and learned from.

A capture is written to a journal file with one system call before its request is answered: a process that is killed
loses none. Closed journal files are shipped to the topic `captures.{model}` and removed once the log has them, so
a capture arrives there at least once, under its request id. (A machine that loses power may lose the last second.)

A line ends in the checksum of what it says. A line that is not as it was written, or is larger than what the log takes,
stays out, and its file is set aside as `*.unreadable` for a person to look at; everything else goes on.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol
from zlib import crc32

import msgspec

from millstream.buffer.embedded.environment import no_room
from millstream.buffer.log import Batch
from millstream.buffer.topics import capture_topic
from millstream.definitions.schema import digits_of, element_of, fields_of, is_map
from millstream.errors import CorruptState, DiskFull, Forked, LogError, MillstreamError
from millstream.forks import forks
from millstream.history.captures import FIXED

if TYPE_CHECKING:
    import pyarrow as pa

_logger = logging.getLogger("millstream.serve")


DAMAGED = ".unreadable"


class CaptureShape(msgspec.Struct, frozen=True):
    """The columns of one model version's captures, served by one revision of its view.

    `columns` are (name, type) pairs that follow the fixed ones.
    """

    model: str
    version: str
    view: str
    revision: str
    columns: tuple[tuple[str, str], ...]

    @property
    def names(self) -> list[str]:
        """Every column's name, the fixed ones first."""
        return [*FIXED, *(name for name, _ in self.columns)]


@dataclass
class _Segment:
    """One journal file that is being written; it holds its shape, whose identity finds it."""

    shape: CaptureShape
    descriptor: int
    path: Path
    size: int


class CaptureTopics(Protocol):
    """The part of a log that captures are shipped through."""

    @property
    def largest(self) -> int:
        """The most bytes that the payload of one batch may have."""

    def create(self, topic: str, partitions: int) -> None:
        """Make sure the topic exists; called before the first append to it."""

    def append(self, topic: str, partition: int, batch: Batch) -> int:
        """Append a batch; durable when it returns.

        Args:
            topic: the capture topic of the model.
            partition: its partition.
            batch: captures, of at most `largest` bytes.

        Returns:
            int: the position of the first of them.
        """


class CaptureJournal:
    """The journal of one serving process: `append` before answering, `rotate` to get files that can be shipped.

    `folder` is shared by all processes of a project, each keeps a folder of its own in it, locked for life. `sample`
    is the share of requests that is kept, 0 to 1, decided by the request id. Safe to use from several threads.

    >>> import tempfile
    >>> journal = CaptureJournal(Path(tempfile.mkdtemp()))
    >>> shape = CaptureShape("fraud", "1", "fraud", "a1", (("user_id", "int64"), ("amount", "float64")))
    >>> journal.append(shape, [[{}, "r1", "fraud", "1", "fraud", "a1", 5, 6, 0.25, False, None, 42, 9.5]])
    >>> capture_table(journal.rotate()[0]).select(["_request_id", "user_id", "amount"]).to_pylist()
    [{'_request_id': 'r1', 'user_id': 42, 'amount': 9.5}]
    """

    def __init__(self, folder: Path, *, sample: float = 1.0) -> None:
        self.folder = folder
        self.own = folder / f"{os.getpid()}-{time.monotonic_ns()}"
        try:
            self._lock_file = _locked(self.own)
        except OSError as error:
            raise DiskFull(f"The capture journal cannot be made: {error.strerror}.") from error
        self._threshold = round(sample * 2**32)
        self._mutex = threading.Lock()
        self._segments: dict[int, _Segment] = {}
        self._files = 0
        self._forks = forks()
        self._encode = msgspec.json.Encoder().encode

    def append(self, shape: CaptureShape, rows: Sequence[Sequence[Any]]) -> None:
        """Write captures, each with a value for every column of the shape; in the kernel's hands when it returns.

        Raises `DiskFull` when they cannot be written; none of them is kept then. Raises `Forked` in a process forked
        from the one whose journal this is.
        """
        self._refuse_fork()
        encode = self._encode
        kept = rows if self._threshold >= 2**32 else [r for r in rows if crc32(r[1].encode()) < self._threshold]
        lines = b"".join([_line(encode(row)) for row in kept])
        if lines:
            with self._mutex:
                self._write(self._segments.get(id(shape)) or self._open(shape), lines)

    def rotate(self) -> list[Path]:
        """Close the files written so far and return all closed ones, oldest first."""
        self._refuse_fork()
        with self._mutex:
            for segment in self._segments.values():
                os.close(segment.descriptor)
            closed, self._segments = list(self._segments.values()), {}
            for segment in closed:
                with suppress(OSError):  # on a full disk it keeps its name, and is closed all the same
                    segment.path.rename(segment.path.with_suffix(".closed"))
            return sorted(path for path in self.own.iterdir() if path.suffix in (".open", ".closed"))

    def close(self) -> None:
        """Close the journal: what is not shipped yet is shipped by the next process that looks."""
        if self._forks != forks():
            return  # it is still the parent's
        self.rotate()
        self._lock_file.close()

    def _refuse_fork(self) -> None:
        if self._forks != forks():
            raise Forked.opened_before(self.own)

    def _open(self, shape: CaptureShape) -> _Segment:
        self._files += 1
        path = self.own / f"{self._files:08d}.open"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        except OSError as error:
            raise DiskFull(f"The capture journal cannot be opened: {error.strerror}.") from error
        segment = _Segment(shape, descriptor, path, 0)
        self._write(segment, _line(self._encode(shape)))
        self._segments[id(shape)] = segment
        return segment

    def _write(self, segment: _Segment, lines: bytes) -> None:
        try:
            written = os.write(segment.descriptor, lines)
        except OSError as error:
            raise DiskFull(f"A capture cannot be written: {error.strerror}.", "free some disk space.") from error
        if written < len(lines):
            os.ftruncate(segment.descriptor, segment.size)
            raise DiskFull("A capture cannot be written: the disk is full.", "free some disk space.")
        segment.size += written


class CaptureShipper:
    """Moves closed journal files to the log: this process's own, and those of processes that ended without doing so."""

    def __init__(self, journal: CaptureJournal, log: CaptureTopics) -> None:
        self._journal, self._log = journal, log
        self._one_at_a_time = threading.Lock()

    def step(self) -> int:
        """Ship everything captured so far; returns the number of captures.

        Raises the first failure, once every file has had its turn.
        """
        with self._one_at_a_time:
            failed: list[MillstreamError | OSError] = []
            shipped = sum(self._tried(path, failed) for path in self._journal.rotate())
            for folder in sorted(self._journal.folder.iterdir()):
                if folder != self._journal.own and folder.is_dir() and not folder.name.startswith("."):
                    shipped += self._adopt(folder, failed)
            for error in failed:
                raise error
            return shipped

    def _tried(self, path: Path, failed: list[MillstreamError | OSError]) -> int:
        try:
            return self._ship(path)
        except (MillstreamError, OSError) as error:
            failed.append(DiskFull.writing(path) if no_room(error, path.parent) else error)
            return 0

    def _ship(self, path: Path) -> int:
        read, large = _read(path), 0
        if read.table is not None and read.table.num_rows:
            topic = capture_topic(read.model)
            self._log.create(topic, 1)
            batches, large = _batches(read.table, self._log.largest)
            for batch in batches:
                self._log.append(topic, 0, batch)
        if large:
            said = f"{large} of its captures are larger than the {self._log.largest:,} bytes that the log takes"
            read = replace(read, damage=f"{read.damage}; {said}" if read.damage else said)
        if read.damage is None:
            path.unlink()
        else:
            aside = path.with_suffix(DAMAGED)
            path.rename(aside)
            _logger.error("Capture journal '%s': %s; it is kept as '%s'.", path.name, read.damage, aside)
        return 0 if read.table is None else int(read.table.num_rows) - large

    def _adopt(self, folder: Path, failed: list[MillstreamError | OSError]) -> int:
        shipped, before = 0, len(failed)
        with suppress(FileNotFoundError), open(folder / "lock", "r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return 0
            files = [path for path in sorted(folder.iterdir()) if path.suffix in (".open", ".closed")]
            shipped = sum(self._tried(path, failed) for path in files)
            if len(failed) == before:
                (folder / "lock").unlink()
        with suppress(OSError):
            folder.rmdir()
        return shipped


def damaged_captures(folder: Path) -> list[str]:
    """Return the journal files that were set aside because not everything in them is as it was written."""
    return [str(path.relative_to(folder)) for path in sorted(folder.glob(f"*/*{DAMAGED}"))]


def _locked(own: Path) -> IO[str]:
    # Made under a hidden name: once others can see the folder, its lock is held.
    hidden = own.with_name(f".{own.name}")
    hidden.mkdir(parents=True)
    lock = open(hidden / "lock", "w")  # noqa: SIM115 - held, with its lock, for the life of the process
    fcntl.flock(lock, fcntl.LOCK_EX)
    hidden.rename(own)
    return lock


def capture_table(path: Path) -> pa.Table:
    """Return the captures of one journal file; a last line that a killed process left unfinished is not among them.

    Raises `CorruptState` when a finished line cannot be read.
    """
    read = _read(path)
    if read.table is None or read.damage is not None:
        said = read.damage or "it has no complete first line"
        raise CorruptState(f"Capture journal {path.name!r} cannot be read: {said}.")
    return read.table


@dataclass(frozen=True)
class _Content:
    """What a journal file holds: its captures, None without a shape, and what is wrong with the rest of it."""

    model: str = ""
    table: pa.Table | None = None
    damage: str | None = None


def _read(path: Path) -> _Content:
    """The captures of a file that are as they were written. Without a complete first line nothing was acknowledged."""
    first, *lines = path.read_bytes().split(b"\n")
    if not lines:
        return _Content()
    try:
        shape = msgspec.json.decode(_checked(first), type=CaptureShape)
    except (ValueError, msgspec.MsgspecError) as error:
        return _Content(damage=f"its first line is not as it was written ({error})")
    types = {**FIXED, **dict(shape.columns)}
    row: Any = tuple.__class_getitem__((msgspec.Raw, *[Any] * (len(types) - 1)))
    rows, wrong = [], 0
    for line in lines[:-1]:
        try:
            rows.append(msgspec.json.decode(_checked(line), type=row))
        except (ValueError, msgspec.MsgspecError):
            wrong += 1
    damage = f"{wrong} of {len(lines) - 1} captures are not as they were written" if wrong else None
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(types)
    try:
        arrays = [_array(values, kind) for values, kind in zip(columns, types.values(), strict=True)]
    except (ValueError, TypeError, OverflowError) as error:  # written without checksums, and of other types
        return _Content(shape.model, damage=f"its captures are not of the types it says ({error})")
    import pyarrow as pa

    return _Content(shape.model, pa.table(arrays, names=shape.names), damage)


def _line(content: bytes) -> bytes:
    """A line of the journal: JSON, in which there is no tab, and its checksum."""
    return b"%s\t%08x\n" % (content, crc32(content))


def _checked(line: bytes) -> bytes:
    """What a line says; raises `ValueError` when that is not what was written. Lines of older journals have no checksum."""
    content, tab, checksum = line.rpartition(b"\t")
    if not tab:
        return line
    if crc32(content) != int(checksum, 16):
        raise ValueError("its checksum is another")
    return content


def _array(values: Sequence[Any], kind: str) -> pa.Array:
    import pyarrow as pa

    from millstream.buffer.codec.types import from_python
    from millstream.buffer.codec.values import TEXTS
    from millstream.definitions.data_types import arrow_type

    if kind == "json":
        return pa.array([bytes(value).decode() for value in values], pa.string())
    if kind in TEXTS or digits_of(kind):
        found, wrong = from_python(values, kind)
        if wrong is not None and wrong.any():
            raise ValueError(f"a value is no {kind}")
        return found
    if element := element_of(kind):
        flat = [one for row in values if row is not None for one in row]
        sizes = [None if row is None else len(row) for row in values]
        listed = _listed(_array(flat, element), sizes)
        return listed.cast(arrow_type(kind)) if is_map(kind) else listed
    if fields := fields_of(kind):
        columns = [_array([one[name] for one in values], of) for name, of in fields.items()]
        return pa.StructArray.from_arrays(columns, list(fields))
    return pa.array(values, pa.int64() if kind == "timestamp" else arrow_type(kind)).cast(arrow_type(kind))


def _listed(elements: pa.Array, sizes: Sequence[int | None]) -> pa.Array:
    """Lists of so many elements each, null for None."""
    import pyarrow as pa

    offsets = pa.array([0, *accumulate(size or 0 for size in sizes)], pa.int32())
    mask = pa.array([size is None for size in sizes], pa.bool_())
    return pa.ListArray.from_arrays(offsets, elements, mask=mask)


def _batches(table: pa.Table, largest: int) -> tuple[list[Batch], int]:
    """Captures as batches that a log takes, and how many of them it does not take because they are larger by themselves."""
    from millstream.buffer.codec.write import encode_frame

    try:
        return encode_frame(table, largest), 0
    except LogError:
        middle = len(table) // 2
    if not middle:
        return [], 1
    one, other = _batches(table.slice(0, middle), largest), _batches(table.slice(middle), largest)
    return [*one[0], *other[0]], one[1] + other[1]
