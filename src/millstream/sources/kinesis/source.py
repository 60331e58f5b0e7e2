"""Somebody else's stream of Kinesis as a source: its shards, each record an event, or as many as were aggregated in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from millstream.clock import Clock
from millstream.errors import Forked, SourceError
from millstream.forks import forks
from millstream.sources.formats import Format, Read
from millstream.sources.kinesis.aggregated import apart
from millstream.sources.kinesis.service import (
    Answer,
    Feed,
    GoneShard,
    Record,
    Service,
    StaleIterator,
    UnknownPlace,
    own_id,
)
from millstream.sources.source import Behind, Events, Shard, rounded

T = TypeVar("T")
MOST = 10_000
"""The most records that the service gives at once."""


class _At(NamedTuple):
    """A position: after a sequence number, none at the beginning, in a shard that was known up to an instant (µs)."""

    sequence: int | None
    known: int

    @classmethod
    def of(cls, text: str | None) -> _At | None:
        """Read a position; None for the beginning, and for a text that is none of ours."""
        sequence, _, known = (text or "").partition("@")
        if not known.isdecimal() or (sequence and not sequence.isdecimal()):
            return None
        return cls(int(sequence) if sequence else None, int(known))

    def __str__(self) -> str:
        return f"{'' if self.sequence is None else self.sequence}@{self.known}"


@dataclass(slots=True)
class _Reading:
    """Where a shard is read on: the position, when (s) it was asked for what came before, and how far (ms) behind it is."""

    position: str | None
    asked: float
    behind: int | None = None


class KinesisSource:
    """Reads a stream that others own, from any sequence number, without a lease or a table of its own.

    A shard is known by its id and by when the stream was made, so one that is made anew under its name has other shards.
    A position says, beside a sequence number, up to which instant everything is known to have been read: that
    tells whether something may have expired behind it.

    Args:
        service: the stream, which is closed with the source.
        feed: how its shards are read, which is closed too.
        stream: the stream that is bound to it, for messages.
        format: what a record's bytes say.
        clock: the project's clock.
        every: seconds between two reads of a shard; the service lets all its readers together read five times a second.
        seconds: what they are measured with.
    """

    def __init__(
        self,
        service: Service,
        feed: Feed,
        stream: str,
        format: Format,
        clock: Clock,
        every: float,
        seconds: Callable[[], float],
    ) -> None:
        self._service, self._feed, self._stream, self._format, self._clock = service, feed, stream, format, clock
        self._every, self._seconds, self._forks = every, seconds, forks()
        self._reading: dict[str, _Reading] = {}
        self._listed: tuple[float, list[Shard]] | None = None

    def shards(self, read: Mapping[str, str | None]) -> list[Shard]:
        """Return the shards that are kept, with those they go on from; see `Source.shards`."""
        now = self._seconds()
        if self._listed is None or now >= self._listed[0] + self._every:
            self._listed = now, self._asked(self._list)
        return self._listed[1]

    def read(self, shard: str, position: str | None, limit: int, until: str | None = None) -> Events:
        """Return records of a shard after a position, as what they say; see `Source.read`."""
        return self._asked(lambda: self._read(shard, position, limit, _At.of(until), until))

    def behind(self, shard: str, position: str | None) -> Behind:
        """Return whether records follow, and since when; see `Source.behind`."""
        return self._asked(lambda: self._behind(shard, position))

    def kept(self) -> int | None:
        """Return for how many microseconds the stream keeps records; see `Expiring.kept`."""
        return self._asked(lambda: self._service.described().kept)

    def close(self) -> None:
        """Let go of the connections."""
        self._reading = {}
        self._feed.close()
        self._service.close()

    def _list(self) -> list[Shard]:
        made = self._service.described().made
        shards = self._service.shards()
        return [
            Shard(f"{one['ShardId']}@{made}", tuple(f"{parent}@{made}" for parent in _parents(one))) for one in shards
        ]

    def _read(self, shard: str, position: str | None, limit: int, stop: _At | None, until: str | None) -> Events:
        reading, now = self._reading.get(shard), self._seconds()
        early = reading is not None and reading.position == position and now < reading.asked + self._every
        if early and self._feed.pausing:
            return Events.of([], position)
        if stop is not None and stop.sequence is None:
            return Events.of([], until)
        begin = _At.of(position)
        try:
            own = self._own(shard)
            lost = None if begin else self._no_position(shard, position)
            if begin and not self._feed.holds(shard, begin.sequence):
                lost, begin = self._expired(own, shard, begin)
            limit = min(limit, MOST)
            answer = self._feed.records(shard, begin and begin.sequence, limit)
        except GoneShard:
            self._service.forget()
            return self._gone(shard, position)
        except StaleIterator:
            self._reading.pop(shard, None)
            return Events.of([], position)  # the next read makes another
        except UnknownPlace:
            lost = f"{self._named(shard)}: '{position}' is none of its positions; it is read from its beginning."
            return Events.of([], None, lost=lost)
        if stop is not None and stop.sequence is not None:
            return self._again(begin, answer, lost, stop.sequence, until)
        following = self._after(begin, answer.records, answer)
        if answer.following is not None:
            behind = answer.behind if len(answer.records) < limit else None  # else nobody knows what follows at once
            self._reading[shard] = _Reading(following, now, behind)
        return self._events(answer.records, following, lost, answer.following is None)

    def _again(self, begin: _At | None, answer: Answer, lost: str | None, stop: int, until: str | None) -> Events:
        """What an answer says up to a position that was read once; where nothing more of it is there, that is the end."""
        records = [one for one in answer.records if one.sequence <= stop]
        through = answer.records[-1].sequence >= stop if answer.records else not answer.following or answer.behind == 0
        return self._events(records, until if through else self._after(begin, records, answer), lost)

    def _events(self, records: list[Record], following: str | None, lost: str | None, closed: bool = False) -> Events:
        """What records say, each whole."""
        inner = list(apart(records))
        read = self._format.read(inner) if inner else Read.lines([])
        stamps = rounded(np.array([one.stamp for one in inner], np.int64))
        keys: list[bytes | None] = [one.key() for one in inner]
        return Events(read.payloads, read.encodings, read.counts, stamps, keys, following, closed, lost)

    def _after(self, begin: _At | None, records: list[Record], answer: Answer) -> str:
        """The position after some records; one at the end of a shard that is open knows all up to now."""
        sequence = records[-1].sequence if records else begin and begin.sequence
        known = max(records[-1].stamp if records else 0, begin.known if begin else 0)
        if answer.behind == 0:
            known = max(known, self._clock.now() // 60_000_000 * 60_000_000)  # by minutes: it is written where it moves
        return str(_At(sequence, known))

    def _expired(self, own: str, shard: str, begin: _At) -> tuple[str | None, _At]:
        """What was not kept until it was read, and where to go on."""
        horizon = self._clock.now() - self._service.described().kept
        if begin.known >= horizon:
            return None, begin
        oldest = self._service.records(self._service.iterator(own, None), 1).records
        if oldest and (begin.sequence is not None and oldest[0].sequence <= begin.sequence):
            return None, begin
        known = oldest[0].stamp if oldest else horizon
        between = f"{_shown(begin.known)} and {_shown(known)}"
        lost = f"{self._named(shard)}: what came between {between}, if anything, is kept no longer."
        return lost, begin._replace(known=max(known, horizon))

    def _gone(self, shard: str, position: str | None) -> Events:
        self._reading.pop(shard, None)
        self._feed.forget(shard)
        lost = f"{self._named(shard)} is there no more; what was unread in it is gone."
        return Events.of([], position, closed=True, lost=lost)

    def _no_position(self, shard: str, position: str | None) -> str | None:
        """What is lost by a position that is none of ours."""
        if position is None:
            return None
        return f"{self._named(shard)}: '{position}' is no position; it is read from its beginning."

    def _named(self, shard: str) -> str:
        return f"Kinesis stream '{self._service.name}', shard '{shard}'"

    def _behind(self, shard: str, position: str | None) -> Behind:
        begin, reading = _At.of(position), self._reading.get(shard)
        fresh = reading is not None and reading.position == position and self._seconds() < reading.asked + self._every
        if fresh and reading is not None and reading.behind is not None:
            return self._so_far_behind(reading.behind)
        try:
            iterator = self._service.iterator(self._own(shard), begin and begin.sequence)
            answer = self._service.records(iterator, 1)
        except (GoneShard, UnknownPlace, StaleIterator):
            return Behind(0, None)
        if answer.records:
            return Behind(1, answer.records[0].stamp)
        return self._so_far_behind(answer.behind or 0)

    def _so_far_behind(self, milliseconds: int) -> Behind:
        return Behind(1, self._clock.now() - milliseconds * 1_000) if milliseconds else Behind(0, None)

    def _own(self, shard: str) -> str:
        """The id that the service has for a shard."""
        if shard.rpartition("@")[2] != str(self._service.described().made):
            raise GoneShard(shard)
        return own_id(shard)

    def _asked(self, ask: Callable[[], T]) -> T:
        if self._forks != forks():
            raise Forked.opened_before(f"{self._service.named}, of stream '{self._stream}',")
        try:
            return ask()
        except SourceError as error:
            raise type(error)(f"Stream '{self._stream}': {error.message}", error.hint) from error


def _parents(shard: Mapping[str, Any]) -> list[str]:
    """The shards that one goes on from, as the service says."""
    return [shard[name] for name in ("ParentShardId", "AdjacentParentShardId") if shard.get(name)]


def _shown(instant: int) -> str:
    return f"{np.datetime64(instant, 'us').astype('datetime64[s]')}Z"
