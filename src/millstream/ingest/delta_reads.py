"""Reading deltas from a feature topic: as many records as make one write, those in parts whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from millstream.buffer.log import OwnLog
from millstream.buffer.parts import Assembly, Unfinished
from millstream.buffer.reading import through
from millstream.buffer.topics import feature_topic
from millstream.clock import Clock
from millstream.fold.deltas import ranges_of
from millstream.ingest.ranges import Ranges

_LARGE = 8 << 20  # bytes of deltas to aim at in one write
_MOST = 1024  # records in one write
_PATIENCE = 60_000_000  # µs that the rest of a record in parts may take; after it, its events are folded again


@dataclass(frozen=True)
class DeltaRead:
    """What is read of a shard's deltas for one write.

    Attributes:
        records: the records that are whole, in the order of their last parts.
        torn: of each record of which parts are missing, and will not come in time, the ranges that it was to hold.
        reached: the position that the shard has when all this is in it.
    """

    records: list[bytes]
    torn: list[Ranges]
    reached: int


@dataclass
class _Stretch:
    """What lies between two positions, as it is read."""

    assembly: Assembly = field(default_factory=Assembly)
    records: list[bytes] = field(default_factory=list)
    size: int = 0
    last: int = -1  # where the newest record became whole

    def add(self, payloads: Sequence[bytes], positions: Sequence[int]) -> None:
        for payload, position in zip(payloads, positions, strict=True):
            self.size += len(payload)
            whole = self.assembly.add(payload, position)
            if whole is not None:
                self.records.append(whole.record)
                self.last = position

    @property
    def awaited(self) -> list[Unfinished]:
        """The records whose missing parts may still come."""
        return [record for record in self.assembly.unfinished if record.begun]


class DeltaReader:
    """Reads the deltas of shards, as many at once as were about right the last time.

    Args:
        log: the project's log.
        clock: says how long the rest of a record has been waited for.
    """

    def __init__(self, log: OwnLog, clock: Clock) -> None:
        self._log, self._clock = log, clock
        self._limits: dict[tuple[str, int], int] = {}
        self._waiting: dict[tuple[str, int], tuple[int, int]] = {}

    def forget(self, gv: str, shard: int) -> None:
        """Know nothing of a shard that others have had meanwhile."""
        self._limits.pop((gv, shard), None)
        self._waiting.pop((gv, shard), None)

    def up_to(self, gv: str, shard: int, position: int, until: int) -> DeltaRead:
        """Read what another writer has read who stopped at a position: the same is whole, and the same is torn.

        Args:
            gv: the group version.
            shard: its shard.
            position: where the shard is.
            until: where the other writer stopped.
        """
        stretch = _Stretch()
        for found in through(self._log, feature_topic(gv), shard, position, until):
            stretch.add(found.payloads, found.firsts.tolist())
        return DeltaRead(stretch.records, _ranges(stretch.assembly.unfinished), until)

    def next(self, gv: str, shard: int, position: int, following: int, applied: Mapping[str, int]) -> DeltaRead:
        """Read what comes after a position, up to the end of the partition at the most.

        A record of which parts are missing is read on for. At the end of the partition it is waited for, unless the shard
        has applied all of it before: computing writes it again if its writer has died. What comes after such a record
        does not wait: then the events of the missing parts are folded again, as those of any missing record are.

        Args:
            gv: the group version.
            shard: its shard.
            position: where the shard is.
            following: where the partition ends.
            applied: by "stream/partition", the position that the shard has applied.
        """
        topic, place = feature_topic(gv), (gv, shard)
        limit, stretch = self._limits.get(place, 16), _Stretch()
        found = self._log.read(topic, shard, position, limit)
        stretch.add(found.payloads, found.firsts.tolist())
        if stretch.size > _LARGE:
            self._limits[place] = max(1, limit // 2)
        elif len(found) >= limit and 2 * stretch.size <= _LARGE:
            self._limits[place] = min(_MOST, 2 * limit)
        reached = self._read_on(topic, shard, found.next, following, stretch)
        held = self._held(place, stretch, applied) if reached >= following else None
        torn = [one for one in stretch.assembly.unfinished if held is None or one.place < held]
        return DeltaRead(stretch.records, _ranges(torn), reached if held is None else held)

    def _read_on(self, topic: str, shard: int, position: int, following: int, stretch: _Stretch) -> int:
        """Read on for the missing parts of records, some way past the last of them that has come; return where that ends."""
        besides, quiet = 0, 0  # bytes, and records, since a part came
        while stretch.awaited and position < following and besides < _LARGE and quiet < _MOST:
            found = next(through(self._log, topic, shard, position, following, 1), None)
            if found is None:
                return following
            before = len(stretch.records)
            stretch.add(found.payloads, found.firsts.tolist())
            position = found.next
            whole = len(stretch.records) - before
            besides, quiet = (besides + sum(map(len, found.payloads)), quiet + whole) if whole else (0, 0)
        return position

    def _held(self, place: tuple[str, int], stretch: _Stretch, applied: Mapping[str, int]) -> int | None:
        """The position of the first record that is to be waited for, before which the shard stops."""
        awaited = [one for one in stretch.awaited if one.place > stretch.last]
        known = dict(applied)
        for record in stretch.records if awaited else ():
            known |= {name: max(to, known.get(name, to)) for name, (_, to) in ranges_of(record).items()}
        lacked = [one for one in awaited if _lacks(known, ranges_of(one.head))]
        if not lacked:
            self._waiting.pop(place, None)
            return None
        first, now = lacked[0].place, self._clock.now()
        began, since = self._waiting.get(place, (first, now))
        if began != first:
            since = now
        self._waiting[place] = first, since
        return first if now - since < _PATIENCE else None


def _ranges(records: Sequence[Unfinished]) -> list[Ranges]:
    return [ranges_of(record.head) for record in records]


def _lacks(applied: Mapping[str, int], ranges: Ranges) -> bool:
    """Whether a shard lacks something of what a record holds."""
    return any(begin < end and applied.get(place, begin) < end for place, (begin, end) in ranges.items())
