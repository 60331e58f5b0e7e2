"""How far off distinct counts and quantiles are, beside sketches of Apache DataSketches and DDSketch of as many bytes.

Fair: all see the same values, spread over the hours of a day, and are merged from an hour's sketches as a window is; errors are
root mean squares over users, relative to the truth. Each peer is as large as fits into the bytes of our state: an HLL of as
many registers, a KLL of the greatest k, a DDSketch of the finest buckets over the range of the values, eight bytes each. A
KLL bounds the error of ranks, not of values, so that it is better in the middle and worse in a heavy tail. A DDSketch says
which bucket a count is of by its place, where our state says it beside each, so that theirs are twice as many. Errors of
distinct counts are themselves uncertain, by 4 %, 6 % and 13 % of what they are, for as many users as there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import datasketches
import numpy as np
import pyarrow as pa

import millstream as ms
from benchmarks.harness import Claim, Scale
from benchmarks.peers import Peer, peer
from benchmarks.world import NOW, SECOND
from millstream.fold import fold, layout_of, prepare, value

USER = ms.Entity("user", keys={"user": "int64"})
READINGS = ms.EventStream("readings", time="at", schema={"user": "int64", "x": "float64", "at": "timestamp"})
HOURS = 24
HLL_BITS = 12  # 4,096 registers of 6 bits, as ours
QUANTILES = (0.5, 0.95, 0.99, 0.999)
Floats = np.ndarray


def run(scale: Scale) -> Iterator[Claim]:
    """Distinct counts of 10^4 to 10^6 values, then quantiles of heavy tails."""
    with ExitStack() as stack:
        ddsketch = stack.enter_context(peer("ddsketch")) if scale.foreign else None
        for count, users in ((10_000, 256), (100_000, 128), (1_000_000, 32)):
            size = scale.of(count, least=2_000)
            yield _distinct(size, scale.of(users, least=4))
        for name, draw in (("lognormal(3, 3)", _lognormal), ("Pareto(1)", _pareto)):
            values = draw(np.random.default_rng(11), (scale.of(40, least=3), scale.of(50_000, least=2_000)))
            yield from _quantiles(name, values, ddsketch)


def _distinct(count: int, users: int) -> Claim:
    values = np.random.default_rng(7).random((users, count))
    found, _ = _ours(ms.DistinctCount("x"), values)
    theirs = []
    for row in values:
        union = datasketches.hll_union(HLL_BITS)
        for hour in np.array_split(row, HOURS):
            sketch = datasketches.hll_sketch(HLL_BITS, datasketches.tgt_hll_type.HLL_6)
            for one in hour.tolist():
                sketch.update(one)
            union.update(sketch)
        theirs.append(union.get_estimate())
    errors = ([_off(estimates, np.full(users, float(count)))] for estimates in (found[:, 0], np.array(theirs)))
    target = 1 / 1.1 if users >= 100 else None
    return Claim(f"DistinctCount of {count:,}", "% off", *errors, peer="HLL of DataSketches", target=target)


def _quantiles(name: str, values: Floats, ddsketch: Peer | None) -> Iterator[Claim]:
    """Errors at each quantile; of DDSketch, where it is there."""
    found, size = _ours(ms.Quantile("x", q=list(QUANTILES)), values)
    truth = np.quantile(values, QUANTILES, axis=1).T
    ranked = np.array([_kll(row, size) for row in values])
    bucketed = None
    if ddsketch:
        bucketed = np.array(
            [ddsketch.ask(do="quantiles", values=row.tolist(), size=size, q=QUANTILES) for row in values]
        )
    for place, share in enumerate(QUANTILES):
        right = truth[:, place]
        ours = [_off(found[:, place], right)]
        what, tail = f"Quantile {share:g} of {name}", share > 0.9
        yield Claim(
            what,
            "% off",
            ours,
            [_off(ranked[:, place], right)],
            peer="KLL of DataSketches",
            target=1 / 1.1 if tail else None,
        )
        if bucketed is not None:
            yield Claim(what, "% off", ours, [_off(bucketed[:, place], right)], peer="DDSketch", target=1 / 1.1)


def _ours(feature: object, values: Floats) -> tuple[Floats, int]:
    """Our estimates, a row for each user, and the bytes of the largest state."""
    users, count = values.shape
    times = NOW - HOURS * 3600 * SECOND + np.tile(np.arange(count) * (HOURS * 3600 * SECOND // count), users)
    table = pa.table({
        "user": np.repeat(np.arange(users), count), "x": values.ravel(), "at": pa.array(times, pa.timestamp("us", "UTC")),
        "_partition": np.zeros(users * count, np.int32), "_position": np.arange(users * count), "_arrival": times,
    })  # fmt: skip
    group = ms.StreamFeatureGroup("bench", entity=USER, source=READINGS, features=[feature])
    (prepared,) = prepare([group], READINGS, table)
    layout = layout_of(group)
    states = fold(layout, prepared)
    columns = value(layout, states, np.full(users, NOW)).columns
    return np.column_stack(list(columns.values())), max(map(len, states.to_bytes()))


def _kll(values: Floats, size: int) -> Sequence[float]:
    """The quantiles of a KLL sketch of at most so many bytes, merged of the hours' sketches."""
    low, high = 8, 65_535
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(_merged(values, middle).serialize()) <= size else (low, middle - 1)
    found: Sequence[float] = _merged(values, low).get_quantiles(list(QUANTILES))
    return found


def _merged(values: Floats, k: int) -> datasketches.kll_doubles_sketch:
    whole = datasketches.kll_doubles_sketch(k)
    for hour in np.array_split(values, HOURS):
        sketch = datasketches.kll_doubles_sketch(k)
        sketch.update(hour)
        whole.merge(sketch)
    return whole


def _off(estimates: Floats, right: Floats) -> float:
    """The root mean square of relative errors, in percent."""
    return float(100 * np.sqrt(np.mean((estimates / right - 1) ** 2)))


def _lognormal(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return rng.lognormal(3, 3, shape)


def _pareto(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return 1 + rng.pareto(1, shape)
