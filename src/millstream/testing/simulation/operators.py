"""What operators command: definitions change, groups are built anew, models are deployed and rolled back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from millstream.errors import NotFound
from millstream.project import applying, serving
from millstream.project.facade import Project
from millstream.testing.simulation import truth
from millstream.testing.simulation.declared import changed
from millstream.testing.simulation.models import fitted

if TYPE_CHECKING:
    from millstream.testing.simulation.world import World


def change(world: World, change: tuple[str, Any]) -> str:
    """What is declared changes under traffic."""
    world.shape = changed(world.shape, dict([change]))
    world.undone = True
    return apply(world)


def apply(world: World) -> str:
    """The operator applies what is declared; one who saw the command die does so again."""
    parts = world.process("operator").parts
    planned = applying.plan(parts, [world.shape.model], complete=False)
    done = applying.apply(parts, planned, allow_breaking=True, agreed=None)
    world.undone = False
    return f"{len(done)} changes"


def anew(world: World, group: str) -> str:
    """Throw the states of a group away and fold history again."""
    parts = world.process("operator").parts
    applying.start(parts)
    version = applying.rebuild(parts, parts.registry.group(group))
    applying.backfill(parts, version)
    return version.id


def deploy(world: World) -> str:
    """A model of what the view reads now, once the versions that are read have it."""
    project = Project(world.folder)
    project.parts = world.process("operator").parts
    view, versions = project.parts.registry.model("model").view, project.parts.versions()
    if not all(c.feature in versions[r.group.name].schema for r in view.groups for c in r.columns):
        return "not yet"
    booster, dictionaries = fitted(view, len(world.champions))
    project.register("model", booster, dictionaries=dictionaries)
    try:
        version = project.deploy("model")
    finally:
        champion, world.rolled = world.champion(), False
        if champion is not None and world.champions[-1:] != [champion]:
            world.champions.append(champion)
    return f"version {version}"


def rollback(world: World) -> str:
    """A rollback walks the history of what was champion, and lands on one that was there before."""
    before = world.champions
    if world.rolled and "a second rollback goes forward again" in truth.UNMENDED:
        return "left out"
    world.rolled = True
    try:
        landed = serving.rollback(world.process("operator").parts, "model")
    except NotFound:
        assert len(before) < 2, f"a rollback finds the champion before: {before}"
        return "nothing before"
    finally:
        now = world.champion()
        if now is not None and now != before[-1]:
            assert now in before[:-1], f"a rollback walks back: {before} and then {now}"
            world.champions = before[: len(before) - 1 - before[:-1][::-1].index(now)]
    assert landed == world.champions[-1] and len(world.champions) < len(before), f"a rollback goes back: {before}"
    return f"version {landed}"
