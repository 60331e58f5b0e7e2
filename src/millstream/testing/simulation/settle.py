"""How a simulated project begins, and how it comes to rest."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from millstream.clock import SimulatedClock
from millstream.errors import CorruptState, Fenced
from millstream.project.project import Project
from millstream.testing.simulation import flips, layers, operators, producers, truth
from millstream.testing.simulation.actions import HOUR, MINUTE, SECOND
from millstream.testing.simulation.declared import Declared
from millstream.testing.simulation.process import Adversary
from millstream.testing.simulation.world import World

START = 1_357_023_613_000_017  # µs; on no hop of any window
SETTINGS = "partitions = 2\nshards = 2\nlog_gib = 0.2\nfsync = false\nmicro_batch = 7\n"
ROUNDS = 60
"""Rounds after which a pipeline that nobody disturbs must have nothing left to do."""
TORN_ROUNDS = 5 * ROUNDS
"""The same on a log whose transactions come apart: a step in two is made in vain there, and positions step back."""
ROUND = ("compute", "batch", "ingest", "ship", "backfill")


def begin(folder: Path, shape: Declared, adversary: Adversary | None = None) -> World:
    """A new project in an empty folder: declared, with a champion, and a row in its table.

    Args:
        folder: the folder, which is empty or not there.
        shape: what the project declares.
        adversary: what its log and its online store are like, where they are to be adversarial; the embedded ones
            unless given.
    """
    (folder / ".millstream").mkdir(parents=True)
    (folder / "millstream.toml").write_text(SETTINGS)
    world = World(folder, shape, SimulatedClock(START), adversary=adversary)
    producers.table(world, [(1, 1.0, "DE", -MINUTE)])
    operators.apply(world)
    world.process("ingest").step("backfill")  # no query runs yet: offline tables name the folder they are in
    operators.deploy(world)
    world.clock.advance(SECOND)
    world.kill()
    return world


def copied(original: World, folder: Path, adversary: Adversary | None = None) -> World:
    """A project that has begun, in another folder.

    Args:
        original: the world of that project; nothing of it is open.
        folder: where the copy goes; it must not be there.
        adversary: what its log and its online store are like, where they are to be adversarial; the embedded ones
            unless given.
    """
    shutil.copytree(original.folder, folder)
    world = World(folder, original.shape, SimulatedClock(original.clock.now()), adversary=adversary)
    world.accounts, world.champions = list(original.accounts), list(original.champions)
    return world


def work(world: World) -> None:
    """Let every layer do what there is to do, until nothing is left."""
    rounds = _rounds(world)
    for _ in range(rounds):
        done = [_step(world, name, layer) for name, layer in _layers()]
        if not any(done):
            return
    raise AssertionError(f"the pipeline comes to rest: after {rounds} rounds, {dict(zip(ROUND, done, strict=True))}")


def _rounds(world: World) -> int:
    return ROUNDS if world.adversary is None or world.adversary.atomic else TORN_ROUNDS


def _step(world: World, name: str, layer: str) -> int:
    """One step of a layer; it looks again when another was first, as a log without atomic transactions may say."""
    try:
        return world.process(name).step(layer)
    except Fenced:
        return 1


def mend(world: World) -> None:
    """The operator builds anew what is damaged, as the error says; what cannot be built is restored by then."""
    for group in sorted(world.damaged):
        project = Project(world.folder)
        project.parts = world.process("operator").parts
        project.backfill(group)
        world.bury(world.process("operator"))
    world.damaged.clear()
    if world.flips:
        _build_anew(world)


def _build_anew(world: World) -> None:
    """States that somebody has read damage of are built anew without a word from anybody."""
    parts = world.process("witness").parts
    wanted = {one.states for one in world.flips}
    for _ in range(ROUNDS):
        damaged = {one.states for one in parts.registry.groups() if one.states in wanted}
        if not damaged:
            world.flips.clear()
            return
        for name, layer in _layers():
            with suppress(CorruptState):
                world.process(name).step(layer)
    raise AssertionError(f"what is damaged is built anew: {damaged} is still read after {ROUNDS} rounds")


def settle(world: World) -> str:
    """Disturb nothing any more, let all be done, and hold everything to the truth."""
    world.disk.full.clear()
    world.disk.meet(None)
    while world.zombies:
        layers.wake(world, 0, "")
        world.bury(world.zombies[0])
    world.end_seconds()
    flips.restore(world)  # first, as `apply` reads what the log says of the registry
    if world.undone:
        operators.apply(world, whole=True)
    if world.shape.bare:
        operators.whole(world, False)
    mend(world)
    while world.waiting:
        producers.retry(world)
    newest = max((one.arrival for some in world.ledger.landed.values() for one in some), default=0)
    world.clock.set(max(world.clock.now(), newest) + HOUR)
    work(world)
    if world.half_kept():
        operators.deploy(world)  # the operator does again what did not come to its end
    for web in (True, False):
        truth.score(world, [(1, 2, 0.5, "DE", None)], web)
    layers.layer(world, "ship")
    if world.archived():
        while world.process("ingest").step("archive"):
            pass
        world.process("sync").step("sync")
    for _ in range(2):  # what nobody reads is noted, and then dropped
        world.process("sync").step("upkeep")
    return truth.settled(world)


def _layers() -> list[tuple[str, str]]:
    from millstream.testing.simulation.process import RUNS

    return [(name, layer) for layer in ROUND for name, layers in RUNS.items() if layer in layers]
