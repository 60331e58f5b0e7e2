"""Each metric against its plain definition, and each interval against what it promises."""

import numpy as np
import pytest

from millstream.errors import TrainingError
from millstream.train import metrics


def tied_scores(rows=300, seed=0):
    generator = np.random.default_rng(seed)
    labels = (generator.random(rows) < 0.3).astype(float)
    scores = np.round(np.clip(0.4 * labels + generator.random(rows) * 0.6, 0, 1), 1)  # one decimal: many ties
    return labels, scores


def naive_auc(labels, scores):
    wins = [
        1.0 if hit > miss else 0.5 if hit == miss else 0.0
        for hit in scores[labels == 1]
        for miss in scores[labels == 0]
    ]
    return sum(wins) / len(wins)


def naive_average_precision(labels, scores):
    total, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        shown = scores >= threshold
        recall = labels[shown].sum() / labels.sum()
        total += (recall - before) * labels[shown].mean()
        before = recall
    return total


@pytest.mark.parametrize("seed", range(5))
def test_ranking_metrics_follow_their_definition_with_ties(seed):
    labels, scores = tied_scores(seed=seed)
    assert metrics.auc(labels, scores) == pytest.approx(naive_auc(labels, scores), abs=1e-12)
    assert metrics.average_precision(labels, scores) == pytest.approx(
        naive_average_precision(labels, scores), abs=1e-12
    )


def test_losses_follow_their_definition():
    labels, scores = tied_scores()
    scores = np.clip(scores, 0.05, 0.95)
    chance = np.where(labels == 1, scores, 1 - scores)
    assert metrics.log_loss(labels, scores) == pytest.approx(-np.log(chance).mean())
    assert metrics.brier(labels, scores) == pytest.approx(((labels - scores) ** 2).mean())


def test_precision_at_k_shares_a_tie_at_the_border():
    assert metrics.precision_at([1, 0, 1, 0], [0.9, 0.5, 0.5, 0.1], k=2) == pytest.approx((1 + 0.5) / 2)
    assert metrics.precision_at([1, 0], [0.9, 0.5], k=10) == 0.5


def test_a_constant_score_ranks_nothing():
    assert metrics.auc([0, 1, 1], [0.5, 0.5, 0.5]) == 0.5
    assert metrics.average_precision([0, 1, 1], [0.5, 0.5, 0.5]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("labels", [[], [1, 1], [0, 0]])
def test_one_class_has_no_auc(labels):
    found = metrics.evaluate(labels, [0.5] * len(labels), metrics=["auc", "average_precision"])
    assert np.isnan(found["auc"].value)
    assert np.isnan(found["auc"].low)


def test_the_delong_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(7)
    covered = 0
    truth = 0.7602499389065233  # the chance that N(1, 1) exceeds N(0, 1): Phi(1 / sqrt(2))
    for _ in range(200):
        labels = np.repeat([0.0, 1.0], [200, 60])
        found = metrics.evaluate(labels, generator.normal(labels), metrics=["auc"])["auc"]
        covered += found.low <= truth <= found.high
    assert 0.90 <= covered / 200 <= 0.985


def test_the_bootstrap_is_seeded_and_holds_the_value():
    labels, scores = tied_scores(1000)
    first = metrics.evaluate(labels, scores, seed=3)
    assert first == metrics.evaluate(labels, scores, seed=3)
    assert first != metrics.evaluate(labels, scores, seed=4)
    assert all(found.low <= found.value <= found.high for found in first.values())


def test_more_rows_narrow_the_interval():
    few, many = (
        metrics.evaluate(*tied_scores(rows), metrics=["average_precision"])["average_precision"] for rows in (200, 5000)
    )
    assert many.high - many.low < (few.high - few.low) / 2


def test_a_paired_difference_is_sharper_than_two_intervals():
    labels, scores = tied_scores(2000)
    worse = np.clip(scores + np.random.default_rng(1).normal(0, 0.1, len(scores)), 0, 1)
    found = metrics.difference("average_precision", labels, scores, worse)
    assert found.low > 0
    apart = metrics.evaluate(labels, scores, metrics=["average_precision"])["average_precision"]
    assert found.high - found.low < apart.high - apart.low


@pytest.mark.parametrize("metric", ["brier", "auc"])
def test_positive_means_better_for_losses_too(metric):
    labels, scores = tied_scores(1000)
    assert metrics.difference(metric, labels, scores, 1 - scores).low > 0
    assert metrics.difference(metric, labels, scores, scores) == metrics.Interval(0.0, 0.0, 0.0)


def test_mistakes_are_named():
    with pytest.raises(TrainingError, match=r"'acu' is not known.*\n\nHint: did you mean 'auc'"):
        metrics.evaluate([0, 1], [0.1, 0.9], metrics=["acu"])
    with pytest.raises(TrainingError, match="one score per label"):
        metrics.auc([0, 1], [0.5])
    with pytest.raises(TrainingError, match="1 of 2 scores are null"):
        metrics.auc([0, 1], [0.5, float("nan")])
