"""Counters and latency histograms of one process, in a file that any other process can read while it is written.

The block is mapped memory, so counting costs no system call, and a process that is killed leaves its numbers behind.
A block's owner holds a lock on it for life; a block without an owner is added to `retired.json` by the next process
that starts, so totals never go backwards.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from millstream.errors import DiskFull

MAGIC = 0x4D494C4C53545231
NAME_BYTES = 120
COUNTERS, HISTOGRAMS, TICKS = 128, 24, 90
BUCKETS = 208
TICK_SECONDS = 10
OTHER = "other"
VERSIONS = 20
"""How many of a model's newest versions are counted each by itself once the processes that served them have ended."""
_SCORED = re.compile(r'scored\{model="(.*)",version="(\d+)"\}')

_HEADER = 8
_COUNTER_WORDS = NAME_BYTES // 8 + 1
_HISTOGRAM_WORDS = NAME_BYTES // 8 + 1 + BUCKETS
_TICK_WORDS = 2 + BUCKETS
_HISTOGRAMS_AT = _HEADER + COUNTERS * _COUNTER_WORDS
_TICKS_AT = _HISTOGRAMS_AT + HISTOGRAMS * _HISTOGRAM_WORDS
_WORDS = _TICKS_AT + TICKS * _TICK_WORDS


def bucket_of(microseconds: int) -> int:
    """Return the histogram bucket of a duration: eight buckets to each doubling, the last one open.

    >>> bucket_of(5), bucket_of(100), bucket_of(10**12)
    (5, 36, 207)
    """
    if microseconds < 8:
        return max(microseconds, 0)
    shift = microseconds.bit_length() - 4
    return min((shift << 3) + (microseconds >> shift), BUCKETS - 1)


def bucket_bounds(bucket: int) -> tuple[int, int]:
    """Return the lowest duration (µs) of a bucket and the lowest of the next.

    >>> bucket_bounds(36)
    (96, 104)
    """
    if bucket < 8:
        return bucket, bucket + 1
    shift = (bucket >> 3) - 1
    mantissa = bucket - 8 * shift
    return mantissa << shift, (mantissa + 1) << shift


@dataclass
class Histogram:
    """Durations counted in buckets, in microseconds: the shape that every latency is reported from."""

    buckets: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    total: int = 0

    @property
    def count(self) -> int:
        """The number of durations counted."""
        return sum(self.buckets)

    def add(self, other: Histogram) -> None:
        """Add another histogram's counts to this one."""
        self.buckets = [a + b for a, b in zip(self.buckets, other.buckets, strict=True)]
        self.total += other.total

    def quantile(self, share: float) -> float | None:
        """Return the duration (µs) below which `share` (0 to 1) of all lie, or None when there is none.

        >>> Histogram([0] * 36 + [10] + [0] * 171, 1000).quantile(0.5)
        100.0
        """
        wanted = share * self.count
        if not wanted:
            return None
        seen = 0
        for bucket, count in enumerate(self.buckets):
            if count and seen + count >= wanted:
                low, high = bucket_bounds(bucket)
                return low + (high - low) * (wanted - seen) / count
            seen += count
        return float(bucket_bounds(BUCKETS - 1)[0])

    def below(self, microseconds: int) -> int:
        """Return how many durations lie in buckets that end at or before `microseconds`."""
        return sum(n for i, n in enumerate(self.buckets) if n and bucket_bounds(i)[1] <= microseconds + 1)


@dataclass
class Tick:
    """Ten seconds of scoring: how many requests were answered, how many failed, how long they took."""

    failures: int = 0
    latency: Histogram = field(default_factory=Histogram)


@dataclass
class Totals:
    """What the blocks of one folder add up to."""

    counters: dict[str, int] = field(default_factory=dict)
    histograms: dict[str, Histogram] = field(default_factory=dict)
    ticks: dict[int, Tick] = field(default_factory=dict)

    def add(self, other: Totals) -> None:
        """Add another folder's or block's numbers to these."""
        for name, value in other.counters.items():
            self.counters[name] = self.counters.get(name, 0) + value
        for name, histogram in other.histograms.items():
            self.histograms.setdefault(name, Histogram()).add(histogram)
        for number, tick in other.ticks.items():
            mine = self.ticks.setdefault(number, Tick())
            mine.failures += tick.failures
            mine.latency.add(tick.latency)


