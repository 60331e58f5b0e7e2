"""What happens to the machine: time passes, disks fill up, files are damaged, the power fails."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from millstream.testing.simulation.world import World


def advance(world: World, gap: int) -> str:
    """Time passes."""
    world.clock.advance(gap)
    return ""


def jump(world: World, gap: int) -> str:
    """The clock is set wrong, or right again."""
    world.furthest = max(world.furthest, world.clock.now())
    world.clock.advance(gap)
    world.jumped = True
    return ""


def fill(world: World, place: str) -> str:
    """A disk is full."""
    world.disk.full.add(place)
    return ""


def room(world: World) -> str:
    """There is room again."""
    world.disk.full.clear()
    return ""


def forget(world: World) -> str:
    """The index of event ids is gone: a cache, which may be deleted at any time."""
    world.kill("compute", zombies=True)
    shutil.rmtree(world.settings.data / "repeats", ignore_errors=True)
    return ""


def restart(world: World, name: str | None) -> str:
    """A process is killed between two steps; all are, where none is named."""
    world.kill(name)
    return ""


def shards(world: World) -> list[Path]:
    """The files of the online store."""
    return sorted((world.settings.data / "online").glob("[!.]*/*/data.mdb"))


def remember(world: World) -> None:
    """Keep the online store as it is now, which is what a loss of power may leave of it."""
    for path in shards(world):
        shutil.copyfile(path, _kept(path))


def lose_power(world: World) -> str:
    """Everything dies, and the online store has lost what it wrote last: it answers before the disk has it all."""
    if world.frozen:
        return "a process is frozen that has the files open"
    world.kill()
    lost = 0
    for path in shards(world):
        if _kept(path).exists():
            _put(_kept(path), path)
            lost += 1
    return f"{lost} shards step back"


def damage(world: World, group: str, shard: int) -> str:
    """The first pages of a shard of a group, in a version in use, are not what was written; nobody has it open.

    Args:
        world: the world.
        group: the name of the group.
        shard: the number of the shard; it says too which version, where several are in use.
    """
    used = [one for one in world.process("witness").parts.registry.groups() if one.group.name == group]
    if not used:
        return "no such group"
    path = world.settings.data / "online" / used[shard % len(used)].states / str(shard) / "data.mdb"
    if not path.exists() or world.frozen:
        return "no such file, or a process is frozen that has it open"
    world.kill()
    content = bytearray(path.read_bytes())
    content[: 2 * 4096] = bytes(2 * 4096)
    fresh = path.with_name("data.damaged")
    fresh.write_bytes(content)
    _put(fresh, path)
    world.damaged.add(group)
    return str(path.relative_to(world.settings.data))


def _put(fresh: Path, path: Path) -> None:
    """Put a file in another's place."""
    path.unlink()  # another file, so that what this process has mapped stays as it was
    path.hardlink_to(fresh)  # a full disk hinders nobody's writes but the project's
    fresh.unlink()


def _kept(path: Path) -> Path:
    return path.with_name("data.before")
