"""What operators command: definitions change, groups are built anew, models are deployed and rolled back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from millstream.errors import MillstreamError, NotFound
from millstream.project import apply as applying
from millstream.project import serving
from millstream.project.project import Project
from millstream.testing.simulation.declared import changed
from millstream.testing.simulation.models import fitted

if TYPE_CHECKING:
    from millstream.project.parts import Parts
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
        champion = world.champion()
        if champion is not None and world.champions[-1:] != [champion]:
            world.champions.append(champion)
    return f"version {version}"


def rollback(world: World) -> str:
    """A rollback walks the history of what was champion, and lands on the newest before it that can serve."""
    before, parts = world.champions, world.process("operator").parts
    try:
        landed = serving.rollback(parts, "model")
    except NotFound:
        fit = [version for version in before[:-1] if _serves(parts, version)]
        assert not fit, f"a rollback finds the champion before: of {before}, {fit} can serve"
        return "nothing before"
    finally:
        now = world.champion()
        if now is not None and now != before[-1]:
            assert now in before[:-1], f"a rollback walks back: {before} and then {now}"
            place = len(before) - 2 - before[:-1][::-1].index(now)
            passed = [
                version for version in before[place + 1 : -1] if version != before[-1] and _serves(parts, version)
            ]
            assert not passed, f"a rollback walks back: {before} and then {now}, past {passed}"
            world.champions = before[: place + 1]
    assert landed == world.champions[-1] and len(world.champions) < len(before), f"a rollback goes back: {before}"
    return f"version {landed}"


def _serves(parts: Parts, version: int) -> bool:
    try:
        scorer = parts.scorer("model", version)
        scorer.score([scorer.schema.example()])
    except MillstreamError:
        return False
    return True
