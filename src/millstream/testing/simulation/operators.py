"""What operators command: definitions change, groups are built anew, models are deployed and rolled back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from millstream.errors import DiskFull, MillstreamError, NotFound, TrainingError
from millstream.project import serving
from millstream.project.alone import alone
from millstream.project.apply import again, backfill, plan, rebuild, start
from millstream.project.apply import apply as apply_plan
from millstream.project.project import Project
from millstream.testing.simulation import learnt
from millstream.testing.simulation.declared import changed
from millstream.testing.simulation.models import fitted

if TYPE_CHECKING:
    from millstream.project.parts import Parts
    from millstream.testing.simulation.world import World

WIDEST = 4
"""How many partitions a stream gets."""


def change(world: World, change: tuple[str, Any]) -> str:
    """What is declared changes under traffic."""
    world.shape = changed(world.shape, dict([change]))
    world.undone = True
    return apply(world)


def apply(world: World, *, whole: bool = False) -> str:
    """The operator applies what is declared; one who saw the command die does so again.

    Where that is the `whole` of it, what is not declared any more goes.
    """
    parts = world.process("operator").parts
    planned = plan(parts, [world.shape.model], complete=whole)
    done = apply_plan(parts, planned, allow_breaking=True, agreed=lambda _: True)
    world.undone = False
    return f"{len(done)} changes"


def whole(world: World, bare: bool) -> str:
    """A group goes, with all that is read of it, or comes back, under traffic."""
    world.shape = changed(world.shape, {"bare": bare})
    world.undone = True
    return apply(world, whole=True)


def anew(world: World, group: str) -> str:
    """Throw the states of a group away and fold history again."""
    parts = world.process("operator").parts
    start(parts)
    if group not in {one.group.name for one in parts.registry.groups()}:
        return "no such group"
    version = rebuild(parts, parts.registry.group(group))
    with alone(parts, f"backfill {version.id}", wait=True):
        backfill(parts, again(parts, version))
    return version.id


def grow(world: World, stream: str) -> str:
    """A stream gets one more partition under traffic, up to `WIDEST`: keys move, and ids are told apart anew there."""
    log = world.process("operator").parts.log
    partitions = log.topics().get(stream, 0)
    if not partitions:
        return "no such stream"
    if partitions == WIDEST:
        return f"has {WIDEST} partitions"
    log.grow(stream, partitions + 1)
    return f"has {partitions + 1} partitions"


def deploy(world: World) -> str:
    """A model of what the view reads now, once the versions that are read have it."""
    project = _project(world)
    if not _readable(project.parts):
        return "not yet"
    view = project.parts.registry.model("model").view
    booster, dictionaries = fitted(view, len(world.champions))
    project.register("model", booster, dictionaries=dictionaries)
    return _deployed(world, project)


def train(world: World) -> str:
    """A model learns from what the examples would have been served with, and is deployed."""
    project = _project(world)
    try:
        if not _readable(project.parts):
            return "not yet"
        examples = project.training_set("model")
    except MillstreamError as error:
        if isinstance(error, DiskFull):
            raise
        assert world.excused, f"training goes on: {error.message}"
        return f"refused: {type(error).__name__}"
    labels = learnt.right(world, project.parts, examples)
    try:
        project.train("model", examples)
    except TrainingError as error:
        assert len(labels) < 2, f"training goes on: {error.message}"
        return f"refused: of {len(examples)} examples none to tell apart"
    return f"{len(examples)} examples, {_deployed(world, project)}"


def _project(world: World) -> Project:
    project = Project(world.folder)
    project.parts = world.process("operator").parts
    return project


def _readable(parts: Parts) -> bool:
    """Whether the versions that are read have all that the model's view reads."""
    versions = parts.served.versions()
    return all(
        read.group.name in versions and column.feature in versions[read.group.name].schema
        for read in parts.registry.model("model").view.groups
        for column in read.columns
    )


def _deployed(world: World, project: Project) -> str:
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
        scorer = parts.served.scorer("model", version)
        scorer.score([scorer.schema.example()])
    except MillstreamError:
        return False
    return True
