"""Keys divided among threads by how much there is to do for them: kernels let go of the interpreter."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

#: Below this many events and queries the work stays on the calling thread.
_PARALLEL_ROWS = 50_000


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
