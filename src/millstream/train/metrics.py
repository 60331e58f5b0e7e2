"""How good scores are, each metric with a confidence interval.

The intervals come from DeLong's variance for the area under the ROC curve and from a seeded bootstrap for the rest.
A bootstrap draw is a vector of row weights, so the rows are sorted once and each draw costs a few passes over them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from millstream.calls import checked
from millstream.errors import TrainingError, nearest, shown

F = TypeVar("F", bound=Callable[..., Any])
Floats = NDArray[np.float64]

_CLIP = 1e-15  # a probability of exactly 0 or 1 would make the log loss of one row infinite
_REVIEWED = 100  # rows a review team looks at, for precision@100


@dataclass(frozen=True)
class Interval:
    """A metric's value with the bounds of its confidence interval; these are NaN where the rows are too few to tell."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} ({self.low:.4f} to {self.high:.4f})"


class _Ranked:
    """Labels and scores sorted once by falling score; rows of equal score form one group."""

    def __init__(self, labels: ArrayLike, scores: ArrayLike) -> None:
        self.labels = np.ascontiguousarray(labels, dtype=np.float64)
        self.scores = np.ascontiguousarray(scores, dtype=np.float64)
        _check(self.labels, self.scores)
        self.order = np.argsort(-self.scores, kind="stable")
        falling = self.scores[self.order]
        self.starts = np.flatnonzero(np.concatenate(([len(falling) > 0], falling[1:] != falling[:-1])))
        self.positive = self.labels[self.order]

    def groups(self, weights: Floats | None) -> tuple[Floats, Floats]:
        """Return the weight of positive and of negative rows in each group of equal scores, best score first."""
        weight = np.ones(len(self.order)) if weights is None else weights[self.order]
        if not len(self.starts):
            return weight, weight
        positive = np.add.reduceat(weight * self.positive, self.starts)
        return positive, np.add.reduceat(weight, self.starts) - positive


def _public(function: F) -> F:
    return checked(function, TrainingError)


_Measure = Callable[[_Ranked, "Floats | None"], float]


@_public
def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the chance that a random positive scores above a random negative (ties count half).

    >>> auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    return _measured("auc", labels, scores)


@_public
def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the mean precision over the positives found as the threshold falls.

    >>> round(average_precision([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]), 4)
    0.8333
    """
    return _measured("average_precision", labels, scores)


@_public
def log_loss(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the mean negative log likelihood of the labels under scores that are probabilities.

    >>> round(log_loss([0, 1], [0.1, 0.8]), 4)
    0.1643
    """
    return _measured("log_loss", labels, scores)


