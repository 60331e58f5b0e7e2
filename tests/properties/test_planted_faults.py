"""The simulation finds faults: each of these, planted in the product, within a few seeds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from millstream.testing import simulate
from millstream.testing.simulation.simulate import SHAPES
from tests.properties.planted import ELUSIVE, FAULTS

pytestmark = [pytest.mark.planted, pytest.mark.timeout(7200)]
BUDGET = 60
"""Seeds within which a fault has to be found."""


@pytest.mark.parametrize("fault", FAULTS, ids=lambda name: name)
def test_a_planted_fault_is_found(
    fault: str, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    for shape in range(len(SHAPES)):
        simulate(shape, steps=0)  # the projects that are copied were made by the product as it is
    FAULTS[fault](monkeypatch)
    for seed in range(BUDGET):
        try:
            simulate(seed)
        except AssertionError as error:
            record_property("found", f"{fault}: {seed + 1} seeds: {error}")
            print(f"found by seed {seed}: {str(error)[:200]}")
            return
    pytest.fail(f"{BUDGET} seeds did not find that {fault.replace('_', ' ')}")


def test_at_least_twenty_faults_are_planted_and_few_are_left_out() -> None:
    assert len(FAULTS) >= 20
    assert len(ELUSIVE) <= 10
