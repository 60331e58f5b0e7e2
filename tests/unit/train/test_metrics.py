"""Each metric against its plain definition, and each interval against what it promises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    for call in (
        lambda: metrics.auc(labels, [0.5] * len(labels)),
        lambda: metrics.evaluate(labels, [0.5] * len(labels)),
    ):
        with pytest.raises(TrainingError, match="'auc'"):
            call()
    with pytest.raises(TrainingError, match="'average_precision'"):
        metrics.average_precision([0, 0], [0.1, 0.2])
    assert metrics.average_precision([1, 1], [0.1, 0.2]) == 1.0


@pytest.mark.parametrize("labels", [[-1, 1, -1, 1], [1, 2, 1, 2], [0, 2, 0, 2], [0.1, 0.9, 0, 1], [0, 1, 2, 0]])
@pytest.mark.parametrize("name", ["auc", "average_precision", "log_loss", "brier", "precision_at_100"])
def test_other_labels_than_0_and_1_are_refused(labels, name):
    with pytest.raises(TrainingError, match="needs labels 0 and 1; found"):
        metrics.evaluate(labels, [0.1, 0.2, 0.3, 0.4], metrics=[name])
    with pytest.raises(TrainingError, match="needs labels 0 and 1; found"):
        metrics.difference(name, labels, [0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4])


def test_what_is_no_probability_and_no_number_is_refused():
    for name in ("log_loss", "brier"):
        with pytest.raises(TrainingError, match="needs probabilities; scores go from -2 to 3"):
            metrics.evaluate([0, 1], [-2.0, 3.0], metrics=[name])
    assert metrics.auc([0, 1], [-2.0, 3.0]) == 1.0
    for scores in ([np.inf, 0.5], [np.nan, 0.5], ["a", "b"], [0.5], None):
        with pytest.raises(TrainingError):
            metrics.auc([0, 1], scores)
    for wrong in ({"confidence": 0}, {"confidence": np.nan}, {"draws": 0}, {"draws": 1.5}, {"seed": "x"}):
        with pytest.raises(TrainingError):
            metrics.evaluate([0, 1], [0.2, 0.7], metrics=["brier"], **wrong)
    with pytest.raises(TrainingError, match="k=0"):
        metrics.precision_at([0, 1], [0.2, 0.7], k=0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 10)), min_size=2, max_size=60))
def test_a_metric_is_a_number_that_can_be_and_scikit_learns(rows):
    sklearn = pytest.importorskip("sklearn.metrics")
    labels, scores = np.array([float(label) for label, _ in rows]), np.array([score / 10 for _, score in rows])
    if len(np.unique(labels)) < 2:
        return
    found = {name: one.value for name, one in metrics.evaluate(labels, scores, draws=2).items()}
    assert all(0 <= found[name] <= 1 for name in ("auc", "average_precision", "brier", "precision_at_100"))
    expected = {
        "auc": sklearn.roc_auc_score(labels, scores),
        "average_precision": sklearn.average_precision_score(labels, scores),
        "log_loss": sklearn.log_loss(labels, np.clip(scores, 1e-15, 1 - 1e-15)),
        "brier": sklearn.brier_score_loss(labels, scores),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-9, abs=1e-9)
    errors = metrics.evaluate(labels * 7, scores, metrics=["rmse", "mae"], draws=2)
    assert errors["rmse"].value == pytest.approx(sklearn.mean_squared_error(labels * 7, scores) ** 0.5)
    assert errors["mae"].value == pytest.approx(sklearn.mean_absolute_error(labels * 7, scores))


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
