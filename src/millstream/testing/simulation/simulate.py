"""`simulate`: a whole pipeline in one process, in the hands of a seed."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Literal
from unittest.mock import patch

from millstream.buffer.codec import write
from millstream.buffer.parts import LARGEST
from millstream.definitions import Session
from millstream.errors import MillstreamError
from millstream.testing.simulation.actions import Action, drawn
from millstream.testing.simulation.acts import do
from millstream.testing.simulation.declared import Declared
from millstream.testing.simulation.process import Adversary
from millstream.testing.simulation.settle import begin, copied, settle
from millstream.testing.simulation.world import World

Adversarial = bool | Literal["torn"]
SMALL = 700
"""Bytes of a record, so that the deltas of a few events are in parts, and the rows of a query's run."""
STEPS = 40
"""Actions of a simulation unless said."""
SHAPES = (
    Declared((("1h", "0s", None), ("10m", "5m", None), ("3 events within 1h", "0s", None))),
    Declared(
        (("1m", "0s", None), (None, "0s", None), (Session(gap="5m"), "0s", None)),
        where="x > 0",
        queries=(("dated", None),),
    ),
    Declared((("24h", "0s", None),), union=True, queries=(("state", None),)),
    Declared((("10m", "0s", "1m"), (None, "0s", None)), union=True, folded=True, by_other=True),
)


class Broken(AssertionError):
    """Something does not hold.

    Attributes:
        seed: in whose hands.
        step: after which action.
        invariant: what.
    """

    def __init__(self, trace: Trace, step: int, action: Action | None, said: str) -> None:
        seed, again = trace.seed, f"millstream.testing.simulate({trace.drawn})"
        super().__init__(f"seed {seed}, step {step}, {action or 'settle'}: {said}\nAgain: {again}")
        self.seed, self.step, self.invariant = seed, step, said.partition(":")[0]


@dataclass
class Trace:
    """What happened.

    Attributes:
        seed: what it was drawn from.
        adversarial: whether on an adversarial log and online store, and on which.
        lines: one for each action, in order, with what came of it.
    """

    seed: int
    adversarial: Adversarial = False
    lines: list[str] = field(default_factory=list)

    @property
    def drawn(self) -> str:
        """What it was drawn from, as arguments of `simulate`."""
        return f"{self.seed}{f', adversarial={self.adversarial!r}' if self.adversarial else ''}"

    def __str__(self) -> str:
        return "\n".join(self.lines)


def simulate(
    seed: int, *, steps: int = STEPS, keep: Collection[int] | None = None, adversarial: Adversarial = False
) -> Trace:
    """Run the whole pipeline through what a seed draws, and hold everything to the truth.

    Layers step, producers send, readers read, operators command; processes die before or after any durable write and
    begin again from what is on disk, acknowledgements are lost, old processes wake, disks are full, the clock jumps.
    In the end nothing is lost or doubled, what is served is what `ms.compute` makes of what the log took, `verify` and
    `parity` are clean and nothing unfinished stays. The same seed gives the same trace.

    Args:
        seed: any whole number.
        steps: how many actions.
        keep: the numbers of the actions to let happen, in place of all.
        adversarial: whether on a log and an online store that keep the text of their protocols and nothing more, where
            ownership of partitions is lost at any time and records are small; "torn" on such a log whose transactions may
            come apart, and the embedded store.

    Returns:
        What happened.

    Raises:
        AssertionError: when something does not hold; it names the invariant and the step.

    Example:
        >>> from millstream.testing import simulate
        >>> len(simulate(1, steps=5).lines)  # each action, and the end
        6
    """
    random = Random(f"chance of {seed}")
    trace = Trace(seed, adversarial)
    with _world(_shape(seed), random, _adversary(seed, adversarial)) as world:
        actions = actions_of(seed, steps)
        world.precarious = any(action.name == "lose_power" for action in actions)
        following = iter([place for place in enumerate(actions) if keep is None or place[0] in keep])

        def go_on(most: int = steps) -> None:
            for number, action in islice(following, most):
                _do(world, trace, number, action)

        world.go_on = go_on
        go_on()
        _do(world, trace, steps, None)
    return trace


def actions_of(seed: int, steps: int = STEPS) -> list[Action]:
    """What a seed lets happen."""
    return drawn(Random(seed), steps)


def _adversary(seed: int, adversarial: Adversarial) -> Adversary | None:
    """What the log and the store are like; in two of three seeds records of a few events are in parts."""
    if not adversarial:
        return None
    return Adversary(seed, adversarial != "torn", SMALL if seed % 3 else LARGEST)


def _shape(seed: int) -> int:
    return seed % len(SHAPES)


def _do(world: World, trace: Trace, number: int, action: Action | None) -> None:
    """One action, or at last the settling of it all."""
    try:
        outcome = do(world, action) if action else settle(world)
    except Broken:
        raise
    except AssertionError as error:
        raise Broken(trace, number, action, str(error)) from error
    except Exception as error:
        what = error.message if isinstance(error, MillstreamError) else repr(error)
        raise Broken(trace, number, action, f"no error leaves the pipeline: {what}") from error
    trace.lines.append(f"{number:3d} {action or 'settle'}: {outcome or ''}".rstrip(" :"))


@contextmanager
def _world(shape: int, random: Random, adversary: Adversary | None) -> Iterator[World]:
    """A project that has begun, in a folder of its own, in a process where chance is the seed's."""
    begun = _begun(shape, adversary is not None)
    with tempfile.TemporaryDirectory(dir=_memory(), prefix="millstream-") as folder, _chance(random):
        world = copied(begun, Path(folder) / "project", adversary)
        with world.disk.watching():
            try:
                yield world
            finally:
                world.kill()


@contextmanager
def _chance(random: Random) -> Iterator[None]:
    """What a process draws for itself comes from there."""
    with (
        patch.object(uuid, "uuid4", lambda: uuid.UUID(int=random.getrandbits(128), version=4)),
        patch.object(write, "_rotation", count(random.getrandbits(16))),
    ):
        yield


@cache
def _begun(shape: int, adversarial: bool) -> World:
    folder = tempfile.mkdtemp(dir=_memory(), prefix="millstream-begun-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with _chance(Random(shape)):
        return begin(Path(folder) / "project", SHAPES[shape], Adversary(0) if adversarial else None)


def _memory() -> str | None:
    """Where files are kept in memory, if there is such a place."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
