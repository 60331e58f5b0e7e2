"""What must hold of the offline store, once nothing is disturbed any more."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from millstream.buffer.topics import batch_table, feature_table
from millstream.definitions.feature_group import StreamFeatureGroup
from millstream.definitions.source import EventStream
from millstream.testing.simulation.ledger import taken

if TYPE_CHECKING:
    from millstream.definitions.group_version import GroupVersion
    from millstream.testing.simulation.ledger import Landed
    from millstream.testing.simulation.world import World

KEYS = (1, 2, 4, 5)
IN_TIME = 3_000_000_000
"""Lateness (µs) at which an event still counts in some window of every group."""


def synced(world: World) -> None:
    """The newest synced row of a key has seen all of its events."""
    parts = world.process("witness").parts
    for version in parts.served.versions().values():
        if not isinstance(version.group, StreamFeatureGroup) or version.group.where is not None:
            continue
        table = feature_table(version.id)
        if parts.offline.snapshot(table) is None:
            continue
        rows = sorted(parts.offline.scan(table).to_pylist(), key=lambda row: row["at"])
        newest = {row["k"]: json.loads(row["positions"]) for row in rows}
        for key in KEYS:
            for source, one in _events(world, version, key):
                seen = taken(parts.log, newest.get(key, {}), source).get(one.partition, 0)
                assert one.place < seen, f"sync is whole: {version.id} of key {key} is synced up to {newest.get(key)}"


def stated(world: World) -> None:
    """No row of a query is stated twice."""
    parts = world.process("witness").parts
    for version in parts.registry.groups():
        table = batch_table(version.id)
        if isinstance(version.group, StreamFeatureGroup) or parts.offline.snapshot(table) is None:
            continue
        rows = [tuple(row.values()) for row in parts.offline.scan(table).to_pylist() if row["k"] is not None]
        twice = {row: count for row, count in Counter(rows).items() if count > 1}
        assert not twice, f"0 doubled: '{table}' states {twice}"


def _events(world: World, version: GroupVersion, key: int) -> list[tuple[str, Landed]]:
    """The events of a key that no window of a group is too short for, with their streams."""
    column: Any = next(iter(dict(version.group.keys or {}).values()), "k")
    return [
        (source.name, one)
        for source in version.group.sources
        if isinstance(source, EventStream)
        for one in world.ledger.counted(source)
        if one.row[column] == key and one.arrival - one.row["at"] < IN_TIME
    ]
