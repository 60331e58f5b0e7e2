"""The definition of every feature that tells values apart, in plain Python: slow, obvious, independent of the kernels."""

from __future__ import annotations

import math
import struct
from bisect import bisect_right
from collections import Counter
from datetime import date, timedelta
from typing import Any
from uuid import UUID

from millstream.fold.entry_layout import KINDS

__all__ = ["KINDS", "of_values"]

_EDGES = [2.0 ** (i / 35) for i in range(36)]
_WORD = 2**64 - 1


def of_values(column: Any, dated: list[tuple[int, Any]]) -> Any:
    """Return what a feature makes of the (time, value) pairs of its window that have a value."""
    values = [value for _, value in dated]
    if column.kind == "distinct_count":
        return _distinct_count(values)
    if column.kind in ("quantile", "median"):
        return _quantile(sorted(map(float, values)), column.share)
    newest_first = sorted(dated, key=lambda pair: (pair[0], _order(pair[1])), reverse=True)
    if column.kind == "lag":
        return newest_first[column.k - 1][1] if len(newest_first) >= column.k else None
    if column.kind == "last_k":
        return [value for _, value in newest_first[: column.k]]
    if column.kind == "last_distinct_k":
        return list(dict.fromkeys(value for _, value in newest_first))[: column.k]
    if column.kind == "first_k":
        return [value for _, value in newest_first[::-1][: column.k]]
    if column.kind in ("max_k", "min_k"):
        return sorted(values, key=_order, reverse=column.kind == "max_k")[: column.k]
    counts = Counter(values)
    if column.kind == "top_k" and len(counts) <= column.bound:
        return sorted(counts, key=lambda value: (-counts[value], _order(value)))[: column.k]
    if not counts or len(counts) > column.bound:
        return None
    if column.kind == "mode":
        return min(counts, key=lambda value: (-counts[value], _order(value)))
    shares = [counts[value] / len(values) for value in sorted(counts, key=_order)]
    entropy = 0.0
    for share in shares:
        entropy -= share * math.log2(share)
    return entropy


def _order(value: Any) -> Any:
    if isinstance(value, dict):  # field by field, nulls first
        return tuple((one is not None, None if one is None else _order(one)) for one in value.values())
    return value.encode() if isinstance(value, str) else value.bytes if isinstance(value, UUID) else value


def _quantile(ascending: list[float], share: float) -> float | None:
    if not ascending:
        return None
    if len(ascending) > 64:
        ascending = [_middle(value) for value in ascending]
    place = (len(ascending) - 1) * share
    low = math.floor(place)
    left, right = ascending[low], ascending[min(low + 1, len(ascending) - 1)]
    rest = place - low
    return right - (right - left) * (1 - rest) if rest >= 0.5 else left + (right - left) * rest


def _middle(value: float) -> float:
    """The number as far, in relation to it, from both edges of the value's bucket, of which a power of two has 35."""
    fraction, exponent = math.frexp(abs(value))
    if exponent <= -64:
        return 0.0
    place = bisect_right(_EDGES, 2 * fraction) - 1
    low, high = _EDGES[place], _EDGES[place + 1]
    return math.copysign(math.ldexp(2 * low * high / (low + high), exponent - 1), value)


def _distinct_count(values: list[Any]) -> int:
    different = {_bits(value) for value in values}
    if len(different) <= 256:
        return len(different)
    ranks = [0] * 4_096
    for bits in different:
        rest = f"{bits & (2**52 - 1):052b}"
        rank = len(rest) - len(rest.lstrip("0")) + 1
        ranks[bits >> 52] = max(ranks[bits >> 52], rank)
    return _ertl(Counter(ranks))


def _ertl(held: Counter[int]) -> int:
    """Algorithm 6 of Ertl's paper, for 4,096 registers whose ranks go up to 53."""
    x, z, power = 1.0 - held[53] / 4_096.0, 0.0, 1.0
    if 0.0 < x < 1.0:
        z = 1.0 - x
        while True:
            x, before, power = math.sqrt(x), z, power * 0.5
            z -= (1.0 - x) ** 2 * power
            if z == before:
                break
        z /= 3.0
    z *= 4_096.0
    for rank in range(52, 0, -1):
        z = 0.5 * (z + held[rank])
    x, low, power = held[0] / 4_096.0, held[0] / 4_096.0, 1.0
    while True:
        x, before = x * x, low
        low += x * power
        power += power
        if low == before:
            break
    return round(0.5 / math.log(2) * 4_096.0**2 / (z + 4_096.0 * low))


def _mixed(word: int, seed: int) -> int:
    """SplitMix64's finaliser."""
    bits = (word + seed * 0x9E3779B97F4A7C15) & _WORD
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & _WORD
    return bits ^ (bits >> 31)


def _bits(value: Any) -> int:
    """64 bits for a value: text and UUIDs by words of eight bytes, the others by their place in the order of their type."""
    if isinstance(value, str | UUID):
        raw = _order(value)
        bits = _mixed(len(raw), 2)
        for begin in range(0, len(raw), 8):
            bits = _mixed(int.from_bytes(raw[begin : begin + 8], "big") ^ bits, 3)
        return bits
    if isinstance(value, float):
        (whole,) = struct.unpack("<q", struct.pack("<d", value + 0.0))
        value = whole if whole >= 0 else whole ^ 0x7FFFFFFFFFFFFFFF
    if isinstance(value, date):
        value = (value - date(1970, 1, 1)) // timedelta(microseconds=1)
    return _mixed(int(value) & _WORD, 1)
