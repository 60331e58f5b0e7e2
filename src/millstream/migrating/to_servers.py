"""Moving a project to servers: everything is copied and compared first, and one rename of its settings exchanges it.

Until that rename the project is where it was and as it was, whatever is there of the copy; from then on it is in the new
place. Whoever was interrupted does it again: before, what is there of the copy is replaced; after, what is left is done.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from millstream.disk import sync_folder
from millstream.errors import MillstreamError, ProjectError
from millstream.migrating.log import move_log, send_again
from millstream.migrating.ready import (
    KIND,
    refuse_at_work,
    refuse_changed,
    refuse_occupied,
    refuse_undrained,
    state_of,
)
from millstream.migrating.stores import move_offline, move_online, sizes
from millstream.migrating.wanted import BEFORE, Move, exchanged, wanted
from millstream.migrating.watching import Watch, counter, unwatched
from millstream.project.moved import kind_of, note_moved
from millstream.project.parts import Parts
from millstream.registry.moving import copy_rows, sum_of
from millstream.settings import FILE

_COPY, _FINISH = "copy it", "mark what was left, and take what came meanwhile"


@dataclass(frozen=True)
class Part:
    """A part that has moved: where it is now, what it came to, by the names of what was counted, and how long it took."""

    part: str
    to: str
    counts: Mapping[str, int]
    seconds: float


@dataclass(frozen=True)
class Migrated:
    """What a migration did.

    Args:
        project: the project's name.
        parts: what has moved, each copied and compared; empty when only the end of an interrupted migration was left.
        sent_meanwhile: events that somebody had sent to the old log at the last moment, which are in the new one.
        before: where the settings of before are kept.
    """

    project: str
    parts: list[Part] = field(default_factory=list)
    sent_meanwhile: int = 0
    before: str = ""


def migrate(folder: str | Path, to: str | Path, *, watch: Watch = unwatched) -> Migrated:
    """Move a project to where other settings say that it is, and nothing else about it.

    Nothing runs on the project meanwhile. What it has taken is computed, ingested and archived first. Then the registry's
    rows, the offline tables with every snapshot, the model artefacts, the states and the topics of the log are copied, each
    is compared with what it was made of, and millstream.toml is exchanged. What was left behind stays, and is refused.

    Args:
        folder: the project's folder.
        to: a file of settings as they shall be; they differ in [log], [online], [offline] or `registry_url`, or in several.
        watch: shows how far it is.

    Returns:
        What was done. Done again after an interruption it goes on, and comes to the same.

    Raises:
        ProjectError: when the project runs, is not finished with something, cannot move there, or what is there is not empty.
        MillstreamError: when a part cannot be reached, or the copy is not what it was made of. The project is where it was.
    """
    from millstream.running.up import lock

    move = wanted(Path(folder), Path(to))
    with lock(move.source):
        if not move.parts:
            return _finished(move)
        moved = _copied(move, watch)
        _exchange(move)
        return dataclasses.replace(_finish(move), parts=moved)


def _finished(move: Move) -> Migrated:
    """Do what an interrupted migration has left, if there is one."""
    before = exchanged(move)
    with Parts(move.source) as parts:
        begun = any(one.subject == move.id for one in parts.registry.operations.unfinished(KIND))
    if before is None or not begun:
        raise ProjectError(
            f"Project '{move.source.name}': it is where those settings say already.",
            "write into that file where its log, stores and registry shall be.",
        )
    return _finish(before)


def _copied(move: Move, watch: Watch) -> list[Part]:
    """Copy every part and compare it; nothing of the project itself is changed."""
    with Parts(move.unbound) as source, Parts(replace(move.target, streams={})) as target:
        refuse_at_work(source)
        source.marks.read("")  # those of a project that was made before there were any are rows from then on
        begun = any(one.subject == move.id for one in source.registry.operations.unfinished(KIND))
        refuse_occupied(target, move, begun=begun)
        with watch("emptying the buffer"):
            _drain(source)
        refuse_undrained(source)
        source.registry.operations.begin(KIND, move.id, _COPY)
        before = state_of(source)
        moved = [_timed(part, move, source, target, watch) for part in move.parts if part != "registry"]
        source.registry.operations.begin(KIND, move.id, _FINISH)
        moved += [_timed(part, move, source, target, watch) for part in move.parts if part == "registry"]
        if found := target.identity.stepped_back():
            raise MillstreamError(
                f"Migration: the parts of the copy are not of one another. {found[0]} The project is where it was.",
                "do it again; if it goes on, report what `millstream doctor` says.",
            )
        refuse_changed(before, state_of(source))
    return moved


def _drain(parts: Parts) -> None:
    from millstream.project.drain import Drainer

    drainer = Drainer(parts)
    try:
        drainer.drain()
        drainer.sync()
    finally:
        drainer.close()


def _timed(part: str, move: Move, source: Parts, target: Parts, watch: Watch) -> Part:
    began = time.monotonic()
    with watch(f"moving the {part}") as advance:
        counts = _MOVING[part](source, target, counter(advance, sizes(source, part)))
    return Part(part, kind_of(move.target, part), counts, round(time.monotonic() - began, 3))


def _move_registry(source: Parts, target: Parts, moved: Callable[[int], None]) -> dict[str, int]:
    urls = source.settings.registry_url, target.settings.registry_url
    rows = copy_rows(*urls)
    moved(sum(rows.values()))
    if sum_of(urls[0]) != sum_of(urls[1]):
        raise MillstreamError(
            "Migration: the rows of the new registry are not those of the old one. The project is where it was.",
            "see that nothing else writes to either, and do it again.",
        )
    return {"rows": sum(rows.values())}


_MOVING: Mapping[str, Callable[[Parts, Parts, Callable[[int], None]], dict[str, int]]] = {
    "registry": _move_registry,
    "offline": move_offline,
    "online": move_online,
    "log": move_log,
}


def _exchange(move: Move) -> None:
    """Let the new settings be in force, at once; those of before are kept beside them."""
    folder = move.source.folder
    (folder / BEFORE).write_bytes((folder / FILE).read_bytes())
    fresh = folder / f"{FILE}.new"
    with fresh.open("wb") as file:
        file.write(move.text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(folder / FILE)
    sync_folder(folder)


def _finish(move: Move) -> Migrated:
    """What is left once the new settings are in force: whoever goes on in the old place is refused, then comes the rest."""
    sent, target = 0, replace(move.target, streams={})
    with Parts(move.unbound, left=True) as left, Parts(target) as parts:
        note_moved(move.source, move.target, move.parts)
        if "log" in move.parts:
            sent = send_again(left, parts)
        _drain(parts)
        for one in parts.registry.operations.unfinished(KIND):
            parts.registry.operations.end(KIND, one.subject)
    return Migrated(move.target.name, [], sent, str(move.source.folder / BEFORE))
