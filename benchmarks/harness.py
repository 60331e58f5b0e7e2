"""What every benchmark is made of: scales, claims, and ours and the peer's measured in turns."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

#: A measurement: does the work once and returns what it took, in the claim's unit or in seconds.
Measure = Callable[[], float]


@dataclass(frozen=True)
class Scale:
    """How large a run is: `share` of the full size, `repeats` of each measurement, and whether peers may be installed."""

    share: float = 1.0
    repeats: int = 7
    foreign: bool = True

    def of(self, full: int, least: int = 1) -> int:
        """The share of a full size, and no less than `least`."""
        return max(least, round(full * self.share))


FULL = Scale()
QUICK = Scale(share=0.1, repeats=5)
TINY = Scale(share=0.002, repeats=1, foreign=False)


@dataclass(frozen=True)
class Claim:
    """One line of the report: our repeats beside the peer's, taken in turns.

    Args:
        name: what was measured.
        unit: what the numbers are.
        ours: our repeats.
        theirs: the peer's, in the same order; empty where it was not run.
        peer: who the peer is.
        better: whether a lower or a higher number is better.
        target: the ratio that is claimed; None where the line is for information.
        note: what else is worth knowing.
    """

    name: str
    unit: str
    ours: Sequence[float]
    theirs: Sequence[float] = ()
    peer: str = ""
    better: Literal["lower", "higher"] = "lower"
    target: float | None = None
    note: str = ""

    @property
    def median(self) -> float:
        """Our median."""
        return statistics.median(self.ours)

    @property
    def peer_median(self) -> float | None:
        """The peer's median, None where it was not run."""
        return statistics.median(self.theirs) if self.theirs else None

    @property
    def ratios(self) -> list[float]:
        """How many times better ours was, turn by turn: neighbours in time meet the same machine."""
        pairs = zip(self.ours, self.theirs, strict=True) if self.theirs else ()
        return [theirs / ours if self.better == "lower" else ours / theirs for ours, theirs in pairs]

    @property
    def ratio(self) -> float | None:
        """The median of the ratios."""
        return statistics.median(self.ratios) if self.theirs else None

    @property
    def holds(self) -> bool | None:
        """Whether the target is met; None without a target or without a peer."""
        return None if self.ratio is None or self.target is None else self.ratio >= self.target

    def facts(self) -> dict[str, Any]:
        """The claim as JSON can carry it."""
        return {
            "name": self.name, "unit": self.unit, "ours": self.median, "peer": self.peer,
            "theirs": self.peer_median, "ratio": self.ratio, "ratios": self.ratios, "target": self.target,
            "holds": self.holds, "note": self.note,
        }  # fmt: skip


def in_turns(ours: Measure, theirs: Measure | None, repeats: int) -> tuple[list[float], list[float]]:
    """Measure ours and the peer's in turns, after one unmeasured turn; who goes first alternates."""
    sides = [ours] if theirs is None else [ours, theirs]
    found: tuple[list[float], list[float]] = ([], [])
    for turn in range(-1, repeats):
        order = range(len(sides)) if turn % 2 else reversed(range(len(sides)))
        for side in order:
            gc.collect()
            taken = sides[side]()
            if turn >= 0:
                found[side].append(taken)
    return found


def seconds(work: Callable[[], object]) -> float:
    """The time that the work takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
