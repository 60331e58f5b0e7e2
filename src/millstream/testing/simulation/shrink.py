"""From a seed that fails to the few actions that are enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from millstream.testing.simulation.simulate import STEPS, Adversarial, Broken, Trace, actions_of, simulate

TRIES = 80
"""Runs after which a shrunk seed is small enough."""


@dataclass(frozen=True)
class Shrunk:
    """The least that was found to fail.

    Attributes:
        seed: the seed.
        keep: the numbers of the actions that are enough.
        steps: how many actions the seed was drawn with.
        error: what the last of them breaks.
        adversarial: whether on an adversarial log and online store.
    """

    seed: int
    keep: tuple[int, ...]
    steps: int
    error: Broken
    adversarial: Adversarial = False

    def __str__(self) -> str:
        actions = actions_of(self.seed, self.steps)
        lines = [f"{number:3d} {actions[number]}" for number in self.keep]
        return "\n".join([str(self.error), *lines, self.reproduction])

    @property
    def reproduction(self) -> str:
        """One line of Python that fails again."""
        steps = "" if self.steps == STEPS else f", steps={self.steps}"
        drawn = Trace(self.seed, self.adversarial).drawn
        return f"from millstream.testing import simulate; simulate({drawn}{steps}, keep={list(self.keep)})"


def shrink(seed: int, *, steps: int = STEPS, tries: int = TRIES, adversarial: Adversarial = False) -> Shrunk | None:
    """Leave out what is not needed for a seed to break the same invariant; None when it breaks none.

    Args:
        seed: the seed.
        steps: how many actions it is drawn with.
        tries: the most runs it may take.
        adversarial: whether on a log and an online store that keep the text of their protocols and nothing more.

    Returns:
        The actions that are left, and what they break; None when the seed breaks nothing.

    Example:
        >>> from millstream.testing.simulation.shrink import shrink
        >>> shrink(1, steps=3) is None
        True
    """

    def broken(keep: Sequence[int]) -> Broken | None:
        try:
            simulate(seed, steps=steps, keep=keep, adversarial=adversarial)
        except Broken as error:
            return error
        return None

    found = broken(range(steps))
    if found is None:
        return None
    last = [found]

    def fails(keep: Sequence[int]) -> bool:
        error = broken(keep)
        if error is None or error.invariant != found.invariant:
            return False
        last[0] = error
        return True

    keep = fewest([number for number in range(steps) if number <= found.step], fails, tries)
    return Shrunk(seed, tuple(keep), steps, last[0], adversarial)


def fewest(items: Sequence[int], fails: Callable[[Sequence[int]], bool], tries: int) -> list[int]:
    """Items that are enough to fail: ever smaller parts of them are left out as long as the rest fails too.

    Args:
        items: what fails when all of it is there.
        fails: whether some of the items fail, in their order.
        tries: how often that may be asked.

    >>> fewest(range(30), lambda some: {3, 17} <= set(some), 100)
    [3, 17]
    """
    kept, size = list(items), max(1, len(items) // 2)
    while tries > 0:
        place, before = 0, len(kept)
        while place < len(kept) and tries > 0:
            rest = kept[:place] + kept[place + size :]
            tries -= 1
            if fails(rest):
                kept = rest
            else:
                place += size
        if size == 1 and len(kept) == before:
            break
        size = max(1, size // 2)
    return kept
