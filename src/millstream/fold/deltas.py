"""The record of the feature topic: what one micro-batch adds to the keys of one partition."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from millstream.errors import CorruptState
from millstream.fold.states import States

_MAGIC = b"MSD1"
_HEAD = struct.Struct("<4sII")


class _Facts(msgspec.Struct, array_like=True):
    ranges: dict[str, tuple[int, int]]
    computed_at: int
    newest_arrival: int
    keys: list[bytes]
    let_go: list[int] = []  # a record made before has none; a release before passes over it


@dataclass(frozen=True, eq=False)
class Deltas:
    """A decoded record: the source position ranges it covers, and one partial state per key."""

    ranges: dict[str, tuple[int, int]]
    computed_at: int
    newest_arrival: int
    keys: list[bytes]
    states: States


def encode_deltas(
    ranges: Mapping[str, tuple[int, int]], computed_at: int, keys: Sequence[bytes], states: States, newest_arrival: int
) -> bytes:
    """A record of what a micro-batch adds to keys, and of what it has read.

    Args:
        ranges: by "stream/partition", the range of positions `[from, to)` that was read of it.
        computed_at: the clock's time (µs).
        keys: the encoded keys that changed.
        states: what is added to each of them.
        newest_arrival: when the newest of its events arrived (µs).
    """
    facts = msgspec.msgpack.encode(_Facts(dict(ranges), computed_at, newest_arrival, list(keys), list(states.let_go)))
    head = _HEAD.pack(_MAGIC, len(facts), len(keys)) + facts
    padding = b"\0" * (-len(head) % 8)
    return b"".join([head, padding, states.offsets.astype("<i8").tobytes(), states.data.tobytes()])


_DECODER = msgspec.msgpack.Decoder(_Facts)


class _Ranges(msgspec.Struct, array_like=True):
    ranges: dict[str, tuple[int, int]]


_RANGES = msgspec.msgpack.Decoder(_Ranges)


def ranges_of(record: bytes) -> dict[str, tuple[int, int]]:
    """The source position ranges of a record, without its states. Raises `CorruptState` for anything else."""
    return _RANGES.decode(_facts_of(record)[0]).ranges


def decode_deltas(record: bytes) -> Deltas:
    """The record that `encode_deltas` wrote. Raises `CorruptState` for anything else."""
    written, count = _facts_of(record)
    facts = _DECODER.decode(written)
    begin = (_HEAD.size + len(written) + 7) // 8 * 8
    offsets = np.frombuffer(record, "<i8", count + 1, begin)
    data = np.frombuffer(record, "<i8", -1, begin + 8 * (count + 1))
    states = States(data, offsets, let_go=facts.let_go)
    return Deltas(facts.ranges, facts.computed_at, facts.newest_arrival, facts.keys, states)


def _facts_of(record: bytes) -> tuple[memoryview, int]:
    """The facts of a record as they were written, and how many keys it holds."""
    if len(record) < _HEAD.size or record[:4] != _MAGIC:
        raise CorruptState(
            "Delta record: the bytes are not of this format.", "check the versions of the writing workers."
        )
    _, size, count = _HEAD.unpack_from(record)
    return memoryview(record)[_HEAD.size : _HEAD.size + size], count