class Block:
    """The counters of this process: reach for it where something happens often enough that a lock would be felt.

    One thread writes; any process reads the folder with `read_blocks`. Counting costs about 0.1 µs. When its slots are
    full, a further block takes the next names; a name of more than 120 bytes counts into `"other"`, and so does a new one
    while the disk is full.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> block = Block(folder)
    >>> block.count("scored", 3)
    >>> block.observe("score", 250)
    >>> read_blocks(folder).counters, read_blocks(folder).histograms["score"].count
    ({'scored': 3}, 1)
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):  # on a full disk they stay, and are added up as they are
            retire_blocks(folder)
        self._folder = folder
        self._more: Block | None = None
        self._path = folder / f"{os.getpid()}-{time.monotonic_ns()}.block"
        self._file = open(self._path, "x+b")  # noqa: SIM115 - held, with its lock, for the life of the process
        fcntl.flock(self._file, fcntl.LOCK_EX)
        _reserve(self._file, _WORDS * 8)
        self._map = mmap.mmap(self._file.fileno(), _WORDS * 8)
        self._words = memoryview(self._map).cast("q")
        self._words[0] = MAGIC
        self._counters: dict[str, int] = {}
        self._histograms: dict[str, int] = {}

    def count(self, name: str, amount: int = 1) -> None:
        """Add `amount` to the counter called `name`."""
        word = self._counters.get(name)
        if word is None:
            name = _fitting(name)
            if name not in self._counters and name != OTHER and len(self._counters) >= COUNTERS - 1:
                if further := self._further():
                    further.count(name, amount)
                    return
                name = OTHER
            word = self._slot(self._counters, name, _HEADER, _COUNTER_WORDS)
        self._words[word] += amount

    def observe(self, name: str, microseconds: int) -> None:
        """Count one duration in the histogram called `name`."""
        word = self._histograms.get(name)
        if word is None:
            name = _fitting(name)
            if name not in self._histograms and name != OTHER and len(self._histograms) >= HISTOGRAMS - 1:
                if further := self._further():
                    further.observe(name, microseconds)
                    return
                name = OTHER
            word = self._slot(self._histograms, name, _HISTOGRAMS_AT, _HISTOGRAM_WORDS)
        words = self._words
        words[word] += microseconds
        words[word + 1 + bucket_of(microseconds)] += 1

    def tick(self, microseconds: int, *, failed: bool = False) -> None:
        """Count one answered request in the recent past, which reaches back fifteen minutes."""
        number = int(time.monotonic()) // TICK_SECONDS
        word = _TICKS_AT + (number % TICKS) * _TICK_WORDS
        words = self._words
        if words[word] != number:
            words[word : word + _TICK_WORDS] = memoryview(bytes(_TICK_WORDS * 8)).cast("q")
            words[word] = number
        words[word + 1] += failed
        words[word + 2 + bucket_of(microseconds)] += 1

    def close(self) -> None:
        """Give the block up: its numbers stay and are added to the retired ones by the next process."""
        self._words.release()
        self._map.close()
        self._file.close()
        if self._more is not None:
            self._more.close()

    def _further(self) -> Block | None:
        """The block that takes the names for which this one has no slot; None while the disk has no room for it."""
        if self._more is None:
            with suppress(OSError, DiskFull):
                self._more = Block(self._folder)
        return self._more

    def _slot(self, slots: dict[str, int], name: str, start: int, words: int) -> int:
        if name in slots:
            return slots[name]
        at = start + len(slots) * words
        self._map[at * 8 : at * 8 + NAME_BYTES] = name.encode().ljust(NAME_BYTES, b"\0")
        slots[name] = at + NAME_BYTES // 8
        return slots[name]


def _fitting(name: str) -> str:
    return name if len(name.encode()) <= NAME_BYTES else OTHER


def _reserve(file: IO[bytes], size: int) -> None:
    """Take the room now: a page that finds none when it is first written to would kill the process."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
    except OSError as error:
        file.close()
        Path(file.name).unlink()
        raise DiskFull.writing(file.name) from error


