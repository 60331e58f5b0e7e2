"""Everything that may happen, by the name that an action has, and how it is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from millstream.errors import CorruptLog, CorruptState, DiskFull
from millstream.testing.simulation import flips, layers, machine, operators, producers, truth
from millstream.testing.simulation.actions import Action
from millstream.testing.simulation.disk import Fate, Killed
from millstream.testing.simulation.world import World

ACTS: dict[str, Callable[..., Any]] = {
    one.__name__: one
    for one in (
        *(producers.send, producers.post, producers.burst, producers.retry, producers.table),
        *(producers.ask, producers.outcome),
        *(layers.layer, layers.trim, layers.season, layers.zombie, layers.wake),
        *(truth.score, truth.reads, truth.served),
        *(operators.change, operators.whole, operators.apply, operators.anew, operators.grow),
        *(operators.deploy, operators.train, operators.rollback),
        *(machine.advance, machine.jump, machine.fill, machine.room, machine.forget, machine.restart),
        *(machine.damage, machine.lose_power, flips.flip, flips.restore),
    )
}


def do(world: World, action: Action) -> str:
    """Let one thing happen; returns what came of it.

    Raises:
        AssertionError: when something does not hold.
    """
    said = list[str]()
    fate = None
    if action.fate is not None:
        fate = Fate(*action.fate, turn=_interruption(world, action, said))
    world.disk.meet(fate)
    outcome = _outcome(world, action)
    world.disk.between()
    written = " ".join(world.disk.written())
    world.disk.meet(None)
    return " ".join(filter(None, [outcome, written and f"wrote {written}", *said]))


def _interruption(world: World, action: Action, said: list[str]) -> Callable[[], None] | None:
    """What happens in the midst of an action; what does not hold then ends the action at once."""
    turn = action.turn

    def interrupted() -> None:
        try:
            if turn is not None:
                said.append(_turn(world, turn))
            else:
                said.append("frozen meanwhile")
                world.sleep(action.asleep)
        except Exception as error:  # none of the product's business, which would make an error of its own of it
            world.broken = world.broken or error
            raise Killed("by what does not hold") from error

    return interrupted if turn is not None or action.asleep else None


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
        if world.broken is not None:
            raise world.broken from None
        for process in world.acting:
            world.bury(process)
        return f"died {where}"
    except (CorruptLog, CorruptState) as error:
        assert world.damaged or world.flips, f"nothing is damaged, and yet: {error.message}"
        return f"refused: {type(error).__name__}"
    except DiskFull as error:
        assert world.disk.full, f"there is room, and yet: {error.message}"
        return "no room"
