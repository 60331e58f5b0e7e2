"""How far a foreign source has been taken in: records of a topic of ours, written with the events they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from millstream.buffer.log import Batch, OwnLog
from millstream.buffer.parts import Assembly, cut
from millstream.buffer.reading import through
from millstream.buffer.topics import INTAKE, intake_topic
from millstream.errors import LogError

KEPT = 100
"""How many of the newest losses are remembered."""
WHOLE_AFTER = 100
"""How many records say what has changed before one says all there is, and the log lets go of those before it."""


class Place(msgspec.Struct, frozen=True, array_like=True):
    """How far a shard was read: to a position, None for its beginning, or to its end."""

    position: str | None = None
    ended: bool = False


class Loss(msgspec.Struct, frozen=True):
    """What a source did not keep until it was read: when that was seen (µs), of which shard, and one sentence."""

    at: int
    shard: str
    what: str


class Intent(msgspec.Struct, frozen=True):
    """What is about to be appended, on a log whose transactions may come apart.

    Args:
        shard: the shard of which it is.
        begin: the position from which it was read.
        place: where the shard is once it is appended.
        partitions: how many partitions the stream's topic had.
        before: by partition, where it ended before.
        sums: by partition, the count of events and the checksum of each batch, in their order.
        done: by partition, how many of the events read from `begin` on were there already, and are not among these.
    """

    shard: str
    begin: str | None
    place: Place
    partitions: int
    before: dict[int, int]
    sums: dict[int, list[tuple[int, int]]]
    done: dict[int, int] = {}


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """One record of the topic: what has changed since the one before, or all there is.

    Args:
        shards: by name, how far each was read.
        gone: the shards that need not be remembered any more.
        losses: what was lost.
        whole: whether nothing before this record counts.
        lost: of how many losses a whole record knows, those among them that it does not name.
        intent: what is about to be appended; nothing else is said then.
        format: the format of the record.
    """

    shards: dict[str, Place] = {}
    gone: list[str] = []
    losses: list[Loss] = []
    whole: bool = False
    lost: int = 0
    intent: Intent | None = None
    format: int = 1

    def batches(self, largest: int) -> list[Batch]:
        """The record as it is appended: in parts, where it says more than the log takes in one piece (bytes)."""
        return [Batch(payload, "bytes", 1) for payload in cut(msgspec.json.encode(self), b"", largest)]


@dataclass
class Checkpoint:
    """How far the shards of a source have been taken in, and where in our log that is written.

    Args:
        shards: by name, how far each was read.
        losses: the newest losses, oldest first.
        lost: how many losses there ever were.
        intent: what was about to be appended when its writer stopped; None when all is there.
        records: how many records have been read or written since one that says all.
        committed: the position at which whoever wrote last has left its consumer; None before the first.
        end: where the topic ends.
    """

    shards: dict[str, Place] = field(default_factory=dict)
    losses: list[Loss] = field(default_factory=list)
    lost: int = 0
    intent: Intent | None = None
    records: int = 0
    committed: int | None = None
    end: int = 0

    @property
    def unended(self) -> Mapping[str, str | None]:
        """By name, how far each shard was read that is not read to its end."""
        return {name: place.position for name, place in self.shards.items() if not place.ended}

    def add(self, record: Record) -> None:
        """Take in what a record says."""
        if record.intent is not None:
            self.intent = record.intent
            return
        if record.whole:
            self.shards, self.losses, self.lost, self.records = {}, [], record.lost - len(record.losses), 0
        self.intent = None
        self.shards.update(record.shards)
        for name in record.gone:
            self.shards.pop(name, None)
        self.losses = [*self.losses, *record.losses][-KEPT:]
        self.lost += len(record.losses)
        self.records += 1

    def next_record(self, shards: Mapping[str, Place], gone: Iterable[str], losses: Iterable[Loss]) -> Record:
        """The record that says some changes; now and then one that says all. The checkpoint itself stays as it is.

        Args:
            shards: by name, how far each is read now, of those that have moved.
            gone: the shards that need not be remembered any more.
            losses: what was lost since the record before.
        """
        changes = Record(shards=dict(shards), gone=list(gone), losses=list(losses))
        if self.records < WHOLE_AFTER:
            return changes
        then = Checkpoint(dict(self.shards), list(self.losses), self.lost)
        then.add(changes)
        return Record(shards=then.shards, losses=then.losses, whole=True, lost=then.lost)


def load(log: OwnLog, stream: str) -> Checkpoint:
    """Read how far a stream's foreign source has been taken in.

    Args:
        log: the log.
        stream: the stream.

    Raises:
        LogError: when the log cannot be read, or a newer version of Millstream has written there.
    """
    found, topic = Checkpoint(), intake_topic(stream)
    if topic not in log.topics():
        return found
    [found.committed] = log.committed(INTAKE, topic)  # before the end: who writes between the two is found out
    [(first, found.end)] = log.ends(topic)
    assembly = Assembly()  # what its writer did not write to the end is as if it had not been begun
    for records in through(log, topic, 0, first, found.end):
        for payload in records.payloads:
            if (whole := assembly.add(payload)) is not None:
                found.add(_record(topic, whole.record))
    return found


def _record(topic: str, payload: bytes) -> Record:
    try:
        record = msgspec.json.decode(payload, type=Record)
        if record.format == 1:
            return record
    except msgspec.DecodeError:
        pass
    raise LogError(
        f"Topic '{topic}' holds a checkpoint that this version of Millstream does not read.",
        "use the version that wrote it, or a later one.",
    )
