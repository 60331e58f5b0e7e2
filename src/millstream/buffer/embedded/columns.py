"""Stored batches read in columns: what the heads of many rows say as arrays, so that a row costs no thought of its own.

Only rows as they are written today, whole and in their order, are taken this way, up to the first that is anything
else: that one is for `millstream.buffer.embedded.rows` to read, or to refuse.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

if TYPE_CHECKING:
    import lmdb

Ints = npt.NDArray[np.int64]

CHECKED = 0x5EA1ED00
"""Added to the number of a checked batch's encoding; no flipped bit makes one of format 1 of it."""
HEAD = np.dtype([("count", "<u4"), ("appended", "<i8"), ("encoding", "<u4"), ("check", "<u4"), ("seal", "<u4")])
"""A batch's head: how many records, when it was appended (µs), encoding, checksum of the payload, and the seal."""
_KEY, _PLACE = 17, 9  # bytes of a row's key, and of what all keys of a partition begin with
_SEALED = HEAD.itemsize - 4
_HEAD_BYTES = np.arange(HEAD.itemsize)
_SHORT = 0xFFFFFFFF
_digest = xxhash.xxh3_64_intdigest


class Columns(NamedTuple):
    """Some batches that follow each other.

    Attributes:
        payloads: their bytes.
        encodings: by payload, the number of its encoding.
        counts: by payload, how many records it holds.
        appended: by payload, when the log took it (µs).
        first: the position of the first record.
        next: the position after the last one.
    """

    payloads: list[bytes]
    encodings: Ints
    counts: Ints
    appended: Ints
    first: int
    next: int


def read_columns(
    cursor: lmdb.Cursor, place: bytes, position: int, following: int, kinds: int, most: int, limit: int
) -> Columns | None:
    """Read the batches from the row at which a cursor stands, which is to hold a position; None where it is not plain.

    Only the first row's key is looked at: those of the others follow from what the rows hold, and a row is sealed
    together with its key.

    Args:
        cursor: the cursor.
        place: what the keys of the partition's batches begin with.
        position: the position to read from.
        following: where the partition ends.
        kinds: how many encodings there are.
        most: how many rows to look at.
        limit: how many records are enough.
    """
    key = bytes(cursor.key())
    if key[:_PLACE] != place or len(key) != _KEY or not 0 <= _kind(cursor.value()) < kinds:
        return None
    values = list(islice(cursor.iternext(keys=False, values=True), most))
    sizes = np.fromiter(map(len, values), np.int64, len(values))
    size = _leading(sizes >= HEAD.itemsize)
    raw, ends = b"".join(values[:size]), np.cumsum(sizes[:size])
    begins = ends - sizes[:size]
    sealed = np.frombuffer(raw, np.uint8)[begins[:, None] + _HEAD_BYTES]
    heads = sealed.view(HEAD).ravel()
    counts, kind = heads["count"].astype(np.int64), heads["encoding"].astype(np.int64) - CHECKED
    first = int.from_bytes(key[_PLACE:], "big")
    nexts = first + np.cumsum(counts)
    good = (kind >= 0) & (kind < kinds) & (counts > 0) & (nexts > position) & (nexts <= following)
    size = _leading(good[: int(np.searchsorted(nexts, position + limit)) + 1]) if first <= position else 0
    size = intact(_sealed(key, nexts[:size] - counts[:size], sealed[:size]), heads["seal"][:size])
    payloads = [
        raw[begin:end]
        for begin, end in zip((begins + HEAD.itemsize)[:size].tolist(), ends[:size].tolist(), strict=True)
    ]
    size = intact(payloads, heads["check"][:size])
    if not size:
        return None
    stamps = heads["appended"][:size].astype(np.int64)
    return Columns(payloads[:size], kind[:size], counts[:size], stamps, first, int(nexts[size - 1]))


def _kind(value: bytes | memoryview) -> int:
    """The number of the encoding of a plain row; another number is that of another row."""
    place = HEAD.fields["encoding"][1]  # type: ignore[index]
    return int.from_bytes(value[place : place + 4], "little") - CHECKED if len(value) >= HEAD.itemsize else -1


def _sealed(key: bytes, positions: Ints, heads: npt.NDArray[np.uint8]) -> list[bytes]:
    """By batch, what is sealed of it: its key, which begins as that of the first does, and its head."""
    texts = np.empty((len(positions), _KEY + _SEALED), np.uint8)
    texts[:, :_PLACE] = np.frombuffer(key, np.uint8)[:_PLACE]
    texts[:, _PLACE:_KEY] = positions.astype(">u8").view(np.uint8).reshape(-1, _KEY - _PLACE)
    texts[:, _KEY:] = heads[:, :_SEALED]
    joined, width = texts.tobytes(), _KEY + _SEALED
    return [joined[at : at + width] for at in range(0, len(joined), width)]


def intact(texts: Sequence[bytes], sums: npt.NDArray[np.uint32]) -> int:
    """How many texts, from the first on, have the checksums that are written."""
    found = np.fromiter(map(_digest, texts), np.uint64, len(texts)) & np.uint64(_SHORT)
    return _leading(found == sums)


def _leading(good: npt.NDArray[np.bool_]) -> int:
    """How many are good, from the first on."""
    return len(good) if good.all() else int(good.argmin())
