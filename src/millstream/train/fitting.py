"""From a training set to a registered model version: measured on its newest rows, then fitted to all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from millstream.definitions.model import Model
from millstream.definitions.schema import CATEGORIES
from millstream.errors import TrainingError
from millstream.train.encoding import Encoder, numbers
from millstream.train.metrics import Interval, evaluate
from millstream.train.trainers.trainer import Artefact, kind_of, trainer
from millstream.train.training_set import LABEL, Split, TrainingSet
from millstream.train.trial import try_out
from millstream.train.versions import ModelVersion, ModelVersions

Floats = NDArray[np.float64]


def train(
    model: Model,
    examples: TrainingSet,
    models: ModelVersions,
    *,
    test: str | float = "20%",
) -> ModelVersion:
    """Fit the model to the matured rows and register it; no alias moves.

    Its metrics are measured on the newest rows by a model fitted to the older ones; what is registered is then fitted
    to all of them, since the newest are those most like what it will score.

    Args:
        model: says how to fit, and what to measure.
        examples: its training set.
        models: where the version is registered; it pins the set's group versions.
        test: the share of rows to measure on.

    Raises:
        TrainingError: no row has matured, or all have the same label.
    """
    split = examples.split(test=test)
    measured = measure(model, fit(model, examples, split.train), split.test) if measurable(model, split) else {}
    return register(model, examples, fit(model, examples, examples.matured()), measured, models)


def fit(model: Model, examples: TrainingSet, rows: pa.Table) -> Artefact:
    """Return the model fitted to some rows of its training set.

    Args:
        model: says how to fit.
        examples: its training set, which has the types of the columns.
        rows: the rows to fit to, with their labels.

    Raises:
        TrainingError: they cannot be learnt from.
    """
    return trainer(kind_of(model.trainer)).fit(model.trainer, rows, numbers(rows[LABEL]), examples.dtypes)


def scores(artefact: Artefact, rows: pa.Table) -> Floats:
    """Return the score of each row of a training set."""
    return artefact.predictor().predict(artefact.encoder.matrix(rows))


def measure(model: Model, artefact: Artefact, rows: pa.Table) -> dict[str, Interval]:
    """Return the model's metrics, by name, on rows that the artefact was not fitted to.

    Args:
        model: says what to measure.
        artefact: what scores the rows.
        rows: rows of the training set, with their labels.
    """
    return evaluate(numbers(rows[LABEL]), scores(artefact, rows), metrics=model.metrics)


def measurable(model: Model, split: Split) -> bool:
    """Whether both parts have rows, and both classes where the model tells classes apart."""
    parts = [np.unique(numbers(part[LABEL])) for part in split]
    return all(len(labels) >= (2 if model.trainer.objective == "binary" else 1) for labels in parts)


def register(
    model: Model,
    examples: TrainingSet,
    artefact: Artefact,
    metrics: Mapping[str, Interval],
    models: ModelVersions,
    evidence: Mapping[str, Any] | None = None,
) -> ModelVersion:
    """Register an artefact with the facts of the set it was fitted to.

    Args:
        model: the model.
        examples: the training set; the version pins its group versions and keeps some of its matured rows.
        artefact: what was fitted to it.
        metrics: its metrics by name, on rows it had not seen.
        models: where the version is registered.
        evidence: what a gate found, kept among the facts; None where there was no gate.
    """
    return models.register(
        model.name,
        artefact,
        sample=examples.matured(),
        metrics=metrics,
        pins=sorted(examples.pins.versions.values()),
        facts={**examples.facts(), **({"gate": dict(evidence)} if evidence else {})},
    )


def adopt(
    model: Model,
    fitted: object,
    models: ModelVersions,
    *,
    pins: Sequence[str] = (),
    dictionaries: Mapping[str, Sequence[str]] | None = None,
) -> ModelVersion:
    """Register a model that was fitted elsewhere by its trainer's library, to the view's columns in the view's order.

    Args:
        model: the model it is a version of.
        fitted: the model, or its text; for LightGBM the booster, or `Booster.model_to_string()`.
        models: where it is registered.
        pins: the group versions it reads.
        dictionaries: for each column of strings, UUIDs or bytes the texts of its values in the order of their codes.

    Raises:
        TrainingError: a string column without its dictionary, a model of other columns, or one that is damaged: it is
            loaded by a process apart first, so that a file which makes its library crash ends nothing else.
    """
    dtypes = model.view.inputs
    given = {name: tuple(words) for name, words in (dictionaries or {}).items()}
    for name, dtype in dtypes.items():
        if dtype in CATEGORIES and name not in given:
            raise TrainingError(
                f"Model '{model.name}': column '{name}' is a {dtype}, and nothing says which number each value is.",
                f'pass dictionaries={{"{name}": ["the value of code 0", ...]}}.',
            )
    kind = kind_of(model.trainer)
    try:
        text = trainer(kind).text(fitted)
    except TrainingError as error:
        raise TrainingError(f"Model '{model.name}': {error.message}", error.hint) from error
    try_out(kind, text)
    return models.register(model.name, Artefact(kind, text, Encoder(dict(dtypes), given)), pins=pins)
