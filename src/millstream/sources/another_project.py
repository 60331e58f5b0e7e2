"""The log of another Millstream project as a source: each partition of a stream's topic there is a shard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from msgspec import Struct

from millstream.buffer.agreement import Identified
from millstream.buffer.log import OwnLog, Records
from millstream.clock import Clock, project_clock
from millstream.errors import MillstreamError, SourceError
from millstream.settings import Settings, Text
from millstream.sources.source import Behind, Events, Shard

T = TypeVar("T")


class AnotherProject(Struct, frozen=True, kw_only=True):
    """`[streams.payments] kind = "project"`: `path` is the other project's folder, `stream` its stream, if named otherwise."""

    path: Text
    stream: Text = ""

    def open(self, settings: Settings, clock: Clock, stream: str) -> ProjectSource:
        """Open the other project's log as its own settings say, with its own clock; see `SourceBackend.open`.

        Raises:
            SourceError: when the stream is bound to the project that it is a stream of.
            ProjectError: when the other project's settings cannot be read.
        """
        from millstream.project.backends import backend

        folder = settings.folder / self.path
        other = Settings.load(folder)
        if other.data == settings.data:
            raise SourceError(
                f"Stream '{stream}': it is bound to the project that it is a stream of.",
                f"change `path` below [streams.{stream}] in millstream.toml.",
            )
        log = backend(other, "log").open(other, project_clock(other.data))
        return ProjectSource(log, self.stream or stream, stream, folder)


class _At(NamedTuple):
    """A position: that of a partition of a log, and which log it is."""

    identity: str
    position: int

    @classmethod
    def of(cls, text: str | None) -> _At | None:
        """Read a position; None for the beginning, and for a text that is none of ours."""
        identity, _, position = (text or "").rpartition("/")
        return cls(identity, int(position)) if position.isdigit() else None

    def __str__(self) -> str:
        return f"{self.identity}/{self.position}"


class ProjectSource:
    """Reads a topic of another log.

    Args:
        log: the log, which is closed with the source.
        topic: the topic.
        stream: the stream that is bound to it, for messages.
        folder: the other project, for messages.
    """

    def __init__(self, log: OwnLog, topic: str, stream: str, folder: Path) -> None:
        self._log, self._topic, self._stream, self._folder = log, topic, stream, folder

    def shards(self, read: Mapping[str, str | None]) -> list[Shard]:
        """Return a shard for each partition; see `Source.shards`."""
        return [Shard(str(partition)) for partition in range(len(self._ends()))]

    def read(self, shard: str, position: str | None, limit: int, until: str | None = None) -> Events:
        """Return records of a partition, with the stamps that the other log gave them; see `Source.read`."""
        partition, stop = int(shard), _At.of(until)
        begin, lost = self._begin(partition, position)
        found = self._asked(lambda: self._log.read(self._topic, partition, begin, limit))
        if stop is not None:
            found = found.before(stop.position)
        following = str(_At(self._identity(), found.next))
        if stop is not None and found.next >= stop.position:
            following = str(until)
        return _events(found, following, lost)

    def behind(self, shard: str, position: str | None) -> Behind:
        """Return what the other log has after a position; see `Source.behind`."""
        partition = int(shard)
        begin, _ = self._begin(partition, position)
        if begin >= self._ends()[partition][1]:
            return Behind(0, None)
        return Behind(*self._asked(lambda: self._log.behind(self._topic, partition, begin)))

    def close(self) -> None:
        """Let go of the other log."""
        self._log.close()  # type: ignore[attr-defined]

    def _begin(self, partition: int, position: str | None) -> tuple[int, str | None]:
        """Where to read on, and what was lost before that."""
        first, end = self._ends()[partition]
        at = _At.of(position)
        if position is None or at is None:
            return first, None
        place = f"Topic '{self._topic}' of project '{self._folder}', partition {partition}"
        if at.identity != self._identity():
            return first, f"{place}: it is another log than the one that was read; it is read from its beginning."
        if at.position > end:
            return end, f"{place}: it ends before the position up to which it was read; it has stepped back."
        if at.position < first:
            return first, f"{place}: events before position {first} were trimmed before they were read."
        return at.position, None

    def _identity(self) -> str:
        """What tells the other log from any other; that it was repaired changes nothing."""
        return self._log.identity().partition("@")[0] if isinstance(self._log, Identified) else ""

    def _ends(self) -> list[tuple[int, int]]:
        return self._asked(lambda: self._log.ends(self._topic))

    def _asked(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except MillstreamError as error:
            raise SourceError(
                f"Stream '{self._stream}': project '{self._folder}', to which it is bound, cannot be read: {error.message}",
                error.hint,
            ) from error


def _events(found: Records, following: str, lost: str | None) -> Events:
    payloads: list[bytes | None] = list(found.payloads)
    keys: list[bytes | None] = [None] * len(payloads)
    return Events(payloads, found.encodings, found.counts, found.appended, keys, following, lost=lost)
