"""Files of JSON lines as a source: each file is a shard, its lines are events, and files may grow, move and come anew."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from glob import glob, has_magic
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

import numpy as np
from msgspec import Struct

from millstream.clock import Clock
from millstream.errors import SourceError
from millstream.settings import Settings, Text
from millstream.sources.source import NO_STAMP, Behind, Events, Shard

BLOCK = 1 << 20
"""Bytes read at once; a line that is longer is read whole."""
BEFORE = 256
"""Bytes before a position by which a file is known to be the one that was read."""
GONE_AFTER = 3_600.0
"""Seconds that a file must be away before what is left of it counts as lost, and one that comes back as another."""
_SHARD = re.compile(r"(.*)#([0-9a-f]{12})(?:#\d+)?", re.DOTALL)
_BOM = b"\xef\xbb\xbf"


class Files(Struct, frozen=True, kw_only=True):
    """`[streams.payments] kind = "files"`: JSON lines, `path` names the files, relative to the project's folder."""

    path: Text

    def open(self, settings: Settings, clock: Clock, stream: str) -> FilesSource:
        """Open the source; whether the files are there is seen when it is read; see `SourceBackend.open`."""
        return FilesSource(settings.folder, self.path, stream)


@dataclass(frozen=True, slots=True)
class _At:
    """A position: how far a file was read, what it was then, and a checksum of what is before."""

    offset: int
    size: int
    inode: int
    check: int
    gone: bool = False

    @classmethod
    def of(cls, text: str | None) -> _At | None:
        """Read a position; None for the beginning, and for a text that is none of ours."""
        try:
            words = (text or "").split(":")
            offset, size, inode, check = map(int, words[:4])
            return cls(offset, size, inode, check, words[4:] == ["gone"])
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"{self.offset}:{self.size}:{self.inode}:{self.check}" + (":gone" if self.gone else "")

    def fits(self, file: BinaryIO) -> bool:
        """Whether a file still holds what was read up to here."""
        size = os.fstat(file.fileno()).st_size
        return not self.gone and size >= self.offset and _check(file, self.offset) == self.check


