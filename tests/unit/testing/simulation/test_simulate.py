"""The simulation itself: the same seed is the same run, and what fails is named, replayed and made small."""

from __future__ import annotations

import pytest

from millstream.ingest import stream
from millstream.testing import simulate
from millstream.testing.simulation.shrink import fewest, shrink
from millstream.testing.simulation.simulate import Adversarial, Broken, actions_of


@pytest.mark.parametrize(("seed", "adversarial"), [(3, False), (4, True), (5, "torn")])
def test_the_same_seed_gives_the_same_trace(seed: int, adversarial: Adversarial) -> None:
    first, again = simulate(seed, adversarial=adversarial), simulate(seed, adversarial=adversarial)
    assert str(first) == str(again)
    assert len(first.lines) == len(actions_of(seed)) + 1


def test_actions_can_be_left_out_and_the_others_stay_as_they_were() -> None:
    some = simulate(3, keep=[0, 4])
    assert [line.split()[0] for line in some.lines] == ["0", "4", "40"]


def test_what_does_not_hold_is_named_with_its_step_and_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    real = stream.combine
    monkeypatch.setattr(stream, "combine", lambda layout, deltas: real(layout, [*deltas, deltas[0]]))
    broken = next(error for seed in range(8) if (error := _broken(seed)) is not None)
    assert str(broken).startswith(f"seed {broken.seed}, step {broken.step}, ")
    assert f"Again: millstream.testing.simulate({broken.seed})" in str(broken)
    small = shrink(broken.seed, tries=20)
    assert small is not None and len(small.keep) < len(actions_of(broken.seed))
    assert small.error.invariant == broken.invariant
    with pytest.raises(Broken) as again:
        exec(small.reproduction, {})
    assert again.value.invariant == broken.invariant


def test_the_fewest_items_that_fail_are_found() -> None:
    assert fewest(list(range(40)), lambda some: {5, 6, 31} <= set(some), 200) == [5, 6, 31]
    assert fewest([1, 2, 3], lambda some: True, 200) == []


def _broken(seed: int) -> Broken | None:
    try:
        simulate(seed)
    except Broken as error:
        return error
    return None
