"""Entity keys as bytes, which sort as the keys do for one column and never collide for several."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_SIGN = 1 << 63


def encode_key(types: Mapping[str, str], values: Sequence[object]) -> bytes:
    """One key as bytes: an int64 is 8 big-endian bytes, and so is a bool, as 0 or 1; a lone string is its UTF-8, one of
    several carries its length.

    >>> encode_key({"user_id": "int64"}, [42]).hex()
    '800000000000002a'
    """
    if len(types) == 1 and isinstance(values[0], str):
        return values[0].encode()
    parts = []
    for value in values:
        if isinstance(value, str):
            text = value.encode()
            parts.append(len(text).to_bytes(4, "big") + text)
        else:
            parts.append((int(value) + _SIGN).to_bytes(8, "big"))  # type: ignore[call-overload]
    return b"".join(parts)


def decode_key(types: Mapping[str, str], key: bytes) -> tuple[object, ...]:
    """The values that `encode_key` was given."""
    if list(types.values()) == ["string"]:
        return (key.decode(),)
    values: list[object] = []
    for kind in types.values():
        if kind == "string":
            size = int.from_bytes(key[:4], "big")
            values.append(key[4 : 4 + size].decode())
            key = key[4 + size :]
        else:
            number = int.from_bytes(key[:8], "big") - _SIGN
            values.append(bool(number) if kind == "bool" else number)
            key = key[8:]
    return tuple(values)


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
    """A computed key as `encode_keys` takes it, and where it is a number beyond int64, which is null in it then.

    SQL has whole numbers wider than int64: `hash(x)` is one half of the time.

    >>> narrowed(pa.array([1, 2**64 - 1], pa.uint64()))[1].tolist()
    [False, True]
    """
    if column.type == pa.uint64():
        beyond = pc.greater(column, pa.scalar(2**63 - 1, pa.uint64()))
    elif pa.types.is_decimal(column.type):
        least, most = (pa.scalar(Decimal(bound), column.type) for bound in (-(2**63), 2**63 - 1))
        beyond = pc.or_(pc.less(column, least), pc.greater(column, most))
    else:
        return column, np.False_
    wide = np.asarray(pc.fill_null(beyond, False)).astype(bool)
    return (pc.if_else(beyond, pa.scalar(None, column.type), column) if wide.any() else column), wide


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _encode_column(kind: str, column: pa.Array, several: bool) -> pa.Array:
    valid = None if column.null_count == 0 else np.asarray(column.is_valid())
    if kind != "string":
        numbers = np.asarray(column.cast(pa.int64()).fill_null(0)).astype(np.int64)
        return _fixed_width((numbers.view(np.uint64) ^ np.uint64(_SIGN)).astype(">u8"), 8, valid)
    text = column.cast(pa.string()).cast(pa.binary())
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


def shards_of(keys: pa.Array, shards: int) -> np.ndarray:
    """The shard of each encoded key, as `shard_of` gives it.

    >>> shards_of(pa.array([b"a", b"b"], pa.binary()), 4).tolist() == [shard_of(b"a", 4), shard_of(b"b", 4)]
    True
    """
    if shards == 1:
        return np.zeros(len(keys), np.int64)
    return np.fromiter(map(zlib.crc32, keys.to_pylist()), np.int64, len(keys)) % shards


def key_codes(keys: pa.Array) -> np.ndarray:
    """A number for each encoded key, the same for equal ones only; of a lone int64 they are in the order of the keys.

    >>> key_codes(pa.array([b"b", b"a", b"b"], pa.binary())).tolist()
    [0, 1, 0]
    """
    sizes = np.asarray(pc.binary_length(keys))
    if len(keys) and (sizes == 8).all():
        begin = int(np.frombuffer(keys.buffers()[1], np.int32)[keys.offset])
        return np.frombuffer(keys.buffers()[2], ">u8", len(keys), begin).astype(np.uint64)
    return np.asarray(keys.dictionary_encode().indices).astype(np.uint64)
