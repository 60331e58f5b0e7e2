"""What of a project is to move: the difference between its settings and those that it is to have."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from millstream.errors import ProjectError
from millstream.project.backends import backend
from millstream.project.moved import MOVABLE, is_local
from millstream.settings import FILE, Settings

_SAME = ("name", "data", "definitions", "partitions", "shards", "tables", "streams", "batch")
"""What must be the same before and after: other settings of these would give other values, or other parts."""
BEFORE = f"{FILE}.before-migrate"
"""The file beside millstream.toml that keeps what it said before."""


@dataclass(frozen=True)
class Move:
    """A project on its way.

    Args:
        source: its settings as they are, or, once they are exchanged, as they were.
        target: its settings as they shall be.
        parts: what differs, in the order in which it moves.
        text: what millstream.toml says in the end.
    """

    source: Settings
    target: Settings
    parts: tuple[str, ...]
    text: bytes

    @property
    def id(self) -> str:
        """What tells this migration from any other of the project."""
        return hashlib.sha256(self.text).hexdigest()[:16]

    @property
    def unbound(self) -> Settings:
        """The settings as they are, of a project that takes nothing in from anywhere."""
        return replace(self.source, streams={})


def wanted(folder: Path, file: Path) -> Move:
    """Compare the settings of a project with those that it is to have.

    Args:
        folder: the project's folder.
        file: the settings as they shall be; their paths start from that folder.

    Raises:
        ProjectError: when one of the two cannot be read, or they differ in what cannot move.
    """
    now, then = Settings.load(folder), Settings.of(folder, file)
    for name in _SAME:
        if getattr(now, name) != getattr(then, name):
            raise ProjectError(
                f"Settings '{file}': '{name}' is not what it is in '{now.folder / FILE}'; a migration changes where a project "
                "is kept, and nothing else.",
                f"write {name} as it is there, and change it before or after the migration.",
            )
    parts = tuple(part for part in MOVABLE if _differs(now, then, part))
    for part in parts:
        if is_local(then, part):
            raise ProjectError(
                f"Settings '{file}': the {part} would move into the project's folder; a migration goes to servers.",
                "`millstream migrate --sample 0.01 --into FOLDER` makes a copy of a share of the project on this machine.",
            )
    return Move(now, then, parts, file.read_bytes())


def exchanged(move: Move) -> Move | None:
    """The migration whose settings are in force already, as it was before that; None when nothing was kept of it.

    Args:
        move: a migration of which no part is left.
    """
    folder = move.source.folder
    if not (folder / BEFORE).exists() or (folder / FILE).read_bytes() != move.text:
        return None
    before = Settings.of(folder, folder / BEFORE)
    return Move(before, move.target, tuple(part for part in MOVABLE if _differs(before, move.target, part)), move.text)


def _differs(now: Settings, then: Settings, part: str) -> bool:
    if part == "registry" and now.registry_url != then.registry_url:
        return True
    return backend(now, part) != backend(then, part)
