"""Entity keys as bytes, which sort as the keys do for one column and never collide for several."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.definitions.data_types import EPOCH, as_uuids, decimal_of, halves_of_decimals, unscaled
from millstream.definitions.schema import digits_of
from millstream.engines import instants

_SIGN = 1 << 63
_MIDDLE = 1 << 127
_OF_ANY_LENGTH = ("string", "bytes")


def encode_key(types: Mapping[str, str], values: Sequence[Any]) -> bytes:
    """One key as bytes, which of one column sort as its values do.

    A number is 8 big-endian bytes, and so are a bool, as 0 or 1, and a date, as days since 1970; a decimal is 16, those of
    a whole number, and a UUID its 16 bytes. A lone string is its UTF-8 and lone bytes are themselves, while one of several
    carries its length.

    >>> encode_key({"user_id": "int64"}, [42]).hex()
    '800000000000002a'
    """
    kinds = types.values()
    if len(kinds) == 1 and isinstance(values[0], str):
        return values[0].encode()
    return b"".join([_encoded(kind, value, len(kinds) > 1) for kind, value in zip(kinds, values, strict=True)])


def _encoded(kind: str, value: Any, several: bool) -> bytes:
    if kind == "int64":
        return (int(value) + _SIGN).to_bytes(8, "big")
    if kind in _OF_ANY_LENGTH:
        raw = value.encode() if kind == "string" else bytes(value)
        return len(raw).to_bytes(4, "big") + raw if several else raw
    if kind == "uuid":
        return bytes(value.bytes)
    if digits := digits_of(kind):
        return (unscaled(value, digits[1]) + _MIDDLE).to_bytes(16, "big")
    number = value.toordinal() - EPOCH if kind == "date" else int(value)
    return (number + _SIGN).to_bytes(8, "big")


def decode_key(types: Mapping[str, str], key: bytes) -> tuple[object, ...]:
    """The values that `encode_key` was given."""
    values: list[object] = []
    for kind in types.values():
        if kind in _OF_ANY_LENGTH:
            size, key = (int.from_bytes(key[:4], "big"), key[4:]) if len(types) > 1 else (len(key), key)
        else:
            size = 16 if kind == "uuid" or digits_of(kind) else 8
        values.append(_decoded(kind, key[:size]))
        key = key[size:]
    return tuple(values)


def _decoded(kind: str, raw: bytes) -> object:
    if kind in _OF_ANY_LENGTH:
        return raw.decode() if kind == "string" else raw
    if kind == "uuid":
        return UUID(bytes=raw)
    if digits := digits_of(kind):
        return decimal_of(int.from_bytes(raw, "big") - _MIDDLE, digits[1])
    number = int.from_bytes(raw, "big") - _SIGN
    return date.fromordinal(EPOCH + number) if kind == "date" else bool(number) if kind == "bool" else number


def encode_keys(types: Mapping[str, str], columns: Sequence[pa.Array]) -> pa.Array:
    """Key columns as one binary array, null where any of them is null; the bytes are those of `encode_key`."""
    parts = [
        _encode_column(kind, _flat(column), len(types) > 1)
        for kind, column in zip(types.values(), columns, strict=True)
    ]
    if len(parts) == 1:
        return parts[0]
    return pc.binary_join_element_wise(*parts, pa.scalar(b"", pa.binary()), null_handling="emit_null")


def narrowed(column: pa.Array) -> tuple[pa.Array, Any]:
    """A computed key as `encode_keys` takes it, and where it is a number or a date beyond its type, which is null in it then.

    SQL has whole numbers wider than int64, as `hash(x)` is one half of the time, and dates after the year 9999.

    >>> narrowed(pa.array([1, 2**64 - 1], pa.uint64()))[1].tolist()
    [False, True]
    """
    if column.type == pa.uint64():
        beyond = pc.greater(column, pa.scalar(2**63 - 1, pa.uint64()))
    elif pa.types.is_decimal(column.type):
        least, most = (pa.scalar(Decimal(bound), column.type) for bound in (-(2**63), 2**63 - 1))
        beyond = pc.or_(pc.less(column, least), pc.greater(column, most))
    elif pa.types.is_date(column.type) and (outside := instants.beyond(column)) is not None:
        beyond = outside
    else:
        return column, np.False_
    wide = np.asarray(pc.fill_null(beyond, False)).astype(bool)
    return (pc.if_else(beyond, pa.scalar(None, column.type), column) if wide.any() else column), wide


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _encode_column(kind: str, column: pa.Array, several: bool) -> pa.Array:
    valid = None if column.null_count == 0 else np.asarray(column.is_valid())
    if kind == "uuid":
        return as_uuids(column).cast(pa.binary(16)).cast(pa.binary())
    if digits_of(kind):
        halves = halves_of_decimals(column, kind)[:, ::-1] ^ np.array([_SIGN, 0], np.uint64)
        return _fixed_width(halves.astype(">u8"), 16, valid)
    if kind not in _OF_ANY_LENGTH:
        numbers = column.cast(pa.date32()).cast(pa.int32()) if kind == "date" else column
        numbers = np.asarray(numbers.cast(pa.int64()).fill_null(0)).astype(np.int64)
        return _fixed_width((numbers.view(np.uint64) ^ np.uint64(_SIGN)).astype(">u8"), 8, valid)
    text = (column.cast(pa.string()) if kind == "string" else column).cast(pa.binary())
    if not several:
        return text
    sizes = np.asarray(pc.binary_length(text).fill_null(0)).astype(">u4")
    return pc.binary_join_element_wise(
        _fixed_width(sizes, 4, valid), text, pa.scalar(b"", pa.binary()), null_handling="emit_null"
    )


def _fixed_width(numbers: np.ndarray, width: int, valid: np.ndarray | None) -> pa.Array:
    """Big-endian numbers as a variable-length binary array."""
    offsets = np.arange(len(numbers) + 1, dtype=np.int32) * width
    bitmap = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    buffers = [bitmap, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(numbers))]
    return pa.Array.from_buffers(pa.binary(), len(numbers), buffers)


def shard_of(key: bytes, shards: int) -> int:
    """The shard that holds a key: CRC-32 of its bytes, modulo the number of shards."""
    return zlib.crc32(key) % shards if shards > 1 else 0


def shards_of(keys: Sequence[bytes], shards: int) -> np.ndarray:
    """The shard of each encoded key, as `shard_of` gives it.

    >>> shards_of([b"a", b"b"], 4).tolist() == [shard_of(b"a", 4), shard_of(b"b", 4)]
    True
    """
    if shards == 1:
        return np.zeros(len(keys), np.int64)
    return np.fromiter(map(zlib.crc32, keys), np.int64, len(keys)) % shards


def key_codes(keys: pa.Array) -> np.ndarray:
    """A number for each encoded key, the same for equal ones only; of a lone int64 they are in the order of the keys.

    >>> key_codes(pa.array([b"b", b"a", b"b"], pa.binary())).tolist()
    [0, 1, 0]
    """
    words = _words(keys)
    return np.asarray(keys.dictionary_encode().indices if words is None else words).astype(np.uint64)


def _words(keys: pa.Array) -> np.ndarray | None:
    """Encoded keys as big-endian numbers, which are told apart sooner than bytes, or None where some are not of 8 bytes."""
    if not len(keys) or keys.null_count:
        return None
    begins = np.frombuffer(keys.buffers()[1], np.int32, len(keys) + 1, 4 * keys.offset)
    if (np.diff(begins) != 8).any():
        return None
    return np.frombuffer(keys.buffers()[2], ">u8", len(keys), int(begins[0]))


def distinct(keys: pa.Array) -> tuple[list[bytes], np.ndarray]:
    """The different ones of encoded keys, none of them null, as they are first met, and the place of each among them.

    >>> found, places = distinct(pa.array([b"b", b"a", b"b"], pa.binary()))
    >>> found, places.tolist()
    ([b'b', b'a'], [0, 1, 0])
    """
    words = _words(keys)
    coded = (keys if words is None else pa.array(words.view(np.uint64))).dictionary_encode()
    places = coded.indices.to_numpy().astype(np.int64)
    if words is None:
        return coded.dictionary.to_pylist(), places
    raw = np.asarray(coded.dictionary).tobytes()
    return [raw[at : at + 8] for at in range(0, len(raw), 8)], places


def places_among(known: Sequence[bytes], keys: pa.Array) -> np.ndarray:
    """The place of each encoded key among known ones, and how many these are for one that is null or none of them.

    >>> places_among([b"b", b"a"], pa.array([b"a", b"c", None], pa.binary())).tolist()
    [1, 2, 2]
    """
    among, words = pa.array(known, pa.binary()), _words(keys)
    others = None if words is None else _words(among)
    if words is None or others is None:
        found = pc.index_in(keys, value_set=among)
    else:
        found = pc.index_in(pa.array(words.view(np.uint64)), value_set=pa.array(others.view(np.uint64)))
    return np.asarray(found.fill_null(len(known))).astype(np.int64)