def read_blocks(folder: Path) -> Totals:
    """Return what all processes of a folder have counted, those that ended included."""
    totals, absorbed = _retired(folder)
    for path in sorted(folder.glob("*.block")):
        if path.name not in absorbed:
            totals.add(_read_block(path))
    return totals


def retire_blocks(folder: Path) -> None:
    """Add the numbers of processes that ended to `retired.json` and remove their blocks; safe against a crash."""
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        totals, absorbed = _retired(folder)
        ended = [path for path in folder.glob("*.block") if path.name in absorbed or not _owned(path)]
        if not ended:
            return
        for path in ended:
            if path.name not in absorbed:
                totals.add(_read_block(path))
        _write_retired(folder, totals, [path.name for path in ended])
        for path in ended:
            path.unlink(missing_ok=True)


def _owned(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _retired(folder: Path) -> tuple[Totals, set[str]]:
    try:
        stored: Mapping[str, Any] = json.loads((folder / "retired.json").read_bytes())
    except FileNotFoundError:
        return Totals(), set()
    histograms = {name: Histogram(h["buckets"], h["total"]) for name, h in stored["histograms"].items()}
    return Totals(dict(stored["counters"]), histograms), set(stored["absorbed"])


def _write_retired(folder: Path, totals: Totals, absorbed: list[str]) -> None:
    # The names of the absorbed blocks travel with the sums: a crash before the unlink then adds nothing twice.
    histograms = {name: {"buckets": h.buckets, "total": h.total} for name, h in totals.histograms.items()}
    stored = {"counters": _settled(totals.counters), "histograms": histograms, "absorbed": absorbed}
    fresh = folder / "retired.json.new"
    fresh.write_text(json.dumps(stored))
    fresh.replace(folder / "retired.json")


def _settled(counters: Mapping[str, int]) -> dict[str, int]:
    """Ended counters with the scores of a model's versions before the newest few added up, so that they do not grow."""
    versions: dict[str, list[int]] = {}
    for name in counters:
        if found := _SCORED.fullmatch(name):
            versions.setdefault(found[1], []).append(int(found[2]))
    oldest = {model: sorted(numbers)[-VERSIONS:][0] for model, numbers in versions.items()}
    settled: dict[str, int] = {}
    for name, value in counters.items():
        found = _SCORED.fullmatch(name)
        if found and int(found[2]) < oldest[found[1]]:
            name = f'scored{{model="{found[1]}",version="older"}}'
        settled[name] = settled.get(name, 0) + value
    return settled


def _read_block(path: Path) -> Totals:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Totals()
    if len(content) != _WORDS * 8:
        return Totals()
    words = memoryview(content).cast("q")
    if words[0] != MAGIC:
        return Totals()
    counters = {name: words[at] for name, at in _named(content, _HEADER, _COUNTER_WORDS, COUNTERS)}
    histograms = {
        name: Histogram(list(words[at + 1 : at + 1 + BUCKETS]), words[at])
        for name, at in _named(content, _HISTOGRAMS_AT, _HISTOGRAM_WORDS, HISTOGRAMS)
    }
    ticks = {}
    for at in range(_TICKS_AT, _WORDS, _TICK_WORDS):
        if words[at]:
            ticks[words[at]] = Tick(words[at + 1], Histogram(list(words[at + 2 : at + _TICK_WORDS])))
    return Totals(counters, histograms, ticks)


def _named(content: bytes, start: int, words: int, limit: int) -> Iterator[tuple[str, int]]:
    for at in range(start, start + limit * words, words):
        name = content[at * 8 : at * 8 + NAME_BYTES].rstrip(b"\0")
        if not name:
            return
        yield name.decode(errors="replace"), at + NAME_BYTES // 8
