"""What of a project has moved elsewhere: kept in its data folder, so that nobody goes on from what was left behind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import msgspec

from millstream.disk import sync_folder
from millstream.errors import ProjectError
from millstream.settings import FILE, Settings

_KEPT = "moved.json"
MOVABLE = ("registry", "offline", "online", "log")
"""The parts of a project that can move, in the order in which they do: what others refer to comes before them."""


class Moved(msgspec.Struct, frozen=True):
    """A part that has moved: by which settings it was found before, and of which kind it is now."""

    before: str
    kind: str


def refuse_moved(settings: Settings) -> None:
    """Raise when settings name a part as it was before it moved.

    Args:
        settings: the project.

    Raises:
        ProjectError: for the first such part.
    """
    for part, moved in _kept(settings.data / _KEPT).items():
        if moved.before == place_of(settings, part):
            raise ProjectError(
                f"Project '{settings.name}': its {_NAMES[part]} has moved to {moved.kind}, and '{settings.folder / FILE}' "
                "still names what was left behind.",
                f"take the settings that `millstream migrate` was given; '{settings.data / _KEPT}' says what has moved, and "
                "without it the old data are gone on from.",
            )


def note_moved(source: Settings, target: Settings, parts: Iterable[str]) -> None:
    """Keep that some parts have moved.

    Args:
        source: the settings by which they were found.
        target: those by which they are found now.
        parts: which of them.
    """
    path = source.data / _KEPT
    known = _kept(path) | {part: Moved(place_of(source, part), kind_of(target, part)) for part in parts}
    known = {part: moved for part, moved in known.items() if moved.before != place_of(target, part)}
    fresh = path.with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(known))
    fresh.replace(path)
    sync_folder(path.parent)


def place_of(settings: Settings, part: str) -> str:
    """What tells the settings of a part from others: a digest, for they may hold secrets."""
    section = {} if is_local(settings, part) else getattr(settings, part)
    url = ""
    if part == "registry":
        from millstream.registry.database import Database

        url = Database(settings.registry_url).name.replace(str(settings.data), "")  # a folder may be moved
    said = json.dumps([part, section, url], sort_keys=True, default=str)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def is_local(settings: Settings, part: str) -> bool:
    """Whether a part is the one that a project begins with, in its data folder.

    Args:
        settings: the project.
        part: the part.
    """
    from millstream.project.backends import BACKENDS

    section = getattr(settings, part)
    if part == "registry":
        return settings.registry_url == Settings(folder=settings.folder, data=settings.data).registry_url
    if part == "offline":
        return not section.get("path") and not section.get("catalog")
    first = next(iter(BACKENDS[part]))
    return bool(section.get("kind", first) == first)


def kind_of(settings: Settings, part: str) -> str:
    """What a part is, in a word: the kind that settings choose, or the database of a registry."""
    from millstream.project.backends import BACKENDS

    if part == "registry":
        return settings.registry_url.partition(":")[0].partition("+")[0]
    if part == "offline" and getattr(settings, part).get("path"):
        return str(settings.offline["path"])
    return str(getattr(settings, part).get("kind", next(iter(BACKENDS[part]))))


def _kept(path: Path) -> dict[str, Moved]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Moved])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as error:
        raise ProjectError(f"'{path}' cannot be read: {error}.", "restore it from a copy, or remove it.") from error


_NAMES = {"registry": "registry", "offline": "offline store", "online": "online store", "log": "log"}
