"""Two hundred seeds: whatever dies, repeats, wakes, fills up or changes, what was acknowledged counts, once."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from millstream.testing import simulate

SEEDS = int(os.environ.get("SEEDS", "200"))
AT_ONCE = 10


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_nothing_is_lost_doubled_mixed_up_or_left_unfinished(
    first: int, record_property: Callable[[str, object], None]
) -> None:
    failed = []
    for seed in range(first, min(first + AT_ONCE, SEEDS)):
        try:
            simulate(seed)
        except AssertionError as error:
            failed.append(str(error))
    record_property("simulated", min(AT_ONCE, SEEDS - first))
    record_property("simulations failed", len(failed))
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("first", range(0, SEEDS // 10, 5))
def test_all_of_that_holds_on_a_log_with_gaps_that_shows_late_what_it_has(first: int) -> None:
    failed = []
    for seed in range(first, first + 5):
        try:
            simulate(seed, adversarial=True)
        except AssertionError as error:
            failed.append(str(error))
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("first", range(0, SEEDS // 20, 5))
def test_all_of_that_holds_on_a_log_whose_transactions_come_apart(first: int) -> None:
    failed = []
    for seed in range(first, first + 5):
        try:
            simulate(seed, adversarial="torn")
        except AssertionError as error:
            failed.append(str(error))
    assert not failed, "\n".join(failed)
