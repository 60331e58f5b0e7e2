"""Many seeds, over all cores."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Iterable, Iterator
from functools import partial

from millstream.testing.simulation.simulate import Adversarial, Broken, simulate

AT_ONCE, RENEWED = 5, 40
"""Seeds that a process takes at once, and times it does so before it is replaced by another."""


def simulated(
    seeds: Iterable[int], workers: int, *, adversarial: Adversarial = False
) -> Iterator[tuple[int, str | None]]:
    """Each seed as it is done, in any order, with what it breaks or None.

    Args:
        seeds: the seeds.
        workers: over how many processes; 1 uses this one.
        adversarial: whether on a log and an online store that keep the text of their protocols and nothing more.
    """
    broken = partial(_broken, adversarial=adversarial)
    if workers == 1:
        _quieten()
        yield from map(broken, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(workers, _quieten, maxtasksperchild=RENEWED) as pool:
        yield from pool.imap_unordered(broken, seeds, chunksize=AT_ONCE)


def _quieten() -> None:
    """Say nothing of what layers and services complain of: it is done to them on purpose."""
    logging.getLogger("millstream").setLevel(logging.CRITICAL)


def _broken(seed: int, adversarial: Adversarial) -> tuple[int, str | None]:
    try:
        simulate(seed, adversarial=adversarial)
    except Broken as error:
        return seed, str(error)
    return seed, None