class FilesSource:
    """Reads the files that match a pattern.

    A file is known by its first line, its inode and what stands before the place up to which it was read, so it may be
    renamed, in its folder too to a name that does not match, and the folder may be copied. A file that was truncated or
    written anew is another one. A line without an end waits until it has one.

    Args:
        folder: the folder that the pattern is relative to.
        pattern: which files, such as `incoming/*.jsonl`; `**` is any folders.
        stream: the stream, for messages.
        seconds: what time is measured with while a file is away.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "a.jsonl").write_bytes(b'{"n": 1}' + b"\\n" + b'{"n": 2')
        >>> source = FilesSource(folder, "*.jsonl", "clicks")
        >>> [shard] = source.shards({})
        >>> shard.name.partition("#")[0], source.read(shard.name, None, 10).payloads
        ('a.jsonl', [b'{"n": 1}'])
    """

    def __init__(
        self, folder: Path, pattern: str, stream: str, *, seconds: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder, self._pattern, self._stream, self._seconds = folder, pattern, stream, seconds
        self._paths: dict[str, Path] = {}
        self._first: dict[Path, tuple[tuple[int, int, int], str | None]] = {}
        self._away: dict[str, float] = {}

    def shards(self, read: Mapping[str, str | None]) -> list[Shard]:
        """Return a shard for each file that has a first line; see `Source.shards`."""
        self._look_for_folder()
        known = {name: _At.of(text) for name, text in read.items()}
        of_inode = {at.inode: name for name, at in known.items() if at is not None and not at.gone}
        found: dict[str, Path] = {}
        seen: set[tuple[int, int]] = set()
        for path in sorted(map(Path, glob(str(self._folder / self._pattern), recursive=True))):
            with self._reading(path, gone=True):
                state = path.stat()
                file = state.st_dev, state.st_ino
                if not path.is_file() or file in seen:
                    continue
                seen.add(file)  # links to it are not other files
                name = self._name(path, state.st_ino, known, of_inode)
                if name is not None:
                    found[name] = path
        self._paths = found
        return [Shard(name) for name in found]

    def read(self, shard: str, position: str | None, limit: int, until: str | None = None) -> Events:
        """Return the lines of a file from an offset on, those that have an end; see `Source.read`."""
        at, stop = _At.of(position), _At.of(until)
        path = self._path(shard, at)
        if path is None:
            return self._without_file(shard, position, at)
        self._away.pop(shard, None)
        with self._reading(path), path.open("rb") as file:
            if at is not None and not at.fits(file):
                return self._closed(shard, at)
            begin = 0 if at is None else at.offset
            lines, used = _lines(file, begin, limit, None if stop is None else stop.offset)
            state = os.fstat(file.fileno())
            end = begin + used
            following = str(_At(end, state.st_size, state.st_ino, _check(file, end)))
        if stop is not None and end >= stop.offset:
            following = str(until)
        lost = None
        if position is not None and at is None:
            lost = f"File '{path}': '{position}' is no place in it that is known; it is read from its beginning."
        return _events(lines, following, lost)

    def behind(self, shard: str, position: str | None) -> Behind:
        """Return about how many lines follow, by the length of the next ones; see `Source.behind`."""
        at = _At.of(position)
        path = self._path(shard, at)
        if path is None:
            return Behind(0, None)
        with self._reading(path), path.open("rb") as file:
            if at is not None and not at.fits(file):
                return Behind(0, None)
            begin = 0 if at is None else at.offset
            block = _block(file, begin)
            lines = block.count(b"\n")
            left = os.fstat(file.fileno()).st_size - begin
        return Behind(lines if len(block) >= left or not lines else lines * left // len(block), None)

    def close(self) -> None:
        """Nothing is open between two reads."""

    def _look_for_folder(self) -> None:
        """Refuse a folder that is not there: its files would count as gone."""
        parts = Path(self._pattern).parts
        fixed = next((n for n, part in enumerate(parts) if has_magic(part)), max(0, len(parts) - 1))
        folder = self._folder.joinpath(*parts[:fixed])
        if not folder.is_dir():
            raise SourceError(
                f"Stream '{self._stream}': its files are '{self._pattern}', and the folder '{folder}' is not there.",
                f"make the folder, or change `path` below [streams.{self._stream}] in millstream.toml.",
            )

    def _reading(self, path: Path, *, gone: bool = False) -> _Reading:
        return _Reading(self._stream, path, gone)

    def _name(self, path: Path, inode: int, known: Mapping[str, _At | None], of_inode: Mapping[int, str]) -> str | None:
        """The shard that a file is: one that was read, by its inode or its name, or a new one; None without a line."""
        first = self._first_line(path)
        if first is None:
            return None
        with path.open("rb") as file:
            by_inode = of_inode.get(inode)
            if by_inode is not None and _first_of(by_inode) == first:
                at = known[by_inode]
                if at is not None and at.fits(file):
                    return by_inode
            written = os.path.relpath(path, self._folder).encode("utf-8", "backslashreplace").decode()
            name = plain = f"{written}#{first}"
            number = 1
            while (at := known.get(name)) is not None and not at.fits(file):
                number += 1
                name = f"{plain}#{number}"
        return name

    def _first_line(self, path: Path) -> str | None:
        """What tells a file by its first line; looked at again when the file has changed."""
        state = path.stat()
        shown = state.st_ino, state.st_size, state.st_mtime_ns
        kept = self._first.get(path)
        if kept is None or kept[0] != shown:
            with path.open("rb") as file:
                kept = self._first[path] = shown, _first_line(file)
        return kept[1]

    def _path(self, shard: str, at: _At | None) -> Path | None:
        """Where the file of a shard is now; None when it is not found."""
        path = self._paths.get(shard)
        if path is not None:
            return path
        named = self._folder / _name_of(shard)
        for path in (named, *_neighbours(named, at)):
            try:
                if self._first_line(path) == _first_of(shard):
                    with path.open("rb") as file:
                        if at is None or at.fits(file):
                            return path
            except OSError:
                continue
        return None

    def _without_file(self, shard: str, position: str | None, at: _At | None) -> Events:
        """What is said of a file that is not found: nothing, until it was written over or has long been away."""
        first = self._away.setdefault(shard, self._seconds())
        overwritten = (self._folder / _name_of(shard)).exists()
        if not overwritten and self._seconds() - first < GONE_AFTER:
            return Events.of([], position)
        return self._closed(shard, at)

    def _closed(self, shard: str, at: _At | None) -> Events:
        self._away.pop(shard, None)
        name = _name_of(shard)
        left = 0 if at is None else at.size - at.offset
        lost = f"File '{name}' was removed, truncated or written anew with {left} bytes unread." if left > 0 else None
        if at is None:
            lost = f"File '{name}' was removed, truncated or written anew before it was read."
        end = at or _At(0, 0, 0, 0)
        return Events.of([], str(_At(end.offset, end.size, end.inode, end.check, gone=True)), closed=True, lost=lost)


@dataclass
class _Reading:
    """Turns what goes wrong with a file into an error that names it; one that has gone meanwhile may be left out."""

    stream: str
    path: Path
    gone: bool

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, FileNotFoundError) and self.gone:
            return True
        if isinstance(error, OSError):
            raise SourceError(
                f"Stream '{self.stream}': its file '{self.path}' cannot be read: {error.strerror or error}.",
                "give this process the right to read it, or move it away.",
            ) from error
        return False


def _events(lines: list[bytes], following: str, lost: str | None) -> Events:
    """A read of some lines, as one payload."""
    if not lines:
        return Events.of([], following, lost=lost)
    ones, stamps = np.array([len(lines)], np.int64), np.array([NO_STAMP], np.int64)
    return Events([b"\n".join(lines)], ["json"], ones, stamps, [None], following, lost=lost)


def _lines(file: BinaryIO, begin: int, limit: int, stop: int | None) -> tuple[list[bytes], int]:
    """At most so many lines that have an end, blank ones left out, and how many bytes they are, the blank ones too."""
    block = _block(file, begin)
    if stop is not None:
        block = block[: max(0, stop - begin)]
    lines = block.split(b"\n", max(1, limit))
    rest = lines.pop()
    if begin == 0 and lines:
        lines[0] = lines[0].removeprefix(_BOM)
    return [line for line in lines if line.strip()], len(block) - len(rest)


def _block(file: BinaryIO, begin: int) -> bytes:
    """What follows in a file, at least up to the end of a line if there is one."""
    file.seek(begin)
    block = file.read(BLOCK)
    while b"\n" not in block and (more := file.read(16 * BLOCK)):
        block += more
    return block


def _check(file: BinaryIO, offset: int) -> int:
    begin = max(0, offset - BEFORE)
    file.seek(begin)
    return crc32(file.read(offset - begin))


def _first_line(file: BinaryIO) -> str | None:
    block = _block(file, 0)
    line, end, _ = block.partition(b"\n")
    return blake2b(line, digest_size=6).hexdigest() if end else None


def _name_of(shard: str) -> str:
    """The name of a file when it was first seen."""
    return _SHARD.fullmatch(shard)[1]  # type: ignore[index]


def _first_of(shard: str) -> str:
    """What tells a file by its first line."""
    return _SHARD.fullmatch(shard)[2]  # type: ignore[index]


def _neighbours(named: Path, at: _At | None) -> Iterator[Path]:
    """Files of the same folder that have the inode of one that is not found under its name."""
    if at is None:
        return
    try:
        with os.scandir(named.parent) as entries:
            yield from [Path(one.path) for one in entries if one.inode() == at.inode and one.is_file()]
    except OSError:
        return
