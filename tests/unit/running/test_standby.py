"""Layers of which one process works at a time: who stands by, who takes over."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import millstream as ms
from millstream.project import alone
from millstream.project.parts import Parts
from millstream.running.standby import Standby
from millstream.settings import Settings


class Counting:
    """Work that counts its steps."""

    def __init__(self, parts: Parts) -> None:
        self.facts: dict[str, Any] = {"steps": 0}
        self.closed = False

    def step(self) -> int:
        self.facts["steps"] += 1
        return 1

    def rest(self, stop: threading.Event, seconds: float) -> None:
        stop.wait(seconds)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parts:
    monkeypatch.setattr(alone, "LOOK", 0.0)
    ms.Project(tmp_path, create=True).close()
    return Parts(Settings.load(tmp_path))


def test_the_first_works_the_second_stands_by_and_takes_over(parts: Parts) -> None:
    first, second = (Standby(parts, "sync", Counting) for _ in range(2))
    assert [first.step(), second.step(), first.step(), second.step()] == [1, 0, 1, 0]
    assert (first.facts, second.facts) == ({"steps": 2}, {"standing_by": True})
    first.close()
    assert second.step() == 1
    assert second.facts == {"steps": 1}
    assert first.step() == 0


def test_layers_do_not_wait_for_each_other(parts: Parts) -> None:
    sync, monitor = Standby(parts, "sync", Counting), Standby(parts, "monitor", Counting)
    assert [sync.step(), monitor.step()] == [1, 1]


def test_a_turn_that_is_lost_ends_the_work_and_one_that_comes_back_makes_it_anew(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Counting] = []
    standby = Standby(parts, "sync", lambda parts: made.append(Counting(parts)) or made[-1])
    assert standby.step() == 1
    monkeypatch.setattr(alone.Turn, "mine", lambda _: False)
    assert standby.step() == 0
    assert made[0].closed
    monkeypatch.undo()
    assert standby.step() == 1
    assert [one.facts["steps"] for one in made] == [1, 1]


def test_what_a_step_raises_comes_out_and_the_turn_is_kept(parts: Parts) -> None:
    class Failing(Counting):
        def step(self) -> int:
            raise ms.MillstreamError("The disk is full.")

    standby, other = Standby(parts, "sync", Failing), Standby(parts, "sync", Counting)
    with pytest.raises(ms.MillstreamError, match="disk"):
        standby.step()
    assert other.step() == 0
