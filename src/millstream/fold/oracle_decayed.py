"""The definition of every feature that decays, in plain Python: slow, obvious, independent of the kernels."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from typing import Any

from millstream.definitions.windows import default_hop

_BITS = 256


def decayed(column: Any, dated: list[tuple[int, float]], at: int) -> float | None:
    """Return what a feature that decays makes of the events of its window, None where its mean is of none.

    Args:
        column: the feature.
        dated: the time (µs) and the value of each event of its window that has a value.
        at: the instant (µs).
    """
    if column.kind == "decayed_count":
        dated = [(time, 1.0) for time, _ in dated]
    if column.kind == "decayed_mean":
        weight = _total([(time, 1.0) for time, _ in dated], column.hop, at)
        return _total(dated, column.hop, at) / weight if dated else None
    half_life = column.hop
    end = (at // half_life + 1) * half_life
    return _total(dated, half_life, at) * float(1 / _halving(end - _floored(at, half_life), half_life))


def _floored(instant: int, half_life: int) -> int:
    hop = default_hop(half_life)
    return instant // hop * hop


def _total(dated: list[tuple[int, float]], half_life: int, at: int) -> float:
    """The tiles, each half-life that has events, added from the oldest on, as of the end of that of the instant."""
    tiles: dict[int, int] = {}
    for time, value in dated:
        tile = time // half_life
        weight = _halving((tile + 1) * half_life - _floored(time, half_life), half_life)
        tiles[tile] = tiles.get(tile, 0) + round(Fraction(value) * weight * 2**64)
    total = 0.0
    for tile in sorted(tiles):
        total += tiles[tile] / 2**64 * 2.0 ** (tile - at // half_life)
    return total


@lru_cache(maxsize=100_000)
def _halving(span: int, half_life: int) -> Fraction:
    """2**-(span / half_life) to 250 bits: by a square root for every bit of the exponent."""
    whole, rest = divmod(span, half_life)
    result, root, part = 1 << _BITS, 1 << (_BITS - 1), Fraction(rest, half_life)
    for _ in range(_BITS):
        root, part = math.isqrt(root << _BITS), part * 2
        if part >= 1:
            result, part = (result * root) >> _BITS, part - 1
    return Fraction(result, 2**_BITS) / Fraction(2) ** whole
