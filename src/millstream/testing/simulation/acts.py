"""Everything that may happen, by the name that an action has, and how it is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from millstream.errors import DiskFull
from millstream.testing.simulation import layers, machine, operators, producers, truth
from millstream.testing.simulation.actions import Action
from millstream.testing.simulation.disk import Fate, Killed
from millstream.testing.simulation.world import World

ACTS: dict[str, Callable[..., Any]] = {
    one.__name__: one
    for one in (
        *(producers.send, producers.burst, producers.retry, producers.table),
        *(layers.layer, layers.trim, layers.season, layers.zombie, layers.wake),
        *(truth.score, truth.reads, truth.served),
        *(operators.change, operators.apply, operators.anew, operators.deploy, operators.rollback),
        *(machine.advance, machine.jump, machine.fill, machine.room, machine.forget, machine.restart),
        *(machine.damage, machine.lose_power),
    )
}


def do(world: World, action: Action) -> str:
    """Let one thing happen; returns what came of it.

    Raises:
        AssertionError: When something does not hold.
    """
    turn, said = action.turn, list[str]()
    fate = None
    if action.fate is not None:
        fate = Fate(*action.fate, turn=(lambda: said.append(_turn(world, turn))) if turn else None)
    world.disk.meet(fate)
    outcome = _outcome(world, action)
    world.disk.between()
    written = " ".join(world.disk.written())
    world.disk.meet(None)
    return " ".join(filter(None, [outcome, written and f"wrote {written}", *said]))


def _turn(world: World, action: Action) -> str:
    acting, world.second = world.acting, True
    try:
        world.disk.meet(None)
        return f"meanwhile {action}: {_outcome(world, action)}"
    finally:
        world.acting, world.second = acting, False


def _outcome(world: World, action: Action) -> str:
    world.acting = []
    try:
        return str(ACTS[action.name](world, *action.given))
    except Killed as where:
        for process in world.acting:
            world.bury(process)
        return f"died {where}"
    except DiskFull as error:
        assert world.disk.full, f"there is room, and yet: {error.message}"
        return "no room"
