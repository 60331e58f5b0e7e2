"""A trainer that answers with the mean of the labels: all that another library takes beside its line and its definition."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from millstream.errors import TrainingError
from millstream.train.encoding import Encoder
from millstream.train.trainers.trainer import Artefact, Floats, kind_of


@dataclass(frozen=True, kw_only=True)
class Mean:
    """The mean of the labels plus `more`."""

    more: float = 0.0
    objective: Literal["binary", "regression"] = "regression"


class MeanPredictor:
    """The same score for every row."""

    def __init__(self, columns: int, score: float) -> None:
        self.columns, self._score = columns, score

    def predict(self, matrix: Floats) -> Floats:
        return np.full(len(matrix), self._score)

    def predict_one(self, row: Floats) -> float:
        return self._score


class MeanTrainer:
    """The mean, as JSON."""

    def fit(self, definition: Mean, table: pa.Table, labels: Floats, dtypes: Mapping[str, str]) -> Artefact:
        if not len(labels):
            raise TrainingError("There are no rows to take the mean of.", "load history.")
        text = json.dumps([len(dtypes), float(labels.mean()) + definition.more])
        return Artefact(kind_of(definition), text, Encoder.learn(table, dtypes))

    def text(self, fitted: object) -> str:
        if not isinstance(fitted, MeanPredictor):
            raise TrainingError(f"A {type(fitted).__name__} was given; expected a mean.", "pass a mean.")
        return json.dumps([fitted.columns, fitted.predict_one(np.zeros(fitted.columns))])

    def check(self, text: str) -> None:
        try:
            json.loads(text)
        except ValueError as error:
            raise TrainingError("The text is no mean.", "pass it whole.") from error

    def load(self, text: str) -> MeanPredictor:
        return MeanPredictor(*json.loads(text))
