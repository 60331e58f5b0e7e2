"""How many examples a property is tried on: some in each run of the tests, and many times as many in `make simulate`."""

from __future__ import annotations

import os

TIMES = int(os.environ.get("EXAMPLES_TIMES", "1"))


def examples(number: int) -> int:
    """Return how many examples are tried where a run of the tests tries so many."""
    return number * TIMES
