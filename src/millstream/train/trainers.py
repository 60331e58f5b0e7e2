"""Fitting models and calling them: LightGBM, kept as text, scored one row at a time through its C interface.

LightGBM's Python call spends most of its time preparing one row for a matrix interface; its C library has a call for
exactly one row, three to four times quicker and equal to the bit, which is checked when a model is loaded.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from millstream.errors import TrainingError
from millstream.forks import forks
from millstream.train.encoding import Encoder
from millstream.train.metrics import check_binary

if TYPE_CHECKING:
    from lightgbm import Booster

    from millstream.definitions.model import LightGBM

Floats = NDArray[np.float64]

_NORMAL, _FLOAT64, _ALL_ROUNDS = 0, 1, -1  # of LightGBM's C interface


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
    """Fits a model; training calls it once per model version, with matured rows only."""

    def fit(self, table: pa.Table, labels: Floats, dtypes: Mapping[str, str]) -> Artefact:
        """Return the model fitted to the columns `dtypes` names; the same rows give the same text.

        Raises `TrainingError` where the rows cannot be learned from.
        """
        ...


@dataclass(frozen=True)
class Artefact:
    """A fitted model as text, with the encoder that makes its rows. Never a pickle.

    Attributes:
        kind: which library reads the text; "lightgbm".
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
        if self.kind not in PREDICTORS:
            raise TrainingError(f"Model kind '{self.kind}' is not known.", hint=f"one of {', '.join(PREDICTORS)}.")
        predictor = PREDICTORS[self.kind](self.text)
        if predictor.columns != len(self.encoder.columns):
            raise TrainingError(
                f"The model reads {predictor.columns} columns; its view gives {len(self.encoder.columns)}.",
                hint="register a model that was fitted to the view's columns, in the view's order.",
            )
        return predictor


class LightGBMTrainer:
    """Gradient-boosted trees by LightGBM, with the settings of a `LightGBM` definition."""

    def __init__(self, spec: LightGBM) -> None:
        self.spec = spec

    def fit(self, table: pa.Table, labels: Floats, dtypes: Mapping[str, str]) -> Artefact:
        """Return the trees fitted to those rows; raises `TrainingError` without a row, or with labels of one class."""
        import lightgbm

        _check(labels, self.spec.objective)
        encoder = Encoder.learn(table, dtypes)
        data = lightgbm.Dataset(
            encoder.matrix(table),
            labels,
            feature_name=list(encoder.columns),
            categorical_feature=list(encoder.categorical),
            params={"verbosity": -1, "num_threads": _threads()},
        )
        booster = lightgbm.train(self._parameters(), data, num_boost_round=self.spec.rounds)
        return Artefact("lightgbm", booster.model_to_string(), encoder)

    def _parameters(self) -> dict[str, Any]:
        return {
            "objective": self.spec.objective,
            "num_leaves": self.spec.leaves,
            "learning_rate": self.spec.learning_rate,
            "min_data_in_leaf": self.spec.min_rows,
            "seed": self.spec.seed,
            "deterministic": True,
            "force_col_wise": True,  # else LightGBM times both ways and takes the quicker, which is not repeatable
            "num_threads": _threads(),
            "verbosity": -1,
        }


def _threads() -> int:
    """How many threads fit a model; the model is the same by any number of them.

    They wait for each other actively: on a core that is busy with something else, all of them wait. A forked process
    fits on one, for it would wait for ever for those that its parent has had.
    """
    return 1 if forks() else max(1, (os.cpu_count() or 1) - 1)


