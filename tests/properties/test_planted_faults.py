"""The simulation finds faults: each of these, planted in the product, within a few seeds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from millstream.testing import simulate
from millstream.testing.simulation.simulate import SHAPES
from tests.properties.planted import ELUSIVE, FAULTS, WHERE

pytestmark = [pytest.mark.planted, pytest.mark.timeout(7200)]
BUDGET = 60
"""Seeds within which a fault has to be found."""
BROKEN = (TypeError, AttributeError, NameError)
"""What a patch raises whose target has other parameters or names now."""


@pytest.mark.parametrize("fault", FAULTS, ids=lambda name: name)
def test_a_planted_fault_is_found(
    fault: str, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    adversarial = WHERE.get(fault, False)
    for shape in range(len(SHAPES)):
        # The projects that are copied were made by the product as it is.
        simulate(shape, steps=0, adversarial=adversarial)
    FAULTS[fault](monkeypatch)
    for seed in range(BUDGET):
        try:
            simulate(seed, adversarial=adversarial)
        except AssertionError as error:
            if isinstance(error.__cause__, BROKEN):
                raise  # what was planted does not fit the product any more, so nothing was found
            record_property("found", f"{fault}: {seed + 1} seeds: {error}")
            print(f"found by seed {seed}: {str(error)[:200]}")
            return
    pytest.fail(f"{BUDGET} seeds did not find that {fault.replace('_', ' ')}")


def test_at_least_twenty_faults_are_planted_and_few_are_left_out() -> None:
    assert len(FAULTS) >= 20
    assert len(ELUSIVE) <= 10
