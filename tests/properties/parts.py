"""A property whose examples take long, in parts, so that every core has some of them until the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, seed, settings


def in_parts(count: int, each: settings, *strategies: Any) -> Callable[[Callable[..., None]], Callable[[int], None]]:
    """Make so many tests of a property; each has examples of its own, the same in every run."""

    def divided(check: Callable[..., None]) -> Callable[[int], None]:
        def part_of_it(part: int) -> None:
            seed(part)(each(given(*strategies)(check)))()

        part_of_it.__name__, part_of_it.__doc__ = check.__name__, check.__doc__
        return pytest.mark.parametrize("part", range(count))(part_of_it)

    return divided
