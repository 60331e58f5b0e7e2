"""Records in which the Kinesis Producer Library has put many: told by their first bytes, and taken apart again.

The format is described in the library's own documents: four bytes, a message of Protocol Buffers, its MD5.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from millstream.sources.kinesis.service import Record

_MAGIC = b"\xf3\x89\x9a\xc2"
_SUM = 16
_FIELD = FieldDescriptorProto
_AGGREGATED = (
    ("partition_key_table", 1, _FIELD.TYPE_STRING, _FIELD.LABEL_REPEATED),
    ("explicit_hash_key_table", 2, _FIELD.TYPE_STRING, _FIELD.LABEL_REPEATED),
    ("records", 3, _FIELD.TYPE_MESSAGE, _FIELD.LABEL_REPEATED),
)
_ONE = (
    ("partition_key_index", 1, _FIELD.TYPE_UINT64, _FIELD.LABEL_OPTIONAL),
    ("explicit_hash_key_index", 2, _FIELD.TYPE_UINT64, _FIELD.LABEL_OPTIONAL),
    ("data", 3, _FIELD.TYPE_BYTES, _FIELD.LABEL_OPTIONAL),
)


def apart(records: Sequence[Record]) -> Iterator[Record]:
    """Take records that hold many apart; one that only looks as if it did stays as it is.

    Args:
        records: records of one shard, in their order.

    Returns:
        Iterator[Record]: in the same order; what was in one record has its sequence number and its stamp.
    """
    for record in records:
        inner = _inner(record.data) if record.data.startswith(_MAGIC) else None
        if inner is None:
            yield record
            continue
        keys = inner.partition_key_table
        for one in inner.records:
            yield Record(record.sequence, record.stamp, keys[one.partition_key_index], one.data)


def _inner(data: bytes) -> Any | None:
    """The message in a record; None where its sum, or anything else in it, is not right."""
    body, sum_ = data[len(_MAGIC) : -_SUM], data[-_SUM:]
    if hashlib.md5(body, usedforsecurity=False).digest() != sum_:
        return None
    try:
        found = _message().FromString(body)
    except DecodeError:
        return None
    return found if all(one.partition_key_index < len(found.partition_key_table) for one in found.records) else None


@lru_cache(maxsize=1)
def _message() -> Any:
    file = FileDescriptorProto(name="aggregated.proto", package="kinesis", syntax="proto2")
    for name, fields in (("AggregatedRecord", _AGGREGATED), ("Record", _ONE)):
        message = file.message_type.add(name=name)
        for field, number, kind, label in fields:
            added = message.field.add(name=field, number=number, type=kind, label=label)
            if kind == _FIELD.TYPE_MESSAGE:
                added.type_name = ".kinesis.Record"
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("kinesis.AggregatedRecord"))