@_public
def brier(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the mean squared distance between scores that are probabilities and the labels.

    >>> round(brier([0, 1], [0.1, 0.8]), 4)
    0.025
    """
    return _measured("brier", labels, scores)


@_public
def precision_at(labels: ArrayLike, scores: ArrayLike, k: int = _REVIEWED) -> float:
    """Return the share of positives among the highest scores; rows tied at the border count by their mean.

    Args:
        labels: 0 or 1 for each row.
        scores: the score of each row.
        k: how many rows are looked at, 100 unless given.

    Raises:
        TrainingError: for a `k` that is no whole number of 1 or more, and for labels or scores that cannot be measured.

    >>> precision_at([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], k=2)
    0.5
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise TrainingError(f"precision_at(k={k!r}): expected a whole number of 1 or more.", "write k=100.")
    ranked = _Ranked(labels, scores)
    _check_for("precision_at_100", ranked)
    return _precision(ranked, None, int(k))


@_public
def evaluate(
    labels: ArrayLike,
    scores: ArrayLike,
    *,
    metrics: Sequence[str] = ("auc", "average_precision", "log_loss", "brier", "precision_at_100"),
    confidence: float = 0.95,
    draws: int = 200,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return each named metric of the scores with its confidence interval.

    Args:
        labels: 0 or 1 per row (any number for "rmse" and "mae").
        scores: the model's score per row, in the same order.
        metrics: names from `METRICS`.
        confidence: the probability mass of the interval, between 0 and 1.
        draws: bootstrap draws; the area under the ROC curve needs none.
        seed: the same seed gives the same interval.

    Raises:
        TrainingError: an unknown metric, lengths that differ, a null among labels or scores, or rows on which the
            metric has no value: other labels than 0 and 1, one class only, scores that are no probabilities.

    >>> found = evaluate([0, 0, 1, 1] * 50, [0.1, 0.4, 0.35, 0.8] * 50, metrics=["auc"])
    >>> print(found["auc"])
    0.7500 (0.6804 to 0.8196)
    """
    _check_interval(confidence, draws)
    ranked = _Ranked(labels, scores)
    for name in metrics:
        measure(name)
        _check_for(name, ranked)
    values = {name: measure(name)(ranked, None) for name in metrics}
    drawn = {name: np.empty(draws) for name in metrics if name != "auc"}
    for draw, weights in enumerate(_weights(len(ranked.order), draws if drawn else 0, seed)):
        for name, column in drawn.items():
            column[draw] = METRICS[name](ranked, weights)
    found = {name: _spread(values[name], column, confidence) for name, column in drawn.items()}
    if "auc" in values:
        found["auc"] = _delong(ranked, values["auc"], confidence)
    return {name: found[name] for name in metrics}


@_public
def difference(
    metric: str,
    labels: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    *,
    confidence: float = 0.95,
    draws: int = 500,
    seed: int = 0,
) -> Interval:
    """Return by how much `first` is better than `second` on the same rows, by a paired bootstrap.

    Positive is better whatever the metric: of losses (`log_loss`, `brier`, `rmse`, `mae`) the sign is turned. The
    rows of a draw are the same for both models, so what makes a row easy or hard cancels out.

    Args:
        metric: a name from `METRICS`.
        labels: 0 or 1 per row (any number for "rmse" and "mae").
        first, second: scores of the two models on the same rows.
        confidence, draws, seed: as in `evaluate`.

    Raises:
        TrainingError: as of `evaluate`.

    >>> labels = [0, 0, 1, 1] * 50
    >>> difference("auc", labels, labels, [0.1, 0.4, 0.35, 0.8] * 50).low > 0
    True
    """
    _check_interval(confidence, draws)
    function = measure(metric)
    better, worse = _Ranked(labels, first), _Ranked(labels, second)
    _check_for(metric, better)
    _check_for(metric, worse)
    sign = -1.0 if metric in LOSSES else 1.0
    value = sign * (function(better, None) - function(worse, None)) + 0.0  # not -0.0
    drawn = [sign * (function(better, w) - function(worse, w)) for w in _weights(len(better.order), draws, seed)]
    return _spread(value, np.array(drawn), confidence)


def measure(name: str) -> _Measure:
    """Return the metric of that name from `METRICS`; `TrainingError` with the nearest name for an unknown one."""
    if name not in METRICS:
        close = nearest(name, METRICS)
        hint = f"did you mean '{close}'?" if close else f"the metrics are {', '.join(METRICS)}."
        raise TrainingError(f"Metric '{name}' is not known.", hint)
    return METRICS[name]


def _measured(name: str, labels: ArrayLike, scores: ArrayLike) -> float:
    ranked = _Ranked(labels, scores)
    _check_for(name, ranked)
    return METRICS[name](ranked, None)


def _check_for(name: str, ranked: _Ranked) -> None:
    """Refuse rows on which a metric has no value, or one that would mean nothing."""
    if not len(ranked.labels):
        raise TrainingError(f"Metric '{name}' was given no rows.", "measure on matured rows.")
    if name not in _BINARY:
        return
    check_binary(ranked.labels, f"Metric '{name}'")
    one_class = len(np.unique(ranked.labels)) == 1
    if (name == "auc" and one_class) or (name == "average_precision" and not ranked.labels.any()):
        raise TrainingError(
            f"Metric '{name}' has no value: all {len(ranked.labels)} labels are {ranked.labels[0]:g}.",
            "measure on rows of both classes.",
        )
    if name in _OF_PROBABILITIES and not 0 <= ranked.scores.min() <= ranked.scores.max() <= 1:
        raise TrainingError(
            f"Metric '{name}' needs probabilities; scores go from {ranked.scores.min():g} to {ranked.scores.max():g}.",
            "pass the scores of a model whose objective is binary.",
        )


def check_binary(labels: Floats, thing: str) -> None:
    """Raise `TrainingError` unless every label is 0 or 1: other ones, and more than two classes, are not supported."""
    found = np.unique(labels)
    if np.isin(found, (0.0, 1.0)).all():
        return
    if len(found) == 2:
        hint = f"derive one that is 1 for {found[1]:g} and 0 for {found[0]:g}, or declare the column bool."
        raise TrainingError(f"{thing} needs labels 0 and 1; found {found[0]:g} and {found[1]:g}.", hint)
    shown = ", ".join(f"{label:g}" for label in found[:5]) + (", ..." if len(found) > 5 else "")
    raise TrainingError(
        f"{thing} needs labels 0 and 1; found {len(found)} values: {shown}.",
        'more than two classes are not supported; for amounts, use objective="regression".',
    )


def _check_interval(confidence: float, draws: int) -> None:
    if isinstance(confidence, bool) or not 0 < confidence < 1:
        raise TrainingError(
            f"confidence was given {shown(confidence)}; expected between 0 and 1.", "write confidence=0.95."
        )
    if isinstance(draws, bool) or not isinstance(draws, int | np.integer) or draws < 1:
        raise TrainingError(
            f"draws was given {shown(draws)}; expected a whole number of 1 or more.", "write draws=200."
        )


def _check(labels: Floats, scores: Floats) -> None:
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise TrainingError(
            f"Metrics need one score per label; given {labels.shape} labels and {scores.shape} scores.",
            hint="pass two sequences of the same length, in the same order.",
        )
    for thing, values in (("labels", labels), ("scores", scores)):
        missing = int(np.isnan(values).sum())
        if missing:
            raise TrainingError(
                f"Metrics need every value; {missing} of {len(values)} {thing} are null.",
                hint="evaluate on matured rows: training_set(...).matured().",
            )
        if np.isinf(values).any():
            raise TrainingError(f"Metrics need finite numbers; some {thing} are infinite.", "leave those rows out.")


def _weights(rows: int, draws: int, seed: int) -> Iterator[Floats]:
    generator = np.random.default_rng(seed)
    for _ in range(draws if rows else 0):
        yield np.bincount(generator.integers(0, rows, rows), minlength=rows).astype(np.float64)


def _spread(value: float, drawn: Floats, confidence: float) -> Interval:
    known = drawn[np.isfinite(drawn)]  # a draw without a positive row has no value
    if np.isnan(value) or not len(known):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low) + 0.0, float(high) + 0.0)  # not -0.0


def _auc(ranked: _Ranked, weights: Floats | None) -> float:
    positive, negative = ranked.groups(weights)
    pairs = positive.sum() * negative.sum()
    if not pairs:
        return float("nan")
    beaten = negative.sum() - np.cumsum(negative) + negative / 2
    return float((positive * beaten).sum() / pairs)


def _average_precision(ranked: _Ranked, weights: Floats | None) -> float:
    positive, negative = ranked.groups(weights)
    total = positive.sum()
    if not total:
        return float("nan")
    found = np.cumsum(positive)
    shown = found + np.cumsum(negative)
    return min(1.0, float((positive * found / np.where(shown, shown, 1.0)).sum() / total))  # a last digit may round up


def _precision(ranked: _Ranked, weights: Floats | None, k: int = _REVIEWED) -> float:
    positive, negative = ranked.groups(weights)
    size = positive + negative
    shown = np.minimum(np.cumsum(size), k)
    taken = np.diff(shown, prepend=0.0)
    if not len(taken) or not taken.sum():
        return float("nan")
    return float((taken * positive / np.where(size, size, 1.0)).sum() / taken.sum())


def _mean(values: Floats, weights: Floats | None) -> float:
    if not len(values):
        return float("nan")
    return float(values.mean() if weights is None else (values * weights).sum() / weights.sum())


def _log_loss(ranked: _Ranked, weights: Floats | None) -> float:
    chance = np.clip(ranked.scores, _CLIP, 1 - _CLIP)
    return _mean(-np.where(ranked.labels > 0, np.log(chance), np.log1p(-chance)), weights)


def _squared(ranked: _Ranked, weights: Floats | None) -> float:
    return _mean((ranked.scores - ranked.labels) ** 2, weights)


def _rmse(ranked: _Ranked, weights: Floats | None) -> float:
    return float(np.sqrt(_squared(ranked, weights)))


def _mae(ranked: _Ranked, weights: Floats | None) -> float:
    return _mean(np.abs(ranked.scores - ranked.labels), weights)


def _midranks(values: Floats) -> Floats:
    """Return ranks from 1, equal values sharing the mean of theirs."""
    _, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((2 * last - counts + 1) / 2)[codes]


def _delong(ranked: _Ranked, value: float, confidence: float) -> Interval:
    """Return the interval of the area under the ROC curve by DeLong, DeLong and Clarke-Pearson (1988)."""
    positive = ranked.labels > 0
    hits, misses = int(positive.sum()), int((~positive).sum())
    if hits < 2 or misses < 2:
        return Interval(value, float("nan"), float("nan"))
    ranks = _midranks(ranked.scores)
    of_hits = (ranks[positive] - _midranks(ranked.scores[positive])) / misses
    of_misses = 1 - (ranks[~positive] - _midranks(ranked.scores[~positive])) / hits
    deviation = float(np.sqrt(of_hits.var(ddof=1) / hits + of_misses.var(ddof=1) / misses))
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * deviation
    return Interval(value, max(0.0, value - reach), min(1.0, value + reach))


METRICS: MappingProxyType[str, _Measure] = MappingProxyType(
    {
        "auc": _auc,
        "average_precision": _average_precision,
        "log_loss": _log_loss,
        "brier": _squared,
        "precision_at_100": _precision,
        "rmse": _rmse,
        "mae": _mae,
    }
)
_OF_PROBABILITIES = frozenset({"log_loss", "brier"})
_BINARY = frozenset({"auc", "average_precision", "precision_at_100", *_OF_PROBABILITIES})
LOSSES = frozenset({"log_loss", "brier", "rmse", "mae"})
