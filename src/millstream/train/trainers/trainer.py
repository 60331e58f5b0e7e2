"""What training and serving ask of a trainer, and which one is behind each kind of definition.

A new trainer is one file with a class that has these methods, one line in `TRAINERS`, and its definition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from millstream.errors import TrainingError
from millstream.train.encoding import Encoder

Floats = NDArray[np.float64]

TRAINERS: dict[str, str] = {"lightgbm": "millstream.train.trainers.lightgbm:LightGBMTrainer"}
"""By kind, which is the name of the definition in lower case, "module:class"."""


class Predictor(Protocol):
    """A loaded model: matrices and rows as its encoder makes them, scores out. Safe to call from any thread."""

    columns: int

    def predict(self, matrix: Floats) -> Floats:
        """Return one score per row of a C-ordered float64 matrix."""
        ...

    def predict_one(self, row: Floats) -> float:
        """Return the score of one contiguous float64 row, to the bit what `predict` returns for it."""
        ...


class Trainer(Protocol):
    """A library that models are fitted with: it fits one, writes it as text, and reads what it wrote. Never a pickle.

    It has no state; a text that it wrote is read by every later release of it.
    """

    def fit(self, definition: Any, table: pa.Table, labels: Floats, dtypes: Mapping[str, str]) -> Artefact:
        """Return the model fitted to some rows; asked once per model version.

        The same definition and rows give the same text.

        Args:
            definition: how to fit: the trainer's definition, as the model declares it.
            table: matured rows, with the columns that `dtypes` names.
            labels: the label of each row (float64).
            dtypes: the type ("int64" ...) of each column to learn from; other columns are not looked at.

        Raises:
            TrainingError: the rows cannot be learned from.
        """
        ...

    def text(self, fitted: object) -> str:
        """Return a model that was fitted elsewhere as text; asked when one is registered.

        Raises:
            TrainingError: it is none of this library's models.
        """
        ...

    def check(self, text: str) -> None:
        """Refuse a text that is no whole model; asked before a process apart loads one that was fitted elsewhere.

        Raises:
            TrainingError: it is none; what passes may still be refused by `load`.
        """
        ...

    def load(self, text: str) -> Predictor:
        """Return a model ready to score many rows, or one; asked once per model version in each serving process.

        Raises:
            TrainingError: the text is no model of this library.
        """
        ...


@dataclass(frozen=True)
class Artefact:
    """A fitted model as text, with the encoder that makes its rows. Never a pickle.

    Attributes:
        kind: which trainer reads the text, such as "lightgbm".
        text: the model, as that library writes it.
        encoder: the model's columns and frozen dictionaries.
    """

    kind: str
    text: str
    encoder: Encoder

    def predictor(self) -> Predictor:
        """Return the model ready to score.

        Raises:
            TrainingError: an unknown kind, text that is no such model, or a model of other columns than the encoder's.
        """
        predictor = trainer(self.kind).load(self.text)
        if predictor.columns != len(self.encoder.columns):
            raise TrainingError(
                f"The model reads {predictor.columns} columns; its view gives {len(self.encoder.columns)}.",
                hint="register a model that was fitted to the view's columns, in the view's order.",
            )
        return predictor


def trainer(kind: str) -> Trainer:
    """Return the trainer of a kind, such as "lightgbm".

    Raises:
        TrainingError: the kind is not known.
    """
    if kind not in TRAINERS:
        raise TrainingError(f"Model kind '{kind}' is not known.", hint=f"one of {', '.join(TRAINERS)}.")
    module, _, name = TRAINERS[kind].partition(":")
    found: Trainer = getattr(import_module(module), name)()
    return found


def kind_of(definition: object) -> str:
    """Return the kind of trainer that a definition asks for.

    >>> from millstream import LightGBM
    >>> kind_of(LightGBM())
    'lightgbm'
    """
    return type(definition).__name__.lower()


def fit(definition: Any, table: pa.Table, labels: Floats, dtypes: Mapping[str, str]) -> Artefact:
    """Return a model as its trainer's definition asks for it.

    Args:
        definition: which trainer, and how it is to fit.
        table: matured rows, with the columns that `dtypes` names.
        labels: the label of each row (float64).
        dtypes: the type of each column to learn from.

    Raises:
        TrainingError: the rows cannot be learnt from.
    """
    return trainer(kind_of(definition)).fit(definition, table, labels, dtypes)


def sample(columns: int) -> Floats:
    """Return rows on which the two calls of a model are compared: wide numbers, small codes and nulls."""
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((64, columns)) * 10.0 ** generator.integers(-3, 7, (64, columns))
    rows[::2] = np.floor(np.abs(rows[::2])) % 32
    rows[generator.random((64, columns)) < 0.2] = np.nan
    return rows
