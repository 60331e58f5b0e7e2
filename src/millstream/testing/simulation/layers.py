"""What the layers do, and what becomes of the processes that they run in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from millstream.errors import DiskFull, Fenced, MillstreamError
from millstream.testing.simulation import machine
from millstream.testing.simulation.process import RUNS

if TYPE_CHECKING:
    from millstream.testing.simulation.world import World


def layer(world: World, name: str, stale: bool = False) -> str:
    """One step of a layer.

    Args:
        world: the world.
        name: the layer, one of those that a process runs.
        stale: whether it has not looked for new definitions.
    """
    if name == "ingest" and world.precarious:
        machine.remember(world)
    process = world.process(next(one for one, layers in RUNS.items() if name in layers))
    try:
        return f"{process.step(name, look=not stale)}"
    except DiskFull:
        raise
    except Fenced:
        return "fenced: another was first"
    except MillstreamError as error:
        assert stale or world.excused, f"{name} goes on: {error.message}"
        return f"refused: {type(error).__name__}"


def trim(world: World) -> str:
    """Retention."""
    return layer(world, "trim")


def season(world: World, gap: int) -> str:
    """Time passes, what came is archived and synced, more comes, and what is old is trimmed."""
    world.clock.advance(gap)
    return " ".join(layer(world, name) for name in ("compute", "ingest", "archive", "sync", "trim"))


def zombie(world: World, name: str) -> str:
    """A process that is taken for dead: its successor begins, and it may wake."""
    process = world.put_aside(name)
    if process is None:
        return "nobody"
    world.zombies.append(process)
    return "asleep"


def wake(world: World, number: int, layer: str) -> str:
    """An old process goes on with what it knew.

    Args:
        world: the world.
        number: says which of those that were taken for dead.
        layer: what it does, if that is among what its process does; else the first thing that is.
    """
    if not world.zombies:
        return "nobody"
    process = world.zombies[number % len(world.zombies)]
    world.acting.append(process)
    layers = RUNS[process.name]
    if not layers:
        return "idle"
    chosen = layer if layer in layers else layers[0]
    try:
        return f"{process.name} {chosen}: {process.step(chosen, look=False)}"
    except DiskFull:
        raise
    except MillstreamError as error:
        return f"{process.name} {chosen} refused: {type(error).__name__}"
