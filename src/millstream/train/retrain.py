"""Training again on a schedule: a challenger replaces the champion unless, on rows new to both, it is worse.

Both are scored on the same rows: matured ones newer than all the champion has learnt from. Every decision is recorded
with its reason among the moves of the model's aliases.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from millstream.definitions.model import Model, Retrain
from millstream.definitions.schedule import next_tick
from millstream.train import fitting
from millstream.train.encoding import numbers
from millstream.train.metrics import Interval, difference
from millstream.train.training_set import LABEL, Split, TrainingSet
from millstream.train.versions import LoadedModel, ModelVersion, ModelVersions

_NEVER = 2**63 - 1
FEWEST = 100  # rows that are new to both models, below which a comparison says nothing


@dataclass(frozen=True)
class Decision:
    """What a retraining came to.

    Attributes:
        model: the model's name.
        version: the version that was trained, if any.
        promoted: whether it is the champion now.
        reason: why, in a sentence.
        difference: by how much it is better than the champion was on the gate's metric; None without a comparison.
    """

    model: str
    version: ModelVersion | None
    promoted: bool
    reason: str
    difference: Interval | None = None


def due(model: Model, models: ModelVersions, now: int) -> bool:
    """Return whether the model's schedule asks for a training now; never before its first by hand.

    Args:
        model: the model; one without a schedule is never due.
        models: its versions, and the moves of its aliases: the schedule counts from the newest of these.
        now: the clock's time (µs).
    """
    if model.retrain is None:
        return False
    times = [version.registered for version in models.versions(model.name)]
    times += [move["at"] for move in models.moves(model.name)]
    return bool(times) and _next(model.retrain, max(times)) <= now


def retrain(model: Model, examples: TrainingSet, models: ModelVersions) -> Decision:
    """Train a challenger and let it replace the champion unless the gate finds it worse.

    The gate compares both on the model's `Retrain.gate` metric by a paired bootstrap; the challenger fails when the
    whole 95 % interval of the difference lies below 0, and when the rows cannot tell (a draw of them has one class).
    One that passes is fitted once more, to all matured rows. Without a champion or a gate the new version is promoted
    as it is.

    Args:
        model: the model; its `retrain` names the gate.
        examples: its newest training set.
        models: its versions and aliases.

    Raises:
        TrainingError: no row has matured, or all have the same label.
    """
    champion = models.load(model.name) if "champion" in models.aliases(model.name) else None
    gate = model.retrain.gate if model.retrain else None
    if champion is None or gate is None:
        reason = "there was no champion" if champion is None else "no gate is set"
        return _promote(models, fitting.train(model, examples, models), reason)
    gone = [name for name in champion.columns if name not in examples.table.column_names]
    if gone:
        reason = f"the champion reads '{gone[0]}', which its view no longer has"
        return _promote(models, fitting.train(model, examples, models), reason)
    fold = _fold(examples, champion)
    if fold.test.num_rows < FEWEST or not fitting.measurable(model, fold):
        return _keep(models, champion, None, _too_little(fold))
    return _compare(model, examples, models, champion, fold, gate)


def _compare(
    model: Model,
    examples: TrainingSet,
    models: ModelVersions,
    champion: LoadedModel,
    fold: Split,
    gate: str,
) -> Decision:
    challenger = fitting.fit(model, examples, fold.train)
    labels, ours = numbers(fold.test[LABEL]), fitting.scores(challenger, fold.test)
    theirs = champion.predictor.predict(champion.encoder.matrix(fold.test))
    found = difference(gate, labels, ours, theirs)
    metrics = fitting.measure(model, challenger, fold.test)
    decided = bool(np.isfinite([found.value, found.low, found.high]).all())
    worse = not decided or found.high < 0
    outcome = ("worse" if worse else "not worse") if decided else "cannot be told to be better or worse"
    reason = f"{gate} {outcome} than version {champion.version}: {found.value:+.4f} "
    reason += f"({found.low:+.4f} to {found.high:+.4f}) on {fold.test.num_rows:,} rows new to both"
    evidence = _evidence(gate, champion, found, fold)
    if worse:
        version = fitting.register(model, examples, challenger, metrics, models, evidence)
        return _keep(models, champion, version, reason, found)
    final = fitting.fit(model, examples, examples.matured())
    version = fitting.register(model, examples, final, metrics, models, evidence)
    return _promote(models, version, reason, found)


def _next(schedule: Retrain, last: int) -> int:
    """The first scheduled instant after `last`."""
    if schedule.cron is None:
        return last + (schedule.every or 0)
    return next_tick(schedule, last) or _NEVER


def _fold(examples: TrainingSet, champion: LoadedModel) -> Split:
    """The newest fifth, or less where the champion has learnt from some of it."""
    newest = examples.split().test
    if not newest.num_rows:
        return examples.split()
    seen = champion.about.facts.get("until")
    cut = newest["_at"][0].as_py()
    return examples.split_at(cut if seen is None else max(cut, seen + 1))


def _too_little(fold: Split) -> str:
    rows = fold.test.num_rows
    kinds = len(np.unique(numbers(fold.test[LABEL])))
    what = (
        f"only {rows:,} matured rows are" if rows < FEWEST else f"{rows:,} matured rows with {kinds} kind of label are"
    )
    return f"{what} new since the champion learnt; a comparison needs {FEWEST} with both"


def _evidence(gate: str, champion: LoadedModel, found: Interval, fold: Split) -> dict[str, Any]:
    interval = {"value": found.value, "low": found.low, "high": found.high}
    return {"metric": gate, "against": champion.about.id, "difference": interval, "rows": fold.test.num_rows}


def _promote(models: ModelVersions, version: ModelVersion, reason: str, found: Interval | None = None) -> Decision:
    models.alias(version.model, "champion", version.version, reason=f"promoted: {reason}")
    return Decision(version.model, version, True, reason, found)


def _keep(
    models: ModelVersions,
    champion: LoadedModel,
    version: ModelVersion | None,
    reason: str,
    found: Interval | None = None,
) -> Decision:
    """Record that the champion stays; a version that failed can be looked at as the challenger."""
    name = champion.about.model
    if version is not None:
        models.alias(name, "challenger", version.version, reason=f"failed: {reason}")
    models.alias(name, "champion", champion.version, reason=f"kept: {reason}")
    return Decision(name, version, False, reason, found)
