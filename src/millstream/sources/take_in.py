"""Taking a foreign source in: its events go to the stream's own topic in our log, each exactly once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from millstream.buffer.log import Limited, OwnLog
from millstream.buffer.topics import intake_topic
from millstream.buffer.worker import EveryPartition, Worker
from millstream.clock import Clock
from millstream.definitions.source import EventStream
from millstream.errors import DiskFull, MillstreamError, SourceBusy, SourceError, first_line
from millstream.sources.checkpoint import Checkpoint, Intent, Loss, Place, load
from millstream.sources.source import Events, Expiring, Shard, Source
from millstream.sources.steps import Bite, Step, apart, finish, together

T = TypeVar("T")
WAIT, LONGEST = 0.1, 30.0
"""Seconds after which a shard that is throttled is asked again: at first, and at the longest."""
NOTED_EVERY = 10.0
"""Seconds between two notes of how far a shard was read of which nothing came."""
THREATENED = 2
"""What has waited for longer than this part of the time for which its source keeps it is threatened."""
PATIENCE = 1_000
"""Reads after which what is read again counts as not given now."""
FORGOTTEN_AFTER = 3_600.0
"""Seconds that a shard which is read to its end must not have been listed before it is remembered no more."""


@dataclass(frozen=True)
class Taken:
    """What a step has taken in.

    Args:
        records: how many events.
        more: whether there may be more at once: something came, or a source is throttled.
        busy: how many shards are throttled.
        losses: what the source did not keep until it was read.
    """

    records: int = 0
    more: bool = False
    busy: int = 0
    losses: tuple[Loss, ...] = ()


class TakeIn:
    """Takes the foreign source of one stream in, from where it, or whoever did it before, has stopped.

    Processes share the sources of a project, one has each. The events and how far they were read are written in one
    transaction, from the position at which the last one has left off: of two that take the same source in, one is fenced.
    On a log that is not atomic it is first written what is about to be appended; whoever comes after one that stopped in the
    midst of it appends what is not there, and one that goes on after others have sees it before it appends.

    The order within a shard is kept, and a shard is read once its parents are. All that follows (computing, archive,
    history) reads the stream's topic as if the events had been sent.

    Args:
        log: the log, which has the stream's topic.
        stream: the stream.
        source: its source.
        clock: the project's clock.
        most: about how many events one step takes.
        seconds: what time is measured with while a source is throttled.
        worker: says whether the source is this one's, by the topic of its checkpoints; who made it closes it. It is
            unless given, whoever else takes it in.

    Example:
        >>> import pathlib, tempfile
        >>> from millstream.buffer.embedded.log import EmbeddedLog
        >>> from millstream.clock import SimulatedClock
        >>> from millstream.testing.adversarial_source import AdversarialSource
        >>> clock = SimulatedClock(0)
        >>> log = EmbeddedLog(pathlib.Path(tempfile.mkdtemp()), clock, map_gib=1)
        >>> log.create("clicks", 1)
        >>> foreign = AdversarialSource(seed=1, patience=0)
        >>> foreign.put("a", b'{"user_id": 7}')
        >>> clicks = EventStream("clicks", time="at", schema={"user_id": "int64", "at": "timestamp"})
        >>> taking = TakeIn(log, clicks, foreign, clock)
        >>> taking.step().records, taking.step().records, log.read("clicks", 0, 0, 10).payloads
        (1, 0, [b'{"user_id": 7}'])
        >>> log.close()
    """

    def __init__(
        self,
        log: OwnLog,
        stream: EventStream,
        source: Source,
        clock: Clock,
        *,
        most: int = 10_000,
        seconds: Callable[[], float] = time.monotonic,
        worker: Worker | None = None,
    ) -> None:
        self.stream, self._topic = stream, intake_topic(stream.name)
        self._worker = worker or EveryPartition(log, [self._topic])
        self._epoch: int | None = None
        self._log, self._source, self._clock = log, source, clock
        self._most, self._seconds = most, seconds
        self._checkpoint: Checkpoint | None = None
        self._moved: dict[str, Place] = {}
        self._noted = seconds()
        self._waits: dict[str, tuple[float, float]] = {}
        self._turn = 0
        self._unlisted: dict[str, float] = {}

    def step(self) -> Taken:
        """Take in what there is, at most about as many events as one step takes; nothing while another has the source.

        Raises:
            SourceError: when a shard cannot be read, once all others had their turn.
            Fenced: when another process takes the same source in; the next step goes on from where that one is.
            DiskFull: when there is no room; nothing was taken in.
        """
        failed: list[MillstreamError] = []
        if not self._mine():
            return Taken()
        try:
            intent = self._known().intent
            taken = self._write(*self._bites(failed)) if intent is None else self._redo(intent, failed)
        except BaseException:
            self._forget()  # nobody knows what is written: it is read again
            raise
        for error in failed:
            raise error
        return taken

    @property
    def owned(self) -> bool:
        """Whether the source was this one's at the last step."""
        return self._epoch is not None

    def _mine(self) -> bool:
        """Ask whether the source is this one's now; what was known under another ownership is forgotten."""
        if self._log.topics().get(self._topic) is None:
            self._log.create(self._topic, 1)
        epoch = self._worker.assigned().get(self._topic, {}).get(0)
        if epoch != self._epoch:
            self._forget()
            self._unlisted = {}
        self._epoch = epoch
        return epoch is not None

    def _forget(self) -> None:
        self._checkpoint, self._moved = None, {}

    def lag(self) -> tuple[int, int | None]:
        """Return about how many events are still to be taken in, and when the oldest of them was stamped (µs).

        Raises:
            SourceBusy: when the source is throttled.
            SourceError: when it cannot be reached.
        """
        known = self._known()
        places = {shard.name: Place() for shard in self._source.shards(self._read(known))} | known.shards | self._moved
        found = [self._source.behind(name, at.position) for name, at in places.items() if not at.ended]
        since = [one.since for one in found if one.since is not None]
        return sum(one.records for one in found), min(since, default=None)

    def threat(self) -> str | None:
        """Say that the source may soon not keep what is unread any more; None when it is not so, or nobody can tell.

        Raises:
            SourceBusy: when the source is throttled.
            SourceError: when it cannot be reached.
        """
        if not isinstance(self._source, Expiring):
            return None
        kept, since = self._source.kept(), self.lag()[1]
        waited = 0 if since is None else self._clock.now() - since
        if kept is None or waited * THREATENED <= kept:
            return None
        return (
            f"Stream '{self.stream.name}': its source keeps events for {kept / 3.6e9:.4g} h, and the oldest that is not "
            f"taken in is {waited / 3.6e9:.4g} h old."
        )

    @property
    def losses(self) -> tuple[int, list[Loss]]:
        """How many losses there ever were, and the newest of them."""
        known = self._known()
        return known.lost, list(known.losses)

    def close(self) -> None:
        """Let go of the source."""
        self._source.close()

    def _known(self) -> Checkpoint:
        if self._checkpoint is None:
            self._log.create(self._topic, 1)
            self._checkpoint = load(self._log, self.stream.name)
        return self._checkpoint

    def _bites(self, failed: list[MillstreamError]) -> tuple[list[Bite], list[str]]:
        """Read every shard that may be read; returns what was read, and which shards need not be remembered."""
        known = self._known()
        shards = self._asked("", lambda: self._source.shards(self._read(known)), failed)
        if shards is None:
            return [], []
        bites, left = [], self._most
        for shard in self._in_turn(known, shards):
            if left <= 0:
                break
            begin = self._moved.get(shard, known.shards.get(shard, Place())).position
            events = self._asked(shard, partial(self._source.read, shard, begin, left), failed)
            if events is not None:
                bites.append(Bite(shard, begin, events))
                left -= len(events)
        return bites, self._forgettable(known, shards)

    def _read(self, known: Checkpoint) -> dict[str, str | None]:
        """By name, how far each shard was read."""
        return {name: place.position for name, place in {**known.shards, **self._moved}.items()}

    def _in_turn(self, known: Checkpoint, shards: list[Shard]) -> list[str]:
        """The shards to read, another one first each time: not those that wait for a parent, or are throttled."""
        parents = {shard.name: shard.parents for shard in shards}
        names = sorted({*parents, *known.unended})
        there = {*parents, *known.shards}

        def begun(name: str) -> bool:
            of = (parent for parent in parents.get(name, ()) if parent in there and parent != name)
            return all(known.shards.get(parent, Place()).ended for parent in of)

        ready = [
            name
            for name in names
            if name in known.unended or (not known.shards.get(name, Place()).ended and begun(name))
        ]
        self._turn += 1
        at = self._turn % max(1, len(ready))
        return [*ready[at:], *ready[:at]]

    def _asked(self, shard: str, ask: Callable[[], T], failed: list[MillstreamError]) -> T | None:
        """What a source answers; None when it does not, or is not asked as long as it is throttled."""
        until, wait = self._waits.get(shard, (0.0, WAIT))
        if self._seconds() < until:
            return None
        try:
            answer = ask()
        except SourceBusy:
            self._waits[shard] = self._seconds() + wait, min(2 * wait, LONGEST)
            return None
        except MillstreamError as error:
            failed.append(error)
            return None
        except Exception as error:
            failed.append(
                SourceError(
                    f"Stream '{self.stream.name}': its source failed: {type(error).__name__}: {first_line(error)}.",
                    "it is tried again; if it stays so, report it to whoever wrote the source.",
                )
            )
            return None
        self._waits.pop(shard, None)
        return answer

    def _write(self, bites: list[Bite], gone: list[str]) -> Taken:
        """Write what was read, and how far; an empty read is noted with others, or seldom."""
        now, known = self._clock.now(), self._known()
        losses = [Loss(now, one.shard, one.events.lost) for one in bites if one.events.lost]
        for one in bites:
            if one.place != known.shards.get(one.shard):
                self._moved[one.shard] = one.place
        ended = any(place.ended for place in self._moved.values())
        records = sum(len(one.events) for one in bites)
        late = bool(self._moved) and self._seconds() - self._noted >= NOTED_EVERY
        if records and isinstance(self._log, Limited) and self._log.filled() >= 1:
            raise DiskFull.writing(f"the events of stream '{self.stream.name}'")  # the rest is for those who consume
        if records or losses or ended or gone or late:
            write = together if self._log.atomic else apart
            write(self._log, self.stream, known, Step(bites, dict(self._moved), gone, losses, now), self._worker)
            self._moved, self._noted = {}, self._seconds()
        busy = sum(1 for until, _ in self._waits.values() if self._seconds() < until)
        return Taken(records, bool(records or ended or busy), busy, tuple(losses))

    def _redo(self, intent: Intent, failed: list[MillstreamError]) -> Taken:
        """Read again what somebody was about to append when he stopped, and append what of it is not there."""
        read: list[Events] = []
        position, until = intent.begin, intent.place.position
        for _ in range(PATIENCE):
            ask = partial(self._source.read, intent.shard, position, self._most, until)
            some = self._asked(intent.shard, ask, failed)
            if some is None:
                break
            read.append(some)
            position = some.next
            if position == until or some.closed:
                finish(self._log, self.stream, self._known(), intent, read, self._clock.now())
                return Taken(sum(map(len, read)), more=True)
        for error in failed:
            raise error
        return Taken(more=True, busy=1)

    def _forgettable(self, known: Checkpoint, shards: list[Shard]) -> list[str]:
        """The shards that are read to their ends, and that have long not been listed, nor one that goes on from them."""
        listed = {shard.name for shard in shards} | {parent for shard in shards for parent in shard.parents}
        unlisted = [name for name, place in known.shards.items() if place.ended and name not in listed]
        now = self._seconds()
        self._unlisted = {name: self._unlisted.get(name, now) for name in unlisted}
        return [name for name, since in self._unlisted.items() if now - since >= FORGOTTEN_AFTER]
