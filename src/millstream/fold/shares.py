"""Work divided among threads, for kernels let go of the interpreter: keys by how much there is to do for them, and tasks."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

_T = TypeVar("_T")
#: Below this many events and queries the work stays on the calling thread.
_PARALLEL_ROWS = 50_000
#: The same where tasks take all of a micro-batch each.
_PARALLEL_TASK_ROWS = 20_000


def in_shares(work: np.ndarray, run: Callable[[int, int], object]) -> None:
    """Call `run(first, last)` for every stretch of keys.

    Args:
        work: how much there is to do for each key and all before it.
        run: what does it for the keys from the first up to, not including, the last.
    """
    workers = min(os.cpu_count() or 1, 8) if len(work) and work[-1] > _PARALLEL_ROWS else 1
    if workers == 1:
        run(0, len(work))
        return
    cuts = np.searchsorted(work, np.linspace(0, work[-1], 4 * workers + 1)[1:-1]).tolist()
    edges = [0, *sorted(set(cuts) - {0, len(work)}), len(work)]
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(run, edges[:-1], edges[1:]))


def side_by_side(tasks: Sequence[Callable[[], _T]], rows: int) -> list[_T]:
    """What each task gives, several of them at a time where they take many rows.

    Args:
        tasks: what to do; each must give the same whoever goes first.
        rows: how many rows all of them take.
    """
    workers = min(os.cpu_count() or 1, 8, len(tasks)) if rows > _PARALLEL_TASK_ROWS else 1
    if workers <= 1:
        return [task() for task in tasks]
    with ThreadPoolExecutor(workers) as pool:
        return [done.result() for done in [pool.submit(task) for task in tasks]]
