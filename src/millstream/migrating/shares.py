"""Which keys are in a share of a project: the same ones in every stream and table that has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from millstream.definitions.data_types import comparable
from millstream.definitions.feature_group import StreamFeatureGroup
from millstream.definitions.source import EventStream

if TYPE_CHECKING:
    from millstream.definitions.group_version import Group, GroupVersion


def in_share(key: object, share: float) -> bool:
    """Whether a key is in a share, by a hash of what it says, whatever its column is called.

    >>> [key for key in range(12) if in_share(key, 0.25)], in_share("8", 0.25) == in_share(8, 0.25)
    ([2, 6], True)
    """
    said = key if isinstance(key, bytes) else str(key).encode()
    return int.from_bytes(blake2b(said, digest_size=8).digest()) < share * 2**64


def chosen(column: pa.ChunkedArray, share: float) -> pa.Array:
    """Which rows of a column of keys are in a share; a null is a key as any other.

    Args:
        column: the keys.
        share: the share, from 0 to 1.
    """
    encoded = comparable(column).combine_chunks().dictionary_encode(null_encoding="encode")
    known = np.array([in_share(key, share) for key in encoded.dictionary.to_pylist()], np.bool_)
    return pa.array(known[np.asarray(encoded.indices)] if len(known) else np.empty(0, np.bool_))


def columns_of(streams: Iterable[EventStream], versions: Iterable[GroupVersion[Group]]) -> dict[str, str | None]:
    """By stream, the column by whose values its events are in a share or not; None where it has none, and all are.

    That is a key of the groups that read it: the one it is partitioned by if that is among them, else the one of most.
    Where no group reads it, it is what it is partitioned by.

    Args:
        streams: the streams.
        versions: the group versions.
    """
    read: dict[str, Counter[str]] = {}
    for version in versions:
        if isinstance(version.group, StreamFeatureGroup):
            for source in version.group.sources:
                read.setdefault(source.name, Counter()).update([next(iter(version.group.keys.values()))])
    found: dict[str, str | None] = {}
    for stream in streams:
        keys, own = read.get(stream.name), stream.partition_by
        found[stream.name] = own if not keys or own in keys else keys.most_common(1)[0][0]
    return found


def whole(version: GroupVersion[Group], columns: dict[str, str | None]) -> bool:
    """Whether all events of a key are there that is in the share: then its values are those of the project.

    Args:
        version: the group version.
        columns: what `columns_of` gave.
    """
    keys = set(version.group.keys.values())
    by = [columns[one.name] for one in version.group.sources if isinstance(one, EventStream)]
    return all(column is None or column in keys for column in by)