class LightGBMPredictor:
    """A LightGBM model that scores single rows through the C interface, each thread with a handle of its own.

    Attributes:
        columns: number of columns of a row.
        fast: whether single rows take the C call; False where this build of LightGBM does not have it or, on a
            sample of rows, it does not give the very bits of the ordinary call.

    Raises:
        TrainingError: the text is not a LightGBM model.
    """

    def __init__(self, text: str) -> None:
        import lightgbm

        try:
            self._booster: Booster = lightgbm.Booster(model_str=text)
        except lightgbm.basic.LightGBMError as error:
            raise TrainingError(
                f"The text of {len(text)} characters is not a LightGBM model: {error}.",
                hint="pass what Booster.model_to_string() or Booster.save_model() wrote.",
            ) from error
        self.columns: int = self._booster.num_feature()
        self._threads = threading.local()
        self.fast = hasattr(lightgbm.basic._LIB, "LGBM_BoosterPredictForMatSingleRowFast")
        self.fast = self.fast and self._equal_on(sample(self.columns))

    def predict(self, matrix: Floats) -> Floats:
        """Return one score per row, on one thread: more only pay for themselves on very large matrices."""
        if not len(matrix):
            return np.empty(0)
        return np.asarray(self._booster.predict(matrix, num_threads=1), dtype=np.float64)

    def predict_one(self, row: Floats) -> float:
        """Return the score of one contiguous float64 row."""
        if not self.fast:
            return float(self.predict(row.reshape(1, -1))[0])
        try:
            call: _SingleRow = self._threads.call
        except AttributeError:
            call = self._threads.call = _SingleRow(self._booster, self.columns)
        return call(row)

    def _equal_on(self, rows: Floats) -> bool:
        call = _SingleRow(self._booster, self.columns)
        return bool(np.array_equal([call(row) for row in rows], self.predict(rows)))


class _SingleRow:
    """LightGBM's prepared call for one row. It holds buffers, so no two threads may share one."""

    def __init__(self, booster: Booster, columns: int) -> None:
        from lightgbm.basic import _LIB, _safe_call

        self._booster = booster  # the prepared call points into it
        self._row = np.zeros(columns)
        self._score = ctypes.c_double()
        self._config = ctypes.c_void_p()
        self._free = _LIB.LGBM_FastConfigFree
        self._check = _safe_call
        _safe_call(
            _LIB.LGBM_BoosterPredictForMatSingleRowFastInit(
                booster._handle,
                ctypes.c_int(_NORMAL),
                ctypes.c_int(0),
                ctypes.c_int(_ALL_ROUNDS),
                ctypes.c_int(_FLOAT64),
                ctypes.c_int32(columns),
                ctypes.c_char_p(b"num_threads=1"),
                ctypes.byref(self._config),
            )
        )
        self._predict = _LIB.LGBM_BoosterPredictForMatSingleRowFast
        written = ctypes.c_int64()
        self._arguments = (
            self._config,
            ctypes.c_void_p(self._row.ctypes.data),
            ctypes.byref(written),
            ctypes.byref(self._score),
        )

    def __call__(self, row: Floats) -> float:
        self._row[:] = row
        self._check(self._predict(*self._arguments))
        return float(self._score.value)

    def __del__(self) -> None:
        if self._config:
            self._free(self._config)


def trainer_of(spec: LightGBM) -> Trainer:
    """Return the trainer that fits models by that definition."""
    return LightGBMTrainer(spec)


def _check(labels: Floats, objective: str) -> None:
    if not len(labels):
        raise TrainingError(
            "LightGBM was given no rows to learn from.",
            hint="load history, or wait until labels have matured: print(training_set(...)) counts them.",
        )
    if not np.isfinite(labels).all():
        raise TrainingError("Some labels are null or infinite.", "train on matured rows: training_set(...).matured().")
    if objective == "binary" and labels.min() == labels.max():
        raise TrainingError(
            f"All {len(labels)} labels are {labels[0]:g}; a binary model needs both classes.",
            hint="train on a longer time, or check the label's column and `on`.",
        )
    if objective == "binary":
        check_binary(labels, "A binary model")


def sample(columns: int) -> Floats:
    """Return rows on which the two calls of a model are compared: wide numbers, small codes and nulls."""
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((64, columns)) * 10.0 ** generator.integers(-3, 7, (64, columns))
    rows[::2] = np.floor(np.abs(rows[::2])) % 32
    rows[generator.random((64, columns)) < 0.2] = np.nan
    return rows


PREDICTORS: MappingProxyType[str, Callable[[str], Predictor]] = MappingProxyType({"lightgbm": LightGBMPredictor})
