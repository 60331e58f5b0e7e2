"""One flipped bit in a file of the project: it is refused by name, and what can be built anew is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from millstream.buffer.reading import through
from millstream.definitions.feature_group import StreamFeatureGroup
from millstream.errors import CorruptLog, CorruptState, MillstreamError
from millstream.testing.adversarial_log import AdversarialLog
from millstream.testing.adversarial_online import AdversarialOnlineStore
from millstream.testing.shards import held, pairs

if TYPE_CHECKING:
    from millstream.testing.simulation.world import World

LONGEST = 2_000
"""Bytes of a record that are looked for in its file: fewer than a page holds."""


@dataclass(frozen=True)
class Flip:
    """What a flipped bit has made of some bytes of a file.

    Attributes:
        path: the file.
        right: what was written.
        wrong: what is there now.
        states: the states it is of, which are built anew; anything else is restored from a copy.
    """

    path: Path
    right: bytes
    wrong: bytes
    states: str = ""

    def do(self) -> None:
        """Let the bit flip."""
        _replace(self.path, self.right, self.wrong)

    def undo(self) -> None:
        """Put what was written back, wherever it has been moved to in its file since."""
        if self.path.exists():
            _replace(self.path, self.wrong, self.right)


def flip(world: World, kind: str, number: int) -> str:
    """One bit of a file flips, under whoever has it open.

    Args:
        world: the world.
        kind: what the file is of, one of `KINDS_OF_FILES`.
        number: says which file, and which bit of it.
    """
    found = _FLIPS[kind](world, number)
    return str(found) if found is not None else "no such file"


def restore(world: World) -> str:
    """The operator restores what was damaged and cannot be built anew."""
    restored = [one for one in world.flips if not one.states]
    for one in restored:
        one.undo()
    world.flips = [one for one in world.flips if one.states]
    return f"{len(restored)} files"


def _flip_log(world: World, number: int) -> str | None:
    log = world.process("witness").parts.log
    if isinstance(log, AdversarialLog):
        log = log.embedded  # which names its own positions
    try:
        every = [
            (topic, partition, position, payload)
            for topic in sorted(log.topics())
            for partition, (first, following) in enumerate(log.ends(topic))
            for records in through(log, topic, partition, first, following)
            for position, payload in zip(records.firsts.tolist(), records.payloads, strict=True)
        ]
    except CorruptLog:
        return None
    if not every:
        return None
    topic, partition, position, payload = every[number % len(every)]
    path = world.settings.data / "log" / "data.mdb"
    _flipped(world, path, payload[:LONGEST], number)
    said = _refused(CorruptLog, lambda: log.read(topic, partition, position, 1))
    place = f"topic '{topic}', partition {partition}, position {position}"
    assert said is not None and f"'{path}'" in said and place in said, f"damage is named: {place} of the log: {said}"
    return place


def _flip_states(world: World, number: int) -> str | None:
    parts = world.process("witness").parts
    try:
        every = [
            (version.states, shard, key)
            for version in parts.registry.groups()
            if isinstance(version.group, StreamFeatureGroup)
            or version.group.query is not None  # a table's fold is not rebuilt
            for shard in range(version.shards)
            for key, _ in pairs(parts.online, version.states, shard)
        ]
    except MillstreamError:
        return None
    if not every:
        return None
    states, shard, key = every[number % len(every)]
    path = world.settings.data / "online" / states / str(shard) / "data.mdb"
    _flipped(world, path, _record(parts.online, states, shard, key)[:LONGEST], number, states)
    said = _refused(CorruptState, lambda: held(parts.online, states, shard, [key]))
    assert said is not None and f"{states}/{shard}" in said, f"damage is named: {path} of the online store: {said}"
    return f"{states}/{shard}"


def _flip_journal(world: World, number: int) -> str | None:
    from millstream.serve.capture import capture_table

    places = list(_captures(world.settings.data / "journal"))
    if not places:
        return None
    path, line = places[number % len(places)]
    request: str = msgspec.json.decode(line.rpartition(b"\t")[0])[1]
    world.scores.pop(request, None)
    _replace(path, line, _other(line, number))
    world.torn.append(path)
    said = _refused(CorruptState, lambda: capture_table(path))
    assert said is not None and path.name in said, f"damage is named: {path.name} of the journal: {said}"
    return f"capture {number % len(places)} of {len(places)}"


def _flip_file(world: World, number: int) -> str | None:
    from millstream.store.iceberg.files import named_files

    offline: Any = world.process("witness").parts.offline
    try:
        every = [
            (table, Path(location.removeprefix("file://")))
            for table in offline.tables()
            for location in sorted(named_files(offline._load(table)))
            if location.endswith(".parquet")
        ]
    except MillstreamError:
        return None
    if not every:
        return None
    table, path = every[number % len(every)]
    _flipped(world, path, path.read_bytes(), number)
    said = _refused(CorruptState, lambda: offline.examine(table))
    assert said is not None and path.name in said, f"damage is named: {path.name} of '{table}': {said}"
    return f"a file of '{table}'"


def _flipped(world: World, path: Path, right: bytes, number: int, states: str = "") -> None:
    one = Flip(path, right, _other(right, number), states)
    one.do()
    world.flips.append(one)


def _other(right: bytes, number: int) -> bytes:
    """The same bytes but for one bit."""
    wrong = bytearray(right)
    wrong[number // 8 % len(right)] ^= 1 << number % 8
    return bytes(wrong)


def _refused(kind: type[MillstreamError], read: Callable[[], Any]) -> str | None:
    """What is said of what cannot be read; None when it can be."""
    try:
        read()
    except kind as error:
        return error.message
    return None


def _record(store: Any, states: str, shard: int, key: bytes) -> bytes:
    """A record of the online store as it is kept: with its checksum, so that no other bytes of the file are the same."""
    if isinstance(store, AdversarialOnlineStore):
        store = store.embedded
    handle = store._handle(states, shard)
    with handle.env.begin(handle.states) as txn:
        return bytes(txn.get(key))


def _captures(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """The captures that are in journals, each as its line, whose file says what they are."""
    for path in sorted(folder.glob("*/*")):
        if path.suffix in (".open", ".closed"):
            for line in path.read_bytes().split(b"\n")[1:-1]:
                yield path, line


def _replace(path: Path, old: bytes, new: bytes) -> None:
    """Write other bytes of the same length in place, wherever in a file some are: a database has copies of its pages."""
    content, at = path.read_bytes(), -1
    with path.open("r+b") as file:
        while (at := content.find(old, at + 1)) >= 0:
            os.pwrite(file.fileno(), new, at)


_FLIPS: dict[str, Callable[[World, int], str | None]] = {
    "log": _flip_log,
    "online": _flip_states,
    "journal": _flip_journal,
    "warehouse": _flip_file,
}
