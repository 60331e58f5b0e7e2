"""Aggregates that decay: what an event adds to its tile, and what the tiles of a state, or of history, weigh at a read.

A tile is one half-life long. An event adds its value times 2**-(d / half_life), d being the time from its hop's begin to
the tile's end, rounded once to 2**-64: whole numbers, which add up in any order. At a read the tiles are added from the
oldest on, each halved as often as half-lives have passed since its end, and the total is weighed by what is left of a
half-life. The first is exact and the second one number for all tiles, so every path rounds alike.
"""

from __future__ import annotations

import decimal
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import gcd
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from millstream.definitions.decayed import DECAYED_KINDS
from millstream.definitions.windows import default_hop

if TYPE_CHECKING:
    from millstream.definitions.windows import WindowedFeature

#: Up to how many steps of a half-life their weights are kept in one table.
_TABLE = 4_096
#: Up to how many instants are weighed one by one.
_FEW = 8


@dataclass(frozen=True, eq=False)
class DecayLayout:
    """The arrays by which the kernels know what of a group decays.

    Attributes:
        half_lives: the distinct half-lives (µs).
        hops: the hop (µs) by which events of each of them lose weight.
        totals: (place of the lanes, half-life) of each sum over tiles that is needed.
        features: (total, divisor or -1, number of the half-life, output) of each feature.
        size: how many lanes a tile has.
    """

    half_lives: list[int]
    hops: list[int]
    totals: np.ndarray
    features: tuple[tuple[int, int, int, int], ...]
    size: int

    def write(self, totals: np.ndarray, at: np.ndarray, numbers: np.ndarray) -> None:
        """Write the features that totals come to at instants.

        Args:
            totals: each total as of the end of the half-life that an instant lies in, float64, shape (totals,
                instants).
            at: the instants (µs), int64.
            numbers: the output's numbers, float64, a row for each instant, changed in place.
        """
        if len(at) <= _FEW:
            for i, instant in enumerate(at.tolist()):
                self._write_one(totals[:, i].tolist(), instant, numbers[i])
            return
        weights = self._weights(at)
        for a, b, half_life, out in self.features:
            if b < 0:
                numbers[: len(at), out] = totals[a] * weights[half_life]
            else:
                nothing = np.full(len(at), np.nan)
                numbers[: len(at), out] = np.divide(totals[a], totals[b], out=nothing, where=totals[b] > 0)

    def _write_one(self, totals: Sequence[float], at: int, numbers: np.ndarray) -> None:
        """Write the features of one instant as Python's numbers, sooner than by way of arrays."""
        for a, b, number, out in self.features:
            if b < 0:
                numbers[out] = totals[a] * _weight(at, self.half_lives[number], self.hops[number])
            else:
                numbers[out] = totals[a] / totals[b] if totals[b] > 0 else math.nan

    def _weights(self, at: np.ndarray) -> np.ndarray:
        """For each half-life what one at the end of the half-life that an instant lies in weighs at that instant."""
        found = np.empty((len(self.half_lives), len(at)))
        for i, (half_life, hop) in enumerate(zip(self.half_lives, self.hops, strict=True)):
            found[i] = 4.0 * halvings(_passed(at, half_life, hop), half_life, hop)[0]
        return found


def _passed(at: Any, half_life: int, hop: int) -> Any:
    """How long ago two half-lives before the end of the one that an instant lies in were; of instants, of each."""
    return at // hop * hop - (at // half_life - 1) * half_life


def _weight(at: int, half_life: int, hop: int) -> float:
    """What one at the end of the half-life that an instant lies in weighs at that instant."""
    passed, step = _passed(at, half_life, hop), gcd(half_life, hop)
    if 2 * half_life // step > _TABLE:
        return 4.0 * _halving(passed, half_life)[0]
    return 4.0 * float(_table(half_life, hop)[0][passed // step])


class _Planned(Protocol):
    """How a feature is made: at which places of the lanes what it reads begins."""

    @property
    def numbers(self) -> tuple[int, ...]: ...


def decay_layout(planned: Sequence[tuple[WindowedFeature, _Planned | None, int]], size: int) -> DecayLayout | None:
    """Return what of some columns, with their plans and places in the output, decays, or None; a tile has `size` lanes."""
    half_lives = sorted({column.hop or 0 for column, _, _ in planned if column.kind in DECAYED_KINDS})
    if not half_lives:
        return None
    totals: dict[tuple[int, int], int] = {}
    rows = []
    for column, plan, out in planned:
        if plan and column.kind in DECAYED_KINDS:
            number = half_lives.index(column.hop or 0)
            read = [totals.setdefault((place, half_lives[number]), len(totals)) for place in plan.numbers]
            rows.append((read[0], read[1] if len(read) > 1 else -1, number, out))
    hops = [default_hop(one) for one in half_lives]
    return DecayLayout(half_lives, hops, np.array(list(totals), np.int64), tuple(rows), size)


def halvings(spans: np.ndarray, half_life: int, hop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """2**-(span / half_life) for some spans: as float64, and as 128 bits after the point.

    Args:
        spans: durations (µs) of less than two half-lives, int64, multiples of the greatest common divisor of half-life
            and hop.
        half_life: the half-life (µs).
        hop: the hop (µs) by which events lose weight.

    Returns:
        For each span the float64, and the upper and the lower half of the 128 bits, uint64.
    """
    step = gcd(half_life, hop)
    if 2 * half_life // step <= _TABLE:
        floats, high, low = _table(half_life, hop)
        steps = spans // step
        return floats[steps], high[steps], low[steps]
    distinct, which = np.unique(spans, return_inverse=True)
    floats, high, low = _columns([_halving(span, half_life) for span in distinct.tolist()])
    return floats[which], high[which], low[which]


@lru_cache(maxsize=1_024)
def _table(half_life: int, hop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    step = gcd(half_life, hop)
    return _columns([_halving(i * step, half_life) for i in range(2 * half_life // step + 1)])


def _columns(rows: Sequence[tuple[float, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    floats, high, low = zip(*rows, strict=True) if rows else ((), (), ())
    return np.array(floats, np.float64), np.array(high, np.uint64), np.array(low, np.uint64)


@lru_cache(maxsize=65_536)
def _halving(span: int, half_life: int) -> tuple[float, int, int]:
    """2**-(span / half_life), rounded once: as a float64, and as two numbers of 64 bits after the point (0 for 1)."""
    with decimal.localcontext() as context:
        context.prec = 60
        exact = decimal.Decimal(2) ** (decimal.Decimal(-span) / decimal.Decimal(half_life))
        whole = int((exact * 2**128).to_integral_value(decimal.ROUND_HALF_EVEN))
    return float(exact), (whole >> 64) & (2**64 - 1), whole & (2**64 - 1)
