"""Records that are larger than what a log takes in one piece: cut into parts, and put together again.

Each part names the record it is of by a digest of its bytes, and which part of how many it is, so that a part that comes
twice counts once, and parts of two versions of one record are never mixed. It also carries the record's head, which is
the record without its content: what a record is about is known from any part of it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

from millstream.errors import CorruptState

LARGEST = 1_000_000
"""The most bytes of one batch, unless a log says otherwise: what brokers take as they come."""

_MAGIC = b"MSP1"
_DIGEST = 16
_HEAD = struct.Struct(f"<4sIII{_DIGEST}s")
"""The magic, the part's number, how many there are, the bytes of the head, the digest."""


class Part(NamedTuple):
    """One part of a record.

    Attributes:
        head: the record without its content.
        digest: the record's identity.
        number: which part it is, from 0 on.
        parts: how many there are.
        content: its share of the record's bytes.
    """

    head: bytes
    digest: bytes
    number: int
    parts: int
    content: bytes


def cut(record: bytes, head: bytes, largest: int) -> list[bytes]:
    """Return a record as payloads that a log takes: itself if it is small enough, else its parts in their order.

    Args:
        record: the record, as it is encoded; it begins in a way of its own, not as a part does.
        head: the same without its content, which every part repeats.
        largest: the most bytes of a payload. Where the head alone has about as many, the log refuses the parts.

    Returns:
        list[bytes]: the payloads, to be appended in one transaction.

    Example:
        >>> [len(payload) for payload in cut(b"deltas" * 100, b"what they are of", 300)]
        [300, 300, 144]
        >>> assembly = Assembly()
        >>> [assembly.add(payload) for payload in cut(b"deltas" * 100, b"what they are of", 300)][:2]
        [None, None]
        >>> cut(b"deltas", b"what they are of", 300)
        [b'deltas']
    """
    if len(record) <= largest and not record.startswith(_MAGIC):
        return [record]
    digest = digest_of(record)
    room = max(1, largest - _HEAD.size - len(head), largest // 8)
    contents = [record[at : at + room] for at in range(0, len(record), room)]
    return [
        _HEAD.pack(_MAGIC, number, len(contents), len(head), digest) + head + content
        for number, content in enumerate(contents)
    ]


def digest_of(record: bytes) -> bytes:
    """Return what tells a record from any other: a digest of its bytes."""
    return blake2b(record, digest_size=_DIGEST).digest()


def part_of(payload: bytes) -> Part | None:
    """Return the part that a payload is, or None where it is a record of its own.

    Raises:
        CorruptState: when it begins as a part does, and is none.
    """
    if payload[:4] != _MAGIC:
        return None
    if len(payload) <= _HEAD.size:
        raise _not_a_part()
    _, number, parts, size, digest = _HEAD.unpack_from(payload)
    begin = _HEAD.size + size
    if number >= parts or begin >= len(payload):
        raise _not_a_part()
    return Part(payload[_HEAD.size : begin], digest, number, parts, payload[begin:])


def head_of(payload: bytes) -> bytes:
    """Return what tells what a payload is about: the head of the record that it is a part of, else the payload itself."""
    part = part_of(payload)
    return payload if part is None else part.head


@dataclass
class Unfinished:
    """A record of which parts are missing.

    Attributes:
        head: the record without its content.
        place: where its first part was that came.
        begun: whether that was part 0; if not, those before it lie before what was read, and none of them will come.
        contents: by number, what the parts hold that came.
    """

    head: bytes
    place: int
    begun: bool
    contents: dict[int, bytes] = field(default_factory=dict, repr=False)


class Whole(NamedTuple):
    """A record, and where its first part was.

    Attributes:
        record: its bytes.
        place: the place that was given with its first part.
    """

    record: bytes
    place: int


class Assembly:
    """Puts records together from the payloads of one partition, in the order in which they were appended.

    Parts of several records may lie between each other, as several workers append. What is held is what is unfinished.
    """

    def __init__(self) -> None:
        self._unfinished: dict[bytes, Unfinished] = {}

    def add(self, payload: bytes, place: int = 0) -> Whole | None:
        """Take the next payload, and return the record that it is, or makes whole.

        Args:
            payload: the payload.
            place: where it is, such as its position.

        Raises:
            CorruptState: when it is a part that cannot be read, or the parts together are not the record they name.
        """
        part = part_of(payload)
        if part is None:
            return Whole(payload, place)
        known = self._unfinished.get(part.digest)
        if known is None:
            known = self._unfinished[part.digest] = Unfinished(part.head, place, part.number == 0)
        known.contents[part.number] = part.content
        if len(known.contents) < part.parts:
            return None
        del self._unfinished[part.digest]
        record = b"".join(known.contents[number] for number in range(part.parts))
        if digest_of(record) != part.digest:
            raise CorruptState(
                f"Record in {part.parts} parts: together they are not what was written.",
                "check the versions of the writing workers.",
            )
        return Whole(record, known.place)

    @property
    def unfinished(self) -> list[Unfinished]:
        """The records of which parts are missing, in the order of their first parts."""
        return list(self._unfinished.values())


def whole_records(payloads: Iterable[bytes]) -> tuple[list[bytes], list[Unfinished]]:
    """Return the records that some payloads hold wholly, in the order of their last parts, and those that they do not."""
    assembly = Assembly()
    found = [whole.record for payload in payloads if (whole := assembly.add(payload)) is not None]
    return found, assembly.unfinished


def _not_a_part() -> CorruptState:
    return CorruptState(
        "Part of a record: the bytes are not of this format.", "check the versions of the writing workers."
    )
